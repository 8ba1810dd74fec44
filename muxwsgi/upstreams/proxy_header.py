"""PROXY headers for servers: version 1, and version 2 with TLVs (HAProxy's doc/proxy-protocol.txt). It makes bytes and does no I/O.

`wire/proxy_header.py` reads them.
"""

import os
import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from muxwsgi.settings.upstream import UpstreamServerSettings
from muxwsgi.wire.connection import Address, Connection
from muxwsgi.wire.proxy_header import (
    ALPN,
    AUTHORITY,
    CRC32C,
    FIXED,
    SIGNATURE,
    SSL,
    SSL_CIPHER,
    SSL_CN,
    SSL_VERSION,
    UNIQUE_ID,
    crc32c,
)

if TYPE_CHECKING:
    from muxwsgi.wire.tls.info import TLSInfo

__all__ = ["header_for", "local_header", "unique_id"]

_LOCAL, _PROXY = 0x20, 0x21
_UNSPEC, _TCP4, _TCP6 = 0x00, 0x11, 0x21
_HAS_TLS, _HAS_CERTIFICATE, _IN_SESSION = 0x01, 0x02, 0x04

#: Bytes of a text of the client in a TLV at most. Names and ids are shorter.
_TEXT = 255

#: In front of the numbers of connections, which begin at 1 in each master: so an id comes once.
_BOOT = os.urandom(6).hex()


def header_for(settings: UpstreamServerSettings, client: Connection) -> bytes:
    """The header for the connection `client`; empty if the server gets none."""
    if settings.send_proxy:
        return _version_1(client)
    if settings.send_proxy_v2:
        return _version_2(client, frozenset(settings.proxy_v2_options))
    return b""


def local_header(settings: UpstreamServerSettings) -> bytes:
    """The header of a check: it is made for nobody. Empty if the server gets none."""
    if settings.send_proxy:
        return b"PROXY UNKNOWN\r\n"
    return SIGNATURE + bytes((_LOCAL, _UNSPEC, 0, 0)) if settings.send_proxy_v2 else b""


def unique_id(client: Connection) -> str:
    """The id of the connection in its header."""
    return f"{_BOOT}-{client.id:x}"


def _version_1(client: Connection) -> bytes:
    ends = _ends(client.client, client.server)
    if ends is None:  # a unix socket
        return b"PROXY UNKNOWN\r\n"
    (source, source_port), (target, target_port) = ends
    family = socket.AF_INET if source.version == 4 else socket.AF_INET6
    texts = [socket.inet_ntop(family, each.packed) for each in (source, target)]
    return f"PROXY TCP{source.version} {texts[0]} {texts[1]} {source_port} {target_port}\r\n".encode("ascii")


def _version_2(client: Connection, wanted: frozenset[str]) -> bytes:
    ends = _ends(client.client, client.server)
    if ends is None:
        family, addresses = _UNSPEC, b""
    else:
        (source, source_port), (target, target_port) = ends
        family = _TCP4 if source.version == 4 else _TCP6
        addresses = source.packed + target.packed + struct.pack("!HH", source_port, target_port)
    body = addresses + _tlvs(client, wanted)
    checked = "crc32c" in wanted
    length = len(body) + (7 if checked else 0)
    head = SIGNATURE + bytes((_PROXY, family)) + length.to_bytes(2, "big")
    assert len(head) == FIXED
    if not checked:
        return head + body
    zeroed = head + body + _tlv(CRC32C, bytes(4))
    return zeroed[:-4] + crc32c(zeroed).to_bytes(4, "big")


def _tlvs(client: Connection, wanted: frozenset[str]) -> bytes:
    tls = client.tls
    found = b""
    if tls is not None:
        if tls.alpn and "alpn" in wanted:
            found += _tlv(ALPN, _text(tls.alpn))
        if tls.sni and "authority" in wanted:
            found += _tlv(AUTHORITY, _text(tls.sni))
        if "ssl" in wanted:
            found += _tlv(SSL, _about_tls(tls, wanted))
    if "unique-id" in wanted:
        found += _tlv(UNIQUE_ID, unique_id(client).encode("ascii"))
    return found


def _about_tls(tls: "TLSInfo", wanted: frozenset[str]) -> bytes:
    flags, certificate = _HAS_TLS, tls.peer_certificate
    if certificate is not None:
        flags |= _IN_SESSION if tls.resumed else _HAS_CERTIFICATE | _IN_SESSION
    verified = tls.peer_verified
    parts = _tlv(SSL_VERSION, _text(tls.version))
    if "ssl-cipher" in wanted:
        parts += _tlv(SSL_CIPHER, _text(tls.cipher))
    if "cert-cn" in wanted and certificate is not None and verified:
        from cryptography.x509.oid import NameOID

        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        if names:
            parts += _tlv(SSL_CN, _text(str(names[-1].value)))
    return bytes((flags,)) + (0 if verified else 1).to_bytes(4, "big") + parts


def _tlv(kind: int, value: bytes) -> bytes:
    return bytes((kind,)) + len(value).to_bytes(2, "big") + value


def _text(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")[:_TEXT]


_IP = IPv4Address | IPv6Address


def _ends(client: Address, server: Address) -> tuple[tuple[_IP, int], tuple[_IP, int]] | None:
    """Both ends in one family; None if they have no addresses."""
    if not isinstance(client, tuple) or not isinstance(server, tuple):
        return None
    source, target = _address(client[0]), _address(server[0])
    if source is None or target is None:
        return None
    if source.version != target.version:  # a header in front of the connection has named either
        source, target = _in6(source), _in6(target)
    return (source, client[1]), (target, server[1])


def _address(host: str) -> _IP | None:
    host = host.partition("%")[0]
    for family, kind in ((socket.AF_INET, IPv4Address), (socket.AF_INET6, IPv6Address)):
        try:
            return kind(socket.inet_pton(family, host))
        except OSError:
            continue
    return None


def _in6(address: _IP) -> IPv6Address:
    return address if isinstance(address, IPv6Address) else IPv6Address(f"::ffff:{address}")
