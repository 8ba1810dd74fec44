"""TLS transports: pyOpenSSL on a descriptor, and through memory BIOs over any other transport.

The descriptor is the fast way (OpenSSL reads and writes the socket itself) and right whenever the socket's bytes are all still
in the kernel. Once some were read ahead, or below another TLS layer, the memory BIOs serve.

What both must get right:

- After a read that filled its buffer OpenSSL may hold more of the record, which no watcher will announce. Wait only when the last
  read came short.
- A write that was cut off half way (a Timeout, a kill) leaves a torn record. The layer is `broken` then: it can be closed, not
  written to, and no `SSL_shutdown` is tried on it. One writer at a time: see `WriteTurn`.
- Records without application data (KeyUpdate) keep `SSL_read` going inside OpenSSL for as long as the peer sends them. A worker must not
  be in there that long: see `_return_after_each_record`.
- OpenSSL's errors stop here. A peer that ends without close_notify reads as the end of the stream, and the transport is `truncated`
  then; everything else comes out as the `OSError` that the same fault has on a plain socket, or as `TLSError`.
"""

import errno
import os
import socket as socket_module
from time import monotonic
from typing import Any, NoReturn, Protocol

from OpenSSL import SSL

from muxwsgi.errors import HandshakeError, TLSError
from muxwsgi.wire.ready import Lifeline, give_turn
from muxwsgi.wire.transport import BYTES_PER_TURN, Buffer, SocketTransport, Transport, WriteTurn, note_sent

__all__ = ["DescriptorTLS", "LayeredTLS", "TLSTransport"]

#: What one SSL_write can take into one record (RFC 8446 section 5.1).
RECORD = 16384

#: How much plaintext is encrypted before it is handed down, and how much is read from below at once.
BLOCK = 4 * RECORD

#: Records without data that a read which does not wait passes over.
RECORDS_PASSED = 1000


class TLSTransport(Transport, Protocol):
    """A transport that encrypts.

    truncated   the stream has ended without close_notify: anybody on the way may have cut it (RFC 8446 section 6.1)
    """

    ssl: SSL.Connection

    @property
    def truncated(self) -> bool: ...

    def handshake(self) -> None:
        """Complete the handshake. Raises `HandshakeError`, or `Expired` at the connection's deadline."""

    def abandon(self) -> None:
        """Send nothing from here on, close_notify included: the peer is to notice that the stream was cut."""


def _translate(error: SSL.Error) -> OSError:
    """The `OSError` for what OpenSSL reports."""
    _forget_errors()
    if isinstance(error, SSL.SysCallError):
        code = error.args[0]
        if code > 0:
            return OSError(code, os.strerror(code))
        return ConnectionResetError(errno.ECONNRESET, "the peer ended TLS without close_notify")
    return TLSError(errno.EPROTO, _reasons(error))


def _reasons(error: SSL.Error) -> str:
    """OpenSSL's queue of (library, function, reason) as one line."""
    queue = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return "TLS: " + ("; ".join(entry[-1] for entry in queue) or "the layer is unusable after an earlier error")


def _handshake_error(error: SSL.Error) -> HandshakeError:
    _forget_errors()
    if isinstance(error, SSL.SysCallError):
        cause = "the peer went away" if error.args[0] <= 0 else os.strerror(error.args[0])
        return HandshakeError(errno.ECONNABORTED, f"TLS handshake: {cause}")
    return HandshakeError(errno.ECONNABORTED, _reasons(error).replace("TLS:", "TLS handshake:", 1))


def _read(ssl: SSL.Connection, n: int) -> bytes:
    """`ssl.recv(n)`, of one record at most."""
    return ssl.recv(min(n, RECORD))


def _write(ssl: SSL.Connection, data: Buffer) -> int:
    """`ssl.send(data)`."""
    return ssl.send(data)


