"""Streams of HTTP/2 that an application takes over: CONNECT (RFC 9113 section 8.5) and extended CONNECT (RFC 8441)."""

import socket
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from muxwsgi.errors import Cut, Draining, Expired
from muxwsgi.http.gevent_websocket import with_gevent_websocket
from muxwsgi.http.h2.takeover import StreamTransport
from muxwsgi.http.websocket.frame import Frame as Message
from muxwsgi.http.websocket.frame import FrameParser, Opcode, encode_frame
from muxwsgi.mux.matchers import prefix
from muxwsgi.mux.mux import Mux
from muxwsgi.mux.route import Route
from muxwsgi.settings import HTTPSettings
from muxwsgi.websocket import WebSocket, accept
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.lifeline import sweep
from muxwsgi.wire.memory import memory_pair
from muxwsgi.wire.tls.client_context import ClientContext
from muxwsgi.wire.tls.server_context import ServerContext
from tests.http2.conftest import Dialogue
from tests.http2.frames import (
    ACK,
    CANCEL,
    CONNECT,
    GET,
    GOAWAY,
    NO_ERROR,
    PING,
    WEBSOCKET,
    WINDOW_UPDATE,
    data,
    frame,
    headers,
    reset,
    window_update,
)
from tests.wire.conftest import certificate, client_context, server_context  # noqa: F401  # fixtures

Talk = Callable[..., Dialogue]

CONNECT_ERROR = 10
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\nX-Via: here\r\nContent-Length: 3\r\n\r\n"


class Tunnels:
    """An application that gives each CONNECT to `serve`, and answers everything else."""

    def __init__(self, serve: Callable[[Connection], Any]) -> None:
        self.serve = serve
        self.seen: list[dict[str, Any]] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        self.seen.append(environ)
        if environ["REQUEST_METHOD"] != "CONNECT":
            start_response("200 OK", [])
            return [b"hello"]
        self.serve(environ["muxwsgi.hijack"]())
        return []


def establish(connection: Connection) -> Connection:
    connection.sendall(ESTABLISHED)
    return connection


def echo(connection: Connection) -> None:
    establish(connection)
    while received := connection.recv():
        connection.sendall(received)


def test_a_tunnel_carries_bytes_both_ways_and_a_half_close_is_an_end(talk: Talk) -> None:
    def serve(connection: Connection) -> None:
        echo(connection)
        connection.sendall(b" and more")  # behind the client's end

    app = Tunnels(serve)
    dialogue = talk(app).open(headers(1, CONNECT, end=False), data(1, b"early"))
    response = dialogue.head()
    assert (response.status, response.field("x-via"), response.field("content-length")) == ("200", "here", None)
    dialogue.wait(lambda: response.body == b"early")
    dialogue.say(data(1, b" late"), headers(3))
    assert dialogue.response(3).body == b"hello"  # other streams go on
    dialogue.wait(lambda: response.body == b"early late")
    assert not response.ended
    dialogue.say(data(1, b"", end=True))
    assert dialogue.response() is response and response.body == b"early late and more"
    assert (response.reset, app.seen[0]["RAW_URI"], app.seen[0]["wsgi.input"].read()) == (None, "a.example:7", b"")
    assert dialogue.leave() is None


def test_the_head_may_come_in_any_pieces_with_interim_ones_before_it_and_bytes_behind_it(talk: Talk) -> None:
    spoken = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ESTABLISHED + b"behind"

    def serve(connection: Connection) -> None:
        for at in range(len(spoken)):
            connection.sendall(spoken[at : at + 1])

    dialogue = talk(Tunnels(serve)).open(headers(1, CONNECT, end=False))
    response = dialogue.response()
    assert [head[0][1] for head in response.heads] == ["103", "200"]
    assert (response.body, response.ended) == (b"behind", True)


