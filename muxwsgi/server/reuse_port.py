"""`SlotSockets`: a listening socket for each slot of workers, all on one address (`--reuse-port`). This module imports no gevent.

The master owns the sockets, and the worker in a slot accepts from that of its slot. So a queue outlives its worker: the next worker in the
slot serves the connections in it. If each worker opened its own socket, the connections in its queue would be lost when it ends.

The kernel chooses a socket for each new connection by a program (SO_ATTACH_REUSEPORT_CBPF, socket(7)) that the master attaches. It chooses
at random among the slots in which a worker serves. So a slot that is given up, and a slot whose worker has crashed or is blocked, get no
connection. Sockets are never closed before the master ends, because the program numbers them in the order of their opening.
"""

import ctypes
import logging
import socket
import struct
from collections.abc import Callable, Sequence

__all__ = ["LAST_HANDSHAKES", "SlotSockets"]

log = logging.getLogger("muxwsgi.error")

# asm-generic/socket.h, linux/filter.h
_SO_ATTACH_REUSEPORT_CBPF = 51
_LOAD, _MODULO, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x94, 0x15, 0x06
_RANDOM = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM

#: Seconds for which a worker that retires accepts connections still: their handshakes were under way when the program changed.
LAST_HANDSHAKES = 1.0


class SlotSockets:
    """The sockets of all slots, in their order."""

    def __init__(self, sockets: Sequence[socket.socket], more: Callable[[], socket.socket]) -> None:
        """`more` opens a further one, which listens."""
        self.sockets = list(sockets)
        self._more = more
        self._live: tuple[int, ...] = ()
        self._failed = False

    def grow(self, size: int) -> None:
        """Have sockets for `size` slots. Raises `OSError`."""
        while len(self.sockets) < size:
            self.sockets.append(self._more())

    def steer(self, live: Sequence[int]) -> None:
        """From now on connections go to these slots, at least one. An error is reported once: the kernel then chooses among all."""
        if tuple(live) == self._live or not live:
            return
        self._live = tuple(live)
        steps = [(_LOAD, 0, 0, _RANDOM), (_MODULO, 0, 0, len(live))]
        for number, slot in enumerate(live):
            steps += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, slot)]
        steps.append((_RETURN, 0, 0, live[-1]))
        program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
        try:
            self.sockets[0].setsockopt(
                socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, struct.pack("@HP", len(steps), ctypes.addressof(program))
            )
        except OSError as error:
            if not self._failed:
                self._failed = True
                log.warning("reuse_port: the kernel chooses among all workers, also those that end: %s", error.strerror)

    def close(self) -> None:
        """Close all sockets."""
        for each in self.sockets:
            each.close()
