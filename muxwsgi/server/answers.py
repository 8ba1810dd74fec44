"""`Answers`: a worker answers the admin process. It shows connections, routes, upstreams and certificates, closes a connection, and sets
servers of upstreams to ready, drain or maint.

Messages in both directions are JSON, behind four bytes with their length. A question has `serial` and `ask`. Its answer has the same
`serial`, and `error` if the question could not be answered. One question is answered at a time, from the event loop. A worker whose event
loop is blocked does not answer, and the admin process does not wait for it.
"""

import json
import logging
import socket
import struct
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import gevent
import gevent.socket

from muxwsgi.names import address_text
from muxwsgi.server.introductions import Introductions
from muxwsgi.upstreams.state import Readiness
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.fork import leave_to_parent

if TYPE_CHECKING:
    from muxwsgi.server.server import Server
    from muxwsgi.wire.lifeline import Lifeline

__all__ = ["LENGTH", "LONGEST", "PAGE", "Answers"]

log = logging.getLogger("muxwsgi.error")

LENGTH = struct.Struct("!I")

#: Bytes of a message at most.
LONGEST = 1 << 20

#: Connections in one answer at most, and lines and characters that are shown of what is said about each.
PAGE, _LINES, _LINE = 200, 16, 300

#: Seconds until a worker tries again to introduce itself.
RETRY = 1.0


class Answers:
    """Answers for `server`, in greenlets, from `start` on."""

    def __init__(self, server: "Server", introductions: Introductions, set_level: Callable[[str], None]) -> None:
        """`set_level` sets the level of the error log, by its name."""
        self._server = server
        self._introductions = introductions
        self._set_level = set_level
        self._stream: gevent.socket.socket | None = None
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self._questions: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "connections": self._connections,
            "close": self._close,
            "routes": self._routes,
            "certificates": self._certificates,
            "upstreams": self._upstreams,
            "readiness": self._readiness,
            "log_level": self._log_level,
        }
        leave_to_parent(self)

    def start(self) -> None:
        """Answer from now on, in this thread's hub."""
        self._introductions.in_worker()
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """Answer no more. Idempotent."""
        if self._greenlet is not None:
            self._greenlet.kill()
            self._greenlet = None
        self.forsake()

    def forsake(self) -> None:
        """Close the descriptors, also in a forked child."""
        self._introductions.close()
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _run(self) -> None:
        while True:
            own = self._introductions.introduce()
            if own is None:
                gevent.sleep(RETRY)
                continue
            self._stream = gevent.socket.socket(own.family, own.type, own.proto, fileno=own.detach())
            try:
                while (question := read_message(self._stream)) is not None:
                    self._stream.sendall(message(self._answer(question)))
            except OSError:
                pass  # the admin process has ended: it starts again
            finally:
                self._stream.close()
            gevent.sleep(RETRY)

    def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        answer = self._questions.get(question["ask"])
        if answer is None:
            return {"serial": question["serial"], "error": f"unknown question: {question['ask']}"}
        try:
            return {"serial": question["serial"]} | answer(question)
        except Exception as error:
            log.exception("a question of the admin process could not be answered: %s", question["ask"])
            return {"serial": question["serial"], "error": repr(error)}

    # Connections

    def _connections(self, question: dict[str, Any]) -> dict[str, Any]:
        """Connections with an id above `after`, in the order of their ids: at most `limit`, and as many as a message has room for;
        `more` if there are others behind them."""
        found = sorted((top.id, line, top) for line in self._server.live if isinstance(top := line.top, Connection))
        found = [each for each in found if each[0] > question.get("after", 0)]
        described: list[dict[str, Any]] = []
        size = 0
        for _, line, top in found[: min(question.get("limit", PAGE), PAGE)]:
            described.append(_described(line, top))
            size += len(json.dumps(described[-1]))  # clients have chosen parts of it
            if size > LONGEST // 2:
                break
        return {"connections": described, "more": len(found) > len(described)}

    def _close(self, question: dict[str, Any]) -> dict[str, Any]:
        """Cut the connection `id`."""
        return {"closed": self._server.cut(question["id"])}

    # Routes and certificates

    def _routes(self, question: dict[str, Any]) -> dict[str, Any]:
        return {
            "binds": {
                address: [
                    {
                        "name": route.name,
                        "connections": route.slots.taken,
                        "limit": route.limit,
                        "refused": route.slots.refused,
                        "alpn": list(route.alpn),
                    }
                    for route in mux.routes
                ]
                for address, mux in self._server.muxes.items()
            }
        }

    def _upstreams(self, question: dict[str, Any]) -> dict[str, Any]:
        return {"upstreams": self._server.upstreams.described()}

    def _readiness(self, question: dict[str, Any]) -> dict[str, Any]:
        """Set the readiness of the server of an upstream."""
        return {"known": self._server.upstreams.set_readiness(question["server"], Readiness(question["readiness"]))}

    def _certificates(self, question: dict[str, Any]) -> dict[str, Any]:
        found = []
        for bind, certificate in self._server.certificates:
            not_after: datetime = certificate.not_valid_after_utc
            found.append(
                {
                    "bind": bind,
                    "subject": certificate.subject.rfc4514_string(),
                    "issuer": certificate.issuer.rfc4514_string(),
                    "serial_number": f"{certificate.serial_number:x}",
                    "not_after": not_after.isoformat(),
                }
            )
        return {"certificates": found}

    def _log_level(self, question: dict[str, Any]) -> dict[str, Any]:
        self._set_level(question["level"])
        return {}


def _described(line: "Lifeline", top: Connection) -> dict[str, Any]:
    if line.relay is not None:
        line.relay.note()
    tls = top.tls
    return {
        "id": top.id,
        "client": address_text(top.client),
        "server": address_text(top.server),
        "route": top.route,
        "state": "idle" if line.resting else "active",
        "destination": None if top.destination is None else f"{top.destination[0]}:{top.destination[1]}",
        "tls": None if tls is None else {"version": tls.version, "cipher": tls.cipher, "sni": tls.sni, "alpn": tls.alpn},
        "received": top.bytes_received,
        "sent": top.bytes_sent,
        "trace": [text[:_LINE] for text in top.trace[:_LINES]],
    }


def message(content: dict[str, Any]) -> bytes:
    """`content` as it is sent."""
    data = json.dumps(content).encode()
    return LENGTH.pack(len(data)) + data


def read_message(stream: socket.socket) -> dict[str, Any] | None:
    """The next message; None at the end of the stream. Raises `OSError` for one that is too long."""
    head = _read(stream, LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    if length > LONGEST:
        raise OSError("the message is too long")
    data = _read(stream, length)
    if len(data) < length:
        return None
    content: dict[str, Any] = json.loads(data)
    return content


def _read(stream: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = stream.recv(count - len(data))
        if not more:
            break
        data += more
    return data
