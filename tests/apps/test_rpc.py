"""apps/rpc-gateway: JSON-RPC and MessagePack-RPC beside a web application, with clients of others; and gRPC by its route."""

import json
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonrpclib
import msgpack
import pytest
import werkzeug.test
from hypothesis import given, settings
from hypothesis import strategies as st

from muxwsgi import OperatorError
from muxwsgi.mux.hijack import hijacker_of
from muxwsgi.testing import feed
from muxwsgi.testing.laws import hijacker_laws, matcher_laws
from tests.proxy.clients import grpc_program
from tests.system.server_process import ServerProcess
from tests.tls.authority import Authority

APPS = Path(__file__).parents[2] / "apps"
sys.path.append(str(APPS / "rpc-gateway"))  # it is not installed: its hijackers are of no use to other tests

from muxwsgi_rpc import CallError, Procedures
from muxwsgi_rpc.example import app
from muxwsgi_rpc.json_rpc import JSONRPC, answer, json_rpc_application
from muxwsgi_rpc.msgpack_rpc import MessagePackRPC
from muxwsgi_rpc.procedures import Options

procedures = Procedures()


@procedures.register
def subtract(minuend: int, subtrahend: int) -> int:
    return minuend - subtrahend


@procedures.register
def fail() -> None:
    raise LookupError("a secret")


@procedures.register
def refuse() -> None:
    raise CallError(7, "not today")


@procedures.register
def endless() -> Any:
    return {1, 2}  # neither JSON nor MessagePack


class Other(Options):
    def load(self) -> Procedures:
        return procedures


json_rpc, msgpack_rpc = JSONRPC(Other(max_message=1000)), MessagePackRPC(Other(max_message=1000))


def call(method: str, params: Any = (), ident: Any = 1, **more: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": ident, "method": method, "params": list(params) if isinstance(params, tuple) else params, **more}


def said(message: Any) -> bytes:
    return json.dumps(message).encode() + b"\n"


def heard(result: Any, ident: Any = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "result": result, "id": ident}


def error(code: int, message: str, ident: Any = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "error": {"code": code, "message": message}, "id": ident}


#: JSON-RPC 2.0, section 7, and what it says nothing of.
EXAMPLES: list[tuple[Any, Any]] = [
    (call("subtract", (42, 23)), heard(19)),
    (call("subtract", {"subtrahend": 23, "minuend": 42}, "a"), heard(19, "a")),
    ({"jsonrpc": "2.0", "method": "subtract", "params": [1, 2]}, None),
    ({"jsonrpc": "2.0", "method": "foobar"}, None),
    (call("foobar"), error(-32601, "Method not found")),
    (call("subtract", (1,)), error(-32602, "Invalid params")),
    (call("subtract", {"minuend": 1, "x": 2}), error(-32602, "Invalid params")),
    ({"jsonrpc": "2.0", "method": 1, "params": "bar"}, error(-32600, "Invalid Request", None)),
    ({"jsonrpc": "2.0", "method": "subtract", "params": "bar"}, error(-32600, "Invalid Request", None)),
    ({"method": "subtract", "id": 1}, error(-32600, "Invalid Request")),
    ([], error(-32600, "Invalid Request", None)),
    ([1, 2], [error(-32600, "Invalid Request", None)] * 2),
    (1, error(-32600, "Invalid Request", None)),
    (
        [call("subtract", (5, 1)), {"jsonrpc": "2.0", "method": "fail"}, call("nobody", (), 2)],
        [heard(4), error(-32601, "Method not found", 2)],
    ),
    ([{"jsonrpc": "2.0", "method": "fail"}], None),
    ([call("subtract", (5, 1))] * 101, error(-32600, "Invalid Request", None)),
    (call("fail"), error(-32603, "Internal error")),
    (call("refuse"), error(7, "not today")),
    (call("endless"), error(-32603, "Internal error")),
    (call("__class__"), error(-32601, "Method not found")),
    (call("subtract", (1, 2), True), heard(-1, None)),
    (call("subtract", (1, 2), None), heard(-1, None)),
]


@pytest.mark.parametrize(("message", "expected"), EXAMPLES)
def test_each_message_has_the_answer_of_the_specification(message: Any, expected: Any) -> None:
    answered = answer(json.dumps(message).encode(), procedures)
    assert (None if answered is None else json.loads(answered)) == expected
    assert b"secret" not in (answered or b"")


@pytest.mark.parametrize("text", [b"{", b"\xff", b"[" * 100_000, b'{"id": NaN}', b"1" * 5000, b""])
def test_what_is_no_json_is_a_parse_error(text: bytes) -> None:
    assert json.loads(answer(text, procedures) or b"") == error(-32700, "Parse error", None)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["jsonrpc", "id", "method", "params", "x"]), inner | st.sampled_from(["2.0", "subtract"]), max_size=5
            )
        ),
        max_leaves=12,
    )
)
@settings(max_examples=300, deadline=None)
def test_no_message_makes_it_fail(message: Any) -> None:
    answered = answer(json.dumps(message).encode(), procedures)
    assert answered is None or json.loads(answered)


