"""A worker of `muxwsgi run`: loads, serves, and acts on signals. It is imported in a process that is patched already."""

import logging
import math
import signal
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import gevent

from muxwsgi.cli.announcement import announce
from muxwsgi.cli.application import application
from muxwsgi.cli.configured import made_hijackers, wanted_hijackers
from muxwsgi.cli.ending import lasting
from muxwsgi.cli.for_developer import ForDeveloper
from muxwsgi.cli.logs import extend_error_log
from muxwsgi.cli.place import Place
from muxwsgi.cli.preloading import Leftovers, Loaded
from muxwsgi.cli.worker_admin import Watched, health_of
from muxwsgi.cli.worker_logs import Observers, capture_output, serve_log_handlers
from muxwsgi.errors import OperatorError
from muxwsgi.observe.error_log import ErrorLog
from muxwsgi.observe.standard_streams import flush_streams, lost_lines, streams_wait
from muxwsgi.server.page import State
from muxwsgi.server.proxy_application import ProxyApplication
from muxwsgi.server.reuse_port import LAST_HANDSHAKES
from muxwsgi.server.server import Server
from muxwsgi.server.turned_away import load_protocols
from muxwsgi.signals import Signals, StopRequested
from muxwsgi.wire.frames import keep_frames

if TYPE_CHECKING:
    from muxwsgi.cli.workers import Role

__all__ = ["Log", "serve", "serve_made"]

log = logging.getLogger("muxwsgi.error")

#: Seconds between two batches of the access log, and between two attempts to write waiting lines.
BATCH_INTERVAL = 1.0
RETRY_INTERVAL = 0.05

#: Seconds until a worker that serves loads what only messages need.
LOAD_PROTOCOLS_AFTER = 1.0

#: Seconds between two log lines about lost lines.
COMPLAINING = 60.0


class Log(Protocol):
    """A log that is written while the server runs, beside the error log."""

    def reopen(self) -> None:
        """Go on in a new file of the same name, because the old one was moved away."""

    def close(self) -> None:
        """Write the waiting lines. No lines follow."""


Make = Callable[[Mapping[str, Any]], tuple[Any, list[Log]]]


def serve(role: "Role", signals: Signals, loaded: Loaded | None = None) -> None:
    """Serve the application that the option `wsgi_app` names until a signal stops the worker. `loaded` is what `preload` has returned.
    Raises `OperatorError` before anything is served."""
    name = role.values["wsgi_app"]
    if loaded is None:
        serve_made(lambda values: (application(name, values), []), name, role, signals, has_page=True)
    else:
        serve_made(lambda values: (loaded.app, []), name, role, signals, error_log=loaded.error_log)


def preload(values: Mapping[str, Any], signals: Signals) -> Loaded:
    """In a preloader: load the application, and modules of hijackers. Raises `OperatorError`, and `StopRequested`."""
    error_log = _error_log(values)
    leftovers = Leftovers()
    with signals.interrupting():
        app = application(values["wsgi_app"], values)
        if isinstance(app, ProxyApplication):
            raise OperatorError("preload_app: the application is a proxy, whose files and keys each worker opens and makes for itself")
        wanted_hijackers(values, app)
    leftovers.check()
    return Loaded(app, error_log)


def serve_made(
    make: Make, name: str, role: "Role", signals: Signals, *, has_page: bool = False, error_log: ErrorLog | None = None
) -> None:
    """As `serve`, with an application that `make` makes of the options, with its logs. `signals` were taken already. `has_page` means that
    `--reload` serves a page while there is no application. `error_log` is one that a preloader has opened."""
    try:
        if error_log is None:
            error_log = _error_log(role.values)
            role.masters_log.forsake()
        else:
            error_log.reopen()
        _serve_made(make, name, role, signals, has_page, error_log)
    finally:
        signals.end()


def _error_log(values: Mapping[str, Any]) -> ErrorLog:
    """The error log, from before the application is loaded."""
    error_log = ErrorLog(values["error_logfile"])
    error_log.install(values["log_level"])
    extend_error_log(error_log, values)
    gevent.get_hub().NOT_ERROR += (StopRequested,)  # if it interrupts the hub, the hub raises it in the main greenlet and prints nothing
    serve_log_handlers(error_log)
    if values["capture_output"]:
        capture_output(error_log, values["error_logfile"])
    return error_log


