"""`AdminApplication`: the WSGI application of the admin bind and of the control socket.

    GET /metrics                for Prometheus; OpenMetrics by Accept
    GET /healthz                200 while the master lives
    GET /readyz                 200, or 503 with the reasons
    GET /status                 JSON: master, workers, counters, configuration, and where the rest is
    GET /status/connections     JSON, in pages: ?after=PID.ID&limit=N
    GET /status/routes          JSON
    GET /status/upstreams       JSON
    GET /status/certificates    JSON
    POST /control/...           only on the control socket: `ctl` uses it

A dashboard for browsers will have the paths /dashboard and /events (an event stream). Nothing else may take these.

**Who may ask.** The control socket is a file of the operator's user, and each client's user is checked. On the admin bind, a token is
needed if one was configured. Without a token, the Host field must be an address, or localhost. A website could otherwise let its own name
point to this machine, and read the answers through a visitor's browser (DNS rebinding). /healthz and /readyz need no token, because probes
often cannot send one.
"""

import hmac
import json
import logging
import os
import signal
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from muxwsgi.admin.status import Status
from muxwsgi.errors import OperatorError
from muxwsgi.names import split_host_port
from muxwsgi.observe.exposition import check_installed, expose
from muxwsgi.server.board import READINESS

__all__ = ["AdminApplication"]

log = logging.getLogger("muxwsgi.error")

#: struct ucred of SO_PEERCRED (unix(7)): pid, uid, gid.
_CREDENTIALS = struct.Struct("3i")

#: Levels by name; default is the configured one.
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50, "default": 0}

Environ = dict[str, Any]
Start = Callable[..., Any]


class Refused(Exception):
    """A request that gets another answer than 200. Its text is one line."""

    def __init__(self, status: str, text: str, *headers: tuple[str, str]) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers


