"""`--workers`: the command line's part of a master. It reads the configuration and opens the sockets that all workers share. In each worker
it returns to the command, which then loads the application. Imports no gevent."""

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from muxwsgi.cli.configured import prepare_process, say_remarks, server_settings, set_environment
from muxwsgi.cli.logs import PATIENCE, extend_error_log, open_error_log, same_logs
from muxwsgi.errors import OperatorError
from muxwsgi.observe.error_log import ErrorLog
from muxwsgi.observe.standard_streams import take_streams
from muxwsgi.server.binds import Listening, listen_on
from muxwsgi.server.master import Master
from muxwsgi.server.worker import Worker
from muxwsgi.setting import from_options, settings_of
from muxwsgi.settings import ServerSettings, WorkerSettings
from muxwsgi.settings.sections import WORKERS
from muxwsgi.signals import Signals

__all__ = ["Role", "become_worker", "wanted_of_workers"]

log = logging.getLogger("muxwsgi.error")

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Role:
    """The data that a worker gets from its master.

    values      the options
    listening   the sockets, which are open already
    settings    when it is replaced
    """

    worker: Worker
    values: Values
    listening: list[Listening]
    settings: WorkerSettings


def wanted_of_workers(values: Values) -> str | None:
    """The option that asks for workers and a master; None if one process serves."""
    if worker_count(values) > 1:
        return "workers"
    for name, (known, default) in settings_of(WorkerSettings).items():
        if known.section == WORKERS and values[name] != default:
            return name
    return None


def worker_count(values: Values) -> int:
    """The number of processes that serve. Raises `OperatorError`."""
    wanted = values["workers"]
    if wanted == "auto":
        return len(os.sched_getaffinity(0))
    if not wanted.isascii() or not wanted.isdigit() or not 1 <= int(wanted) <= 1024:
        raise OperatorError(f"workers: {wanted!r} is not a number from 1 to 1024, or auto")
    return int(wanted)


def become_worker(collect: Callable[[], Values], values: Values, signals: Signals) -> Role:
    """Run a master. When it ends, its process exits (`SystemExit`). This function returns in each worker only, after the worker has taken
    its signals.

    `collect` reads the options again, for a reload. Raises `OperatorError`.
    """
    owner = _Owner(collect, values)
    master = Master(owner)
    try:
        result = master.run(signals.noted)
        if not isinstance(result, Worker):
            log.info("stopped")
            owner.error_log.end()
            sys.exit(result)
    except BaseException:
        if not owner.in_worker():
            owner.stop()
        raise
    signals.take()
    owner.close_others()
    return Role(result, owner.served.values, owner.served.listening, owner.settings)


@dataclass(slots=True)
class _Served:
    """The options and sockets of a generation of workers, and the state that they inherit from the master.

    folder, path    the working folder and `sys.path`
    """

    values: Values
    settings: WorkerSettings
    server: ServerSettings
    error_log: ErrorLog
    listening: list[Listening]
    folder: str
    path: list[str]

    def enter(self) -> None:
        """Let workers that are forked from now on inherit it. Raises `OSError` if the folder does not exist any more."""
        self.error_log.install(self.values["log_level"])
        sys.path[:] = self.path
        os.chdir(self.folder)
        set_environment(self.values["raw_env"])

    def close_sockets(self, kept: "_Served | None" = None) -> None:
        """Close the sockets that `kept` does not use."""
        for each in self.only_here(kept):
            each.close()

    def only_here(self, other: "_Served | None") -> list[Listening]:
        """The sockets that `other` does not use."""
        sockets = [] if other is None else [each.socket for each in other.listening]
        return [each for each in self.listening if each.socket not in sockets]


class _Owner:
    """The options and sockets of the master's workers. A reload replaces them."""

    def __init__(self, collect: Callable[[], Values], values: Values) -> None:
        take_streams()  # must be first: another descriptor could get the number of a closed standard stream
        self._collect = collect
        self._pid = os.getpid()
        self._folder = os.getcwd()  # files in the options are relative to it
        self._path = list(sys.path)
        error_log = ErrorLog(values["error_logfile"])
        error_log.install(values["log_level"])
        say_remarks(values)
        self.served = self._read(values, error_log, None)
        self._before: _Served | None = None  # while a reload is under way
        for each in self.served.listening:
            log.info("listening on %s", each.address)

    def _read(self, values: Values, error_log: ErrorLog | None, before: "_Served | None") -> _Served:
        """Apply `values`. If `error_log` is None, the error log is opened, unless that of `before` can be used. Raises `OperatorError` and
        `OSError`."""
        values = prepare_process(values)
        settings = _settings(values)
        server = server_settings(values)
        listening = listen_on(server.binds, server.backlog, kept=() if before is None else before.listening)
        served = _Served(values, settings, server, error_log or self.error_log, listening, os.getcwd(), list(sys.path))
        try:
            if error_log is not None:
                extend_error_log(error_log, values, patience=PATIENCE)
            elif not same_logs(values, self.served.values):
                served.error_log = open_error_log(values)
        except OperatorError:
            served.close_sockets(before)
            raise
        return served

    def in_worker(self) -> bool:
        return os.getpid() != self._pid

    def close_others(self) -> None:
        """In a worker: close the sockets of the generation before."""
        if self._before is not None:
            self._before.close_sockets(self.served)  # the master removes the files of unix sockets

    @property
    def error_log(self) -> ErrorLog:
        return self.served.error_log

    # As `Owner`

    @property
    def settings(self) -> WorkerSettings:
        return self.served.settings

    def reload(self) -> bool:
        try:
            os.chdir(self._folder)
            sys.path[:] = self._path
            set_environment(())
            new = self._read(self._collect(), None, self.served)
        except (OperatorError, OSError) as error:
            self._enter(self.served)  # first, because it also says where the log goes
            log.error("the reload failed: %s", error)
            return False
        self._before, self.served = self.served, new
        self._enter(new)
        say_remarks(new.values)
        return True

    def reloaded(self, whole: bool) -> None:
        if self._before is None:
            return
        given_up = self._before
        if not whole:
            given_up, self.served = self.served, self._before
            self._enter(self.served)
        for each in given_up.only_here(self.served):
            log.info("no longer listening on %s", each.address)
        given_up.close_sockets(self.served)
        if given_up.error_log is not self.error_log:
            given_up.error_log.give_up()
        self._before = None

    def _enter(self, served: _Served) -> None:
        try:
            served.enter()
        except OSError as error:  # the folder does not exist any more, but the served application does not need it
            log.error("%s: %s", served.folder, error.strerror)

    def reopen_logs(self) -> None:
        self.error_log.reopen()

    def stop(self) -> None:
        self.served.close_sockets()
        if self._before is not None:
            self._before.close_sockets()


def _settings(values: Values) -> WorkerSettings:
    return from_options(WorkerSettings, values, workers=worker_count(values))
