"""`Syslog`: sends log lines to a syslog daemon, and never waits for it. Imports no gevent.

    unix:PATH, unix:PATH#dgram      datagrams to a socket of this machine, such as /dev/log
    unix:PATH#stream                a stream to such a socket
    udp://HOST:PORT                 datagrams (RFC 5426)
    tcp://HOST:PORT                 a stream (RFC 6587)

Messages are those of RFC 5424, or those of RFC 3164 in the form that the C library's syslog(3) writes to /dev/log: without a host name.
On a stream, RFC 5424 messages are counted (RFC 6587 section 3.4.1), and RFC 3164 messages end with a newline (section 3.4.2).

Messages that the daemon does not take at once wait in memory, up to a limit. Messages beyond it are lost and counted. If the daemon is gone
(it restarts, its machine is down), a new connection is tried once a second, and what waits is sent then. The part of a stream that was in
the kernel when the daemon ended is lost without a count: only the daemon could know of it. The same holds for datagrams of UDP.
"""

import _socket
import _thread
import errno
import logging
import os
import select
import socket
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from muxwsgi.errors import OperatorError
from muxwsgi.names import split_host_port
from muxwsgi.observe.output import native
from muxwsgi.record import record
from muxwsgi.settings.logs import FACILITIES

__all__ = ["INFO", "Syslog", "SyslogAddress", "severity_of"]

#: The severity of access lines (RFC 5424 section 6.2.1).
INFO = 6

#: Bytes that may wait for the daemon.
WAITING_AT_MOST = 1 << 20

#: Bytes of one message. rsyslog takes 8 KiB by default, and cuts what is longer.
MESSAGE_AT_MOST = 8192

#: Seconds between two attempts to reach the daemon.
RECONNECT = 1.0

#: Seconds without an error after which datagrams of UDP count as delivered. The kernel takes each one, and reports with a later one that
#: nobody listens.
DELIVERED_AFTER = 10.0

#: Seconds between two attempts to send, if the caller waits for that.
RETRY = 0.02

#: Errors that only say that the daemon has no room at the moment. Linux reports ENOBUFS if the queue of a network card is full.
_NO_ROOM = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS})

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@record()
class SyslogAddress:
    """Where the daemon listens. `path` is that of a unix socket; "" for one of the network."""

    stream: bool
    path: str = ""
    host: str = ""
    port: int = 0
    text: str = ""

    @classmethod
    def parse(cls, text: str) -> "SyslogAddress":
        """Read an address in gunicorn's forms: unix://PATH#TYPE, udp://HOST:PORT, tcp://HOST:PORT. Raises `OperatorError`."""
        scheme, colon, rest = text.partition(":")
        if scheme == "unix" and colon:
            path, _, kind = rest.removeprefix("//").partition("#")
            if not path or kind not in ("", "dgram", "stream"):
                raise OperatorError(f"log_syslog_to: {text!r} is not unix:PATH, unix:PATH#dgram or unix:PATH#stream")
            return cls(stream=kind == "stream", path=path, text=text)
        if scheme in ("udp", "tcp") and rest.startswith("//"):
            host, port = split_host_port(rest[2:])
            if not host or (port is not None and not 0 < port <= 65535):
                raise OperatorError(f"log_syslog_to: {text!r} is not {scheme}://HOST:PORT")
            return cls(stream=scheme == "tcp", host=host, port=port or 514, text=text)
        raise OperatorError(f"log_syslog_to: {text!r} is not unix:PATH, udp://HOST:PORT or tcp://HOST:PORT")

    @property
    def local(self) -> bool:
        """Whether the daemon is on this machine, behind a unix socket."""
        return bool(self.path)


def severity_of(level: int) -> int:
    """The severity of a level of logging."""
    for least, severity in ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, INFO)):
        if level >= least:
            return severity
    return 7


