"""The pump behind `Connection.as_socket()`: a socketpair, and a greenlet for each way between it and a stream without a descriptor."""

import contextlib
import socket as socket_module

import gevent
import gevent.socket

from muxwsgi.wire.fork import leave_to_parent
from muxwsgi.wire.relay import BLOCK, Stream

__all__ = ["Pump"]

#: Seconds that the end of the stream waits for bytes that the application has written and the pump has not passed on.
GRACE = 2.0


class Pump:
    """Carries the bytes of `stream` to and from `near`, a real socket, with half-close both ways.

    An error on the stream is the end of `near`: a socketpair has no way to tell more.
    """

    __slots__ = ("_far", "_inward", "_outward", "near")

    def __init__(self, stream: Stream) -> None:
        self.near, self._far = gevent.socket.socketpair()
        leave_to_parent(self.near)  # a copy in a child would hide from the other end that this one was closed
        leave_to_parent(self._far)
        self._inward = gevent.spawn(self._carry, stream, self._far)
        self._outward = gevent.spawn(self._carry, self._far, stream)

    def _carry(self, source: Stream, target: Stream) -> None:
        try:
            while data := source.recv(BLOCK):
                target.sendall(data)
            target.shutdown(socket_module.SHUT_WR)
        except OSError:
            with contextlib.suppress(OSError):
                self._far.shutdown(socket_module.SHUT_RDWR)

    def finish(self) -> None:
        """Let what the application wrote reach the stream, within `GRACE` seconds, and end both greenlets."""
        self._outward.join(GRACE)
        gevent.killall([self._outward, self._inward])
        self._far.close()
