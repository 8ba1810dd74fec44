"""What a WebSocket library's client and server say through a proxy that inspects is in the flow log and in the HAR file, message by message."""

import base64
import json
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from muxwsgi.records.flow_filter import parse_filter
from muxwsgi.records.flow_record import flow_of
from tests.proxy.clients.conftest import StartProxy
from tests.proxy.clients.proxy_process import ProxyProcess, Trust
from tests.records.test_har import read as read_har

client = pytest.importorskip("websockets.sync.client")
server = pytest.importorskip("websockets.sync.server")
exceptions = pytest.importorskip("websockets.exceptions")
permessage_deflate = pytest.importorskip("websockets.extensions.permessage_deflate")

BINARY = bytes(range(256))


@pytest.fixture(params=["takeover", "no takeover", "small windows", "no deflate"])
def factory(request: pytest.FixtureRequest) -> Any:
    """How the server agrees to compress."""
    return {
        "takeover": permessage_deflate.ServerPerMessageDeflateFactory(),
        "no takeover": permessage_deflate.ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True),
        "small windows": permessage_deflate.ServerPerMessageDeflateFactory(server_max_window_bits=9, client_max_window_bits=9),
        "no deflate": None,
    }[request.param]


@pytest.fixture
def echo(trust: Trust, factory: Any) -> Iterator[int]:
    """Says each message back, fragments too, and leaves with 4001 when told so. Its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trust.leaf.certfile, trust.leaf.keyfile)

    def handle(connection: Any) -> None:
        for message in connection:
            if message == "leave":
                connection.close(4001, "as you wish")
            elif isinstance(message, str) and "+" in message:
                connection.send(iter(message.split("+")))
            else:
                connection.send(message)

    with server.serve(handle, "127.0.0.1", 0, ssl=context, compression=None, extensions=[factory] if factory else None) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield serving.socket.getsockname()[1]
        serving.shutdown()
    thread.join(20)


def converse(proxy: ProxyProcess, port: int, *messages: Any) -> tuple[Any, list[Any]]:
    """The connection, which has ended, and what came back for each message."""
    context = ssl.create_default_context(cafile=str(proxy.trust.ca))
    heard = []
    url = f"wss://localhost:{port}/chat?room=1"
    with client.connect(url, proxy=proxy.url, ssl=context, close_timeout=20) as connection:
        for message in messages:
            connection.send(message)
            try:
                heard.append(connection.recv(timeout=20))
            except exceptions.ConnectionClosed:
                break
        connection.close(1000, "done")
    return connection, heard


def test_what_was_said_is_in_the_log_and_in_the_archive(
    start_proxy: StartProxy, echo: int, factory: Any, trust: Trust, tmp_path: Path
) -> None:
    har = tmp_path / "flows.har"
    proxy = start_proxy(f"--har={har}")
    began = time.time()
    connection, heard = converse(proxy, echo, "grüß dich", BINARY, iter(["one ", "two ", "three"]), "a+b+c", "grüß dich", "leave")
    assert heard == ["grüß dich", BINARY, "one two three", "abc", "grüß dich"] and connection.protocol.close_code == 4001
    assert ("permessage-deflate" in connection.response.headers.get("Sec-WebSocket-Extensions", "")) is (factory is not None)
    flow = proxy.flows.first(lambda flow: flow["kind"] == "websocket")
    texts = ["grüß dich", BINARY, "one two three", "a+b+c", "grüß dich"]
    expected: list[tuple[str, str | bytes]] = []
    for sent, received in zip(texts, heard, strict=True):
        expected += [("send", sent), ("receive", received)]
    expected.append(("send", "leave"))

    # The flow log
    said = flow["websocket"]
    assert [(message["type"], message["text"] if message["opcode"] == 1 else base64.b64decode(message["base64"])) for message in said["messages"]] == expected
    assert said["count"] == len(expected) and said["stopped"] is None
    assert said["close"] == {"type": "receive", "code": 4001, "reason": "as you wish"}
    assert all(message["complete"] and not message["truncated"] for message in said["messages"])
    times = [message["time"] for message in said["messages"]]
    assert times == sorted(times) and flow["timings"]["first_byte"] <= times[0] and times[-1] <= flow["timings"]["ended"]

    # The archive: four keys each, as Chromium's developer tools write and read them.
    assert proxy.stop() == 0
    (entry,) = (entry for entry in read_har(har) if entry["_resourceType"] == "websocket")
    assert entry["request"]["url"] == f"wss://localhost:{echo}/chat?room=1" and entry["request"]["method"] == "GET"
    assert "postData" not in entry["request"] and entry["response"]["status"] == 101 and entry["response"]["content"]["size"] == 0
    messages = entry["_webSocketMessages"]
    assert all(set(message) == {"type", "time", "opcode", "data"} for message in messages)
    assert [(message["type"], message["data"] if message["opcode"] == 1 else base64.b64decode(message["data"])) for message in messages] == expected
    assert [message["opcode"] for message in messages] == [1, 1, 2, 2, *[1] * 7]
    assert all(began - 1 <= message["time"] <= time.time() + 1 for message in messages)
    assert entry["_webSocketClose"] == said["close"] and "comment" not in entry

    # Filters
    whole = flow_of(json.loads(json.dumps(flow)))
    for expression in ("~b 'three'", "~bq 'a\\+b'", "!(~bs 'a\\+b')", "~bs ^abc$", "~b '\\xfd\\xfe\\xff'", "~bq leave & !(~bs leave)"):
        assert parse_filter(expression)(whole), expression


@pytest.mark.parametrize("factory", ["takeover"], indirect=True)
def test_bounds_are_those_that_were_asked_for(start_proxy: StartProxy, echo: int, tmp_path: Path) -> None:
    proxy = start_proxy("--flow-bodies=10", "--flow-messages=3", f"--har={tmp_path / 'flows.har'}", "--flow-filter=~ws")
    _, heard = converse(proxy, echo, "x" * 1000, "y" * 100_000, "z", "z")
    assert heard == ["x" * 1000, "y" * 100_000, "z", "z"]
    said = proxy.flows.first(lambda flow: flow["kind"] == "websocket")["websocket"]
    assert [(message["text"], message["size"], message["truncated"]) for message in said["messages"]] == [
        ("x" * 10, 1000, True),
        ("x" * 10, 1000, True),
        ("y" * 10, 100_000, True),
    ]
    assert said["count"] == 8 and said["stopped"] == "the limit of 3 messages is reached"
    assert said["close"] == {"type": "send", "code": 1000, "reason": "done"}
    assert proxy.stop() == 0
    (entry,) = read_har(tmp_path / "flows.har")
    assert entry["comment"] == "3 of 8 messages: the limit of 3 messages is reached"
    assert [message["comment"] for message in entry["_webSocketMessages"]] == ["the first 10 of 1000 bytes"] * 2 + ["the first 10 of 100000 bytes"]


@pytest.mark.parametrize("factory", ["takeover"], indirect=True)
def test_messages_are_not_read_where_none_are_wanted(start_proxy: StartProxy, echo: int) -> None:
    proxy = start_proxy("--flow-messages=0")
    _, heard = converse(proxy, echo, "hello")
    flow = proxy.flows.first(lambda flow: flow["kind"] == "websocket")
    assert heard == ["hello"] and flow["websocket"] is None and flow["from_client"]["size"] > 0
