"""`HARFile`: writes flows as an HTTP Archive 1.2, which browsers and many tools read. The file is valid JSON after each batch.

Data for which the format has no field is in fields whose names begin with `_`. The format allows that, and Chromium does it too.
Specification: http://www.softwareishard.com/blog/har-12-spec/
"""

import base64
import codecs
import json
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from muxwsgi import __version__
from muxwsgi.records.flow import Captured, Flow, Message
from muxwsgi.records.flow_content import content_of
from muxwsgi.records.flow_record import REDACTED, SECRET_FIELDS, direction_of, flow_url, redacted, side_of, text_of
from muxwsgi.records.flow_spool import FlowSpool
from muxwsgi.records.record_file import RecordFile

__all__ = ["HARFile", "har_entry"]

_encoder = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), check_circular=False)

_CREATOR = _encoder.encode({"name": "muxwsgi", "version": __version__})
_HEAD = f'{{"log":{{"version":"1.2","creator":{_CREATOR},"pages":[],"entries":[\n'.encode("ascii")
_TAIL = b"\n]}}\n"

_utf8 = codecs.getincrementaldecoder("utf-8")

#: The body of a WebSocket whose messages are shown.
_NOTHING = Captured(0)


class HARFile(FlowSpool):
    """A `FlowSink` that writes a HAR file. The arguments are those of `FlowLog`; the path must be that of a file."""

    def __init__(
        self,
        path: str,
        *,
        flow_filter: Callable[[Flow], bool] | None = None,
        redact: Collection[str] = SECRET_FIELDS,
        max_bytes: int = 0,
        keep: int = 5,
        max_queued: int = 64 << 20,
    ) -> None:
        """Raises `OperatorError` if the file cannot be opened."""
        secret = frozenset(name.lower() for name in redact)
        super().__init__(
            RecordFile(path, head=_HEAD, separator=b",\n", tail=_TAIL, max_bytes=max_bytes, keep=keep),
            lambda flow: _encoder.encode(har_entry(flow, secret)).encode("ascii"),
            flow_filter=flow_filter,
            max_queued=max_queued,
        )


