"""gevent-websocket on gevent's own server."""

from gevent import monkey

monkey.patch_all()

import sys
from collections.abc import Callable, Iterable
from typing import Any

from gevent.pywsgi import WSGIServer
from geventwebsocket.handler import WebSocketHandler


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    websocket = environ["wsgi.websocket"]
    while (message := websocket.receive()) is not None:
        websocket.send(message, binary=isinstance(message, bytearray))
    return []


WSGIServer(("127.0.0.1", int(sys.argv[1])), application, log=None, handler_class=WebSocketHandler).serve_forever()
