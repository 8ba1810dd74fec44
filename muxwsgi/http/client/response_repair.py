"""Repairs of a response head before it is passed on. A head with other errors is refused (`response_head.py`).

Two repairs are always done, as RFC 9110 and 9112 require. Blanks before a colon are removed (RFC 9112 section 5.1). A Content-Length that
repeats one number is reduced to that number (RFC 9110 section 8.6). If the operator accepts invalid responses, errors of old servers are
repaired too: lines that end in a bare LF, folded lines, lines that are not fields, control characters. Framing is never guessed: a framing
field that needs more than the first two repairs is not changed, and is refused.
"""

import re

from muxwsgi.grammar import TOKEN

__all__ = ["normalised", "repaired"]

_TOKEN = TOKEN.encode()

_BLANKS_BEFORE_COLON = re.compile(rb"(" + _TOKEN + rb")[ \t]+:")

_FIELD = re.compile(rb"(" + _TOKEN + rb")[ \t]*:[ \t]*(.*?)[ \t]*", re.DOTALL)

_STATUS_LINE = re.compile(rb"(HTTP/1\.[01])[ \t]+([1-9][0-9]{2})(?:[ \t]+(.*))?", re.DOTALL)

_LINE_END = re.compile(rb"\r?\n")

_NUMBER = re.compile(rb"[0-9]{1,18}")

#: Framing fields, found by their letters alone, so that another character in the name does not hide one.
_FRAMING = {b"contentlength": b"content-length", b"transferencoding": b"transfer-encoding", b"connection": b"connection"}

_NOT_LETTERS = re.compile(rb"[^a-z]+")

#: Control characters but the tab become blanks.
_NO_CONTROLS = bytes(32 if (byte < 32 and byte != 9) or byte == 127 else byte for byte in range(256))


def repaired(raw: bytes) -> bytes:
    """A head, with its CRLFCRLF, after the two repairs that are always done."""
    lines = raw.split(b"\r\n")
    fields = []
    length: bytes | None = None
    for line in lines[1:-2]:
        line = _BLANKS_BEFORE_COLON.sub(rb"\1:", line, count=1) if _BLANKS_BEFORE_COLON.match(line) else line
        name, colon, value = line.partition(b":")
        if colon and name.lower() == b"content-length":
            numbers = {number.strip(b" \t") for number in value.split(b",")}
            if len(numbers) == 1 and _NUMBER.fullmatch(number := numbers.pop()):
                if length == number:
                    continue
                length = number
                line = b"%b: %b" % (name, number)
        fields.append(line)
    return b"\r\n".join([lines[0], *fields, b"", b""])


def normalised(raw: bytes) -> bytes:
    """A head with LF or CRLF at the ends of its lines, repaired for the strict parser; unchanged if that is not possible."""
    first, *rest = _LINE_END.split(raw)
    status = _STATUS_LINE.fullmatch(first)
    if status is None:
        return raw
    version, code, phrase = status.groups()
    lines = [b"%b %b %b" % (version, code, (phrase or b"").translate(_NO_CONTROLS).strip())]
    framing = False  # whether the line before is a framing field, which a folded line must not extend
    begun = False  # whether there is a field that a folded line could belong to
    for line in rest:
        if line[:1] in (b" ", b"\t"):
            if framing:
                return raw
            if begun and line.strip(b" \t"):
                lines[-1] += b" " + line.translate(_NO_CONTROLS).strip()
            continue
        if not line:
            continue
        field = _FIELD.fullmatch(line)
        name = _FRAMING.get(_NOT_LETTERS.sub(b"", line.partition(b":")[0].lower()))
        framing = name is not None
        if framing and (field is None or line.translate(_NO_CONTROLS) != line or field[1].lower() != name):
            return raw
        begun = field is not None
        if field is not None:
            lines.append(b"%b: %b" % (field[1], field[2].translate(_NO_CONTROLS)))
    return b"\r\n".join([*lines, b"", b""])
