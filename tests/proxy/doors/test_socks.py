"""SOCKS 4, 4a and 5: the matchers, the dialogue, and curl."""

import math
import socket
import struct
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import gevent.subprocess
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxwsgi import Server
from muxwsgi.errors import PeerError
from muxwsgi.mux import matchers
from muxwsgi.mux.match import Match
from muxwsgi.proxy.access import Access, one_user
from muxwsgi.proxy.fault import Fault, Phase
from muxwsgi.proxy.socks import SocksDoor, socks4, socks5
from muxwsgi.settings import BindSettings, CertificateFiles, ServerSettings
from muxwsgi.testing import connection_pair
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.context import ClientContext
from tests.proxy.doors.conftest import Clock, Tunnels, page
from tests.tls.authority import Authority

Open = Callable[..., tuple[str, int]]

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


# The matchers

hosts = st.sampled_from(["192.0.2.1", "example.com", "a" * 255])
beginnings = st.one_of(
    st.binary(max_size=30),
    st.binary(max_size=30).map(lambda rest: b"\x05" + rest),
    st.binary(max_size=600).map(lambda rest: b"\x04\x01" + rest),
    st.builds(request4, hosts, st.integers(0, 65535), st.binary(max_size=300)),
    st.binary(max_size=12).map(lambda methods: bytes((5, len(methods))) + methods),
)


@given(beginnings, st.data())
def test_the_matchers_never_change_their_mind(data: bytes, draw: Any) -> None:
    cut = draw.draw(st.integers(0, len(data)))
    for matcher in (socks4, socks5):
        before = matcher(data[:cut])
        assert before is Match.MORE or matcher(data) is before


@given(beginnings)
def test_more_is_said_only_where_more_could_make_it_yes(data: bytes) -> None:
    if socks5(data) is Match.MORE:
        assert socks5(data + b"\x05\x01"[len(data) :] + bytes(255)) is Match.YES
    if socks4(data) is Match.MORE:
        assert socks4(data + b"\x04\x01\x00\x50\xc0\x00\x02\x01"[len(data) :] + b"\0\0") is Match.YES


@given(st.sampled_from([GREETING, b"\x05\x02\x00\x02", request4("192.0.2.1", 80, b"ann"), request4("example.com", 80)]))
def test_a_whole_message_is_yes_and_any_part_of_it_more(message: bytes) -> None:
    matcher = socks5 if message[0] == 5 else socks4
    assert matcher(message) is matcher(message + b"\x16\x03\x01") is Match.YES
    assert {matcher(message[:n]) for n in range(len(message))} == {Match.MORE}


def test_other_protocols_are_not_taken_for_socks() -> None:
    others = [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x00\x05\x01", b"\x05\x00", b"\x05\x01\xff", b"\x04\x03", b"\x04\x01" + b"\1" * 6 + b"x" * 256, b"SSH-2.0"]
    assert {matcher(data) for data in others for matcher in (socks4, socks5)} == {Match.NO}
    assert (repr(socks4), repr(socks5)) == ("socks4", "socks5")


def test_socks_and_http_and_tls_never_contend() -> None:
    for first in range(256):
        assert sum(matcher(bytes((first,))) is not Match.NO for matcher in (socks4, socks5, matchers.tls, matchers.http1)) <= 1


# The dialogue


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "example.com", "under_score.test", "2001:db8::7", "xn--bcher-kva.example", "h" * 255])
def test_socks5_learns_the_destination(host: str) -> None:
    dialogue = Dialogue()
    answer, error = dialogue.run(GREETING, request5(host, 443), b"data")
    assert (answer, error) == (b"\x05\x00" + b"\x05\x00\x00\x01" + bytes(6) + b"DATA", None)
    assert dialogue.opened == [("socks5", (host, 443))]
    assert dialogue.near.destination == (host, 443)


@pytest.mark.parametrize("host", ["192.0.2.1", "example.com", "h" * 255])
def test_socks4_and_4a_learn_the_destination(host: str) -> None:
    dialogue = Dialogue()
    answer, error = dialogue.run(request4(host, 80, b"ann"), b"data")
    assert (answer, error) == (b"\x00\x5a" + bytes(6) + b"DATA", None)
    assert dialogue.opened == [("socks4", (host, 80))]


