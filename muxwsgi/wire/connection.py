"""`Connection`: what every handler receives. A socket-like stream over one transport, with read-ahead, and what is known about it.

This file has the methods that protocol code calls. What the rarer ones do is in other files, see the imports. How bytes move is in the
transports, and when a wait ends is in `ready.py` and `lifeline.py`. This package does not interpret bytes.

The states of a connection
--------------------------

    in use -> closed
      |-----> detached: the socket is the caller's
      |-----> below another: `start_tls` has made a connection on top of it
      |-----> pumped: `as_socket` has made a socket, and two greenlets carry the bytes

in use          One greenlet may read while another writes. What was read and not consumed is `_ahead`, which is always read first.
closed          The transport is a `ClosedTransport`, which answers every use with EBADF and the reason. So are `detached` and `below
                another`, so nothing is sent in clear behind the handshake.
pumped          The connection goes on, and its limits hold. Its reader and its writer are the pump's greenlets.

Every way to another state takes the read-ahead along: **bytes that were read and not consumed stay with the stream.** TLS begins with them,
`detach` returns them, and the pump sends them first. `fileno` refuses while there are any.

All layers of a descriptor share one `Lifeline`, whose `top` is the outermost connection. `finish` closes that one, on whichever layer it is
called. A connection that ends before it is complete ends in a reset (`reset_at_close`), so that the peer can tell.

The file is long because a compiled class is in one file. A base class for a part of it would cost each connection 600 instructions.
"""

import errno
import itertools
import os
import socket as socket_module
import warnings
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import IO, Any, cast

import gevent.socket
from gevent.event import Event

from muxwsgi.events import tell
from muxwsgi.wire.ending import MANY_BYTES, NO_LINGER, RESET, cut, limit_unread, prepare_reset
from muxwsgi.wire.extras import ConnectionLog, Extras
from muxwsgi.wire.files import make_file, send_file
from muxwsgi.wire.flags import OTHER_SEND_FLAGS, SEND_FLAGS, recv_as, send_as
from muxwsgi.wire.fork import REASON, leave_to_parent
from muxwsgi.wire.given import StreamSocket
from muxwsgi.wire.layers import begin_tls, detach, shake_hands
from muxwsgi.wire.lifeline import Lifeline
from muxwsgi.wire.pump import start_pump
from muxwsgi.wire.ready import unacknowledged
from muxwsgi.wire.syscalls import Kind, close_descriptor, kind_of
from muxwsgi.wire.tls.client_context import ClientContext
from muxwsgi.wire.tls.descriptor import DescriptorTLS
from muxwsgi.wire.tls.info import TLSInfo
from muxwsgi.wire.tls.layered import LayeredTLS
from muxwsgi.wire.tls.server_context import ServerSide
from muxwsgi.wire.transport import CUT_GRACE, Buffer, ClosedTransport, SocketTransport, Transport, sent_before
from muxwsgi.wire.vocabulary import as_dict, in_der

__all__ = ["Address", "Connection"]

#: (host, port[, flow, scope]) of TCP, or the path of a unix socket ("" when unnamed).
Address = tuple[Any, ...] | str

_AF_INET6 = int(socket_module.AF_INET6)


def _in_ipv4(address: Address) -> Address:
    """The address of a peer that came by IPv4 to a socket that serves both families, as an IPv4 socket would give it. No other peer has
    such an address: the kernel drops IPv6 packets that come from an IPv4-mapped one."""
    host = address[0] if isinstance(address, tuple) else ""
    if host.startswith("::ffff:") and "." in host:
        return (host.removeprefix("::ffff:"), address[1])
    return address


#: Bytes that read-ahead asks for at once: it is used for first bytes, which are few.
READ_AHEAD = 16384

_ids = itertools.count(1)


