"""HL7 version 2 over MLLP: the start block, and the first segment of a message, a batch or a file."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "mllp"]

#: The byte behind the name of the segment is the separator of fields.
mllp = regex(rb"\x0b(?:MSH|BHS|FHS)[!-/:-@\[-`{-~]")

PROTOCOL = Protocol(
    name="HL7 (MLLP)",
    defined_in="HL7, Minimal Lower Layer Protocol release 1; HL7 2.5.1 section 2.14.9",
    speaks_first=Speaks.CLIENT,
    match=mllp,
    begins=(b"\x0bMSH|^~\\&|A|B|C|D|20260101||ADT^A01|1|P|2.5\r\x1c\r", b"\x0bBHS|^~\\&|A\r"),
    not_begins=(b"MSH|^~\\&|A", b"\x0bPID|1", b"\x0bMSHA"),
)
