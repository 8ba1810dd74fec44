"""Parses what proxies say of a client: Forwarded (RFC 7239) and X-Forwarded-For.

A `Hop` is one step of a request's way: the address of the sender, as the proxy that received the request has written it down. The last one
is what the peer of our connection wrote. A field may begin with anything, because the client wrote the beginning. See `forwarding` for who
is believed.
"""

import re
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from muxwsgi.grammar import TOKEN
from muxwsgi.names import IPAddress, unmapped

__all__ = ["Hop", "parse_forwarded", "parse_node"]

#: node-port and obfuscated names (RFC 7239 section 6).
_NODE = re.compile(r"(?:\[(?P<bracketed>[0-9A-Fa-f:.]+)\]|(?P<name>[^:\[\]]+))(?::(?P<port>[0-9]{1,5}|_[A-Za-z0-9._-]+))?")
_OBFUSCATED = re.compile(r"_[A-Za-z0-9._-]+")

#: forwarded-pair (section 4): token "=" ( token / quoted-string ). Blanks around ";" are accepted, because there is one reading only.
_PAIR = re.compile(rf'({TOKEN})=(?:({TOKEN})|"((?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*)")')
_BLANKS = re.compile(r"[ \t]*")
_ESCAPED = re.compile(r"\\(.)")

#: Elements of one field. More proxies than that are not in a row.
_AT_MOST = 100


class Hop(NamedTuple):
    """
    address     of the sender; None if the proxy does not tell
    port        of the sender; None if the proxy does not tell
    proto       the scheme that the sender used; None if it is not given
    host        the Host that the sender sent; None if it is not given
    told        whether the proxy says anything of the sender's address, if only `unknown`
    """

    address: IPAddress | None
    port: int | None
    proto: str | None = None
    host: str | None = None
    told: bool = True


def parse_node(text: str, *, bare: bool = False) -> tuple[IPAddress | None, int | None]:
    """The address and the port of a node (RFC 7239 section 6). The address is None for `unknown` and for an obfuscated name (`_secret`).

    With `bare`, an IPv6 address may stand without brackets and have a zone, as in X-Forwarded-For. Raises `ValueError`.
    """
    if bare and text.count(":") > 1 and "[" not in text:
        return unmapped(IPv6Address(text.partition("%")[0])), None
    match = _NODE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:60]!a} is not the address of a client")
    port = int(match["port"]) if match["port"] and match["port"][0] != "_" else None
    if port is not None and port > 65535:
        raise ValueError(f"{text[:60]!a} has a port above 65535")
    if match["bracketed"] is not None:
        return unmapped(IPv6Address(match["bracketed"])), port
    name = match["name"]
    if name.lower() == "unknown" or _OBFUSCATED.fullmatch(name):
        return None, None
    return IPv4Address(name), port


def parse_forwarded(value: str) -> list[Hop]:
    """All elements of a Forwarded field, in their order. Raises `ValueError` if any of it is not as RFC 7239 section 4 has it.

    All of it is parsed, although the beginning may be the client's: quotes that are open there would make a part of what follows.
    """
    hops: list[Hop] = []
    at = 0
    while True:
        pairs, at = _element(value, at)
        if pairs:  # an empty element of a list has no meaning (RFC 9110 section 5.6.1.2)
            address, port = parse_node(pairs["for"]) if "for" in pairs else (None, None)
            hops.append(Hop(address, port, pairs.get("proto"), pairs.get("host"), "for" in pairs))
        if at >= len(value):
            return hops
        if len(hops) >= _AT_MOST:
            raise ValueError(f"more than {_AT_MOST} elements")
        at += 1  # the comma


def _element(value: str, at: int) -> tuple[dict[str, str], int]:
    """The pairs of the element that begins at `at`, by their names in lower case, and where it ends: at a comma or at the end."""
    pairs: dict[str, str] = {}
    while True:
        at = _skip(value, at)
        match = _PAIR.match(value, at)
        if match is not None:
            name = match[1].lower()
            if name in pairs:
                raise ValueError(f"{name} stands twice in one element")
            pairs[name] = match[2] if match[2] is not None else _ESCAPED.sub(r"\1", match[3])
            at = _skip(value, match.end())
        if at >= len(value) or value[at] == ",":
            return pairs, at
        if value[at] != ";":
            raise ValueError(f"{value[at:at + 20]!a} is not a pair of name and value")
        at += 1


def _skip(value: str, at: int) -> int:
    blanks = _BLANKS.match(value, at)
    assert blanks is not None
    return blanks.end()
