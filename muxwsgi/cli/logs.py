"""The error log of a process, made from its options: with what `--log-syslog` and `--log-config` add. Imports no gevent, because a master
uses it."""

from collections.abc import Mapping
from typing import Any

from muxwsgi.http.request_id import name_ids_in_records
from muxwsgi.observe.error_log import ErrorLog
from muxwsgi.observe.log_config import LogConfig
from muxwsgi.observe.syslog import Syslog, SyslogAddress
from muxwsgi.setting import from_options
from muxwsgi.settings import LogSettings

__all__ = ["CONFIGURATION", "PATIENCE", "check_logs", "extend_error_log", "open_error_log", "same_logs"]

#: The key of option values under which a configuration of logging is kept once it was read. Workers that start later get the same one.
CONFIGURATION = "log_configuration"

_SYSLOG = ("log_syslog", "log_syslog_to", "log_syslog_prefix", "log_syslog_facility", "log_syslog_format")

_OPTIONS = ("error_logfile", "log_level", "request_id_header", CONFIGURATION, *_SYSLOG)

#: Seconds that the master may wait for a syslog daemon's connection. It serves nobody, and may log nothing more for hours.
PATIENCE = 0.2


def check_logs(values: Mapping[str, Any]) -> LogConfig | None:
    """The configuration of logging that the options name. Raises `OperatorError`, also for what is wrong with other options of logs."""
    settings = from_options(LogSettings, values)
    if settings.log_syslog:
        SyslogAddress.parse(settings.log_syslog_to)
    return LogConfig.of(values)


def open_error_log(values: Mapping[str, Any]) -> ErrorLog:
    """The error log of a master, for its next generation. Raises `OperatorError`."""
    error_log = ErrorLog(values["error_logfile"])
    try:
        extend_error_log(error_log, values, patience=PATIENCE)
    except BaseException:
        error_log.give_up()
        raise
    return error_log


def extend_error_log(error_log: ErrorLog, values: Mapping[str, Any], *, patience: float = 0.0) -> None:
    """Add what the options say of syslog and of the configuration of logging. `patience`: see `Syslog`. Raises `OperatorError`."""
    settings = from_options(LogSettings, values)
    syslog = None
    if settings.log_syslog:
        syslog = Syslog(
            SyslogAddress.parse(settings.log_syslog_to),
            facility=settings.log_syslog_facility,
            tag=settings.log_syslog_prefix,
            rfc5424=None if settings.log_syslog_format is None else settings.log_syslog_format == "rfc5424",
            say=error_log.say,
            patience=patience,
        )
    if settings.request_id_header:
        name_ids_in_records()
        error_log.show_request_ids()
    error_log.extend(syslog=syslog, configuration=values[CONFIGURATION])


def same_logs(values: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    """Whether both make the same error log."""
    return all(values.get(name) == others.get(name) for name in _OPTIONS)