def test_an_application_that_closes_ends_the_stream_and_drops_the_rest(talk: Talk) -> None:
    dialogue = talk(Tunnels(lambda connection: establish(connection).close())).open(headers(1, CONNECT, end=False))
    response = dialogue.response()
    dialogue.wait(lambda: response.reset is not None)
    assert (response.ended, response.reset) == (True, NO_ERROR)
    dialogue.say(data(1, b"late"), headers(3))  # it was under way
    assert dialogue.response(3).status == "200"


@pytest.mark.parametrize(
    ("status", "fields"), [(403, "Content-Type: text/plain\r\nContent-Length: 2\r\n"), (407, "Proxy-Authenticate: Basic realm=x\r\n")]
)
def test_a_refusal_by_hand_is_passed_on_with_its_body(talk: Talk, status: int, fields: str) -> None:
    def serve(connection: Connection) -> None:
        connection.sendall(f"HTTP/1.1 {status} No\r\nConnection: close\r\n{fields}\r\nno".encode())

    response = talk(Tunnels(serve)).open(headers(1, CONNECT, end=False)).response()
    assert (response.status, response.body, response.ended, response.field("connection")) == (str(status), b"no", True, None)


@pytest.mark.parametrize(
    "begins",
    [
        b"220 smtp.example ESMTP\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + bytes(70000),
        b"",
    ],
)
def test_a_takeover_without_a_proper_head_is_the_applications_fault_and_resets_the_stream(
    talk: Talk, errors: Callable[[], list[str]], begins: bytes
) -> None:
    dialogue = talk(Tunnels(lambda connection: connection.sendall(begins))).open(headers(1, CONNECT, end=False), headers(3))
    response = dialogue.response()
    assert (response.reset, response.ended) == (CONNECT_ERROR, False)
    assert dialogue.response(3).status == "200"
    assert bool(errors()) is bool(begins)


def test_windows_hold_up_both_directions(talk: Talk) -> None:
    go_on = Event()

    def serve(connection: Connection) -> None:
        establish(connection).sendall(bytes(200_000))
        go_on.wait()
        got = 0
        while got < 300_000:
            got += len(connection.recv())
        connection.sendall(b"%d" % got)

    dialogue = talk(Tunnels(serve), HTTPSettings(body_min_rate=0)).open(headers(1, CONNECT, end=False))
    response = dialogue.head()
    dialogue.wait(lambda: len(response.body) == 65535)
    gevent.sleep(0.01)
    assert len(response.body) == 65535
    dialogue.say(window_update(0, 1 << 20), window_update(1, 1 << 20))
    dialogue.wait(lambda: len(response.body) == 200_000)
    for _ in range(4):
        dialogue.say(data(1, bytes(16000)))
    gevent.sleep(0.01)
    assert not [each for each in dialogue.of(WINDOW_UPDATE) if each.stream == 1]  # it has read nothing
    go_on.set()
    sent = 64000

    def may_send() -> bool:
        return 65535 + sum(int.from_bytes(each.payload, "big") for each in dialogue.of(WINDOW_UPDATE) if each.stream == 1) >= sent + 16000

    while sent < 300_000:
        dialogue.wait(may_send)
        dialogue.say(data(1, bytes(16000)))
        sent += 16000
    dialogue.wait(lambda: response.body.endswith(b"%d" % sent))


def test_a_reset_of_the_client_reaches_reads_and_writes_behind_the_bytes_that_came(talk: Talk) -> None:
    raised: list[OSError] = []
    came, hold = Event(), Event()

    def serve(connection: Connection) -> None:
        establish(connection)
        came.wait()
        assert connection.recv() == b"last"
        for use in (connection.recv, lambda: connection.sendall(b"x")):
            with pytest.raises(ConnectionResetError) as info:
                use()
            raised.append(info.value)
        hold.set()

    dialogue = talk(Tunnels(serve)).open(headers(1, CONNECT, end=False))
    dialogue.head()
    dialogue.say(data(1, b"last"), reset(1, CANCEL), headers(3))
    dialogue.response(3)
    came.set()
    hold.wait(5)
    assert len(raised) == 2
    assert dialogue.streams[1].reset is None  # no reset answers a reset


