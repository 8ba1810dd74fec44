"""Upstreams that speak HTTP/2: what clients of HTTP/2 alone (gRPC) ask for, through the proxy."""

from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
import gevent.socket
import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from gevent.event import Event

from muxwsgi.http.websocket.frame import Frame as Message
from muxwsgi.http.websocket.frame import Opcode, encode_frame
from muxwsgi.proxy import Response
from muxwsgi.proxy.settings import ProxySettings
from muxwsgi.settings import HTTP2Settings, HTTPSettings, ServerSettings, TLSSettings
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.lifeline import sweep
from muxwsgi.wire.tls.server_context import ServerContext
from tests.http2 import frames as f
from tests.http2.frames import CANCEL, data, frame, headers, reset
from tests.proxy.conftest import Lab
from tests.proxy.test_http2 import Client, Origin, ask, inside, intercepting


def alone(lab: Lab, port: int, upstream: int) -> Client:
    """A client that offers nothing but HTTP/2."""
    return inside(lab, port, upstream, alpn=("h2",))


class Peer:
    """An upstream of HTTP/2, frame by frame: `serve(peer)` is called with each connection, behind its preface and SETTINGS."""

    def __init__(self, lab: Lab, serve: Callable[["Peer"], Any], settings: bytes = f.settings()) -> None:
        self._context = ServerContext(TLSSettings(certificates=(lab.certificate,)), alpn=("h2",))
        self._serve = serve
        self._settings = settings
        self.connections = 0
        self.port = lab.serve_raw(self._run)

    def _run(self, sock: Any) -> None:
        self.over(Connection.from_socket(sock).start_tls(self._context))

    def over(self, connection: Connection) -> None:
        with connection:
            received = b""
            while len(received) < 24:
                more = connection.recv()
                if not more:
                    return  # nothing was asked
                received += more
            assert received.startswith(f.PREFACE)
            self.connections += 1
            self.connection = connection
            self.requests = f.Responses()
            self.frames = self.requests.add(received[24:])
            connection.sendall(self._settings)
            self._serve(self)

    def until(self, condition: Callable[[], Any]) -> None:
        while not condition():
            more = self.connection.recv()
            if not more:
                raise ConnectionResetError
            self.frames += self.requests.add(more)

    def say(self, *pieces: bytes) -> None:
        self.connection.sendall(b"".join(pieces))

    def has(self, stream: int) -> bool:
        return stream in self.requests.streams and bool(self.requests.streams[stream].heads)


OK = [(":status", "200"), ("content-type", "application/grpc")]


def test_one_connection_carries_many_requests_and_rules_and_flows_see_them(lab: Lab) -> None:
    origin = Origin()
    upstream = lab.serve(origin, tls=True)
    proxy, port = intercepting(lab)
    seen: list[str] = []
    proxy.on_request().do(lambda request, ctx: seen.append(request.path))
    proxy.on_request().do(lambda request, ctx: Response("no", 418) if request.path == "/never" else None)
    client = alone(lab, port, upstream)
    numbers = range(1, 21, 2)
    client.say(*[headers(number, ask(f"/r{number}", upstream, method="POST"), end=False) for number in numbers])
    client.say(headers(31, ask("/never", upstream)))
    for number in numbers:
        client.say(data(number, b"%d" % number, end=True))
    for number in numbers:
        answer = client.answer(number)
        assert (answer.status, answer.body, answer.field("x-version")) == ("200", b"/r%d %d" % (number, number), "HTTP/2.0")
    assert client.answer(31).status == "418" and len(seen) == 11
    assert {each["SERVER_PROTOCOL"] for each in origin.asked} == {"HTTP/2.0"}
    assert len({each["REMOTE_PORT"] for each in origin.asked}) == 1
    client.wait(lambda: len([flow for flow in lab.flows if flow.kind == "http"]) == 11)
    flow = next(flow for flow in lab.flows if flow.request is not None and flow.request.line[1].endswith("/r3"))
    assert flow.request is not None and flow.response is not None
    assert (flow.request.line[2], flow.response.line[0], [name for name, _ in flow.request.fields]) == ("HTTP/2", "HTTP/2", ["host"])
    assert {each.upstream_tls.alpn for each in lab.flows if each.upstream_tls is not None} == {"h2"}
    assert (proxy.pool.opened, proxy.pool.reused) == (1, 9)


