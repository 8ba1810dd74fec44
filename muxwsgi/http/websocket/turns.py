"""Parses frames, and lets other connections run in between, because 64 KiB may contain 32,000 frames."""

from collections.abc import Iterator

from muxwsgi.http.websocket.frame import Frame, FrameParser
from muxwsgi.wire.ready import give_turn

__all__ = ["BYTES_AT_ONCE", "BYTES_INFLATED_PER_TURN", "FRAMES_PER_TURN", "frames_in_turns"]

#: Frames after which other connections run.
FRAMES_PER_TURN = 200

#: Bytes that compressed frames have become after which other connections run: 200 frames of a kilobyte could become 200 MB.
BYTES_INFLATED_PER_TURN = 1 << 20

#: Bytes that are parsed at once. They contain 8,000 frames at most, which take about 10 ms in plain Python.
BYTES_AT_ONCE = 16384


def frames_in_turns(parser: FrameParser, data: bytes) -> Iterator[Frame]:
    """The frames that `data` completes. Raises `BrokenFrame` after the valid ones. Exhaust the iterator before the next call."""
    count = 0
    for at in range(0, len(data), BYTES_AT_ONCE):
        for frame in parser.feed(data, at, at + BYTES_AT_ONCE):
            count += 1
            if count % FRAMES_PER_TURN == 0:
                give_turn()
            yield frame
        if parser.fault is not None:
            raise parser.fault