def test_a_failure_of_the_application_and_an_abort_are_resets(talk: Talk, errors: Callable[[], list[str]]) -> None:
    def serve(connection: Connection) -> None:
        establish(connection)
        if connection.recv() == b"abort":
            connection.abort()
        else:
            raise KeyError("mine")

    dialogue = talk(Tunnels(serve)).open(headers(1, CONNECT, end=False), data(1, b"abort"))
    assert dialogue.response(1).reset == CONNECT_ERROR
    assert errors() == []
    dialogue.say(headers(3, CONNECT, end=False), data(3, b"fail"))
    assert dialogue.response(3).reset == CONNECT_ERROR
    assert "taken over is closed" in errors()[0]


def test_a_timeout_a_deadline_and_a_drain_end_a_wait_of_the_stream_alone(talk: Talk) -> None:
    raised: list[type[BaseException]] = []
    lines: list[Any] = []

    def serve(connection: Connection) -> None:
        establish(connection)
        lines.append(connection.lifeline)
        connection.settimeout(0)
        for use in (connection.recv, lambda: connection.sendall(bytes(100_000))):
            with pytest.raises(BlockingIOError):
                use()
        connection.settimeout(0.01)
        for use in (connection.recv, lambda: connection.sendall(bytes(70_000))):
            with pytest.raises(TimeoutError):
                use()
        connection.settimeout(None)
        for attribute, value in (("deadline", 1.0), ("resting", True)):
            setattr(connection.lifeline, attribute, value)
            with pytest.raises((Expired, Draining)) as info:
                connection.recv()
            raised.append(info.type)
            connection.lifeline.deadline = float("inf")

    dialogue = talk(Tunnels(serve)).open(headers(1, CONNECT, end=False))
    dialogue.wait(lambda: lines and lines[0].deadline == 1.0 and lines[0].reader.waiting)
    sweep([dialogue.server.lifeline], 2.0)
    dialogue.wait(lambda: lines[0].resting and lines[0].reader.waiting)
    dialogue.server.lifeline.drain()
    dialogue.wait(lambda: len(raised) == 2)
    assert raised == [Expired, Draining]
    dialogue.say(window_update(0, 1 << 20), headers(3))
    assert dialogue.response(3).status == "200"


def test_a_client_that_leaves_ends_its_tunnels(talk: Talk) -> None:
    raised: list[type[BaseException]] = []

    def serve(connection: Connection) -> None:
        establish(connection)
        with pytest.raises((Cut, ConnectionResetError)) as info:
            connection.recv()
        raised.append(info.type)
        raise info.value

    dialogue = talk(Tunnels(serve)).open(headers(1, CONNECT, end=False), headers(3, CONNECT, end=False))
    dialogue.head(3)
    assert dialogue.leave() is None
    assert len(raised) == 2 and dialogue.server.lifeline.streams is None


def test_a_connection_that_rests_in_its_tunnels_is_not_closed_and_is_drained_behind_them(talk: Talk) -> None:
    dialogue = talk(Tunnels(echo), HTTPSettings(keep_alive=0.01, linger=0.05)).open(headers(1, CONNECT, end=False))
    dialogue.head()
    gevent.sleep(0.03)
    sweep([dialogue.server.lifeline], 1e12)
    dialogue.handler.draining = True
    dialogue.server.lifeline.drain()
    dialogue.heard(GOAWAY)
    (ping,) = dialogue.heard(PING)
    dialogue.say(frame(PING, ACK, 0, ping.payload), data(1, b"still"))
    dialogue.wait(lambda: dialogue.streams[1].body == b"still")
    dialogue.say(data(1, b"", end=True))
    assert dialogue.response().ended
    dialogue.heard(GOAWAY, 2)
    dialogue.client.finish()
    assert dialogue.end() is None


