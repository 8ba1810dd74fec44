"""What a worker's logs have beyond those of a master: what observes the traffic, `--capture-output`, and a greenlet for the operator's
handlers. An observer is imported where it is made, because most workers have none."""

import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import gevent

from muxwsgi.errors import OperatorError
from muxwsgi.events import Events
from muxwsgi.http.environ import WSGIApplication
from muxwsgi.http.request_id import RequestIds
from muxwsgi.observe.error_log import ACCESS, STREAM, ErrorLog
from muxwsgi.observe.standard_streams import flush_streams
from muxwsgi.setting import from_options
from muxwsgi.settings import LogSettings
from muxwsgi.settings.trust import TrustSettings
from muxwsgi.wire.fork import leave_to_parent
from muxwsgi.wire.peer import TrustedPeers

if TYPE_CHECKING:
    from muxwsgi.observe.access_log import AccessLog
    from muxwsgi.observe.statsd import StatsD
    from muxwsgi.observe.stream_log import StreamLog
    from muxwsgi.observe.tracing import Tracing

__all__ = ["Observer", "Observers", "capture_output", "serve_log_handlers"]

log = logging.getLogger("muxwsgi.error")


Around = Callable[[WSGIApplication], WSGIApplication]


class Observer(Protocol):
    """Hears of what happens to connections and requests, and writes it somewhere. Nothing but `subscribe` raises anything.

    waiting     whether something waits to be written, so that `flush` should be called soon
    """

    @property
    def waiting(self) -> bool: ...

    def subscribe(self, events: Events) -> None:
        """Hear of events from now on."""

    def flush(self) -> None:
        """Called about once a second, or sooner."""

    def reopen(self) -> None:
        """After a log rotation."""

    def close(self) -> None:
        """Write what waits. Nothing follows."""


class Observers:
    """All observers that the options ask for, as one."""

    def __init__(self, values: Mapping[str, Any], error_log: ErrorLog) -> None:
        """Raises `OperatorError`."""
        settings = from_options(LogSettings, values)
        trusts = TrustedPeers(from_options(TrustSettings, values).forwarders).trusts
        tracing = _tracing(settings, trusts)
        made = (_access_log(values, error_log), _stream_log(values, error_log), _statsd(settings), tracing)
        self._all: list[Observer] = [each for each in made if each is not None]

        self._tracing = tracing
        self._request_ids = None
        if settings.request_id_header:
            self._request_ids = RequestIds(settings.request_id_header, trusts=trusts, responds=settings.request_id_response)

    def around(self, *, passes_on: bool) -> "tuple[Around, ...]":
        """Functions that wrap the application, the outermost last. `passes_on`: the application is a proxy."""
        return tuple(partial(each.around, passes_on=passes_on) for each in (self._tracing, self._request_ids) if each is not None)

    @property
    def waiting(self) -> bool:
        """Whether one of them has something to write."""
        return any(each.waiting for each in self._all)

    def subscribe(self, events: Events) -> None:
        """Hear of events from now on."""
        for each in self._all:
            each.subscribe(events)
        if self._request_ids is not None:
            events.subscribe(exchange=self._request_ids.forget)

    def flush(self) -> None:
        """Call it about once a second, or sooner if something is `waiting`."""
        for each in self._all:
            _do(each.flush)

    def reopen(self) -> None:
        """After a log rotation."""
        for each in self._all:
            _do(each.reopen)

    def close(self) -> None:
        """Write what waits. Nothing follows."""
        for each in self._all:
            _do(each.close)


def _do(what: Callable[[], None]) -> None:
    """Call `what`. One that fails unexpectedly is reported, and the next is called all the same."""
    try:
        what()
    except Exception:
        log.exception("%r failed", what)


def _access_log(values: Mapping[str, Any], error_log: ErrorLog) -> "AccessLog | None":
    settings = from_options(LogSettings, values)
    syslog = None if settings.disable_redirect_access_to_syslog else error_log.syslog
    logger = logging.getLogger(ACCESS) if ACCESS in error_log.configured else None
    path = values["access_logfile"]
    if not path and syslog is None and logger is None:
        return None
    from muxwsgi.observe.access_format import DEFAULT_FORMAT
    from muxwsgi.observe.access_log import AccessLog

    format_text = values["access_logformat"] or DEFAULT_FORMAT
    return AccessLog(path or None, format_text, syslog=syslog, logger=logger, exclude=settings.access_log_exclude)


def _stream_log(values: Mapping[str, Any], error_log: ErrorLog) -> "StreamLog | None":
    path = values["stream_logfile"]
    logger = logging.getLogger(STREAM) if STREAM in error_log.configured else None
    if not path and logger is None:
        return None
    from muxwsgi.observe.access_format import JSON_FORMAT
    from muxwsgi.observe.stream_log import StreamLog

    syslog = error_log.syslog if path else None
    return StreamLog(path or None, as_json=values["access_logformat"] == JSON_FORMAT, syslog=syslog, logger=logger)


def _statsd(settings: LogSettings) -> "StatsD | None":
    if settings.statsd_host is None:
        return None
    from muxwsgi.observe.statsd import StatsD

    return StatsD(settings.statsd_host, prefix=settings.statsd_prefix, tags=settings.dogstatsd_tags)


def _tracing(settings: LogSettings, trusts: Callable[[Any], bool]) -> "Tracing | None":
    if not settings.otel_traces:
        return None
    from muxwsgi.observe.tracing import Tracing

    return Tracing(trusts=trusts)


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
