"""`Connection`: the stream that every handler receives. It has the methods of a socket, read-ahead, and facts about the peer.

This file has the methods that protocol code calls. The code of the rarer ones is in other files: see the imports. The transports move the
bytes. `ready.py` and `lifeline.py` end waits. This package does not interpret bytes.

The states of a connection
--------------------------

    in use -> closed
      |-----> detached: the socket is the caller's
      |-----> below another: `start_tls` has made a connection on top of it
      |-----> pumped: `as_socket` has made a socket, and two greenlets carry the bytes

in use          One greenlet may read while another writes. `_ahead` holds bytes that were read and not consumed. They are read first.
closed          The transport is a `ClosedTransport`: every use raises EBADF with the reason. In the states `detached` and `below another`
                the transport is also a `ClosedTransport`. So nothing is sent in clear after the TLS handshake.
pumped          The connection stays open, and its limits hold. The pump's two greenlets are its reader and its writer.

Every change of state keeps the read-ahead: **bytes that were read and not consumed stay with the stream.** TLS begins with them, `detach`
returns them, and the pump sends them first. `fileno` raises while there are any.

All layers of a descriptor share one `Lifeline`, whose `top` is the outermost connection. `finish` closes the outermost connection, also if
it is called on an inner one. If the stream is incomplete, the connection ends with a reset (`reset_at_close`), so that the peer can tell.

The file is long because a compiled class is in one file. A base class for a part of it would cost each connection 600 instructions.
"""

import errno
import itertools
import os
import socket as socket_module
import warnings
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, cast

import gevent.socket
from gevent.event import Event

from muxwsgi.events import tell
from muxwsgi.wire.ending import MANY_BYTES, NO_LINGER, RESET, cut, limit_unread, prepare_reset
from muxwsgi.wire.extras import ConnectionLog, Extras
from muxwsgi.wire.files import make_file, send_file
from muxwsgi.wire.flags import OTHER_SEND_FLAGS, SEND_FLAGS, recv_as, send_as
from muxwsgi.wire.fork import REASON, leave_to_parent
from muxwsgi.wire.given import StreamSocket
from muxwsgi.wire.layers import detach
from muxwsgi.wire.lifeline import Lifeline
from muxwsgi.wire.pump import start_pump
from muxwsgi.wire.ready import unacknowledged
from muxwsgi.wire.syscalls import Kind, close_descriptor, kind_of
from muxwsgi.wire.tls.transport import encrypts
from muxwsgi.wire.transport import CUT_GRACE, Buffer, ClosedTransport, SocketTransport, Transport, sent_before
from muxwsgi.wire.vocabulary import as_dict, in_der

if TYPE_CHECKING:
    from muxwsgi.wire.proxy_header import ProxyHeader
    from muxwsgi.wire.tls.client_context import ClientContext
    from muxwsgi.wire.tls.info import TLSInfo
    from muxwsgi.wire.tls.server_context import ServerSide

__all__ = ["Address", "Connection", "number_connections"]

#: (host, port[, flow, scope]) of TCP, or the path of a unix socket ("" when unnamed).
Address = tuple[Any, ...] | str

_AF_INET6 = int(socket_module.AF_INET6)


def _in_ipv4(address: Address) -> Address:
    """`address`, and an IPv4-mapped one as IPv4. A socket that serves both families gives IPv4 peers as IPv4-mapped addresses. Only IPv4
    peers have them: the kernel drops IPv6 packets that come from an IPv4-mapped address."""
    host = address[0] if isinstance(address, tuple) else ""
    if host.startswith("::ffff:") and "." in host:
        return (host.removeprefix("::ffff:"), address[1])
    return address


#: Bytes that one read of the read-ahead asks for. Read-ahead is used for first bytes, which are few.
READ_AHEAD = 16384

_ids: Iterator[int] = itertools.count(1)


def number_connections(numbers: Iterator[int]) -> None:
    """Take the numbers of accepted connections from there, so that several processes give each number once."""
    global _ids
    _ids = numbers


