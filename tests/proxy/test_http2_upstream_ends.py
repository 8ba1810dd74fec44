"""How connections of HTTP/2 to upstreams end, what of their requests is repeated then, and what is remembered of their servers."""

import socket
from typing import Any

import gevent
import gevent.socket
import pytest
from gevent.event import Event

from muxwsgi.proxy.upstream.sessions import Sessions
from muxwsgi.wire.connection import Connection
from tests.http2 import frames as f
from tests.http2.frames import data, headers, reset
from tests.proxy.conftest import PATIENCE, Lab, read_head, read_response
from tests.proxy.test_http2 import Origin, intercepting
from tests.proxy.test_http2_upstreams import OK, Peer
from tests.proxy.test_upstream_choice_of_http import HTTP_1_1_REQUIRED, Either, answering, get, tunnel, upgrade
from tests.waiting import until


def end(peer: Peer) -> None:
    """End the connection with a FIN. What has come is read first, since a reset would take back what was sent."""
    peer.connection.shutdown(socket.SHUT_WR)
    while peer.connection.recv():
        pass


@pytest.mark.parametrize("how", ["FIN", "GOAWAY", "fault"])
def test_a_response_that_is_complete_before_its_request_is_whole_although_the_connection_ends(lab: Lab, how: str) -> None:
    behind = {
        "FIN": b"",
        "GOAWAY": f.frame(f.GOAWAY, 0, 0, bytes(8)),  # not even this stream, it says
        "fault": f.frame(f.PUSH_PROMISE, 4, 1, bytes(4)),
    }[how]

    def serve(peer: Peer) -> None:
        peer.until(lambda: peer.has(1))
        peer.say(headers(1, OK, end=False), data(1, b"enough", end=True), behind)
        end(peer)

    peer = Peer(lab, serve)
    _, port = intercepting(lab)
    client = tunnel(lab, port, peer.port)
    client.sendall(get("/", peer.port, "Content-Length: 1000000", method="POST") + b"some")
    head, body = read_response(client)
    assert head.startswith(b"HTTP/1.1 200 ") and body == b"enough"


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_goaway_with_http_1_1_required_repeats_only_what_may_be_repeated(lab: Lab, method: str) -> None:
    """The server may have processed the request, since GOAWAY names its stream as the last one."""

    def serve(peer: Peer) -> None:
        peer.until(lambda: peer.has(1))
        peer.say(f.frame(f.GOAWAY, 0, 0, (1).to_bytes(4, "big") + HTTP_1_1_REQUIRED.to_bytes(4, "big")))
        end(peer)

    peer = Either(lab, serve, in_http2=1)
    _, port = intercepting(lab)
    client = tunnel(lab, port, peer.port)
    client.sendall(get("/", peer.port, "Content-Length: 2", method=method) + b"ab")
    assert read_head(client).startswith(b"HTTP/1.1 502 " if method == "POST" else b"HTTP/1.1 200 ")
    assert len(peer.asked) == (method == "PUT")


def test_what_a_server_asked_for_that_a_rule_has_dialled_is_not_remembered_for_others(lab: Lab) -> None:
    def serve(peer: Peer) -> None:
        peer.until(lambda: peer.has(1))
        peer.say(reset(1, HTTP_1_1_REQUIRED))
        peer.until(lambda: False)

    other = Either(lab, serve, in_http2=1)
    origin = Origin()
    upstream = lab.serve(origin, tls=True)
    proxy, port = intercepting(lab)

    def dial(host: str, to: int) -> Connection:
        return Connection.from_socket(gevent.socket.create_connection(("127.0.0.1", other.port)))

    proxy.on_request().do(lambda request, ctx: setattr(ctx, "dial", dial if request.path == "/other" else None))
    client = tunnel(lab, port, upstream)
    client.sendall(get("/other", upstream))
    assert read_response(client)[1] == b"old"
    client = tunnel(lab, port, upstream)
    client.sendall(get("/a", upstream))
    assert read_response(client)[1] == b"/a "
    assert origin.asked[-1]["SERVER_PROTOCOL"] == "HTTP/2.0"


