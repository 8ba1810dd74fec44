"""The pump behind `Connection.as_socket()`: a socketpair, and a greenlet for each way between it and the connection.

The connection's limits (deadline, idle timeout, drain) hold through it, because the pump waits on the connection itself. How the
application learns what ended the connection: see `StreamSocket`.

`finish` goes on sending the last bytes for as long as the peer takes them, as the kernel does for a socket that was closed. If the peer
stops reading, the connection ends in a reset, because a clean end would mean that all was sent.
"""

import contextlib
import socket as socket_module
from time import monotonic
from typing import TYPE_CHECKING

import gevent

from muxwsgi.wire.copies import BLOCK
from muxwsgi.wire.fork import leave_to_parent
from muxwsgi.wire.given import StreamSocket
from muxwsgi.wire.syscalls import kind_of
from muxwsgi.wire.transport import SocketTransport

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["Pump", "start_pump"]

#: Seconds without a byte that the peer took, after which the rest is given up. As `send_timeout` of nginx.
STALLED = 60.0

#: Seconds that a connection which the server cuts has for what is on its way already.
CUT = 0.2

#: Seconds between two looks at what the peer took.
INTERVAL = 1.0


class Pump:
    """Copies the bytes of `connection` to and from `far`, with half-close both ways.

    failure     the error that ended the connection; None for a regular end, and before the end
    torn        not all bytes of the application reach the peer, so the connection ends in a reset
    """

    __slots__ = ("__weakref__", "_connection", "_far", "_inward", "_outward", "failure", "torn")

    def __init__(self, connection: "Connection", far: SocketTransport) -> None:
        self._connection = connection
        self._far = far
        self.torn = False
        self.failure: OSError | None = None
        leave_to_parent(self)  # a copy in a child would hide from the other end that this one was closed
        self._inward = gevent.spawn(self._carry_in)
        self._outward = gevent.spawn(self._carry_out)

    def _carry_in(self) -> None:
        connection, far = self._connection, self._far
        while True:
            try:
                data = connection.recv(BLOCK)
            except OSError as error:
                self.failure = self.failure or error
                data = b""
            try:
                if not data:
                    far.shutdown(socket_module.SHUT_WR, None)
                    return
                far.sendall(data, None)
            except OSError:  # the near end is closed: what comes is dropped, so that it causes no reset before the last bytes are sent
                with contextlib.suppress(OSError):
                    while connection.recv(BLOCK):
                        pass
                return

    def _carry_out(self) -> None:
        connection, far = self._connection, self._far
        while True:
            try:
                data = far.recv(BLOCK, None)
            except OSError:  # the near end was closed with unread bytes in it
                data = b""
            try:
                if not data:
                    if not connection.lifeline.reset_at_close:  # otherwise the application has not sent all its data
                        connection.shutdown(socket_module.SHUT_WR)
                    return
                connection.sendall(data)
            except OSError as error:
                self.failure = self.failure or error
                with contextlib.suppress(OSError):
                    far.shutdown(socket_module.SHUT_RDWR, None)
                self.torn |= bool(data)
                return

    def finish(self, cut: bool = False) -> None:
        """Send what the application wrote, for as long as the peer takes it, and end both greenlets.

        What it writes from now on fails with EPIPE, in every process that has the socket. With `cut` the server waits no longer, and the
        end is a reset. The connection is aborted where bytes are left over, and open otherwise.
        """
        complete = False
        if cut:
            self._connection.lifeline.reset_at_close = True
        try:
            with contextlib.suppress(OSError):
                self._far.shutdown(socket_module.SHUT_RD, None)
            complete = not self.torn and self._drained(CUT if cut else STALLED) and not self.torn
        finally:
            gevent.killall([self._outward, self._inward], block=complete)
            self._far.close()
            if not complete:
                self._connection.abort()

    def forsake(self) -> None:
        """In a forked child: close the child's copy of the far end."""
        self._far.close()

    def _drained(self, patience: float) -> bool:
        """Wait for the last byte. Whether it went out before the peer took nothing for `patience` seconds."""
        taken, since = -1, monotonic()
        while not self._outward.ready():
            self._outward.join(min(INTERVAL, patience))
            now = monotonic()
            if taken != (taken := self._connection.lifeline.taken_by_peer()):
                since = now
            elif now - since >= patience:
                return False
        return True


def start_pump(connection: "Connection") -> tuple[Pump, StreamSocket]:
    """A pump for `connection`, and the socket that has its bytes from now on."""
    near, far = socket_module.socketpair()
    far.setblocking(False)
    kind = kind_of(far)
    pump = Pump(connection, SocketTransport(far.detach(), kind))
    # A child of the application may have the near end: `subprocess` gives it to one, and it would be closed before the exec. That a copy
    # is left somewhere hides no end from the pump: `finish` does not wait for one.
    return pump, StreamSocket.over(near, connection, pump)
