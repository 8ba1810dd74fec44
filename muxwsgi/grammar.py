"""The grammar of HTTP that several rooms need, as patterns: tokens, field values, line ends. What one file alone needs stands there."""

import re

__all__ = ["BARE_LINE_END", "CONTROL", "QUOTED_STRING", "TCHAR", "TOKEN", "is_token"]

#: tchar (RFC 9110 section 5.6.2): one character of a token.
TCHAR = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]"

#: token (RFC 9110 section 5.6.2): a method, a field name, the name of a protocol or of a coding.
TOKEN = TCHAR + "+"

#: quoted-string (RFC 9110 section 5.6.4).
QUOTED_STRING = r'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'

#: One of the characters that a field value cannot have (RFC 9110 section 5.5): control characters but the tab.
CONTROL = r"[\x00-\x08\x0a-\x1f\x7f]"

#: LF without a CR before it, CR without an LF behind it: neither ends a line (RFC 9112 section 2.2).
BARE_LINE_END = re.compile(rb"(?<!\r)\n|\r(?=[^\n])")

_TOKEN = re.compile(TOKEN)


def is_token(text: str) -> bool:
    """Whether `text` is a token, and nothing else."""
    return _TOKEN.fullmatch(text) is not None
