"""PROXY headers (HAProxy's PROXY protocol, versions 1 and 2): by them a load balancer names the client of a connection.

This file parses bytes and does no I/O: `hijackers/proxy_protocol.py` reads them. "Section" is one of HAProxy's doc/proxy-protocol.txt.
"""

import re
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

__all__ = ["LONGEST", "LONGEST_V1", "SIGNATURE", "MalformedProxyHeader", "ProxiedTLS", "ProxyHeader", "header_length", "parse_proxy_header"]

#: The first bytes of version 2 (section 2.2), and of version 1.
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_V1 = b"PROXY "

#: Bytes of a version 1 header with its CRLF (section 2.1).
LONGEST_V1 = 107

#: Bytes of a version 2 header. The length field allows 65,551. HAProxy's headers have at most its buffer, of 16 KiB.
LONGEST = 16384

#: Of version 2: signature, version and command, family, length.
FIXED = 16

#: TLVs (section 2.2.1 and following).
ALPN, AUTHORITY, CRC32C, NOOP, UNIQUE_ID, SSL = 0x01, 0x02, 0x03, 0x04, 0x05, 0x20
SSL_VERSION, SSL_CN, SSL_CIPHER = 0x21, 0x22, 0x23
_CLIENT_SSL, _CLIENT_CERT = 0x01, 0x02 | 0x04

#: Bytes of a unique id (section 2.2.5).
_UNIQUE_ID_AT_MOST = 128

_V1_LINE = re.compile(rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})\r\n")

Address = tuple[Any, ...] | str


class MalformedProxyHeader(ValueError):
    """The bytes are not a PROXY header, or not one of the allowed version."""


@dataclass(frozen=True, slots=True)
class ProxiedTLS:
    """What the load balancer says of the TLS that it has with the client (PP2_TYPE_SSL).

    version, cipher         such as "TLSv1.3", "" if not given
    has_certificate         whether the client has shown a certificate, in this connection or in the session
    verified                whether the load balancer has verified it
    common_name             of the certificate, None if not given
    """

    version: str
    cipher: str
    has_certificate: bool
    verified: bool
    common_name: str | None


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """One PROXY header. Texts have characters that are not printable escaped, because the client has chosen some of them.

    version         1 or 2
    client, server  the client, and the address that it has connected to, as those of a `Connection`. None if the load balancer connects for
                    itself (LOCAL, a health check), or does not know them (UNKNOWN, UNSPEC): then those of the connection hold
    tlvs            type and value of each TLV, in order
    """

    version: int
    client: Address | None = None
    server: Address | None = None
    tlvs: tuple[tuple[int, bytes], ...] = ()

    def tlv(self, kind: int) -> bytes | None:
        """The value of the TLV of this type; None without one."""
        return next((value for type_, value in self.tlvs if type_ == kind), None)

    def _text(self, kind: int) -> str | None:
        value = self.tlv(kind)
        return None if value is None else _printable(value)

    @property
    def alpn(self) -> str | None:
        """The protocol id that the client and the load balancer have agreed on."""
        return self._text(ALPN)

    @property
    def authority(self) -> str | None:
        """The server name that the client has sent (SNI)."""
        return self._text(AUTHORITY)

    @property
    def unique_id(self) -> str | None:
        """The load balancer's id of the connection."""
        return self._text(UNIQUE_ID)

    @property
    def tls(self) -> ProxiedTLS | None:
        """The TLS between client and load balancer; None if there is none, or if the header does not say."""
        value = self.tlv(SSL)
        if value is None or not value[0] & _CLIENT_SSL:
            return None
        parts = dict(_tlvs(value[5:]))
        shown = bool(value[0] & _CLIENT_CERT)
        name = parts.get(SSL_CN)
        return ProxiedTLS(
            version=_printable(parts.get(SSL_VERSION, b"")),
            cipher=_printable(parts.get(SSL_CIPHER, b"")),
            has_certificate=shown,
            verified=shown and value[1:5] == b"\0\0\0\0",
            common_name=None if name is None or not shown else _printable(name),
        )


def header_length(data: bytes, version: int | None = None) -> int | None:
    """How many bytes the header has that `data` begins; None if more bytes are needed to know. `version` is the only one allowed.

    The answer depends on the bytes alone: more of them never change it. Raises `MalformedProxyHeader` as soon as they cannot be a header.
    """
    if version != 1:
        if data.startswith(SIGNATURE):
            if len(data) < FIXED:
                return None
            length = FIXED + int.from_bytes(data[14:16], "big")
            if length > LONGEST:
                raise MalformedProxyHeader(f"it has {length} bytes, which are more than {LONGEST}")
            return length
        if SIGNATURE.startswith(data):
            return None
    if version != 2:
        end = data.find(b"\n", 0, LONGEST_V1)
        if data.startswith(_V1):
            if end >= 0:
                return end + 1
            if len(data) < LONGEST_V1:
                return None
            raise MalformedProxyHeader(f"a line of more than {LONGEST_V1} bytes")
        if _V1.startswith(data):
            return None
    raise MalformedProxyHeader(f"it begins with {data[:16]!r}")


