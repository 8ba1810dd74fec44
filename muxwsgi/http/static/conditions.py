"""Conditional requests and ranges (RFC 9110 sections 13 and 14), as pure functions of a WSGI environ. No I/O."""

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from functools import lru_cache

from muxwsgi.http.date import http_date

__all__ = ["RANGES_AT_MOST", "Validators", "precondition", "wanted_ranges"]

#: Ranges of one request. A request with more gets the whole file: many ranges are used to make a server work (RFC 9110 section 14.2).
RANGES_AT_MOST = 16

_ENTITY_TAG = re.compile(r'\s*((?:W/)?"[\x21\x23-\x7e\x80-\xff]*")\s*(?:,|$)')
_RANGE = re.compile(r"[ \t]*([0-9]{0,20})[ \t]*-[ \t]*([0-9]{0,20})[ \t]*")


_http_date = lru_cache(maxsize=1024)(http_date)


class Validators:
    """What a file is compared by: a strong entity tag, and the second of its last change.

    tag             value of the field ETag
    modified        seconds since the epoch
    last_modified   value of the field Last-Modified
    """

    __slots__ = ("last_modified", "modified", "tag")

    def __init__(self, tag: str, modified: int) -> None:
        self.tag = tag
        self.modified = modified
        self.last_modified = _http_date(modified)


def precondition(environ: Mapping[str, str], now: Validators) -> int | None:
    """The status that ends the request: 304 or 412; None if it goes on. For GET and HEAD (RFC 9110 section 13.2.2)."""
    match = environ.get("HTTP_IF_MATCH")
    if match is not None:
        if not _contains(match, now.tag, weak=False):
            return 412
    else:
        unmodified_since = _date(environ.get("HTTP_IF_UNMODIFIED_SINCE"))
        if unmodified_since is not None and now.modified > unmodified_since:
            return 412
    none_match = environ.get("HTTP_IF_NONE_MATCH")
    if none_match is not None:
        return 304 if _contains(none_match, now.tag, weak=True) else None
    modified_since = environ.get("HTTP_IF_MODIFIED_SINCE")
    if modified_since is not None:
        if modified_since == now.last_modified:  # what most clients send
            return 304
        since = _date(modified_since)
        if since is not None and now.modified <= since:
            return 304
    return None


def wanted_ranges(environ: Mapping[str, str], now: Validators, size: int) -> list[tuple[int, int]] | None:
    """The ranges that the client wants of `size` bytes, each as the first byte and the number of bytes, in the client's order. None for the
    whole: without Range, with one that is malformed, in another unit or has too many parts, or if If-Range says so. An empty list if no
    range can be satisfied: 416 (RFC 9110 section 14.2)."""
    value = environ.get("HTTP_RANGE")
    if value is None or environ.get("REQUEST_METHOD") != "GET":
        return None
    unit, equals, spec = value.partition("=")
    if not equals or unit.strip().lower() != "bytes":
        return None
    condition = environ.get("HTTP_IF_RANGE")
    if condition is not None and condition not in (now.tag, now.last_modified):
        return None
    parts = spec.split(",")
    if len(parts) > RANGES_AT_MOST:
        return None
    ranges = []
    for part in parts:
        if not part.strip():
            continue  # an empty element of a list (RFC 9110 section 5.6.1)
        found = _RANGE.fullmatch(part)
        if found is None or found.group() == "" or found[1] == found[2] == "":
            return None
        if found[1] == "":  # the last bytes
            count = min(int(found[2]), size)
            first = size - count
        else:
            first = int(found[1])
            last = int(found[2]) if found[2] else size - 1
            if found[2] and last < first:
                return None
            count = min(last, size - 1) - first + 1
        if count > 0:
            ranges.append((first, count))
    if not any(part.strip() for part in parts):
        return None
    # Parts that are more than the whole, together, are only wanted by those who want to make a server work.
    return ranges if sum(count for _, count in ranges) <= size else None


def _contains(value: str, tag: str, *, weak: bool) -> bool:
    """Whether a list of entity tags has `tag`, which is strong. `weak`: by weak comparison (RFC 9110 section 8.8.3.2)."""
    if value == tag or value.strip() == "*":
        return True
    at = 0
    while found := _ENTITY_TAG.match(value, at):
        if found[1] == tag or (weak and found[1] == f"W/{tag}"):
            return True
        if found.end() == at:
            break
        at = found.end()
    return False


def _date(value: str | None) -> float | None:
    """Seconds since the epoch; None without a date, or with one that is malformed, which is ignored."""
    if value is None:
        return None
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
