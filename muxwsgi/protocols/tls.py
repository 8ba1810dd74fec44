"""TLS: the matchers, and a parser of the ClientHello, which the client sends before anything is encrypted.

The parser is pure (no I/O, no OpenSSL). With it a route can ask for the server name before the handshake, and the proxy
can make a leaf for it in time. It reads a ClientHello that is split over several TLS records: some clients do that
on purpose, and one with post-quantum key shares exceeds one segment.

It is strict and never raises: a malformed ClientHello is `Match.NO`. With Encrypted ClientHello it returns the public outer
name, since the inner one is encrypted.
"""

import re
import struct
from collections.abc import Callable
from typing import Literal, NamedTuple

from muxwsgi.mux.match import Match
from muxwsgi.mux.matchers import Matcher, expression, named
from muxwsgi.names import Breadth, HostPatterns, comparable, parse_pattern
from muxwsgi.protocols import Protocol, Speaks

__all__ = [
    "MAX_HELLO_LENGTH",
    "PROTOCOL",
    "ClientHello",
    "alpn_is",
    "client_hello",
    "nearly_tls",
    "parse_client_hello",
    "sni_is",
    "tls",
    "tls_like",
]

YES, NO, MORE = Match.YES, Match.NO, Match.MORE

#: Bytes of the handshake message at most. The largest seen in the wild are below 4 KiB; a `Mux` shows 16 KiB
#: by default.
MAX_HELLO_LENGTH = 65535

#: Records at most. Clients that split the message use two to a handful; a limit keeps the work small when
#: bytes drip in.
MAX_HELLO_RECORDS = 64

MAX_FRAGMENT = 16384  # RFC 8446 section 5.1

RECORD_HEADER = 5
MESSAGE_HEADER = 4

# Extension numbers (IANA "TLS ExtensionType Values")
SERVER_NAME, GROUPS, POINT_FORMATS, SIGNATURE_ALGORITHMS, ALPN, VERSIONS = 0, 10, 11, 13, 16, 43

# RFC 6066 section 3 wants an ASCII DNS name. Underscores occur in practice; spaces, NUL and non-ASCII never
# rightly.
_HOST_NAME = re.compile(rb"[A-Za-z0-9._-]{1,255}")


class ClientHello(NamedTuple):
    """A well-formed ClientHello. Code points are in the order sent, GREASE values included.

    sni         the server name in lower case without a final dot; None when the client sent none
    alpn        protocol ids in the client's order, decoded as Latin-1
    versions    supported_versions (0x0304 is TLS 1.3), or the one legacy version of a client that does not
                send it
    ciphers, extensions, groups, point_formats, signature_algorithms    the code points, as fingerprints want
                                                                        them
    legacy_version  the version field of the message itself
    """

    sni: str | None
    alpn: tuple[str, ...]
    versions: tuple[int, ...]
    ciphers: tuple[int, ...]
    extensions: tuple[int, ...]
    groups: tuple[int, ...]
    point_formats: tuple[int, ...]
    signature_algorithms: tuple[int, ...]
    legacy_version: int


class _Malformed(Exception):
    """A length exceeds the field that contains it, or a required field is empty. Never leaves this module."""


def parse_client_hello(data: bytes) -> ClientHello | Literal[Match.MORE, Match.NO]:
    """The ClientHello at the start of `data`, `MORE` while it is not complete, `NO` when it is not one.

    What follows the ClientHello is not looked at, so the answer is final once it is not `MORE`.
    """
    message = _reassemble(data)
    if isinstance(message, Match):
        return message
    try:
        return _parse_message(_Reader(message))
    except _Malformed:
        return Match.NO


def _reassemble(data: bytes) -> bytes | Literal[Match.MORE, Match.NO]:
    """The body of the first handshake message, which is a ClientHello, out of as many records as it takes
    (RFC 8446 section 5.1).
    """
    message = bytearray()
    at = 0
    for _ in range(MAX_HELLO_RECORDS):
        header = data[at : at + RECORD_HEADER]
        if not b"\x16\x03".startswith(header[:2]):  # any minor version: RFC 5246 appendix E.1
            return Match.NO
        if len(header) < RECORD_HEADER:
            return Match.MORE
        length = header[3] << 8 | header[4]
        if not 0 < length <= MAX_FRAGMENT:
            return Match.NO
        at += RECORD_HEADER
        fragment = data[at : at + length]
        message += fragment
        if message and message[0] != 1:
            return Match.NO
        if len(message) >= MESSAGE_HEADER:
            end = MESSAGE_HEADER + (message[1] << 16 | message[2] << 8 | message[3])
            if end > MAX_HELLO_LENGTH:
                return Match.NO
            if len(message) >= end:
                return bytes(message[MESSAGE_HEADER:end])
        if len(fragment) < length:
            return Match.MORE
        at += length
    return Match.NO


