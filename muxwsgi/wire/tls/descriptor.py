"""`DescriptorTLS`: pyOpenSSL on a descriptor. The package's docstring has the states and the rules."""

import errno
import socket as socket_module
from time import monotonic
from typing import Any

from OpenSSL import SSL

from muxwsgi.wire.lifeline import Lifeline
from muxwsgi.wire.tls.openssl import (
    RECORD,
    address,
    as_os_error,
    fail,
    forget_errors,
    functions,
    handshake_error,
    read,
    return_after_each_record,
    write,
)
from muxwsgi.wire.tls.transport import left
from muxwsgi.wire.transport import BYTES_PER_TURN, Buffer, SocketTransport, WriteTurn

__all__ = ["DescriptorTLS"]

#: Records without data that one non-blocking read skips.
RECORDS_PASSED = 1000

# In the compiled build `_is_compiled`, `_receive`, `_receive_into`, `_transmit`, `_transmit_more` and `_shake` are C functions, and the
# compiler refuses an assignment to one. So `globals()` sets this one here.
globals().update(_is_compiled=lambda: False)

SSL_READ, SSL_WRITE, SSL_DO_HANDSHAKE, SSL_GET_ERROR = functions() if _is_compiled() else (0, 0, 0, 0)  # type: ignore[name-defined]  # noqa: F821


class DescriptorTLS:
    """TLS in which OpenSSL itself reads records from the socket and writes them to it. It owns the socket."""

    __slots__ = ("_address", "_broken", "_drained", "_reader", "_sock", "_turn", "lifeline", "ssl", "truncated")

    def __init__(self, below: SocketTransport, ssl: SSL.Connection) -> None:
        """`ssl` was made for `below.socket()`, whose bytes are all still in the kernel."""
        self.ssl = ssl
        self._address = address(ssl) if SSL_READ else 0  # 0 in plain Python
        self.lifeline: Lifeline = below.lifeline
        self._reader = below.lifeline.reader
        self._sock = below.socket()
        self._turn = WriteTurn(below.lifeline, self._sock)
        self._drained = False
        self._broken = False
        self.truncated = False
        return_after_each_record(ssl)

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
                        fail(self.ssl, shaken)
                    line.reader.wait()
                except SSL.WantReadError:
                    line.reader.wait()
                except SSL.WantWriteError:
                    line.writer.wait()
        except SSL.Error as error:
            self._broken = True
            raise handshake_error(error) from error
        except BaseException:
            self._broken = True
            raise

    def recv(self, n: int, timeout: float | None) -> bytes:
        data: bytes = self._read(n, None, timeout)
        return data

    def recv_into(self, view: memoryview, timeout: float | None) -> int:
        if self._address:
            count: int = self._read(len(view), view, timeout)
            return count
        # pyOpenSSL's recv_into also reads into a separate buffer and copies.
        data = self.recv(len(view), timeout)
        view[: len(data)] = data
        return len(data)

    def _read(self, n: int, view: memoryview | None, timeout: float | None) -> Any:
        """Up to `n` bytes, or into `view` how many. b"" or 0 at the end of the stream."""
        give_up = monotonic() + timeout if timeout else None
        passed = 0
        if self._drained and timeout != 0:
            self._reader.wait(timeout)
        while True:
            try:
                if view is not None:
                    data = _receive_into(self._address, view)  # type: ignore[name-defined]  # noqa: F821
                else:
                    data = _receive(self._address, n) if self._address else read(self.ssl, n)  # type: ignore[name-defined]  # noqa: F821
                if type(data) is tuple:
                    fail(self.ssl, data)
            except SSL.WantReadError:
                data = None
            except SSL.Error as error:
                if self._read_again(error, timeout if give_up is None else max(give_up - monotonic(), 0.001)):
                    continue
                return b"" if view is None else 0
            if data is None:  # nothing is there: the compiled build returns None instead of raising an exception
                if timeout == 0 and passed < RECORDS_PASSED:
                    # The record may have had no data. A non-blocking read goes on with the next record.
                    self._sock.recv(1, socket_module.MSG_PEEK)  # BlockingIOError if there are no bytes
                    passed += 1
                    continue
                self._reader.wait(timeout if give_up is None else left(give_up))
                continue
            size = len(data) if view is None else data
            self._drained = size < n and size < RECORD
            return data

    def _read_again(self, error: SSL.Error, timeout: float | None) -> bool:
        """Whether to read once more after `error`. False at the end of the stream. Raises for every fault."""
        if isinstance(error, SSL.WantWriteError):
            # The answer to a KeyUpdate does not fit into the send buffer. A blocked writer, if any, sends it with its bytes.
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
        raise as_os_error(error) from error

    def sendall(self, data: Buffer, timeout: float | None) -> None:
        self._check()
        turn = self._turn
        if 0 < len(data) <= RECORD and (turn.lock is None or not turn.taken):
            try:
                if self._address and type(data) is bytes:
                    sent = _transmit(self._address, data)  # type: ignore[name-defined]  # noqa: F821
                    if type(sent) is tuple:
                        fail(self.ssl, sent)
                else:
                    sent = write(self.ssl, data)
                turn.sent += sent
                if turn.sent > BYTES_PER_TURN:
                    turn.yield_turn()
                return
            except SSL.WantWriteError:
                pass  # the record is made and partly sent, so the write must be repeated below with the same bytes
            except SSL.Error as error:
                self._broken = True
                raise as_os_error(error) from error
        self._send_waiting(b"", memoryview(data), timeout)

    def sendall_gathered(self, head: bytes, data: bytes, timeout: float | None) -> None:
        """As `sendall(head + data)`, without joining more than the first record."""
        self._check()
        room = RECORD - len(head)
        self._send_waiting(head + data[:room], memoryview(data)[room:], timeout)

    def _send_waiting(self, first: bytes, view: memoryview, timeout: float | None) -> None:
        """Send `first` and then `view`."""
        torn = False
        size = len(first)

        def send_more(done: int) -> int:
            nonlocal torn
            self._check()  # another greenlet may have closed it while this one waited for its turn
            torn = True
            try:
                if self._address and done >= size:
                    sent = _transmit_more(self._address, view, done - size)  # type: ignore[name-defined]  # noqa: F821
                    if type(sent) is tuple:
                        fail(self.ssl, sent)
                    torn = done - size + sent < len(view)  # the next record may be made and partly sent
                    return int(sent)
                sent = self.ssl.send(first[done:] if done < size else view[done - size :])
            except SSL.WantWriteError:
                raise BlockingIOError(errno.EAGAIN, "would block") from None
            except SSL.Error as error:
                raise as_os_error(error) from error
            torn = False
            return sent

        try:
            self._turn.write(send_more, size + len(view), timeout)
        finally:
            if torn:
                self._broken = True

    def _check(self) -> None:
        """Raise if the layer cannot be written to. OpenSSL keeps the descriptor's number, and after a close another file may have it. So
        this check comes between the last wait and each call into OpenSSL."""
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
                        raise as_os_error(error) from error
        self._sock.shutdown(how)

    def abandon(self) -> None:
        self._broken = True

    def close(self) -> None:
        if not self._broken and not self._turn.taken:
            try:
                self.ssl.shutdown()
            except SSL.Error:
                forget_errors()  # the peer is gone or its window is full: the stream ends without close_notify
        self._broken = True
        self.lifeline.close()
        self._sock.close()

    def socket(self) -> socket_module.socket:
        return self._sock