# Private to pyOpenSSL, None where they should go: `_forget_errors` and `_return_after_each_record` have no public names.
_private = getattr(SSL, "_lib", None)
_clear_error = getattr(_private, "ERR_clear_error", None)
_clear_mode = getattr(_private, "SSL_clear_mode", None)
_AUTO_RETRY = getattr(_private, "SSL_MODE_AUTO_RETRY", 0)


def _forget_errors() -> None:
    """Empty OpenSSL's queue of errors, which the whole thread shares, after a connection has failed.

    For a write that fails below TLS pyOpenSSL takes errno and leaves the queue as it is. The next connection that is looked at would be
    told of it: before OpenSSL 4 as a failure of its own, since then where it ends without close_notify.
    """
    if _clear_error is not None:
        _clear_error()


def _return_after_each_record(ssl: SSL.Connection) -> None:
    """Make `SSL_read` come back (WANT_READ) after a record without application data, where it would read the next one by itself.

    A peer that sends KeyUpdates without end would otherwise have the process to itself: no other greenlet runs, the sweeper included.
    Only on descriptors, where what is left unread is readable. SSL_clear_mode(3) is bound by pyOpenSSL and published for contexts alone,
    which serve memory BIOs too. A test says so where it should go.
    """
    if _clear_mode is not None:
        _clear_mode(ssl._ssl, _AUTO_RETRY)


try:
    # The same without what pyOpenSSL does around the call: errors are looked for only where there is one, and bytes are passed as they
    # are. It saves about 3 us of 33 a request. The names are private: where they should go, the public methods above serve, and a test
    # says so.
    from OpenSSL.SSL import _ffi, _lib, _no_zero_allocator  # type: ignore[attr-defined]

    _SSL_read, _SSL_write, _unpack = _lib.SSL_read, _lib.SSL_write, _ffi.unpack
    _raise_ssl_error = SSL.Connection._raise_ssl_error
    _spare: list[Any] = []

    def _read_direct(ssl: SSL.Connection, n: int) -> bytes:
        # One buffer for all, taken and put back so that two threads never share it: cffi releases the GIL.
        buffer = _spare.pop() if _spare else _no_zero_allocator("char[]", RECORD)
        count = _SSL_read(ssl._ssl, buffer, n if n < RECORD else RECORD)
        if count <= 0:
            _spare.append(buffer)
            _raise_ssl_error(ssl, ssl._ssl, count)
        data: bytes = _unpack(buffer, count)
        _spare.append(buffer)
        return data

    def _write_direct(ssl: SSL.Connection, data: Buffer) -> int:
        if type(data) is not bytes:
            return ssl.send(data)
        count: int = _SSL_write(ssl._ssl, data, len(data))
        if count <= 0:
            _raise_ssl_error(ssl, ssl._ssl, count)
        return count

    read, write = _read_direct, _write_direct
except (ImportError, AttributeError):
    read, write = _read, _write


def _functions() -> tuple[int, int, int, int]:
    """Where SSL_read, SSL_write, SSL_do_handshake and SSL_get_error are, which pyOpenSSL calls through cffi; zeros where nobody says.

    The compiled build calls them there, see tls.pxd: looking up, converting arguments and giving the GIL away for a call that never waits
    cost a tenth of an exchange. The names are private: where they should go, `read` and `write` serve, and a test says so.
    """
    try:
        from cryptography.hazmat.bindings._rust import _openssl

        ffi, lib = _openssl.ffi, _openssl.lib
        if _lib.SSL_ERROR_WANT_READ != 2 or not isinstance(_ffi.errno, int):  # tls.pxd knows the number, `_fail` sets errno
            return 0, 0, 0, 0
        names = ("SSL_read", "SSL_write", "SSL_do_handshake", "SSL_get_error")
        reading, writing, shaking, error = (int(ffi.cast("uintptr_t", ffi.addressof(lib, name))) for name in names)
    except (ImportError, AttributeError, TypeError, NameError):
        return 0, 0, 0, 0
    return reading, writing, shaking, error


def _address(ssl: SSL.Connection) -> int:
    """The SSL* of `ssl`, good for as long as that lives; 0 where it cannot be had, or nothing would be called with it."""
    if not SSL_READ:
        return 0
    try:
        return int(_ffi.cast("uintptr_t", ssl._ssl))
    except (AttributeError, TypeError):
        return 0


