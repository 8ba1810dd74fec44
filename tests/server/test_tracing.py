"""OpenTelemetry traces: what a real OTLP/HTTP receiver gets of a server, and what happens without one."""

import gzip
import http.client
import http.server
import json
import re
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from muxwsgi.errors import OperatorError
from muxwsgi.observe.tracing import Tracing
from tests.system.server_process import ServerProcess
from tests.waiting import wait_for

APP = "tests.server.traced_app"

TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-0([0-3])")
THEIRS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector(http.server.ThreadingHTTPServer):
    """Receives spans by OTLP over HTTP. `down` makes it refuse them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receive)
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.down = False
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.server_port}", "OTEL_SERVICE_NAME": "shop"}

    def wait(self, count: int) -> list[Any]:
        wait_for(lambda: len(self.spans) >= count, lambda: f"{len(self.spans)} spans came, not {count}")
        return self.spans


class Receive(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Collector

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            data = gzip.decompress(data)
        if not self.server.down and self.path == "/v1/traces":
            request = ExportTraceServiceRequest.FromString(data)
            for resource in request.resource_spans:
                self.server.resources.append({each.key: each.value.string_value for each in resource.resource.attributes})
                for scope in resource.scope_spans:
                    self.server.spans += scope.spans
        self.send_response(400 if self.server.down else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: Any) -> None: ...


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as started:
        yield started
        started.shutdown()


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: each.value.int_value or each.value.string_value for each in span.attributes}


def request(server: ServerProcess, method: str, target: str, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request(method, target, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    data = response.read()
    connection.close()
    return response.status, json.loads(data) if data.startswith(b"{") else data


def test_a_request_is_a_span_with_the_names_of_the_semantic_conventions(collector: Collector) -> None:
    with ServerProcess(APP, "--otel-traces", environment=collector.environment) as server:
        status, told = request(server, "GET", "/sh%6fp%C3%A9?a=b&sig=secret&sigh=1", User_Agent="tester")
        assert status == 200
        [span] = collector.wait(1)
        assert server.stop() == 0
    assert (span.name, span.kind, span.parent_span_id, span.status.code) == ("GET", 2, b"", 0)
    got = attributes(span)
    assert 0 < got.pop("network.peer.port") and 0 < got.pop("server.port") and 0 < got.pop("http.response.body.size")
    assert got == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "url.path": "/sh%6fp%C3%A9",
        "url.query": "a=b&sig=REDACTED&sigh=1",
        "network.protocol.name": "http",
        "network.protocol.version": "1.1",
        "network.peer.address": "127.0.0.1",
        "client.address": "127.0.0.1",
        "server.address": "127.0.0.1",
        "user_agent.original": "tester",
    }
    assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < 30e9
    assert collector.resources[0]["service.name"] == "shop"
    match = TRACEPARENT.fullmatch(told["traceparent"])
    assert match is not None
    assert (match[1], match[2]) == (span.trace_id.hex(), span.span_id.hex())
    assert int(match[3]) & 1, "sampled; 2 says that the id is random (Trace Context level 2)"
    assert told["current"] == span.span_id.hex(), "of OpenTelemetry's context"


def test_errors_and_methods_that_nobody_knows(collector: Collector) -> None:
    with ServerProcess(APP, "--otel-traces", environment=collector.environment) as server:
        assert request(server, "GET", "/fail")[0] == 500
        assert request(server, "BREW", "/missing")[0] == 404
        with pytest.raises(http.client.IncompleteRead):
            request(server, "GET", "/half")
        fail, brew, half = collector.wait(3)
        assert server.stop() == 0
    assert fail.status.code == 2 and attributes(fail)["error.type"] == "500"
    assert [event.name for event in fail.events] == ["exception"]
    assert "of the application" in str(fail.events[0].attributes)
    assert brew.name == "HTTP" and brew.status.code == 0
    assert (attributes(brew)["http.request.method"], attributes(brew)["http.request.method_original"]) == ("_OTHER", "BREW")
    assert half.status.code == 2 and attributes(half)["error.type"] == "incomplete"
    assert half.status.message == "the application did not complete the response"


def test_requests_of_one_connection_have_a_trace_each_and_a_refused_one_none(collector: Collector) -> None:
    with ServerProcess(APP, "--otel-traces", environment=collector.environment) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            client.sendall(b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n" * 2 + b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
            while client.recv(65536):
                pass
        collector.wait(2)
        assert server.stop() == 0
    assert len(collector.spans) == len({span.trace_id for span in collector.spans}) == 2


@pytest.mark.parametrize(
    "given",
    [
        {"traceparent": THEIRS, "tracestate": "a=b"},
        {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"},
        {"traceparent": "nonsense", "tracestate": "a=b"},
        {"traceparent": "00-00000000000000000000000000000000-b7ad6b7169203331-01"},
    ],
)
def test_a_client_that_is_not_trusted_chooses_no_trace(given: dict[str, str], collector: Collector) -> None:
    with ServerProcess(APP, "--otel-traces", *NOBODY, environment=collector.environment) as server:
        _, told = request(server, "GET", "/", **given)
        [span] = collector.wait(1)
        assert server.stop() == 0
    assert span.parent_span_id == b"" and span.trace_id.hex() in told["traceparent"] and "0af765" not in told["traceparent"]
    assert told["tracestate"] == "none"


NOBODY = ["--forwarded-allow-ips", "none"]


def traced_environ(tracing: Tracing, **fields: str) -> dict[str, Any]:
    """The environ that the application gets from a peer."""

    class Peer:
        client = ("192.0.2.1", 1)

    environ: dict[str, Any] = {
        "muxwsgi.connection": Peer(),
        "REQUEST_METHOD": "GET",
        "wsgi.url_scheme": "http",
        "PATH_INFO": "/",
        "RAW_URI": "/",
        "QUERY_STRING": "",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "a",
        "SERVER_PORT": "80",
        **fields,
    }
    seen: dict[str, Any] = {}

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.update(environ)
        return []

    tracing.around(app)(environ, lambda *_: None)
    from muxwsgi.http.exchange import Exchange

    tracing._exchange(Exchange(environ, environ, "200 OK", [], 0, 1.0))
    return seen


class Kept:
    """An exporter that keeps its spans."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    def export(self, batch: Any) -> Any:
        from opentelemetry.sdk.trace.export import SpanExportResult

        self.spans += batch
        return SpanExportResult.SUCCESS


