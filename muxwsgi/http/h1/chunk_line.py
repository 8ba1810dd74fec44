"""The lines between the chunks of a body, as patterns: they are the grammar of RFC 9112 section 7.1, and nothing more is taken. And the end
of such a body, as it is written."""

import re
from collections.abc import Iterable

from muxwsgi.grammar import QUOTED_STRING, TOKEN

__all__ = ["AT_MOST", "FIRST", "LATER", "PART", "last_chunk"]

#: Bytes of a line, with the CRLF in front of it.
AT_MOST = 8190

# chunk-size *( BWS ";" BWS token [ BWS "=" BWS ( token / quoted-string ) ] ) CRLF (RFC 9112 section 7.1.1)
_TOKEN = TOKEN.encode()
_QUOTED = QUOTED_STRING.encode()
_SIZE = rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?)*\r\n" % (_TOKEN, _TOKEN, _QUOTED)

#: In front of the first chunk, and behind the data of one.
FIRST = re.compile(_SIZE)
LATER = re.compile(rb"\r\n" + _SIZE)

#: What either may begin with: less than a line, and nothing that none can have.
PART = re.compile(rb"(?:\r|(?:\r\n)?(?:[0-9A-Fa-f]{1,15}(?:[ \t]*(?:;[\t -~\x80-\xff]*)?)\r?)?)")


def last_chunk(trailers: Iterable[tuple[str, str]]) -> bytes:
    """The last chunk and the trailer section (RFC 9112 sections 7.1 and 7.1.2)."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in trailers)
    return b"0\r\n%b\r\n" % lines.encode("latin-1")
