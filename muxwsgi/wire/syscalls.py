"""System calls on non-blocking descriptors, and the clocks. Plain Python uses Python's functions, and the compiled build calls libc.

A socket's methods parse a tuple, release the GIL for a call that never waits, and allocate the largest possible buffer. This costs as many
instructions as parsing a request head. `syscalls.pxd` has the compiled half. Each function raises the errors of the socket method, with one
exception: if nothing is there to be received, the compiled half returns a value, because raising an error costs as much as the call.
"""

import errno
import os
import socket as socket_module
import time
from collections.abc import Callable
from typing import Any

from muxwsgi.wire.plain_socket import close_now

__all__ = [
    "Kind",
    "accept_one",
    "check_descriptor",
    "clock",
    "close_descriptor",
    "kind_of",
    "peek",
    "receive",
    "receive_into",
    "second",
    "transmit",
    "transmit_two",
]

Buffer = bytes | bytearray | memoryview

#: Family, type and protocol of a socket, as numbers. The attributes of a socket make an enum member at each access.
Kind = tuple[int, int, int]


def kind_of(sock: socket_module.socket) -> Kind:
    """The `Kind` of `sock`."""
    return int(sock.family), int(sock.type), sock.proto


def receive(fd: int, n: int) -> bytes | None:
    """recv(2): up to `n` bytes, b"" at the end of the stream. If nothing is there, the compiled build returns None, and plain Python raises
    `BlockingIOError`."""
    return _recv(fd, n)  # type: ignore[name-defined, no-any-return]  # noqa: F821


def receive_into(fd: int, view: memoryview) -> int:
    """As `receive`, into `view`, which is not empty; the number of bytes, -1 for None."""
    return _recv_into(fd, view)  # type: ignore[name-defined, no-any-return]  # noqa: F821


def peek(fd: int, n: int, socket: Callable[[], socket_module.socket]) -> bytes | None:
    """As `receive`, and leaves the bytes in the kernel. `socket` returns the socket of `fd`, which plain Python needs."""
    return _peek(fd, n, socket)  # type: ignore[name-defined, no-any-return]  # noqa: F821


def transmit(fd: int, data: Buffer) -> int:
    """send(2): send as much of `data` as there is room for, and return the number of bytes."""
    return _send(fd, data)  # type: ignore[name-defined, no-any-return]  # noqa: F821


def transmit_two(fd: int, head: bytes, data: bytes) -> int:
    """writev(2): as `transmit`, of `head` and then `data`."""
    return _send_two(fd, head, data)  # type: ignore[name-defined, no-any-return]  # noqa: F821


def accept_one(listening: socket_module.socket, family: int) -> tuple[int, Any] | None:
    """accept(2): a descriptor that does not block and is not inherited, and the peer's address; None if the queue is empty."""
    return _accept(listening, family)  # type: ignore[name-defined, no-any-return]  # noqa: F821


def close_descriptor(fd: int) -> None:
    """close(2). Raises nothing if the peer has reset the connection."""
    _close(fd)  # type: ignore[name-defined]  # noqa: F821


def check_descriptor(fd: int) -> None:
    """Raises `OSError` (EBADF) if `fd` is not open."""
    _check_descriptor(fd)  # type: ignore[name-defined]  # noqa: F821


def clock() -> float:
    """As `time.monotonic()`, in seconds."""
    return _clock()  # type: ignore[name-defined, no-any-return]  # noqa: F821


def second() -> int:
    """The whole seconds of `time.time()`."""
    return _second()  # type: ignore[name-defined, no-any-return]  # noqa: F821


def accept_by_python(listening: socket_module.socket) -> tuple[int, Any] | None:
    """`accept_one` for every family. `socket._accept` does not make a socket object, which the public method does."""
    try:
        try:
            fd, address = listening._accept()  # type: ignore[attr-defined]
        except AttributeError:
            sock, address = listening.accept()
            fd = sock.detach()
    except BlockingIOError:
        return None
    os.set_blocking(fd, False)
    return fd, address


def _close_by_python(fd: int) -> None:
    try:
        close_now(fd)
    except OSError as error:
        if error.errno != errno.ECONNRESET:
            raise


# In the compiled build these names are C functions, and the compiler refuses an assignment to one. So `globals()` sets them here.
globals().update(
    _recv=os.read,
    _recv_into=lambda fd, view: os.readv(fd, [view]),
    _peek=lambda fd, n, socket: socket().recv(n, socket_module.MSG_PEEK),
    _send=os.write,
    _send_two=lambda fd, head, data: os.writev(fd, [head, data]),
    _accept=lambda listening, family: accept_by_python(listening),
    _close=_close_by_python,
    _check_descriptor=os.fstat,
    _clock=time.monotonic,
    _second=lambda: int(time.time()),
)