@given(st.sampled_from([GREETING + request5("example.com", 443), request4("example.com", 443, b"u"), request4("192.0.2.1", 1)]), st.data())
def test_bytes_sent_with_the_request_are_the_tunnels_however_they_were_cut(message: bytes, draw: Any) -> None:
    whole = message + b"first words"
    cuts = sorted(draw.draw(st.lists(st.integers(1, len(whole) - 1), max_size=6)))
    parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True) if a < b]
    answer, error = Dialogue().run(*parts)
    assert error is None
    assert answer.endswith(b"FIRST WORDS")


@pytest.mark.parametrize(
    ("phase", "code"),
    [(Phase.POLICY, 2), (Phase.LOOP, 2), (Phase.RESOLVE, 4), (Phase.CONNECT, 5), (Phase.TIMEOUT, 6), (Phase.TLS, 1), (Phase.CHAIN, 1)],
)
def test_a_fault_has_a_reply_of_its_own(phase: Phase, code: int) -> None:
    answer, error = Dialogue(fault=Fault(phase, "why")).run(GREETING, request5("example.com", 443))
    assert (answer[2:4], error) == (bytes((5, code)), None)
    answer, error = Dialogue(fault=Fault(phase, "why")).run(request4("example.com", 443))
    assert (answer[:2], error) == (b"\x00\x5b", None)


def test_a_fault_that_open_raises_is_replied_too() -> None:
    def opens(*_: Any) -> None:
        raise Fault(Phase.RESOLVE, "no such name")

    assert Dialogue(open=opens).run(GREETING, request5("example.com", 443)) == (b"\x05\x00\x05\x04\x00\x01" + bytes(6), None)


def test_a_bug_in_open_is_a_failure_to_the_client_and_an_error_to_us() -> None:
    def opens(*_: Any) -> None:
        raise RuntimeError("bug")

    answer, error = Dialogue(open=opens).run(GREETING, request5("example.com", 443))
    assert answer[2:4] == b"\x05\x01"
    assert isinstance(error, RuntimeError)


def test_a_client_is_answered_once() -> None:
    def opens(_connection: Any, _door: Any, _destination: Any, reply: Any) -> None:
        reply(None)
        reply(None)

    answer, error = Dialogue(open=opens).run(GREETING, request5("example.com", 443))
    assert answer.count(b"\x05\x00\x00\x01") == 1
    assert "answered before" in str(error)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (request5("example.com", 443, 2), 7),
        (request5("example.com", 443, 3), 7),
        (b"\x05\x01\x00\x02\x01\x01", 8),
        (b"\x04\x01\x00\x01", 1),
        (request5("example.com", 0), 1),
        (request5("", 443), 1),
        (request5("line\nbreak", 443), 1),
        (request5("a b", 443), 1),
        (b"\x05\x01\x00\x03\x0cfe80::1%eth0\x01\xbb", 1),
        (b"\x05\x01\x00\x03\x03b\xfcx\x01\xbb", 1),
    ],
)
def test_what_is_not_served_is_refused_by_its_number(request_: bytes, code: int) -> None:
    dialogue = Dialogue()
    answer, error = dialogue.run(GREETING, request_)
    assert answer == b"\x05\x00\x05" + bytes((code,)) + b"\x00\x01" + bytes(6)
    assert isinstance(error, PeerError)
    assert not dialogue.opened


@pytest.mark.parametrize("request_", [request4("192.0.2.1", 80, command=2), request4("192.0.2.1", 0), request4("a\nb", 1), request4("192.0.2.1", 1)[:-1] + b"x" * 300])
def test_socks4_refuses_in_its_own_way(request_: bytes) -> None:
    dialogue = Dialogue()
    answer, error = dialogue.run(request_)
    assert answer == b"\x00\x5b" + bytes(6)
    assert isinstance(error, PeerError)
    assert not dialogue.opened


def test_a_client_that_leaves_in_the_middle_is_no_error_of_ours() -> None:
    for message in (GREETING + request5("example.com", 443), request4("example.com", 443, b"ann")):
        for n in range(1, len(message)):
            dialogue = Dialogue()
            _, error = dialogue.run(message[:n])
            assert isinstance(error, PeerError), n
            assert not dialogue.opened


# Who may


def test_a_user_with_the_right_password_is_known_in_the_tunnel() -> None:
    dialogue = Dialogue(ANN)
    answer, error = dialogue.run(b"\x05\x02\x00\x02", login(b"ann", b"pass word:1"), request5("example.com", 443))
    assert (answer[:6], error) == (b"\x05\x02\x01\x00\x05\x00", None)
    assert dialogue.near.identity == "ann"


