"""Conditions of routes that lie beside the bytes: the client's address, its certificate, the server name, the time of day.

Each is called with the connection when the question is asked, and `str()` of it is for listings. Who the client is, the kernel or a trusted
load balancer says, and a certificate counts only if it was verified.
"""

import logging
import re
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from muxwsgi.errors import OperatorError
from muxwsgi.file_state import file_state
from muxwsgi.names import Breadth, HostPatterns, InvalidName, comparable, parse_pattern
from muxwsgi.networks import Networks, parse_networks
from muxwsgi.wire.peer import peer_address

if TYPE_CHECKING:
    from cryptography import x509

    from muxwsgi.wire.connection import Connection

__all__ = ["AllHold", "Certificate", "Clients", "ClientsInFile", "Inside", "ServerName", "TimeOfDay"]

log = logging.getLogger("muxwsgi.error")

#: Seconds between two looks at a file.
LOOK_AGAIN = 1.0


class AllHold:
    """All of several conditions."""

    def __init__(self, conditions: Sequence[Callable[["Connection"], bool]]) -> None:
        self._conditions = tuple(conditions)

    def __call__(self, connection: "Connection") -> bool:
        return all(condition(connection) for condition in self._conditions)

    def __str__(self) -> str:
        return ", ".join(map(str, self._conditions))


class Inside:
    """Whether the connection is inside of TLS that this server has terminated, or is not."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted

    def __call__(self, connection: "Connection") -> bool:
        return (connection.tls is not None) is self._wanted

    def __str__(self) -> str:
        return "inside of TLS" if self._wanted else "without TLS"


class ServerName:
    """The server name that the client asked for in the TLS that this server has terminated."""

    def __init__(self, names: Sequence[str]) -> None:
        """Raises `OperatorError`."""
        self._names = names
        try:
            self._patterns = HostPatterns(parse_pattern(name, Breadth.ONE_LABEL) for name in names)
        except InvalidName as error:
            raise OperatorError(str(error)) from None

    def __call__(self, connection: "Connection") -> bool:
        agreed = connection.tls
        return agreed is not None and agreed.sni is not None and self._patterns.find(comparable(agreed.sni)) is not None

    def __str__(self) -> str:
        return f"server name {' or '.join(self._names)}"


class Clients:
    """Clients whose address is in a list, or is not. A client on a unix socket has none."""

    def __init__(self, networks: Networks, wanted: bool) -> None:
        self._networks = networks
        self._wanted = wanted

    def __call__(self, connection: "Connection") -> bool:
        return _is_in(self._networks, connection) is self._wanted

    def __str__(self) -> str:
        listed = "*" if self._networks.everyone else ", ".join(map(str, self._networks.networks)) or "none"
        return f"client {'' if self._wanted else 'not '}in {listed}"


class ClientsInFile:
    """Clients whose address is in a file: addresses and networks, one or more a line, `#` begins a comment.

    A file that has changed is read again, at most once a second, when a client comes. One that has a fault is logged, and the list before
    stays in use.
    """

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises `OperatorError`."""
        self._path = path
        self._clock = clock
        self._looked = clock()
        self._seen = file_state(path)
        self._networks = self._read()

    def __call__(self, connection: "Connection") -> bool:
        now = self._clock()
        if now - self._looked >= LOOK_AGAIN:
            self._looked = now
            self._look_again()
        return _is_in(self._networks, connection)

    def _look_again(self) -> None:
        seen = file_state(self._path)
        if seen == self._seen:
            return
        self._seen = seen  # also of a file with a fault, so that it is logged once and not once a second
        try:
            self._networks = self._read()
        except OperatorError as error:
            log.error("%s: the list of clients before stays in use", error)
        else:
            log.info("%s: read again: %d networks", self._path, len(self._networks.networks))

    def _read(self) -> Networks:
        try:
            with open(self._path, encoding="utf-8") as lines:
                words = " ".join([line.partition("#")[0] for line in lines])
        except (OSError, UnicodeDecodeError) as error:
            raise OperatorError(f"{self._path}: {getattr(error, 'strerror', None) or error}") from None
        return parse_networks(words, self._path) if words.split() else Networks()

    def __str__(self) -> str:
        return f"client in {self._path}"


