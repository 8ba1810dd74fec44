"""Decodes the content coding of a body (RFC 9110 section 8.4), for filters and HAR.

The flow log keeps the coded bytes.
"""

from muxwsgi.http.content_coding import Undecodable, decoded
from muxwsgi.records.flow import Captured, Head

__all__ = ["CONTENT_LIMIT", "content_of"]

#: Bytes of content that are decoded at most, because a few bytes of gzip can become many.
CONTENT_LIMIT = 4 << 20


def content_of(captured: Captured, head: Head | None) -> tuple[bytes | bytearray, bool]:
    """The content, and whether that is all of it. A body that cannot be decoded is returned as it is."""
    as_it_came = captured.data, not captured.truncated
    coding = ",".join(value for name, value in head.fields if name.lower() == "content-encoding") if head is not None else ""
    if not coding or not captured.data:
        return as_it_came
    content = bytearray()
    try:
        pieces = decoded([bytes(captured.data)], coding)
        if pieces is None:
            return as_it_came
        for piece in pieces:
            content += piece
            if len(content) > CONTENT_LIMIT:
                return content[:CONTENT_LIMIT], False
    except Undecodable:  # faulty, or cut at the capture limit
        return (content, False) if content else as_it_came
    return content, not captured.truncated