@pytest.mark.parametrize("said", [login(b"ann", b"no"), login(b"bob", b"pass word:1"), login(b"ann", b""), login(b"", b"x"), login(b"ann", b"\x00"), b"\x02\x01a\x01b"])
def test_a_wrong_password_ends_it(said: bytes) -> None:
    dialogue = Dialogue(ANN)
    answer, error = dialogue.run(b"\x05\x01\x02", said, request5("example.com", 443))
    assert answer == b"\x05\x02\x01\x01"
    assert isinstance(error, PeerError)
    assert not dialogue.opened


@pytest.mark.parametrize("methods", [b"\x00", b"\x01", b"\x80\x00"])
def test_who_offers_no_password_where_one_is_wanted_is_sent_away(methods: bytes) -> None:
    dialogue = Dialogue(ANN)
    answer, _ = dialogue.run(bytes((5, len(methods))) + methods, request5("example.com", 443))
    assert answer == b"\x05\xff"
    assert not dialogue.opened


def test_socks4_is_refused_where_a_password_is_wanted() -> None:
    dialogue = Dialogue(ANN)
    assert dialogue.run(request4("example.com", 443, b"ann"))[0] == b"\x00\x5b" + bytes(6)
    assert not dialogue.opened


def test_a_client_that_only_offers_a_password_may_say_any_where_none_is_wanted() -> None:
    dialogue = Dialogue()
    answer, error = dialogue.run(b"\x05\x01\x02", login(b"who", b"ever"), request5("example.com", 443))
    assert (answer[:6], error) == (b"\x05\x02\x01\x00\x05\x00", None)
    assert dialogue.near.identity is None


def test_an_address_that_may_not_use_the_proxy_is_told_so_at_once() -> None:
    for message, answer in ((GREETING, b"\x05\xff"), (request4("192.0.2.1", 80), b"\x00\x5b" + bytes(6))):
        dialogue = Dialogue(Access(allow=["192.0.2.0/24"]))
        dialogue.near.client = ("198.51.100.1", 40000)
        assert dialogue.run(message)[0] == answer
        assert not dialogue.opened


# Real sockets, real clients


@pytest.fixture
def curl() -> Callable[..., "gevent.subprocess.CompletedProcess[str]"]:
    def run(*arguments: str) -> "gevent.subprocess.CompletedProcess[str]":
        return gevent.subprocess.run(["curl", "-sS", "-m", "20", "--noproxy", "", *arguments], capture_output=True, text=True, timeout=30)

    return run


@pytest.mark.parametrize(("scheme", "name"), [("socks4", "127.0.0.1"), ("socks4a", "name.test"), ("socks5", "127.0.0.1"), ("socks5h", "name.test")])
def test_curl_fetches_a_page(scheme: str, name: str, door: Open, web: int, tunnels: Tunnels, curl: Any) -> None:
    host, port = door()
    done = curl("--proxy", f"{scheme}://{host}:{port}", f"http://{name}:{web}/")
    assert done.stdout == f"the page of {name}:{web}\n", done.stderr
    assert tunnels.seen == [(scheme[:6], (name, web), None)]


def test_curl_says_a_user_and_a_password(door: Open, web: int, tunnels: Tunnels, curl: Any) -> None:
    host, port = door(ANN)
    proxy = "--proxy", f"socks5h://{host}:{port}", f"http://127.0.0.1:{web}/"
    assert curl("--proxy-user", "ann:pass word:1", *proxy).returncode == 0
    assert tunnels.seen == [("socks5", ("127.0.0.1", web), "ann")]
    assert curl("--proxy-user", "ann:wrong", *proxy).returncode == 97  # CURLE_PROXY
    assert curl(*proxy).returncode == 97
    assert len(tunnels.seen) == 1


def test_curl_learns_that_nobody_answers(door: Open, curl: Any) -> None:
    host, port = door()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        done = curl("--proxy", f"socks5h://{host}:{port}", f"http://127.0.0.1:{taken.getsockname()[1]}/")
    assert done.returncode == 97
    assert "(5)" in done.stderr  # the reply's number


def test_http_is_served_on_the_same_port(door: Open, curl: Any) -> None:
    host, port = door()
    assert curl(f"http://{host}:{port}/").stdout == f"the page of {host}:{port}\n"


@pytest.fixture
def client(door: Open) -> Iterator["gevent.socket.socket"]:
    with gevent.socket.create_connection(door(), 10) as sock:
        yield sock


def test_a_reply_is_read_by_a_client_that_had_already_sent_more(client: "gevent.socket.socket", web: int) -> None:
    client.sendall(GREETING + request5("example.com", 443, 3) + b"more than is read" * 100)
    answer = b""
    while data := client.recv(100):
        answer += data
    assert answer == b"\x05\x00\x05\x07\x00\x01" + bytes(6)