def _is_in(networks: Networks, connection: "Connection") -> bool:
    if networks.everyone or networks.nobody:
        return networks.everyone
    address = peer_address(connection.client)
    return address is not None and networks.has(address)


class Certificate:
    """A verified certificate of the client that has one of the attributes in its subject, and one of the names. In them `*` stands for any
    text, and case does not matter."""

    def __init__(self, subject: Sequence[str], names: Sequence[str]) -> None:
        """`subject` are attributes such as CN=ann or O=Office; `names` are DNS names, addresses, URIs or mail addresses."""
        self._subject = [each.lower() for each in subject]
        self._names = [each.lower() for each in names]

    def __call__(self, connection: "Connection") -> bool:
        agreed = connection.tls
        if agreed is None or agreed.peer_certificate is None or not agreed.peer_verified:
            return False
        certificate = agreed.peer_certificate
        return (not self._subject or _one_fits(self._subject, _attributes(certificate))) and (
            not self._names or _one_fits(self._names, _alternative_names(certificate))
        )

    def __str__(self) -> str:
        parts = (("subject", self._subject), ("name", self._names))
        return "certificate with " + " and ".join(f"{what} {' or '.join(wanted)}" for what, wanted in parts if wanted)


def _one_fits(patterns: Sequence[str], found: Sequence[str]) -> bool:
    return any(fnmatchcase(each.lower(), pattern) for each in found for pattern in patterns)


def _attributes(certificate: "x509.Certificate") -> list[str]:
    return [f"{attribute.rfc4514_attribute_name}={attribute.value!s}" for attribute in certificate.subject]


def _alternative_names(certificate: "x509.Certificate") -> list[str]:
    from cryptography import x509

    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    kinds = (x509.DNSName, x509.RFC822Name, x509.UniformResourceIdentifier, x509.IPAddress)
    return [str(each.value) for each in extension if isinstance(each, kinds)]


_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOURS = re.compile(r"([01][0-9]|2[0-4]):([0-5][0-9])-([01][0-9]|2[0-4]):([0-5][0-9])")
_DAY = 24 * 60


class TimeOfDay:
    """Days and hours, by the clock of this machine: `mon-fri 08:00-18:00`, `sat,sun`, `22:00-06:00`, which ends on the next day."""

    def __init__(self, text: str, now: Callable[[], time.struct_time] = time.localtime) -> None:
        """Raises `OperatorError`."""
        self._text = text
        self._now = now
        self._days = frozenset(range(7))
        self._begin, self._end = 0, _DAY
        words = text.lower().split()
        hours = _HOURS.fullmatch(words[-1]) if words else None
        if hours is not None:
            first, second, third, fourth = map(int, hours.groups())
            self._begin, self._end = first * 60 + second, third * 60 + fourth
            words.pop()
        if words:
            self._days = _days(words[0], text)
        if len(words) > 1 or (not words and hours is None) or self._begin == self._end or max(self._begin, self._end) > _DAY:
            raise OperatorError(_not_a_time(text))

    def __call__(self, connection: "Connection") -> bool:
        now = self._now()
        minute = now.tm_hour * 60 + now.tm_min
        if self._begin < self._end:
            return now.tm_wday in self._days and self._begin <= minute < self._end
        return (minute >= self._begin and now.tm_wday in self._days) or (minute < self._end and (now.tm_wday - 1) % 7 in self._days)

    def __str__(self) -> str:
        return self._text


def _days(word: str, text: str) -> frozenset[int]:
    days: set[int] = set()
    for part in word.split(","):
        first, dash, last = part.partition("-")
        if first not in _DAYS or (dash and last not in _DAYS):
            raise OperatorError(_not_a_time(text))
        begin = _DAYS.index(first)
        count = (_DAYS.index(last) - begin) % 7 if dash else 0
        days.update((begin + n) % 7 for n in range(count + 1))
    return frozenset(days)


def _not_a_time(text: str) -> str:
    return f"{text!r} is not a time as in 08:00-18:00, mon-fri 08:00-18:00 or sat,sun"
