"""`Pipes`: the pipes through which an engine splices. A direction holds one only while its bytes move."""

from muxwsgi.wire.relay_calls import make_pipe
from muxwsgi.wire.relay_pair import Way
from muxwsgi.wire.syscalls import close_descriptor

__all__ = ["Pipes"]

#: Pipes that exist at most, and those that are kept for the next. The kernel allows a user 256 of this size (pipe-user-pages-soft).
MOST, SPARE = 128, 16

#: Seconds until a pipe is asked for again after the kernel has refused one.
PAUSE = 1.0


class Pipes:
    """
    made    how many exist
    """

    __slots__ = ("_none_until", "_spare", "made")

    def __init__(self) -> None:
        self.made = 0
        self._spare: list[tuple[int, int]] = []
        self._none_until = 0.0

    def take(self, way: Way, now: float) -> bool:
        """Give `way` an empty pipe. False if there is none: then it copies."""
        if self._spare:
            way.pipe_out, way.pipe_in = self._spare.pop()
            return True
        if self.made >= MOST or now < self._none_until:
            return False
        made = make_pipe()
        if made is None:
            self._none_until = now + PAUSE
            return False
        self.made += 1
        way.pipe_out, way.pipe_in = made
        return True

    def give(self, way: Way) -> None:
        """Take the pipe back, which is empty."""
        if way.pipe_in >= 0:
            if len(self._spare) < SPARE:
                self._spare.append((way.pipe_out, way.pipe_in))
                way.pipe_out = way.pipe_in = -1
            else:
                self.drop(way)

    def drop(self, way: Way) -> None:
        """Close the pipe, with what is in it."""
        if way.pipe_in >= 0:
            _close(way.pipe_out, way.pipe_in)
            way.pipe_out = way.pipe_in = -1
            way.piped = 0
            self.made -= 1

    def close(self) -> None:
        """Close those that nobody has."""
        while self._spare:
            _close(*self._spare.pop())
            self.made -= 1


def _close(reader: int, writer: int) -> None:
    close_descriptor(reader)
    close_descriptor(writer)
