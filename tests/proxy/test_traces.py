"""Spans and request ids of a proxy: what the upstream is told, and what is known of a request afterwards."""

import json
import re
import socket
from functools import partial
from typing import Any

import gevent
import pytest

from muxwsgi.http.field_list import with_field
from muxwsgi.http.request_id import RequestIds, current_id
from muxwsgi.observe.tracing import Tracing
from tests.http2.frames import headers
from tests.proxy.conftest import Lab, read_head, read_response
from tests.proxy.test_http2 import ask, inside
from tests.server.test_tracing import THEIRS, TRACEPARENT, Collector, Kept, attributes, collector  # noqa: F401  # a fixture
from tests.system.server_process import ServerProcess

MADE = re.compile(r"[0-9a-f]{32}")


def told(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """The origin: says what it was told."""
    if environ["PATH_INFO"] == "/missing":
        start_response("404 Not Found", [])
        return [b""]
    start_response("200 OK", [("Content-Type", "application/json")])
    names = [name for name, _ in environ["muxwsgi.fields"]]
    fields = {key: environ.get(f"HTTP_{key.upper()}") for key in ("traceparent", "tracestate", "x_request_id")}
    return [json.dumps(fields | {"names": names}).encode()]


class Traced:
    """A proxy whose requests have spans and ids."""

    def __init__(self, lab: Lab, *, trusted: bool = True, origin: Any = told) -> None:
        self.lab = lab
        self.kept = Kept()
        self.tracing = Tracing(trusts=lambda address: trusted, exporter=self.kept)
        self.ids = RequestIds("X-Request-ID", trusts=lambda address: trusted, responds=False)
        self.proxy = lab.proxy()
        self.proxy.on_connect().mitm()
        self.origin, self.secure = lab.serve(origin), lab.serve(origin, tls=True)
        around = [partial(each.around, passes_on=True) for each in (self.tracing, self.ids)]
        self.exchanges: list[Any] = []
        self.port = lab.serve_proxy(self.proxy, around=around)
        assert lab.server is not None
        self.tracing.subscribe(lab.server.events)
        lab.server.events.subscribe(exchange=self.ids.forget)
        lab.server.events.subscribe(exchange=self.exchanges.append)

    def get(self, target: str, *fields: str) -> tuple[bytes, bytes]:
        sock = self.lab.connect(self.port)
        lines = "".join(f"{field}\r\n" for field in fields)
        sock.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
        return read_response(sock)

    def spans(self, count: int) -> list[Any]:
        with gevent.Timeout(10):
            while len(self.exchanges) < (count + 1) // 2:
                gevent.sleep(0.001)
        self.tracing.flush()
        with gevent.Timeout(10):
            while len(self.kept.spans) < count:
                gevent.sleep(0.001)
        return self.kept.spans


def test_the_trace_of_a_trusted_client_goes_through_to_the_upstream(lab: Lab) -> None:
    traced = Traced(lab)
    url = f"http://127.0.0.1:{traced.origin}/a?b=c&sig=secret"
    head, body = traced.get(url, f"traceparent: {THEIRS}", "A: 1", "tracestate: vendor=1", "X-Request-ID: given")
    assert head.startswith(b"HTTP/1.1 200 ")
    upstream, server = traced.spans(2)
    assert (server.kind.name, upstream.kind.name) == ("SERVER", "CLIENT")
    assert f"{server.parent.span_id:016x}" == "b7ad6b7169203331" and upstream.parent.span_id == server.context.span_id
    assert {f"{span.context.trace_id:032x}" for span in (upstream, server)} == {"0af7651916cd43dd8448eb211c80319c"}
    got = json.loads(body)
    assert got["traceparent"] == f"00-0af7651916cd43dd8448eb211c80319c-{upstream.context.span_id:016x}-01"
    assert (got["tracestate"], got["x_request_id"]) == ("vendor=1", "given")
    assert got["names"] == ["Host", "traceparent", "A", "tracestate", "X-Request-ID"]
    assert dict(upstream.attributes) == {
        "http.request.method": "GET",
        "server.address": "127.0.0.1",
        "server.port": traced.origin,
        "url.full": f"http://127.0.0.1:{traced.origin}/a?b=c&sig=REDACTED",
        "http.response.status_code": 200,
        "network.protocol.version": "1.1",
    }
    assert upstream.status.status_code.name == "UNSET"


def test_a_client_that_is_not_trusted_chooses_neither_trace_nor_id(lab: Lab) -> None:
    traced = Traced(lab, trusted=False)
    _, body = traced.get(f"http://127.0.0.1:{traced.origin}/", f"traceparent: {THEIRS}", "tracestate: vendor=1", "X-Request-ID: given")
    upstream, server = traced.spans(2)
    got = json.loads(body)
    match = TRACEPARENT.fullmatch(got["traceparent"])
    assert server.parent is None and match is not None and match[2] == f"{upstream.context.span_id:016x}"
    assert got["tracestate"] is None and MADE.fullmatch(got["x_request_id"])


def test_each_request_in_a_tunnel_has_a_span_and_the_connect_none(lab: Lab) -> None:
    traced = Traced(lab)
    seen: list[str] = []
    traced.proxy.on_request().do(lambda request, ctx: seen.extend((current_id(), request.headers["X-Request-ID"])))
    inside = lab.wrap(lab.tunnel(traced.port, f"localhost:{traced.secure}"))
    for path in ("/a", "/b"):
        inside.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert b" 200 OK" in read_response(inside)[0]
    inside.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")  # refused, and no exchange of the application
    assert b" 400 " in read_head(inside)
    inside.close()
    with gevent.Timeout(10):
        while len(traced.exchanges) < 4:
            gevent.sleep(0.001)
    spans = traced.spans(4)
    assert len({span.context.trace_id for span in spans}) == 2 and len(spans) == 4
    assert [span.attributes["url.full"] for span in spans if span.kind.name == "CLIENT"] == [f"https://localhost{path}" for path in ("/a", "/b")]
    assert len(set(seen)) == 2 and seen[0::2] == seen[1::2]
    connect = traced.exchanges[-1]
    assert connect.request["REQUEST_METHOD"] == "CONNECT" and connect.environ["muxwsgi.request_id"] not in seen
    assert current_id() == "-"


def test_requests_of_http_2_that_wait_for_each_other_keep_their_traces_and_ids(lab: Lab) -> None:
    waiting: list[str] = []

    def slow(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        waiting.append(environ["PATH_INFO"])
        with gevent.Timeout(10):
            while len(waiting) < 3:
                gevent.sleep(0.001)
        return told(environ, start_response)

    traced = Traced(lab, origin=slow)
    ids: dict[str, list[str]] = {}

    def before(request: Any, ctx: Any) -> None:
        ids[request.path] = [request.headers["X-Request-ID"], current_id()]

    def after(response: Any, ctx: Any) -> Any:
        assert ctx.request is not None
        ids[ctx.request.path].append(current_id())
        return response

    traced.proxy.on_request().do(before)
    traced.proxy.on_response().do(after)
    client = inside(lab, traced.port, traced.secure)
    client.say(*(headers(number, ask(f"/{number}", traced.secure)) for number in (1, 3, 5)))
    answers = {f"/{number}": json.loads(client.answer(number).body) for number in (1, 3, 5)}
    with gevent.Timeout(10):
        while len(traced.exchanges) < 3:
            gevent.sleep(0.001)
    assert all(set(ids[path]) == {got["x_request_id"]} for path, got in answers.items()) and len({each[0] for each in ids.values()}) == 3
    spans = [span for span in traced.spans(6) if span.kind.name == "CLIENT"]
    assert {span.attributes["url.full"].rpartition("/")[2]: f"{span.context.span_id:016x}" for span in spans} == {
        path[1:]: got["traceparent"].split("-")[2] for path, got in answers.items()
    }
    assert len({span.context.trace_id for span in spans}) == 3


def test_an_upstream_that_fails_is_an_error_of_its_span(lab: Lab) -> None:
    traced = Traced(lab)

    def half(sock: Any) -> None:
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert b" 502 " in traced.get(f"http://127.0.0.1:{closed.getsockname()[1]}/")[0]
    assert b" 404 " in traced.get(f"http://127.0.0.1:{traced.origin}/missing")[0]
    assert traced.get(f"http://127.0.0.1:{lab.serve_raw(half)}/")[1] == b"half"
    spans = [span for span in traced.spans(6) if span.kind.name == "CLIENT"]
    assert [span.attributes.get("error.type") for span in spans] == ["connect", "404", "incomplete"]
    assert {span.status.status_code.name for span in spans} == {"ERROR"}


def test_a_kept_connection_that_is_gone_makes_one_span_with_two_sendings(lab: Lab) -> None:
    traced = Traced(lab)
    answered: list[int] = []

    def once(sock: Any) -> None:
        sock.recv(65536)
        answered.append(1)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        sock.recv(65536)  # the next request, which it drops

    port = lab.serve_raw(once)
    for _ in range(2):
        assert b" 200 OK" in traced.get(f"http://127.0.0.1:{port}/")[0]
    spans = [span for span in traced.spans(4) if span.kind.name == "CLIENT"]
    assert [span.attributes.get("http.request.resend_count") for span in spans] == [None, 1] and len(answered) == 2


def test_a_switch_of_protocols_ends_the_span(lab: Lab) -> None:
    def switch(sock: Any) -> None:
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        sock.recv(1)

    traced = Traced(lab)
    sock = lab.connect(traced.port)
    sock.sendall(f"GET http://127.0.0.1:{lab.serve_raw(switch)}/ HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n".encode())
    assert b" 101 " in read_head(sock)
    sock.close()
    upstream, server = traced.spans(2)
    assert upstream.attributes["http.response.status_code"] == 101 and upstream.end_time <= server.end_time


@pytest.mark.parametrize(
    ("fields", "value", "expected"),
    [
        ([("A", "1"), ("x-ID", "2"), ("B", "3"), ("X-Id", "4")], "5", [("A", "1"), ("x-ID", "5"), ("B", "3")]),
        ([("A", "1")], "5", [("A", "1"), ("X-ID", "5")]),
        ([("x-id", "1"), ("A", "1"), ("X-ID", "2")], None, [("A", "1")]),
    ],
)
def test_a_field_replaces_all_of_its_name(fields: list[tuple[str, str]], value: str | None, expected: list[tuple[str, str]]) -> None:
    assert with_field(fields, "X-ID", value) == expected


def test_the_command_has_spans_and_ids_of_a_proxy(lab: Lab, collector: Collector) -> None:  # noqa: F811
    options = ["--allow-private", "--otel-traces", "--request-id-header", "X-Request-ID", "--request-id-response"]
    port = lab.serve(told)
    with ServerProcess(None, *options, environment=collector.environment) as server:
        sock = lab.connect(server.port)
        sock.sendall(f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head, body = read_response(sock)
        got = json.loads(body)
        assert f"X-Request-ID: {got['x_request_id']}".encode() in head and MADE.fullmatch(got["x_request_id"])
        with gevent.Timeout(20):
            while len(collector.spans) < 2:
                gevent.sleep(0.01)
        assert server.stop() == 0
    assert sorted(span.kind for span in collector.spans) == [2, 3]
    upstream = next(span for span in collector.spans if span.kind == 3)
    assert upstream.span_id.hex() in got["traceparent"] and attributes(upstream)["server.port"] == port