class Syslog:
    """Sends messages to the daemon at `address`.

    lost    number of messages that are lost
    """

    def __init__(
        self,
        address: SyslogAddress,
        *,
        facility: str = "user",
        tag: str = "muxwsgi",
        rfc5424: bool | None = None,
        say: Callable[[int, str], None] | None = None,
        at_most: int = WAITING_AT_MOST,
        patience: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Resolves the host, which may wait. `tag` is the name of the program. `rfc5424` None means: RFC 3164 for unix sockets, RFC 5424
        for others. `say(level, message)` reports outages. `patience` is the number of
        seconds that a connection may take while the caller waits, for a process that serves nobody and may not log again soon.

        A daemon that is not there yet is no error, because it may start later. Raises `OperatorError` if the host has no address."""
        self.lost = 0
        self.address = address
        self._facility = FACILITIES[facility] << 3
        self._tag = tag
        self._rfc5424 = not address.local if rfc5424 is None else rfc5424
        self._say = say
        self._at_most = at_most
        self._patience = patience
        self._clock = clock
        self._family, self._to = _resolved(address)
        self._host = socket.gethostname() or "-"
        self._sock: _socket.socket | None = None
        self._connecting = False
        self._try_at = 0.0  # when the daemon may be tried again
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._begun = False  # a part of the first waiting message was sent
        self._busy = False
        self._failing = ""  # why nothing is sent at the moment
        self._failed_at = 0.0
        self._quiet = 0.0 if address.local or address.stream else DELIVERED_AFTER
        self._lost_said = 0
        self._lock = native(_thread, "RLock")()
        _all.add(self)

    @property
    def waiting(self) -> bool:
        """Whether messages wait for the daemon."""
        return bool(self._waiting)

    def send(self, severity: int, text: str, kind: str = "") -> None:
        """Send one message, or keep it. `kind` is appended to the tag, as in gunicorn. Raises nothing."""
        message = self._message(severity, text, kind)
        with self._lock:
            if self._size + len(message) > self._at_most:
                self._try()
                if self._size + len(message) > self._at_most:
                    self.lost += 1
                    self._fail(self._failing or "the daemon does not keep up")
                    return
            self._waiting.append(message)
            self._size += len(message)
            self._try()

    def flush(self, timeout: float = 0) -> None:
        """Try to send the waiting messages, for `timeout` seconds. Raises nothing."""
        give_up = time.monotonic() + timeout
        while True:
            with self._lock:
                self._try()
            if not self._waiting or time.monotonic() >= give_up:
                return
            time.sleep(RETRY)

    def reconnect(self) -> None:
        """Begin a new connection with the next message, as after SIGUSR1. Raises nothing."""
        with self._lock:
            if not self._begun:
                self._disconnect()
            self._try_at = 0.0
            self._try()

    def close(self) -> None:
        """Send the waiting messages, within a second, and close the socket. What is left is lost. Raises nothing."""
        self.flush(1.0 if self._waiting else 0)
        with self._lock:
            self.lost += len(self._waiting)
            self._waiting.clear()
            self._size = 0
            self._disconnect()

    def forget(self) -> None:
        """In a forked child: drop the waiting messages, which the parent sends, and the socket, because two writers of one stream would mix
        their messages."""
        self._lock = native(_thread, "RLock")()
        self._waiting.clear()
        self._size = 0
        self._busy = False
        self._disconnect()
        self._try_at = 0.0

    # One message

    def _message(self, severity: int, text: str, kind: str) -> bytes:
        priority = self._facility | severity
        tag = f"{self._tag}.{kind}" if kind else self._tag
        text = text.rstrip("\n")
        if self._rfc5424:
            # Section 6: PRI VERSION TIMESTAMP HOSTNAME APP-NAME PROCID MSGID STRUCTURED-DATA MSG
            moment = time.time()
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)) + f".{int(moment % 1 * 1e6):06d}Z"
            head = f"<{priority}>1 {stamp} {_printable(self._host, 255)} {_printable(tag, 48)} {os.getpid()} - - "
        else:
            now = time.localtime()
            stamp = f"{_MONTHS[now.tm_mon - 1]} {now.tm_mday:2} {now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02}"
            head = f"<{priority}>{stamp} {_printable(tag, 32)}[{os.getpid()}]: "
        message = (head + text).encode("utf-8", "backslashreplace")
        if len(message) > MESSAGE_AT_MOST:
            message = message[:MESSAGE_AT_MOST].decode("utf-8", "ignore").encode()
        if not self.address.stream:
            return message
        if self._rfc5424:
            return b"%d %b" % (len(message), message)
        return message.replace(b"\n", b"#012") + b"\n"  # as rsyslog escapes control characters

    # Sending

    def _try(self) -> None:
        if self._busy:
            return  # a signal handler or a destructor logs in the middle of a call: that call sends its message too
        self._busy = True
        try:
            self._send_waiting()
        finally:
            self._busy = False

    def _send_waiting(self) -> None:
        while self._waiting:
            try:
                if not self._connected():
                    return
                assert self._sock is not None
                if self.address.stream and not self._begun and self._has_ended(self._sock):
                    raise ConnectionResetError(errno.ECONNRESET, "the daemon has closed the connection")
                count = self._sock.send(self._waiting[0], _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL)
            except OSError as error:
                if error.errno in _NO_ROOM:
                    return
                if error.errno == errno.EMSGSIZE:
                    self._take(len(self._waiting[0]), lost=True)
                    continue
                self._lost_connection(error)
                return
            self._take(count)
        if self._failing and self._clock() >= self._failed_at + self._quiet:
            lost, self._lost_said = self.lost - self._lost_said, self.lost
            self._failing = ""
            self._tell(logging.WARNING, f"messages are sent again; {lost} were lost")

    def _take(self, count: int, *, lost: bool = False) -> None:
        message = self._waiting[0]
        self._size -= count
        self._begun = count < len(message)
        if self._begun:
            self._waiting[0] = message[count:]
        else:
            self._waiting.popleft()
            self.lost += lost

    def _connected(self) -> bool:
        if self._sock is None:
            now = self._clock()
            if now < self._try_at:
                return False
            self._try_at = now + RECONNECT
            sock = _socket.socket(self._family, _socket.SOCK_STREAM if self.address.stream else _socket.SOCK_DGRAM)
            sock.setblocking(False)
            self._sock = sock
            self._connecting = True
            try:
                sock.connect(self._to)
                self._connecting = False
            except BlockingIOError as error:
                if error.errno != errno.EINPROGRESS:  # the daemon's backlog is full: unix(7) has no connection in progress
                    self._sock = None
                    sock.close()
                    return False
        if self._connecting:
            poll = native(select, "poll")()
            poll.register(self._sock.fileno(), select.POLLOUT)
            if not poll.poll(int(self._patience * 1000)):
                return False
            code = self._sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            self._connecting = False
        return True

    @staticmethod
    def _has_ended(sock: _socket.socket) -> bool:
        """Whether the daemon has ended the stream. The first message after that would be lost without an error. A daemon sends nothing."""
        try:
            return not sock.recv(1, _socket.MSG_DONTWAIT | _socket.MSG_PEEK)
        except BlockingIOError:
            return False

    def _lost_connection(self, error: OSError) -> None:
        self._disconnect()
        self._fail(error.strerror or str(error))

    def _disconnect(self) -> None:
        if self._begun:  # the daemon has a part of the message, and the rest on a new connection would be a broken message
            self._size -= len(self._waiting.popleft()) if self._waiting else 0
            self.lost += 1
            self._begun = False
        sock, self._sock = self._sock, None
        self._connecting = False
        if sock is not None:
            sock.close()

    def _fail(self, why: str) -> None:
        self._failed_at = self._clock()
        if not self._failing:
            self._failing = why
            self._tell(logging.ERROR, f"{why}; messages wait, up to {self._at_most >> 10} KiB, and are lost beyond that")

    def _tell(self, level: int, message: str) -> None:
        if self._say is not None:
            self._say(level, f"log_syslog_to: {self.address.text}: {message}")


_all: "weakref.WeakSet[Syslog]" = weakref.WeakSet()


def _forget() -> None:
    for each in list(_all):
        each.forget()


os.register_at_fork(after_in_child=_forget)


def _resolved(address: SyslogAddress) -> tuple[int, Any]:
    if address.path:
        return _socket.AF_UNIX, address.path
    kind = socket.SOCK_STREAM if address.stream else socket.SOCK_DGRAM
    try:
        found = socket.getaddrinfo(address.host, address.port, type=kind)
    except OSError as error:
        raise OperatorError(f"log_syslog_to: {address.text}: {error.strerror}") from error
    family, _, _, _, to = found[0]
    return family, to


def _printable(text: str, at_most: int) -> str:
    """A field of a head: printable ASCII without blanks (RFC 5424 section 6)."""
    return "".join(char if "!" <= char <= "~" else "_" for char in text[:at_most]) or "-"
