"""Processes that an application forks from the one that serves: `os.fork`, and `multiprocessing` by its "fork" method.

A fork copies the whole process: listening sockets, connections, the event loop and every greenlet on it. If the copy went on, clients
would get their bytes twice, and a view that sleeps in another greenlet would wake up and write to its database in both processes. A program
with threads does not have this: of all threads, only the one that forks lives in the child. Here the same holds for greenlets.

A child of a serving process differs from a plain fork:

1. Only the greenlet that forks goes on. The child gets a new hub and a new loop. Greenlets that wait on the old loop never run again.
2. Listening sockets and connections are closed, and nothing is sent: no close_notify, no reset. Using one raises `OSError` (EBADF).
3. Signals with a handler of `gevent.signal_handler` get their defaults again. `muxwsgi.signals` does the same for those of the server. All
   signals are blocked from before the fork until then, because one that comes in between would be lost.
4. When the greenlet that forks ends, the process ends, as with a thread. The result of a view in the child is dropped.

This applies to a process that serves (`serving`). A process that has only imported the library, or has not started its `Server`, forks as
any other process does. So a master may fork.

gevent's `subprocess` forks in Python, so this applies to its children until the exec. `os.posix_spawn` and `multiprocessing`'s other start
methods fork in C, where no handler of Python runs, and the exec closes the descriptors.
"""

import errno
import gc
import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Iterable
from typing import Any, Protocol
from weakref import WeakSet

import gevent
import gevent.socket
from gevent import get_hub, getcurrent
from gevent.exceptions import LoopExit
from gevent.hub import Hub
from greenlet import greenlet

from muxwsgi.wire.abandoned_hub import abandon, refuse_others
from muxwsgi.wire.plain_socket import PlainSocket, close_now

__all__ = ["REASON", "Inherited", "end_child", "is_child", "leave_to_parent", "serving", "stopped_serving"]

log = logging.getLogger("muxwsgi.error")

#: The text of the error that an inherited connection raises when it is used.
REASON = "the connection belongs to the process that this one was forked from"


class Inherited(Protocol):
    """An object that a child inherits and must give up."""

    def forsake(self) -> None:
        """Called in the child. Give up descriptors and data that waits to be written. It sends nothing, and neither waits nor switches."""


_inherited: WeakSet[Any] = WeakSet()
_serving: WeakSet[Any] = WeakSet()
_old_masks: list[set[int]] = []  # while a fork is under way
_hubs: WeakSet[Hub] = WeakSet()  # of the threads that serve
_installed = False
_is_child = False


def is_child() -> bool:
    """Whether this process was forked from one that served."""
    return _is_child


def leave_to_parent(thing: "Inherited | socket.socket") -> None:
    """Let children give up `thing`, which is kept by a weak reference. A socket is closed, without a shutdown."""
    _inherited.add(thing)


def serving(server: object) -> None:
    """`server` serves from now on, so processes that are forked are children as above. A child that calls this serves by itself."""
    global _installed, _is_child
    _is_child = False
    if not _installed:
        os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
        _installed = True
    _serving.add(server)
    _hubs.add(get_hub())


def stopped_serving(server: object) -> None:
    """The reverse of `serving`."""
    _serving.discard(server)


def end_child(error: BaseException | None) -> None:
    """In a child, end the process. `error` is the exception that ended the forking greenlet. `SystemExit` has the status. For other
    exceptions the status is 1, and a traceback goes to standard error. Does nothing in any other process.

    The interpreter is not finalized, because its `atexit` functions and greenlets belong to the parent.
    """
    if _is_child:
        _exit(error)


def _exit(error: BaseException | None) -> None:
    status = 0
    try:
        if isinstance(error, SystemExit):
            if isinstance(error.code, int):
                status = error.code
            elif error.code is not None:
                print(error.code, file=sys.stderr)
                status = 1
        elif isinstance(error, OSError) and error.errno == errno.EBADF and error.strerror == REASON:
            pass  # the view has returned in the child, and its response belongs to the parent
        elif isinstance(error, LoopExit):
            print("a forked process ends, because it waits for a greenlet of its parent", file=sys.stderr)
            status = 1
        elif error is not None and not isinstance(error, gevent.GreenletExit):
            traceback.print_exception(error)
            status = 1
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    finally:
        os._exit(status & 0xFF)


