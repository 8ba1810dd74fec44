"""How a master detects that the event loop of a worker is blocked, and finds the code that blocks it.

A worker writes the time into the page of memory that it shares with the master (`page.py`), once a second, from its event loop. If an
application computes for long, or waits without gevent, the loop does not run, and the time gets old.

The master then asks with two real-time signals, and the worker answers through a pipe:

- `ASK` is handled in Python. It runs between two bytecodes of the running code, also within a `re` match or a `time.sleep`, and reports the
  request or the connection that is served, and the stack.
- `DUMP` is handled in C, by `faulthandler`. It works while C code holds the GIL, and reports the stack only.

A signal that gevent handles would never arrive in a blocked loop.
"""

import faulthandler
import os
import signal
import traceback
from types import FrameType
from typing import Any

from muxwsgi.server.page import Entry

__all__ = ["ASK", "BEAT", "DUMP", "Heartbeat"]

#: The signals with which a master asks.
ASK, DUMP = signal.SIGRTMIN + 1, signal.SIGRTMIN + 2

#: Seconds between two heartbeats of a worker, and between two checks of them.
BEAT = 1.0

#: Bytes of an answer that are kept. A pipe holds 64 KiB.
LONGEST_ANSWER = 16384

#: Characters of a request-target that are reported. With more characters and a deep stack, an answer would exceed the limit.
_TARGET = 500

#: Frames of a stack that are reported, the innermost ones.
_FRAMES = 30


class Heartbeat:
    """The entry of the page and the pipe that a master and one worker share. Made before the fork."""

    def __init__(self, entry: Entry) -> None:
        """Raises `OSError` if no descriptor is left."""
        self._entry = entry
        self._read_end, self.write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    @classmethod
    def inherited(cls, entry: Entry, write_end: int) -> "Heartbeat":
        """That of a worker which got its end of the pipe through a preloader."""
        self = cls.__new__(cls)
        self._entry = entry
        self._read_end, self.write_end = -1, write_end
        return self

    # In the master

    @property
    def last(self) -> float | None:
        """When the worker last wrote the time (`monotonic`); None before the first time."""
        return self._entry.heartbeat

    def answer(self) -> str:
        """The worker's reports since the last call, the first 16 KiB of them; empty without one."""
        try:
            return os.read(self._read_end, LONGEST_ANSWER).decode("utf-8", "replace").strip()
        except BlockingIOError:
            return ""

    def forget_answers(self) -> None:
        """Drop the worker's reports. A late answer may be about another request."""
        while self.answer():
            pass

    def in_master(self) -> None:
        """In the master after the fork: close the child's end of the pipe."""
        os.close(self.write_end)
        self.write_end = -1

    def close(self) -> None:
        """Close the pipe, in the master or in another worker."""
        for fd in (self._read_end, self.write_end):
            if fd >= 0:
                os.close(fd)

    # In the worker

    def answer_signals(self) -> None:
        """Answer the master's two signals from now on. In the main thread."""
        if self._read_end >= 0:
            os.close(self._read_end)
            self._read_end = -1
        faulthandler.register(DUMP, file=self.write_end, all_threads=False)
        signal.signal(ASK, self._say)
        signal.siginterrupt(ASK, False)

    def beat(self) -> None:
        """Write the time, because the event loop runs."""
        self._entry.beat()

    def _say(self, number: int, frame: FrameType | None) -> None:
        text = f"{_request(frame) or _connection(frame) or 'no request'}\n{''.join(traceback.format_stack(frame)[-_FRAMES:])}"
        try:
            os.write(self.write_end, text.encode("utf-8", "backslashreplace")[-LONGEST_ANSWER:])
        except OSError:
            pass  # the last answer has not been read, or the master has ended


def _request(frame: FrameType | None) -> str | None:
    """The request that the frames from `frame` outward serve. One of them has the environ."""
    while frame is not None:
        for value in frame.f_locals.values():
            if type(value) is dict and "muxwsgi.connection" in value:
                return _described(value)
        frame = frame.f_back
    return None


def _connection(frame: FrameType | None) -> str | None:
    """The connection that the frames from `frame` outward serve. The handler of a protocol that is not HTTP has it."""
    while frame is not None:
        for value in frame.f_locals.values():
            if type(value).__module__ == "muxwsgi.wire.connection" and type(value).__name__ == "Connection":
                return f"{value!r}, route {value.route!r}"
        frame = frame.f_back
    return None


def _described(environ: dict[str, Any]) -> str:
    target = str(environ.get("RAW_URI"))
    shown = repr(target[:_TARGET]) + ("..." if len(target) > _TARGET else "")
    return f"{environ.get('REQUEST_METHOD')} {shown} from {environ.get('REMOTE_ADDR')}"
