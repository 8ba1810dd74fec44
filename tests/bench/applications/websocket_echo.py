"""A WebSocket echo with `muxwsgi.websocket`, with compression for clients that offer it."""

from collections.abc import Callable, Iterable
from typing import Any

from muxwsgi.websocket import accept


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    ws = accept(environ, compression=True)
    for message in ws:
        ws.send(message)
    return []
