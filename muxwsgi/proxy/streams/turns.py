"""Frames out of bytes, with turns for other connections: 64 KiB may be 32,000 frames."""

from collections.abc import Iterator

from muxwsgi.http.websocket.frame import Frame, FrameParser
from muxwsgi.wire.ready import give_turn

__all__ = ["frames_in_turns"]

#: Frames after which other connections have their turn.
FRAMES_PER_TURN = 200

#: Bytes that are parsed at once: 8,000 frames at most, which take plain Python about 10 ms.
BYTES_AT_ONCE = 16384


def frames_in_turns(parser: FrameParser, data: bytes) -> Iterator[Frame]:
    """The frames that `data` completes. Raises `BrokenFrame` behind those that are in order. Exhaust it before the next."""
    count = 0
    for at in range(0, len(data), BYTES_AT_ONCE):
        for frame in parser.feed(data[at : at + BYTES_AT_ONCE]):
            count += 1
            if count % FRAMES_PER_TURN == 0:
                give_turn()
            yield frame
        if parser.fault is not None:
            raise parser.fault
