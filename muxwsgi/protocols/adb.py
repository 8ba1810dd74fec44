"""ADB: the CONNECT message to a device, and a request to the ADB server of a machine."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "adb"]

#: The command CNXN, a version, and the complement of the command 20 bytes later.
#: Or four hex digits of length, and `host:`, `host-serial:` and the like.
adb = regex(rb"(?s)CNXN[\x00\x01]\x00\x00\x01.{12}\xbc\xb1\xa7\xb1|[0-9a-fA-F]{4}host(?::|-(?:serial|transport-id|usb|local):)")

PROTOCOL = Protocol(
    name="ADB",
    defined_in="Android, packages/modules/adb: protocol.txt, SERVICES.TXT",
    speaks_first=Speaks.CLIENT,
    match=adb,
    begins=(
        b"CNXN\1\0\0\1\0\0\x10\0\7\0\0\0\x32\2\0\0\xbc\xb1\xa7\xb1host::\0",
        b"000chost:version",
        b"0012host-serial:emulator",
    ),
    not_begins=(b"CNXN\1\0\0\1\0\0\x10\0\7\0\0\0\x32\2\0\0CNXN", b"000chose:"),
)
