"""The ClientHello parser, with what OpenSSL sends."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muxwsgi import Match
from muxwsgi.protocols.tls import MAX_HELLO_RECORDS, ClientHello, parse_client_hello

from .first_bytes import client_hello, first_bytes, in_records


def parsed(data: bytes) -> ClientHello:
    hello = parse_client_hello(data)
    assert isinstance(hello, ClientHello)
    return hello


def vector(size: int, *fields: bytes) -> bytes:
    body = b"".join(fields)
    return len(body).to_bytes(size, "big") + body


def extension(kind: int, *fields: bytes) -> bytes:
    return kind.to_bytes(2, "big") + vector(2, *fields)


def hello_with(*extensions: bytes, session: bytes = b"", ciphers: bytes = b"\x13\x01") -> bytes:
    body = b"\x03\x03" + bytes(32) + vector(1, session) + vector(2, ciphers) + b"\x01\x00"
    if extensions:
        body += vector(2, *extensions)
    message = b"\x01" + vector(3, body)
    return b"\x16\x03\x01" + vector(2, message)


def server_name(name: bytes) -> bytes:
    return extension(0, vector(2, b"\0" + vector(2, name)))


def test_openssl_says_its_name_protocols_and_versions() -> None:
    hello = parsed(client_hello(b"WWW.Example.COM", (b"h2", b"http/1.1")))
    assert hello.sni == "www.example.com"
    assert hello.alpn == ("h2", "http/1.1")
    assert hello.versions[0] == 0x0304
    assert hello.legacy_version == 0x0303
    assert 0x1301 in hello.ciphers
    assert {0, 16, 43} <= set(hello.extensions)
    assert 29 in hello.groups  # x25519
    assert 0x0804 in hello.signature_algorithms  # rsa_pss_rsae_sha256


def test_what_a_client_does_not_say_is_none_or_empty() -> None:
    hello = parsed(client_hello(None, ()))
    assert hello.sni is None
    assert hello.alpn == ()


def test_a_client_without_extensions_has_its_one_legacy_version() -> None:
    assert parsed(hello_with()).versions == (0x0303,)
    assert parsed(hello_with()).extensions == ()


@given(st.integers(30, 2000), st.binary(max_size=10))
@settings(max_examples=60, deadline=None)
def test_the_cut_into_records_and_what_follows_change_nothing(size: int, rest: bytes) -> None:
    hello = client_hello()
    if len(hello) / size < MAX_HELLO_RECORDS:
        assert parse_client_hello(in_records(hello, size) + rest) == parse_client_hello(hello)


def test_every_beginning_of_a_client_hello_wants_more() -> None:
    for hello in (client_hello(), in_records(client_hello(), 40)):
        assert all(parse_client_hello(hello[:n]) is Match.MORE for n in range(len(hello)))


def test_a_client_hello_larger_than_a_record_is_read_through_several() -> None:
    padding = extension(21, bytes(20000))
    body = (
        b"\x03\x03"
        + bytes(32)
        + b"\0"
        + vector(2, b"\x13\x01")
        + b"\x01\x00"
        + vector(2, server_name(b"a.b"), padding)
    )
    message = b"\x01" + vector(3, body)
    records = b"".join(
        b"\x16\x03\x01" + vector(2, message[at : at + 16384]) for at in range(0, len(message), 16384)
    )
    assert parsed(records).sni == "a.b"
    assert parse_client_hello(records[:-1]) is Match.MORE


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\0\0",  # an empty record
        b"\x16\x03\x01\x40\x01",  # a record longer than may be
        b"\x16\x03\x01\0\x04\x02\0\0\0",  # a ServerHello
        b"\x16\x03\x01\0\x04\x01\x01\0\0",  # more than 64 KiB announced
        b"\x16\x03\x01\0\x01\x01" * (MAX_HELLO_RECORDS + 1),  # a drip of records
        hello_with(session=bytes(33)),
        hello_with(ciphers=b""),
        hello_with(ciphers=b"\x13"),
        hello_with(server_name(b"a"), server_name(b"b")),
        hello_with(server_name(b"")),
        hello_with(server_name(b"a\0b")),
        hello_with(server_name("ä.example".encode())),
        hello_with(extension(0)),
        hello_with(extension(16, vector(2, b"\0"))),
        hello_with(extension(16, vector(2, vector(1, b"h2")), b"x")),
        hello_with(extension(43, vector(1, b"\x03"))),
        hello_with(extension(10, b"\xff\xff")),
    ],
)
def test_what_is_no_well_formed_client_hello_is_no(data: bytes) -> None:
    assert parse_client_hello(data) is Match.NO


def test_a_name_with_a_final_dot_is_the_name() -> None:
    assert parsed(hello_with(server_name(b"a.b."))).sni == "a.b"


@given(first_bytes)
@settings(max_examples=300, deadline=None)
def test_nothing_makes_the_parser_raise_and_nothing_changes_its_mind(data: bytes) -> None:
    whole = parse_client_hello(data)
    for n in range(0, len(data), 7):
        earlier = parse_client_hello(data[:n])
        assert earlier is Match.MORE or earlier == whole


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_client_hello_never_raises(data: st.DataObject) -> None:
    hello = bytearray(client_hello())
    for _ in range(data.draw(st.integers(1, 4))):
        hello[data.draw(st.integers(0, len(hello) - 1))] = data.draw(st.integers(0, 255))
    assert isinstance(parse_client_hello(bytes(hello)), ClientHello | Match)