def test_the_examples_are_not_called_by_other_names_than_their_own() -> None:
    assert answer(said(call("procedures")), procedures) == answer(said(call("nobody")), procedures)


def packed(*messages: Any) -> bytes:
    return b"".join(map(msgpack.packb, messages))


TestJSON = hijacker_laws(
    json_rpc,
    dialogues=[
        (
            said(call("subtract", (5, 1))) + b"\n" + said(call("nobody", (), "x")),
            b'{"jsonrpc":"2.0","result":4,"id":1}\n{"jsonrpc":"2.0","error":{"code":-32601,"message":"Method not found"},"id":"x"}\n',
        )
    ],
)
TestMessagePack = hijacker_laws(
    msgpack_rpc,
    dialogues=[
        (
            packed([0, 1, "subtract", [5, 1]], [2, "fail", []], [0, 2, "nobody", []]),
            packed([1, 1, None, 4], [1, 2, [-32601, "Method not found"], None]),
        ),
        (
            packed([0, 3, "endless", []], [0, 4, "refuse", []]),
            packed([1, 3, [-32603, "Internal error"], None], [1, 4, [7, "not today"], None]),
        ),
    ],
)
found = [hijacker_of(json_rpc), hijacker_of(msgpack_rpc)]
assert found[0] is not None
assert found[1] is not None
TestJSONMatcher = matcher_laws(found[0].match, begins=[b'{"jsonrpc":"2.0"', b'[ {"id":1}'], not_begins=[b'{"a": 1}', b"GET / HTTP/1.1"])
TestMessagePackMatcher = matcher_laws(found[1].match, begins=[b"\x94\0\1", b"\x93\2\xa1"], not_begins=[b"\x94\1", b"GET / HTTP/1.1"])


def test_a_message_that_is_too_long_ends_the_connection() -> None:
    assert json.loads(feed(json_rpc, b'{"jsonrpc":"2.0",' + b" " * 2000 + b"\n")) == error(-32600, "the message is too long", None)
    with pytest.raises(Exception, match="400: MessagePack-RPC"):
        feed(msgpack_rpc, packed([0, 1, "subtract", ["x" * 100_000, 1]]))


@pytest.mark.parametrize("message", [[1, 1, None, 2], [0, 1, "subtract"], {"a": 1}, [0, "x", "subtract", []], [3, 1, "subtract", []], 7])
def test_what_is_no_request_ends_the_connection(message: Any) -> None:
    with pytest.raises(Exception, match="400: MessagePack-RPC: ValueError: neither a request nor a notification"):
        feed(msgpack_rpc, packed([0, 1, "subtract", [5, 1]], message))