# At the fork

def _before() -> None:
    if _serving:
        hub = _hub_here()
        if hub is not None and hub.loop.default:
            # gevent does it after the first fork. A child that has ended by then would not be seen, and waiting for it would never end.
            hub.loop.install_sigchld()
        _old_masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()))


def _after_in_parent() -> None:
    if _old_masks:
        signal.pthread_sigmask(signal.SIG_SETMASK, _old_masks.pop())


def _after_in_child() -> None:
    global _is_child
    mask = _old_masks.pop() if _old_masks else None
    _old_masks.clear()
    if not _serving:
        return
    _is_child = True
    _serving.clear()
    if not _before_exec():
        _forsake_all(list(_inherited))
        _inherited.clear()
    _reset_signals()
    try:
        _leave_hub()
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _before_exec() -> bool:
    """Whether gevent's `subprocess` forks. Its child runs a few lines up to the exec, which closes all descriptors. To go through all
    connections before would take 0.3 s with 10,000 of them, for each command that a view runs."""
    frame = sys._getframe(2)
    for _ in range(8):
        if frame.f_globals.get("__name__") == "gevent.subprocess":
            return True
        if frame.f_back is None:
            break
        frame = frame.f_back
    return False


def _forsake_all(things: Iterable[Any]) -> None:
    for thing in things:
        try:
            if isinstance(thing, PlainSocket | gevent.socket.socket):
                _close_quietly(thing)
            else:
                thing.forsake()
        except Exception:  # the others still have to be given up
            log.exception("a child process could not give up %r", thing)


def _close_quietly(sock: socket.socket) -> None:
    fd = sock.detach()
    if fd >= 0:
        close_now(fd)


def _reset_signals() -> None:
    """Remove the handlers that run on the old loop, which never runs again. Those of Python (as in `Signals`) stay."""
    if getattr(gevent.signal_handler, "greenlet_class", gevent.Greenlet) is None:
        return  # gevent sets it with the first handler, so there is none
    for each in gc.get_referrers(gevent.signal_handler):  # 4 ms for 50,000 objects; gevent keeps no list of them
        if type(each) is gevent.signal_handler:
            each.cancel()  # libev puts the default back
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave_hub() -> None:
    """Give the child a new hub, and let only the greenlet that forks run."""
    current = getcurrent()
    root = _root(current)
    hub = _hub_here()
    _hubs.clear()
    if hub is None:  # forked by a thread that does not serve; the thread with the loop and its greenlets does not exist in the child
        return
    end = greenlet(_end, root)
    if current is hub:
        # A callback of the loop forks, and the loop's C frames are below this one. The loop has to stay, and ends with the callback.
        end.switch(current)
        hub.parent = end
        hub.loop.run_callback(_exit, None)
        return
    top = current
    while top.parent is not None and top.parent is not hub:
        top = top.parent
    own = abandon(hub)
    own.parent = end
    if isinstance(top, gevent.Greenlet):
        top.parent = own  # it reports its errors there
        top.rawlink(_end_with)
    elif top is not root:
        top.parent = end
    end.switch(current)
    refuse_others()


def _hub_here() -> Hub | None:
    """The hub of this thread, if it serves."""
    root = _root(getcurrent())
    return next((hub for hub in _hubs if _root(hub) is root), None)


def _root(of: greenlet) -> greenlet:
    """The greenlet that its thread began with."""
    while of.parent is not None:
        of = of.parent
    return of


def _end(forking: greenlet) -> None:
    """The lowest greenlet of a child. A result or an exception that arrives here ends the process."""
    error: BaseException | None = None
    try:
        forking.switch()
    except BaseException as ended_by:
        error = ended_by
    _exit(error)


def _end_with(ended: "gevent.Greenlet[..., Any]") -> None:
    """The same for a `gevent.Greenlet`, which has reported its error."""
    _exit(None if ended.exception is None else ended.exception if isinstance(ended.exception, SystemExit) else SystemExit(1))
