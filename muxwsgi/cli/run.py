"""`muxwsgi run`: load, serve, and take signals. Imported in a process that is patched already."""

import logging
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import gevent

from muxwsgi.cli.announcement import announce
from muxwsgi.cli.configured import prepare_process, server_settings, set_up_logging, wanted_hijackers
from muxwsgi.cli.load_app import load_app, mounted
from muxwsgi.observe.access_format import DEFAULT_FORMAT
from muxwsgi.observe.access_log import AccessLog
from muxwsgi.server import Server

__all__ = ["Log", "serve", "serve_made"]

log = logging.getLogger("muxwsgi.error")


class Log(Protocol):
    """What is written while we serve, beside the error log."""

    def reopen(self) -> None:
        """Go on in a new file of the same name: the old one was moved away."""

    def close(self) -> None:
        """Write what waits. Nothing comes after it."""


def serve(app_spec: str, values: Mapping[str, Any]) -> None:
    """Serve the application that `app_spec` names until a signal says stop. Raises `OperatorError` before anything is served."""
    serve_made(lambda: (mounted(load_app(app_spec), values["mount"]), []), app_spec, values)


def serve_made(make: Callable[[], tuple[Any, list[Log]]], name: str, values: Mapping[str, Any]) -> None:
    """The same with an application that is made once the process is prepared, with what it writes."""
    handler = set_up_logging(values)
    prepare_process(values)
    settings = server_settings(values)
    app, logs = make()
    plugins, installed = wanted_hijackers(values, app)
    hijackers = [plugin.hijacker for plugin in plugins if plugin.hijacker is not None]
    # Flow logs that a proxy was given in Python: who writes something that can be reopened and closed.
    logs += [sink for sink in getattr(app, "sinks", ()) if sink not in logs and hasattr(sink, "reopen") and hasattr(sink, "close")]
    access_log = None
    if values["access_logfile"]:
        access_log = AccessLog(values["access_logfile"], values["access_logformat"] or DEFAULT_FORMAT)
        logs.append(access_log)
    server = Server(app, hijackers=hijackers, settings=settings, registered=installed, on_exchange=access_log)
    _take_signals(server, logs)
    announce(server, app, name, hijackers)  # who has read this may send a signal
    writer = gevent.spawn(_flush_regularly, access_log) if access_log else None
    try:
        server.serve_forever()
    finally:
        if writer is not None:
            writer.kill()
        for each in logs:
            each.close()
    log.info("stopped")
    handler.flush()


def _flush_regularly(access_log: AccessLog) -> None:
    while True:
        gevent.sleep(1)
        access_log.flush()


def _take_signals(server: Server, logs: Iterable[Log]) -> None:
    def stop() -> None:
        log.info("stopping: connections have %g s to end; a second signal cuts them", server.settings.graceful_timeout)
        server.request_stop()

    def reopen() -> None:
        for each in logs:
            each.reopen()
        log.info("logs reopened")  # the error log's handler notices a moved file by itself

    gevent.signal_handler(signal.SIGTERM, stop)
    gevent.signal_handler(signal.SIGINT, stop)
    gevent.signal_handler(signal.SIGHUP, server.reload_certificates)
    gevent.signal_handler(signal.SIGUSR1, reopen)
