"""`Signals`: the signals that a server handles, from before anything is loaded until the end. Imports no gevent, so a process without a hub
can use it.

Signals are taken before anything else, because the process may be the first of a container. The kernel drops signals for such a process
while it has no handler for them. If a stop signal is dropped, the container runtime waits for its timeout and then sends SIGKILL.

A Python handler runs between any two instructions: of a view, of the hub, of an import. So it only notes the signal and calls `wake`.
Later, `perform` calls the signal's action. There is one exception. While an application is loaded, nothing calls `perform`, and loading may
take long. So during loading, a signal that stops raises `StopRequested` in the running code.

gevent's signal handlers (`gevent.signal_handler`) are not used. They need the hub, which does not run while modules are imported, and they
end the main greenlet if a handler raises.

A child that the application forks must give up two kinds of handlers. `Signals` gives up its Python handlers. `wire/fork.py` gives up
gevent's handlers, in a child of a process that serves. Both block signals from before the fork until they are done. Their hooks may run in
any order, because each restores the mask that it found. Handlers that a program has set with `signal.signal` stay in its children, as after
any fork.
"""

import ctypes
import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

__all__ = ["STOPPING", "TAKEN", "Signals", "StopRequested", "may_be_ctrl_c"]

log = logging.getLogger("muxwsgi.error")

#: Signals that end the process.
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)

#: All signals that are taken. Signals without an action do nothing. By default each of these signals kills or stops a process.
TAKEN = (*STOPPING, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU)


class StopRequested(KeyboardInterrupt):
    """A signal asked for a stop while the application was loaded. It is a `KeyboardInterrupt`, so `except Exception` does not catch it."""


def may_be_ctrl_c(error: BaseException) -> bool:
    """Whether `error` may come from Python's default handler of SIGINT, which raises in any code that runs."""
    return isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Signals:
    """Takes signals, notes them, and later calls the action of each."""

    def __init__(self) -> None:
        self._actions: Mapping[int, Callable[[], None]] = {}
        self._pending: dict[int, None] = {}  # in the order in which they came; a signal that comes twice before its action counts once
        self._wake: Callable[[], None] | None = None
        self._interrupting = False
        self._taken: list[int] = []
        self._over = False
        self._masks: list[set[int]] = []  # while a fork is under way

    def take(self, numbers: tuple[int, ...] = TAKEN) -> None:
        """Take the signals, in the main thread. Handlers that an application has set meanwhile are replaced. A forked child has Python's
        initial handlers. Raises `ValueError` in another thread."""
        for number in numbers:
            signal.signal(number, self._note)
        if not self._taken:
            os.register_at_fork(before=self._hold, after_in_parent=self._let_go, after_in_child=self._release_in_child)
        self._taken = list(numbers)

    def take_untouched(self, numbers: tuple[int, ...]) -> None:
        """Take only those of `numbers` that still have Python's initial handlers, so that no handler of the program is replaced. Outside of
        the main thread none is taken, because Python does not allow it there."""
        try:
            untouched = tuple(number for number in numbers if _is_untouched(number))
            if untouched:
                self.take(untouched)
        except ValueError:
            return

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Inside of this context, signals that stop raise `StopRequested`. A signal that came before raises it at the beginning. If code
        inside catches the exception, it is raised again at the end."""
        self._interrupting = True
        try:
            self._check()
            yield
            self._check()
        finally:
            self._interrupting = False

    def act(self, actions: Mapping[int, Callable[[], None]], wake: Callable[[], None]) -> None:
        """From now on call `wake` for each signal, in the middle of any code. `wake` must arrange that `perform` is called."""
        self._actions = actions
        self._wake = wake
        if self._taken:
            self.take(tuple(self._taken))
        if self._pending:
            wake()

    def perform(self) -> None:
        """Call the actions of the noted signals. Raises nothing: errors are logged."""
        while self._pending:
            number = next(iter(self._pending))
            del self._pending[number]
            action = self._actions.get(number)
            name = signal.Signals(number).name
            if action is None:
                log.info("%s: there is nothing to do for it", name)
                continue
            try:
                action()
            except Exception:
                log.exception("%s: what it is for went wrong", name)

    def noted(self) -> list[int]:
        """The noted signals without an action so far. They are removed, so the caller must handle them."""
        noted = list(self._pending)
        self._pending.clear()
        return noted

    def end(self) -> None:
        """Serving has ended: from now on a signal that stops ends the process at once. The process may wait without limit for the
        application's threads and for the children of `multiprocessing`."""
        self._wake = None
        self._over = True
        if os.getpid() == 1:
            return  # in the first process of a container, the default action does nothing
        for number in STOPPING:
            if signal.getsignal(number) == self._note:
                signal.signal(number, signal.SIG_DFL)  # it works also if no Python code runs any more

    def release(self) -> None:
        """Restore Python's initial handlers."""
        for number in self._taken:
            if signal.getsignal(number) == self._note:
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        self._taken = []

    def _check(self) -> None:
        if any(number in self._pending for number in STOPPING):
            raise StopRequested

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._over and number in STOPPING:
            os._exit(128 + number)
        self._pending[number] = None
        if self._interrupting and number in STOPPING:
            raise StopRequested
        if self._wake is not None:
            self._wake()

    # Before a child has its old handlers back, a signal would be noted and never handled. So signals are blocked until then.

    def _hold(self) -> None:
        if self._taken:
            self._masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, self._taken))

    def _let_go(self) -> None:
        if self._masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.pop())

    def _release_in_child(self) -> None:
        self._pending.clear()
        self._wake = None
        self._interrupting = self._over = False
        self.release()
        self._let_go()


def _is_untouched(number: int) -> bool:
    """Whether `number` still has its initial handler. Handlers of `gevent.signal_handler` count too, although Python does not know them.
    Raises `ValueError` outside of the main thread."""
    if number != signal.SIGINT:
        return signal.getsignal(number) is signal.SIG_DFL and not _in_kernel(number)
    if signal.getsignal(number) is not signal.default_int_handler:
        return False
    handler = _in_kernel(number)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    try:
        signal.signal(number, signal.default_int_handler)
        if _in_kernel(number) == handler:  # Python's handler was set before
            return True
        _put_back(number, handler)
        return False
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


# Without a C API (PyPy), only Python's handlers are known.

_in_kernel: Callable[[int], int | None]
_put_back: Callable[[int, int | None], object]

if hasattr(ctypes, "pythonapi") and hasattr(ctypes.pythonapi, "PyOS_setsig"):
    _in_kernel = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_int)(("PyOS_getsig", ctypes.pythonapi))
    _put_back = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(("PyOS_setsig", ctypes.pythonapi))
else:
    _in_kernel = lambda number: None  # noqa: E731
    _put_back = lambda number, handler: None  # noqa: E731
