"""The application of the three nodes behind a load balancer: says who asks, takes a while, and takes connections over."""

import json
import os
from typing import Any

import gevent

NODE = os.environ.get("NODE", "?")


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    path = environ["PATH_INFO"]
    if path == "/stream":
        return _stream(environ)
    if path == "/slow":
        gevent.sleep(0.3)
    body = environ["wsgi.input"].read()
    answer = json.dumps({"client": environ["REMOTE_ADDR"], "node": NODE, "path": path, "bytes": len(body)}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]


def _stream(environ: dict[str, Any]) -> list[bytes]:
    """Another protocol: who the client is, then a line a tenth of a second, and a last line when the server drains."""
    connection = environ["muxwsgi.hijack"]()
    connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: lines\r\n\r\n")
    connection.sendall(f"{environ['REMOTE_ADDR']} {NODE}\n".encode())
    while not connection.draining.wait(0.1):
        connection.sendall(b"more\n")
    connection.sendall(b"bye\n")
    return []