def _fail(ssl: SSL.Connection, failed: tuple[int, int]) -> NoReturn:
    """Raise what pyOpenSSL does, for what OpenSSL's function gave back and errno, which is looked for where cffi keeps it."""
    count, _ffi.errno = failed
    _raise_ssl_error(ssl, ssl._ssl, count)
    raise SSL.SysCallError(-1, "Unexpected EOF")  # not reached: it was a failure


# In the compiled build this name is a C function, as are `_receive`, `_transmit` and `_shake`, and an assignment to it would be an error:
# hence by this way around.
globals().update(_is_compiled=lambda: False)

SSL_READ, SSL_WRITE, SSL_DO_HANDSHAKE, SSL_GET_ERROR = _functions() if _is_compiled() else (0, 0, 0, 0)  # type: ignore[name-defined]  # noqa: F821


def _left(give_up: float) -> float:
    """The seconds until `give_up`: a peer that drips a record, or sends none with data, buys no time by it. Raises `TimeoutError`."""
    left = give_up - monotonic()
    if left <= 0:
        raise TimeoutError(errno.ETIMEDOUT, "timed out")
    return left


class DescriptorTLS:
    """TLS whose records OpenSSL reads from and writes to a socket itself. Owns the socket from then on."""

    __slots__ = ("_address", "_broken", "_drained", "_reader", "_sock", "_turn", "lifeline", "ssl", "truncated")

    def __init__(self, below: SocketTransport, ssl: SSL.Connection) -> None:
        """`ssl` was made for `below.socket()`, whose bytes are all still in the kernel."""
        self.ssl = ssl
        self._address = _address(ssl)  # 0 in plain Python
        self.lifeline: Lifeline = below.lifeline
        self._reader = below.lifeline.reader
        self._sock = below.socket()
        self._turn = WriteTurn(below.lifeline, self._sock)
        self._drained = False
        self._broken = False
        self.truncated = False
        _return_after_each_record(ssl)

    def handshake(self) -> None:
        line = self.lifeline
        try:
            while True:
                try:
                    if not self._address:
                        self.ssl.do_handshake()
                        return
                    shaken = _shake(self._address)  # type: ignore[name-defined]  # noqa: F821
                    if shaken is True:
                        return
                    if type(shaken) is tuple:
                        _fail(self.ssl, shaken)
                    line.reader.wait()
                except SSL.WantReadError:
                    line.reader.wait()
                except SSL.WantWriteError:
                    line.writer.wait()
        except SSL.Error as error:
            self._broken = True
            raise _handshake_error(error) from error
        except BaseException:
            self._broken = True
            raise

    def recv(self, n: int, timeout: float | None) -> bytes:
        give_up = monotonic() + timeout if timeout else None
        passed = 0
        if self._drained and timeout != 0:
            self._reader.wait(timeout)
        while True:
            try:
                data = _receive(self._address, n) if self._address else read(self.ssl, n)  # type: ignore[name-defined]  # noqa: F821
                if type(data) is tuple:
                    _fail(self.ssl, data)
            except SSL.WantReadError:
                data = None
            except SSL.Error as error:
                if self._read_again(error, timeout if give_up is None else max(give_up - monotonic(), 0.001)):
                    continue
                return b""
            if data is None:  # nothing to be had: the compiled build tells it without an exception
                if timeout == 0 and passed < RECORDS_PASSED:
                    # It may have been a record without data: who does not wait asks for what is behind it.
                    self._sock.recv(1, socket_module.MSG_PEEK)  # BlockingIOError where there is nothing
                    passed += 1
                    continue
                self._reader.wait(timeout if give_up is None else _left(give_up))
                continue
            size = len(data)
            self._drained = size < n and size < RECORD
            return data

    def recv_into(self, view: memoryview, timeout: float | None) -> int:
        # pyOpenSSL's own recv_into reads into a buffer of its own and copies as well.
        data = self.recv(len(view), timeout)
        view[: len(data)] = data
        return len(data)

    def _read_again(self, error: SSL.Error, timeout: float | None) -> bool:
        """Whether to read once more after `error`; False at the end of the stream, raises for every fault."""
        if isinstance(error, SSL.WantWriteError):
            # The answer to a KeyUpdate does not fit into the send buffer. A blocked writer will take it along.
            with self._turn.take():
                self.lifeline.writer.wait(timeout)
            return True
        self._drained = False  # nothing more comes: a later read must not wait for it
        if isinstance(error, SSL.ZeroReturnError):
            return False
        self._broken = True
        if isinstance(error, SSL.SysCallError) and error.args[0] <= 0:
            self.truncated = True
            return False
        raise _translate(error) from error

    def sendall(self, data: Buffer, timeout: float | None) -> None:
        self._check()
        turn = self._turn
        if turn.lock is None and 0 < len(data) <= RECORD:
            try:
                if self._address and type(data) is bytes:
                    sent = _transmit(self._address, data)  # type: ignore[name-defined]  # noqa: F821
                    if type(sent) is tuple:
                        _fail(self.ssl, sent)
                else:
                    sent = write(self.ssl, data)
                turn.sent += sent
                if turn.sent > BYTES_PER_TURN:
                    turn.yield_turn()
                return
            except SSL.WantWriteError:
                pass  # the record is made and partly sent: the retry below must come, with the same bytes
            except SSL.Error as error:
                self._broken = True
                raise _translate(error) from error
        self._send_waiting(memoryview(data), timeout)

    def _send_waiting(self, view: memoryview, timeout: float | None) -> None:
        torn = False

        def send_more(done: int) -> int:
            nonlocal torn
            self._check()  # another greenlet may have closed it while this one waited for its turn
            torn = True
            try:
                sent = self.ssl.send(view[done:])
            except SSL.WantWriteError:
                raise BlockingIOError(errno.EAGAIN, "would block") from None
            except SSL.Error as error:
                raise _translate(error) from error
            torn = False
            return sent

        try:
            self._turn.write(send_more, len(view), timeout)
        finally:
            if torn:
                self._broken = True

    def _check(self) -> None:
        """Raise where the layer cannot be written to. OpenSSL knows the descriptor by its number, which is somebody else's after a close:
        there is no call into it without this check since the last wait."""
        if self._broken:
            raise BrokenPipeError(errno.EPIPE, "the TLS layer is closed, or broken by an earlier error or an interrupted write")

    def shutdown(self, how: int, timeout: float | None) -> None:
        if how != socket_module.SHUT_RD and not self._broken:
            with self._turn.take():
                while True:
                    self._check()
                    try:
                        self.ssl.shutdown()
                        break
                    except SSL.WantWriteError:
                        self.lifeline.writer.wait(timeout)
                    except SSL.Error as error:
                        self._broken = True
                        raise _translate(error) from error
        self._sock.shutdown(how)

    def abandon(self) -> None:
        self._broken = True

    def close(self) -> None:
        if not self._broken and not self._turn.taken:
            try:
                self.ssl.shutdown()
            except SSL.Error:
                _forget_errors()  # the peer is gone or its window is full: it will see the end without the goodbye
        self._broken = True
        self.lifeline.close()
        self._sock.close()

    def socket(self) -> socket_module.socket:
        return self._sock