def test_tls_and_a_mux_run_over_a_stream(
    talk: Talk, server_context: ServerContext, client_context: ClientContext  # noqa: F811
) -> None:
    """As in a proxy: the tunnel's first bytes are asked for, and TLS is peeled off, on a stream as on a socket."""

    def shout(connection: Connection) -> None:
        connection.sendall(connection.recv().upper())

    inner = Mux([Route("shout", prefix(b"say "), shout)], name="inner")

    def serve(connection: Connection) -> None:
        inner(establish(connection).start_tls(server_context))

    dialogue = talk(Tunnels(serve)).open(headers(1, CONNECT, end=False))
    response = dialogue.head()
    near, far = memory_pair()
    over_stream = Connection(far, client="", server="")

    def up() -> None:
        while sent := over_stream.recv():
            dialogue.say(data(1, sent))

    given: list[int] = [0]

    def more() -> bool:
        return len(response.body) > given[-1] or response.ended

    def down() -> None:
        while not response.ended:
            dialogue.wait(more)
            over_stream.sendall(response.body[given[-1] :])
            given.append(len(response.body))

    carriers = [gevent.spawn(up), gevent.spawn(down)]
    client = Connection(near, client="", server="").start_tls(client_context, server_hostname="localhost")
    client.sendall(b"say something")
    assert client.recv() == b"SAY SOMETHING"
    client.finish()
    gevent.joinall(carriers, timeout=5)
    over_stream.finish()


def test_as_socket_gives_a_real_socket(talk: Talk) -> None:
    def serve(connection: Connection) -> None:
        establish(connection)
        assert connection.fileno() == -1
        near = connection.as_socket()
        assert near.recv(10) == b"hello"
        near.sendall(b"there")
        near.shutdown(socket.SHUT_WR)
        assert near.recv(10) == b""
        near.close()

    dialogue = talk(Tunnels(serve)).open(headers(1, CONNECT, end=False), data(1, b"hello"))
    dialogue.wait(lambda: 1 in dialogue.streams and dialogue.streams[1].ended)
    dialogue.say(data(1, b"", end=True))
    assert dialogue.response().body == b"there"


def test_other_requests_cannot_be_taken_over(talk: Talk, errors: Callable[[], list[str]]) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with pytest.raises(RuntimeError, match="HTTP/2"):
            environ["muxwsgi.hijack"]()
        start_response("200 OK", [])
        return []

    assert talk(application).open(headers(1)).response().status == "200"
    assert errors() == []


# WebSockets


class WebSocketOverStream:
    """A client's side of a WebSocket on a stream."""

    def __init__(self, dialogue: Dialogue, stream: int = 1) -> None:
        self.dialogue = dialogue
        self.stream = stream
        self._parser = FrameParser(from_client=False, at_most=1 << 20)
        self._read = 0
        self._frames: list[Message] = []

    def send(self, opcode: Opcode, payload: bytes = b"") -> None:
        self.dialogue.say(data(self.stream, encode_frame(Message(opcode, payload, from_client=True), masked=True)))

    def next(self) -> Message:
        response = self.dialogue.streams[self.stream]
        while not self._frames:
            self.dialogue.wait(lambda: len(response.body) > self._read)
            new = response.body[self._read :]
            self._read += len(new)
            self._frames += self._parser.feed(new)
        return self._frames.pop(0)


def in_muxwsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    ws: WebSocket = accept(environ, subprotocols=("chat",))
    for message in ws:
        ws.send(message)
    return []


