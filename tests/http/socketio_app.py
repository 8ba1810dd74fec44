"""Flask-SocketIO with gevent-websocket installed, and a view that says which of them was found."""

from typing import Any

import geventwebsocket
from flask import Flask
from flask_socketio import SocketIO, emit

application = Flask(__name__)
socketio = SocketIO(application, async_mode="gevent", max_http_buffer_size=10_000_000, cors_allowed_origins="*")


@application.get("/")
def found() -> str:
    return f"{socketio.async_mode} {geventwebsocket.__name__}"


@socketio.on("mirror")
def mirror(data: Any) -> Any:
    emit("mirrored", data)
    return len(data)


@socketio.on("all")
def to_all(data: Any) -> None:
    emit("told", data, broadcast=True)
