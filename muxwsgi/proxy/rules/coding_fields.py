"""The fields Content-Encoding and Accept-Encoding, for rules (RFC 9110 sections 8.4 and 12.5.3)."""

import re

from werkzeug.datastructures import Headers

from muxwsgi.http.content_coding import decodable

__all__ = ["coding_of", "limit_accept_encoding"]

_CODING = re.compile(r"\s*([^\s;,]+)\s*(?:;\s*(.*))?")


def coding_of(headers: Headers) -> str | None:
    """The value of Content-Encoding, None without it. A repeated field is one list (RFC 9110 section 5.3)."""
    values = headers.getlist("Content-Encoding")
    return ", ".join(values) if values else None


def limit_accept_encoding(headers: Headers) -> None:
    """Remove from a request's Accept-Encoding (RFC 9110 section 12.5.3) the codings that the proxy cannot decode.

    A missing field is not added. With Range it becomes "identity", because a part of an encoded body cannot be decoded.
    """
    values = headers.getlist("Accept-Encoding")
    if "Range" in headers:
        headers["Accept-Encoding"] = "identity"
    elif values:
        kept = []
        known = {*decodable(), "identity"}
        for item in ",".join(values).split(","):
            match = _CODING.fullmatch(item)
            if match is not None and match[1].lower() in known:
                kept.append(item.strip())
        headers["Accept-Encoding"] = ", ".join(kept) or "identity"
