"""An application behind a front: it tells what it was asked, and echoes on an upgraded connection."""

import json
import os
from collections.abc import Callable, Iterable
from typing import Any


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if environ.get("HTTP_UPGRADE"):
        connection = environ["muxwsgi.hijack"]()
        connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        while data := connection.recv(65536):
            connection.sendall(data)
        connection.close()
        return []
    told = {name: value for name, value in environ.items() if isinstance(value, str)}
    told |= {"pid": os.getpid(), "connection": id(environ["muxwsgi.connection"]), "body": environ["wsgi.input"].read().decode("latin-1")}
    body = json.dumps(told).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
