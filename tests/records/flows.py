"""Flows to write, read and choose from."""

from hypothesis import strategies as st

from muxwsgi.records.flow import Captured, Close, Flow, Head, Message, TLSSide, WebSocketRecord

Fields = list[tuple[str, str]]


def http_flow(
    method: str = "GET",
    url: str = "https://example.com/path?a=1&b=2",
    status: int | None = 200,
    *,
    request_fields: Fields | None = None,
    response_fields: Fields | None = None,
    request_body: bytes = b"",
    response_body: bytes = b"",
    capture_limit: int = 1 << 20,
) -> Flow:
    """One exchange in a tunnel, with everything filled in."""
    flow = Flow("http", "127.0.0.1:50000", "127.0.0.1:8080", "connect", 7, 3, capture_limit, tunnel=6, destination="example.com:443")
    flow.address, flow.identity = "192.0.2.1:443", "ann"
    flow.client_tls = TLSSide(
        "TLSv1.3", "TLS_AES_128_GCM_SHA256", "example.com", "http/1.1", "0" * 32, "t13d1516h2_8daaf6152771_02713d6af862"
    )
    flow.upstream_tls = TLSSide("TLSv1.3", "TLS_AES_256_GCM_SHA384", alpn="http/1.1", peer_certificate="ab" * 32)
    flow.trace, flow.tags = ["http1: YES"], ["seen"]
    flow.dialling = 0.005
    flow.answered_by = "upstream"
    flow.resolved, flow.connected, flow.secured, flow.sent, flow.first_byte, flow.ended = 0.01, 0.03, 0.06, 0.07, 0.17, 0.2
    fields = [("Host", "example.com"), ("User-Agent", "test")] if request_fields is None else request_fields
    flow.request = Head((method, url, "HTTP/1.1"), fields)
    if status is not None:
        flow.response = Head(("HTTP/1.1", str(status), "OK"), response_fields or [("Content-Type", "text/plain")])
    flow.from_client.add(request_body)
    flow.from_server.add(response_body)
    return flow


def raw_flow(from_client: bytes = b"", from_server: bytes = b"", destination: str = "example.com:22") -> Flow:
    flow = Flow("raw", "127.0.0.1:50001", "127.0.0.1:8080", "socks5", 8, 4, 1 << 20, destination=destination)
    flow.from_client.add(from_client)
    flow.from_server.add(from_server)
    flow.ended = 1.5
    return flow


def message(from_client: bool, data: bytes, *, opcode: int = 1, limit: int = 1 << 20, complete: bool = True, time: float = 0.5) -> Message:
    content = Captured(limit)
    content.add(data)
    return Message(from_client, opcode, time, complete, content)


def websocket_flow(*messages: Message, stopped: str | None = None, count: int | None = None) -> Flow:
    """A WebSocket whose bytes are as they passed, masked and compressed: what they say is in the messages."""
    flow = http_flow(url="/chat", status=101, request_body=b"\xc1\x85masked", response_body=b"\xc1\x05deflated")
    flow.kind = "websocket"
    flow.websocket = WebSocketRecord(list(messages), len(messages) if count is None else count, Close(True, 1000, "bye"), stopped)
    return flow


latin = st.text(st.characters(max_codepoint=255), max_size=20)
fields = st.lists(st.tuples(latin, latin), max_size=4)
seconds = st.none() | st.floats(0, 1e5).map(lambda value: round(value, 6))
maybe = st.none() | st.text(max_size=12)
sides = st.none() | st.builds(TLSSide, st.text(max_size=8), st.text(max_size=8), maybe, maybe, maybe, maybe, maybe)
bodies = st.binary(max_size=60) | st.text(max_size=30).map(lambda text: text.encode("utf-8", "surrogatepass"))


closes = st.none() | st.builds(Close, st.booleans(), st.none() | st.integers(1000, 4999), st.text(max_size=9))
messages = st.builds(
    message,
    st.booleans(),
    bodies,
    opcode=st.sampled_from([1, 2]),
    limit=st.integers(0, 40),
    complete=st.booleans(),
    time=st.floats(0, 1e5).map(lambda value: round(value, 6)),
)
websockets = st.builds(WebSocketRecord, st.lists(messages, max_size=3), st.integers(0, 1 << 60), closes, maybe)


@st.composite
def any_flow(draw: st.DrawFn) -> Flow:
    """Any flow that could end, and some that could not."""
    flow = Flow(
        draw(st.sampled_from(["http", "websocket", "raw", "connect"])),
        draw(st.text(max_size=20)),
        draw(st.text(max_size=20)),
        draw(st.sampled_from(["http", "connect", "socks4", "socks5", "redirect", "tproxy"])),
        draw(st.integers(0, 1 << 60)),
        draw(st.integers(0, 1 << 60)),
        draw(st.integers(0, 40)),
        tunnel=draw(st.none() | st.integers(0, 1 << 60)),
        destination=draw(maybe),
        address=draw(maybe),
        identity=draw(maybe),
        trace=draw(st.lists(latin, max_size=3)),
        tags=draw(st.lists(st.text(max_size=9), max_size=3)),
        client_tls=draw(sides),
        upstream_tls=draw(sides),
        reused=draw(st.booleans()),
        error=draw(maybe),
    )
    flow.started = round(flow.started, 6)
    for mark in ("resolved", "connected", "secured", "sent", "first_byte", "ended"):
        setattr(flow, mark, draw(seconds))
    if draw(st.booleans()):
        flow.request = Head((draw(latin), draw(latin | st.just("http://h/x")), draw(latin)), draw(fields))
    if draw(st.booleans()):
        flow.response = Head((draw(latin), str(draw(st.integers(100, 999))), draw(latin)), draw(fields))
    flow.from_client.add(draw(bodies))
    flow.from_server.add(draw(bodies))
    if flow.kind == "websocket":
        flow.websocket = draw(st.none() | websockets)
    return flow
