"""Which build this is: the hot files compiled, or plain Python."""

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec

__all__ = ["BUILD"]

_hot = find_spec("muxwsgi.http.h1")

#: `compiled` or `pure`. All hot files are the one or the other: see setup.py.
BUILD = "compiled" if _hot is not None and (_hot.origin or "").endswith(tuple(EXTENSION_SUFFIXES)) else "pure"