class Connection:
    """A byte stream to one peer, with the methods of a socket.

    It differs from a socket in four points. `send` sends everything. Timeouts are `TimeoutError`. A second greenlet that waits in the same
    direction gets an error. `fileno()` raises if the descriptor does not carry this stream (TLS, read-ahead): use `as_socket()` then.

    One greenlet may read while another writes. Concurrent writers take turns, and the bytes of one `sendall` stay together.

    Attributes:
        tls: what the TLS handshake agreed on, None on a plain connection.
        client: address of the peer: `getpeername()`, or the client in a PROXY header of a trusted load balancer.
        server: address that the peer connected to.
        destination: (host, port) that the peer asked for through CONNECT, SOCKS or a redirect; None if it asked for this server.
        identity: the name that the peer authenticated with; None if it did not.
        route: name of the route that was chosen last; None before.
        tunnel: the proxy's `muxwsgi.proxy.Context` of the tunnel that this stream runs in; None outside of a tunnel.
        id: number of the accepted connection, the same for all layers on it.
        trace: one line for each routing decision about the connection.
        parent: the connection that this one is layered on.
        depth: how many muxes have routed this stream.
        bytes_received, bytes_sent: bytes of this layer, as its reader and writer see them.
    """

    __slots__ = (
        "__weakref__",
        "_ahead",
        "_close_wanted",
        "_files",
        "_number_given",
        "_own",
        "_timeout",
        "_transport",
        "bytes_received",
        "bytes_sent",
        "client",
        "depth",
        "destination",
        "id",
        "identity",
        "lifeline",
        "parent",
        "route",
        "server",
        "tls",
        "trace",
        "tunnel",
    )

    def __init__(
        self, transport: Transport, *, client: Address, server: Address, parent: "Connection | None" = None, tls: "TLSInfo | None" = None
    ) -> None:
        """Takes over `transport`. Handlers do not call this: see `from_socket` and `start_tls`."""
        self._transport: Transport = transport
        self.lifeline: Lifeline = transport.lifeline
        self._ahead: bytearray | None = None
        self._timeout: float | None = None
        self._files = 0
        self._close_wanted = False
        self._number_given = False  # whether `fileno()` has returned the descriptor
        self._own: Extras | None = None  # of the lowest connection, for all layers on it
        self.bytes_received = 0
        self.bytes_sent = 0
        self.client = client
        self.server = server
        self.tls = tls
        self.parent = parent
        if parent is None:
            self.id = next(_ids)
            self.trace: list[str] = []
            self.destination: tuple[str, int] | None = None
            self.identity: str | None = None
            self.tunnel: Any = None
            self.route: str | None = None
            self.depth = 0
        else:
            self.id = parent.id
            self.trace = parent.trace
            self.destination = parent.destination
            self.identity = parent.identity
            self.tunnel = parent.tunnel
            self.route = parent.route
            self.depth = parent.depth
        self.lifeline.top = self

    @classmethod
    def from_socket(
        cls, sock: socket_module.socket, *, client: Address | None = None, server: Address | None = None
    ) -> "Connection":
        """A connection over a connected stream socket of any class. It takes the descriptor over: `sock` cannot be used afterwards.

        `client` and `server` save two system calls if the caller knows them.
        """
        sock.setblocking(False)
        if client is None:
            client = cast(Address, sock.getpeername())
        if server is None:
            server = cast(Address, sock.getsockname())
        kind = kind_of(sock)
        connection = cls(SocketTransport(sock.detach(), kind), client=client, server=server)
        leave_to_parent(connection)  # the sweeper knows accepted connections already
        return connection

    @classmethod
    def accepted(cls, fd: int, kind: Kind, client: Address, server: Address | None, hub: Any = None) -> "Connection":
        """A connection over a descriptor that `accept_one` returned. If `server` is None, the kernel is asked for it. `hub` is this
        thread's, None to look it up. Raises `OSError` if the peer has closed already. On any error the descriptor is closed."""
        transport = None
        try:
            transport = SocketTransport(fd, kind, hub)
            if server is None:
                server = cast(Address, transport.socket().getsockname())
            if kind[0] == _AF_INET6:
                client, server = _in_ipv4(client), _in_ipv4(server)
            return cls(transport, client=client, server=server)
        except BaseException:
            if transport is None:
                close_descriptor(fd)
            else:
                transport.close()
            raise

    def __repr__(self) -> str:
        layer = f" {self.tls.version}" if self.tls else ""
        return f"<Connection {self.id}{layer} from {self.client!r}>"

    # Reading

    def recv(self, n: int = 65536, flags: int = 0) -> bytes:
        """Between 1 and `n` bytes as soon as there are any; b"" at the end of the stream.

        `flags`: MSG_PEEK leaves the bytes in the stream. MSG_DONTWAIT does not wait. MSG_WAITALL waits for all `n`, and returns fewer only
        at the end of the stream. If it raises, the bytes that have come stay in the stream.

        Raises `TimeoutError` (`Expired` from a deadline), `ConnectionResetError`, `TLSError`, and `OSError` (EBADF) once closed.
        """
        if flags:
            return recv_as(self, n, flags)
        if self._ahead:
            data = bytes(self._ahead[:n])
            del self._ahead[:n]
        elif n > 0:
            transport = self._transport
            if type(transport) is SocketTransport:  # most are, and the compiled build calls it as C
                plain = transport
                data = plain.recv(n, self._timeout)
            else:
                data = transport.recv(n, self._timeout)
        else:
            return b""
        self.bytes_received += len(data)
        return data

    def recv_into(self, buffer: bytearray | memoryview, nbytes: int = 0, flags: int = 0) -> int:
        """As `recv`, into `buffer` (at most `nbytes` of it, 0 for all); the number of bytes, 0 at the end of the stream."""
        view = memoryview(buffer).cast("B")
        if nbytes:
            view = view[:nbytes]
        if flags or self._ahead:
            data = self.recv(len(view), flags)
            count = len(data)
            view[:count] = data
            return count
        if not len(view):
            return 0
        count = self._transport.recv_into(view, self._timeout)
        self.bytes_received += count
        return count

    def peek(self, n: int) -> bytes:
        """The next `n` bytes, which stay in the stream. Waits until they are there. Fewer if the stream ends before."""
        return self._look(n, self._timeout)[:n]

    def _look(self, n: int, timeout: float | None) -> bytes:
        """Read ahead until `n` bytes are there, or until the end of the stream. Returns all the read-ahead."""
        if self._ahead is None:
            self._ahead = bytearray()
        while len(self._ahead) < n:
            data = self._transport.recv(max(n - len(self._ahead), READ_AHEAD), timeout)
            if not data:
                break
            self._ahead += data
            self.lifeline.under_way += len(data)
        return bytes(self._ahead)

    def peek_beyond(self, seen: int, limit: int) -> bytes:
        """Wait until more than `seen` bytes are there, and return all of them, at most `limit`. For a decision by first bytes.

        If it returns `seen` bytes or fewer, the stream has ended. The bytes of an accepted TCP socket stay in the kernel, so that TLS can
        still take the descriptor over. On other transports they become read-ahead. Call `settle()` after the decision.
        """
        transport = self._transport
        if not self._ahead and isinstance(transport, SocketTransport) and transport.can_peek:
            data = transport.peek_beyond(seen, limit, self._timeout)
            if data is not None:
                return data
            transport.settle()
            self._look(seen, self._timeout)
        return self._look(min(seen + 1, limit), self._timeout)[:limit]

    def settle(self) -> None:
        """End the peeking: a single byte wakes the reader again (see `peek_beyond`)."""
        if isinstance(self._transport, SocketTransport):
            self._transport.settle()

    def unread(self, data: bytes) -> None:
        """Put `data` back, so that it is read next. For a parser that has read more than its message."""
        if data:
            self._ahead = bytearray(data) + (self._ahead or b"")
            self.bytes_received -= len(data)

    # Writing

    def sendall(self, data: Buffer, flags: int = 0) -> None:
        """Send all of `data`. After an error, `bytes_sent` also counts bytes that the layer below took and the peer may not have received.

        Raises `TimeoutError` (`Expired` if the peer takes less than the minimum rate), `BrokenPipeError`, `ConnectionResetError`,
        `TLSError`, and `OSError` (EBADF) once closed. `flags` may be MSG_NOSIGNAL, which always holds, and MSG_MORE, which is ignored.
        """
        if flags and flags & ~SEND_FLAGS:
            raise ValueError(OTHER_SEND_FLAGS)
        if type(data) is not bytes:
            data = memoryview(data).cast("B")
        transport = self._transport
        try:
            if type(transport) is SocketTransport:
                plain = transport
                plain.sendall(data, self._timeout)
            else:
                transport.sendall(data, self._timeout)
        except BaseException as error:
            self.bytes_sent += sent_before(error)
            raise
        self.bytes_sent += len(data)

    def sendall_gathered(self, head: bytes, data: bytes) -> None:
        """As `sendall(head + data)`. A plain connection does not join them, because the kernel gathers both. TLS joins the first record."""
        gathered = getattr(self._transport, "sendall_gathered", None)
        if gathered is None:
            self.sendall(head + data)
            return
        try:
            gathered(head, data, self._timeout)
        except BaseException as error:
            self.bytes_sent += sent_before(error)
            raise
        self.bytes_sent += len(head) + len(data)

    def send(self, data: Buffer, flags: int = 0) -> int:
        """As `sendall`, and returns the number of bytes, as `socket.send` does. It sends all of them.

        With a timeout of 0 or MSG_DONTWAIT, a plain connection sends as many bytes as there is room for. It raises `BlockingIOError` if
        there is no room. TLS raises `OSError` (EOPNOTSUPP) for MSG_DONTWAIT.
        """
        if flags or self._timeout == 0:
            return send_as(self, data, flags)
        self.sendall(data)
        return memoryview(data).nbytes

    def recvfrom(self, n: int, flags: int = 0) -> tuple[bytes, None]:
        """As `recv`; the address is None, as on every stream."""
        return self.recv(n, flags), None

    def recvfrom_into(self, buffer: bytearray | memoryview, nbytes: int = 0, flags: int = 0) -> tuple[int, None]:
        """As `recv_into`; the address is None, as on every stream."""
        return self.recv_into(buffer, nbytes, flags), None

    def recvmsg(self, n: int, ancbufsize: int = 0, flags: int = 0) -> tuple[bytes, list[Any], int, None]:
        """As `recv`. There is no ancillary data."""
        return self.recv(n, flags), [], 0, None

    def recvmsg_into(
        self, buffers: Iterable[bytearray | memoryview], ancbufsize: int = 0, flags: int = 0
    ) -> tuple[int, list[Any], int, None]:
        """As `recv_into`, into the first of `buffers` that is not empty."""
        for buffer in buffers:
            if memoryview(buffer).nbytes:
                return self.recv_into(buffer, 0, flags), [], 0, None
        return 0, [], 0, None

    def sendmsg(self, buffers: Iterable[Buffer], ancdata: Iterable[Any] = (), flags: int = 0, address: Any = None) -> int:
        """As `send`, of all `buffers` in one write; the number of bytes. Raises `OSError` (EOPNOTSUPP) for `ancdata`."""
        if list(ancdata):
            raise OSError(errno.EOPNOTSUPP, "a Connection carries no ancillary data")
        return self.send(b"".join(buffers), flags)

    @property
    def can_sendfile(self) -> bool:
        """Whether the kernel can send a file by itself: on plain sockets."""
        return isinstance(self._transport, SocketTransport)

    def sendfile(self, file: IO[bytes], offset: int = 0, count: int | None = None) -> int:
        """Send `count` bytes (None: all) of `file` from `offset`, and return the number sent. It is less if the file ends before.

        The kernel sends a regular file by itself. A file without a descriptor, or with other content than its descriptor (gzip), is read
        and sent in blocks. If it cannot seek and `offset` is 0, sending begins at its present position.
        """
        return send_file(self, file, offset, count)

    # Ending

    def shutdown(self, how: int) -> None:
        """End one or both directions, as `socket.shutdown`. Under TLS, ending the sending direction sends close_notify first."""
        self._transport.shutdown(how, self._timeout)

    def close(self) -> None:
        """Close, once every file that `makefile` made is closed too, as sockets do.

        It does nothing on a connection that another is layered on. Close the outermost one.
        """
        self._close_wanted = True
        if self._files <= 0:
            own = self._lowest()._own
            if own is not None and own.pump is not None:
                own.end(False)
            self._end("the connection is closed")

    def finish(self, cut: bool = False) -> None:
        """Close the outermost layer, also if there are still files or references. The greenlet that owns the connection calls this at
        the end. Does nothing if the connection is closed or detached already.

        Bytes that were written to the socket of `as_socket()` are sent first, for as long as the peer takes them. `cut` means that the
        handler was stopped before the stream was complete. Then the connection ends with a reset (see `cut()`), and bytes that are not sent
        within the grace of `cut()` are lost.
        """
        own = self._lowest()._own
        try:
            if own is not None:
                own.end(cut)
        finally:
            top = self.lifeline.top
            if isinstance(top, Connection):
                try:
                    if cut:
                        top.cut()
                finally:
                    top._end("the connection is closed")

    def abort(self) -> None:
        """Close with a reset, and under TLS without close_notify, so that the peer can tell that the stream is incomplete."""
        self.lifeline.reset_at_close = True
        self._end("the connection was aborted")

    def reset_unless_complete(self, incomplete: bool) -> None:
        """While `incomplete`, every end of the connection is a reset: a close, an error, a kill, the death of the process.

        For a message that only the end of the stream delimits: set it before the first byte, and clear it after the last.
        """
        if isinstance(self._transport, ClosedTransport):
            return
        self.lifeline.reset_at_close = incomplete
        self.setsockopt(socket_module.SOL_SOCKET, socket_module.SO_LINGER, RESET if incomplete else NO_LINGER)

    def cut(self, grace: float = CUT_GRACE) -> None:
        """Close an incomplete stream, so that the peer can tell that it is incomplete.

        Bytes that were sent before are delivered first. Under TLS close_notify is not sent. A TCP connection ends with a reset when the
        peer has received the bytes, or after `grace` seconds. Unix sockets have no reset: they are closed.
        """
        cut(self, grace)

    @property
    def bytes_unacknowledged(self) -> int:
        """Bytes that were sent on the descriptor and that the peer's kernel has not acknowledged; 0 in memory and once closed."""
        transport = self._transport
        sock = None if isinstance(transport, ClosedTransport) else transport.socket()
        return 0 if sock is None else unacknowledged(sock.fileno())

    @property
    def truncated(self) -> bool:
        """Whether a TLS stream has ended without close_notify. An attacker on the network path can cause that.

        `recv` returns b"" then, as at every end, because many clients close without close_notify. A protocol whose messages end with the
        connection must check this: its message may be incomplete (RFC 9112 section 9.8). Always False without TLS, and once closed.
        """
        return bool(getattr(self._transport, "truncated", False))

    def forsake(self) -> None:
        """In a forked child: close the child's copy of the descriptor. Nothing is sent, and the parent's connection goes on."""
        top = self.lifeline.top
        if top is not self and top is not None:
            top.forsake()
            return
        transport = self._transport
        if encrypts(transport):
            transport.abandon()
        self.lifeline.reset_at_close = False  # options of the socket are the parent's too
        self._end(REASON)

    def _end(self, reason: str) -> None:
        transport, self._transport = self._transport, ClosedTransport(self.lifeline, reason)
        if not isinstance(transport, ClosedTransport):
            self._ahead = None
            self.lifeline.top = None  # breaks the reference cycle, so that garbage collection is not needed
            if self.lifeline.reset_at_close:
                prepare_reset(transport)
            elif self.bytes_sent > MANY_BYTES and reason is not REASON:  # in a forked child the options are the parent's too
                limit_unread(transport)
            transport.close()

    def __del__(self) -> None:
        transport = getattr(self, "_transport", None)
        if transport is not None and not isinstance(transport, ClosedTransport):
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self._end("the connection is closed")

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # The next layer

    def start_tls(
        self, context: "ServerSide | ClientContext | None" = None, *, server_hostname: str | None = None
    ) -> "Connection":
        """Do a TLS handshake and return the connection inside TLS. A `ClientContext` makes this the client's side, others the server's.

        Without a context it is the server's side, with the certificates of the bind. Inside of a proxy's tunnel the certificate is a leaf
        for the host that the client asked for. Raises `RuntimeError` if the bind has no certificate.

        From then on this connection and its files raise `OSError` (EBADF) on use. TLS begins with the bytes that the connection and its
        files have read ahead. So plain text that came with a STARTTLS command is never taken for decrypted data (CVE-2011-0411).

        `server_hostname` is the name or address that a client verifies and sends as SNI. If the handshake fails, this raises
        `HandshakeError` and closes the connection. The caller sets the deadline.
        """
        from muxwsgi.wire.tls.start import ClientContext, begin_tls, shake_hands  # OpenSSL, which many processes do without

        below, context = begin_tls(self, context, server_hostname)
        inner = Connection(below, client=self.client, server=self.server, parent=self)
        try:
            inner.tls = shake_hands(below, context, server_hostname)
        except BaseException as error:
            inner._end("the TLS handshake failed")
            if not isinstance(context, ClientContext) and isinstance(error, OSError):
                self._tell_of_handshake(self, error)
            raise
        inner._timeout = self._timeout
        if not isinstance(context, ClientContext):
            self._tell_of_handshake(inner, None)
        return inner

    def back_to_mux(self) -> None:
        """Have the next bytes choose the handler again, as those of a new connection do. Returns when that handler has served.

        For a hijacker that has done STARTTLS: `connection.start_tls().back_to_mux()`. Inside of TLS the mux is that of the streams inside,
        and in a proxy's tunnel the tunnel's. Raises `RuntimeError` without a server, `PeerError` when the connection has been back too
        often, and what the handler raises.
        """
        service = self.lifeline.service
        if self.tunnel is not None:
            mux = self.tunnel.mux
        else:
            mux = None if service is None else service.mux if self.tls is None else service.inner
        if mux is None:
            raise RuntimeError("back_to_mux() is for connections of a server")
        mux(self)

    def _tell_of_handshake(self, connection: "Connection", error: OSError | None) -> None:
        service = self.lifeline.service
        if service is not None and service.events.handshake:
            tell(service.events.handshake, connection, error)

    def detach(self) -> "tuple[gevent.socket.socket, bytes]":
        """The socket, and the bytes that were read ahead. The caller uses the bytes first, and closes the socket.

        Only on a plain connection. TLS and memory raise `OSError` (EOPNOTSUPP), because a socket does not carry the stream there.

        After `fileno()` the descriptor belongs to the caller, as after `socket.detach()`: `SSLContext.wrap_socket` makes a socket of the
        number and drops the socket that is returned here. So garbage collection does not close the returned socket; its `close()` does.
        """
        return detach(self)

    def as_socket(self) -> StreamSocket:
        """A real socket with this stream, for code that needs a descriptor that carries the stream: select, threads, `subprocess`, `ssl`.

        It is one end of a socketpair, on every kind of transport. A pump carries the bytes, and owns this connection from then on.
        Deadline, idle timeout and drain hold as before. `StreamSocket` lists the differences from other sockets.
        """
        if isinstance(self._transport, ClosedTransport):
            raise OSError(errno.EBADF, self._transport.reason)
        self.lifeline.reader.check_thread()
        own = self._extras()
        if own.pump is not None:
            raise OSError(errno.EALREADY, "as_socket() was called before")
        own.pump, near = start_pump(self)
        return near

    # What a handler uses beside the stream

    @property
    def data(self) -> dict[Any, Any]:
        """A dict for the handler's data, the same for all layers of the connection."""
        own = self._extras()
        if own.data is None:
            own.data = {}
        return own.data

    @property
    def proxy_header(self) -> "ProxyHeader | None":
        """The PROXY header that the connection began with; None without one. What it says of the client is in `client` and `server`."""
        own = self._lowest()._own
        return None if own is None else own.proxy_header

    @proxy_header.setter
    def proxy_header(self, header: "ProxyHeader") -> None:
        self._extras().proxy_header = header

    @property
    def log(self) -> ConnectionLog:
        """The server's error log, for lines about this connection. Each begins with the connection's number and the hijacker's name."""
        own = self._extras()
        if own.log is None:
            own.log = ConnectionLog(self._lowest())
        return own.log

    @property
    def draining(self) -> Event:
        """Set when the server begins to stop: `is_set()`, and `wait(seconds)` from greenlets and from real threads.

        Connections that are open after the graceful timeout are cut. A handler that only waits for a message sets `resting`: its wait then
        raises `Draining`.
        """
        service = self.lifeline.service
        if service is not None:
            return cast(Event, service.draining)
        own = self._extras()
        if own.draining is None:
            own.draining = Event()
        return own.draining

    def on_drain(self, callback: Callable[[], object]) -> None:
        """Call `callback` in a new greenlet when the server begins to stop, or now if it has begun. It is not called if the connection is
        over by then. For handlers that wait for something else, such as an event loop (`loop.call_soon_threadsafe`)."""
        self._extras().on_drain(self.draining, callback, self.log)

    def _lowest(self) -> "Connection":
        lowest = self
        while lowest.parent is not None:
            lowest = lowest.parent
        return lowest

    def _extras(self) -> Extras:
        lowest = self._lowest()
        if lowest._own is None:
            lowest._own = Extras()
        return lowest._own

    # What sockets also have

    def makefile(
        self,
        mode: str = "r",
        buffering: int | None = None,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """A file over the stream, as `socket.makefile`. After `close()` the connection stays open until its files are closed."""
        return make_file(self, mode, buffering, encoding, errors, newline)

    def _decref_socketios(self) -> None:
        # `socket.SocketIO` calls this when it is closed.
        self._files -= 1
        if self._close_wanted and self._files <= 0:
            self._end("the connection is closed")

    def settimeout(self, seconds: float | None) -> None:
        """Limit each operation to `seconds`. None sets no limit. With 0 an operation that would wait raises `BlockingIOError`."""
        if seconds is not None and seconds < 0:
            raise ValueError("a timeout cannot be negative")
        self._timeout = seconds

    def gettimeout(self) -> float | None:
        """What `settimeout` set."""
        return self._timeout

    @property
    def timeout(self) -> float | None:
        """What `settimeout` set, as sockets spell it."""
        return self._timeout

    def setblocking(self, flag: bool) -> None:
        """`settimeout(None)` or `settimeout(0)`."""
        self._timeout = None if flag else 0.0

    def getblocking(self) -> bool:
        """Whether operations wait: False if the timeout is 0."""
        return self._timeout != 0

    def fileno(self) -> int:
        """The descriptor, for select and the like; -1 once closed, and in memory.

        Raises `OSError` (EOPNOTSUPP) in TLS, while there is read-ahead, and after `as_socket()`. In these cases the descriptor does not
        carry this stream: neither its bytes nor its readiness are those of the stream. The socket of `as_socket()` carries it.
        """
        number = self._own_descriptor()
        self._number_given = True
        return number

    def _own_descriptor(self) -> int:
        """As `fileno`, for a caller that does not pass the number on."""
        own = self._lowest()._own
        if own is not None and own.pump is not None:
            raise OSError(errno.EOPNOTSUPP, "the descriptor does not carry this stream: use the socket that as_socket() returned")
        if encrypts(self._transport):
            raise OSError(errno.EOPNOTSUPP, "the descriptor carries TLS records, not this stream: use as_socket()")
        if self._ahead:
            raise OSError(errno.EOPNOTSUPP, "bytes of this stream were read ahead and are not in the descriptor: use as_socket()")
        return self.descriptor()

    def descriptor(self) -> int:
        """The number of the lowest layer's descriptor, -1 if there is none. Use it only to poll for the peer's state. With TLS or
        read-ahead its bytes and its readiness are not those of this stream. Do not give it to code that reads or writes."""
        if isinstance(self._transport, ClosedTransport):
            return -1
        sock = self._transport.socket()
        return -1 if sock is None else sock.fileno()

    def pending(self) -> int:
        """Bytes that can be read without a system call: read ahead, or decrypted already."""
        transport = self._transport
        decrypted = transport.ssl.pending() if encrypts(transport) else 0
        return len(self._ahead or b"") + decrypted

    def dup(self) -> "gevent.socket.socket":
        """A socket with another descriptor of the same stream. The stream ends when both are closed. The limits of this connection do not
        hold for that socket. Raises `OSError` (EOPNOTSUPP) in memory, and whenever `fileno` raises."""
        number = os.dup(self._present())
        return gevent.socket.socket(self.family, self.type, self.proto, fileno=number)

    def get_inheritable(self) -> bool:
        """Whether programs that this process starts inherit the descriptor."""
        number = self.descriptor()
        return number >= 0 and os.get_inheritable(number)

    def set_inheritable(self, inheritable: bool) -> None:
        """Set whether programs that this process starts inherit the descriptor. True raises `OSError` (EOPNOTSUPP) as `dup` does."""
        if inheritable:
            os.set_inheritable(self._present(), True)
        elif self.descriptor() >= 0:
            os.set_inheritable(self.descriptor(), False)

    def _present(self) -> int:
        """The descriptor that carries the stream."""
        number = self._own_descriptor()
        if number < 0:
            self._transport.socket()  # EBADF and the reason, once closed
            raise OSError(errno.EOPNOTSUPP, "a stream in memory has no descriptor: use as_socket()")
        return number

    def getpeername(self) -> Address:
        """The peer's address as the kernel gives it; `client` in memory."""
        sock = self._transport.socket()
        return self.client if sock is None else cast(Address, sock.getpeername())

    def getsockname(self) -> Address:
        """The local address as the kernel gives it; `server` in memory."""
        sock = self._transport.socket()
        return self.server if sock is None else cast(Address, sock.getsockname())

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        """Set an option of the lowest layer's socket. Does nothing in memory."""
        sock = self._transport.socket()
        if sock is not None:
            sock.setsockopt(level, option, value)

    def getsockopt(self, level: int, option: int, length: int = 0) -> int | bytes:
        """An option of the lowest layer's socket. Raises `OSError` (ENOPROTOOPT) in memory."""
        sock = self._transport.socket()
        if sock is None:
            raise OSError(errno.ENOPROTOOPT, "a stream in memory has no socket options")
        return sock.getsockopt(level, option, length) if length else sock.getsockopt(level, option)

    @property
    def family(self) -> int:
        """Address family of the lowest layer's socket; AF_UNIX in memory."""
        sock = self._transport.socket()
        return socket_module.AF_UNIX if sock is None else sock.family

    @property
    def type(self) -> int:
        """Always SOCK_STREAM."""
        return socket_module.SOCK_STREAM

    @property
    def proto(self) -> int:
        """Protocol number of the lowest layer's socket; 0 in memory."""
        sock = self._transport.socket()
        return 0 if sock is None else sock.proto

    # What ssl.SSLSocket has

    def version(self) -> str | None:
        """Version of TLS, as `ssl.SSLSocket.version`; None on a plain connection."""
        tls = self.tls
        return None if tls is None else tls.version

    def cipher(self) -> tuple[str, str, int] | None:
        """Name of the cipher, version of TLS, number of secret bits; None on a plain connection."""
        tls = self.tls
        return None if tls is None else (tls.cipher, tls.version, tls.cipher_bits)

    def selected_alpn_protocol(self) -> str | None:
        """The protocol id that ALPN agreed on; None without ALPN, and on a plain connection."""
        tls = self.tls
        return None if tls is None else tls.alpn

    def getpeercert(self, binary_form: bool = False) -> "dict[str, Any] | bytes | None":
        """The peer's certificate: in DER, or as a dict like that of `ssl.SSLSocket.getpeercert`, with both names, validity, serial number
        and alternative names. None if the peer sent none.

        The dict is empty if the certificate was not verified. `tls.peer_certificate` has more.
        """
        tls = self.tls
        certificate = None if tls is None else tls.peer_certificate
        if tls is None or certificate is None:
            return None
        if binary_form:
            return in_der(certificate)
        return as_dict(certificate) if tls.peer_verified else {}

    # Time limits, which the sweeper enforces (see `Lifeline`)

    @property
    def deadline(self) -> float:
        """Absolute `time.monotonic()` seconds. A wait that lasts longer raises `Expired`, up to about a second late.

        An expired deadline stays until it is set again. So code that catches `Expired` and sends something sets a new one first.
        """
        return self.lifeline.deadline

    @deadline.setter
    def deadline(self, value: float) -> None:
        self.lifeline.deadline = value

    @property
    def idle_timeout(self) -> float | None:
        """Seconds without a byte in either direction after which a wait raises `Expired`; None for no limit."""
        return self.lifeline.idle_timeout

    @idle_timeout.setter
    def idle_timeout(self, seconds: float | None) -> None:
        self.lifeline.idle_timeout = seconds

    @property
    def resting(self) -> bool:
        """Set by a handler that waits for a new message, so that closing loses nothing. Its wait raises `Draining` at shutdown."""
        return self.lifeline.resting

    @resting.setter
    def resting(self, value: bool) -> None:
        self.lifeline.resting = value
