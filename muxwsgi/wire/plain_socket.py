"""`PlainSocket`: the interpreter's own socket class, in a patched process too. This module imports no gevent: a master has none."""

import socket
import sys

__all__ = ["PlainSocket"]


def _unpatched() -> type[socket.socket]:
    if "gevent.monkey" not in sys.modules:  # nothing has been patched
        return socket.socket
    from gevent.monkey import get_original

    original: type[socket.socket] = get_original("socket", "socket")
    return original


#: Reads and writes block, and wait in the kernel.
PlainSocket = _unpatched()
