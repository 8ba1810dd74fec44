"""Accept-Encoding: which codings a client takes, and which it likes best."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxwsgi.http.accept_encoding import accepted_codings


@pytest.mark.parametrize(
    ("accept", "best"),
    [
        ("gzip", "gzip"),
        ("gzip, deflate, br, zstd", "br"),
        ("GZIP;Q=0.5 , br ; q=0.1", "gzip"),
        ("x-gzip", "gzip"),
        ("*", "br"),
        ("*;q=0.5, br;q=0", "zstd"),
        ("gzip;q=0, *", "br"),
        ("br;q=0.5, gzip;q=0.5", "br"),
        ("gzip;q=1.000", "gzip"),
        ("gzip;q=1.001", None),
        ("gzip;q=", None),
        ("gzip;q=-1", None),
        ("gzip;q=nan", None),
        ("gzip;q=0.0000001", None),
        ("identity;q=0", None),
        ("identity, gzip", "gzip"),
        ("identity;q=0.9, gzip;q=0.8", None),
        (",,;;q=1,", None),
        ("br;level=5;q=0.2, zstd;q=0.3", "zstd"),
        ("", None),
        ("gzip;q=1e0", None),
        ("gzip;q=inf", None),
        ("gzip;level=1;q=0", None),
    ],
)
def test_the_coding_that_the_client_likes_best(accept: str, best: str | None) -> None:
    assert accepted_codings(accept, ("br", "zstd", "gzip"))[:1] == (() if best is None else (best,))


@given(st.text(alphabet="gzipbr*;=q.,01 identy", max_size=40))
def test_no_accept_encoding_is_an_error(accept: str) -> None:
    assert accepted_codings(accept, ("br", "gzip")) in ((), ("br",), ("gzip",), ("br", "gzip"), ("gzip", "br"))


def test_the_others_follow_in_the_order_in_which_the_client_likes_them() -> None:
    codings = ("br", "zstd", "gzip")
    assert accepted_codings("gzip;q=0.2, br;q=0.1, zstd;q=0.9", codings) == ("zstd", "gzip", "br")
    assert accepted_codings("*;q=0.5, gzip", codings) == ("gzip", "br", "zstd")
    assert accepted_codings("identity;q=0.5, br;q=0.4, gzip;q=0.6", codings) == ("gzip",)
