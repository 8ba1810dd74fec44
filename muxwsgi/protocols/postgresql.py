"""PostgreSQL: what a client sends before its startup message, or as it."""

from muxwsgi.mux.match import Match
from muxwsgi.mux.matchers import Matcher, named, regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "postgresql", "startup_of"]

#: Four bytes of length, and four of a code: CancelRequest, SSLRequest, GSSENCRequest; or version 3 with the name of a first parameter.
postgresql = regex(rb"(?s)\x00\x00.{2}(?:\x04\xd2\x16[\x2e-\x30]|\x00\x03.{2}[!-~])")

#: Bytes of a startup message, at most (MAX_STARTUP_PACKET_LENGTH of the server).
_LONGEST_STARTUP = 10_000


def startup_of(*, users: tuple[str, ...] = (), databases: tuple[str, ...] = ()) -> Matcher:
    """A startup message of one of these users, for one of these databases. An empty tuple stands for all. A client that names no database
    means that of its user.

    A client that asks for TLS or GSSAPI first names neither, and a CancelRequest names neither: both are `NO`.
    """
    if not users and not databases:
        raise ValueError("startup_of() needs a user or a database")

    def ask(data: bytes) -> Match:
        said = postgresql(data)
        if said is not Match.YES:
            return said
        if data[4:6] != b"\0\3":
            return Match.NO
        length = int.from_bytes(data[:4], "big")
        if length > _LONGEST_STARTUP:
            return Match.NO
        if len(data) < length:
            return Match.MORE
        words = data[8:length].decode("utf-8", "replace").split("\0")
        parameters: dict[str, str] = {}
        for name, value in zip(words[::2], words[1::2], strict=False):
            if not name:
                break  # the end, and servers do not look at what is behind it
            parameters[name] = value
        user = parameters.get("user", "")
        database = parameters.get("database") or user
        taken = (not users or user in users) and (not databases or database in databases)
        return Match.YES if taken else Match.NO

    keywords = [f"{name}={value!r}" for name, value in (("users", users), ("databases", databases)) if value]
    return named(f"startup_of({', '.join(keywords)})")(ask)


PROTOCOL = Protocol(
    name="PostgreSQL",
    defined_in="PostgreSQL, Message Formats",
    speaks_first=Speaks.CLIENT,
    match=postgresql,
    alpn=("postgresql",),
    begins=(
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"\0\0\0\x08\x04\xd2\x16\x30",
        b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\1\0\1\2\3\4",
        b"\0\0\0\x4d\0\3\0\0user\0ann\0\0",
        b"\0\0\0\x4d\0\3\0\2user\0ann\0\0",
    ),
    not_begins=(b"\0\0\0\x08\x04\xd2\x16\x2d", b"\0\0\0\x55\xffSMBr", b"\0\0\0\x0a\0\3\0\0\0\0\0\0\xff\xff"),
)
