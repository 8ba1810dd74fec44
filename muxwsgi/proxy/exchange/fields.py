"""Which fields pass a proxy, and how a request head is written for the next hop (RFC 9110 section 7.6.1).

Fields keep the order, the names' case and the repetitions that the client gave them: servers, and those who take fingerprints of
clients, notice. What is hop-by-hop goes; everything else stays as it is.
"""

from collections.abc import Iterable

from muxwsgi.grammar import is_token

__all__ = ["RequestPlan", "end_to_end", "passable_upgrades", "request_head"]

Fields = list[tuple[str, str]]

#: Of requests. Transfer-Encoding is not among them: whether the body is chunked is the caller's to say, at the place where the client did.
_REQUEST_HOP = frozenset({"connection", "proxy-connection", "keep-alive", "te", "upgrade", "http2-settings"})

#: Framing to servers that take an underscore for a hyphen (CGI and its like), and to nobody else: what they say was never looked at.
_FRAMING_ALIKE = frozenset({"transfer_encoding", "content_length"})

_NOT_SENT = _REQUEST_HOP | _FRAMING_ALIKE

#: Not even where hop-by-hop fields are kept: the first two are written anew.
_NEVER_SENT = frozenset({"te", "upgrade"}) | _FRAMING_ALIKE

#: Meant for us where we are the proxy that the client speaks to, and for the next server inside of a tunnel.
_FOR_US = frozenset({"proxy-authorization"})

_RESPONSE_HOP = frozenset({"connection", "proxy-connection", "keep-alive", "te", "upgrade", "transfer-encoding"})

#: Those that need no closer look.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"})

#: Protocols that carry requests, or hide them: who has switched to one would go on to the same server past all rules (HTTP/2 in the clear,
#: which RFC 9113 has given up; TLS, RFC 2817). A server that is not asked for them goes on in HTTP/1.1.
_REQUESTS_INSIDE = frozenset({"h2c", "h2", "http", "tls"})

#: Names as they come, with what they are in lower case. Learned, and forgotten when there are too many.
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
    """A request as it goes to the next hop.

    method, target      of the request line; the target in the form that the next hop wants
    host                what the Host field has to say, None to leave the client's
    fields              all fields of the request, hop-by-hop ones included
    chunked             whether the body is sent in chunks
    length              its Content-Length; None where it is chunked and where there is no body and nothing says so
    upgrade             whether the client's Upgrade is passed on
    in_tunnel           whether Proxy-Authorization is for the next server, and not for us
    keep_hop            leave hop-by-hop fields in (framing excepted)
    extra               fields that we add, at the end
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
    """See `RequestPlan.head`. Raises `ValueError` for a method, a target or a field, given by a rule, that no head can hold."""
    if plan.method not in _METHODS and not is_token(plan.method):
        raise ValueError(f"{plan.method!r} is no method")
    if not plan.target or " " in plan.target or "\t" in plan.target:
        raise ValueError(f"{plan.target!r} is no request-target")
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
    """What an Upgrade field may ask of the next hop; "" where nothing of it is left."""
    asked = value.split(",")
    kept = [protocol for protocol in asked if protocol.partition("/")[0].strip(" \t").lower() not in _REQUESTS_INSIDE]
    return value if len(kept) == len(asked) else ",".join(kept).strip(" \t")


def _options(value: str) -> set[str]:
    """The names that a Connection field makes hop-by-hop. Those that say where a message goes and ends are never taken for that: naming
    them is an attack on whoever stands behind us."""
    return {option.strip().lower() for option in value.split(",")} - {"host", "content-length", "transfer-encoding", "authorization", ""}


def _framing(plan: RequestPlan, name: str | None) -> Fields:
    """The field that says where the body ends, as the client spelled it where it had the same."""
    if plan.chunked:
        return [(name or "Transfer-Encoding", "chunked")]
    return [] if plan.length is None else [(name or "Content-Length", str(plan.length))]


def end_to_end(fields: Fields, *, keep: bool = False, upgrade: bool = False) -> Fields:
    """The fields of a response that go on to the client, Content-Length included. `keep` leaves in what the engine does not refuse,
    `upgrade` the protocols that the server asks for."""
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