def test_interim_responses_trailers_and_te_pass_both_ways(lab: Lab) -> None:
    origin = Origin()
    upstream = lab.serve(origin, tls=True)
    _, port = intercepting(lab)
    client = alone(lab, port, upstream)
    client.say(headers(1, ask("/hints", upstream, ("te", "trailers"), method="POST"), end=False))
    client.say(data(1, b"x"), headers(1, [("x-checksum", "7")]))
    answer = client.answer(1)
    assert [head[0][1] for head in answer.heads if head[0][0] == ":status"] == ["103", "200"]
    assert (answer.body, answer.heads[-1]) == (b"one two", [("grpc-status", "0")])
    assert (origin.asked[0]["HTTP_TE"], origin.asked[0]["muxwsgi.trailers"]) == ("trailers", {"x-checksum": "7"})


def test_both_directions_stream_at_the_same_time(lab: Lab) -> None:
    def talk(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])(b"")
        while piece := environ["wsgi.input"].read1(1000):
            yield piece.upper()

    _, port = intercepting(lab)
    upstream = lab.serve(talk, tls=True)
    client = alone(lab, port, upstream)
    client.say(headers(1, ask("/", upstream, method="POST"), end=False))
    assert client.head(1).status == "200"
    for word in (b"one", b"two", b"three"):
        before = client.streams[1].body
        client.say(data(1, word))
        client.wait(lambda before=before, word=word: client.streams[1].body == before + word.upper())
    client.say(data(1, b"", end=True))
    assert client.answer(1).ended and client.streams[1].body == b"ONETWOTHREE"


def test_large_bodies_move_both_ways_within_the_windows(lab: Lab) -> None:
    origin = Origin()
    upstream = lab.serve(origin, tls=True)
    _, port = intercepting(lab)
    client = alone(lab, port, upstream)
    client.say(f.window_update(0, 1 << 24), headers(1, ask("/b", upstream, method="POST"), end=False), f.window_update(1, 1 << 24))
    size = 0
    allowed = 65535
    while size < 1_000_000:
        granted = sum(int.from_bytes(each.payload, "big") for each in client.of(f.WINDOW_UPDATE) if each.stream == 1)
        if allowed + granted - size >= 16000:
            client.say(data(1, bytes(16000)))
            size += 16000
        else:
            gevent.sleep(0.001)
    client.say(data(1, b"", end=True))
    assert len(client.answer(1).body) == len("/b ") + size


def test_a_request_that_the_client_resets_is_reset_upstream_and_the_connection_is_kept(lab: Lab) -> None:
    codes: list[int] = []

    def serve(peer: Peer) -> None:
        peer.until(lambda: peer.has(1) and peer.has(3))
        peer.say(headers(1, OK, end=False), data(1, b"begun"), headers(3, OK, end=False))
        peer.until(lambda: peer.requests.streams[1].reset is not None)
        codes.append(peer.requests.streams[1].reset or 0)
        peer.say(data(3, b"goes on", end=True))
        peer.until(lambda: False)

    peer = Peer(lab, serve)
    proxy, port = intercepting(lab)
    client = alone(lab, port, peer.port)
    client.say(headers(1, ask("/a", peer.port)), headers(3, ask("/b", peer.port)))
    client.wait(lambda: 1 in client.streams and client.streams[1].body == b"begun")
    client.say(reset(1, CANCEL))
    assert client.answer(3).body == b"goes on"
    assert (codes, peer.connections) == ([CANCEL], 1)
    assert not proxy._client_watch.waiting


