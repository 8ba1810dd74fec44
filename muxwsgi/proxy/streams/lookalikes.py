"""Matchers for what is neither HTTP nor TLS by the book, and is taken for it by servers that are in use.

A client that wants to get past the rules would write it: relayed as an unknown protocol, its server would answer it all the same. So these
bytes are not relayed from a tunnel that is looked into. They are matchers as those in `muxwsgi.mux.matchers`, and keep the same laws.
"""

import re

from muxwsgi.mux.match import Match
from muxwsgi.mux.matchers import METHODS

__all__ = ["nearly_http", "nearly_tls"]

#: Longer request lines are answered with 414 by most servers, and by ours.
_LINE = 8000

_WHITE = b"\r\n\t "
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}")
_METHODS = frozenset(METHODS)
_SCHEMES = (b"http://", b"https://")
_VERSION = re.compile(rb"[\t ]HTTP/")


def nearly_http(data: bytes) -> Match:
    """A request line behind any number of line breaks and blanks, or with more than one blank between method and target, or longer than
    ours may be. nginx takes the first two, others the third."""
    line = data.lstrip(_WHITE)
    if not line:
        return Match.MORE
    method = _TOKEN.match(line)
    if method is None:
        return Match.NO
    rest = line[method.end() :]
    if not rest:
        return Match.MORE
    target = rest.lstrip(b"\t ")
    if target == rest:
        return Match.NO
    if not target:
        return Match.MORE
    connects = method[0] == b"CONNECT"
    if not connects and target[:1] != b"/":
        start = target[:8].lower()
        if not start.startswith(_SCHEMES):
            return Match.MORE if any(scheme.startswith(start) for scheme in _SCHEMES) else Match.NO
    if method[0] in _METHODS:
        return Match.YES
    first, ended, _ = target.partition(b"\n")
    if _VERSION.search(first):
        return Match.YES
    if ended:
        return Match.NO
    return Match.YES if len(first) > _LINE else Match.MORE


def nearly_tls(data: bytes) -> Match:
    """A handshake record that does not begin a ClientHello as ours has to: OpenSSL skips empty ones, and lets any minor version pass. And
    the ClientHello of SSL 2, in which offers of TLS 1.2 may come (RFC 5246 appendix E.2)."""
    if data[:1] == b"\x16":
        if data[1:2] not in (b"", b"\x03"):
            return Match.NO
        if len(data) >= 5 and data[3:5] == b"\0\0":
            return Match.YES
        return Match.MORE if len(data) < 6 else Match.YES if data[5] == 1 else Match.NO
    if data[:1] < b"\x80":
        return Match.NO if data else Match.MORE
    # Two bytes of length, its highest bit set; 1 for a ClientHello; the version.
    hello = data[2:5]
    if not b"\x01\x03".startswith(hello[:2]):
        return Match.NO
    return (Match.YES if hello[2:] <= b"\x04" else Match.NO) if len(hello) == 3 else Match.MORE
