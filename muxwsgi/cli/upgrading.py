"""`Upgrading`: SIGUSR2 for the master of a command, on both sides: the master that it starts, and the one that has started it. No gevent.

`server/upgrade.py` explains the procedure.
"""

import logging
import os
import signal
from collections.abc import Callable, Iterable, Mapping

from muxwsgi.cli.system import PID_SUFFIX
from muxwsgi.errors import OperatorError
from muxwsgi.server.binds import Listening, place
from muxwsgi.server.handover_queue import HandoverQueue
from muxwsgi.server.notify import Notifier
from muxwsgi.server.page import SharedPage
from muxwsgi.server.passed import is_passed, passed_sockets
from muxwsgi.server.upgrade import Successor, inherited, start_successor
from muxwsgi.settings import ServerSettings

__all__ = ["Upgrading", "starting_folder"]

#: The backlog of sockets that a new master opens for further slots, before it has read its configuration.
BACKLOG = ServerSettings().backlog

log = logging.getLogger("muxwsgi.error")


class Upgrading:
    """The master's relation to an older and to a newer one.

    kept        the sockets that the older one has left
    promoted    whether this master owns the pid file and the unix sockets
    queue       through which its workers hand over connections, and to which those of an older master do
    """

    def __init__(self, folder: str, umask: int, notifier: Notifier, page: SharedPage) -> None:
        """`page` is of this master's workers. Raises `OperatorError`, and `OSError` if no descriptor is left."""
        self._page = page
        self._folder = folder
        self._umask = umask
        self._notifier = notifier
        self._before = inherited()
        self.queue = HandoverQueue(None if self._before is None else self._before.handover)
        self._successor: Successor | None = None
        self._successor_serves = False
        self._manual = False
        self._given_up: list[Listening] = []
        self.promoted = self._before is None
        try:
            self.kept = [] if self._before is None else [Listening.taken_over(where, fds, BACKLOG) for where, fds in self._before.sockets]
        except (OSError, ValueError, TypeError) as error:
            raise OperatorError(f"a socket of the old master cannot be used: {error}") from error

    @property
    def pid_suffix(self) -> str:
        """The end of the pid file's name."""
        return "" if self.promoted else PID_SUFFIX

    def opened(self, listening: Iterable[Listening]) -> None:
        """The sockets were opened at the start: those of the old master that are not among them are not used any more."""
        used = [each.socket for each in listening]
        self._given_up = [each for each in self.kept if each.socket not in used]
        self.kept = []

    # The new master

    def say_ready(self, *, manual: bool) -> bool:
        """The workers are ready. Returns whether this master is to be promoted now."""
        if self.promoted or self._before is None:
            return False
        self._before.say_ready(self._page.common_binds(), beside=manual)
        if manual:
            log.info("this master serves beside the old one, until that one is told to end")
            return False
        self._before.control.close()
        return True

    def promote(self, listening: Iterable[Listening]) -> None:
        """Own the unix sockets. Those that are not used any more are removed."""
        self.promoted = True
        self._before = None
        for each in (*listening, *self._given_up):
            try:
                each.adopt()
            except (OSError, OperatorError) as error:
                log.error("%s: its file does not belong to this master: %s", each.address, error)
        for each in self._given_up:
            log.info("no longer listening on %s", each.address)
            each.close()

    # The old master

    def start(self, listening: Iterable[Listening], before: Callable[[], None], *, manual: bool) -> None:
        """Start a new master, after `before`. Raises nothing: an error is logged, and this master goes on."""
        sockets = list(listening)
        if os.getpid() == 1:
            log.error("SIGUSR2: this is the first process of a container, which ends with it: replace the container instead")
        elif not self.promoted:
            log.error("SIGUSR2: the old master runs still")
        elif self._successor is not None:
            log.error("SIGUSR2: there is a new master already, with the process id %d", self._successor.pid)
        else:
            opened = [(place(each.bind), [one.fileno() for one in each.sockets]) for each in sockets if each.bind.fd is None]
            kept = [each.bind.fd for each in sockets if each.bind.fd is not None and not is_passed(each.bind.fd)]
            following = self.queue.following
            assert following is not None
            try:
                before()
                self._successor = start_successor(
                    opened,
                    [(each.fd, each.name) for each in passed_sockets()],
                    kept,
                    [each.fileno() for each in following.sockets],
                    folder=self._folder,
                    umask=self._umask,
                    environ={**os.environ, **self._notifier.variables},
                )
            except OperatorError as error:
                log.error("SIGUSR2: no new master is started: %s\n%s", error, error.detail.rstrip())
                return
            except OSError as error:
                log.error("SIGUSR2: no new master can be started: %s", error)
                return
            self._manual = manual
            log.info("a new master starts, with the process id %d", self._successor.pid)

    def leaves(self, listening: Iterable[Listening]) -> bool:
        """This master stops. Returns whether another one goes on with its sockets, and leaves their files to that one."""
        if self._successor is None:
            return False
        if not self._successor_serves and not self._manual and self._successor.hear() is not True:
            try:
                os.kill(self._successor.pid, signal.SIGTERM)  # the stop is meant for the service, and the new one does not serve yet
            except ProcessLookupError:
                pass
            return False
        for each in listening:
            each.disown()
        if not self._successor_serves:
            self._notifier.main_pid(self._successor.pid)
        return True

    # Both

    def watched(self, promote: Callable[[], None]) -> Mapping[int, Callable[[], bool]]:
        """As `Owner.watched`. `promote` is called if the old master has ended."""
        calls: dict[int, Callable[[], bool]] = {}
        if self._successor is not None and not self._successor_serves:
            calls[self._successor.control.fileno()] = self._successor_says
        if self._before is not None and not self.promoted:
            calls[self._before.control.fileno()] = lambda: self._old_has_ended(promote)
        return calls

    def _successor_says(self) -> bool:
        assert self._successor is not None
        said = self._successor.hear()
        self._page.followers = self._successor.binds if said is not False else ()
        if said:
            log.info("the new master serves, with the process id %d: this one ends", self._successor.pid)
            self._successor_serves = True
            self._notifier.main_pid(self._successor.pid)
        elif said is False:
            log.error("the new master, with the process id %d, has ended: this one goes on", self._successor.pid)
            self._successor.control.close()
            self._successor = None
        return bool(said)

    def _old_has_ended(self, promote: Callable[[], None]) -> bool:
        assert self._before is not None
        self._before.control.close()
        log.info("the old master has ended")
        promote()
        return False

    def close(self) -> None:
        """In a child of the master: close the ends of the masters' pairs, so that a master which ends is noticed. Close the sockets that
        nobody serves: a client could connect to them as long as a process has them."""
        for each in self._given_up:
            each.close()
        if self._successor is not None:
            self._successor.control.close()
        if self._before is not None:
            self._before.control.close()


def starting_folder() -> str:
    """The working folder as the shell knows it (PWD), so that a link in it that is changed leads to the new folder at a reload."""
    known = os.environ.get("PWD", "")
    try:
        if os.path.isabs(known) and os.path.samefile(known, "."):
            return known
    except OSError:
        pass
    return os.getcwd()
