"""The server whose instructions are counted: run under callgrind by `test_instructions`, with a certificate's two files, the library of
callgrind's requests and the port of the server behind the relay as arguments.

Counting begins when the server is ready, because it takes ten times as long as a start. At each GET of /mark callgrind writes what it
counted since the last time and begins anew.
"""

import ctypes
import gc
import sys
from collections.abc import Callable, Iterable
from typing import Any

from gevent import monkey

monkey.patch_all()

import muxwsgi
from muxwsgi.hijackers.forward import forward_route
from muxwsgi.mux import matchers
from muxwsgi.mux.route import Route
from muxwsgi.observe.counters import Counters
from muxwsgi.server.handover_queue import HandoverQueue
from muxwsgi.server.heartbeat import Heartbeat
from muxwsgi.server.page import SharedPage
from muxwsgi.server.worker import Worker
from muxwsgi.settings import BindSettings, CertificateFiles
from muxwsgi.websocket import accept
from muxwsgi.wire.frames import keep_frames
from tests.gate.sequences import BODY, REFERENCE_ROUNDS


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/mark":
        callgrind.write_counts()
    elif path == "/reference":
        reference(REFERENCE_ROUNDS)
    elif path == "/count":
        Counters(server.events, lambda name: 1, lambda name: 1)
    elif path == "/echo":
        websocket = accept(environ)
        for message in websocket:
            websocket.send(message)
        return []
    elif path == "/stop":
        server.request_stop()
    if environ["REQUEST_METHOD"] == "POST":
        assert len(environ["wsgi.input"].read()) == 1024
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
    return [BODY]


class Thing:
    __slots__ = ("fields", "name", "size")

    def __init__(self, name: str, fields: dict[str, object]) -> None:
        self.name = name
        self.fields = fields
        self.size = 0

    def add(self, key: str, value: str) -> int:
        self.fields[key] = value
        self.size += len(value)
        return self.size


def reference(rounds: int) -> None:
    """What Python code like ours does: calls, attributes, dicts, text and bytes. Its count tells one interpreter from another."""
    shared: dict[str, object] = {f"key.{number}": number for number in range(24)}
    for _ in range(rounds):
        thing = Thing("thing", shared.copy())
        for name, value in (("one", "text/plain"), ("two", "13"), ("three", "a longer value, as a browser sends")):
            if thing.add(name, value) < 0 or not value.isprintable():
                raise AssertionError
        block = "\r\n".join([f"{name}: {value}" for name, value in thing.fields.items() if type(value) is str]).encode("latin-1")
        block.find(b"\r\n\r\n")


@muxwsgi.hijack(match=matchers.prefix(b"ECHO "))
def echo(connection: muxwsgi.Connection) -> None:
    while data := connection.recv():
        connection.sendall(data)


if __name__ == "__main__":
    callgrind = ctypes.CDLL(sys.argv[3])
    certificate = CertificateFiles(certfile=sys.argv[1], keyfile=sys.argv[2])
    relay = Route("relay", matchers.prefix(b"RELAY "), forward_route(f"127.0.0.1:{sys.argv[4]}").handler)
    page = SharedPage()
    entry = page.take(0, 1)
    server = muxwsgi.Server(
        application,
        binds=[
            BindSettings(host="127.0.0.1", port=0),
            BindSettings(host="127.0.0.1", port=0, tls="required", certificates=(certificate,)),
        ],
        hijackers=[echo, relay],
        worker=Worker(0, -1, Heartbeat(entry), page, entry, HandoverQueue(), announces=True),  # as the only one of a master
    )
    print(*(address.rpartition(":")[2] for address in server.addresses), flush=True)
    keep_frames()  # as `muxwsgi run` does
    gc.collect()
    gc.freeze()
    callgrind.begin()
    server.serve_forever()
