"""Host names and addresses: parses, splits, writes and matches them. All other modules use this one for that.

A host has many spellings. `EXAMPLE.com.` reaches `example.com`, and `127.1`, `0x7f000001`, `2130706433` and `::ffff:127.0.0.1` reach
`127.0.0.1`. Rules, block lists, certificates and the dialler must use the same spelling. `canonical` returns it:

    a name        ASCII (IDNA), lower case, without the dot at its end
    IPv4          dotted decimal, also for the forms of inet_aton(3), because the C library connects to them
    IPv6          RFC 5952, without brackets and without a zone
    IPv4-mapped   IPv4, because the kernel connects to the IPv4 address (RFC 4291 section 2.5.5.2)

The order matters. IDNA comes before the numeric forms, because nameprep turns full-width digits and dots into ASCII ones.
This module does not resolve names and opens no connection.
"""

import re
import socket
from collections.abc import Iterable
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, NamedTuple

__all__ = [
    "LONGEST_NAME",
    "Breadth",
    "HostPattern",
    "HostPatterns",
    "IPAddress",
    "InvalidName",
    "address_of",
    "address_text",
    "canonical",
    "comparable",
    "is_name",
    "join_host_port",
    "parse_host",
    "parse_pattern",
    "split_host_port",
    "unmapped",
]

IPAddress = IPv4Address | IPv6Address

#: Characters of a host name in ASCII (RFC 1035 section 2.3.4).
LONGEST_NAME = 253

#: Characters of a text that is parsed. A longer text is not a host. It is not cached, because peers choose the texts.
LONGEST_TEXT = 255

# RFC 1123 section 2.1. Many real names also have underscores, and hyphens at either end of a label, so these are allowed. A name that
# begins with a hyphen is refused, as by the C library.
_NAME = re.compile(rf"(?=[^-].{{0,{LONGEST_NAME - 1}}}\Z)[a-z0-9_-]{{1,63}}(?:\.[a-z0-9_-]{{1,63}})*")

# Texts that are given to inet_aton(3). Without this check, inet_aton(3) also accepts "127.0.0.1 and more".
_NUMBERS = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+)){0,3}")

# A port may be empty (RFC 3986 section 3.2.3).
_HOST_PORT = re.compile(r"(\[[^\[\]]*\]|[^:]*)(?::([0-9]{0,5}))?")


class InvalidName(ValueError):
    """The text is neither a host name nor an address."""


def canonical(host: str) -> str:
    """The one spelling of `host`, which may have brackets around an IPv6 address. Raises `InvalidName`."""
    found = _canonical(host) if len(host) <= LONGEST_TEXT else None
    if found is None:
        raise InvalidName(f"{host[:100]!a} is neither a host name nor an address")
    return found


def comparable(host: str) -> str:
    """As `canonical`, for texts that are only compared. A text that is not a host is put in lower case.

    All dots at the end are dropped. A client cannot connect to a name with two dots at the end, but an origin may accept it in Host. So
    rules must match it too.
    """
    host = host.rstrip(".")
    found = _canonical(host) if len(host) <= LONGEST_TEXT else None
    return host.lower() if found is None else found


def is_name(text: str) -> bool:
    """Whether `text`, in any case, is a host name in ASCII: not an address, without a dot at its end."""
    name = text.lower()
    return len(name) <= LONGEST_TEXT and _canonical(name) == name and _address(name) is None


def parse_host(host: str) -> "str | IPAddress":
    """The canonical name, or the address. Raises `InvalidName`."""
    spelled = canonical(host)
    return _address(spelled) or spelled


def address_of(host: str) -> IPAddress | None:
    """The address that `host` spells; None if it is not an address.

    A zone (`fe80::1%eth0`) is dropped, because it is valid on one machine only.
    """
    found = _canonical(host) if len(host) <= LONGEST_TEXT else None
    return None if found is None else _address(found)


