"""Content codings off: whole, cut anywhere, in layers, broken, cut short, and grown out of all proportion."""

import gzip
import itertools
import tracemalloc
import zlib
from collections.abc import Callable, Iterator

import brotli
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from muxwsgi.http import content_coding
from muxwsgi.http.content_coding import DecodeLimits, Undecodable, decodable, decoded


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


ENCODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("X-GZip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "br": ("br", lambda data: bytes(brotli.compress(data, quality=4))),
    "zstd": ("zstd", zstd.compress),
}

LIMITS = DecodeLimits()

codings = pytest.mark.parametrize("name", ENCODERS)


def decode_all(pieces: list[bytes], coding: str, limits: DecodeLimits = LIMITS) -> bytes:
    steps = decoded(pieces, coding, limits)
    assert steps is not None
    return b"".join(steps)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(at % (len(data) + 1) for at in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def test_all_that_browsers_ask_for_can_be_decoded() -> None:
    assert decodable() >= {"gzip", "deflate", "br", "zstd"}


@codings
@given(data=st.binary(max_size=3000), repeat=st.integers(1, 60), cuts=st.lists(st.integers(0, 10_000), max_size=6))
def test_any_body_comes_out_however_it_was_cut(name: str, data: bytes, repeat: int, cuts: list[int]) -> None:
    coding, encode = ENCODERS[name]
    assert decode_all(cut(encode(data * repeat), cuts), coding) == data * repeat


@codings
def test_any_body_comes_out_byte_by_byte(name: str) -> None:
    coding, encode = ENCODERS[name]
    data = b"hello, hello, hello" * 50
    assert decode_all([bytes([byte]) for byte in encode(data)], coding) == data


@codings
def test_the_end_of_a_body_that_comes_out_all_at_once_is_not_forgotten(name: str) -> None:
    """Sizes around a step: what is still inside the decoder when its input is used up."""
    coding, encode = ENCODERS[name]
    for size in (content_coding.STEP - 1, content_coding.STEP, content_coding.STEP + 1, 2 * content_coding.STEP, 5 * content_coding.STEP + 3):
        assert decode_all([encode(b"x" * size)], coding) == b"x" * size


@codings
def test_a_body_that_breaks_off_is_a_fault(name: str) -> None:
    coding, encode = ENCODERS[name]
    data = encode(bytes(range(256)) * 40)
    for size in (1, 2, len(data) // 2, len(data) - 1):
        with pytest.raises(Undecodable, match="in the middle"):
            decode_all([data[:size]], coding)


@codings
def test_a_body_that_is_something_else_is_a_fault(name: str) -> None:
    coding, _ = ENCODERS[name]
    with pytest.raises(Undecodable, match="the body"):
        decode_all([b"\xff<html>this is no such thing</html>" * 10], coding)


@codings
def test_no_body_at_all_is_one(name: str) -> None:
    coding, _ = ENCODERS[name]
    assert decode_all([], coding) == decode_all([b"", b""], coding) == b""


@codings
def test_a_bomb_is_defused_in_constant_memory(name: str) -> None:
    coding, encode = ENCODERS[name]
    bomb = encode(bytes(64 << 20))
    limits = DecodeLimits(size=32 << 20, ratio=1 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(Undecodable, match="too much"):
            size = 0
            for piece in decoded([bomb], coding, limits) or ():
                size += len(piece)
                assert len(piece) <= 2 * content_coding.STEP
        assert 31 << 20 < size <= 32 << 20
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_bomb_is_known_by_its_ratio_and_a_page_of_blanks_is_none() -> None:
    blanks = gzip.compress(b" " * (1 << 20))
    assert len(decode_all([blanks], "gzip")) == 1 << 20
    with pytest.raises(Undecodable, match="too much"):
        decode_all([blanks], "gzip", DecodeLimits(ratio_from=1 << 19))


def test_the_ratio_is_that_of_all_layers_together() -> None:
    bomb = gzip.compress(gzip.compress(bytes(64 << 20)))
    with pytest.raises(Undecodable, match="too much"):
        decode_all([bomb], "gzip, gzip")


def test_layers_come_off_in_the_order_in_which_they_went_on() -> None:
    assert decode_all([brotli.compress(gzip.compress(b"hello"))], " GZIP ,, br") == b"hello"
    with pytest.raises(Undecodable, match="encoded 4 times"):
        decoded([], "gzip, gzip, gzip, gzip")


def test_gzip_of_several_members_is_one_body_and_padding_is_none() -> None:
    members = gzip.compress(b"one ") + gzip.compress(b"") + gzip.compress(b"two")
    for pieces in ([members], [bytes([byte]) for byte in members], [members + bytes(100)], [members, b"\0", b"\0\0"]):
        assert decode_all(pieces, "gzip") == b"one two"
    with pytest.raises(Undecodable, match="in the middle"):
        decode_all([gzip.compress(b"one") + gzip.compress(b"two")[:-1]], "gzip")


def test_zstd_of_several_frames_is_one_body() -> None:
    frames = zstd.compress(b"one ") + zstd.compress(b"two")
    for pieces in ([frames], [bytes([byte]) for byte in frames]):
        assert decode_all(pieces, "zstd") == b"one two"


def test_a_zstd_window_that_no_server_may_use_is_refused() -> None:
    data = zstd.compress(bytes(range(256)) * 4096 * 100, options={zstd.CompressionParameter.window_log: 26})
    with pytest.raises(Undecodable, match="zstd"):
        decode_all([data], "zstd")


def test_what_comes_is_decoded_before_more_comes() -> None:
    stream = zlib.compressobj(wbits=31)
    asked = []

    def events() -> Iterator[bytes]:
        for event in (b"data: 1\n\n", b"data: 2\n\n"):
            asked.append(event)
            yield stream.compress(event) + stream.flush(zlib.Z_SYNC_FLUSH)
        yield stream.flush()

    steps = decoded(events(), "gzip")
    assert steps is not None
    assert next(steps) == b"data: 1\n\n"
    assert asked == [b"data: 1\n\n"]


def test_a_coding_that_nobody_knows_is_left_alone_as_clients_do() -> None:
    assert decoded([b"x"], "utf-8") is None
    assert decoded([b"x"], "identity") is None
    assert decoded([b"x"], "") is None


@pytest.mark.parametrize("coding", ["compress", "dcb", "gzip, dcz"])
def test_a_coding_that_clients_may_know_and_we_do_not_is_a_fault_at_once(coding: str) -> None:
    with pytest.raises(Undecodable, match="cannot be decoded here"):
        decoded([b"x"], coding)


def test_what_the_upstream_or_a_rule_raises_passes_untouched() -> None:
    def broken() -> Iterator[bytes]:
        yield gzip.compress(b"hello")[:8]
        raise TimeoutError("it took too long")

    with pytest.raises(TimeoutError, match="too long"):
        decode_all(broken(), "gzip")


def test_a_brotli_that_cannot_stop_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        class Decompressor:
            def process(self, data: bytes) -> bytes:
                return data

    monkeypatch.setattr(content_coding.importlib, "import_module", lambda name: Old)
    assert content_coding.brotli_module() is None
