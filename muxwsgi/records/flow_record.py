"""Turns a flow into a JSON object, and back. docs/flows.md describes the schema of the flow log.

This module neither reads nor writes files. Other programs may have written a log, so `flow_of` checks each object (`ValueError`).
"""

import base64
import binascii
import codecs
import re
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, cast, get_args
from urllib.parse import urlsplit

from muxwsgi.records.flow import AnsweredBy, Captured, Close, Flow, Head, Kind, Message, TLSSide, WebSocketRecord

__all__ = [
    "REDACTED",
    "SCHEMA",
    "SECRET_FIELDS",
    "direction_of",
    "flow_host",
    "flow_of",
    "flow_url",
    "record_of",
    "redacted",
    "side_of",
    "text_of",
]

#: It is increased when a reader of the old form would misread the new one.
SCHEMA = 1

#: Header fields whose values are not written by default: those that Chromium leaves out of its "sanitized" HAR, and Proxy-Authorization.
SECRET_FIELDS = ("authorization", "cookie", "proxy-authorization", "set-cookie")

#: The text in place of such a value.
REDACTED = "[redacted]"

_MARKS = ("dialling", "resolved", "connected", "secured", "sent", "first_byte", "ended")
_WHO_AND_WHERE = ("session", "tunnel", "connection", "door", "client", "server", "destination", "address", "identity")
_HOW = ("answered_by", "error")
_DOORS = ("http", "connect", "socks4", "socks5", "redirect", "tproxy")

#: Control characters except white space. JSON writes six bytes for each, so content with them is written in base64.
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r"))

_SIDE = tuple(item.name for item in fields(TLSSide))
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")  # RFC 3986 section 3.1

_utf8 = codecs.getincrementaldecoder("utf-8")


def text_of(data: bytes | bytearray, truncated: bool) -> str | None:
    """`data` as text if it is UTF-8 without control characters, else None. If `truncated`, an incomplete last character is left out."""
    if data.translate(None, _CONTROLS) != data:
        return None
    try:
        return _utf8().decode(data, final=not truncated)
    except UnicodeDecodeError:
        return None


def redacted(head_fields: list[tuple[str, str]], secret: Collection[str]) -> list[tuple[str, str]]:
    """The fields, with `REDACTED` for the values of those whose lower-case names are in `secret`."""
    return [(name, REDACTED if name.lower() in secret else value) for name, value in head_fields]


def side_of(side: TLSSide | None) -> dict[str, str | None] | None:
    """One side's TLS as an object."""
    return None if side is None else {name: getattr(side, name) for name in _SIDE}


def flow_url(flow: Flow) -> str | None:
    """The absolute URL of the request; None for flows that are not HTTP."""
    if flow.request is None or flow.kind not in ("http", "websocket"):
        return None
    target = flow.request.line[1]
    if _ABSOLUTE.match(target):
        return target
    host = next((value for name, value in flow.request.fields if name.lower() == "host"), flow.destination or "")
    scheme = "http" if flow.client_tls is None and flow.upstream_tls is None else "https"
    return f"{scheme}://{host}{target if target.startswith('/') else ''}"


def flow_host(flow: Flow) -> str | None:
    """The host that the client asked for: that of the URL, else that of the tunnel. Without brackets and port, in lower case."""
    try:
        host = urlsplit(flow_url(flow) or f"//{flow.destination or ''}").hostname
    except ValueError:  # an incomplete IPv6 address
        return None
    return host or None


