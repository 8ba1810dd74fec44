"""A SOCKS server for tests: SOCKS4, 4a and 5 with CONNECT, written from RFC 1928 and 1929 and nothing of ours."""

import socket
import struct
from collections.abc import Mapping
from typing import Any

import gevent
import gevent.server
import gevent.socket


class SocksServer:
    """On 127.0.0.1. `names` is what it resolves; with `credentials` it lets nobody else in.

    asked       (version, host, port) of each request, as it came
    """

    def __init__(self, names: Mapping[str, str], credentials: tuple[bytes, bytes] | None = None) -> None:
        self.asked: list[tuple[int, str, int]] = []
        self._names = names
        self._credentials = credentials
        self._server = gevent.server.StreamServer(("127.0.0.1", 0), self._serve)
        self._server.start()
        self.port: int = self._server.address[1]

    def stop(self) -> None:
        self._server.stop()

    def _serve(self, sock: Any, _: object) -> None:
        with sock, sock.makefile("rb", 0) as file, gevent.Timeout(60):
            version = file.read(1)
            if version == b"\x05":
                self._socks5(sock, file)
            elif version == b"\x04":
                self._socks4(sock, file)

    def _socks5(self, sock: Any, file: Any) -> None:
        methods = file.read(file.read(1)[0])
        wanted = 2 if self._credentials else 0
        if wanted not in methods:
            sock.sendall(b"\x05\xff")
            return
        sock.sendall(bytes([5, wanted]))
        if self._credentials:
            assert file.read(1) == b"\x01"
            user, password = file.read(file.read(1)[0]), file.read(file.read(1)[0])
            right = (user, password) == self._credentials
            sock.sendall(b"\x01\x00" if right else b"\x01\x01")
            if not right:
                return
        assert file.read(3) == b"\x05\x01\x00"
        kind = file.read(1)[0]
        if kind == 1:
            host = socket.inet_ntoa(file.read(4))
        elif kind == 4:
            host = socket.inet_ntop(socket.AF_INET6, file.read(16))
        else:
            host = file.read(file.read(1)[0]).decode()
        (port,) = struct.unpack("!H", file.read(2))
        self.asked.append((5, host, port))
        reply = self._through(sock, self._names.get(host, host if kind != 3 else None), port, b"\x05\x00\x00\x03\x09somewhere\x12\x34")
        if reply:
            sock.sendall(bytes([5, reply, 0, 1, 0, 0, 0, 0, 0, 0]))

    def _socks4(self, sock: Any, file: Any) -> None:
        command, port, address = struct.unpack("!BH4s", file.read(7))
        assert command == 1
        user = self._word(file)
        host = socket.inet_ntoa(address)
        target: str | None = host
        if address[:3] == b"\0\0\0" and address[3]:
            host = self._word(file).decode()
            target = self._names.get(host)
        self.asked.append((4, host, port))
        if self._credentials and user != self._credentials[0]:
            sock.sendall(b"\x00\x5d" + bytes(6))
        elif self._through(sock, target, port, b"\x00\x5a" + bytes(6)):
            sock.sendall(b"\x00\x5b" + bytes(6))

    @staticmethod
    def _word(file: Any) -> bytes:
        word = b""
        while (byte := file.read(1)) not in (b"", b"\0"):
            word += byte
        return word

    def _through(self, sock: Any, target: str | None, port: int, success: bytes) -> int:
        """Relay to the target until both ends have ended; 0, or the SOCKS5 reply where that is not to be had."""
        if target is None:
            return 4
        try:
            upstream = gevent.socket.create_connection((target, port), 10)
        except ConnectionRefusedError:
            return 5
        except OSError:
            return 1
        with upstream:
            upstream.settimeout(60)
            sock.sendall(success)
            back = gevent.spawn(self._copy, upstream, sock)
            self._copy(sock, upstream)
            back.join()
        return 0

    @staticmethod
    def _copy(source: Any, sink: Any) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            sink.close()