def in_gevent_websocket(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    ws = environ["wsgi.websocket"]
    while (message := ws.receive()) is not None:
        ws.send(message, binary=not isinstance(message, str))
    return []


@pytest.mark.parametrize("application", [in_muxwsgi, in_gevent_websocket])
def test_applications_that_know_websockets_serve_them_on_a_stream(talk: Talk, application: Any) -> None:
    if application is in_gevent_websocket:
        pytest.importorskip("geventwebsocket.websocket")
        application = with_gevent_websocket(application)
    dialogue = talk(application).open(headers(1, [*WEBSOCKET, ("sec-websocket-protocol", "chat")], end=False))
    response = dialogue.head()
    assert (response.status, response.field("sec-websocket-accept"), response.field("upgrade")) == ("200", None, None)
    if application is in_muxwsgi:
        assert response.field("sec-websocket-protocol") == "chat"
    client = WebSocketOverStream(dialogue)
    for opcode, payload in ((Opcode.TEXT, b"hello"), (Opcode.BINARY, bytes(16_000))):
        client.send(opcode, payload)
        answer = client.next()
        assert (answer.opcode, answer.data) == (opcode, payload)
    client.send(Opcode.PING, b"p")
    assert client.next().opcode == Opcode.PONG
    client.send(Opcode.CLOSE, b"\x03\xe8")
    assert client.next().opcode == Opcode.CLOSE
    assert dialogue.response().ended
    dialogue.say(data(1, b"", end=True))
    assert dialogue.leave() is None


def test_the_environ_of_a_websocket_is_that_of_http_1_1_but_for_its_version(talk: Talk) -> None:
    seen: list[dict[str, Any]] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ.copy())
        return in_muxwsgi(environ, start_response)

    fields = [*WEBSOCKET, ("origin", "http://a.example"), ("sec-websocket-key", "theirs")]
    dialogue = talk(application).open(headers(1, fields, end=False), headers(3, fields, end=False))
    assert (dialogue.head(1).status, dialogue.head(3).status) == ("200", "200")
    first, second = seen
    assert (first["REQUEST_METHOD"], first["SERVER_PROTOCOL"], first["PATH_INFO"]) == ("GET", "HTTP/2.0", "/")
    assert (first["HTTP_UPGRADE"], first["HTTP_CONNECTION"]) == ("websocket", "Upgrade")
    assert [name for name, _ in first["muxwsgi.fields"]] == ["host", "sec-websocket-version", "origin", "upgrade", "connection", "sec-websocket-key"]
    assert dict(first["muxwsgi.fields"])["sec-websocket-key"] == first["HTTP_SEC_WEBSOCKET_KEY"] != second["HTTP_SEC_WEBSOCKET_KEY"]


@pytest.mark.parametrize(
    ("application", "status"),
    [
        (lambda environ, start_response: start_response("200 OK", []) and [b"a page"], "501"),  # any 2xx would say that it is one
        (lambda environ, start_response: start_response("404 Not Found", []) and [b"none"], "404"),
        (lambda environ, start_response: accept(environ, origins=("https://other.example",)), "403"),
    ],
)
def test_a_websocket_that_is_not_served_is_refused(talk: Talk, errors: Callable[[], list[str]], application: Any, status: str) -> None:
    dialogue = talk(application).open(headers(1, [*WEBSOCKET, ("origin", "http://x.example")], end=False), headers(3, GET))
    assert dialogue.response(1).status == status
    dialogue.response(3)
    assert errors() == []


def test_a_server_that_stops_says_1001_on_streams_too(talk: Talk) -> None:
    stopping = Event()

    class Stopping:
        draining = stopping
        tls = None
        events = None

    dialogue = talk(in_muxwsgi)
    dialogue.server.lifeline.service = Stopping()
    dialogue.open(headers(1, WEBSOCKET, end=False))
    dialogue.head()
    stopping.set()
    close = WebSocketOverStream(dialogue).next()
    assert (close.opcode, close.data[:2]) == (Opcode.CLOSE, (1001).to_bytes(2, "big"))


def test_a_stream_is_a_transport_that_has_no_socket(talk: Talk) -> None:
    kinds: list[Any] = []

    def serve(connection: Connection) -> None:
        establish(connection)
        kinds.append((type(connection._transport), connection.descriptor(), connection.getpeername(), connection.parent, connection.id))

    dialogue = talk(Tunnels(serve)).open(headers(1, CONNECT, end=False))
    dialogue.response()
    assert kinds == [(StreamTransport, -1, dialogue.server.client, None, dialogue.server.id)]
