"""gRPC as programs: `serve PORT TLS_PORT CERTIFICATE KEY`, and `call TARGET CA`, which prints what calls of all four kinds gave as JSON.

In processes apart from the tests, because grpcio has its threads and no gevent. Messages are bytes, so nothing is generated.
"""

import json
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc


def unary(request: bytes, context: Any) -> bytes:
    context.set_trailing_metadata((("x-trailer", "of the call"),))
    return request.upper()


def failing(request: bytes, context: Any) -> bytes:
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: ü")


def counting(request: bytes, context: Any) -> Iterator[bytes]:
    for number in range(int(request)):
        yield b"%d" % number


def summing(requests: Iterable[bytes], context: Any) -> bytes:
    return b"%d" % sum(map(len, requests))


def talking(requests: Iterable[bytes], context: Any) -> Iterator[bytes]:
    for request in requests:
        yield request.upper()


def serve(port: str, tls_port: str, certificate: str, key: str) -> None:
    server = grpc.server(ThreadPoolExecutor(16))
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Failing": grpc.unary_unary_rpc_method_handler(failing),
        "Counting": grpc.unary_stream_rpc_method_handler(counting),
        "Summing": grpc.stream_unary_rpc_method_handler(summing),
        "Talking": grpc.stream_stream_rpc_method_handler(talking),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    credentials = grpc.ssl_server_credentials([(Path(key).read_bytes(), Path(certificate).read_bytes())])
    server.add_secure_port(f"127.0.0.1:{tls_port}", credentials)
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


def call(target: str, ca: str) -> None:
    channel = grpc.insecure_channel(target)
    if ca:
        channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(Path(ca).read_bytes()))
    told: dict[str, Any] = {}
    answer, state = channel.unary_unary("/test.Echo/Unary").with_call(b"hello", timeout=30)
    told["unary"] = [answer.decode(), dict(state.trailing_metadata()).get("x-trailer")]
    try:
        channel.unary_unary("/test.Echo/Failing")(b"x", timeout=30)
    except grpc.RpcError as error:
        told["failing"] = [error.code().name, error.details()]
    told["counting"] = len(list(channel.unary_stream("/test.Echo/Counting")(b"500", timeout=30)))
    told["summing"] = int(channel.stream_unary("/test.Echo/Summing")(iter([bytes(50_000)] * 40), timeout=30))

    # Each message waits for the answer to the one before: both directions have to move at the same time.
    heard: list[str] = []
    answered = threading.Event()

    def words() -> Iterator[bytes]:
        for word in (b"one", b"two", b"three"):
            yield word
            answered.wait(30)
            answered.clear()

    for each in channel.stream_stream("/test.Echo/Talking")(words(), timeout=60):
        heard.append(each.decode())
        answered.set()
    told["talking"] = heard
    parallel = [channel.unary_unary("/test.Echo/Unary").future(b"n%d" % number, timeout=30) for number in range(100)]
    told["parallel"] = sum(each.result() == b"N%d" % number for number, each in enumerate(parallel))
    print(json.dumps(told))
    channel.close()


if __name__ == "__main__":
    {"serve": serve, "call": call}[sys.argv[1]](*sys.argv[2:])