class AdminApplication:
    """See the module's docstring."""

    def __init__(self, status: Status, *, control: bool = False, token: str | None = None, log_level: str = "info") -> None:
        """`control` is for the control socket. `token` is the one that clients of the admin bind must send. `log_level` is the configured
        level of error logs."""
        self._status = status
        self._control = control
        self._token = token
        self._log_level = log_level
        self._pages: dict[str, Callable[[Environ], tuple[bytes, str]]] = {
            "/metrics": self._metrics,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/status": self._summary,
            "/status/connections": self._connections,
            "/status/routes": self._routes,
            "/status/upstreams": self._upstreams,
            "/status/certificates": self._certificates,
        }
        self._actions: dict[str, Callable[[dict[str, Any]], Any]] = {
            "/control/drain": lambda said: self._status.drain(True),
            "/control/undrain": lambda said: self._status.drain(False),
            "/control/reload": lambda said: self._status.tell_master(signal.SIGHUP),
            "/control/stop": lambda said: self._status.tell_master(signal.SIGQUIT if said.get("now") else signal.SIGTERM),
            "/control/add-worker": lambda said: self._status.tell_master(signal.SIGTTIN),
            "/control/remove-worker": lambda said: self._status.tell_master(signal.SIGTTOU),
            "/control/close": self._close,
            "/control/log-level": self._set_log_level,
            "/control/upstream": self._set_readiness,
        }

    def __call__(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        try:
            data, media_type = self._answer(environ)
        except Refused as refused:
            data = f"{refused}\n".encode()
            start_response(refused.status, [("Content-Type", "text/plain; charset=utf-8"), *_COMMON, *refused.headers])
        else:
            start_response("200 OK", [("Content-Type", media_type), *_COMMON])
        return [data]

    def _answer(self, environ: Environ) -> tuple[bytes, str]:
        path = environ["PATH_INFO"]
        self._check_client(environ, path)
        page, action = self._pages.get(path), self._actions.get(path) if self._control else None
        if page is None and action is None:
            raise Refused("404 Not Found", "there is nothing here: try /status, /metrics, /healthz or /readyz")
        method = environ["REQUEST_METHOD"]
        if page is not None:
            if method not in ("GET", "HEAD"):
                raise Refused("405 Method Not Allowed", "only GET", ("Allow", "GET, HEAD"))
            return page(environ)
        assert action is not None
        if method != "POST":
            raise Refused("405 Method Not Allowed", "only POST", ("Allow", "POST"))
        return _as_json(action(_said(environ)) or {})

    # Who may ask

    def _check_client(self, environ: Environ, path: str) -> None:
        connection = environ["muxwsgi.connection"]
        if self._control:
            raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            pid, uid, _ = _CREDENTIALS.unpack(raw)
            if uid not in (0, os.geteuid()):
                log.warning("control socket: user %d (process %d) was refused", uid, pid)
                raise Refused("403 Forbidden", "the control socket is for root and the server's user")
            return
        if path in ("/healthz", "/readyz"):
            return
        if self._token is not None:
            scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode("latin-1"), self._token.encode()):
                raise Refused("401 Unauthorized", "a token is needed: Authorization: Bearer TOKEN", ("WWW-Authenticate", "Bearer"))
        elif isinstance(connection.server, tuple) and not _is_local(environ.get("HTTP_HOST", "")):
            raise Refused("421 Misdirected Request", "the Host field must be an address of this machine, or localhost")

    # Pages

    def _metrics(self, environ: Environ) -> tuple[bytes, str]:
        try:
            check_installed()
        except OperatorError as error:
            raise Refused("501 Not Implemented", str(error)) from error
        return expose(self._status.readings(), environ.get("HTTP_ACCEPT", ""))

    def _healthz(self, environ: Environ) -> tuple[bytes, str]:
        return b"ok\n", "text/plain; charset=utf-8"

    def _readyz(self, environ: Environ) -> tuple[bytes, str]:
        unready = self._status.unready()
        if unready:
            raise Refused("503 Service Unavailable", "; ".join(unready))
        return b"ready\n", "text/plain; charset=utf-8"

    def _summary(self, environ: Environ) -> tuple[bytes, str]:
        more = {name: f"/status/{name}" for name in ("connections", "routes", "upstreams", "certificates")}
        return _as_json(self._status.summary() | {"counters": self._status.counters(), "more": more})

    def _connections(self, environ: Environ) -> tuple[bytes, str]:
        asked = parse_qs(environ.get("QUERY_STRING", ""))
        try:
            return _as_json(self._status.connections(asked.get("after", [""])[0], int(asked.get("limit", ["200"])[0])))
        except ValueError as error:
            raise Refused("400 Bad Request", str(error)) from error

    def _routes(self, environ: Environ) -> tuple[bytes, str]:
        answers = self._status.ask_all({"ask": "routes"})
        return _as_json(
            {
                "workers": {str(pid): answer["binds"] for pid, answer in answers.items() if answer is not None},
                "unanswered": [pid for pid, answer in answers.items() if answer is None],
            }
        )

    def _upstreams(self, environ: Environ) -> tuple[bytes, str]:
        answers = self._status.ask_all({"ask": "upstreams"})
        return _as_json(
            {
                "workers": {str(pid): answer["upstreams"] for pid, answer in answers.items() if answer is not None},
                "unanswered": [pid for pid, answer in answers.items() if answer is None],
            }
        )

    def _certificates(self, environ: Environ) -> tuple[bytes, str]:
        answer = self._status.from_any({"ask": "certificates"})
        if answer is None:
            raise Refused("503 Service Unavailable", "no worker answers")
        return _as_json(answer)

    # Actions

    def _close(self, said: dict[str, Any]) -> dict[str, Any]:
        try:
            closed = self._status.close(str(said.get("id", "")))
        except ValueError as error:
            raise Refused("400 Bad Request", str(error)) from error
        if closed is None:
            raise Refused("504 Gateway Timeout", "its worker does not answer")
        if not closed:
            raise Refused("404 Not Found", "there is no such connection")
        return {}

    def _set_log_level(self, said: dict[str, Any]) -> dict[str, Any]:
        name = said.get("level")
        if name not in _LEVELS:
            raise Refused("400 Bad Request", f"the level is one of {', '.join(_LEVELS)}")
        return {"unanswered": self._status.set_log_level(_LEVELS[name], self._log_level if name == "default" else name)}


    def _set_readiness(self, said: dict[str, Any]) -> dict[str, Any]:
        server, readiness = said.get("server"), said.get("readiness")
        if readiness not in READINESS[1:]:
            raise Refused("400 Bad Request", f"the readiness is one of {', '.join(READINESS[1:])}")
        unanswered = self._status.set_readiness(str(server), readiness)
        if unanswered is None:
            raise Refused("404 Not Found", f"no server of an upstream is named {server!r}: `muxwsgi ctl upstreams` lists them")
        return {"unanswered": unanswered}


#: No browser may keep an answer, or take it for something else.
_COMMON = (("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"))


def _is_local(host: str) -> bool:
    """Whether a Host field has an address, or the name localhost. No website can have either in its place."""
    try:
        name, _ = split_host_port(host)
    except ValueError:
        return False
    name = name.strip("[]")
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, name)
        except OSError:
            continue
        return True
    return name.lower() == "localhost"


def _as_json(content: Any) -> tuple[bytes, str]:
    return json.dumps(content).encode() + b"\n", "application/json"


def _said(environ: Environ) -> dict[str, Any]:
    """The JSON object in the body of a request; empty without a body."""
    data = environ["wsgi.input"].read()
    try:
        said = json.loads(data or b"{}")
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise Refused("400 Bad Request", "the body is not a JSON object")
    return said
