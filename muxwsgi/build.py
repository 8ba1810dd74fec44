"""Which build this is, the hot files compiled or plain Python, and whether this platform can run it."""

import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec

__all__ = ["BUILD", "described", "why_pure", "wrong_platform"]

_hot = find_spec("muxwsgi.http.h1.h1")

#: `compiled` or `pure`. All hot files are the one or the other: see setup.py.
BUILD = "compiled" if _hot is not None and (_hot.origin or "").endswith(tuple(EXTENSION_SUFFIXES)) else "pure"


def why_pure() -> str | None:
    """Why the hot files are not compiled, although the installation tried; None if they are, or if nobody wanted it. setup.py writes it."""
    if BUILD == "compiled":
        return None
    try:
        with open(os.path.join(os.path.dirname(__file__), "pure.txt"), encoding="utf-8") as file:
            return file.read().strip()
    except FileNotFoundError:
        return None


def described() -> str:
    """The build in words, for `muxwsgi --version`."""
    reason = why_pure()
    return BUILD if reason is None else f"{BUILD}: {reason}"


def wrong_platform() -> str | None:
    """Why muxwsgi cannot run here, in one line; None where it can."""
    if sys.platform != "linux":
        return f"muxwsgi runs on Linux alone, and this is {sys.platform}: it uses accept4(2), epoll(7) and SO_RCVLOWAT as Linux has them"
    return None