class LayeredTLS:
    """TLS through memory BIOs, over any transport."""

    __slots__ = ("_below", "_broken", "_turn", "lifeline", "ssl", "truncated")

    def __init__(self, below: Transport, ssl: SSL.Connection, ahead: bytes) -> None:
        """`ssl` was made without a socket. `ahead` are bytes of `below` that were read already."""
        self.ssl = ssl
        self.lifeline: Lifeline = below.lifeline
        self._below = below
        self._turn = WriteTurn(below.lifeline)
        self._broken = False
        self.truncated = False
        if ahead:
            ssl.bio_write(ahead)

    def handshake(self) -> None:
        try:
            while True:
                try:
                    self.ssl.do_handshake()
                    break
                except SSL.WantReadError:
                    self._flush(None)
                    self._fill(None)
            self._flush(None)
        except (SSL.Error, HandshakeError) as error:  # HandshakeError: one that a callback of ours raised
            try:
                self._flush(None)  # the alert that says why
            finally:
                self._broken = True
            if isinstance(error, HandshakeError):
                _forget_errors()
                raise
            raise _handshake_error(error) from error
        except BaseException:
            self._broken = True
            raise

    def recv(self, n: int, timeout: float | None) -> bytes:
        block = BLOCK
        give_up = monotonic() + timeout if timeout else None
        while True:
            try:
                return self.ssl.recv(n)
            except SSL.WantReadError:
                if give_up is not None:
                    timeout = _left(give_up)
                if not self._broken:
                    self._flush(timeout)  # the answer to a KeyUpdate
                if block == RECORD and timeout != 0:
                    give_turn()  # what came was no data, and a flood of it would keep the worker to itself
                self._fill(timeout, block)
                block = RECORD
            except SSL.ZeroReturnError:
                return b""
            except SSL.Error as error:
                self._broken = True
                if isinstance(error, SSL.SysCallError) and error.args[0] <= 0:
                    self.truncated = True
                    return b""
                raise _translate(error) from error

    def recv_into(self, view: memoryview, timeout: float | None) -> int:
        data = self.recv(len(view), timeout)
        view[: len(data)] = data
        return len(data)

    def _fill(self, timeout: float | None, block: int = BLOCK) -> None:
        """Move what comes from below, at most `block` bytes of it, into OpenSSL."""
        data = self._below.recv(block, timeout)
        if data:
            self.ssl.bio_write(data)
        else:
            self.ssl.bio_shutdown()

    def _flush(self, timeout: float | None) -> None:
        """Move what OpenSSL has to send down, unless a writer is at it: it goes on until nothing is left."""
        if not self._turn.taken:
            with self._turn.take():
                self._drain_down(timeout)

    def _drain_down(self, timeout: float | None) -> None:
        while True:
            try:
                records = self.ssl.bio_read(2 * BLOCK)
            except SSL.WantReadError:
                return
            try:
                self._below.sendall(records, timeout)
            except BaseException:
                self._broken = True  # the records are out of OpenSSL, and part of them is lost
                raise

    def sendall(self, data: Buffer, timeout: float | None) -> None:
        view = memoryview(data)
        with self._turn.take():
            if self._broken:
                raise BrokenPipeError(errno.EPIPE, "the TLS layer is broken by an earlier error or an interrupted write")
            done = 0
            while done < len(view):
                begin = done
                try:
                    block_end = min(done + BLOCK, len(view))
                    while done < block_end:
                        done += self.ssl.send(view[done:block_end])
                except SSL.Error as error:
                    self._broken = True
                    raise _translate(error) from error
                try:
                    self._drain_down(timeout)
                except BaseException as error:
                    note_sent(error, begin)  # of this layer's bytes; what the one below has noted are records
                    raise

    def shutdown(self, how: int, timeout: float | None) -> None:
        if how != socket_module.SHUT_RD and not self._broken:
            with self._turn.take():
                try:
                    self.ssl.shutdown()
                except SSL.Error as error:
                    self._broken = True
                    raise _translate(error) from error
                self._drain_down(timeout)
        self._below.shutdown(how, timeout)

    def abandon(self) -> None:
        self._broken = True
        if isinstance(self._below, DescriptorTLS | LayeredTLS):
            self._below.abandon()

    def close(self) -> None:
        if not self._broken and not self._turn.taken:
            try:
                self.ssl.shutdown()
                self._drain_down(0)
            except (SSL.Error, OSError):
                pass  # the peer is gone or its window is full: it will see the end without the goodbye
        self._broken = True
        self._below.close()

    def socket(self) -> socket_module.socket | None:
        return self._below.socket()
