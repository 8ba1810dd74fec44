"""Clients that know of no proxy, on a network of their own: REDIRECT and TPROXY, IPv4 and IPv6."""

import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import gevent.socket
import pytest

from muxwsgi import Server
from muxwsgi.errors import PeerError
from muxwsgi.proxy.context import Door
from muxwsgi.proxy.doors.access import Access
from muxwsgi.proxy.doors.door import Reply
from muxwsgi.proxy.doors.transparent import TransparentDoor, Way, original_destination
from muxwsgi.proxy.fault import Fault, Phase
from muxwsgi.server.binds import make_transparent
from muxwsgi.settings import BindSettings
from muxwsgi.testing import connection_pair
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.listener import Listener
from muxwsgi.wire.relay import relay
from tests.proxy.doors.conftest import page
from tests.proxy.doors.netns import CLIENT, ROUTER, SERVER, Lab

WILDCARD = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
FAMILIES = [pytest.param(socket.AF_INET, id="IPv4"), pytest.param(socket.AF_INET6, id="IPv6")]

ways = pytest.mark.parametrize("way", ["redirect", "tproxy"])
families = pytest.mark.parametrize("family", FAMILIES)


class Router:
    """A transparent door on the router, which all of the client's connections are sent to."""

    def __init__(self, lab: Lab, way: Way, host: str, *, open: Any = None, access: Access | None = None, dual: bool = False) -> None:
        self.lab = lab
        self.errors: list[Exception] = []
        listening = lab.router.listen(host, dual=dual)
        self.port = int(listening.getsockname()[1])
        if way == "tproxy":
            make_transparent(listening)
            lab.tproxy(self.port)
        else:
            lab.redirect(self.port)
        self.door = TransparentDoor(access or Access(open=True), open or self.tell, way, listening.getsockname())
        self.listener = Listener(listening, self._serve)
        self.listener.start()

    def _serve(self, connection: Connection) -> None:
        try:
            self.door(connection)
        except (PeerError, OSError, RuntimeError) as error:
            self.errors.append(error)
        finally:
            connection.finish()

    def tell(self, connection: Connection, door: Door, destination: tuple[str, int], reply: Reply) -> None:
        """Tell the client where it wanted to go."""
        assert connection.destination == destination
        reply(None)
        connection.sendall(f"{door} of {connection.client[0]} to {destination[0]} port {destination[1]}\n".encode())

    def pass_on(self, connection: Connection, door: Door, destination: tuple[str, int], reply: Reply) -> None:
        """Relay to where it wanted to go."""
        try:
            upstream = Connection.from_socket(self.lab.router.connect(*destination))
        except OSError as error:
            reply(Fault(Phase.CONNECT, str(error)))
            return
        try:
            reply(None)
            relay(connection, upstream)
        finally:
            upstream.finish()


@pytest.fixture
def router(lab: Lab) -> Iterator[Callable[..., Router]]:
    made: list[Router] = []

    def make(*arguments: Any, **more: Any) -> Router:
        made.append(Router(lab, *arguments, **more))
        return made[-1]

    yield make
    for one in made:
        one.listener.close()


def hear(sock: "gevent.socket.socket") -> str:
    with sock:
        heard = b""
        while data := sock.recv(1000):
            heard += data
        return heard.decode()


def is_reset(lab: Lab, host: str, port: int) -> bool:
    """Whether the client's connection to there is reset. That may come as soon as it is made, before there is a socket to read from."""
    try:
        with lab.client.connect(host, port) as sock:
            sock.recv(1)
    except ConnectionResetError:
        return True
    return False


@ways
@families
def test_the_door_sees_where_a_client_wanted_to_go_that_knows_of_no_proxy(way: Way, family: int, lab: Lab, router: Callable[..., Router]) -> None:
    one = router(way, WILDCARD[family])
    for port in (80, 443, 12345, one.port):  # nobody listens there
        assert hear(lab.client.connect(SERVER[family], port)) == f"{way} of {CLIENT[family]} to {SERVER[family]} port {port}\n"
    assert not one.errors


@ways
def test_one_listening_socket_may_serve_both_versions_of_ip(way: Way, lab: Lab, router: Callable[..., Router]) -> None:
    router(way, "::", dual=True)
    assert hear(lab.client.connect("10.77.2.2", 80)) == f"{way} of 10.77.1.2 to 10.77.2.2 port 80\n"
    assert hear(lab.client.connect("fd77:2::2", 80)) == f"{way} of fd77:1::2 to fd77:2::2 port 80\n"


@ways
@families
def test_who_connects_to_the_proxy_itself_is_not_sent_round_in_circles(way: Way, family: int, lab: Lab, router: Callable[..., Router]) -> None:
    one = router(way, ROUTER[family])
    assert is_reset(lab, ROUTER[family], one.port)
    (error,) = one.errors
    assert isinstance(error, PeerError)
    assert error.status == 508
    assert f"connected to the proxy itself, at {ROUTER[family]} port {one.port}" in error.reason


