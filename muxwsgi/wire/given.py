"""Sockets that a `Connection` gives away."""

import _socket

import gevent.socket

__all__ = ["KeptSocket"]


class KeptSocket(gevent.socket.socket):  # type: ignore[misc]  # mypy is not shown its type
    """A socket whose descriptor may have another owner by now: `close()` closes it, garbage collection does not."""

    def __del__(self) -> None:
        if not self._closed:
            _socket.socket.detach(self._sock)
