"""HPACK against the `hpack` package, and against the rules of RFC 7541."""

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muxwsgi.http.h2 import huffman
from muxwsgi.http.h2.decoder import Decoder
from muxwsgi.http.h2.encoder import Encoder
from muxwsgi.http.h2.errors import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ConnectionFault

NAMES = st.sampled_from([b":method", b":path", b"accept", b"cookie", b"x-a", b"x-b", b"user-agent", b"set-cookie", b"content-length", b"etag"])
VALUES = st.one_of(st.sampled_from([b"", b"GET", b"/", b"gzip, deflate", b"1"]), st.binary(max_size=60), st.just(b"v" * 1500))
BLOCKS = st.lists(st.lists(st.tuples(NAMES, VALUES), max_size=8), max_size=12)


def pairs(decoder: Decoder, block: bytes) -> list[tuple[bytes, bytes]]:
    return [(field.name.encode("latin-1"), field.value.encode("latin-1")) for field in decoder.decode(block)]


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_huffman_codes_are_those_of_the_peer(text: bytes) -> None:
    code = huffman.encode(text)
    decoded = hpack.huffman_table.decode_huffman(code)
    assert decoded == text
    padded = b"xy" + code + b"z"
    assert huffman.decode(padded, 2, 2 + len(code)) == text.decode("latin-1")


@settings(deadline=None)
@given(st.binary(max_size=12))
def test_huffman_refuses_what_the_peer_refuses(code: bytes) -> None:
    try:
        expected = hpack.huffman_table.decode_huffman(code).decode("latin-1")
    except hpack.HPACKDecodingError:
        with pytest.raises(ConnectionFault):
            huffman.decode(code, 0, len(code))
    else:
        if huffman.encode(expected.encode("latin-1")) != code:  # the peer takes padding of any length: RFC 7541 section 5.2 does not
            with pytest.raises(ConnectionFault):
                huffman.decode(code, 0, len(code))
        else:
            assert huffman.decode(code, 0, len(code)) == expected


@settings(deadline=None)
@given(BLOCKS, st.data())
def test_the_decoder_reads_what_the_peer_writes(blocks: list[list[tuple[bytes, bytes]]], data: st.DataObject) -> None:
    peer = hpack.Encoder()
    decoder = Decoder(1 << 20)
    for fields in blocks:
        if data.draw(st.integers(0, 4)) == 0:
            peer.header_table_size = data.draw(st.sampled_from([0, 60, 300, 4096]))
        indexed = [hpack.NeverIndexedHeaderTuple(*field) if data.draw(st.booleans()) else hpack.HeaderTuple(*field) for field in fields]
        block = peer.encode(indexed, huffman=data.draw(st.booleans()))
        assert pairs(decoder, block) == fields
        if data.draw(st.booleans()):  # the same fields again: the block is remembered, or not
            assert pairs(decoder, peer.encode(indexed)) == fields


@settings(deadline=None)
@given(BLOCKS, st.data())
def test_the_peer_reads_what_the_encoder_writes(blocks: list[list[tuple[bytes, bytes]]], data: st.DataObject) -> None:
    peer = hpack.Decoder(max_header_list_size=1 << 20)
    encoder = Encoder()
    for fields in [*blocks, *blocks]:
        for _ in range(data.draw(st.sampled_from([0, 0, 0, 1, 2, 3]))):
            size = data.draw(st.sampled_from([0, 60, 300, 4096, 65536]))
            peer.max_allowed_table_size = max(size, peer.max_allowed_table_size)
            encoder.resize(size)
        assert [tuple(each) for each in peer.decode(encoder.encode(fields), raw=True)] == fields


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_the_decoder_refuses_what_the_peer_refuses(block: bytes) -> None:
    try:
        expected = [tuple(each) for each in hpack.Decoder(max_header_list_size=1 << 20).decode(block, raw=True)]
    except hpack.HPACKError:
        expected = None
    try:
        found = pairs(Decoder(1 << 20), block)
    except ConnectionFault as error:
        assert error.code == COMPRESSION_ERROR
        found = None
    if found is not None:
        assert found == expected
    elif expected is not None:  # what only we refuse: integers of more than four octets, and Huffman padding of any length
        assert any(octet & 0x80 for octet in block)


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",  # the index 0 (section 6.1)
        b"\xbe",  # an index beyond the table (section 2.3.3)
        b"\x7e\x00",  # the name of one
        b"\x82\x20",  # a size behind a field (section 4.2)
        b"\x3f\xe2\x1f",  # a size of 4097 (section 6.3)
        b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff",  # padding of more than seven bits (section 5.2)
        b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90",  # padding that is not all ones
        b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\xff\xff\xff\xfd",  # EOS
        b"\xff\xff\xff\xff\xff\xff\x7f",  # an integer that is too large (section 5.1)
        b"\xff\x80\x80\x80\x80\x00",  # one that is longer than it has to be
        b"\x40\x05abc",  # a string that is longer than its block
        b"\x41",  # a string is missing
        b"\xff",  # an integer that is not complete
    ],
)
def test_a_block_that_cannot_be_decoded_is_a_compression_error(block: bytes) -> None:
    with pytest.raises(ConnectionFault) as caught:
        Decoder(65536).decode(block)
    assert caught.value.code == COMPRESSION_ERROR