@pytest.mark.parametrize("how", ["REFUSED_STREAM", "GOAWAY"])
def test_what_the_server_has_not_processed_is_sent_again_and_nothing_else(lab: Lab, how: str) -> None:
    served: list[str] = []

    def serve(peer: Peer) -> None:
        if peer.connections > 1:
            peer.until(lambda: peer.has(1))
            served.append(dict(peer.requests.streams[1].heads[0])[":path"])
            peer.say(headers(1, [*OK, ("content-length", "0")]))
            peer.until(lambda: False)
        peer.until(lambda: peer.has(1) and peer.has(3))
        if how == "GOAWAY":
            peer.say(frame(f.GOAWAY, 0, 0, (1).to_bytes(4, "big") + bytes(4)))
        else:
            peer.say(reset(3, f.REFUSED_STREAM))
        peer.say(reset(1, f.INTERNAL_ERROR) if how != "GOAWAY" else b"")
        if how == "GOAWAY":
            peer.say(headers(1, [(":status", "500")]))
        peer.until(lambda: False)

    peer = Peer(lab, serve)
    _, port = intercepting(lab)
    client = alone(lab, port, peer.port)
    client.say(headers(1, ask("/processed", peer.port, ("content-length", "1"), method="POST"), end=False), data(1, b"x", end=True))
    client.say(headers(3, ask("/refused", peer.port, ("content-length", "1"), method="POST"), end=False), data(3, b"x", end=True))
    assert client.answer(3).status == "200"
    assert client.answer(1).status == ("500" if how == "GOAWAY" else "502")
    assert served == ["/refused"]


def block(*fields: tuple[str, str]) -> bytes:
    return headers(1, list(fields))