def test_a_websocket_over_a_connection_that_a_rule_dials_needs_no_server_that_takes_it_in_http_2(lab: Lab) -> None:
    peer = Either(lab, answering)
    proxy, port = intercepting(lab)

    def dial(host: str, to: int) -> Connection:
        return Connection.from_socket(gevent.socket.create_connection(("127.0.0.1", to)))

    proxy.on_request().do(lambda request, ctx: setattr(ctx, "dial", dial))
    client = tunnel(lab, port, peer.port)
    client.sendall(upgrade("/socket", peer.port))
    assert read_response(client)[1] == b"old"
    assert b"Upgrade: websocket" in peer.asked[0]


def test_connections_that_carry_no_request_after_all_count_among_those_at_rest(lab: Lab) -> None:
    """A server that is known to speak HTTP/2 in clear, and takes no WebSockets."""
    over: list[int] = []
    done = Event()

    def run(sock: Any) -> None:
        connection = Connection.from_socket(sock)
        with connection:
            received = b""
            while more := connection.recv():
                if not received:
                    connection.sendall(f.settings())
                received += more
        over.append(len(over))
        if len(over) == 3:
            done.set()

    upstream = lab.serve_raw(run)
    proxy, port = intercepting(lab, upstream_h2c=("localhost",), max_idle_per_host=2)
    for _ in range(5):
        client = lab.tunnel(port, f"localhost:{upstream}")
        client.sendall(upgrade("/socket", upstream))
        assert read_head(client).startswith(b"HTTP/1.1 502 ")
        client.close()
    assert done.wait(10)
    assert [len(each) for each in proxy._upstreams._sessions.by_key.values()] == [2]


def test_trailers_that_are_large_end_their_request_and_no_connection(lab: Lab) -> None:
    def serve(peer: Peer) -> None:
        peer.until(lambda: peer.has(1) and peer.requests.streams[1].reset is not None)
        peer.until(lambda: peer.has(3))
        peer.say(headers(3, OK, end=False), data(3, b"here", end=True))
        peer.until(lambda: False)

    peer = Peer(lab, serve)
    _, port = intercepting(lab)
    client = tunnel(lab, port, peer.port)
    trailers = b"".join(b"X-%d: %b\r\n" % (number, bytes(1000).hex().encode()) for number in range(5))
    client.sendall(get("/", peer.port, "Transfer-Encoding: chunked", method="POST") + b"1\r\nx\r\n0\r\n" + trailers + b"\r\n")
    assert read_head(client).startswith(b"HTTP/1.1 502 ")
    other = tunnel(lab, port, peer.port)
    other.sendall(get("/", peer.port))
    assert read_response(other)[1] == b"here"
    assert peer.connections == 1


def test_a_connection_that_is_stuck_takes_no_more_requests(lab: Lab) -> None:
    """Its server reads nothing any more, and the upload of one client has filled it."""

    def serve(peer: Peer) -> None:
        peer.until(lambda: peer.has(1))
        if peer.connections == 1:
            peer.say(f.frame(f.WINDOW_UPDATE, 0, 0, (1 << 30).to_bytes(4, "big")))
            stop.wait(PATIENCE)
            return
        peer.say(headers(1, OK, end=False), data(1, b"here", end=True))
        peer.until(lambda: False)

    stop = Event()
    peer = Peer(lab, serve, f.settings((4, 1 << 30)))
    proxy, port = intercepting(lab)
    first = tunnel(lab, port, peer.port)
    size = 64 << 20
    first.sendall(get("/", peer.port, f"Content-Length: {size}", method="POST"))
    uploading = gevent.spawn(first.sendall, bytes(size))
    sessions = proxy._upstreams._sessions.by_key
    until(lambda: sessions and not next(iter(sessions.values()))[0].room)
    other = tunnel(lab, port, peer.port)
    other.sendall(get("/", peer.port))
    assert read_response(other)[1] == b"here"
    uploading.kill()
    stop.set()


def test_a_connection_that_is_added_after_the_end_of_its_proxy_is_closed_after_its_exchanges() -> None:
    class Session:
        over = False
        exchanges: dict[int, object] = {}
        idle_since = 0.0
        closed = Event()

        def close(self) -> None:
            self.closed.set()

    sessions = Sessions(10, 10, 60.0)
    sessions.close()
    late: Any = Session()
    sessions.add("key", late)
    sessions.rests("key", late)
    assert late.closed.wait(10)
    assert not sessions.by_key
