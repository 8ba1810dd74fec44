"""Which build this is, the hot files compiled or plain Python, and whether this platform can run it."""

import sys
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec

__all__ = ["BUILD", "wrong_platform"]

_hot = find_spec("muxwsgi.http.h1.h1")

#: `compiled` or `pure`. All hot files are the one or the other: see setup.py.
BUILD = "compiled" if _hot is not None and (_hot.origin or "").endswith(tuple(EXTENSION_SUFFIXES)) else "pure"


def wrong_platform() -> str | None:
    """Why muxwsgi cannot run here, in one line; None where it can."""
    if sys.platform != "linux":
        return f"muxwsgi runs on Linux alone, and this is {sys.platform}: it uses accept4(2), epoll(7) and SO_RCVLOWAT as Linux has them"
    return None
