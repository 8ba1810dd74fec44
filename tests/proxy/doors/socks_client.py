"""What SOCKS clients say, and a dialogue with the door in memory."""

import socket
import struct
from ipaddress import ip_address
from typing import Any

import gevent

from muxwsgi.errors import PeerError
from muxwsgi.proxy.doors.access import Access, one_user
from muxwsgi.proxy.doors.socks import SocksDoor
from muxwsgi.proxy.fault import Fault
from muxwsgi.testing import connection_pair
from muxwsgi.wire.connection import Connection

GREETING = b"\x05\x01\x00"
ANN = Access(one_user("ann", "pass word:1"))


def request5(host: str, port: int, command: int = 1) -> bytes:
    try:
        address = ip_address(host)
    except ValueError:
        return bytes((5, command, 0, 3, len(host))) + host.encode() + struct.pack("!H", port)
    return bytes((5, command, 0, 1 if address.version == 4 else 4)) + address.packed + struct.pack("!H", port)


def request4(host: str, port: int, user: bytes = b"", command: int = 1) -> bytes:
    try:
        return struct.pack("!BBH4s", 4, command, port, ip_address(host).packed) + user + b"\0"
    except ValueError:
        return struct.pack("!BBH4s", 4, command, port, b"\0\0\0\x07") + user + b"\0" + host.encode() + b"\0"


def login(user: bytes, password: bytes) -> bytes:
    return b"\x01" + bytes((len(user),)) + user + bytes((len(password),)) + password


class Dialogue:
    """A door with a client in memory: what the client is told, and what `open` was called with."""

    def __init__(self, access: Access | None = None, fault: Fault | None = None, open: Any = None) -> None:
        self.opened: list[tuple[str, tuple[str, int]]] = []
        self.fault = fault
        self.door = SocksDoor(access or Access(), open or self._open)
        self.near, self.far = connection_pair()

    def _open(self, connection: Connection, door: str, destination: tuple[str, int], reply: Any) -> None:
        self.opened.append((door, destination))
        reply(self.fault)
        while self.fault is None and (data := connection.recv()):
            connection.sendall(data.upper())

    def run(self, *parts: bytes) -> tuple[bytes, BaseException | None]:
        """Say `parts`, end the stream; all that is answered, and what the door raised."""
        serve = self.door.serve_socks5 if parts[0][:1] == b"\x05" else self.door.serve_socks4

        def served() -> BaseException | None:
            try:
                serve(self.near)
            except (PeerError, OSError, RuntimeError) as error:
                return error
            finally:
                self.near.finish()
            return None

        serving = gevent.spawn(served)
        for part in parts:
            try:
                self.far.sendall(part)
            except BrokenPipeError:
                break
            gevent.sleep(0)
        self.far.shutdown(socket.SHUT_WR)
        answer = b""
        while data := self.far.recv():
            answer += data
        self.far.finish()
        return answer, serving.get()
