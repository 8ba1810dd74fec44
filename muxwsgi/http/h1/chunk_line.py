"""The lines between the chunks of a body, as patterns: they are the grammar of RFC 9112 section 7.1, and nothing more is taken."""

import re

from muxwsgi.grammar import QUOTED_STRING, TOKEN

__all__ = ["AT_MOST", "FIRST", "LATER", "PART"]

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
