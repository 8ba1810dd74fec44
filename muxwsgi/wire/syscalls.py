"""recv(2) and send(2) on a socket that is not blocking, and the clocks: by Python's functions in plain Python, by libc itself in the
compiled build.

A socket's methods parse a tuple, release the GIL for a call that never waits, and make room for everything that might have come: together
as many instructions as a request head takes. `syscalls.pxd` has the other half.
"""

import socket as socket_module
import time

__all__ = ["clock", "receive", "second", "transmit"]

Buffer = bytes | bytearray | memoryview


def receive(sock: socket_module.socket, n: int) -> bytes:
    """Up to `n` bytes, b"" at the end of the stream. Raises what `sock.recv` does."""
    return _recv(sock, n)  # type: ignore[name-defined, no-any-return]  # noqa: F821


def transmit(sock: socket_module.socket, data: Buffer) -> int:
    """Send as much of `data` as there is room for; how much. Raises what `sock.send` does."""
    return _send(sock, data)  # type: ignore[name-defined, no-any-return]  # noqa: F821


def clock() -> float:
    """As `time.monotonic()`, in seconds."""
    return _clock()  # type: ignore[name-defined, no-any-return]  # noqa: F821


def second() -> int:
    """The whole seconds of `time.time()`."""
    return _second()  # type: ignore[name-defined, no-any-return]  # noqa: F821


# In the compiled build these names are C functions, and an assignment to one would be an error: hence by this way around.
globals().update(
    _recv=lambda sock, n: sock.recv(n),
    _send=lambda sock, data: sock.send(data),
    _clock=time.monotonic,
    _second=lambda: int(time.time()),
)