def _serve_made(make: Make, name: str, role: "Role", signals: Signals, has_page: bool, error_log: ErrorLog) -> None:
    values = role.values
    for_developer = ForDeveloper(role)
    try:
        with signals.interrupting():
            app, logs = for_developer.load(make, has_page=has_page)
            plugins, installed = wanted_hijackers(values, app)
            error_log.add_plugins((plugin.module for plugin in plugins), values["log_level"])
            hijackers = made_hijackers(values, plugins, installed)
    except StopRequested:
        log.debug("this worker ends before it has served anything")
        error_log.end()
        return
    gevent.get_hub().SYSTEM_ERROR = ()  # SystemExit in a greenlet of the application ends only this greenlet, as in a thread
    # Flow logs that a program gave to the proxy in Python, if they can be reopened and closed.
    logs += [sink for sink in getattr(app, "sinks", ()) if sink not in logs and hasattr(sink, "reopen") and hasattr(sink, "close")]
    observers = Observers(values, error_log)
    logs.append(observers)
    place = Place(role)
    server = Server(
        app,
        hijackers=hijackers,
        settings=role.server,
        registered=installed,
        errors=error_log.stream,
        listening=role.listening,
        multiprocess=role.settings.workers > 1,
        worker=role.worker,
        contexts=role.contexts,
        around=observers.around(passes_on=isinstance(app, ProxyApplication)),
        health=health_of(role),
    )
    watched = Watched(role, server)
    observers.subscribe(server.events)
    role.hooks.serving(server)
    _act_on_signals(signals, server, [error_log, *logs], place, role, reloads=values["reload"])
    keep_frames()
    announce(server, app, name, hijackers, role.announced)  # a program that reads this may send the master a signal at once
    keeper = gevent.spawn(_keep_logs, error_log, observers)
    loader = gevent.spawn_later(LOAD_PROTOCOLS_AFTER, load_protocols)
    watched.start()
    place.start(server)
    for_developer.start()
    try:
        server.serve_forever()
    finally:
        for_developer.stop()
        place.stop()
        watched.stop()
        keeper.kill()
        loader.kill()
        for each in logs:
            _do(each.close)
        role.hooks.ended()
        last = lasting()
        if last:
            log.info("stopped; the worker ends with what the application has started: %s", ", ".join(last))
        else:
            log.debug("this worker has stopped")
        error_log.end()
        flush_streams(timeout=1)


def _keep_logs(error_log: ErrorLog, observers: Observers) -> None:
    """Write the logs of the traffic in batches, and try again to write waiting lines."""
    lost, said = lost_lines(), -math.inf
    while True:
        waits = error_log.waiting or streams_wait() or observers.waiting
        gevent.sleep(RETRY_INTERVAL if waits else BATCH_INTERVAL)
        observers.flush()
        _do(error_log.flush)
        flush_streams()
        if lost_lines() > lost and not streams_wait() and monotonic() - said > COMPLAINING:
            why = "because their reader is slow or gone, or the disk full"
            log.warning("standard output or error: %d lines were lost, %s", lost_lines() - lost, why)
            lost, said = lost_lines(), monotonic()


def _do(what: Callable[[], None]) -> None:
    """Call `what`. A log that fails unexpectedly is reported. The server goes on, and the next log is closed too."""
    try:
        what()
    except Exception:
        log.exception("%r failed", what)


def _act_on_signals(signals: Signals, server: Server, logs: Iterable[Log], place: Place, role: "Role", *, reloads: bool) -> None:
    hooks = role.hooks
    stopping = False

    def retire() -> None:
        log.debug("this worker retires")
        if server.settings.reuse_port:
            gevent.sleep(LAST_HANDSHAKES)  # the master has told the kernel, but handshakes are under way
        if not stopping:
            server.request_stop(grace=not reloads)  # while an application is written, nobody wants one more answer of the old one

    def stop() -> None:
        nonlocal stopping
        if stopping:
            return  # a service manager sends SIGTERM to all processes of a service, and the master to its workers. It cuts by SIGQUIT
        worker = role.worker
        if worker.is_ready and not worker.is_to_end:  # nothing is lost if others serve first, or take the connections over
            if worker.leaves or worker.entry.state not in (State.BOOTING, State.SERVING):
                retire()
            else:
                log.info("SIGTERM: another worker starts, and then this one ends")
                worker.leave()
            return
        stopping = True
        place.say_stop()
        server.request_stop()

    def cut() -> None:
        log.debug("this worker cuts its connections")
        hooks.interrupted()
        server.request_stop()
        server.request_stop()

    def reopen() -> None:
        for each in logs:
            _do(each.reopen)
        log.info("logs reopened")

    def leave_to_master() -> None:
        """Ignore the signal. A terminal sends SIGINT and SIGHUP also to the master."""

    actions: dict[int, Callable[[], None]] = dict.fromkeys((signal.SIGINT, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU), leave_to_master)
    actions |= {signal.SIGTERM: stop, signal.SIGQUIT: cut, signal.SIGUSR1: reopen, signal.SIGUSR2: retire}
    actions[signal.SIGINT] = hooks.interrupted  # a terminal sends it to the master too, which ends the workers
    loop = gevent.get_hub().loop

    def wake() -> None:
        place.end_in_time()
        loop.run_callback_threadsafe(gevent.spawn, signals.perform)

    # A greenlet performs the actions, because they may wait. Neither the signal handler nor the hub can wait.
    signals.act(actions, wake)
