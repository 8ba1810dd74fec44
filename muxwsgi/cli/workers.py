"""How a command serves: by a master, which reads the configuration and opens the sockets, and by its workers, which load the application.
Imports no gevent.

The file is long because a reload replaces options, sockets, logs, TLS contexts and the admin process together, or none of them.
"""

import faulthandler
import gc
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from muxwsgi.admin.process import serve as serve_admin
from muxwsgi.build import why_pure
from muxwsgi.cli.admin import Admin
from muxwsgi.cli.configured import prepare_process, say_remarks, server_settings, set_environment
from muxwsgi.cli.development import check_debug, places_of
from muxwsgi.cli.ending import say
from muxwsgi.cli.hook_objects import Configuration, HookServer, HookWorker
from muxwsgi.cli.logs import PATIENCE, extend_error_log, open_error_log, same_logs
from muxwsgi.cli.preloading import Loaded, preload, preloads, say_no_preload
from muxwsgi.cli.release import Release
from muxwsgi.cli.system import System, current_umask, shown_name
from muxwsgi.cli.upgrading import Upgrading, starting_folder
from muxwsgi.cli.worker_hooks import WorkerHooks
from muxwsgi.errors import OperatorError
from muxwsgi.observe.error_log import ErrorLog
from muxwsgi.observe.metrics import GAUGES
from muxwsgi.observe.standard_streams import take_streams
from muxwsgi.record import record
from muxwsgi.server.binds import Listening, listen_on
from muxwsgi.server.board import Board
from muxwsgi.server.front_contexts import front_contexts
from muxwsgi.server.handover_queue import HandoverQueue
from muxwsgi.server.introductions import Introductions
from muxwsgi.server.master import Master
from muxwsgi.server.notify import Notifier
from muxwsgi.server.page import SharedPage
from muxwsgi.server.parent import die_with
from muxwsgi.server.preloader import Preloader
from muxwsgi.server.process_title import ProcessTitle
from muxwsgi.server.side_process import Beside, SideProcess
from muxwsgi.server.worker import Given, Worker
from muxwsgi.setting import from_options
from muxwsgi.settings import AdminSettings, ServerSettings, WorkerSettings
from muxwsgi.signals import Signals, StopRequested
from muxwsgi.uncollected import uncollected

if TYPE_CHECKING:
    from muxwsgi.wire.tls.server_context import ServerContext

__all__ = ["Role", "serve_in_workers"]

log = logging.getLogger("muxwsgi.error")

Values = dict[str, Any]

#: Seconds that the service manager waits beyond our own deadlines, which end the start and the stop in order.
SPARE = 10.0

STDERR = 2

#: Modules that need neither gevent nor its patches. A worker that is started in a reload has them already.
BEFORE_FORK = ("httptools",)


@record()
class Role:
    """The data that a worker gets from its master.

    values      the options; paths are absolute, and the process is prepared for them
    server      the settings made of them
    settings    how many workers there are, and when one is replaced
    listening   the sockets, which are open already
    contexts    the TLS contexts of the sockets, by address
    announced   the addresses that this worker announces, because they are new and another worker does not
    hooks       of this worker
    system      the user that the worker becomes, before it loads anything
    masters_log the error log of the master, until the worker has its own
    admin, board, introductions     how it is watched and controlled
    """

    worker: Worker
    values: Values
    server: ServerSettings
    settings: WorkerSettings
    listening: list[Listening]
    contexts: dict[str, "ServerContext"]
    announced: frozenset[str]
    hooks: WorkerHooks
    system: System
    masters_log: ErrorLog
    admin: AdminSettings
    board: Board
    introductions: Introductions


def worker_count(values: Values) -> int:
    """The number of processes that serve. Raises `OperatorError`."""
    wanted = values["workers"]
    if wanted == "auto":
        return len(os.sched_getaffinity(0))
    if not wanted.isascii() or not wanted.isdigit() or not 1 <= int(wanted) <= 1024:
        raise OperatorError(f"workers: {wanted!r} is not a number from 1 to 1024, or auto")
    return int(wanted)