def unmapped(address: IPAddress) -> IPAddress:
    """`address`, and an IPv4-mapped one as IPv4. The kernel connects to the IPv4 address, and it reports IPv4 clients as IPv4-mapped."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@lru_cache(4096)
def _canonical(host: str) -> str | None:
    if _NAME.fullmatch(host) and not _ends_like_a_number(host):  # nearly all hosts
        return host
    if ":" in host:
        if host[:1] == "[" and host[-1:] == "]":
            host = host[1:-1]
        bare, percent, zone = host.partition("%")
        if percent and not zone:
            return None
        try:
            return str(unmapped(IPv6Address(bare)))
        except ValueError:
            return None
    try:
        name = host.lower() if host.isascii() else host.encode("idna").decode("ascii").lower()
    except UnicodeError:
        return None
    name = name.removesuffix(".")
    if _NUMBERS.fullmatch(name):
        try:
            return socket.inet_ntoa(socket.inet_aton(name))
        except OSError:
            return None
    return name if _NAME.fullmatch(name) else None


def _ends_like_a_number(host: str) -> bool:
    """Whether the last label begins with a digit. Only such a name can be an IPv4 address."""
    return host[host.rfind(".") + 1].isdigit()


def _address(spelled: str) -> IPAddress | None:
    """The address of a canonical spelling; None if it is a name."""
    if ":" not in spelled and not spelled[-1].isdigit():
        return None
    try:
        return ip_address(spelled)
    except ValueError:
        return None  # "host-1"


# host:port


def split_host_port(text: str) -> tuple[str, int | None]:
    """Split "host:port", "[::1]:port", or a host alone: the host as it is spelled, without brackets, and the port or None.

    It accepts every text. `canonical` checks the host, and the caller checks whether the port may be 0 or above 65535.
    """
    match = _HOST_PORT.fullmatch(text)
    if match is None:  # an IPv6 address without brackets
        return text, None
    return match[1].strip("[]"), int(match[2]) if match[2] else None


def join_host_port(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address (RFC 3986 section 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def address_text(address: tuple[Any, ...] | str) -> str:
    """The address of a socket as `host:port`, with an IPv6 address in brackets; for a unix socket, `unix:` and its path."""
    if isinstance(address, str):
        return f"unix:{address}"
    return join_host_port(address[0], address[1])


# Patterns


class Breadth(Enum):
    """The hosts that `*.example.com` covers. Programs differ here, so each caller chooses the meaning."""

    ONE_LABEL = "one label below"  # certificates, RFC 9525 section 6.3
    BELOW = "any depth below, not the name itself"  # block lists, pass-through
    WITH_ITSELF = "any depth below, and the name itself"  # NO_PROXY, cookies


class HostPattern(NamedTuple):
    """One pattern. With `breadth` None it covers only the host."""

    host: str
    breadth: Breadth | None

    def covers(self, name: str) -> bool:
        """Whether the pattern covers `name`, which is canonical."""
        if self.breadth is None:
            return name == self.host
        if self.breadth is Breadth.ONE_LABEL:
            label, _, parent = name.partition(".")
            return label != "" and parent == self.host
        return name.endswith("." + self.host) or (self.breadth is Breadth.WITH_ITSELF and name == self.host)


def parse_pattern(text: str, wildcard: Breadth) -> HostPattern:
    """Parse `host` or `*.host`. `wildcard` is the meaning of `*.`. Raises `InvalidName`, also for `*.` before an address."""
    if not text.startswith("*."):
        return HostPattern(canonical(text), None)
    host = canonical(text[2:])
    if _address(host) is not None:
        raise InvalidName(f"{text[:100]!a}: there are no hosts below an address")
    return HostPattern(host, wildcard)


class HostPatterns:
    """Many patterns. A look-up takes one step for each label of the name, however many patterns there are."""

    def __init__(self, patterns: Iterable[HostPattern] = ()) -> None:
        self._by_breadth: dict[Breadth | None, set[str]] = {}
        for pattern in patterns:
            self.add(pattern)

    def __bool__(self) -> bool:
        return bool(self._by_breadth)

    def __len__(self) -> int:
        return sum(map(len, self._by_breadth.values()))

    def add(self, pattern: HostPattern) -> None:
        """Add one pattern."""
        self._by_breadth.setdefault(pattern.breadth, set()).add(pattern.host)

    def find(self, name: str) -> HostPattern | None:
        """The narrowest pattern that covers `name`, which is canonical; None without one."""
        if not self._by_breadth:
            return None
        exact, one = self._by_breadth.get(None, ()), self._by_breadth.get(Breadth.ONE_LABEL, ())
        below, broad = self._by_breadth.get(Breadth.BELOW, ()), self._by_breadth.get(Breadth.WITH_ITSELF, ())
        if name in exact:
            return HostPattern(name, None)
        if name in broad:
            return HostPattern(name, Breadth.WITH_ITSELF)
        label, _, parent = name.partition(".")
        if label and parent in one:
            return HostPattern(parent, Breadth.ONE_LABEL)
        while parent:
            if parent in below:
                return HostPattern(parent, Breadth.BELOW)
            if parent in broad:
                return HostPattern(parent, Breadth.WITH_ITSELF)
            parent = parent.partition(".")[2]
        return None
