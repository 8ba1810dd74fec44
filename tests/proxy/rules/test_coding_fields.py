"""What an upstream is asked for where rules may read its response."""

import pytest
from werkzeug.datastructures import Headers

from muxwsgi.proxy.rules.coding_fields import limit_accept_encoding


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["gzip, deflate, br, zstd"], "gzip, deflate, br, zstd"),
        (["gzip;q=0.5, dcb, BR;q=1.0,*;q=0"], "gzip;q=0.5, BR;q=1.0"),
        (["dcb", "identity;q=0.1"], "identity;q=0.1"),
        (["dcz"], "identity"),
        ([""], "identity"),
    ],
)
def test_an_upstream_is_asked_for_what_can_be_decoded_only(before: list[str], after: str) -> None:
    headers = Headers([("Accept-Encoding", value) for value in before])
    limit_accept_encoding(headers)
    assert headers.getlist("Accept-Encoding") == [after]


def test_nothing_is_asked_for_where_the_client_did_not_ask() -> None:
    headers = Headers()
    limit_accept_encoding(headers)
    assert list(headers) == []


def test_a_range_is_asked_for_without_coding() -> None:
    headers = Headers([("Range", "bytes=5-"), ("Accept-Encoding", "gzip")])
    limit_accept_encoding(headers)
    assert headers["Accept-Encoding"] == "identity"
