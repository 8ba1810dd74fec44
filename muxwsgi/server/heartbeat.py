"""How a master sees that the event loop of a worker is blocked, and what it blocks on.

A worker writes the time into a page of memory that it shares with the master, once a second, from its event loop. Where an application
computes for long, or calls something that waits without gevent, the loop does not run, and the time grows old.

The master then asks by two signals, both real-time, and the worker's answer goes through a pipe:

- `ASK` is handled in Python. It runs between two bytecodes of the running code, also within a `re` match or a `time.sleep`, and reports the
  request that is served, and the stack.
- `DUMP` is handled in C, by `faulthandler`. It works while C code holds the GIL, and reports the stack alone.

A signal that gevent handles would never arrive in a blocked loop.
"""

import faulthandler
import mmap
import os
import signal
import struct
import traceback
from time import monotonic
from types import FrameType
from typing import Any

__all__ = ["ASK", "DUMP", "Heartbeat"]

#: The signals by which a master asks.
ASK, DUMP = signal.SIGRTMIN + 1, signal.SIGRTMIN + 2

#: Bytes of an answer that are kept. A pipe holds 64 KiB.
LONGEST_ANSWER = 16384

#: Characters of a request-target that are told: with a longer one, and a deep stack, an answer would be cut in front.
_TARGET = 500

#: Frames of a stack that are told, the innermost ones.
_FRAMES = 30

_TIME = struct.Struct("=d")


class Heartbeat:
    """Shared by a master and one worker. Made before the fork."""

    def __init__(self) -> None:
        """Raises `OSError` where no descriptor or no memory is left."""
        self._page = mmap.mmap(-1, mmap.PAGESIZE)
        self._asked, self._answers = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    # In the master

    @property
    def last(self) -> float | None:
        """When the worker wrote last (`monotonic`); None before its first time."""
        (at,) = _TIME.unpack_from(self._page)
        return at or None

    def answer(self) -> str:
        """The worker's reports since the last call, the first 16 KiB of them; empty without one."""
        try:
            return os.read(self._asked, LONGEST_ANSWER).decode("utf-8", "replace").strip()
        except BlockingIOError:
            return ""

    def forget_answers(self) -> None:
        """Drop the worker's reports, because an answer that came too late is about another request."""
        while self.answer():
            pass

    def in_master(self) -> None:
        """After the fork: the end for answers belongs to the child."""
        os.close(self._answers)
        self._answers = -1

    def close(self) -> None:
        """Give everything up, in the master or in a child that it does not belong to."""
        self._page.close()
        for fd in (self._asked, self._answers):
            if fd >= 0:
                os.close(fd)

    # In the worker

    def answer_signals(self) -> None:
        """Answer the master's two signals from now on. In the main thread."""
        os.close(self._asked)
        self._asked = -1
        faulthandler.register(DUMP, file=self._answers, all_threads=False)
        signal.signal(ASK, self._say)
        signal.siginterrupt(ASK, False)

    def beat(self) -> None:
        """The event loop runs."""
        _TIME.pack_into(self._page, 0, monotonic())

    def _say(self, number: int, frame: FrameType | None) -> None:
        text = f"{_request(frame) or 'no request'}\n{''.join(traceback.format_stack(frame)[-_FRAMES:])}"
        try:
            os.write(self._answers, text.encode("utf-8", "backslashreplace")[-LONGEST_ANSWER:])
        except OSError:
            pass  # the last answer has not been read, or the master has ended


def _request(frame: FrameType | None) -> str | None:
    """The request that is served by the frames from `frame` outward: one of them has its environ."""
    while frame is not None:
        for value in frame.f_locals.values():
            if type(value) is dict and "muxwsgi.connection" in value:
                return _described(value)
        frame = frame.f_back
    return None


def _described(environ: dict[str, Any]) -> str:
    target = str(environ.get("RAW_URI"))
    shown = repr(target[:_TARGET]) + ("..." if len(target) > _TARGET else "")
    return f"{environ.get('REQUEST_METHOD')} {shown} from {environ.get('REMOTE_ADDR')}"