def test_what_no_procedures_are_is_said_where_they_are_named() -> None:
    for named, why in (("nowhere:procedures", "nowhere"), ("json:loads", "json:loads is no Procedures")):
        hijacker = hijacker_of(JSONRPC)
        assert hijacker is not None
        with pytest.raises(OperatorError, match=f"the file: .*{why}"):
            hijacker.made({"procedures": named}, "the file")


def test_the_web_application_calls_the_same_functions() -> None:
    client = werkzeug.test.Client(app)
    assert client.get("/price/apple?count=3").json == {"price": 90}
    assert client.get("/price/plum").status_code == 404
    assert client.post("/rpc", json=call("price", ("pear",))).json == heard(45)
    assert client.post("/rpc", json={"jsonrpc": "2.0", "method": "price", "params": ["pear"]}).status_code == 204
    bare = werkzeug.test.Client(json_rpc_application(procedures, max_message=100))
    assert bare.get("/").status_code == 405
    assert bare.post("/", data=b" " * 101).status_code == 413


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True])
def test_clients_of_all_kinds_share_a_port(tmp_path: Path, tls: bool) -> None:
    # Hijackers by their entry points, without an installation: a folder with their metadata.
    metadata = tmp_path / "muxwsgi_rpc-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: muxwsgi-rpc\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[muxwsgi.hijack]\njson-rpc = muxwsgi_rpc.json_rpc:JSONRPC\nmsgpack-rpc = muxwsgi_rpc.msgpack_rpc:MessagePackRPC\n"
    )
    path = f"{tmp_path}:{APPS / 'rpc-gateway'}"
    with ServerProcess("muxwsgi_rpc.example:app", tls=tls, environment={"PYTHONPATH": path}, cold=True) as server:
        assert server.get("/price/apple") == (200, b'{"price":30}\n')
        if not tls:
            shop = jsonrpclib.ServerProxy(f"http://{server.address}/rpc")
            assert shop.price("pear", 2) == 90
            with pytest.raises(jsonrpclib.ProtocolError):
                shop.price("plum")
        with closing(server.open()) as client:
            for number in range(3):
                client.sendall(said(call("price", ("apple", number), number)))
                assert json.loads(client.recv(1000)) == heard(30 * number, number)
        with closing(server.open()) as client:
            client.sendall(packed([0, 1, "catalogue", []], [0, 2, "price", ["pear", 2]]))
            unpacker = msgpack.Unpacker()
            answers: list[Any] = []
            while len(answers) < 2:
                unpacker.feed(client.recv(1000))
                answers += unpacker
            assert answers == [[1, 1, None, {"apple": 30, "pear": 45}], [1, 2, None, 90]]
        assert server.tracebacks() == []


@pytest.mark.slow
def test_grpc_goes_to_its_server_beside_the_web_application(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    leaf = authority.leaf("localhost", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = [str(each.getsockname()[1]) for each in (one, two)]
    program = [sys.executable, grpc_program.__file__]
    with subprocess.Popen([*program, "serve", *ports, leaf.certfile, leaf.keyfile], stdout=subprocess.PIPE, text=True) as behind:
        try:
            assert behind.stdout is not None
            assert behind.stdout.readline() == "ready\n"
            route = ("--route", f"grpc=forward:127.0.0.1:{ports[0]}")
            for bind_options, ca in (("", ""), (f",certfile={leaf.certfile},keyfile={leaf.keyfile}", authority.root)):
                with ServerProcess("tests.server.applications:wsgi", *route, bind_options=bind_options) as server:
                    done = subprocess.run([*program, "call", f"localhost:{server.port}", ca], capture_output=True, text=True, timeout=60)
                    assert done.returncode == 0, done.stderr + server.log
                    told = json.loads(done.stdout)
                    assert told["unary"] == ["HELLO", "of the call"]
                    assert told["failing"] == ["FAILED_PRECONDITION", "not now: ü"]
        finally:
            behind.terminate()
