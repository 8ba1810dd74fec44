"""Clients that wait for the server before they send the bytes that decide: gRPC, whose clients wait for SETTINGS."""

from collections.abc import Callable

import gevent
import pytest

from muxwsgi import Connection, Mux, Route
from muxwsgi.mux.matchers import any_of, looks_into, named, not_, prefix, prompt_of
from muxwsgi.protocols.grpc import grpc
from muxwsgi.protocols.http2 import PREFACE, http2_preface
from muxwsgi.server.route_match import matcher_of
from muxwsgi.testing import connection_pair
from tests.http2.frames import END_HEADERS, HEADERS, frame

SETTINGS, ACK = 4, 1
OPENING = PREFACE + frame(SETTINGS, 0, 0, b"\0\4\0\1\0\0")
PROMPT, ACKNOWLEDGED = frame(SETTINGS, 0, 0), frame(SETTINGS, ACK, 0)
GRPC = frame(HEADERS, END_HEADERS, 1, b"\x83\x86\x84\x5f\x10application/grpc")
OTHER = frame(HEADERS, END_HEADERS, 1, b"\x82\x86\x84")


class Server:
    """A mux with gRPC in front of HTTP/2, and what its handlers got."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []
        self.mux = Mux(
            [Route("grpc", grpc, self.taker("grpc")), Route("http2", http2_preface, self.taker("http2"), alpn=("h2",))], sniff_timeout=0.5
        )

    def taker(self, name: str):  # type: ignore[no-untyped-def]
        def take(connection: Connection) -> None:
            data = b""
            while part := connection.recv():
                data += part
            self.got.append((name, data))

        return take


@pytest.mark.parametrize(("request_", "name"), [(GRPC, "grpc"), (OTHER, "http2")])
@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("step", [1, 1000])
def test_the_server_sees_what_the_client_would_have_sent_without_the_prompt(request_: bytes, name: str, waits: bool, step: int) -> None:
    served = Server()
    server, client = connection_pair()
    serving = gevent.spawn(served.mux, server)

    def say(data: bytes) -> None:
        for at in range(0, len(data), step):
            client.sendall(data[at : at + step])
            gevent.sleep(0)

    def answer() -> None:
        """Acknowledge each SETTINGS of the server, as every client does."""
        assert client.recv() == PROMPT
        say(ACKNOWLEDGED)

    say(OPENING)
    if waits:
        answer()
        say(request_)
    else:
        say(request_)
        answer()
    say(b"more")
    client.shutdown(1)
    serving.get(timeout=5)
    server.finish()
    client.close()
    assert served.got == [(name, OPENING + request_ + b"more")]


def test_a_client_that_acknowledges_and_then_waits_for_long_is_no_different(swept: Callable[..., None]) -> None:
    """A browser opens connections before it has a request."""
    served = Server()
    server, client = connection_pair()
    swept(server)
    serving = gevent.spawn(served.mux, server)
    client.sendall(OPENING)
    assert client.recv() == PROMPT
    client.sendall(ACKNOWLEDGED)
    while not server.trace:  # until the time is up
        gevent.sleep(0.01)
    client.sendall(OTHER)
    client.shutdown(1)
    serving.get(timeout=5)
    assert served.got == [("http2", OPENING + OTHER)]
    server.finish()
    client.close()


def test_a_client_that_never_acknowledges_is_served_when_the_time_is_up() -> None:
    served = Server()
    server, client = connection_pair()
    serving = gevent.spawn(served.mux, server)
    client.sendall(OPENING + OTHER)
    client.shutdown(1)
    serving.get(timeout=5)
    assert served.got == [("http2", OPENING + OTHER)]
    server.finish()
    client.close()


def test_nobody_else_is_prompted() -> None:
    served = Server()
    for said in (b"GET / HTTP/1.1\r\n\r\n", PREFACE, OPENING[:-1], PREFACE + GRPC):
        server, client = connection_pair()
        serving = gevent.spawn(served.mux, server)
        client.sendall(said)
        client.shutdown(1)
        serving.get(timeout=5)
        server.finish()
        assert client.recv() == b""
        client.close()


def test_agreeing_on_http2_does_not_decide_where_a_route_looks_into_it() -> None:
    mux = Server().mux
    assert mux.decide_by_alpn("h2") is None
    assert mux.alpn == ("h2",)
    decided = Mux([Route("http2", http2_preface, print, alpn=("h2",))]).decide_by_alpn("h2")
    assert decided is not None
    assert decided.route is not None


def test_what_is_made_of_the_matcher_prompts_too() -> None:
    made = [any_of(prefix(b"x"), grpc), not_(grpc), named("other")(grpc), matcher_of("grpc", "here"), matcher_of({"any": ["grpc"]}, "here")]
    assert {prompt_of(each) for each in made} == {prompt_of(grpc)}
    assert {looks_into(each) for each in made} == {frozenset({"h2"})}
    assert prompt_of(http2_preface) is prompt_of(len) is None  # type: ignore[arg-type]