def record_of(flow: Flow, secret: Collection[str] = SECRET_FIELDS) -> dict[str, Any]:
    """The JSON object of a flow that has ended. `secret` are names of header fields, in lower case."""
    record: dict[str, Any] = {"schema": SCHEMA, "id": flow.id, "kind": flow.kind, "started": round(flow.started, 6)}
    for name in (*_WHO_AND_WHERE, *_HOW):
        record[name] = getattr(flow, name)
    record["timings"] = {name: None if getattr(flow, name) is None else round(getattr(flow, name), 6) for name in _MARKS}
    record["reused"] = flow.reused
    record["client_tls"] = side_of(flow.client_tls)
    record["upstream_tls"] = side_of(flow.upstream_tls)
    record["trace"] = flow.trace
    record["tags"] = flow.tags
    record["request"] = record["response"] = None
    if flow.request is not None:
        method, target, version = flow.request.line
        record["request"] = {
            "method": method,
            "url": flow_url(flow) or target,
            "target": target,
            "version": version,
            "fields": redacted(flow.request.fields, secret),
        }
    if flow.response is not None:
        version, status, reason = flow.response.line
        record["response"] = {
            "version": version,
            "status": int(status) if status.isascii() and status.isdigit() else status,
            "reason": reason,
            "fields": redacted(flow.response.fields, secret),
        }
    record["from_client"] = _captured_record(flow.from_client)
    record["from_server"] = _captured_record(flow.from_server)
    record["websocket"] = None if flow.websocket is None else _websocket_record(flow.websocket)
    return record


def direction_of(part: Message | Close) -> str:
    """"send" for messages of the client, "receive" for those of the server, as in HAR."""
    return "send" if part.from_client else "receive"


def _websocket_record(websocket: WebSocketRecord) -> dict[str, Any]:
    close = websocket.close
    return {
        "count": websocket.count,
        "stopped": websocket.stopped,
        "close": None if close is None else {"type": direction_of(close), "code": close.code, "reason": close.reason},
        "messages": [
            {
                "type": direction_of(message),
                "opcode": message.opcode,
                "time": round(message.time, 6),
                "complete": message.complete,
                **_captured_record(message.content),
            }
            for message in websocket.messages
        ],
    }


def _captured_record(captured: Captured) -> dict[str, Any]:
    record: dict[str, Any] = {"size": captured.size, "truncated": captured.truncated}
    text = text_of(captured.data, captured.truncated)
    if text is None:
        record["base64"] = base64.b64encode(captured.data).decode("ascii")
    else:
        record["text"] = text
    return record


def flow_of(record: object) -> Flow:
    """The flow of a JSON object of the log. Raises `ValueError` if it is not a flow, or has a later schema."""
    entry = _object(record, "a flow")
    if entry.get("schema") != SCHEMA:
        raise ValueError(f"its schema is {entry.get('schema')!r}, not {SCHEMA}")
    kind, door = _text(entry, "kind"), _text(entry, "door")
    if kind not in get_args(Kind):
        raise ValueError(f"its kind is {kind!r}")
    if door not in _DOORS:
        raise ValueError(f"its door is {door!r}")
    from_client, from_server = (_captured(_object(entry.get(name), name), name) for name in ("from_client", "from_server"))
    flow = Flow(
        kind=cast(Kind, kind),
        door=door,
        session=_number(entry, "session"),
        connection=_number(entry, "connection"),
        capture_limit=max(len(from_client.data), len(from_server.data)),
        tunnel=None if entry.get("tunnel") is None else _number(entry, "tunnel"),
        id=_number(entry, "id"),
        started=_seconds(entry, "started"),
        reused=entry.get("reused") is True,
        trace=_texts(entry, "trace"),
        tags=_texts(entry, "tags"),
        client_tls=_tls(entry, "client_tls"),
        upstream_tls=_tls(entry, "upstream_tls"),
        request=_request(entry),
        response=_response(entry),
        client=_text(entry, "client"),
        server=_text(entry, "server"),
        destination=_text_or_none(entry, "destination"),
        address=_text_or_none(entry, "address"),
        identity=_text_or_none(entry, "identity"),
        error=_text_or_none(entry, "error"),
    )
    answered_by = _text_or_none(entry, "answered_by")
    if answered_by is not None and answered_by not in get_args(AnsweredBy):
        raise ValueError(f"it was answered by {answered_by!r}")
    flow.answered_by = cast(AnsweredBy | None, answered_by)
    flow.from_client, flow.from_server = from_client, from_server
    flow.websocket = _websocket(entry)
    timings = _object(entry.get("timings"), "timings")
    for name in _MARKS:
        if timings.get(name) is not None:
            setattr(flow, name, _seconds(timings, name))
    return flow


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is not an object")
    return value


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} is not a string")
    return value


