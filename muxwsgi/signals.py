"""`Signals`: the signals that a server takes, from before anything is loaded until the end. Imports no gevent: a process without a hub can
use it.

They are taken first of all, because the process may be the first of a container. The kernel drops signals for such a one while it has no
handler for them, and a stop that is dropped is a stop after a timeout, by SIGKILL.

A Python handler runs between any two instructions: of a view, of the hub, of an import. So it does nothing but note the
signal and call `wake`. The caller of `perform` does later what the signal means. There is one exception. While an application is
loaded, nothing calls `perform`, and loading may last: then a signal that stops raises `StopRequested` where the program is.

gevent has signal handlers too (`gevent.signal_handler`). They need the hub, which does not run while modules are imported, and they end the
main greenlet where a handler raises anything.

A child that the application forks has two kinds of handlers to give up, and each is given up in one place. `Signals` gives up its own,
which are Python's; `wire/fork.py` gives up gevent's, in a child of a process that serves. Both block signals from before the fork until
they are done. Their hooks nest, whichever was registered first: each puts back the mask that it found. What a program has taken by
`signal.signal` stays taken in its children, as after any fork.
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

#: All that are taken. Those without an action do nothing: by default each of them kills or stops a process.
TAKEN = (*STOPPING, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU)


class StopRequested(KeyboardInterrupt):
    """A signal asked for a stop while the application was loaded. A `KeyboardInterrupt`, which `except Exception` lets pass."""


def may_be_ctrl_c(error: BaseException) -> bool:
    """Whether `error` may come from Python's default handler of SIGINT, which raises in any code that runs."""
    return isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Signals:
    """Takes signals, keeps them until they are acted on, and calls the action of each."""

    def __init__(self) -> None:
        self._actions: Mapping[int, Callable[[], None]] = {}
        self._pending: dict[int, None] = {}  # in the order in which they came; one that comes twice before it is acted on counts once
        self._wake: Callable[[], None] | None = None
        self._interrupting = False
        self._taken: list[int] = []
        self._over = False
        self._masks: list[set[int]] = []  # while a fork is under way

    def take(self, numbers: tuple[int, ...] = TAKEN) -> None:
        """Take them, in the main thread, also from an application that took one of them meanwhile. A child that is forked has them as any
        other program has. Raises `ValueError` in another thread."""
        for number in numbers:
            signal.signal(number, self._note)
        if not self._taken:
            os.register_at_fork(before=self._hold, after_in_parent=self._let_go, after_in_child=self._release_in_child)
        self._taken = list(numbers)

    def take_untouched(self, numbers: tuple[int, ...]) -> None:
        """Take those of `numbers` that are as Python has them at the start of a program, so that nobody else misses them. Outside of the
        main thread none is taken, because Python does not allow that there."""
        try:
            untouched = tuple(number for number in numbers if _is_untouched(number))
            if untouched:
                self.take(untouched)
        except ValueError:
            return

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let signals that stop raise `StopRequested` inside of it. One that came before raises it too, and at the end one that was caught
        inside."""
        self._interrupting = True
        try:
            self._check()
            yield
            self._check()
        finally:
            self._interrupting = False

    def act(self, actions: Mapping[int, Callable[[], None]], wake: Callable[[], None]) -> None:
        """From now on call `wake` for each signal, in the middle of any code. It has to arrange that `perform` is called."""
        self._actions = actions
        self._wake = wake
        if self._taken:
            self.take(tuple(self._taken))
        if self._pending:
            wake()

    def perform(self) -> None:
        """Do what the signals that came are for. Raises nothing: what goes wrong is logged."""
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
        """Those that have come and were not acted on. They are the caller's from then on."""
        noted = list(self._pending)
        self._pending.clear()
        return noted

    def end(self) -> None:
        """Nothing is served any more: from now on a signal that stops ends the process at once. What it waits for is the application's,
        such as its threads and the children of `multiprocessing`, and may last for ever."""
        self._wake = None
        self._over = True
        if os.getpid() == 1:
            return  # for the first process of a container the default is to do nothing
        for number in STOPPING:
            if signal.getsignal(number) == self._note:
                signal.signal(number, signal.SIG_DFL)  # it works also where no code of Python's runs any more

    def release(self) -> None:
        """Let them be what they are by default."""
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

    # A signal for a child that comes before it has its handlers back would be noted and never acted on. So it waits.

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
    """Whether nobody has taken `number`, in Python or by `gevent.signal_handler`, of which Python knows nothing. Raises `ValueError`
    outside of the main thread."""
    if number != signal.SIGINT:
        return signal.getsignal(number) is signal.SIG_DFL and not _in_kernel(number)
    if signal.getsignal(number) is not signal.default_int_handler:
        return False
    handler = _in_kernel(number)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    try:
        signal.signal(number, signal.default_int_handler)
        if _in_kernel(number) == handler:  # it was Python's before
            return True
        _put_back(number, handler)
        return False
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


# Without a C API (PyPy), Python's view counts.

_in_kernel: Callable[[int], int | None]
_put_back: Callable[[int, int | None], object]

if hasattr(ctypes, "pythonapi") and hasattr(ctypes.pythonapi, "PyOS_setsig"):
    _in_kernel = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_int)(("PyOS_getsig", ctypes.pythonapi))
    _put_back = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(("PyOS_setsig", ctypes.pythonapi))
else:
    _in_kernel = lambda number: None  # noqa: E731
    _put_back = lambda number, handler: None  # noqa: E731