def parse_proxy_header(data: bytes) -> ProxyHeader:
    """The header `data`, which is as long as `header_length` says. Raises `MalformedProxyHeader`."""
    return _version_2(data) if data.startswith(SIGNATURE) else _version_1(data)


def _version_1(line: bytes) -> ProxyHeader:
    if line.startswith(b"PROXY UNKNOWN") and line[13:14] in (b" ", b"\r") and line.endswith(b"\r\n"):
        return ProxyHeader(1)  # what follows is ignored (section 2.1)
    match = _V1_LINE.fullmatch(line)
    if match is None:
        raise MalformedProxyHeader(f"the line {line[:60]!r}")
    family, *texts = (each.decode("ascii") for each in match.groups())
    ports = [int(each) for each in texts[2:]]
    if max(ports) > 65535:
        raise MalformedProxyHeader("a port above 65535")
    try:
        if family == "TCP4":
            addresses = [str(IPv4Address(each)) for each in texts[:2]]
            return ProxyHeader(1, (addresses[0], ports[0]), (addresses[1], ports[1]))
        return ProxyHeader(1, _in6(IPv6Address(texts[0]), ports[0]), _in6(IPv6Address(texts[1]), ports[1]))
    except ValueError as error:
        raise MalformedProxyHeader(str(error)) from None


def _in6(address: IPv6Address, port: int) -> Address:
    """As `Connection` has the address of a peer: an IPv4-mapped one as IPv4."""
    if address.ipv4_mapped is not None:
        return (str(address.ipv4_mapped), port)
    return (str(address), port, 0, 0)


def _version_2(data: bytes) -> ProxyHeader:
    version, command = data[12] >> 4, data[12] & 15
    if version != 2 or command > 1:
        raise MalformedProxyHeader(f"version {version}, command {command}")
    family, body = data[13], data[FIXED:]
    if command == 0:  # LOCAL: the rest is skipped, whatever it is (section 2.2)
        return ProxyHeader(2)
    size = _ADDRESSES.get(family)
    if size is None:
        raise MalformedProxyHeader(f"the address family {family:#04x}")
    if len(body) < size:
        raise MalformedProxyHeader("it ends in its addresses")
    tlvs = tuple(_tlvs(body[size:]))
    _check(data, size, tlvs)
    client, server = _addresses(family, body)
    return ProxyHeader(2, client, server, tlvs)


#: Bytes of the addresses of each family that a stream can have: UNSPEC, TCP4, TCP6, unix.
_ADDRESSES = {0x00: 0, 0x11: 12, 0x21: 36, 0x31: 216}


def _addresses(family: int, body: bytes) -> tuple[Address | None, Address | None]:
    if family == 0x11:
        client, server, *ports = struct.unpack_from("!4s4sHH", body)
        return (socket.inet_ntoa(client), ports[0]), (socket.inet_ntoa(server), ports[1])
    if family == 0x21:
        client, server, *ports = struct.unpack_from("!16s16sHH", body)
        return _in6(IPv6Address(client), ports[0]), _in6(IPv6Address(server), ports[1])
    if family == 0x31:
        return _path(body[:108]), _path(body[108:216])
    return None, None


def _path(data: bytes) -> str:
    return _printable(data.rstrip(b"\0"))


def _tlvs(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        if len(data) - at < 3:
            raise MalformedProxyHeader("it ends in a TLV")
        length = int.from_bytes(data[at + 1 : at + 3], "big")
        value = data[at + 3 : at + 3 + length]
        if len(value) < length:
            raise MalformedProxyHeader("a TLV is longer than the header")
        yield data[at], value
        at += 3 + length


def _check(data: bytes, at: int, tlvs: tuple[tuple[int, bytes], ...]) -> None:
    """Check what TLVs have to be, and the checksum (section 2.2.3)."""
    kinds = [kind for kind, _ in tlvs if kind != NOOP]
    if len(set(kinds)) < len(kinds):
        raise MalformedProxyHeader("two TLVs of one type")
    for kind, value in tlvs:
        at += 3
        if kind == CRC32C:
            if len(value) != 4:
                raise MalformedProxyHeader("a checksum that has not 4 bytes")
            zeroed = data[: FIXED + at] + bytes(4) + data[FIXED + at + 4 :]
            if crc32c(zeroed) != int.from_bytes(value, "big"):
                raise MalformedProxyHeader("the checksum is wrong")
        elif kind == UNIQUE_ID and len(value) > _UNIQUE_ID_AT_MOST:
            raise MalformedProxyHeader(f"a unique id of more than {_UNIQUE_ID_AT_MOST} bytes")
        elif kind == SSL:
            if len(value) < 5:
                raise MalformedProxyHeader("a TLV about TLS that has not 5 bytes")
            for _ in _tlvs(value[5:]):  # it raises
                pass
        at += len(value)


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC = _table()


def crc32c(data: bytes) -> int:
    """The CRC-32C (Castagnoli) of `data` (RFC 9260 appendix A)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = (value >> 8) ^ _CRC[(value ^ byte) & 255]
    return value ^ 0xFFFFFFFF


def _printable(data: bytes) -> str:
    """`data` as text. Everything that is not printable ASCII is escaped."""
    return "".join(chr(byte) if 32 <= byte < 127 and byte != 92 else f"\\x{byte:02x}" for byte in data)
