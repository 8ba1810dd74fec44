"""`--workers`: the command line's part of a master. It reads the configuration and opens the sockets that all workers share. In each worker
it returns to the command, which loads the application there. Imports no gevent."""

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from muxwsgi.cli.configured import prepare_process, server_settings
from muxwsgi.errors import OperatorError
from muxwsgi.observe.error_log import ErrorLog
from muxwsgi.observe.standard_streams import take_streams
from muxwsgi.server.binds import Listening, listen_on
from muxwsgi.server.master import Master
from muxwsgi.server.worker import Worker
from muxwsgi.setting import from_options, settings_of
from muxwsgi.settings import WORKERS, ServerSettings, WorkerSettings
from muxwsgi.signals import Signals

__all__ = ["Role", "become_worker", "wanted_of_workers"]

log = logging.getLogger("muxwsgi.error")

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Role:
    """What a worker got from its master.

    values      the options
    listening   the sockets, which are open already
    settings    when it is replaced
    """

    worker: Worker
    values: Values
    listening: list[Listening]
    settings: WorkerSettings


def wanted_of_workers(values: Values) -> str | None:
    """The option by which the operator asks for workers and a master; None where one process serves."""
    if worker_count(values) > 1:
        return "workers"
    for name, (known, default) in settings_of(WorkerSettings).items():
        if known.section == WORKERS and values[name] != default:
            return name
    return None


def worker_count(values: Values) -> int:
    """How many processes shall serve. Raises `OperatorError`."""
    wanted = values["workers"]
    if wanted == "auto":
        return len(os.sched_getaffinity(0))
    if not wanted.isascii() or not wanted.isdigit() or not 1 <= int(wanted) <= 1024:
        raise OperatorError(f"workers: {wanted!r} is not a number from 1 to 1024, or auto")
    return int(wanted)


def become_worker(collect: Callable[[], Values], values: Values, signals: Signals) -> Role:
    """Be a master until it ends, which ends the process, and return in each of its workers, which have taken their signals.

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
    return Role(result, owner.values, owner.listening, owner.settings)


class _Owner:
    """What the master's workers serve: options and sockets, which a reload replaces."""

    def __init__(self, collect: Callable[[], Values], values: Values) -> None:
        take_streams()  # before anything is opened, which would get the number of a standard stream that is closed
        self._collect = collect
        self._pid = os.getpid()
        self._folder = os.getcwd()  # of the operator, who names files relative to it
        self.error_log = ErrorLog(values["error_logfile"])
        self.error_log.install(values["log_level"])
        self.values: Values = prepare_process(values)
        self.settings = _settings(self.values)
        self._server = server_settings(self.values)
        self.listening = listen_on(self._server.binds, self._server.backlog)
        self._before: tuple[Values, ServerSettings, list[Listening]] | None = None
        for each in self.listening:
            log.info("listening on %s", each.address)

    def in_worker(self) -> bool:
        return os.getpid() != self._pid

    def close_others(self) -> None:
        """In a worker: the sockets of the generation before."""
        for each in self._only_in(self._before):
            each.socket.close()

    # As `Owner`

    def reload(self) -> bool:
        try:
            os.chdir(self._folder)
            values = prepare_process(self._collect())
            settings = _settings(values)
            server = server_settings(values)
            error_log = ErrorLog(values["error_logfile"]) if values["error_logfile"] != self.values["error_logfile"] else self.error_log
            kept = {each.bind: each for each in self.listening}
            opened = listen_on([bind for bind in server.binds if bind not in kept], server.backlog)
        except (OperatorError, OSError) as error:
            log.error("the reload failed: %s", error)
            return False
        if error_log is not self.error_log:
            self.error_log.end()
            self.error_log = error_log
        error_log.install(values["log_level"])
        self._before = (self.values, self._server, self.listening)
        new = iter(opened)
        self.listening = [kept[bind] if bind in kept else next(new) for bind in server.binds]
        self.values, self.settings, self._server = values, settings, server
        return True

    def reloaded(self, whole: bool) -> None:
        if self._before is None:
            return
        if not whole:
            self.values, self._server, before = self._before
            given_up, self.listening = self.listening, before
            self._before = None
            for each in given_up:
                if each not in self.listening:
                    each.close()
            return
        for each in self._only_in(self._before):
            log.info("no longer listening on %s", each.address)
            each.close()
        self._before = None

    def _only_in(self, before: tuple[Values, ServerSettings, list[Listening]] | None) -> list[Listening]:
        return [] if before is None else [each for each in before[2] if each not in self.listening]

    def reopen_logs(self) -> None:
        self.error_log.reopen()

    def stop(self) -> None:
        for each in self.listening:
            each.close()


def _settings(values: Values) -> WorkerSettings:
    return from_options(WorkerSettings, values, workers=worker_count(values))
