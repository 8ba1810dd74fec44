"""`Extras`: what few connections have, made when it is first asked for, and shared by all layers of a connection."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muxwsgi.wire.pump import Pump

__all__ = ["Extras"]


class Extras:
    """pump    what carries the bytes of the socket that `as_socket()` returned"""

    __slots__ = ("pump",)

    def __init__(self) -> None:
        self.pump: Pump | None = None

    def end(self, cut: bool) -> None:
        """The connection is over: see `Connection.finish`."""
        if self.pump is not None:
            try:
                self.pump.finish(cut)
            finally:
                self.pump = None