def test_a_block_that_inserts_is_not_remembered() -> None:
    decoder = Decoder(65536)
    first, second = b"\x40\x01a\x01b", b"\xbf"  # inserts a: b; the entry before the newest
    decoder.decode(first)
    decoder.decode(first)
    assert pairs(decoder, b"\xbe\xbf") == [(b"a", b"b"), (b"a", b"b")]
    decoder.decode(b"\x40\x01c\x01d")
    assert pairs(decoder, second) == [(b"a", b"b")]
    decoder.decode(b"\x40\x01e\x01f")
    assert pairs(decoder, second) == [(b"c", b"d")]


def test_an_entry_that_is_larger_than_the_table_empties_it() -> None:
    decoder = Decoder(65536)
    decoder.decode(b"\x40\x01a\x01b")
    decoder.decode(b"\x40\x01a\x7f\xa1\x1f" + b"x" * 4128)
    with pytest.raises(ConnectionFault):
        decoder.decode(b"\xbe")


def test_a_list_that_is_too_large_is_cut_and_the_table_goes_on() -> None:
    decoder = Decoder(10_000)
    decoder.decode(b"\x40\x01a\x7f\xa1\x0f" + b"x" * 2080)
    assert len(decoder.decode(b"\xbe" * 50)) == 4
    assert decoder.too_large
    decoder.decode(b"\xbe" * 50 + b"\x40\x01c\x01d")
    assert pairs(decoder, b"\xbe") == [(b"c", b"d")]
    assert not decoder.too_large
    decoder.decode(b"\xbf" * 20)
    assert decoder.too_large
    assert pairs(decoder, b"\xbe") == [(b"c", b"d")]  # which is remembered
    assert not decoder.too_large


def test_a_bomb_is_not_decoded_to_its_end() -> None:
    decoder = Decoder(10_000)
    decoder.decode(b"\x40\x01a\x7f\xa1\x0f" + b"x" * 2080)
    for bomb in (b"\xbe" * 1000, b"\x82" * 10_000):
        with pytest.raises(ConnectionFault) as raised:
            decoder.decode(bomb + b"\x80")  # the index 0 is an error of another kind
        assert raised.value.code == ENHANCE_YOUR_CALM


def test_a_field_is_inserted_when_it_is_sent_again_and_cookies_are_never_indexed() -> None:
    encoder = Encoder()
    fields = [(b"x-a", b"1"), (b"set-cookie", b"a=b"), (b"content-length", b"13")]
    first, second, third = (encoder.encode(fields) for _ in range(3))
    assert first[:1] == b"\x00" and second[:1] == b"\x40" and third[:1] == b"\xbe"
    assert encoder.changes == 1
    assert b"\x1f\x28" in third  # literal, never indexed, with the static name set-cookie
    assert encoder.encode(fields) == third


def test_a_smaller_table_and_a_larger_one_behind_it_are_both_announced() -> None:
    encoder = Encoder()
    encoder.encode([(b"x-a", b"1")])
    encoder.encode([(b"x-a", b"1")])
    encoder.resize(0)
    encoder.resize(4096)
    assert encoder.encode([(b":status", b"200")]) == b"\x20\x3f\xe1\x1f\x88"
    assert encoder.encode([(b":status", b"200")]) == b"\x88"


def test_the_examples_of_the_rfc() -> None:
    """RFC 7541 appendix C.4: requests with Huffman coding."""
    decoder = Decoder(65536)
    first = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")]
    assert pairs(decoder, bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff")) == first
    assert pairs(decoder, bytes.fromhex("828684be5886a8eb10649cbf")) == [*first, (b"cache-control", b"no-cache")]
    third = bytes.fromhex("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf")
    expected = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/index.html"), (b":authority", b"www.example.com")]
    assert pairs(decoder, third) == [*expected, (b"custom-key", b"custom-value")]