@ways
@families
def test_the_same_holds_where_the_proxy_listens_on_every_address(way: Way, family: int, lab: Lab) -> None:
    # In a process of its own: which addresses are local, a process asks where it lives.
    door = lab.router.popen(sys.executable, "-m", "tests.proxy.doors.lonely_door", way, WILDCARD[family], stdout=subprocess.PIPE)
    port = int(door.stdout.readline())
    (lab.tproxy if way == "tproxy" else lab.redirect)(port)
    assert is_reset(lab, ROUTER[family], port)
    assert door.stdout.readline() == f"508: the client connected to the proxy itself, at {ROUTER[family]} port {port}\n"
    assert hear(lab.client.connect(SERVER[family], port)) == f"{way} to {SERVER[family]} port {port}\n"


@ways
@families
def test_curl_that_knows_of_no_proxy_fetches_a_page(way: Way, family: int, lab: Lab, router: Callable[..., Router]) -> None:
    one = router(way, WILDCARD[family])
    one.door._open = one.pass_on
    listening = lab.server.listen(SERVER[family], 80)
    server = Server(page, [BindSettings(fd=listening.detach())])
    server.start()
    host = f"[{SERVER[family]}]" if family == socket.AF_INET6 else SERVER[family]
    try:
        done = lab.client.run("curl", "-sS", "-g", "-m", "20", f"http://{host}/")
    finally:
        server.stop(0)
    assert done.stdout == f"the page of {host}\n", done.stderr
    assert not one.errors


@ways
def test_a_destination_that_does_not_answer_is_a_reset_and_no_empty_answer(way: Way, lab: Lab, router: Callable[..., Router]) -> None:
    one = router(way, "0.0.0.0")
    one.door._open = one.pass_on
    assert is_reset(lab, SERVER[socket.AF_INET], 80)
    assert not one.errors


def test_a_fault_that_open_raises_is_a_reset_too(lab: Lab, router: Callable[..., Router]) -> None:
    def opens(*_: Any) -> None:
        raise Fault(Phase.POLICY, "not there")

    router("redirect", "0.0.0.0", open=opens)
    assert is_reset(lab, SERVER[socket.AF_INET], 80)


def test_an_address_that_may_not_use_the_proxy_is_not_passed_on(lab: Lab, router: Callable[..., Router]) -> None:
    one = router("redirect", "0.0.0.0", access=Access(allow=["10.77.2.0/24"]))
    assert is_reset(lab, SERVER[socket.AF_INET], 80)
    assert [error.status for error in one.errors] == [403]


def test_what_the_client_says_first_is_still_in_the_kernel(lab: Lab, router: Callable[..., Router]) -> None:
    def opens(connection: Connection, door: Door, destination: tuple[str, int], reply: Reply) -> None:
        reply(None)
        sock, ahead = connection.detach()
        with sock:
            assert ahead == b""
            sock.sendall(sock.recv(100).upper())

    router("tproxy", "0.0.0.0", open=opens)
    with lab.client.connect(SERVER[socket.AF_INET], 25) as sock:
        sock.sendall(b"helo")
        assert sock.recv(100) == b"HELO"


def test_without_a_redirect_everybody_connects_to_us() -> None:
    for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
        with socket.create_server((host, 0), family=family) as listening, socket.create_connection(listening.getsockname()[:2]):
            accepted, _ = listening.accept()
            with accepted:
                for way in ("redirect", "tproxy"):
                    with pytest.raises(Fault, match="connected to the proxy itself") as refused:
                        original_destination(accepted, way, listening.getsockname())  # type: ignore[arg-type]
                    assert refused.value.phase is Phase.LOOP


def test_a_stream_that_is_no_tcp_was_not_redirected() -> None:
    left, right = socket.socketpair()
    with left, right, pytest.raises(Fault):
        original_destination(left, "redirect", left.getsockname())
    near, far = connection_pair()
    with near, far, pytest.raises((Fault, OSError)):
        original_destination(near, "redirect", near.server)


def test_a_transparent_socket_takes_a_capability_that_the_error_names() -> None:
    program = (
        "import socket; from muxwsgi.server.binds import make_transparent; from muxwsgi.errors import OperatorError\n"
        "for family in (socket.AF_INET, socket.AF_INET6):\n"
        "    try: make_transparent(socket.socket(family))\n"
        "    except OperatorError as error: print(error)\n"
    )
    without = ["setpriv", "--bounding-set", "-net_admin,-net_raw", "--inh-caps", "-net_admin,-net_raw"]
    done = subprocess.run([*without, sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert re.findall("CAP_NET_ADMIN", done.stdout) == ["CAP_NET_ADMIN"] * 2, done
