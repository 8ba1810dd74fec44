"""Flask-SocketIO, and a view that says whether it has found gevent-websocket. With WITHOUT_THE_PACKAGE in the environment it finds none."""

import os
import sys
from typing import Any

if "WITHOUT_THE_PACKAGE" in os.environ:
    sys.modules["geventwebsocket"] = None  # type: ignore[assignment]  # its import fails

from flask import Flask
from flask_socketio import SocketIO, emit

application = Flask(__name__)
socketio = SocketIO(application, async_mode="gevent", max_http_buffer_size=10_000_000, cors_allowed_origins="*")


@application.get("/")
def found() -> str:
    return f"{socketio.async_mode} {sys.modules.get('geventwebsocket')}"


@socketio.on("mirror")
def mirror(data: Any) -> Any:
    emit("mirrored", data)
    return len(data)


@socketio.on("all")
def to_all(data: Any) -> None:
    emit("told", data, broadcast=True)
