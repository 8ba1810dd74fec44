"""`Extras`: attributes that few connections need. They are made on first use, and all layers of a connection share them."""

import contextlib
import io
import logging
import weakref
from collections.abc import Callable, Mapping, MutableMapping
from typing import IO, TYPE_CHECKING, Any

import gevent
from gevent.event import Event

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection
    from muxwsgi.wire.proxy_header import ProxyHeader
    from muxwsgi.wire.pump import Pump

__all__ = ["ConnectionLog", "Extras"]


class ConnectionLog(logging.LoggerAdapter[logging.Logger]):
    """The error log, for messages of a handler about its connection. Each line begins with the connection's number and route.

    Log records also have them as the attributes `connection` and `hijacker`, for the application's log handlers.
    """

    def __init__(self, connection: "Connection") -> None:
        super().__init__(logging.getLogger("muxwsgi.error"))
        self._connection = weakref.ref(connection)
        self._id = connection.id

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Put both before the message, and add them to the record."""
        connection = self._connection()
        route = None if connection is None else connection.route
        more: Mapping[str, Any] = kwargs.get("extra") or {}
        kwargs["extra"] = {"connection": self._id, "hijacker": route, **more}
        named = f"connection {self._id} ({route})" if route else f"connection {self._id}"
        return f"{named}: {msg}", kwargs


class Extras:
    """
    pump        the pump that carries the bytes of the socket of `as_socket()`
    proxy_header  the PROXY header that the connection began with
    data        a dict for the handler's data
    log         see `Connection.log`
    draining    for a connection that no server serves
    """

    __slots__ = ("_files", "_links", "data", "draining", "log", "proxy_header", "pump")

    def __init__(self) -> None:
        self.pump: Pump | None = None
        self.proxy_header: ProxyHeader | None = None
        self.data: dict[Any, Any] | None = None
        self.log: ConnectionLog | None = None
        self.draining: Event | None = None
        self._files: list[weakref.ref[IO[Any]]] = []
        self._links: list[tuple[Event, Callable[[Event], None]]] = []

    def on_drain(self, draining: Event, callback: Callable[[], object], log: ConnectionLog) -> None:
        """See `Connection.on_drain`."""

        def call() -> None:
            try:
                callback()
            except Exception:
                log.exception("what on_drain was given failed")

        def link(event: Event) -> None:
            gevent.spawn(call)

        self._links.append((draining, link))
        draining.rawlink(link)

    def note_file(self, file: IO[Any]) -> None:
        """`file` reads from the stream, or writes to it."""
        self._files = [known for known in self._files if known() is not None]
        self._files.append(weakref.ref(file))

    def write_files(self) -> None:
        """Write the bytes that the files have in their buffers."""
        for file in self._open_files():
            file.flush()

    def take_files_ahead(self) -> bytes:
        """Take the bytes out of the files' buffers that were read from the stream and not consumed.

        The stream must not be readable any more. A text file has decoded its bytes, so they are dropped.
        """
        ahead = b""
        for file in self._open_files():
            below: Any = file
            if isinstance(file, io.TextIOWrapper):
                below = file.detach()
            if isinstance(below, io.BufferedReader | io.BufferedRWPair):
                with contextlib.suppress(OSError):  # its buffer is empty, so it reads from the stream
                    while data := below.read1(len(below.peek())):
                        ahead += data
        self._files.clear()
        return ahead

    def _open_files(self) -> list[IO[Any]]:
        files = (known() for known in self._files)
        return [file for file in files if file is not None and not file.closed]

    def end(self, cut: bool) -> None:
        """The connection is over: see `Connection.finish`."""
        while self._links:
            draining, link = self._links.pop()
            draining.unlink(link)
        if self.pump is not None:
            try:
                self.pump.finish(cut)
            finally:
                self.pump = None