def serve_in_workers(
    read: Callable[[], Values], signals: Signals, serve: Callable[[Role, Loaded | None], None], preload: Callable[[Values], Loaded]
) -> int | None:
    """Run a master, and in each worker `serve`, after the process is patched. `read` reads the options, and again at each reload. `preload`
    loads the application in a preloader, and `serve` gets what it has returned, or None.

    Returns the exit status: of the master when it has ended, or of a worker that could not start. Returns None in a worker that has
    served. Raises `OperatorError` in the master, before the first worker starts.
    """
    try:
        owner = _Owner(read)
    except OSError as error:
        raise _not_started(error) from error
    try:
        master = Master(owner, owner.page, owner.board, owner.queue)
        master.beside = owner.beside
        for name in BEFORE_FORK:
            import_module(name)
    except OSError as error:
        owner.end()
        raise _not_started(error) from error
    # Later collections in a worker do not write to the memory that it shares with the master: 6 MB a worker.
    gc.freeze()
    try:
        result = master.run(signals.noted)
    except BaseException:
        if not owner.in_worker():
            owner.end()
        raise
    if isinstance(result, Beside):
        owner.become_beside()
        master.queue.close()
        result.serve()
        return 0
    if isinstance(result, Worker):
        signals.take()
        return _serve_in_worker(owner.role_of(result), serve)
    if isinstance(result, Preloader):
        signals.take()
        return _preload(owner, result, signals, serve, preload)
    owner.end()
    owner.tell("on_exit")
    if master.failure is not None:
        line, _, detail = master.failure.partition("\n")
        say(line, detail and detail + "\n")
    else:
        log.info("stopped" if master.has_served else "stopped before anything was served")
    owner.error_log.end()
    return result


def _say_build() -> None:
    reason = why_pure()
    if reason is not None:
        log.warning("this is plain Python, and each request costs about twice as much as compiled: %s", reason)


def _not_started(error: OSError) -> OperatorError:
    """The machine has no descriptor or no memory left, for example."""
    return OperatorError(f"the server cannot be started: {error.strerror or error}")


def _serve_in_worker(role: Role, serve: Callable[[Role, Loaded | None], None], loaded: Loaded | None = None) -> int | None:
    try:
        # If C code crashes the worker, the Python stack is written to standard error.
        faulthandler.enable(STDERR)
        if role.worker.given is None:
            master = os.getppid()
            if role.system.become_worker():
                die_with(master)
            # After the patch, sockets, threads and locks wait cooperatively. The application must not be imported before.
            with uncollected():
                from muxwsgi.patch import patch_all

                patch_all()
        role.hooks.forked()
        serve(role, loaded)
    except Exception as error:
        if role.worker.is_ready and not isinstance(error, OperatorError):
            raise
        return _failed(error, role.worker.fail)
    finally:
        role.hooks.ended()
    return None


def _preload(
    owner: "_Owner",
    preloader: Preloader,
    signals: Signals,
    serve: Callable[[Role, Loaded | None], None],
    load: Callable[[Values], Loaded],
) -> int | None:
    """In a preloader: load, and fork workers. Returns in each worker as `serve_in_workers` does, and in the preloader if it has failed."""
    try:
        values = owner.become_preloader()
        worker, loaded = preload(preloader, values, lambda: load(values), owner.serving_log)
    except StopRequested:
        os._exit(0)
    except Exception as error:
        return _failed(error, preloader.fail)
    signals.take()
    return _serve_in_worker(owner.role_of(worker), serve, loaded)


def _failed(error: Exception, tell: Callable[[str], bool]) -> int:
    """Let the master report why this process cannot start, because all workers may fail for the same reason."""
    if isinstance(error, OperatorError):
        line, detail, status = str(error), error.detail, 2
    else:
        line, detail, status = " ".join(f"{type(error).__name__}: {error}".split()), traceback.format_exc(), 1
    if not tell(f"{line}\n{detail}"):
        say(line, detail)
    return status


