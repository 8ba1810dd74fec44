"""`multiprocessing` in a process of greenlets: a greenlet that waits for another process lets the others run.

Pipes are read and written by `os.read` and `os.write`, and locks are semaphores of the kernel. gevent leaves both as they are, so one
greenlet that waits for a `Queue` stops all of them. `multiprocessing.Pool` waits so in a separate thread, which is a greenlet: nothing
would run any more. And a duplex `Pipe` is a pair of gevent's sockets, which do not block, in an object that believes they do.
"""

import os
from time import monotonic
from typing import Any

__all__ = ["patch_connections", "patch_multiprocessing", "patch_semaphores"]

#: A pipe that is writable takes so many bytes without blocking (PIPE_BUF, pipe(7)).
ATOMIC = 4096

#: Seconds between two looks at a semaphore that another process holds: the first, and the most.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.0005, 0.01


def patch_multiprocessing() -> None:
    """Make connections, queues, pools and locks wait in gevent's hub. Idempotent.

    The methods are private to `multiprocessing`: where one of them is gone, that part blocks as it does without us, and a test fails.
    """
    patch_connections()
    try:
        patch_semaphores()
    except ImportError:  # a machine without semaphores
        return


def patch_connections() -> None:
    """The part of `patch_multiprocessing` for `multiprocessing.connection`."""
    from multiprocessing.connection import Connection

    if not getattr(Connection, "_muxwsgi", False) and all(hasattr(Connection, name) for name in ("_recv", "_send")):
        _patch_connection(Connection)


def patch_semaphores() -> None:
    """The part of `patch_multiprocessing` for `multiprocessing.synchronize`."""
    from multiprocessing.synchronize import SemLock

    if not getattr(SemLock, "_muxwsgi", False) and hasattr(SemLock, "_make_methods"):
        _patch_semaphore(SemLock)


def _patch_connection(connection: Any) -> None:
    begin, receive, send = connection.__init__, connection._recv, connection._send

    def begin_blocking(self: Any, handle: int, readable: bool = True, writable: bool = True) -> None:
        begin(self, handle, readable, writable)
        os.set_blocking(handle, True)  # the other end may be a process that is not patched

    connection.__init__ = begin_blocking
    connection._recv = lambda self, size: receive(self, size, _read)
    connection._send = lambda self, data: send(self, data, _write)
    connection._muxwsgi = True


def _patch_semaphore(semaphore: Any) -> None:
    make_methods = semaphore._make_methods

    def make_waiting_methods(self: Any) -> None:
        make_methods(self)
        kernels = self.acquire

        def acquire(block: bool = True, timeout: float | None = None) -> bool:
            return _acquire(kernels, block, timeout)

        self.acquire = acquire

    semaphore._make_methods = make_waiting_methods
    semaphore.__enter__ = lambda self: self.acquire()
    semaphore._muxwsgi = True


def _can_wait() -> bool:
    from gevent import get_hub, getcurrent

    return getcurrent() is not get_hub()


def _ready(fd: int, *, to_write: bool = False) -> None:
    """Wait until `fd` can be read or written."""
    import select

    from gevent.monkey import get_original
    from gevent.socket import wait_read, wait_write

    poll = get_original("select", "poll")()
    poll.register(fd, select.POLLOUT if to_write else select.POLLIN)
    if not poll.poll(0) and _can_wait():
        (wait_write if to_write else wait_read)(fd)


def _read(fd: int, size: int) -> bytes:
    _ready(fd)
    return os.read(fd, size)


def _write(fd: int, data: Any) -> int:
    _ready(fd, to_write=True)
    return os.write(fd, data[:ATOMIC])


def _acquire(kernels: Any, block: bool, timeout: float | None) -> bool:
    """As `SemLock.acquire`, by looking again and again."""
    if kernels(False):
        return True
    if not block:
        return False
    if not _can_wait():
        return bool(kernels(True, timeout))
    from gevent import sleep

    give_up = None if timeout is None else monotonic() + timeout
    pause = SHORTEST_PAUSE
    while True:
        if give_up is not None:
            left = give_up - monotonic()
            if left <= 0:
                return False
            pause = min(pause, left)
        sleep(pause)
        if kernels(False):
            return True
        pause = min(2 * pause, LONGEST_PAUSE)
