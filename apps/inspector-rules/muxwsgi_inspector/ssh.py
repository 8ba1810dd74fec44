"""SSH, wherever it hides: in a tunnel to any port, in TLS, in a WebSocket, behind an Upgrade.

Both sides of SSH begin with `SSH-`, the server perhaps behind other lines (RFC 4253 section 4.2). The first bytes of each direction are
watched until they cannot be that any more; bytes, and not port numbers, decide.
"""

from muxwsgi.proxy import Refused

__all__ = ["SSHWatch"]

BANNER = b"SSH-"

#: Bytes of one direction that are watched. Lines in front of the server's banner are a greeting, and no more.
WATCHED = 4096


class _Direction:
    """The beginning of one direction of a stream."""

    __slots__ = ("_beginning", "_lines", "_over")

    def __init__(self, lines_before: bool) -> None:
        self._lines = lines_before
        self._beginning = b""
        self._over = False

    def is_ssh(self, data: bytes) -> bool:
        if self._over:
            return False
        self._beginning += data[: WATCHED - len(self._beginning)]
        if self._beginning.startswith(BANNER) or (self._lines and b"\n" + BANNER in self._beginning):
            return True
        undecided = BANNER.startswith(self._beginning) or (self._lines and self._beginning.isascii())
        self._over = not undecided or len(self._beginning) >= WATCHED
        return False


class SSHWatch:
    """Of one stream. `see` raises `Refused` at the first sight of SSH."""

    __slots__ = ("_client", "_server", "session")

    def __init__(self, session: int = 0) -> None:
        self.session = session
        self._client = _Direction(lines_before=False)
        self._server = _Direction(lines_before=True)

    def see(self, data: bytes, from_client: bool) -> None:
        if (self._client if from_client else self._server).is_ssh(data):
            raise Refused("SSH is not allowed through here")
