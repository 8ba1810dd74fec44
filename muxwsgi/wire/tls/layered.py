"""`LayeredTLS`: pyOpenSSL through memory BIOs, over any transport. The package's docstring has the states and the rules."""

import errno
import socket as socket_module
from time import monotonic

from OpenSSL import SSL

from muxwsgi.errors import HandshakeError
from muxwsgi.wire.lifeline import Lifeline
from muxwsgi.wire.ready import give_turn
from muxwsgi.wire.tls.descriptor import DescriptorTLS
from muxwsgi.wire.tls.openssl import RECORD, as_os_error, forget_errors, handshake_error
from muxwsgi.wire.tls.transport import left
from muxwsgi.wire.transport import Buffer, Transport, WriteTurn, note_sent

__all__ = ["LayeredTLS"]

#: Bytes of plaintext that are encrypted before the records are sent, and bytes of one read from the transport below.
BLOCK = 4 * RECORD


class LayeredTLS:
    """TLS through memory BIOs, over any transport."""

    __slots__ = ("_below", "_broken", "_turn", "lifeline", "ssl", "truncated")

    def __init__(self, below: Transport, ssl: SSL.Connection, ahead: bytes) -> None:
        """`ssl` was made without a socket. `ahead` are the bytes that were already read from `below`."""
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
        except (SSL.Error, HandshakeError) as error:  # HandshakeError: from one of our callbacks
            try:
                self._flush(None)  # the alert with the reason
            finally:
                self._broken = True
            if isinstance(error, HandshakeError):
                forget_errors()
                raise
            raise handshake_error(error) from error
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
                    timeout = left(give_up)
                if not self._broken:
                    self._flush(timeout)  # the answer to a KeyUpdate
                if block == RECORD and timeout != 0:
                    give_turn()  # the record had no data, and a flood of such records would occupy the worker
                self._fill(timeout, block)
                block = RECORD
            except SSL.ZeroReturnError:
                return b""
            except SSL.Error as error:
                self._broken = True
                if isinstance(error, SSL.SysCallError) and error.args[0] <= 0:
                    self.truncated = True
                    return b""
                raise as_os_error(error) from error

    def recv_into(self, view: memoryview, timeout: float | None) -> int:
        data = self.recv(len(view), timeout)
        view[: len(data)] = data
        return len(data)

    def _fill(self, timeout: float | None, block: int = BLOCK) -> None:
        """Read at most `block` bytes from the transport below, and give them to OpenSSL."""
        data = self._below.recv(block, timeout)
        if data:
            self.ssl.bio_write(data)
        else:
            self.ssl.bio_shutdown()

    def _flush(self, timeout: float | None) -> None:
        """Send OpenSSL's records to the transport below. If another writer is doing that, return: it sends all of them."""
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
                self._broken = True  # the records were taken out of OpenSSL, and some of them are lost
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
                    raise as_os_error(error) from error
                try:
                    self._drain_down(timeout)
                except BaseException as error:
                    note_sent(error, begin)  # bytes of this layer: the layer below has noted bytes of records
                    raise

    def shutdown(self, how: int, timeout: float | None) -> None:
        if how != socket_module.SHUT_RD and not self._broken:
            with self._turn.take():
                try:
                    self.ssl.shutdown()
                except SSL.Error as error:
                    self._broken = True
                    raise as_os_error(error) from error
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
                pass  # the peer is gone or its window is full: the stream ends without close_notify
        self._broken = True
        self._below.close()

    def socket(self) -> socket_module.socket | None:
        return self._below.socket()
