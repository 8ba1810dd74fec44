"""`Notifier`: tells the service manager the state of the service, in datagrams (sd_notify(3)). This module imports no gevent.

A message that cannot be sent is reported once, and the server goes on: systemd then ends a service with Type=notify by its own timeouts.
"""

import logging
import os
import socket
import time
from collections.abc import MutableMapping

from muxwsgi.wire.plain_socket import PlainSocket

__all__ = ["Notifier"]

log = logging.getLogger("muxwsgi.error")


class Notifier:
    """Sends nothing if no service manager listens.

    watchdog    seconds between two signs of life (half of WatchdogSec=); None if none is wanted
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Reads the variables NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID, and removes them: children must not speak for the service."""
        address = environ.pop("NOTIFY_SOCKET", "")
        #: The variables for another master, which takes the place of this one.
        self.variables = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": environ.get("WATCHDOG_USEC", "")}
        microseconds, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        self.watchdog: float | None = None
        self._address = ""
        self._socket: socket.socket | None = None
        self._failed = False
        if not address:
            return
        if address[0] not in "/@":
            log.warning("NOTIFY_SOCKET: %s: only sockets with a path or an abstract name are supported", address)
            return
        self._address = "\0" + address[1:] if address[0] == "@" else address
        self._socket = PlainSocket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        if microseconds.isdecimal() and int(microseconds) and pid in ("", str(os.getpid())):
            self.watchdog = int(microseconds) / 2e6

    @property
    def listened(self) -> bool:
        """Whether a service manager listens."""
        return self._socket is not None

    def ready(self, status: str) -> None:
        """The service serves, at the start or after a reload."""
        self.send("READY=1", f"STATUS={status}")

    def starting(self, seconds: float) -> None:
        """The start may take `seconds` from now on."""
        self.send("STATUS=starting workers", _extended(seconds))

    def reloading(self) -> None:
        """A reload has begun. `ready` ends it."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}", "STATUS=reloading")

    def stopping(self, seconds: float) -> None:
        """The service ends, and may take `seconds` from now on."""
        self.send("STOPPING=1", "STATUS=connections end", _extended(seconds))

    def main_pid(self, pid: int) -> None:
        """Another process, which this one or the other has started, is the main process from now on."""
        self.send(f"MAINPID={pid}")

    def alive(self) -> None:
        """A sign of life for WatchdogSec=."""
        self.send("WATCHDOG=1")

    def send(self, *fields: str) -> None:
        """Send fields in one datagram. Raises nothing."""
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(fields).encode("utf-8", "replace"), socket.MSG_NOSIGNAL, self._address)
        except OSError as error:
            if not self._failed:
                self._failed = True
                log.warning("NOTIFY_SOCKET: the service manager gets no messages: %s", error.strerror)
        else:
            self._failed = False

    def close(self) -> None:
        """In a child: close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _extended(seconds: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}"
