"""The web application: a page, a JSON API, live events, and MQTT over WebSocket at `/mqtt`.

Users log in as MQTT clients do, by the same password file (HTTP Basic), and the same access list holds. With `allow_anonymous` no login is
asked for.
"""

import base64
import binascii
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import wraps
from typing import Any

from flask import Flask, Response, abort, g, jsonify, render_template, request
from gevent.queue import Empty, Full, Queue

from muxwsgi.websocket import accept
from muxwsgi_iot.client import serve_client
from muxwsgi_iot.hijacker import Gateway
from muxwsgi_iot.last_values import LastValues
from muxwsgi_iot.login import Access
from muxwsgi_iot.message import Message
from muxwsgi_iot.mqtt import MQTTError
from muxwsgi_iot.session import Subscription
from muxwsgi_iot.streams import WebSocketStream
from muxwsgi_iot.topics import matches

__all__ = ["create_app"]

#: Events that wait for a reader. One that is further behind misses some.
_WAITING = 1000

#: Event streams at once.
_STREAMS = 200

#: Seconds between two signs of life on a stream without events.
_STILL_THERE = 15.0


def create_app(gateway: Gateway) -> Flask:
    """The application beside `gateway`, in the same process."""
    app = Flask(__name__)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    broker = gateway.broker
    values = LastValues(broker.counters)
    broker.add_subscriber("#", values, Subscription("#", 2, retain_as_published=True))
    streams: set[object] = set()

    @app.before_request
    def log_in() -> Response | None:
        if request.path == "/mqtt":
            return None  # by CONNECT
        app.config["MAX_CONTENT_LENGTH"] = 2 * broker.options.max_packet_size
        found = _access(gateway)
        if found is None:
            return Response("a login is needed\n", 401, {"WWW-Authenticate": 'Basic realm="MQTT", charset="UTF-8"'}, mimetype="text/plain")
        g.access = found
        return None

    @app.get("/")
    def index() -> str:
        return render_template("index.html")

    @app.get("/api/devices")
    def devices() -> Response:
        return jsonify(
            [
                {
                    "client_id": session.client_id,
                    "username": session.username,
                    "connected": session.is_online,
                    "connected_at": _time(session.connected_at),
                    "subscriptions": list(session.subscriptions),
                    "queued": session.queued,
                }
                for session in sorted(broker.sessions.values(), key=lambda session: session.client_id)
            ]
        )

    @app.get("/api/topics")
    @_asked_wrongly
    def topics() -> Response:
        topic_filter = _filter(gateway)
        access: Access = g.access
        return jsonify(
            [
                {**_as_dict(message), "at": _time(at)}
                for message, at in values.all()
                if matches(topic_filter, message.topic) and access.may_read(message.topic)
            ]
        )

    @app.post("/api/publish")
    @_asked_wrongly
    def publish() -> Response:
        """JSON only: a form of another site cannot send that."""
        asked = request.get_json()
        if not isinstance(asked, dict) or not isinstance(asked.get("topic"), str):
            raise ValueError("an object with a topic is needed")
        unknown = set(asked) - {"topic", "payload", "base64", "qos", "retain"}
        if unknown:
            raise ValueError(f"there is no {sorted(unknown)[0]!r}; there are topic, payload, base64, qos and retain")
        qos, retain = asked.get("qos", 0), asked.get("retain", False)
        if isinstance(qos, bool) or qos not in (0, 1, 2) or not isinstance(retain, bool):
            raise ValueError("qos is 0, 1 or 2, and retain is true or false")
        if not g.access.may_write(asked["topic"]):
            abort(403, "this topic may not be written")
        return jsonify({"subscribers": broker.publish(asked["topic"], _payload(asked), qos, retain)})

    @app.get("/api/status")
    def status() -> Response:
        return jsonify(
            {
                "connections": broker.connections,
                "sessions": len(broker.sessions),
                "retained": broker.retained.count,
                "retained_bytes": broker.retained.size,
                "messages": broker.counters.as_dict(),
            }
        )

    @app.get("/api/events")
    @_asked_wrongly
    def events() -> Response:
        """Messages as they come: server-sent events. Retained ones come first."""
        topic_filter = _filter(gateway)
        if len(streams) >= _STREAMS:
            abort(503, "too many event streams")
        queue: Queue[Message] = Queue(_WAITING)

        def note(message: Message) -> None:
            try:
                queue.put_nowait(message)
            except Full:
                broker.counters.drop("callback", "/api/events")

        handle = broker.subscribe(topic_filter, note, may_read=g.access.may_read)
        streams.add(handle)
        return Response(_Stream(queue, handle, streams), mimetype="text/event-stream", headers={"Cache-Control": "no-store"})

    @app.route("/mqtt", websocket=True)
    def mqtt() -> Any:
        offered = [name.strip() for name in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        if "mqtt" not in offered:
            abort(400, "the subprotocol mqtt is not offered")  # [MQTT-6.0.0-3]
        websocket = accept(
            request.environ, subprotocols=("mqtt",), max_size=max(broker.options.max_packet_size, 1 << 17), ping_interval=None
        )
        stream = WebSocketStream(websocket)
        serve_client(stream, websocket.connection, broker, gateway.login)
        return Response()

    return app


def _access(gateway: Gateway) -> Access | None:
    """What the user of this request may do; None without a right login."""
    given = request.authorization
    if given is not None and given.type == "basic" and given.username is not None and given.password is not None:
        try:
            if gateway.login.is_user(given.username, given.password.encode()):
                return gateway.login.access_of(given.username)
        except MQTTError as busy:
            abort(503, str(busy))
    return gateway.login.access_of(None) if gateway.login.lets_all_in else None


def _asked_wrongly(view: Callable[[], Response]) -> Callable[[], Response]:
    """What the broker refuses is the client's fault: 400."""

    @wraps(view)
    def answered() -> Response:
        try:
            return view()
        except ValueError as error:
            abort(400, str(error))

    return answered


def _filter(gateway: Gateway) -> str:
    text = request.args.get("filter", "#")
    gateway.broker.check_filter(text)
    return text


def _payload(asked: dict[str, Any]) -> bytes:
    if "base64" in asked:
        if not isinstance(asked["base64"], str) or "payload" in asked:
            raise ValueError("base64 is a text, in place of payload")
        try:
            return base64.b64decode(asked["base64"], validate=True)
        except binascii.Error as error:
            raise ValueError(f"base64: {error}") from None
    payload = asked.get("payload", "")
    if not isinstance(payload, str):
        raise ValueError("payload is a text")
    return payload.encode()


def _as_dict(message: Message) -> dict[str, object]:
    """`payload` if it is a text, `base64` otherwise."""
    try:
        payload = {"payload": message.payload.decode()}
    except UnicodeDecodeError:
        payload = {"base64": base64.b64encode(message.payload).decode()}
    return {"topic": message.topic, **payload, "qos": message.qos, "retain": message.retain, "client_id": message.client_id}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


class _Stream:
    """The body of `/api/events`. `close` is called also if the client goes before the first event."""

    def __init__(self, queue: "Queue[Message]", handle: Any, streams: set[object]) -> None:
        self._queue = queue
        self._handle = handle
        self._streams = streams
        self._has_begun = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self._has_begun:
            self._has_begun = True
            return b": messages as they come\n\n"
        try:
            message = self._queue.get(timeout=_STILL_THERE)
        except Empty:
            return b": still there\n\n"  # notices a reader that has gone
        return b"event: message\ndata: " + json.dumps(_as_dict(message)).encode() + b"\n\n"

    def close(self) -> None:
        self._handle.close()
        self._streams.discard(self._handle)