def _text_or_none(entry: Mapping[str, Any], name: str) -> str | None:
    return None if entry.get(name) is None else _text(entry, name)


def _number(entry: Mapping[str, Any], name: str) -> int:
    value = entry.get(name)
    if type(value) is not int:
        raise ValueError(f"{name} is not an integer")
    return value


def _seconds(entry: Mapping[str, Any], name: str) -> float:
    value = entry.get(name)
    if type(value) not in (int, float):
        raise ValueError(f"{name} is not a number")
    return float(cast(float, value))


def _texts(entry: Mapping[str, Any], name: str) -> list[str]:
    value = entry.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{name} is not a list of strings")
    return value


def _tls(entry: Mapping[str, Any], name: str) -> TLSSide | None:
    if entry.get(name) is None:
        return None
    side = _object(entry[name], name)
    return TLSSide(**{name: _text(side, name) if side.get(name) is not None else None for name in _SIDE})


def _fields(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    value = entry.get("fields")
    if not isinstance(value, list):
        raise ValueError("fields is not a list")
    for item in value:
        if not isinstance(item, list) or len(item) != 2 or not all(isinstance(text, str) for text in item):
            raise ValueError("a field is not a pair of strings")
    return [(name, text) for name, text in value]


def _request(entry: Mapping[str, Any]) -> Head | None:
    if entry.get("request") is None:
        return None
    head = _object(entry["request"], "request")
    return Head((_text(head, "method"), _text(head, "target"), _text(head, "version")), _fields(head))


def _response(entry: Mapping[str, Any]) -> Head | None:
    if entry.get("response") is None:
        return None
    head = _object(entry["response"], "response")
    return Head((_text(head, "version"), str(head.get("status")), _text(head, "reason")), _fields(head))


def _websocket(entry: Mapping[str, Any]) -> WebSocketRecord | None:
    if entry.get("websocket") is None:  # not a WebSocket, or written by a version that did not record messages
        return None
    record = _object(entry["websocket"], "websocket")
    close = None
    if record.get("close") is not None:
        end = _object(record["close"], "close")
        close = Close(_from_client(end), None if end.get("code") is None else _number(end, "code"), _text(end, "reason"))
    messages = record.get("messages")
    if not isinstance(messages, list):
        raise ValueError("messages is not a list")
    return WebSocketRecord([_message(item) for item in messages], _number(record, "count"), close, _text_or_none(record, "stopped"))


def _message(item: object) -> Message:
    entry = _object(item, "a message")
    opcode = _number(entry, "opcode")
    if opcode not in (1, 2):
        raise ValueError(f"the opcode of a message is {opcode}")
    complete = entry.get("complete") is True
    return Message(_from_client(entry), opcode, _seconds(entry, "time"), complete, _captured(entry, "a message"))


def _from_client(entry: Mapping[str, Any]) -> bool:
    direction = _text(entry, "type")
    if direction not in ("send", "receive"):
        raise ValueError(f"its type is {direction!r}")
    return direction == "send"


def _captured(record: Mapping[str, Any], what: str) -> Captured:
    if "base64" in record:
        try:
            data = base64.b64decode(_text(record, "base64"), validate=True)
        except binascii.Error:
            raise ValueError(f"{what} is not base64") from None
    else:
        data = _text(record, "text").encode("utf-8", "surrogatepass")
    size = _number(record, "size")
    if size < len(data) or (size > len(data)) != (record.get("truncated") is True):
        raise ValueError(f"{what} has {len(data)} bytes of {size}, which its `truncated` denies")
    captured = Captured(len(data))
    captured.data += data
    captured.size = size
    return captured
