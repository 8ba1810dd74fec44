"""Flask-SocketIO with gevent-websocket and without it, with its own client over a real WebSocket."""

import base64
import os
import queue
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
import requests

from muxwsgi.http import gevent_websocket
from muxwsgi.http.websocket.frame import Frame, Opcode, encode_frame
from muxwsgi.testing import connection_pair
from tests.http.conftest import Talk
from tests.system.server_process import ServerProcess, read_until_closed

pytest.importorskip("geventwebsocket")
socketio = pytest.importorskip("socketio")
pytest.importorskip("flask_socketio")

APP = "tests.http.socketio_app"
ASKS = (
    b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + base64.b64encode(bytes(16)) + b"\r\n\r\n"
)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "tls"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("data")
    with ServerProcess(APP, tls=request.param, environment={"XDG_DATA_HOME": str(folder)}) as running:
        yield running
        assert running.tracebacks() == []


def client(server: ServerProcess, transports: list[str]) -> tuple[Any, "queue.Queue[tuple[str, Any]]"]:
    session = requests.Session()
    session.trust_env = False  # a variable that names CA certificates would overrule ssl_verify
    made = socketio.Client(ssl_verify=False, reconnection=False, http_session=session)
    got: "queue.Queue[tuple[str, Any]]" = queue.Queue()
    for name in ("mirrored", "told"):
        made.on(name, lambda data, name=name: got.put((name, data)))
    made.connect(f"{'https' if server.tls else 'http'}://127.0.0.1:{server.port}", transports=transports, wait_timeout=20)
    return made, got


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("transports", [["websocket"], ["polling", "websocket"]])
def test_flask_socketio_speaks_websocket(server: ServerProcess, transports: list[str]) -> None:
    one, got = client(server, transports)
    try:
        assert one.transport() == "websocket"
        for data in ("hello", "\u00fc\u20ac", "x" * 3_000_000, os.urandom(3_000_000)):
            assert one.call("mirror", data, timeout=60) == len(data)
            assert got.get(timeout=60) == ("mirrored", data)
        for number in range(200):
            one.emit("mirror", str(number))
        # The client has a thread for each message, so they may come in another order.
        assert sorted(int(got.get(timeout=60)[1]) for _ in range(200)) == list(range(200))
    finally:
        one.disconnect()


@pytest.mark.filterwarnings("ignore")
def test_flask_socketio_speaks_websocket_without_the_package_too() -> None:
    with ServerProcess(APP, environment={"WITHOUT_THE_PACKAGE": "1"}, cold=True) as without:
        assert without.get("/")[1] == b"gevent None"
        one, got = client(without, ["websocket"])
        try:
            assert one.transport() == "websocket"
            assert one.call("mirror", "x" * 100_000, timeout=60) == 100_000
            assert got.get(timeout=60) == ("mirrored", "x" * 100_000)
        finally:
            one.disconnect()


@pytest.mark.filterwarnings("ignore")
def test_clients_hear_each_other(server: ServerProcess) -> None:
    clients = [client(server, [transport]) for transport in ("websocket", "websocket", "polling")]
    try:
        clients[0][0].emit("all", {"a": 1})
        assert [got.get(timeout=60) for _, got in clients] == [("told", {"a": 1})] * 3
    finally:
        for each, _ in clients:
            each.disconnect()


def test_a_handshake_that_is_none_is_refused_and_the_application_can_still_answer_in_http(server: ServerProcess) -> None:
    for wrong, status in ((ASKS.replace(b"Version: 13", b"Version: 1"), 426), (ASKS.replace(b"AAAA", b"A", 1), 400)):
        with server.open() as sock:
            sock.sendall(wrong.replace(b"keep-alive, Upgrade", b"close, Upgrade"))
            assert read_until_closed(sock).startswith(b"HTTP/1.1 %d " % status)
    with server.open() as sock:
        sock.sendall(ASKS.replace(b"/socket.io/?EIO=4&transport=websocket", b"/"))
        assert sock.recv(1000).startswith(b"HTTP/1.1 400 BAD REQUEST\r\n")  # what Werkzeug says of a view that speaks no WebSocket
    assert server.get("/")[1].startswith(b"gevent ")


@pytest.mark.parametrize("body", [b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"])
def test_a_handshake_with_a_body_is_the_fault_of_the_client_and_no_traceback(server: ServerProcess, body: bytes) -> None:
    with server.open() as sock:
        sock.sendall(ASKS.replace(b"keep-alive, Upgrade", b"close, Upgrade")[:-2] + body)
        answer = read_until_closed(sock)
    assert answer.startswith(b"HTTP/1.1 400 ") and answer.endswith(b"a request for a WebSocket has no body\n")


def test_a_client_that_leaves_and_one_that_sends_no_frame_end_their_connections(server: ServerProcess) -> None:
    for sent in (b"", b"\x81\xff" + b"\x7f" + 7 * b"\xff" + bytes(4), b"\x8f\x80" + bytes(4), b"\x81\x85"):
        with server.open() as sock:
            sock.sendall(ASKS)
            assert sock.recv(1000).startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
            sock.sendall(sent)
            if sent in (b"", b"\x81\x85"):
                sock.close()
            else:
                read_until_closed(sock)
    server.get("/")


def test_a_message_has_a_limit_in_one_frame_or_in_many(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    import geventwebsocket.websocket  # noqa: F401  # what makes an application one that uses it

    monkeypatch.setattr(gevent_websocket, "MESSAGE_AT_MOST", 1000)
    got: list[int | None] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        while (message := environ["wsgi.websocket"].receive()) is not None:
            got.append(len(message))
        return []

    def frame(first: int, size: int) -> bytes:
        return bytes((first, 0xFE, size >> 8, size & 255)) + bytes(4 + size)

    text, more, last, ping = 0x01, 0x00, 0x80, b"\x89\x80" + bytes(4)
    whole = frame(text, 400) + ping + frame(more, 400) + frame(last, 150)
    wrapped = gevent_websocket.with_gevent_websocket(app)
    talk(wrapped, ASKS, whole, whole, frame(text | 0x80, 1000), frame(text, 400), frame(more, 400), ping, frame(last, 400))
    assert got == [950, 950, 1000]
    got.clear()
    talk(wrapped, ASKS, frame(text | 0x80, 1001))
    assert got == []


def test_a_flood_of_small_frames_gives_others_their_turn() -> None:
    server, client = connection_pair()
    stream = gevent_websocket._Stream({"muxwsgi.hijack": lambda: server}, b"")
    turns = 0

    def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            gevent.sleep(0)

    client.sendall(encode_frame(Frame(Opcode.PONG, b""), masked=True) * 9000)
    other = gevent.spawn(others)
    for _ in range(9000):
        assert stream.next_frame().opcode == Opcode.PONG
    assert turns > 40
    other.kill()
    server.close()
    client.close()


def test_an_application_without_the_package_pays_nothing() -> None:
    import sys

    from muxwsgi.http.gevent_websocket import with_gevent_websocket
    from tests.http.conftest import hello

    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith("geventwebsocket")}
    try:
        assert with_gevent_websocket(hello) is hello
    finally:
        sys.modules.update(kept)
