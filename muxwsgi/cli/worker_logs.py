"""What a worker's logs have beyond those of a master: the access log, `--capture-output`, and a greenlet for the operator's handlers."""

import logging
import os
from collections.abc import Mapping
from typing import Any

import gevent

from muxwsgi.errors import OperatorError
from muxwsgi.observe.access_format import DEFAULT_FORMAT
from muxwsgi.observe.access_log import AccessLog
from muxwsgi.observe.error_log import ACCESS, ErrorLog
from muxwsgi.observe.standard_streams import flush_streams
from muxwsgi.setting import from_options
from muxwsgi.settings import LogSettings
from muxwsgi.wire.fork import leave_to_parent

__all__ = ["capture_output", "open_access_log", "serve_log_handlers"]

log = logging.getLogger("muxwsgi.error")


def open_access_log(values: Mapping[str, Any], error_log: ErrorLog) -> AccessLog | None:
    """The access log; None if nothing asks for one. Raises `OperatorError`."""
    settings = from_options(LogSettings, values)
    syslog = None if settings.disable_redirect_access_to_syslog else error_log.syslog
    logger = logging.getLogger(ACCESS) if error_log.configures_access else None
    path = values["access_logfile"]
    if not path and syslog is None and logger is None:
        return None
    format_text = values["access_logformat"] or DEFAULT_FORMAT
    return AccessLog(path or None, format_text, syslog=syslog, logger=logger, exclude=settings.access_log_exclude)


def serve_log_handlers(error_log: ErrorLog) -> None:
    """Have the operator's handlers called in a greenlet from now on. Call it in a worker."""
    guard = error_log.guard
    if guard is None:
        return
    hub = gevent.get_hub()
    guard.serve(lambda run: hub.loop.run_callback_threadsafe(gevent.spawn, run), gevent.sleep)
    leave_to_parent(guard)


def capture_output(error_log: ErrorLog, path: str) -> None:
    """Write standard output and standard error to the file of the error log: `--capture-output`. Children inherit them. Does nothing if the
    error log goes to standard error. Raises `OperatorError`."""
    if path == "-":
        return

    def capture() -> None:
        try:
            _capture(path)
        except OSError as error:
            log.error("capture_output: %s: %s", path, error.strerror)

    flush_streams()
    try:
        _capture(path)
    except OSError as error:
        raise OperatorError(f"capture_output: {path}: {error.strerror}") from error
    error_log.whenever_opened(capture)


def _capture(path: str) -> None:
    fifo = os.path.exists(path) and not os.path.isfile(path)
    # Not the descriptor of the log: that one does not block, and children that inherit it would not expect this.
    fd = os.open(path, (os.O_RDWR if fifo else os.O_WRONLY) | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_CLOEXEC, 0o666)
    try:
        for standard in (1, 2):
            os.dup2(fd, standard)
    finally:
        os.close(fd)
