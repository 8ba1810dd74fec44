"""RDP: the connection request of a client of Remote Desktop."""

from muxwsgi.mux.match import Match
from muxwsgi.mux.matchers import Matcher, expression, named, regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "cookie_of", "rdp"]

#: A TPKT header (RFC 1006 section 6) and a connection request of X.224.
rdp = regex(rb"(?s)\x03\x00[\x00\x01].[\x06-\xfe]\xe0")

_COOKIE = b"Cookie: mstshash="
#: Behind TPKT (4 bytes) and X.224 (7).
_AT = 11


def cookie_of(*users: str) -> Matcher:
    """A connection request whose cookie names one of the users, in either case (MS-RDPBCGR section 2.2.1.1). Clients cut the name to 9
    characters, some send none, and none of them proves it."""
    if not users:
        raise ValueError("cookie_of() needs at least one user")
    wanted = {user.lower().encode()[:9] for user in users}

    def ask(data: bytes) -> Match:
        said = rdp(data)
        if said is not Match.YES:
            return said
        rest = data[_AT : min(data[4] + 5, int.from_bytes(data[2:4], "big"))]
        whole = len(data) >= min(data[4] + 5, int.from_bytes(data[2:4], "big"))
        if not rest.startswith(_COOKIE):
            return Match.MORE if _COOKIE.startswith(rest) and not whole else Match.NO
        user, end, _ = rest[len(_COOKIE) :].partition(b"\r\n")
        if not end:
            return Match.NO if whole else Match.MORE
        return Match.YES if user.lower()[:9] in wanted else Match.NO

    return named(expression("cookie_of", users))(ask)


PROTOCOL = Protocol(
    name="RDP",
    defined_in="MS-RDPBCGR section 2.2.1.1",
    speaks_first=Speaks.CLIENT,
    match=rdp,
    begins=(
        b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0\x01\0\x08\0\x03\0\0\0",
        b"\x03\0\0\x29\x24\xe0\0\0\0\0\0Cookie: mstshash=ann\r\n\1\0\x08\0\3\0\0\0",
    ),
    not_begins=(b"\x03\0\0\x13\x0e\xd0\0\0", b"\x03\0\0\x13\x01\xe0"),
)
