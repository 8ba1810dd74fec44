"""The stream log: one line for each stream that is not HTTP requests, and for each connection that was turned away.

It is a log beside the access log, as the log of nginx's stream module, because programs that read access logs know only requests. A refused
HTTP request is in the access log.

    kind        what happened
    stream      a hijacker, or a relay (`forward:`), has ended
    hijacked    an application had taken the connection over, such as for WebSocket
    tunnel      a tunnel of the proxy, or a stream inside of one, has ended
    unmatched, silent, ended, drained, limit, untrusted     `events.Refusal` explains them
    handshake   TLS with the client failed
"""

import json
import logging
import os
import sys
import time
from datetime import datetime
from typing import Any

from muxwsgi.errors import Cut, Draining, Expired
from muxwsgi.events import Events, Refusal
from muxwsgi.http.date import MONTHS
from muxwsgi.names import address_text, join_host_port
from muxwsgi.observe.access_format import connection_fields
from muxwsgi.observe.line_log import LineLog
from muxwsgi.observe.syslog import Syslog
from muxwsgi.wire.connection import Connection

__all__ = ["StreamLog"]

#: Routing decisions of one line, at most. A client can make a connection have more of them.
WHY_AT_MOST = 8


class StreamLog(LineLog):
    """Writes the lines, as text or as JSON objects."""

    def __init__(self, path: str | None, *, as_json: bool, syslog: Syslog | None = None, logger: logging.Logger | None = None) -> None:
        """`path` and `syslog` as for `LineLog`; records of `logger` have the line as their message. Raises `OperatorError` if the file
        cannot be opened."""
        super().__init__(path, "stream_logfile", syslog=syslog, kind="stream")
        self._spell = json.dumps if as_json else _text_line
        self._logger = logger

    def subscribe(self, events: Events) -> None:
        """Hear of streams, refusals and handshakes."""
        events.subscribe(stream=self._stream, refused=self._refused, handshake=self._handshake)

    def _stream(self, connection: Connection, seconds: float) -> None:
        # The event comes from a `finally`, in which the exception that ends the stream is the one being handled.
        error = sys.exc_info()[1]
        if connection.tunnel is not None:
            kind = "tunnel"
        else:
            kind = "hijacked" if connection.route == "http" else "stream"
        self._put(connection, kind, _how(error, connection), seconds)

    def _refused(self, connection: Connection, refusal: Refusal) -> None:
        if refusal.kind != "refused":  # the exchange of a refused request is in the access log
            self._put(connection, refusal.kind, refusal.reason, None)

    def _handshake(self, connection: Connection, error: OSError | None) -> None:
        if error is not None:
            self._put(connection, "handshake", error.strerror or str(error), None)

    def _put(self, connection: Connection, kind: str, ended: str, seconds: float | None) -> None:
        line: dict[str, Any] = {
            "time": datetime.now().astimezone().isoformat(timespec="milliseconds"),
            "kind": kind,
            **connection_fields(connection),
            "client": _address(connection.client),
            "route": connection.route,
            "destination": None if connection.destination is None else join_host_port(*connection.destination),
            "bytes_received": connection.bytes_received,
            "bytes_sent": connection.bytes_sent,
            "seconds": None if seconds is None else round(seconds, 6),
            "ended": ended,
            "why": "; ".join(connection.trace[-WHY_AT_MOST:]),
            "pid": os.getpid(),
        }
        text = self._spell(line)
        self.write(text)
        if self._logger is not None and self._logger.isEnabledFor(logging.INFO):
            self._logger.handle(self._logger.makeRecord(self._logger.name, logging.INFO, __file__, 0, text, (), None))


def _how(error: BaseException | None, connection: Connection) -> str:
    """How the stream has ended."""
    if error is None:
        return "reset" if connection.lifeline.reset_at_close else "closed"
    if isinstance(error, Cut):
        return "cut by the server"
    if isinstance(error, Draining):
        return "closed: the server drains"
    if isinstance(error, Expired):
        return "timeout"
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _address(address: Any) -> str | None:
    """None for the client of a unix socket, which has no name."""
    return None if not address else address_text(address)


def _text_line(line: dict[str, Any]) -> str:
    """CLIENT [TIME] KIND ROUTE BIND SENT RECEIVED SECONDS "ENDED" TLS SNI ALPN DESTINATION "WHY"."""
    tls = line["tls"] or {}
    seconds = line["seconds"]
    return " ".join(
        (
            _word(line["client"]),
            _now(),
            line["kind"],
            _word(line["route"]),
            _word(line["bind"]),
            str(line["bytes_sent"]),
            str(line["bytes_received"]),
            "-" if seconds is None else f"{seconds:.3f}",
            json.dumps(line["ended"]),
            _word(tls.get("version")),
            _word(tls.get("sni")),
            _word(tls.get("alpn")),
            _word(line["destination"]),
            json.dumps(line["why"]),
        )
    )


def _word(value: str | None) -> str:
    """A field without blanks and quotes, escaped as in JSON. Clients choose some of them."""
    return "-" if not value else json.dumps(value)[1:-1].replace(" ", "\\u0020")


def _now() -> str:
    moment = time.localtime()
    return f"[{moment.tm_mday:02}/{MONTHS[moment.tm_mon - 1]}/{time.strftime('%Y:%H:%M:%S %z', moment)}]"
