"""What is neither HTTP nor TLS by the book, and is taken for it by servers that are in use.

A client that wants to get past the rules would write it: relayed as an unknown protocol, its server would answer it all the same. So these
bytes are not relayed from a tunnel that is looked into. `nearly_http` and `nearly_tls` are matchers as those in `muxwsgi.mux.matchers`, and
keep the same laws. `FirstLine` goes on looking while a stream is relayed: for what a matcher would have to hold back binary protocols for.
"""

import re

from muxwsgi.mux.match import Match
from muxwsgi.mux.matchers import METHODS, http1_line

__all__ = ["FirstLine", "nearly_http", "nearly_tls"]

_WHITE = b"\r\n\t "
#: Blanks and line breaks in front, at most: nobody sends more by accident.
_WHITE_AT_MOST = 256

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_METHODS = frozenset(METHODS)
_SCHEMES = (b"http://", b"https://")
_VERSION = re.compile(rb"[\t ]HTTP/[0-9]")

#: What separates words for some server: Python's `str.split`, which `http.server` uses, takes all of these.
_BLANK = rb"\x00\t\x0b\x0c\r\x1c-\x20\x85\xa0"
_BLANKS_IN_FRONT = re.compile(rb"[%b\n]*" % _BLANK)
_GET = re.compile(rb"GET[%b]" % _BLANK)
_ANY_VERSION = re.compile(rb"[%b]HTTP/[0-9]" % _BLANK, re.IGNORECASE)  # Apache takes small letters when told to be lenient
_KEPT = len(b" HTTP/1") - 1


def nearly_http(data: bytes) -> Match:
    """A request line behind any number of line breaks and blanks, or with more than one blank between method and target (nginx takes
    both), or without a version (HTTP/0.9, in which only GET exists); and all that `http1_line` says YES to."""
    line = data.lstrip(_WHITE)
    if not line:
        return Match.YES if len(data) > _WHITE_AT_MOST else Match.MORE
    method = _TOKEN.match(line)
    if method is None:
        return Match.NO
    rest = line[method.end() :]
    if not rest:
        return http1_line(data)
    target = rest.lstrip(b"\t ")
    if target == rest:
        return Match.NO
    if method[0] == b"GET":
        return Match.YES
    start = target[:8].lower()
    if (start[:1] == b"/" or start.startswith(_SCHEMES)) and (method[0] in _METHODS or _VERSION.search(target.partition(b"\n")[0])):
        return Match.YES
    return http1_line(data)


class FirstLine:
    """Whether the first line that is not empty could be a request line to some server, asked piece by piece of any stream.

    It may begin with control characters, have them between its words, and be of any length.
    """

    __slots__ = ("_begun", "_over", "_tail")

    def __init__(self) -> None:
        self._begun = b""  # the first bytes of the line
        self._tail = b""  # its last ones
        self._over = False

    def is_request(self, data: bytes) -> bool:
        """Whether it is one, now that `data` has come."""
        if self._over:
            return False
        if not self._begun:
            white = _BLANKS_IN_FRONT.match(data)
            at = white.end() if white else 0
            self._tail = (self._tail + data[:at])[-1:]  # the blank in front of a line that is a version alone
            data = data[at:]
            if not data:
                return False
        line, end, _ = data.partition(b"\n")
        line = self._tail + line
        if len(self._begun) < 4:
            self._begun += data[: 4 - len(self._begun)]
        self._over = bool(end)
        self._tail = line[-_KEPT:]
        return bool(_GET.match(self._begun) or _ANY_VERSION.search(line))


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