class Connection:
    """A byte stream to one peer, with the methods of a socket.

    It differs from a socket where sockets are traps: `send` sends everything, timeouts are `TimeoutError`, a second greenlet
    waiting in the same direction is an error, and `fileno()` refuses where a descriptor would not carry this stream (TLS, read-ahead):
    code that needs one uses `as_socket()`.

    One greenlet may read while another writes. Concurrent writers are served one after the other, each `sendall` whole.

    Attributes:
        tls: what the TLS handshake agreed on, None on a plain connection.
        client: address of the peer: `getpeername()`, or the client in a trusted header.
        server: address that the peer connected to.
        destination: (host, port) that the peer asked for through CONNECT, SOCKS or a redirect; None where it asked for us.
        identity: the name that the peer authenticated with, None without.
        route: name of the route that was chosen last; None before.
        tunnel: what a proxy knows of the tunnel that this stream runs in (a `muxwsgi.proxy.Context`); None outside of one.
        id: number of the accepted connection, the same for all layers on it.
        trace: one line for each decision that brought the connection where it is.
        parent: the connection that this one is layered on.
        depth: how many muxes have asked their question of this stream.
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
        self, transport: Transport, *, client: Address, server: Address, parent: "Connection | None" = None, tls: TLSInfo | None = None
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
        """A connection over a connected stream socket of any class, which it takes over: `sock` is of no use afterwards.

        `client` and `server` save two system calls where the caller knows them.
        """
        sock.setblocking(False)
        if client is None:
            client = cast(Address, sock.getpeername())
        if server is None:
            server = cast(Address, sock.getsockname())
        kind = kind_of(sock)
        connection = cls(SocketTransport(sock.detach(), kind), client=client, server=server)
        leave_to_parent(connection)  # those that were accepted are known to the sweeper
        return connection

    @classmethod
    def accepted(cls, fd: int, kind: Kind, client: Address, server: Address | None, hub: Any = None) -> "Connection":
        """A connection over a descriptor that `accept_one` returned; `server` is asked for where it is None. Closes it where it raises:
        `OSError` where the peer has closed it already. `hub` is this thread's, None to look it up."""
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

        `flags`: MSG_PEEK leaves them in the stream; MSG_DONTWAIT does not wait; MSG_WAITALL waits for all `n`, and returns fewer at the end
        of the stream only, since what has come stays in the stream where it raises.

        Raises `TimeoutError` (`Expired` from a deadline), `ConnectionResetError`, `TLSError`, and `OSError` (EBADF) once closed.
        """
        if flags:
            return recv_as(self, n, flags)
        if self._ahead:
            data = bytes(self._ahead[:n])
            del self._ahead[:n]
        elif n > 0:
            data = self._transport.recv(n, self._timeout)
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
        """The next `n` bytes, left in the stream. Waits until they are there; fewer where the stream ends before."""
        return self._look(n, self._timeout)[:n]

    def _look(self, n: int, timeout: float | None) -> bytes:
        """Read ahead until `n` bytes are there, or the end; all that was read ahead."""
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
        """Wait until more than `seen` bytes are there; all there are, at most `limit`. For a decision by first bytes.

        No more than `seen` bytes means that the stream ended. The bytes of an accepted TCP socket stay in the kernel, so that
        TLS may still take the descriptor over; on everything else they become read-ahead. Call `settle()` when decided.
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
        """The first bytes have been looked at, let a single byte wake the reader again (see `peek_beyond`)."""
        if isinstance(self._transport, SocketTransport):
            self._transport.settle()

    def unread(self, data: bytes) -> None:
        """Put `data` in front of what will be read next: for a parser that was given more than its message."""
        if data:
            self._ahead = bytearray(data) + (self._ahead or b"")
            self.bytes_received -= len(data)

    # Writing

    def sendall(self, data: Buffer, flags: int = 0) -> None:
        """Send all of `data`. After an error `bytes_sent` has grown by what the layer below took, which is not what the peer got.

        Raises `TimeoutError` (`Expired` where the peer takes less than the minimum rate), `BrokenPipeError`,
        `ConnectionResetError`, `TLSError`, and `OSError` (EBADF) once closed. `flags` may be MSG_NOSIGNAL, which holds anyway, and
        MSG_MORE, which makes no difference.
        """
        if flags and flags & ~SEND_FLAGS:
            raise ValueError(OTHER_SEND_FLAGS)
        if type(data) is not bytes:
            data = memoryview(data).cast("B")
        try:
            self._transport.sendall(data, self._timeout)
        except BaseException as error:
            self.bytes_sent += sent_before(error)
            raise
        self.bytes_sent += len(data)

    def send(self, data: Buffer, flags: int = 0) -> int:
        """As `sendall`, and returns the number of bytes as `socket.send` does: all of them.

        A plain connection that does not block, or with MSG_DONTWAIT in `flags`, takes what there is room for. Raises `BlockingIOError`
        where that is nothing, and `OSError` (EOPNOTSUPP) for MSG_DONTWAIT in TLS.
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
        """Send `count` bytes (None: all) of `file` from `offset`; the number sent, fewer where the file ends before.

        The kernel sends a regular file by itself. What has no descriptor, or gives something else than its descriptor has (gzip), is read
        and sent in blocks; from where it is, if it cannot seek and `offset` is 0.
        """
        return send_file(self, file, offset, count)

    # Ending

    def shutdown(self, how: int) -> None:
        """End one or both directions, as `socket.shutdown`. Under TLS, ending the sending direction sends close_notify first."""
        self._transport.shutdown(how, self._timeout)

    def close(self) -> None:
        """Close, once every file that `makefile` made is closed too, as sockets do.

        On a connection that another is layered on, this does nothing: the outermost one is closed.
        """
        self._close_wanted = True
        if self._files <= 0:
            own = self._lowest()._own
            if own is not None and own.pump is not None:
                own.end(False)
            self._end("the connection is closed")

    def finish(self, cut: bool = False) -> None:
        """Close the outermost layer, also where there are still files or references. The greenlet that owns the connection calls this at
        the end. Does nothing where it is closed or detached already.

        What was written to the socket of `as_socket()` is sent first, for as long as the peer takes it. `cut`: the handler was stopped in
        the middle of something, so the end is a reset, see `cut()`, and what needs a longer wait than that is lost.
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
        """Close so that the peer notices that something is missing: by a reset, and under TLS without close_notify."""
        self.lifeline.reset_at_close = True
        self._end("the connection was aborted")

    def reset_unless_complete(self, incomplete: bool) -> None:
        """While `incomplete`, every end of the connection is a reset: a close, an error, a kill, the death of the process.

        For a message that only the end of the stream delimits: set before its first byte, and cleared behind its last.
        """
        if isinstance(self._transport, ClosedTransport):
            return
        self.lifeline.reset_at_close = incomplete
        self.setsockopt(socket_module.SOL_SOCKET, socket_module.SO_LINGER, RESET if incomplete else NO_LINGER)

    def cut(self, grace: float = CUT_GRACE) -> None:
        """Close where the rest of what the peer was to get is not coming: it can tell that the stream is incomplete.

        What was sent before is delivered first. Under TLS there is no close_notify. A TCP connection ends with a reset, once the peer has
        what was sent, or after `grace` seconds. Unix sockets know no reset: they are closed.
        """
        cut(self, grace)

    @property
    def bytes_unacknowledged(self) -> int:
        """Bytes of what was sent, as the descriptor has it, that the peer's kernel has not taken yet; 0 in memory and once closed."""
        transport = self._transport
        sock = None if isinstance(transport, ClosedTransport) else transport.socket()
        return 0 if sock is None else unacknowledged(sock.fileno())

    @property
    def truncated(self) -> bool:
        """Whether the stream has ended without the peer saying so: TLS without close_notify, which anybody on the way can bring about.

        `recv` returns b"" then as at every end, since many clients close so. A protocol whose messages end with the connection has to
        look here: what it has got is not all (RFC 9112 section 9.8). Always False without TLS, and once closed.
        """
        return bool(getattr(self._transport, "truncated", False))

    def forsake(self) -> None:
        """In a forked child: close the child's copy of the descriptor. Nothing is sent, and the parent's connection goes on."""
        top = self.lifeline.top
        if top is not self and top is not None:
            top.forsake()
            return
        transport = self._transport
        if isinstance(transport, DescriptorTLS | LayeredTLS):
            transport.abandon()
        self.lifeline.reset_at_close = False  # options of the socket are the parent's too
        self._end(REASON)

    def _end(self, reason: str) -> None:
        transport, self._transport = self._transport, ClosedTransport(self.lifeline, reason)
        if not isinstance(transport, ClosedTransport):
            self._ahead = None
            self.lifeline.top = None  # breaks the circle, so that no collection is needed
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
        self, context: ServerSide | ClientContext | None = None, *, server_hostname: str | None = None
    ) -> "Connection":
        """Do a TLS handshake, on the side that the context is for; the connection inside it.

        Without a context it is the server's side, with the certificates of the bind, or inside of a proxy's tunnel with a leaf for the host
        that the client asked for. Raises `RuntimeError` where the bind has no certificate.

        This connection raises `OSError` (EBADF) on use from then on, and so do its files. What was read ahead, by them too, is what TLS
        begins with: plain text that came with the command never looks like something that came in TLS (CVE-2011-0411).

        `server_hostname` is the name or address that a client verifies and sends as SNI. Raises `HandshakeError`, and closes
        the connection then. The deadline is the caller's to set.
        """
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

    def _tell_of_handshake(self, connection: "Connection", error: OSError | None) -> None:
        service = self.lifeline.service
        if service is not None and service.events.handshake:
            tell(service.events.handshake, connection, error)

    def detach(self) -> "tuple[gevent.socket.socket, bytes]":
        """The socket and the bytes of it that were read ahead; they are the caller's to close and to use first.

        Only on a plain connection: `OSError` (EOPNOTSUPP) on TLS and in memory, where a socket does not carry this stream.

        After `fileno()` the descriptor belongs to the caller of both, as after `socket.detach()`: `SSLContext.wrap_socket` makes a
        socket of the number and drops what is returned here. So garbage collection does not close that socket, only its `close()` does.
        """
        return detach(self)

    def as_socket(self) -> StreamSocket:
        """A real socket with this stream, for code that needs a descriptor that carries the stream: select, threads, `subprocess`, `ssl`.

        It is one end of a socketpair, on every kind of transport, and a pump carries the bytes: the pump owns this
        connection from then on. Deadline, idle timeout and drain hold as before. See `StreamSocket` for what it does differently.
        """
        if isinstance(self._transport, ClosedTransport):
            raise OSError(errno.EBADF, self._transport.reason)
        self.lifeline.reader.check_thread()
        own = self._extras()
        if own.pump is not None:
            raise OSError(errno.EALREADY, "as_socket() was called before")
        own.pump, near = start_pump(self)
        return near

    # What the author of a handler keeps with it

    @property
    def data(self) -> dict[Any, Any]:
        """A dict of the handler's own, the same for all layers of the connection."""
        own = self._extras()
        if own.data is None:
            own.data = {}
        return own.data

    @property
    def log(self) -> ConnectionLog:
        """The server's error log, for lines about this connection: each begins with its number and the hijacker's name."""
        own = self._extras()
        if own.log is None:
            own.log = ConnectionLog(self._lowest())
        return own.log

    @property
    def draining(self) -> Event:
        """Set when the server begins to stop: `is_set()`, and `wait(seconds)` from greenlets and from real threads.

        What still runs after the graceful timeout is cut. A handler that only reads sets `resting`, and is woken.
        """
        service = self.lifeline.service
        if service is not None:
            return cast(Event, service.draining)
        own = self._extras()
        if own.draining is None:
            own.draining = Event()
        return own.draining

    def on_drain(self, callback: Callable[[], object]) -> None:
        """Call `callback` in a new greenlet when the server begins to stop (now, if it has begun), unless the connection is
        over by then: for handlers that wait for something else, such as an event loop (`loop.call_soon_threadsafe`)."""
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
        """A file over the stream, as `socket.makefile`. It holds a reference: `close()` waits for it."""
        return make_file(self, mode, buffering, encoding, errors, newline)

    def _decref_socketios(self) -> None:
        # `socket.SocketIO` calls this when it is closed.
        self._files -= 1
        if self._close_wanted and self._files <= 0:
            self._end("the connection is closed")

    def settimeout(self, seconds: float | None) -> None:
        """Limit each operation to `seconds` by a separate timer: None for no limit, 0 to never wait (`BlockingIOError`)."""
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
        """Whether operations wait at all."""
        return self._timeout != 0

    def fileno(self) -> int:
        """The descriptor, for select and the like; -1 once closed, and in memory.

        Raises `OSError` (EOPNOTSUPP) in TLS, while there is read-ahead and after `as_socket()`: bytes on that descriptor are not this
        stream's, and its readiness is not that of this stream. `as_socket()` has a descriptor that carries the stream.
        """
        number = self._own_descriptor()
        self._number_given = True
        return number

    def _own_descriptor(self) -> int:
        """As `fileno`, for a caller that does not give the number away."""
        own = self._lowest()._own
        if own is not None and own.pump is not None:
            raise OSError(errno.EOPNOTSUPP, "the descriptor does not carry this stream: use the socket that as_socket() returned")
        if isinstance(self._transport, DescriptorTLS | LayeredTLS):
            raise OSError(errno.EOPNOTSUPP, "the descriptor carries TLS records, not this stream: use as_socket()")
        if self._ahead:
            raise OSError(errno.EOPNOTSUPP, "bytes of this stream were read ahead and are not in the descriptor: use as_socket()")
        return self.descriptor()

    def descriptor(self) -> int:
        """The number of the descriptor at the bottom, -1 where there is none. For polls that ask about the peer and not about this stream:
        its bytes and its readiness are not this stream's where there is TLS or read-ahead. Not to be given to code that reads or writes."""
        if isinstance(self._transport, ClosedTransport):
            return -1
        sock = self._transport.socket()
        return -1 if sock is None else sock.fileno()

    def pending(self) -> int:
        """Bytes that can be read without the kernel: read ahead, or decrypted."""
        transport = self._transport
        decrypted = transport.ssl.pending() if isinstance(transport, DescriptorTLS | LayeredTLS) else 0
        return len(self._ahead or b"") + decrypted

    def dup(self) -> "gevent.socket.socket":
        """A socket with another descriptor of the same stream, which ends when both are closed. The limits of this connection do not hold
        there. Raises `OSError` (EOPNOTSUPP) in memory, and where `fileno` does."""
        number = os.dup(self._present())
        return gevent.socket.socket(self.family, self.type, self.proto, fileno=number)

    def get_inheritable(self) -> bool:
        """Whether programs that this process starts have the descriptor."""
        number = self.descriptor()
        return number >= 0 and os.get_inheritable(number)

    def set_inheritable(self, inheritable: bool) -> None:
        """Let programs that this process starts have the descriptor, or not. True raises `OSError` (EOPNOTSUPP) as `dup` does."""
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
        """The peer's address as the kernel knows it; `client` in memory."""
        sock = self._transport.socket()
        return self.client if sock is None else cast(Address, sock.getpeername())

    def getsockname(self) -> Address:
        """Our address as the kernel knows it; `server` in memory."""
        sock = self._transport.socket()
        return self.server if sock is None else cast(Address, sock.getsockname())

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        """Set an option of the socket at the bottom; nothing in memory."""
        sock = self._transport.socket()
        if sock is not None:
            sock.setsockopt(level, option, value)

    def getsockopt(self, level: int, option: int, length: int = 0) -> int | bytes:
        """An option of the socket at the bottom. `OSError` (ENOPROTOOPT) in memory."""
        sock = self._transport.socket()
        if sock is None:
            raise OSError(errno.ENOPROTOOPT, "a stream in memory has no socket options")
        return sock.getsockopt(level, option, length) if length else sock.getsockopt(level, option)

    @property
    def family(self) -> int:
        """Address family of the socket at the bottom; AF_UNIX in memory."""
        sock = self._transport.socket()
        return socket_module.AF_UNIX if sock is None else sock.family

    @property
    def type(self) -> int:
        """Always SOCK_STREAM."""
        return socket_module.SOCK_STREAM

    @property
    def proto(self) -> int:
        """Protocol number of the socket at the bottom; 0 in memory."""
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
        """The protocol id that ALPN agreed on; None without, and on a plain connection."""
        tls = self.tls
        return None if tls is None else tls.alpn

    def getpeercert(self, binary_form: bool = False) -> "dict[str, Any] | bytes | None":
        """The peer's certificate: in DER, or as a dict like that of `ssl.SSLSocket.getpeercert`, with both names, validity, serial number
        and alternative names. None where it has none.

        The dict is empty where the certificate was not verified. `tls.peer_certificate` has more.
        """
        tls = self.tls
        certificate = None if tls is None else tls.peer_certificate
        if tls is None or certificate is None:
            return None
        if binary_form:
            return in_der(certificate)
        return as_dict(certificate) if tls.peer_verified else {}

    # Limits in time, kept by the sweeper (see `Lifeline`)

    @property
    def deadline(self) -> float:
        """Absolute `time.monotonic()` seconds. A wait that lasts longer raises `Expired`, noticed within about a second.

        It stays in the past until it is moved: code that catches `Expired` to send something sets a new one first.
        """
        return self.lifeline.deadline

    @deadline.setter
    def deadline(self, value: float) -> None:
        self.lifeline.deadline = value

    @property
    def idle_timeout(self) -> float | None:
        """Seconds without a byte in either direction until waits raise `Expired`; None for no limit."""
        return self.lifeline.idle_timeout

    @idle_timeout.setter
    def idle_timeout(self, seconds: float | None) -> None:
        self.lifeline.idle_timeout = seconds

    @property
    def resting(self) -> bool:
        """Set while waiting for a new message, when closing would lose nothing: the wait raises `Draining` at shutdown."""
        return self.lifeline.resting

    @resting.setter
    def resting(self, value: bool) -> None:
        self.lifeline.resting = value