@dataclass(slots=True)
class _Served:
    """The options and sockets of a generation of workers, and the state that they inherit from the master.

    announced       the addresses that its first worker announces
    folder, path    the working folder and `sys.path`
    """

    values: Values
    settings: WorkerSettings
    server: ServerSettings
    error_log: ErrorLog
    listening: list[Listening]
    announced: frozenset[str]
    system: System
    admin: Admin
    folder: str
    path: list[str]
    contexts: dict[str, "ServerContext"] = field(default_factory=dict)

    def enter(self) -> None:
        """Let workers that are forked from now on inherit it. Raises `OSError` if the folder does not exist any more."""
        self.error_log.install(self.values["log_level"])
        self.error_log.create_by(self.system.give_logs)
        self.system.enter()
        sys.path[:] = self.path
        os.chdir(self.folder)
        set_environment(self.values["raw_env"])

    def close(self, kept: "_Served | None") -> None:
        """Close the sockets and the log that `kept` does not use, and remove the pid file."""
        for each in self.only_here(kept):
            each.close()
        self.system.close(None if kept is None else kept.system)
        self.admin.close(None if kept is None else kept.admin)
        if kept is not None and kept.error_log is not self.error_log:
            self.error_log.give_up()

    @property
    def all_listening(self) -> list[Listening]:
        """The sockets of the service and of the admin process."""
        return [*self.listening, *self.admin.listening()]

    def only_here(self, other: "_Served | None") -> list[Listening]:
        """The sockets that `other` does not use."""
        sockets = [] if other is None else [each.socket for each in other.listening]
        return [each for each in self.listening if each.socket not in sockets]


