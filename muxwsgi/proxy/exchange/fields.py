"""Removes hop-by-hop fields, and writes the request head for the next hop (RFC 9110 section 7.6.1).

All other fields stay unchanged, with their order, the case of their names and repetitions, because some servers fingerprint clients by
these.
"""

from collections.abc import Iterable

from muxwsgi.grammar import is_token

__all__ = ["RequestPlan", "end_to_end", "passable_upgrades", "request_head"]

Fields = list[tuple[str, str]]

#: Hop-by-hop fields of requests. Transfer-Encoding is written separately, at the place of the client's field.
_REQUEST_HOP = frozenset({"connection", "proxy-connection", "keep-alive", "te", "upgrade", "http2-settings"})

#: Framing fields for servers that take an underscore for a hyphen (CGI and others). The proxy has not validated their values.
_FRAMING_ALIKE = frozenset({"transfer_encoding", "content_length"})

_NOT_SENT = _REQUEST_HOP | _FRAMING_ALIKE

#: Removed even if hop-by-hop fields are kept. The first two are written anew.
_NEVER_SENT = frozenset({"te", "upgrade"}) | _FRAMING_ALIKE

#: Meant for this proxy outside a tunnel, and for the next server inside a tunnel.
_FOR_US = frozenset({"proxy-authorization"})

_RESPONSE_HOP = frozenset({"connection", "proxy-connection", "keep-alive", "te", "upgrade", "transfer-encoding"})

#: Known methods, which need no validation.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"})

#: Protocols that carry or hide requests: HTTP/2 in the clear (dropped by RFC 9113), TLS (RFC 2817). After an upgrade to one, requests would
#: bypass all rules. So the proxy does not pass these on, and the server continues in HTTP/1.1.
_REQUESTS_INSIDE = frozenset({"h2c", "h2", "http", "tls"})

#: A cache of field names in lower case. It is cleared when it is full.
_LOWER: dict[str, str] = {}
_LOWER_AT_MOST = 2048


def _lower(name: str) -> str:
    known = _LOWER.get(name)
    if known is None:
        if len(_LOWER) >= _LOWER_AT_MOST:
            _LOWER.clear()
        known = _LOWER[name] = name.lower()
    return known


class RequestPlan:
    """A request for the next hop.

    method, target      of the request line; the target has the form that the next hop expects
    host                the value for Host, None for the client's
    fields              all fields of the request, with the hop-by-hop ones
    chunked             whether the body is sent in chunks
    length              the Content-Length to send, None for none
    upgrade             whether the client's Upgrade is passed on
    in_tunnel           whether Proxy-Authorization is for the next server, and not for this proxy
    keep_hop            whether hop-by-hop fields are kept (except for framing)
    extra               fields that the proxy adds at the end
    """

    __slots__ = ("chunked", "extra", "fields", "host", "in_tunnel", "keep_hop", "length", "method", "target", "upgrade")

    def __init__(self, method: str, target: str, fields: Fields) -> None:
        self.method = method
        self.target = target
        self.fields = fields
        self.host: str | None = None
        self.chunked = False
        self.length: int | None = None
        self.upgrade = False
        self.in_tunnel = False
        self.keep_hop = False
        self.extra: Iterable[tuple[str, str]] = ()

    def head(self) -> tuple[bytes, Fields]:
        """The head as bytes, and its fields as they are sent."""
        return request_head(self)


def request_head(plan: RequestPlan) -> tuple[bytes, Fields]:
    """See `RequestPlan.head`. Raises `ValueError` for an invalid method, target or field, which a rule may have set."""
    if plan.method not in _METHODS and not is_token(plan.method):
        raise ValueError(f"{plan.method!r} is not a method")
    if not plan.target or " " in plan.target or "\t" in plan.target:
        raise ValueError(f"{plan.target!r} is not a request-target")
    named: frozenset[str] | set[str] = frozenset()
    wants_trailers = False
    for name, value in plan.fields:
        lowered = _lower(name)
        if lowered == "connection":
            named = named | _options(value)
        elif lowered == "te" and "trailers" in value.lower():
            wants_trailers = True
    hop = _NOT_SENT | named if named else _NOT_SENT
    sent: Fields = []
    framed = False
    hosted = False
    for name, value in plan.fields:
        lowered = _lower(name)
        if lowered == "transfer-encoding" or lowered == "content-length":
            if not framed:
                framed = True
                sent += _framing(plan, name if (lowered == "transfer-encoding") is plan.chunked else None)
            continue
        if lowered == "host":
            if hosted:
                continue
            hosted = True
            sent.append((name, plan.host if plan.host is not None else value))
            continue
        if lowered in hop and not (plan.keep_hop and lowered not in _NEVER_SENT):
            continue
        if lowered in _FOR_US and not plan.in_tunnel:
            continue
        sent.append((name, value))
    if not hosted and plan.host is not None:
        sent.insert(0, ("Host", plan.host))
    if not framed:
        sent += _framing(plan, None)
    if plan.upgrade:
        for name, value in plan.fields:
            if _lower(name) == "upgrade" and (passable := passable_upgrades(value)):
                sent.append((name, passable))
        sent.append(("Connection", "Upgrade"))
    elif wants_trailers:
        sent += [("Connection", "TE"), ("TE", "trailers")]
    sent += plan.extra
    lines = [f"{plan.method} {plan.target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in sent]
    text = "\r\n".join(lines)
    if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1 or "\0" in text:
        raise ValueError("a field of the request has a line break or NUL in it")
    return (text + "\r\n\r\n").encode("latin-1"), sent


def passable_upgrades(value: str) -> str:
    """The value of Upgrade with the protocols that may be passed on; "" if none is left."""
    asked = value.split(",")
    kept = [protocol for protocol in asked if protocol.partition("/")[0].strip(" \t").lower() not in _REQUESTS_INSIDE]
    return value if len(kept) == len(asked) else ",".join(kept).strip(" \t")


def _options(value: str) -> set[str]:
    """The names that a Connection field makes hop-by-hop, without those for routing, framing and authorization. Removing these would allow
    attacks on the next servers."""
    return {option.strip().lower() for option in value.split(",")} - {"host", "content-length", "transfer-encoding", "authorization", ""}


def _framing(plan: RequestPlan, name: str | None) -> Fields:
    """The framing field. Its name is spelled as the client's, if the client sent the same one."""
    if plan.chunked:
        return [(name or "Transfer-Encoding", "chunked")]
    return [] if plan.length is None else [(name or "Content-Length", str(plan.length))]


def end_to_end(fields: Fields, *, keep: bool = False, upgrade: bool = False) -> Fields:
    """The fields of a response that are sent on to the client, with Content-Length. `keep` keeps hop-by-hop fields that the engine allows,
    `upgrade` keeps Upgrade."""
    named: frozenset[str] | set[str] = frozenset()
    for name, value in fields:
        if _lower(name) == "connection":
            named = named | _options(value)
    hop = _RESPONSE_HOP | named if named else _RESPONSE_HOP
    if keep:
        hop = frozenset({"connection", "transfer-encoding"})
    if upgrade:
        hop = hop - {"upgrade"}
    return [field for field in fields if _lower(field[0]) not in hop]