class _Reader:
    """Reads fields off the front of a byte string."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def more(self) -> bool:
        return self._at < len(self._data)

    def take(self, n: int) -> bytes:
        end = self._at + n
        if end > len(self._data):
            raise _Malformed
        field = self._data[self._at : end]
        self._at = end
        return field

    def number(self, size: int) -> int:
        """Of one byte or two."""
        at = self._at
        self._at = at + size
        if self._at > len(self._data):
            raise _Malformed
        return self._data[at] if size == 1 else self._data[at] << 8 | self._data[at + 1]

    def vector(self, size: int, minimum: int) -> bytes:
        """A field with its length in front, in `size` bytes (RFC 8446 section 3.4)."""
        field = self.take(self.number(size))
        if len(field) < minimum:
            raise _Malformed
        return field


def _parse_message(hello: _Reader) -> ClientHello:
    """RFC 8446 section 4.1.2."""
    legacy_version = hello.number(2)
    hello.take(32)  # random
    if len(hello.vector(1, 0)) > 32:  # legacy_session_id
        raise _Malformed
    ciphers = _numbers(hello.vector(2, 2), 2)
    hello.vector(1, 1)  # legacy_compression_methods
    extensions = _extensions(hello.vector(2, 0)) if hello.more() else {}  # before TLS 1.3 there may be none at all
    if hello.more():
        raise _Malformed
    return ClientHello(  # in the order of its fields
        _server_name(extensions.get(SERVER_NAME)),
        _protocols(extensions.get(ALPN)),
        _listed(extensions.get(VERSIONS), 1, 2) or (legacy_version,),
        ciphers,
        tuple(extensions),
        _listed(extensions.get(GROUPS), 2, 2),
        _listed(extensions.get(POINT_FORMATS), 1, 1),
        _listed(extensions.get(SIGNATURE_ALGORITHMS), 2, 2),
        legacy_version,
    )


def _extensions(block: bytes) -> dict[int, bytes]:
    """Kind -> content (RFC 8446 section 4.2). There are a dozen in each hello: the calls of a `_Reader` would cost most of the time."""
    extensions: dict[int, bytes] = {}
    at, end = 0, len(block)
    while at < end:
        start = at + 4
        if start > end:
            raise _Malformed
        kind = block[at] << 8 | block[at + 1]
        at = start + (block[at + 2] << 8 | block[at + 3])
        if at > end or kind in extensions:
            raise _Malformed
        extensions[kind] = block[start:at]
    return extensions


def _numbers(field: bytes, size: int) -> tuple[int, ...]:
    """The code points in `field`, of one byte or two."""
    if len(field) % size:
        raise _Malformed
    return tuple(field) if size == 1 else struct.unpack(f">{len(field) // 2}H", field)


def _only_vector(extension: bytes, length_size: int) -> bytes:
    """The one vector that a whole extension consists of."""
    reader = _Reader(extension)
    field = reader.vector(length_size, 1)
    if reader.more():
        raise _Malformed
    return field


def _listed(extension: bytes | None, length_size: int, size: int) -> tuple[int, ...]:
    return () if extension is None else _numbers(_only_vector(extension, length_size), size)


def _server_name(extension: bytes | None) -> str | None:
    """RFC 6066 section 3: a list of (type, name), of which only type 0, a host name, was ever defined."""
    if extension is None:
        return None
    names = _Reader(_only_vector(extension, 2))
    found: str | None = None
    while names.more():
        kind = names.number(1)
        name = names.vector(2, 1)
        if kind == 0:
            if found is not None or not _HOST_NAME.fullmatch(name):
                raise _Malformed
            found = name.decode("ascii").lower().removesuffix(".")
    return found


def _protocols(extension: bytes | None) -> tuple[str, ...]:
    """RFC 7301 section 3.1."""
    if extension is None:
        return ()
    names = _Reader(_only_vector(extension, 2))
    found = []
    while names.more():
        found.append(names.vector(1, 1).decode("latin-1"))
    return tuple(found)


# Matchers


@named("tls")
def tls(data: bytes) -> Match:
    """A TLS record that begins a ClientHello: content type 22, version 3.x with any x (RFC 5246 appendix E.1),
    a length a record may have, message type 1.

    Six bytes decide. A `YES` proves neither a well-formed ClientHello nor a version that we serve: those the
    handshake answers with an alert. SSL 2 hellos are `NO`.
    """
    if not b"\x16\x03".startswith(data[:2]):
        return NO
    if len(data) >= 5 and not 0 < (data[3] << 8 | data[4]) <= MAX_FRAGMENT:
        return NO
    if len(data) < 6:
        return MORE
    return YES if data[5] == 1 else NO


@named("tls_like")
def tls_like(data: bytes) -> Match:
    """What begins like TLS, whether in order or not: a record of any type with version 3.x, or a ClientHello of
    SSL 2 (RFC 5246 appendix E.2). For a port on which nothing else is served: OpenSSL answers what is broken with
    an alert.
    """
    if data[:1] < b"\x80":
        if data and not 20 <= data[0] <= 23:
            return NO
        return MORE if len(data) < 2 else YES if data[1] == 3 else NO
    if not b"\x01\x03".startswith(data[2:4]):
        return NO
    return YES if len(data) >= 4 else MORE


def _hello_matcher(name: str, wanted: Callable[[ClientHello], bool]) -> Matcher:
    def ask(data: bytes) -> Match:
        hello: ClientHello | Literal[Match.MORE, Match.NO] = parse_client_hello(data)
        if isinstance(hello, Match):
            return hello
        return YES if wanted(hello) else NO

    return named(name)(ask)


@named("client_hello")
def client_hello(data: bytes) -> Match:
    """A whole and well-formed ClientHello."""
    hello: ClientHello | Literal[Match.MORE, Match.NO] = parse_client_hello(data)
    return hello if isinstance(hello, Match) else YES


def sni_is(*names: str) -> Matcher:
    """A ClientHello that asks for one of the server names. `*.example.com` stands for any name one label
    below, as in certificates.

    Needs the whole ClientHello, so a route without it that comes later in order waits for that.
    """
    if not names:
        raise ValueError("sni_is() needs at least one server name")
    patterns = HostPatterns(parse_pattern(name, Breadth.ONE_LABEL) for name in names)

    def wanted(hello: ClientHello) -> bool:
        return hello.sni is not None and patterns.find(comparable(hello.sni)) is not None

    return _hello_matcher(expression("sni_is", names), wanted)


def alpn_is(*protocols: str) -> Matcher:
    """A ClientHello that offers one of the ALPN protocol ids, whichever the server would choose."""
    if not protocols:
        raise ValueError("alpn_is() needs at least one protocol id")
    ids = frozenset(protocols)
    return _hello_matcher(expression("alpn_is", protocols), lambda hello: not ids.isdisjoint(hello.alpn))


def nearly_tls(data: bytes) -> Match:
    """A handshake record that does not begin a ClientHello as ours has to: OpenSSL skips empty ones, and lets any minor version pass. And
    the ClientHello of SSL 2, in which offers of TLS 1.2 may come (RFC 5246 appendix E.2)."""
    if data[:1] == b"\x16":
        if data[1:2] not in (b"", b"\x03"):
            return Match.NO
        if len(data) >= 5 and data[3:5] == b"\0\0":
            return Match.YES
        return Match.MORE if len(data) < 6 else Match.YES if data[5] == 1 else Match.NO
    if data[:1] < b"\x80":
        return Match.NO if data else Match.MORE
    # Two bytes of length, its highest bit set; 1 for a ClientHello; the version.
    hello = data[2:5]
    if not b"\x01\x03".startswith(hello[:2]):
        return Match.NO
    return (Match.YES if hello[2:] <= b"\x04" else Match.NO) if len(hello) == 3 else Match.MORE


PROTOCOL = Protocol(
    name="TLS",
    defined_in="RFC 8446 sections 4.1.2 and 5.1",
    speaks_first=Speaks.CLIENT,
    match=tls,
    loose=tls_like,
    begins=(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x16\x03\x03\x00\x01\x01"),
    not_begins=(b"\x16\x03\x01\x02\x00\x02", b"\x15\x03\x03\x00\x02\x02\x28", b"\x80\x2e\x01\x03\x01"),
)
