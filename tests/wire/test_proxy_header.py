"""PROXY headers as bytes: what is one, how long it is, what it says; and what is none."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxwsgi.wire.proxy_header import LONGEST, SIGNATURE, MalformedProxyHeader, ProxyHeader, crc32c, header_length, parse_proxy_header

TCP4 = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.2") + struct.pack("!HH", 5000, 443)
TCP6 = socket.inet_pton(socket.AF_INET6, "2001:db8::1") + socket.inet_pton(socket.AF_INET6, "2001:db8::2") + struct.pack("!HH", 5000, 443)
MAPPED = socket.inet_pton(socket.AF_INET6, "::ffff:192.0.2.1") * 2 + struct.pack("!HH", 1, 2)


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def v2(body: bytes, *, family: int = 0x11, command: int = 0x21) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


def with_checksum(body: bytes) -> bytes:
    """A header whose last TLV is its right checksum."""
    zeroed = v2(body + tlv(3, bytes(4)))
    return zeroed[:-4] + struct.pack("!I", crc32c(zeroed))


def tls(flags: int, verify: int, *parts: bytes) -> bytes:
    return tlv(0x20, struct.pack("!BI", flags, verify) + b"".join(parts))


GOOD = {
    b"PROXY TCP4 192.0.2.1 198.51.100.2 5000 443\r\n": (("192.0.2.1", 5000), ("198.51.100.2", 443)),
    b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n": (("255.255.255.255", 65535), ("255.255.255.255", 65535)),
    b"PROXY TCP6 2001:db8::1 2001:DB8::2 5000 443\r\n": (("2001:db8::1", 5000, 0, 0), ("2001:db8::2", 443, 0, 0)),
    b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n": (("192.0.2.1", 1), ("::1", 2, 0, 0)),
    b"PROXY UNKNOWN\r\n": (None, None),
    b"PROXY UNKNOWN ffff::1 whatever 1 2\r\n": (None, None),
    b"PROXY TCP6 " + b"ffff:" * 7 + b"ffff " + b"ffff:" * 7 + b"ffff 65535 65535\r\n": (("ffff:" * 7 + "ffff", 65535, 0, 0),) * 2,
    v2(TCP4): (("192.0.2.1", 5000), ("198.51.100.2", 443)),
    v2(TCP6, family=0x21): (("2001:db8::1", 5000, 0, 0), ("2001:db8::2", 443, 0, 0)),
    v2(MAPPED, family=0x21): (("192.0.2.1", 1), ("192.0.2.1", 2)),
    v2(b"/run/a\n\xff".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0"), family=0x31): ("/run/a\\x0a\\xff", "/run/b"),
    v2(bytes(216), family=0x31): ("", ""),
    v2(b"", family=0): (None, None),
    v2(tlv(0xEE, b"x"), family=0): (None, None),
    v2(b"anything at all", family=0x99, command=0x20): (None, None),  # LOCAL
    v2(TCP4 + tlv(0xEE, b"custom") + tlv(4, bytes(50)) + tlv(4, b"")): (("192.0.2.1", 5000), ("198.51.100.2", 443)),
    with_checksum(TCP4 + tlv(2, b"a.example")): (("192.0.2.1", 5000), ("198.51.100.2", 443)),
}

BAD = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"PROXY \r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 5000 443\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 5000 443 \r\n",
    b"PROXY TCP4  192.0.2.1 198.51.100.2 5000 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 05000 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 5000 65536\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 5000\r\n",
    b"PROXY TCP4 192.0.2 198.51.100.2 5000 443\r\n",
    b"PROXY TCP4 2001:db8::1 198.51.100.2 5000 443\r\n",
    b"PROXY TCP6 192.0.2.1 192.0.2.2 5000 443\r\n",
    b"PROXY TCP6 fe80::1%lo ::1 5000 443\r\n",
    b"PROXY UDP4 192.0.2.1 198.51.100.2 5000 443\r\n",
    b"PROXY UNKNOWNS\r\n",
    b"PROXY UNKNOWN " + b"x" * 100,
    b"PROXY TCP4 " + b"1" * 200,
    b"proxy TCP4 192.0.2.1 198.51.100.2 5000 443\r\n",
    v2(TCP4[:-1]),
    v2(TCP4, family=0x12),
    v2(TCP4, family=0x41),
    v2(TCP4, command=0x22),
    v2(TCP4, command=0x11),
    v2(TCP4 + b"\x01\x00"),
    v2(TCP4 + b"\x01\x00\x05abc"),
    v2(TCP4 + tlv(2, b"a") + tlv(2, b"b")),
    v2(TCP4 + tlv(3, b"abcd")),
    v2(TCP4 + tlv(3, b"abc")),
    v2(TCP4 + tlv(5, bytes(129))),
    v2(TCP4 + tlv(0x20, b"\x01\0\0\0")),
    v2(TCP4 + tls(1, 0, b"\x21\x00\x09abc")),
    SIGNATURE + struct.pack("!BBH", 0x21, 0x11, LONGEST),
    SIGNATURE + struct.pack("!BBH", 0x21, 0x11, 65535),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\r\n\r\n\0\r\nQUIT\r",
]


def read(data: bytes, version: int | None = None) -> ProxyHeader | None:
    length = header_length(data, version)
    return None if length is None or length > len(data) else parse_proxy_header(data[:length])


@pytest.mark.parametrize("data", GOOD, ids=lambda data: repr(data[:40]))
def test_a_header_says_who_the_client_is(data: bytes) -> None:
    header = read(data + b"GET / HTTP/1.1")
    assert header is not None and (header.client, header.server) == GOOD[data]
    assert header.version == (2 if data.startswith(SIGNATURE) else 1) and header_length(data) == len(data)


@pytest.mark.parametrize("data", GOOD, ids=lambda data: repr(data[:40]))
def test_its_length_is_known_as_early_as_can_be_and_never_changes(data: bytes) -> None:
    known = 16 if data.startswith(SIGNATURE) else len(data)
    behind = data + b"\n\r\nPROXY " + data
    for n in range(len(behind)):
        assert header_length(behind[:n]) == (len(data) if n >= known else None)


@pytest.mark.parametrize("data", BAD, ids=lambda data: repr(data[:40]))
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedProxyHeader):
        read(data)


def test_the_other_version_is_refused_with_its_first_byte() -> None:
    one, two = next(iter(GOOD)), v2(TCP4)
    assert read(one, 1) and read(two, 2)
    for data, version in ((one, 2), (two, 1)):
        with pytest.raises(MalformedProxyHeader):
            header_length(data[:1], version)


def test_the_checksum_is_crc32c() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of the polynomial's catalogue entry
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720 appendix B.4
    right = with_checksum(TCP4)
    for at in range(12, len(right)):
        broken = right[:at] + bytes([right[at] ^ 1]) + right[at + 1 :]
        try:
            header = read(broken)
        except MalformedProxyHeader:
            continue
        # LOCAL skips what follows, another length is not whole, and another type is no checksum.
        assert header is None or header.client is None or (at == len(right) - 7 and header.tlv(2))


def test_what_the_tlvs_say() -> None:
    shown = tls(0x07, 0, tlv(0x21, b"TLSv1.3"), tlv(0x22, b"Jane\nDoe"), tlv(0x23, b"TLS_AES_128_GCM_SHA256"))
    header = read(v2(TCP4 + tlv(1, b"h2") + tlv(2, b"shop.example") + tlv(5, b"id\x00\\") + shown))
    assert header is not None
    assert (header.alpn, header.authority, header.unique_id) == ("h2", "shop.example", "id\\x00\\x5c")
    agreed = header.tls
    assert agreed is not None
    assert (agreed.version, agreed.cipher, agreed.common_name) == ("TLSv1.3", "TLS_AES_128_GCM_SHA256", "Jane\\x0aDoe")
    assert agreed.has_certificate and agreed.verified


@pytest.mark.parametrize(
    ("flags", "verify", "has_certificate", "verified"),
    [(1, 0, False, False), (3, 0, True, True), (5, 0, True, True), (3, 18, True, False), (7, 1 << 31, True, False)],
)
def test_a_certificate_is_verified_only_if_there_is_one_and_no_error(flags: int, verify: int, has_certificate: bool, verified: bool) -> None:
    header = read(v2(TCP4 + tls(flags, verify, tlv(0x22, b"Jane"))))
    assert header is not None and header.tls is not None
    assert (header.tls.has_certificate, header.tls.verified) == (has_certificate, verified)
    assert (header.tls.common_name == "Jane") is has_certificate


def test_without_the_flag_there_is_no_tls() -> None:
    header = read(v2(TCP4 + tls(0, 0)))
    assert header is not None and header.tls is None


@given(st.sampled_from([*GOOD, *BAD]), st.binary(max_size=8), st.integers(0, 300))
def test_no_bytes_raise_another_error(data: bytes, more: bytes, at: int) -> None:
    try:
        header = read(data[:at] + more + data[at + len(more) :])
    except MalformedProxyHeader:
        return
    if header is not None:
        _ = header.alpn, header.authority, header.unique_id, header.tls
        assert all(text.isascii() and text.isprintable() for text in (header.client, header.server) if isinstance(text, str))