@pytest.mark.parametrize("sampled", [True, False])
def test_the_trace_of_a_trusted_peer_goes_on_with_its_flag(sampled: bool) -> None:
    kept = Kept()
    tracing = Tracing(trusts=lambda address: address == ("192.0.2.1", 1), exporter=kept)
    seen = traced_environ(tracing, HTTP_TRACEPARENT=THEIRS[:-1] + str(int(sampled)), HTTP_TRACESTATE="vendor=1")
    match = TRACEPARENT.fullmatch(seen["HTTP_TRACEPARENT"])
    assert match is not None and match[1] == "0af7651916cd43dd8448eb211c80319c" and int(match[3]) & 1 == sampled
    assert seen["HTTP_TRACESTATE"] == "vendor=1"
    tracing.close()
    if sampled:
        [span] = kept.spans
        assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331" and match[2] == f"{span.context.span_id:016x}"
    else:
        assert kept.spans == []


@pytest.mark.parametrize("malformed", ["", "x", "00-1-2-3", THEIRS + "-more", "ff" + THEIRS[2:], THEIRS.upper(), THEIRS + "," + THEIRS])
def test_a_malformed_traceparent_begins_a_trace(malformed: str) -> None:
    kept = Kept()
    tracing = Tracing(trusts=lambda address: True, exporter=kept)
    seen = traced_environ(tracing, HTTP_TRACEPARENT=malformed, HTTP_TRACESTATE="vendor=1")
    tracing.close()
    [span] = kept.spans
    assert span.parent is None and "0af765" not in seen["HTTP_TRACEPARENT"] and "HTTP_TRACESTATE" not in seen


def test_a_collector_that_is_gone_costs_spans_and_no_request(collector: Collector) -> None:
    collector.down = True
    with ServerProcess(APP, "--otel-traces", environment=collector.environment) as server:
        assert request(server, "GET", "/")[0] == 200
        server.wait_for_log("otel_traces: spans are lost: the collector did not take them")
        collector.down = False
        assert request(server, "GET", "/")[0] == 200
        collector.wait(1)
        server.wait_for_log("otel_traces: spans are exported again; 1 were lost")
        assert server.stop() == 0


def test_a_collector_that_does_not_answer_holds_up_neither_requests_nor_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{deaf.getsockname()[1]}"}
        with ServerProcess(APP, "--otel-traces", environment=environment) as server:
            for _ in range(5):
                assert request(server, "GET", "/")[0] == 200
            deaf.settimeout(10)
            deaf.accept()[0].close()  # an export had begun
            assert request(server, "GET", "/")[0] == 200
            assert server.stop() == 0


def test_spans_that_wait_are_bounded() -> None:
    tracing = Tracing(trusts=lambda address: False, exporter=Kept())
    for _ in range(2100):
        traced_environ(tracing)  # no greenlet of an export runs meanwhile
    assert tracing.lost == 2100 - 2048
    tracing.close()


def test_without_the_packages_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(OperatorError, match=r"otel_traces: .* is missing: pip install 'muxwsgi\[otel\]'"):
        Tracing(trusts=lambda address: False)


def test_without_the_option_nothing_of_opentelemetry_is_loaded() -> None:
    with ServerProcess(APP) as server:
        _, told = request(server, "GET", "/", traceparent=THEIRS)
        assert told["traceparent"] == THEIRS and told["loaded"] is False
        assert server.stop() == 0