class _Owner:
    """The options and sockets of the master's workers. A reload replaces them."""

    def __init__(self, read: Callable[[], Values]) -> None:
        values = read()
        take_streams()  # must be first: another descriptor could get the number of a closed standard stream
        self._read = read
        self._release = Release()
        self._pid = os.getpid()
        self._folder = starting_folder()  # files in the options are relative to it
        self._path = list(sys.path)
        self._umask = current_umask()
        self._notifier = Notifier(os.environ)
        self._title = ProcessTitle()
        self._stopping = False
        self.page = SharedPage(GAUGES)
        self._upgrading = Upgrading(self._folder, self._umask, self._notifier, self.page)
        values = prepare_process(values)
        self._show_role("master", values)
        # Before the log is opened, because it may belong to the workers' user.
        system = System.made(values, self._umask, pid_suffix=self._upgrading.pid_suffix)
        self.beside = SideProcess("admin process")
        try:
            self.board = Board()
            self._introductions = Introductions()
            error_log = ErrorLog(values["error_logfile"])
            error_log.install(values["log_level"])
            error_log.create_by(system.give_logs)
            say_remarks(values)
            say_no_preload(values)
            _say_build()
            system.say_stale()
            self._server = HookServer(values, worker_count(values))
            values["hooks"].tell("nworkers_changed", self._server, self._server.num_workers, None)
            values["hooks"].require("on_starting", self._server)
            self._serving = self._made(values, system, error_log, None)
            self._upgrading.opened(self._serving.all_listening)
        except BaseException:
            system.close()
            raise
        self._booting: _Served | None = None  # while a reload is under way
        self._entered = self._serving
        self._serve_beside(self._serving.admin)
        self._next_worker = HookWorker(self._server)
        self._server.listens_on(self._serving.listening)
        try:
            values["hooks"].require("when_ready", self._server)
        except BaseException:
            self.end()
            raise
        self._notifier.starting(self.settings.boot_timeout + SPARE)

    def _made(self, values: Values, system: System, error_log: ErrorLog | None, before: "_Served | None") -> _Served:
        """Apply `values`. If `error_log` is None, the error log is opened, unless that of `before` can be used. Raises `OperatorError` and
        `OSError`."""
        settings = from_options(WorkerSettings, values, workers=worker_count(values))
        server = server_settings(values)
        listening = listen_on(server.binds, server.backlog, kept=self._upgrading.kept if before is None else before.listening)
        known = [] if before is None else [(each.socket, each.bind) for each in before.listening]
        announced = frozenset(each.address for each in listening if (each.socket, each.bind) not in known)
        try:
            admin = Admin.opened(values, self._upgrading.kept if before is None else before.admin.listening())
        except BaseException:
            for each in listening:
                if before is None or each.socket not in [kept.socket for kept in before.listening]:
                    each.close()
            raise
        logged = error_log or self.error_log
        served = _Served(values, settings, server, logged, listening, announced, system, admin, os.getcwd(), list(sys.path))
        try:
            served.contexts = front_contexts(server, listening, {} if before is None else before.contexts)
            check_debug(values, places_of(listening), settings.workers)
            if error_log is not None:
                extend_error_log(error_log, values, patience=PATIENCE)
            elif not same_logs(values, self._serving.values):
                served.error_log = open_error_log(values)
        except BaseException:
            served.close(before)
            raise
        return served

    def _show_role(self, role: str, values: Values) -> None:
        """Let `ps` show the role of this process."""
        self._title.show(role, shown_name(values))

    @property
    def _newest(self) -> _Served:
        return self._booting or self._serving

    @property
    def error_log(self) -> ErrorLog:
        return self._newest.error_log

    @property
    def queue(self) -> HandoverQueue:
        return self._upgrading.queue

    # In a worker

    def in_worker(self) -> bool:
        return os.getpid() != self._pid

    def role_of(self, worker: Worker) -> Role:
        """In the worker: what it needs. Closes what is not for it."""
        served = self._entered
        self._show_role(f"worker {worker.number}", served.values)
        if worker.given is None:
            self._close_others()
            listening = [each.of_slot(worker.number) for each in served.listening]
        else:
            self._server.worker_age = worker.given.age
            self._next_worker = HookWorker(self._server)
            descriptors = iter(worker.given.descriptors)
            listening = [each.taking(descriptors) for each in served.listening]
        announced = served.announced if worker.announces else frozenset()
        hooks = WorkerHooks(served.values["hooks"], self._server, self._next_worker)
        return Role(
            worker,
            served.values,
            served.server,
            served.settings,
            listening,
            served.contexts,
            announced,
            hooks,
            served.system,
            served.error_log,
            served.admin.settings,
            self.board,
            self._introductions,
        )

    def become_preloader(self) -> Values:
        """In a preloader: as in a worker, before it loads anything. Returns the options. Raises `OperatorError`."""
        master = os.getppid()
        self._show_role("preloader", self._entered.values)
        self._close_others()
        if self._entered.system.become_worker():
            die_with(master)
        return self._entered.values

    @property
    def serving_log(self) -> ErrorLog:
        """In a child: the error log of its generation."""
        return self._entered.error_log

    def _close_others(self) -> None:
        """Close what belongs to the master or to another generation. The master removes the files of unix sockets."""
        for other in (self._serving, self._booting):
            if other is not None and other is not self._entered:
                other.close(self._entered)
        self._entered.admin.close()
        self._notifier.close()
        self._upgrading.close()

    # The admin process

    def become_beside(self) -> None:
        """In the admin process: close the sockets of the service. Otherwise clients could connect to one that no worker serves any more.

        Without a control socket it becomes the workers' user. With one it may have to send signals to the master, so it keeps its user.
        """
        master = os.getppid()
        self._show_role("admin", self._serving.values)
        self._notifier.close()
        self._upgrading.close()
        if self._serving.admin.control is None and self._serving.system.become_worker():
            die_with(master)
        for served in (self._serving, self._booting):
            if served is not None:
                for each in served.listening:
                    each.close()

    def _serve_beside(self, admin: Admin) -> None:
        """Start the admin process for `admin`, in place of the one before. The master does it, as soon as it can."""
        self._release.check()
        serving = admin.serving(self.page, self.board, self._introductions)
        self.beside.replace(None if serving is None else partial(serve_admin, serving))

    # As `Owner`

    @property
    def settings(self) -> WorkerSettings:
        return self._newest.settings

    def steer(self, live: Sequence[int]) -> None:
        self.error_log.flush()  # what its reader has not taken: this master may log nothing more for days
        for each in self._listening():
            each.steer(live)

    def before_fork(self, slot: int, *, booting: bool) -> None:
        self._release.check()
        wanted = self._newest if booting else self._serving
        for each in wanted.listening:
            each.grow(slot + 1)
        if wanted is not self._entered:
            self._enter(wanted)
        self._next_worker = self._server.next_worker()
        wanted.values["hooks"].require("pre_fork", self._server, self._next_worker)

    @property
    def preloads(self) -> bool:
        return preloads(self._newest.values)

    def before_preload(self, *, booting: bool) -> None:
        self._release.check()
        self._enter(self._newest if booting else self._serving)

    def given(self, slot: int, *, booting: bool) -> Given:
        listening = (self._newest if booting else self._serving).listening
        return Given(self._server.worker_age, tuple(fd for each in listening for fd in each.descriptors(slot)))

    def after_fork(self, pid: int | None) -> None:
        if pid is not None:
            self._next_worker.pid = pid
            self._server.WORKERS[pid] = self._next_worker
        if self._entered is not self._newest:
            self._enter(self._newest)

    def reaped(self, pid: int) -> None:
        worker = self._server.WORKERS.pop(pid, None)
        if worker is not None:
            worker.alive = False
            self.tell("child_exit", worker)

    def resized(self, workers: int) -> None:
        before, self._server.num_workers = self._server.num_workers, workers
        if workers != before:
            self.tell("nworkers_changed", workers, before)

    @property
    def aborts(self) -> bool:
        return "worker_abort" in self._newest.values["hooks"]

    def tell(self, name: str, *arguments: object) -> None:
        """Call a hook of the newest configuration."""
        self._newest.values["hooks"].tell(name, self._server, *arguments)

    def reload(self) -> bool:
        self._notifier.reloading()
        system = None
        try:
            os.chdir(self._folder)
            sys.path[:] = self._path
            set_environment(())
            values = prepare_process(self._read())
            system = System.made(values, self._umask, self._serving.system, self._upgrading.pid_suffix)
            new = self._made(values, system, None, self._serving)
        except Exception as error:  # no reload may end a master that serves, whatever the configuration makes of Python
            self._enter(self._serving)  # first, because it also says where the log goes
            foreseen = isinstance(error, OperatorError | OSError)
            log.error("the reload failed, and what served before goes on: %s", error, exc_info=None if foreseen else error)
            if system is not None:
                system.close(self._serving.system)
            self._notifier.ready("the reload failed, and what served before goes on")
            return False
        self._enter(new)
        self._show_role("master", new.values)
        say_remarks(new.values)
        say_no_preload(new.values)
        before, self._server.cfg = self._server.cfg, Configuration(new.values)
        self._server.listens_on(new.listening)
        try:
            new.values["hooks"].require("on_reload", self._server)
        except OperatorError as error:
            self._server.cfg = before
            self._server.listens_on(self._serving.listening)
            self._enter(self._serving)
            new.close(self._serving)
            log.error("the reload failed, and what served before goes on: %s\n%s", error, error.detail.rstrip())
            self._notifier.ready("the reload failed, and what served before goes on")
            return False
        self._booting = new
        return True

    def reloaded(self, whole: bool) -> None:
        if whole and self._upgrading.say_ready(manual=self._newest.system.manual_upgrade):
            self._promote()
        self._notifier.ready("serving" if whole else "the reload failed, and what served before goes on")
        if self._booting is None:
            return  # the first generation
        given_up, served = (self._serving, self._booting) if whole else (self._booting, self._serving)
        self._serving, self._booting = served, None
        self._enter(served)
        self._server.cfg = Configuration(served.values)
        self._server.listens_on(served.listening)
        for each in given_up.only_here(served):
            log.info("no longer listening on %s", each.address)
        if whole:
            self._serve_beside(served.admin)
        given_up.close(served)

    def _enter(self, served: _Served) -> None:
        self._entered = served
        try:
            served.enter()
        except OSError as error:  # the folder does not exist any more, but the served application does not need it
            log.error("%s: %s", served.folder, error.strerror)

    def reopen_logs(self) -> None:
        for served in (self._serving, self._newest):
            served.system.give_logs()
        for each in {id(served.error_log): served.error_log for served in (self._serving, self._newest)}.values():
            each.reopen()
        if not self._stopping:  # no admin process starts then, and /readyz has to say that the service stops
            self._serve_beside(self._serving.admin)  # it writes to the error log too

    def upgrade(self) -> None:
        newest = self._newest
        hook = partial(newest.values["hooks"].require, "pre_exec", self._server)
        self._upgrading.start(newest.all_listening, hook, manual=newest.system.manual_upgrade)

    def watched(self) -> Mapping[int, Callable[[], bool]]:
        return self._upgrading.watched(self._promote)

    def _promote(self) -> None:
        """This master takes the place of the old one."""
        self._upgrading.promote(self._all_listening())
        for served in (self._serving, self._booting):
            if served is not None:
                served.system.promote()

    def _listening(self) -> list[Listening]:
        return [each for served in (self._serving, self._booting) if served is not None for each in served.listening]

    def _all_listening(self) -> list[Listening]:
        return [each for served in (self._serving, self._booting) if served is not None for each in served.all_listening]

    def stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            if not self._upgrading.leaves(self._all_listening()):
                self._notifier.stopping(self.settings.graceful_timeout + self.settings.kill_after + SPARE)
        for each in self._listening():
            each.close()

    @property
    def sign_interval(self) -> float | None:
        return self._notifier.watchdog

    def sign_of_life(self) -> None:
        self._notifier.alive()

    def end(self) -> None:
        """The master ends, and all its workers have ended."""
        self.stop()
        for served in (self._serving, self._booting):
            if served is not None:
                served.admin.close()
                served.system.close()
