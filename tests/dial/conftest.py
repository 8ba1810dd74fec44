"""Places to dial: a server that says who it is, addresses at which nobody ever answers; and a dialer, after which nothing may be left."""

import gc
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gevent
import gevent.server
import pytest

from muxwsgi.dial.dialer import Dialer, Dialled, DialSettings
from muxwsgi.dial.guard import Guard
from muxwsgi.dial.resolve import Resolver, system_resolver
from muxwsgi.dial.upstream_choice import UpstreamChoice
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.relay_engine import engine_here
from muxwsgi.wire.sweeper import Sweeper

DialerMaker = Callable[..., Dialer]


def open_sockets() -> set[str]:
    """The sockets and epoll descriptors of this process, by inode and number."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:  # the folder's own
            continue
        if target.startswith("socket:") or "eventpoll" in target:
            found.add(f"{fd} {target}")
    return found


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """What the test opens, it has closed at its end."""
    gevent.get_hub().threadpool  # noqa: B018  # the hub's own descriptors come first
    engine_here()  # its epoll stays
    before = open_sockets()
    yield
    with gevent.Timeout(10):
        while open_sockets() - before:
            gevent.sleep(0.01)
            gc.collect()


@pytest.fixture
def sweeper() -> Iterator[Sweeper]:
    sweeper = Sweeper()
    sweeper.start()
    yield sweeper
    sweeper.stop()


@pytest.fixture
def make_dialer(sweeper: Sweeper) -> DialerMaker:
    def make(
        resolver: Resolver = system_resolver,
        guard: Guard | None = None,
        choice: UpstreamChoice | None = None,
        connect_timeout: float = 10.0,
        **settings: Any,
    ) -> Dialer:
        return Dialer(DialSettings(**settings), guard or Guard(), choice or UpstreamChoice(), resolver, sweeper, connect_timeout=connect_timeout)

    return make


def zone(names: Mapping[str, Sequence[str]]) -> Resolver:
    """A resolver that knows `names`."""

    def resolve(host: str, port: int) -> list[tuple[int, str]]:
        if host not in names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip) for ip in names[host]]

    return resolve


class Greeter:
    """Servers on the same port of several addresses. Each says "hello from ADDRESS", then echoes."""

    def __init__(self, *ips: str) -> None:
        self.accepted: list[str] = []
        self.port = 0
        self._servers = []
        for ip in ips:
            server = gevent.server.StreamServer(socket_on(ip, self.port), self._serve)
            server.start()
            self.port = server.address[1]
            self._servers.append(server)

    def _serve(self, sock: Any, _: object) -> None:
        ip = sock.getsockname()[0]
        self.accepted.append(ip)
        with sock:
            sock.sendall(f"hello from {ip}\n".encode())
            while data := sock.recv(65536):
                sock.sendall(data)

    def stop(self) -> None:
        for server in self._servers:
            server.stop()


def socket_on(ip: str, port: int, backlog: int = 128) -> Any:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    listening = gevent.socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listening.bind((ip, port))
    listening.listen(backlog)
    return listening


@pytest.fixture
def greeter() -> Iterator[Greeter]:
    greeter = Greeter("127.0.0.1")
    yield greeter
    greeter.stop()


class BlackHole:
    """A port at which connecting never ends: listened to by somebody who accepts nothing, and whose queue is full."""

    def __init__(self, ip: str, port: int = 0) -> None:
        self._listening = socket_on(ip, port, backlog=0)
        self.port: int = self._listening.getsockname()[1]
        self._callers = []
        for _ in range(20):
            caller = socket.socket(self._listening.family, socket.SOCK_STREAM)
            self._callers.append(caller)
            caller.settimeout(0.2)
            try:
                caller.connect((ip, self.port))
            except TimeoutError:
                return
        raise AssertionError("the queue does not fill")

    def open(self) -> None:
        """Make room in the queue, so that whoever knocks again is let in."""
        self._listening.listen(128)

    def close(self) -> None:
        for sock in (self._listening, *self._callers):
            sock.close()


def greeting(dialled: Dialled) -> str:
    """What the server says, up to the line's end. Closes the connection after it has echoed."""
    connection: Connection = dialled.connection
    connection.settimeout(10)
    with connection, connection.makefile("rb") as lines:
        text = lines.readline().decode().rstrip()
        connection.sendall(b"and back\n")
        assert lines.readline() == b"and back\n"
    return text
