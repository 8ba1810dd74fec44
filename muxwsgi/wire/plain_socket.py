"""`PlainSocket` and `close_now`: the interpreter's own, in a patched process too. This module imports no gevent: a master has none."""

import os
import socket
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["PlainSocket", "close_now"]


def _unpatched(module: Any, name: str) -> Any:
    if "gevent.monkey" not in sys.modules:  # nothing has been patched
        return getattr(module, name)
    from gevent.monkey import get_original

    return get_original(module.__name__, name)


#: Reads and writes block, and wait in the kernel.
PlainSocket: type[socket.socket] = _unpatched(socket, "socket")

#: close(2). The patched `os.close` leaves it to the next turn of the event loop, which may have watched the descriptor. Until then its
#: number is taken. Never in a preloader, whose loop does not run; and the loop of a forked child is another one.
close_now: Callable[[int], None] = _unpatched(os, "close")