def har_entry(flow: Flow, secret: Collection[str] = SECRET_FIELDS) -> dict[str, Any]:
    """One element of `log.entries`. `secret` are names of header fields, in lower case."""
    timings = _timings(flow)
    entry: dict[str, Any] = {
        "startedDateTime": datetime.fromtimestamp(flow.started, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "time": round(sum(timings[phase] for phase in ("blocked", "dns", "connect", "send", "wait", "receive") if timings[phase] > 0), 3),
        "request": _request(flow, secret),
        "response": _response(flow, secret),
        "cache": {},
        "timings": timings,
        "connection": str(flow.connection),
        "_id": flow.id,
        "_session": flow.session,
        "_door": flow.door,
        "_client": flow.client,
        "_resourceType": {"http": "other"}.get(flow.kind, flow.kind),
    }
    if flow.address is not None:
        entry["serverIPAddress"] = flow.address.rpartition(":")[0].strip("[]")
    if flow.client_tls is not None:
        entry["_clientTLS"] = side_of(flow.client_tls)
    if flow.upstream_tls is not None:
        entry["_upstreamTLS"] = side_of(flow.upstream_tls)
    for name in ("tunnel", "destination", "identity", "trace", "tags"):
        if getattr(flow, name):
            entry[f"_{name}"] = getattr(flow, name)
    if flow.websocket is not None:
        entry["_webSocketMessages"] = [_message(message, flow.started) for message in flow.websocket.messages]
        if flow.websocket.close is not None:
            close = flow.websocket.close
            entry["_webSocketClose"] = {"type": direction_of(close), "code": close.code, "reason": close.reason}
        if flow.websocket.stopped is not None:
            kept = f"{len(flow.websocket.messages)} of {flow.websocket.count} messages"
            entry["comment"] = f"{kept}: {flow.websocket.stopped}"
    return entry


def _message(message: Message, started: float) -> dict[str, Any]:
    """A message as Chromium writes it: `time` in seconds since the epoch, the text of a text message, base64 of a binary one."""
    data, truncated = message.content.data, message.content.truncated
    if message.opcode == 1:
        text = _utf8("replace").decode(data, final=not truncated and message.complete)
    else:
        text = base64.b64encode(data).decode("ascii")
    entry: dict[str, Any] = {
        "type": direction_of(message),
        "time": round(started + message.time, 6),
        "opcode": message.opcode,
        "data": text,
    }
    comments = []
    if truncated:
        comments.append(f"the first {len(data)} of {message.content.size} bytes")
    if not message.complete:
        comments.append("its end was not recorded")
    if comments:
        entry["comment"] = "; ".join(comments)
    return entry


def _url(flow: Flow) -> str:
    """The URL of a flow. A raw stream has the target of a CONNECT, and a WebSocket has the URL that a page opens."""
    url = flow_url(flow) or f"tcp://{flow.destination or flow.server}"
    return f"ws{url[4:]}" if flow.kind == "websocket" and url[:4].lower() == "http" else url


def _timings(flow: Flow) -> dict[str, float]:
    """Milliseconds of each phase, -1 for a phase that did not happen. The sum without `ssl` is the whole time, because the format counts
    `ssl` in `connect`."""
    at = 0.0

    def until(mark: float | None) -> float:
        """Milliseconds since the end of the phase before. It is 0 if the phase ended earlier, as in a response during the request."""
        nonlocal at
        before, at = at, max(at, mark or 0.0)
        return round((at - before) * 1e3, 3)

    blocked = -1.0 if flow.dialling is None else until(flow.dialling)
    dns = -1.0 if flow.resolved is None else until(flow.resolved)
    connect = -1.0 if flow.connected is None else until(flow.connected)
    ssl = -1.0 if flow.secured is None else until(flow.secured)
    if ssl >= 0:
        connect = round(max(connect, 0.0) + ssl, 3)
    return {
        "blocked": blocked,
        "dns": dns,
        "connect": connect,
        "ssl": ssl,
        "send": until(flow.sent),
        "wait": until(flow.ended if flow.first_byte is None else flow.first_byte),
        "receive": until(flow.ended),
    }


def _request(flow: Flow, secret: Collection[str]) -> dict[str, Any]:
    body = flow.from_client if flow.websocket is None else _NOTHING
    head_fields = redacted(flow.request.fields, secret) if flow.request else []
    method, _, version = flow.request.line if flow.request else ("CONNECT", "", "")
    url = _url(flow)
    request: dict[str, Any] = {
        "method": method,
        "url": url,
        "httpVersion": version,
        "cookies": _cookies(value for name, value in head_fields if name.lower() == "cookie"),
        "headers": _pairs(head_fields),
        "queryString": _pairs(_query(url)),
        "headersSize": -1,
        "bodySize": body.size,
    }
    if body.size:
        mime = _value(head_fields, "content-type") or "application/octet-stream"
        request["postData"] = {"mimeType": mime, "params": [], **_text(*content_of(body, flow.request), "_encoding")}
    return request


def _response(flow: Flow, secret: Collection[str]) -> dict[str, Any]:
    """The response. If there is none, status 0 and `_error`, as Chromium writes."""
    body = flow.from_server if flow.websocket is None else _NOTHING
    head_fields = redacted(flow.response.fields, secret) if flow.response else []
    version, status, reason = flow.response.line if flow.response else ("", "0", "")
    data, whole = content_of(body, flow.response)
    content: dict[str, Any] = {
        "size": len(data) if whole else body.size,
        "mimeType": _value(head_fields, "content-type") or "x-unknown",
    }
    if whole and len(data) != body.size:
        content["compression"] = len(data) - body.size
    if body.size:
        content |= _text(data, whole, "encoding")
    response: dict[str, Any] = {
        "status": int(status) if status.isascii() and status.isdigit() else 0,
        "statusText": reason,
        "httpVersion": version,
        "cookies": _cookies_set(value for name, value in head_fields if name.lower() == "set-cookie"),
        "headers": _pairs(head_fields),
        "content": content,
        "redirectURL": _value(head_fields, "location") or "",
        "headersSize": -1,
        "bodySize": body.size if flow.response or body.size else -1,
    }
    if flow.error is not None:
        response["_error"] = flow.error
    return response


def _text(content: bytes | bytearray, whole: bool, encoding: str) -> dict[str, Any]:
    """The text of a body. Binary bodies are in base64, with `encoding`."""
    text = text_of(content, not whole)
    record = {"text": text} if text is not None else {"text": base64.b64encode(content).decode("ascii"), encoding: "base64"}
    return record if whole else record | {"comment": f"the first {len(content)} bytes"}


def _pairs(pairs: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in pairs]


def _value(head_fields: Iterable[tuple[str, str]], wanted: str) -> str | None:
    return next((value for name, value in head_fields if name.lower() == wanted), None)


def _query(url: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(urlsplit(url).query, keep_blank_values=True)
    except ValueError:  # not a URL, or too many fields
        return []


def _cookies(values: Iterable[str]) -> list[dict[str, Any]]:
    """The cookies of the Cookie fields."""
    pairs = (pair.partition("=") for value in values if value != REDACTED for pair in value.split(";"))
    return [{"name": name.strip(), "value": value.strip()} for name, equals, value in pairs if equals]


def _cookies_set(values: Iterable[str]) -> list[dict[str, Any]]:
    """The cookies of the Set-Cookie fields, without `Expires`, because it has many spellings. The headers contain it."""
    found = []
    for value in values:
        pair, *attributes = value.split(";")
        name, equals, text = pair.partition("=")
        if equals:
            known = {key.strip().lower(): what.strip() for key, _, what in (attribute.partition("=") for attribute in attributes)}
            cookie: dict[str, Any] = {"name": name.strip(), "value": text.strip()}
            cookie |= {key: known[key] for key in ("path", "domain") if key in known}
            found.append(cookie | {"httpOnly": "httponly" in known, "secure": "secure" in known})
    return found
