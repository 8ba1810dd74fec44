"""Sending the request of a flow again: `replay_flow`. No gevent."""

import http.client
import ssl
import time
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, urlsplit

from muxwsgi.grammar import is_token
from muxwsgi.records.flow import Flow
from muxwsgi.records.flow_record import REDACTED, flow_url

__all__ = ["Answer", "Outcome", "Replayed", "Target", "replay_flow", "why_not"]

#: Fields of the old connection (RFC 9110 section 7.6.1), and fields of the body's framing.
_NOT_SENT = frozenset(
    {"connection", "keep-alive", "proxy-authorization", "proxy-connection", "te", "upgrade"}
    | {"content-length", "expect", "host", "trailer", "transfer-encoding"}
    | {"content_length", "transfer_encoding"}  # the same to servers that take an underscore for a hyphen
)

_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))

_CHUNK = 1 << 16

#: same, other      answered with the recorded status, with another one
#: failed           sending failed, or no answer came
#: refused          not sent: the flow has no request, or not all of its body
#: skipped          not sent: the flow is not an HTTP exchange
#: ours             not sent: the recorded response did not come from an upstream
Outcome = Literal["same", "other", "failed", "refused", "skipped", "ours"]

_ANSWERED_BY = {"proxy": "this proxy itself", "rule": "a rule", "application": "a mounted application"}


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request is sent."""

    scheme: str
    host: str
    port: int | None
    path: str

    @classmethod
    def parse(cls, url: str) -> "Target":
        """Raises `ValueError` if `url` is not an HTTP URL."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not an http:// or https:// URL")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.scheme, parts.hostname, parts.port, path)

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: its status, bytes of its body, and seconds until its end."""

    status: int
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Replayed:
    """The outcome for one flow. `note` tells why it was not sent or not answered, or which part of the request was left out."""

    outcome: Outcome
    note: str = ""
    answer: Answer | None = None


def why_not(flow: Flow) -> Replayed | None:
    """Why the request of `flow` cannot be sent again; None if it can."""
    if flow.kind != "http":
        return Replayed("skipped", f"not sent: it is not an HTTP exchange, but {flow.kind}")
    if flow.answered_by is not None and flow.answered_by != "upstream":
        return Replayed("ours", f"not sent: no upstream has answered it, but {_ANSWERED_BY[flow.answered_by]}")
    if flow.request is None or flow.request.line[0] == "CONNECT":
        return Replayed("refused", "not sent: it has no request")
    body = flow.from_client
    if body.truncated:
        return Replayed("refused", f"not sent: of its body's {body.size} bytes only {len(body.data)} were kept")
    return None


def replay_flow(flow: Flow, target: Target | None, context: ssl.SSLContext, timeout: float) -> Replayed:
    """Send the request of `flow` to its recorded destination, or to `target`. `timeout` is in seconds, for the whole exchange."""
    refusal = why_not(flow)
    if refusal is not None:
        return refusal
    assert flow.request is not None
    left_out = [name for name, value in flow.request.fields if value == REDACTED]
    try:
        place = Target.parse(flow_url(flow) or "")
        if target is not None:
            place = Target(target.scheme, target.host, target.port, target.path.rstrip("/") + place.path)
        answer = _send(flow, flow.request.line[0], place, target is not None, context, timeout)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Replayed("failed", f"no answer: {str(error) or type(error).__name__}")
    note = f"sent without {', '.join(left_out)}, which {'was' if len(left_out) == 1 else 'were'} not recorded" if left_out else ""
    then = flow.response.line[1] if flow.response is not None else None
    return Replayed("same" if str(answer.status) == then else "other", note, answer)


def _send(flow: Flow, method: str, place: Target, rehosted: bool, context: ssl.SSLContext, timeout: float) -> Answer:
    """Send one request on a new connection, so that no response can be taken for that of another request."""
    assert flow.request is not None
    if not is_token(method):  # http.client looks for control characters only
        raise ValueError(f"{method!r} is not a method")
    began = time.monotonic()
    connection = (
        http.client.HTTPConnection(place.host, place.port, timeout=timeout)
        if place.scheme == "http"
        else http.client.HTTPSConnection(place.host, place.port, timeout=timeout, context=context)
    )
    fields = flow.request.fields
    body = bytes(flow.from_client.data)
    framed = body or any(name.lower() in ("content-length", "transfer-encoding") for name, _ in fields)
    host = place.authority if rehosted else next((value for name, value in fields if name.lower() == "host"), place.authority)
    named = {option.strip().lower() for name, value in fields if name.lower() == "connection" for option in value.split(",")}
    try:
        path = "*" if flow.request.line[1] == "*" else quote(place.path.encode("latin-1"), safe=_PRINTABLE)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", host.encode("latin-1"))
        for name, value in fields:
            if name.lower() not in _NOT_SENT | named and value != REDACTED:
                connection.putheader(name, value.encode("latin-1"))
        if framed:
            connection.putheader("Content-Length", str(len(body)))
        connection.putheader("Connection", "close")
        connection.endheaders(body or None)
        response = connection.getresponse()
        size = 0
        while data := response.read1(_CHUNK):
            size += len(data)
            if time.monotonic() - began > timeout:
                raise TimeoutError(f"after {timeout:g} s and {size} bytes the response had not ended")
        if response.length:
            raise http.client.HTTPException(f"the response broke off, {response.length} bytes before its end")
        return Answer(response.status, size, time.monotonic() - began)
    finally:
        connection.close()