def test_who_is_slow_to_say_where_to_is_dropped(door: Open) -> None:
    with gevent.socket.create_connection(door(handshake_timeout=0.1), 10) as client:
        client.sendall(GREETING)
        assert client.recv(2) == b"\x05\x00"
        client.sendall(b"\x05\x01\x00")
        assert client.recv(1) == b""


@pytest.mark.parametrize("message", [GREETING + request5("example.com", 443), request4("example.com", 443, b"ann"), request4("192.0.2.1", 443)])
def test_what_follows_the_request_is_left_in_the_kernel(message: bytes, door: Open) -> None:
    """So TLS in the tunnel may have the descriptor."""
    ahead = []

    def opens(connection: Connection, _door: Any, _destination: Any, reply: Any) -> None:
        reply(None)
        sock, read = connection.detach()
        ahead.append(read)
        with sock:
            sock.sendall(b"heard " + sock.recv(100))

    with gevent.socket.create_connection(door(open=opens), 10) as client:
        client.sendall(message + b"\x16\x03\x01")
        answer = b""
        while data := client.recv(100):
            answer += data
    assert answer.endswith(b"heard \x16\x03\x01")
    assert ahead == [b""]


def test_who_guesses_is_not_heard_even_with_the_right_password() -> None:
    access = Access(one_user("ann", "right"), clock=Clock())
    answers = []
    for password in [b"wrong"] * 10 + [b"right"]:
        dialogue = Dialogue(access)
        dialogue.near.client = ("192.0.2.7", 40000)
        answers.append(dialogue.run(b"\x05\x01\x02", login(b"ann", password))[0])
        assert not dialogue.opened
    assert set(answers) == {b"\x05\x02\x01\x01"}


@pytest.mark.parametrize("message", [GREETING + request5("127.0.0.1", 0)[:-2], request4("127.0.0.1", 0)])
def test_a_client_certificate_lets_socks_in_without_a_password(message: bytes, tmp_path: Path, tunnels: Tunnels, web: int) -> None:
    authority = Authority(tmp_path)
    bind = BindSettings(host="127.0.0.1", tls="required", certificates=(authority.leaf("localhost"),))
    settings = ServerSettings(client_certificates="optional", client_ca=authority.root)
    entrance = SocksDoor(Access(one_user("ann", "x"), client_certificates=True), tunnels.open)
    server = Server(page, [bind], entrance.routes(), settings=settings)
    server.start()
    port = int(server.addresses[0].rpartition(":")[2])
    message = message + struct.pack("!H", web) if message[0] == 5 else message[:2] + struct.pack("!H", web) + message[4:]

    def ask(certificate: CertificateFiles | None) -> bytes:
        context = ClientContext(ca_file=authority.root, certfile=certificate and certificate.certfile, keyfile=certificate and certificate.keyfile)
        outside = Connection.from_socket(gevent.socket.create_connection(("127.0.0.1", port), 10))
        inside = outside.start_tls(context, server_hostname="localhost")
        inside.sendall(message + b"GET / HTTP/1.1\r\nHost: inside\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := inside.recv():
            answer += data
        inside.finish()
        return answer

    try:
        assert ask(authority.leaf("ann.test")).endswith(b"the page of inside\n")
        assert tunnels.seen == [("socks5" if message[0] == 5 else "socks4", ("127.0.0.1", web), "ann.test")]
        assert ask(None) in (b"\x05\xff", b"\x00\x5b" + bytes(6))
    finally:
        server.stop(0)


def test_a_request_that_drips_into_a_socket_leaves_it_in_order() -> None:
    """Without a mux that has waited for all of it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = gevent.socket.create_connection(listening.getsockname(), 10)
        accepted, _ = listening.accept()
    heard = []

    def opens(connection: Connection, _door: Any, _destination: Any, reply: Any) -> None:
        reply(None)
        heard.append(connection.deadline)
        heard.append(connection.recv(100))

    connection = Connection.from_socket(accepted)
    serving = gevent.spawn(SocksDoor(Access(), opens).serve_socks4, connection)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in request4("example.com", 443, b"ann"):
        client.sendall(bytes((byte,)))
        gevent.sleep(0.001)
    assert client.recv(8) == b"\x00\x5a" + bytes(6)
    client.sendall(b"x")
    serving.get(timeout=10)
    assert heard == [math.inf, b"x"]  # the tunnel has its own deadlines, and one byte wakes its reader
    client.close()
    connection.finish()
