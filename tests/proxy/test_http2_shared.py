"""One connection of HTTP/2 to an upstream carries the requests of several clients. What one of them does, or an upstream to one of them, does
not end or hold up the others."""

from typing import Any

import gevent
import gevent.socket
import pytest
from gevent.event import Event

from muxwsgi.http.h2.body import StreamBody
from muxwsgi.http.h2.sender import OwnFields, Sender
from muxwsgi.http.h2.windows import UPSTREAM_GROWTH, Windows
from muxwsgi.settings import HTTPSettings, TLSSettings
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.tls.server_context import ServerContext
from tests.http2 import frames as f
from tests.http2.frames import data, headers, reset
from tests.proxy.conftest import PATIENCE, Lab
from tests.proxy.test_http2 import Client, ask, intercepting
from tests.proxy.test_http2_upstreams import OK, Peer, alone

MANY = 250


def numbers_of(peer: Peer, path: str) -> list[int]:
    return [number for number, each in peer.requests.streams.items() if dict(each.heads[0])[":path"] == path]


@pytest.mark.parametrize("how", ["the server resets", "malformed responses"])
def test_requests_of_one_client_that_fail_leave_those_of_another(lab: Lab, how: str) -> None:
    """The engine of a server lets a client pay for resets. Here they are what our own requests cause."""

    def serve(peer: Peer) -> None:
        peer.until(lambda: numbers_of(peer, "/other"))
        (other,) = numbers_of(peer, "/other")
        failed: set[int] = set()
        while len(failed) < MANY:
            peer.until(lambda: set(numbers_of(peer, "/bad")) - failed)
            for number in sorted(set(numbers_of(peer, "/bad")) - failed):
                failed.add(number)
                peer.say(reset(number, f.INTERNAL_ERROR) if how == "the server resets" else headers(number, [("no", "status")]))
        peer.say(headers(other, OK, end=False), data(other, b"whole", end=True))
        peer.until(lambda: False)

    peer = Peer(lab, serve, f.settings((3, 1000)))
    _, port = intercepting(lab)
    other = alone(lab, port, peer.port)
    other.say(headers(1, ask("/other", peer.port)))
    for _ in range(5):
        client = alone(lab, port, peer.port)
        for number in range(1, 2 * MANY // 5 + 1, 2):
            client.say(headers(number, ask("/bad", peer.port)))
        for number in range(1, 2 * MANY // 5 + 1, 2):
            assert client.answer(number).status == "502"
    assert (other.answer(1).body, peer.connections) == (b"whole", 1)


def test_what_comes_late_for_requests_that_a_client_has_reset_leaves_those_of_another(lab: Lab) -> None:
    asked = 20

    def serve(peer: Peer) -> None:
        peer.until(lambda: numbers_of(peer, "/other") and len(numbers_of(peer, "/large")) == asked)
        large = numbers_of(peer, "/large")
        for number in large:
            peer.say(headers(number, OK, end=False))
        peer.until(lambda: all(peer.requests.streams[number].reset is not None for number in large))
        for number in large:  # it was under way when the resets came
            peer.say(*[data(number, bytes(1200)) for _ in range(50)], headers(number, [("grpc-status", "0")]))
        (other,) = numbers_of(peer, "/other")
        peer.say(headers(other, OK, end=False), data(other, b"whole", end=True))
        peer.until(lambda: False)

    peer = Peer(lab, serve)
    _, port = intercepting(lab)
    other, client = alone(lab, port, peer.port), alone(lab, port, peer.port)
    other.say(headers(1, ask("/other", peer.port)))
    large = range(1, 2 * asked, 2)
    for number in large:
        client.say(headers(number, ask("/large", peer.port)))
    for number in large:
        client.head(number)
    client.say(*[reset(number) for number in large])
    assert (other.answer(1).body, peer.connections) == (b"whole", 1)


def test_a_head_that_comes_late_for_a_stream_that_is_forgotten_ends_nothing(lab: Lab) -> None:
    rounds, each = 4, 100

    def serve(peer: Peer) -> None:
        peer.until(lambda: peer.has(1) and peer.requests.streams[1].reset is not None)
        answered = {1}
        while len(answered) <= rounds * each:
            peer.until(lambda: set(peer.requests.streams) - answered)
            new = sorted(set(peer.requests.streams) - answered)
            answered.update(new)
            if len(answered) > rounds * each:
                peer.say(headers(1, OK))
            peer.say(*[headers(number, [*OK, ("content-length", "0")]) for number in new])
        peer.until(lambda: False)

    peer = Peer(lab, serve, f.settings((3, 1000)))
    proxy, port = intercepting(lab)
    client = alone(lab, port, peer.port)
    client.say(headers(1, ask("/", peer.port)))
    client.wait(lambda: any(session.exchanges for kept in proxy._upstreams._sessions.by_key.values() for session in kept))
    client.say(reset(1))
    for number in range(3, 2 * rounds * each + 3, 2 * each):
        client.say(*[headers(number + 2 * more, ask("/", peer.port)) for more in range(each)])
        for more in range(each):
            assert client.answer(number + 2 * more).status == "200"
    assert peer.connections == 1


def test_bodies_that_nobody_takes_leave_room_for_others(lab: Lab) -> None:
    """However many streams the server allows: no more are opened than the window of the connection has room for."""
    asked = 200

    def serve(peer: Peer) -> None:
        answered: set[int] = set()
        while True:
            peer.until(lambda: set(peer.requests.streams) - answered)
            for number in sorted(set(peer.requests.streams) - answered):
                answered.add(number)
                peer.say(headers(number, OK, end=False))

    peer = Peer(lab, serve, f.settings((3, 1000)))
    proxy, port = intercepting(lab)
    for _ in range(2):
        client = alone(lab, port, peer.port)
        for number in range(1, asked, 2):
            client.say(headers(number, ask("/", peer.port)))
        for number in range(1, asked, 2):
            assert client.head(number).status == "200"
    (sessions,) = proxy._upstreams._sessions.by_key.values()
    assert [len(session.exchanges) for session in sessions] == [128, asked - 128]


def test_a_body_that_the_server_does_not_read_leaves_those_of_others(lab: Lab) -> None:
    """It fills the window of the connection, which many servers make no larger than that of a stream."""

    def serve(peer: Peer) -> None:
        def posted() -> list[int]:
            return [number for number in numbers_of(peer, "/other") if peer.requests.streams[number].ended]

        peer.until(posted)
        peer.say(headers(posted()[0], OK, end=False), data(posted()[0], b"got it", end=True))
        peer.until(lambda: False)

    peer = Peer(lab, serve)
    proxy, port = intercepting(lab)
    client, other = alone(lab, port, peer.port), alone(lab, port, peer.port)
    client.say(headers(1, ask("/", peer.port, method="POST"), end=False), *[data(1, bytes(13107)) for _ in range(5)])
    client.wait(lambda: any(session.engine.sender.window == 0 for kept in proxy._upstreams._sessions.by_key.values() for session in kept))
    other.say(headers(1, ask("/other", peer.port, method="POST"), end=False), data(1, b"x", end=True))
    assert other.answer(1).body == b"got it"


def test_interim_responses_that_nobody_takes_are_bounded(lab: Lab) -> None:
    """The proxy waits for the window of the server, and takes no response meanwhile."""
    codes: list[int] = []

    def serve(peer: Peer) -> None:
        peer.until(lambda: peer.has(1))
        peer.say(b"".join(headers(1, [(":status", "103")], end=False) for _ in range(500)))
        peer.until(lambda: peer.requests.streams[1].reset is not None)
        codes.append(peer.requests.streams[1].reset or 0)
        peer.until(lambda: False)

    peer = Peer(lab, serve, f.settings((4, 0)))
    _, port = intercepting(lab)
    client = alone(lab, port, peer.port)
    client.say(headers(1, ask("/", peer.port, ("content-length", "1"), method="POST"), end=False), data(1, b"x", end=True))
    assert client.answer(1).status == "502"
    assert codes == [f.ENHANCE_YOUR_CALM]


def test_a_length_in_the_answer_to_an_extended_connect_does_not_end_its_tunnel(lab: Lab) -> None:
    """RFC 9110 section 9.3.6: a client ignores it."""

    def serve(peer: Peer) -> None:
        peer.until(lambda: peer.has(1))
        peer.say(headers(1, [*OK, ("content-length", "0")]))
        peer.until(lambda: peer.has(3))
        peer.say(headers(3, [(":status", "200"), ("content-length", "2")], end=False), data(3, b"\x82\x03abc"))
        peer.until(lambda: False)

    peer = Peer(lab, serve, f.settings((8, 1)))
    _, port = intercepting(lab)
    client = alone(lab, port, peer.port)
    client.say(headers(1, ask("/first", peer.port)))
    assert client.answer(1).status == "200"
    fields = ask("/socket", peer.port, ("sec-websocket-version", "13"), method="CONNECT")
    client.say(headers(3, [fields[0], (":protocol", "websocket"), *fields[1:]], end=False))
    assert client.head(3).status == "200"
    client.wait(lambda: client.streams[3].body == b"\x82\x03abc" or client.streams[3].reset is not None)
    assert client.streams[3].reset is None


def test_connections_at_rest_are_as_many_as_the_settings_say(lab: Lab) -> None:
    def serve(peer: Peer) -> None:
        peer.until(lambda: peer.has(1))
        peer.say(headers(1, [*OK, ("content-length", "0")]))
        peer.until(lambda: peer.requests.of(f.GOAWAY))
        ended.append(peer.port)

    ended: list[int] = []
    proxy, port = intercepting(lab, max_idle=2)
    peers = [Peer(lab, serve) for _ in range(4)]
    for peer in peers:
        client = alone(lab, port, peer.port)
        client.say(headers(1, ask("/", peer.port)))
        assert client.answer(1).status == "200"
    client.wait(lambda: len(ended) == 2)
    assert ended == [peer.port for peer in peers[:2]]
    proxy._upstreams.prune()
    assert len(proxy._upstreams._sessions.by_key) == 2


def test_requests_that_wait_for_a_dial_which_fails_do_not_wait_for_each_other(lab: Lab) -> None:
    waiting: list[Any] = []
    failing = False
    context = ServerContext(TLSSettings(certificates=(lab.certificate,)), alpn=("h2",))
    over = Event()

    def serve(sock: Any) -> None:
        if failing:
            waiting.append(sock)
            over.wait(PATIENCE)
        else:
            with Connection.from_socket(sock).start_tls(context) as connection:
                connection.recv()

    upstream = lab.serve_raw(serve)
    _, port = intercepting(lab)
    clients: list[Client] = [alone(lab, port, upstream) for _ in range(4)]
    failing = True
    for client in clients:
        client.say(headers(1, ask("/", upstream)))
    clients[0].wait(lambda: waiting)
    gevent.sleep(0.05)
    assert len(waiting) == 1
    waiting[0].shutdown(gevent.socket.SHUT_RDWR)
    clients[0].wait(lambda: len(waiting) == 4)
    over.set()
    assert [client.answer(1).status for client in clients] == ["502"] * 4


def test_what_one_client_sends_cannot_be_found_out_by_another_from_sizes(lab: Lab) -> None:
    """RFC 7541 section 7.1: a guess that is right would be shorter, if it were in the table."""

    def serve(peer: Peer) -> None:
        for number in range(1, 9, 2):
            peer.until(lambda number=number: peer.has(number))
            peer.say(headers(number, [*OK, ("content-length", "0")]))

    peer = Peer(lab, serve)
    _, port = intercepting(lab)
    secret = (("priority", "u=0"), ("x-api-key", "a" * 20), ("cookie", "b=c"), ("authorization", "Bearer d"), ("user-agent", "e"))
    for _ in range(4):
        client = alone(lab, port, peer.port)
        client.say(headers(1, ask("/secret", peer.port, *secret)))
        assert client.answer(1).status == "200"
    assert peer.connections == 1
    assert "priority" not in dict(peer.requests.streams[1].heads[0])
    assert sorted(name for name, _ in peer.requests.decoder.header_table.dynamic_entries) == [b":authority", b"user-agent"]


def test_a_request_that_its_client_cancels_frees_its_stream_at_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without waiting for the next look at all clients."""

    def serve(peer: Peer) -> None:
        peer.until(lambda: peer.has(1) and peer.has(3))
        peer.say(headers(3, OK, end=False), data(3, b"begun"))
        peer.until(lambda: peer.requests.streams[1].reset is not None and peer.requests.streams[3].reset is not None)
        peer.until(lambda: False)

    peer = Peer(lab, serve)
    proxy, port = intercepting(lab)
    monkeypatch.setattr(proxy._client_watch, "look", lambda now: None)
    client = alone(lab, port, peer.port)
    client.say(headers(1, ask("/", peer.port)), headers(3, ask("/", peer.port)))
    client.wait(lambda: 3 in client.streams and client.streams[3].body == b"begun")
    (session,) = (each for kept in proxy._upstreams._sessions.by_key.values() for each in kept)
    assert len(session.exchanges) == 2
    client.say(reset(1), reset(3))
    client.wait(lambda: not session.exchanges and not proxy._client_watch.waiting)
    client.wait(lambda: [peer.requests.streams[number].reset for number in (1, 3)] == [f.CANCEL, f.CANCEL])  # on their way till then


def test_requests_that_clients_cancel_do_not_make_the_server_end_the_connection_of_others(lab: Lab) -> None:
    """It counts resets (CVE-2023-44487). A connection on which many requests were cancelled takes no more."""

    def serve(peer: Peer) -> None:
        while True:
            peer.until(lambda: numbers_of(peer, "/end"))
            peer.say(*[headers(number, [*OK, ("content-length", "0")]) for number in numbers_of(peer, "/end")])
            peer.until(lambda: False)

    peer = Peer(lab, serve)
    proxy, port = intercepting(lab)
    client, other = alone(lab, port, peer.port), alone(lab, port, peer.port)
    other.say(headers(1, ask("/other", peer.port)))
    kept = proxy._upstreams._sessions.by_key
    client.wait(lambda: kept)
    ((first,),) = kept.values()
    number = 1
    while first.room:
        client.say(headers(number, ask("/", peer.port)))
        client.wait(lambda: len(first.exchanges) == 2)
        client.say(reset(number))
        client.wait(lambda: len(first.exchanges) == 1)
        number += 2
        assert number < 200
    assert number > 20
    client.say(headers(number, ask("/end", peer.port)))
    assert client.answer(number).status == "200" and peer.connections == 2
    other.say(reset(1))
    client.wait(lambda: first.over and [first] not in list(kept.values()))


def test_small_messages_whose_windows_a_server_gives_back_at_once_end_no_connection(lab: Lab) -> None:
    """Two WINDOW_UPDATEs for each DATA frame: the client decides how many these are."""
    many = 1500

    def serve(peer: Peer) -> None:
        got = 0
        while got < many:
            before = len(peer.requests.streams[1].body) if peer.has(1) else 0
            peer.until(lambda before=before: peer.has(1) and len(peer.requests.streams[1].body) > before)
            more = len(peer.requests.streams[1].body) - before
            peer.say(*[f.window_update(number, 1) for _ in range(more) for number in (0, 1)])
            got += more
        peer.say(headers(1, OK, end=False), data(1, b"all", end=True))
        peer.until(lambda: False)

    peer = Peer(lab, serve)
    _, port = intercepting(lab)
    client = alone(lab, port, peer.port)
    client.say(headers(1, ask("/", peer.port, method="POST"), end=False))
    for number in range(many):
        client.say(data(1, b"x"))
        if number % 50 == 49:
            client.wait(lambda number=number: peer.connections and peer.has(1) and len(peer.requests.streams[1].body) >= number)
    assert client.answer(1).body == b"all"


def test_several_downloads_at_once_have_large_windows() -> None:
    """A window is all that comes in a round trip, and many upstreams are far away."""
    windows = Windows(Sender(OwnFields("")), 128, 65535, UPSTREAM_GROWTH)
    bodies = [StreamBody(None, HTTPSettings(), number, False, -1, 65535, 65535) for number in range(1, 17, 2)]  # type: ignore[arg-type]
    for _ in range(5):
        for body in bodies:
            body.left = 0  # the server has sent all that it may, and all of it is taken
            windows.taken(body)
    assert {body.window for body in bodies} == {1 << 20}
