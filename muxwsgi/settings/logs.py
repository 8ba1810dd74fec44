"""Logs, beside the files that the access log and the error log are written to."""

from typing import Literal

from muxwsgi.errors import OperatorError
from muxwsgi.grammar import is_token
from muxwsgi.record import record
from muxwsgi.setting import check, setting
from muxwsgi.settings.sections import LOGS

__all__ = ["FACILITIES", "LogSettings", "SyslogFormat"]

SyslogFormat = Literal["rfc3164", "rfc5424"]

#: Numbers of syslog's facilities (RFC 5424 section 6.2.1). `security` is an old name of `auth`; gunicorn takes it too.
FACILITIES = {
    **{name: number for number, name in enumerate(("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron"))},
    "security": 4,
    "authpriv": 10,
    "ftp": 11,
    **{f"local{number}": 16 + number for number in range(8)},
}


@record(kw_only=True)
class LogSettings:
    """Where log lines go, beside files."""

    stream_logfile: str | None = setting(
        None,
        "Write a line for each stream that is not HTTP requests, and for each connection that is turned away, to this file; - for standard "
        "output. The lines are JSON if --access-logformat is json.",
        section=LOGS,
        unit="FILE",
    )
    log_syslog: bool = setting(
        False, "Send the error log and the access log to syslog too. The access log needs no --access-logfile then.", section=LOGS
    )
    log_syslog_to: str = setting(
        "unix:/dev/log",
        "The syslog daemon: unix:PATH or unix:PATH#dgram (datagrams), unix:PATH#stream, udp://HOST:PORT or tcp://HOST:PORT.",
        section=LOGS,
        unit="ADDRESS",
    )
    log_syslog_prefix: str = setting(
        "muxwsgi", "Name of the program in syslog. `.error` or `.access` is appended.", section=LOGS, unit="NAME"
    )
    log_syslog_facility: str = setting("user", "The syslog facility.", section=LOGS, choices=tuple(FACILITIES))
    log_syslog_format: SyslogFormat | None = setting(
        None,
        "Form of the messages. Default: rfc3164 for unix sockets, as syslog(3) writes it; rfc5424 for others.",
        section=LOGS,
        choices=("rfc3164", "rfc5424"),
    )
    disable_redirect_access_to_syslog: bool = setting(False, "Do not send the access log to syslog.", section=LOGS)
    log_config: str | None = setting(
        None, "Configure logging with this file: INI, as logging.config.fileConfig() reads it.", section=LOGS, unit="FILE"
    )
    log_config_json: str | None = setting(
        None, "Configure logging with this file: JSON, as logging.config.dictConfig() takes it.", section=LOGS, unit="FILE"
    )
    capture_output: bool = setting(
        False,
        "Write what the application and its children print to the file of --error-logfile.",
        section=LOGS,
    )
    access_log_exclude: tuple[str, ...] = setting(
        (),
        "Leave requests whose path begins so out of the access log if the status is below 400: for health checks.",
        section=LOGS,
        unit="PREFIX",
    )

    request_id_header: str = setting(
        "",
        "Give each request an id, for the logs and in this field of the request, such as X-Request-ID. Trusted peers may give it.",
        section=LOGS,
        unit="NAME",
    )
    request_id_response: bool = setting(False, "Send the id in the same field of the response.", section=LOGS)
    statsd_host: str | None = setting(
        None, "Send numbers of requests to this statsd daemon: HOST:PORT or unix:PATH.", section=LOGS, unit="ADDRESS"
    )
    statsd_prefix: str = setting("", "Put this before the names of statsd's metrics.", section=LOGS, unit="NAME")
    dogstatsd_tags: str = setting(
        "", "Tags for all metrics, with commas between them, as DogStatsD has them.", section=LOGS, unit="TAGS"
    )

    otel_traces: bool = setting(
        False,
        "Make OpenTelemetry spans of requests, and export them by OTLP over HTTP. Needs muxwsgi[otel]. OpenTelemetry's variables name "
        "the collector, and set the rest.",
        section=LOGS,
    )

    def __post_init__(self) -> None:
        check(self)
        if self.request_id_header and (not is_token(self.request_id_header) or "_" in self.request_id_header):
            raise OperatorError(f"request_id_header: {self.request_id_header!r} is not the name of a field")
        if self.request_id_response and not self.request_id_header:
            raise OperatorError("request_id_response: requests have no ids (--request-id-header)")
        for name in ("statsd_prefix", "dogstatsd_tags"):
            value = getattr(self, name)
            if not all("!" <= char <= "~" and char not in "|@" for char in value):
                raise OperatorError(f"{name}: {value!r} has a character that separates the parts of a metric")
            if value and self.statsd_host is None:
                raise OperatorError(f"{name}: no numbers are sent (--statsd-host)")