BROKEN: dict[str, tuple[bytes, int | None]] = {
    "a push": (frame(f.PUSH_PROMISE, 4, 1, bytes(3) + b"\x02" + f.block(f.GET)), f.PROTOCOL_ERROR),
    "a stream that the server opens": (headers(2, OK), f.PROTOCOL_ERROR),
    "a stream that nobody has opened": (headers(9, OK), f.PROTOCOL_ERROR),
    "DATA on an idle stream": (data(9, b"x"), f.PROTOCOL_ERROR),
    "a frame that is too large": (frame(f.DATA, 0, 1, bytes(16385)), f.FRAME_SIZE_ERROR),
    "a block that cannot be decoded": (frame(f.HEADERS, 4, 1, b"\xff\xff\xff\xff\xff"), f.COMPRESSION_ERROR),
    "more DATA than the window": (headers(1, OK, end=False) + b"".join(data(1, bytes(16384)) for _ in range(5)), None),
    "no status": (block(("a", "b")), None),
    "a status of four digits": (block((":status", "2000")), None),
    "a status behind a field": (block(("a", "b"), (":status", "200")), None),
    "a pseudo-field of requests": (block((":status", "200"), (":path", "/")), None),
    "a field of the connection": (block((":status", "200"), ("connection", "close")), None),
    "a name in upper case": (block((":status", "200"), ("Upper", "x")), None),
    "a line break in a value": (block((":status", "200"), ("a", "b\r\nc: d")), None),
    "two lengths": (block((":status", "200"), ("content-length", "1"), ("content-length", "1")), None),
    "101": (headers(1, [(":status", "101")], end=False), None),
    "an interim response that ends the stream": (block((":status", "103")), None),
    "a length without a body": (block((":status", "200"), ("content-length", "3")), None),
    "DATA before the head": (data(1, b"x"), None),
    "too many interim responses": (b"".join(headers(1, [(":status", "103")], end=False) for _ in range(70)), None),
    "endless CONTINUATION": (frame(f.HEADERS, 0, 1, b"") + b"".join(frame(f.CONTINUATION, 0, 1, b"") for _ in range(20)), f.ENHANCE_YOUR_CALM),
    "a flood of SETTINGS": (f.settings() * 1000, f.ENHANCE_YOUR_CALM),
    "a flood of PING": (frame(f.PING, 0, 0, bytes(8)) * 1000, f.ENHANCE_YOUR_CALM),
    "a bomb of fields": (
        frame(f.HEADERS, 4, 1, b"\x40\x01a\x7f\xa1\x1e" + b"b" * 4000 + b"\xbe" * 12000),
        f.ENHANCE_YOUR_CALM,
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_hostile_upstream_costs_its_stream_or_its_connection_and_the_client_gets_a_502(lab: Lab, case: str) -> None:
    said, code = BROKEN[case]
    codes: list[int] = []

    def serve(peer: Peer) -> None:
        peer.until(lambda: peer.has(1))
        peer.say(said)
        peer.until(lambda: peer.requests.of(f.GOAWAY) or peer.requests.streams[1].reset is not None)
        codes.extend(each.code for each in peer.requests.of(f.GOAWAY))
        peer.until(lambda: False)

    peer = Peer(lab, serve)
    _, port = intercepting(lab)
    client = alone(lab, port, peer.port)
    client.say(headers(1, ask("/", peer.port, ("content-length", "1"), method="POST"), end=False), data(1, b"x", end=True))
    answer = client.answer(1)
    assert answer.status == "502" or (answer.reset is not None and not answer.ended)
    client.wait(lambda: bool(codes) is (code is not None))
    assert codes == ([] if code is None else [code])


def test_a_response_that_is_complete_before_its_request_is_passed_on(lab: Lab) -> None:
    def serve(peer: Peer) -> None:
        peer.until(lambda: peer.has(1))
        peer.say(headers(1, OK, end=False), data(1, b"enough", end=True), reset(1, f.NO_ERROR))
        peer.until(lambda: False)

    peer = Peer(lab, serve)
    _, port = intercepting(lab)
    client = alone(lab, port, peer.port)
    client.say(headers(1, ask("/", peer.port, method="POST"), end=False), data(1, b"some"))
    answer = client.answer(1)
    assert (answer.status, answer.body, answer.ended) == ("200", b"enough", True)


@pytest.mark.parametrize("how", ["reset", "end", "short"])
def test_a_response_that_breaks_off_is_never_shown_as_whole(lab: Lab, how: str) -> None:
    def serve(peer: Peer) -> None:
        peer.until(lambda: peer.has(1))
        peer.say(headers(1, [*OK, ("content-length", "100")], end=False), data(1, b"part", end=how == "short"))
        if how == "reset":
            gevent.sleep(0.05)
            peer.say(reset(1, f.INTERNAL_ERROR))
        if how != "end":
            peer.until(lambda: False)

    peer = Peer(lab, serve)
    _, port = intercepting(lab)
    client = alone(lab, port, peer.port)
    client.say(headers(1, ask("/", peer.port)))
    answer = client.answer(1)
    assert answer.status == "502" or (answer.reset is not None and not answer.ended)


def test_the_limit_of_the_server_is_kept_with_another_connection(lab: Lab) -> None:
    origin = Origin()
    settings = ServerSettings(http2=HTTP2Settings(http2_max_concurrent_streams=2), http=HTTPSettings(linger=0.1))
    upstream = lab.serve(origin, tls=True, settings=settings)
    proxy, port = intercepting(lab)
    client = alone(lab, port, upstream)
    client.say(headers(1, ask("/first", upstream)))
    assert client.answer(1).status == "200"  # its SETTINGS have come
    client.say(*[headers(number, ask("/slow", upstream)) for number in (3, 5, 7)])
    for number in (3, 5, 7):
        client.wait(lambda number=number: number in client.streams and client.streams[number].body == b"begun")
    assert len({each["REMOTE_PORT"] for each in origin.asked}) == 2
    assert proxy.pool.opened == 2


def test_a_head_that_does_not_come_and_a_body_that_rests_have_their_deadlines(lab: Lab) -> None:
    def serve(peer: Peer) -> None:
        peer.until(lambda: peer.has(1))
        peer.until(lambda: peer.has(3))
        peer.say(headers(3, OK, end=False), data(3, b"begun"))
        peer.until(lambda: False)

    peer = Peer(lab, serve)
    proxy, port = intercepting(lab)
    client = alone(lab, port, peer.port)
    client.say(headers(1, ask("/", peer.port)), headers(3, ask("/", peer.port)))
    client.wait(lambda: 3 in client.streams and client.streams[3].body == b"begun")
    (sessions,) = proxy._upstreams._sessions.by_key.values()
    lines = [sessions[0].connection.lifeline]
    sweep(lines, 1e9)
    assert client.answer(1).status == "504"
    sweep(lines, 1e9)
    sweep(lines, 2e9)
    assert client.answer(3).reset is not None
    assert not sessions[0].exchanges and sessions[0].room


def test_a_server_that_answers_no_ping_is_given_up(lab: Lab) -> None:
    def serve(peer: Peer) -> None:
        peer.until(lambda: peer.requests.of(f.PING))
        Event().wait(20)

    peer = Peer(lab, serve)
    proxy, port = intercepting(lab, response_head_timeout=3600.0, upstream_idle_timeout=3600.0)
    client = alone(lab, port, peer.port)
    client.say(headers(1, ask("/", peer.port, ("content-length", "1"), method="POST"), end=False), data(1, b"x", end=True))
    sessions = proxy._upstreams._sessions.by_key
    client.wait(lambda: any(session.exchanges for kept in sessions.values() for session in kept))
    ((session,),) = sessions.values()
    client.wait(lambda: session.engine.sender.size == 0)
    began = monotonic()
    for after in (0.0, 311.0, 332.0):
        session.sweep(began + after)
        gevent.sleep(0.01)
    assert client.answer(1).status == "502"
    proxy._upstreams.prune()
    assert not proxy._upstreams._sessions.by_key


def test_connections_that_rest_are_closed_with_goaway(lab: Lab) -> None:
    goodbyes: list[int] = []

    def serve(peer: Peer) -> None:
        peer.until(lambda: peer.has(1))
        peer.say(headers(1, [*OK, ("content-length", "0")]))
        peer.until(lambda: peer.requests.of(f.GOAWAY))
        goodbyes.append(peer.requests.of(f.GOAWAY)[0].code)

    peer = Peer(lab, serve)
    proxy, port = intercepting(lab, idle_timeout=0.01)
    client = alone(lab, port, peer.port)
    client.say(headers(1, ask("/", peer.port)))
    assert client.answer(1).status == "200"
    gevent.sleep(0.02)
    proxy._upstreams.prune()
    client.wait(lambda: goodbyes)
    assert goodbyes == [f.NO_ERROR] and not proxy._upstreams._sessions.by_key


def test_a_websocket_of_http_2_goes_on_over_http_2(lab: Lab) -> None:
    upstream = lab.serve(Origin(), tls=True)
    _, port = intercepting(lab)
    client = alone(lab, port, upstream)
    client.say(headers(1, ask("/first", upstream)))
    client.answer(1)  # the SETTINGS of the server are known
    fields = ask("/socket", upstream, ("sec-websocket-version", "13"), method="CONNECT")
    client.say(headers(3, [fields[0], (":protocol", "websocket"), *fields[1:]], end=False))
    assert client.head(3).status == "200"
    client.say(data(3, encode_frame(Message(Opcode.TEXT, b"hello", from_client=True), masked=True)))
    client.wait(lambda: client.streams[3].body == encode_frame(Message(Opcode.TEXT, b"hello", from_client=False), masked=False))
    client.say(data(3, encode_frame(Message(Opcode.CLOSE, b"\x03\xe8", from_client=True), masked=True)))
    client.wait(lambda: len(client.streams[3].body) > 7)
    client.say(data(3, b"", end=True))
    assert client.answer(3).ended


def test_http_2_in_clear_is_spoken_on_with_the_server(lab: Lab) -> None:
    """gRPC without TLS: the client knows what its server speaks."""
    origin = Origin()
    upstream = lab.serve(origin)
    _, port = intercepting(lab)
    client = Client(lab.tunnel(port, f"localhost:{upstream}"))
    client.say(headers(1, ask("/a", upstream, scheme="http")), headers(3, ask("/b", upstream, scheme="http")))
    assert client.answer(1).body == b"/a " and client.answer(3).body == b"/b "
    assert [each["SERVER_PROTOCOL"] for each in origin.asked] == ["HTTP/2.0"] * 2


def test_the_h2_package_is_a_strict_server(lab: Lab) -> None:
    """Each frame of ours is held against its state machine."""

    def serve(sock: Any) -> None:
        config = h2.config.H2Configuration(client_side=False)
        state = h2.connection.H2Connection(config)
        state.local_settings = h2.settings.Settings(client=False, initial_values={h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 50})
        state.initiate_connection()
        sock.sendall(state.data_to_send())
        bodies: dict[int, bytes] = {}
        while received := sock.recv(65536):
            for event in state.receive_data(received):
                if isinstance(event, h2.events.DataReceived):
                    bodies[event.stream_id] = bodies.get(event.stream_id, b"") + event.data
                    state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    state.send_headers(event.stream_id, [(":status", "200")])
                    state.send_data(event.stream_id, bodies.get(event.stream_id, b"")[:1000])
                    state.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)
            sock.sendall(state.data_to_send())

    upstream = lab.serve_raw(serve)
    _, port = intercepting(lab)
    client = Client(lab.tunnel(port, f"localhost:{upstream}"))
    for number in range(1, 61, 2):
        client.say(headers(number, ask("/a", upstream, scheme="http", method="POST"), end=False), data(number, b"%d" % number))
    for number in range(1, 61, 2):
        client.say(data(number, b"", end=True))
    for number in range(1, 61, 2):
        answer = client.answer(number)
        assert (answer.status, answer.body, answer.heads[-1]) == ("200", b"%d" % number, [("grpc-status", "0")])


def test_a_rule_may_send_the_request_elsewhere(lab: Lab) -> None:
    origin = Origin()
    asked, other = lab.serve(Origin(), tls=True), lab.serve(origin, tls=True)
    proxy, port = intercepting(lab)

    @proxy.on_request().do
    def move(request: Any, ctx: Any) -> None:
        request.url = f"https://localhost:{other}/moved"

    client = alone(lab, port, asked)
    client.say(headers(1, ask("/a", asked)))
    assert client.answer(1).body == b"/moved "
    assert [(each["SERVER_PROTOCOL"], each["HTTP_HOST"]) for each in origin.asked] == [("HTTP/2.0", f"localhost:{other}")]


def test_a_server_that_stops_lets_requests_end_and_gets_no_more(lab: Lab) -> None:
    origin = Origin()
    upstream = lab.serve(origin, tls=True)
    server = lab.servers[-1]
    proxy = lab.proxy(settings=ProxySettings(default_action="mitm"))
    port = lab.serve(proxy)
    client = alone(lab, port, upstream)
    client.say(headers(1, ask("/slow", upstream)))
    client.wait(lambda: 1 in client.streams and client.streams[1].body == b"begun")
    stopping = gevent.spawn(server.stop, 10)
    ((session,),) = proxy._upstreams._sessions.by_key.values()
    client.wait(lambda: session.engine.peer_leaves)
    assert session.room == 0
    origin.hold.set()
    client.wait(lambda: len(client.streams[1].body) > 2000)
    client.say(reset(1, CANCEL))
    stopping.join(20)
    assert stopping.ready()
    client.wait(lambda: session.over)




def test_a_rule_that_dials_has_a_connection_for_each_request_which_ends_with_it(lab: Lab) -> None:
    origin = Origin()
    upstream = lab.serve(origin)
    proxy, port = intercepting(lab)
    dialled: list[Connection] = []

    def dial(host: str, to: int) -> Connection:
        dialled.append(Connection.from_socket(gevent.socket.create_connection((host, to))))
        return dialled[-1]

    proxy.on_request().do(lambda request, ctx: setattr(ctx, "dial", dial))
    client = Client(lab.tunnel(port, f"127.0.0.1:{upstream}"))
    client.say(headers(1, ask("/a", upstream, scheme="http")), headers(3, ask("/b", upstream, scheme="http")))
    assert client.answer(1).body == b"/a " and client.answer(3).body == b"/b "
    client.wait(lambda: [each.descriptor() for each in dialled] == [-1, -1])
    assert not proxy._upstreams._sessions.by_key
