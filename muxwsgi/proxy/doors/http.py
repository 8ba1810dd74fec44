"""`HTTPDoor`: the front door for HTTP requests, also for those inside tunnels. It is the WSGI application of a proxy."""

import logging
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from muxwsgi.errors import PeerError
from muxwsgi.http.environ import WSGIApplication
from muxwsgi.names import address_of, comparable, split_host_port
from muxwsgi.proxy.context import Context, Layer
from muxwsgi.proxy.doors.access import Access, CredentialsWanted, NotAdmitted
from muxwsgi.proxy.exchange.exchange import Exchanges, error_response
from muxwsgi.proxy.exchange.nested_connect import NestedConnect, NestedConnectRefused
from muxwsgi.proxy.fault import Fault
from muxwsgi.proxy.rules.message import Request, to_wsgi
from muxwsgi.proxy.rules.rules import Rules
from muxwsgi.proxy.tunnel.entrance import Entrance, Rejected
from muxwsgi.proxy.upstream.endpoint import Endpoint, for_http_1
from muxwsgi.proxy.upstream.upstreams import Upstreams
from muxwsgi.proxy.via import Via
from muxwsgi.wire.connection import Connection

__all__ = ["ENTRANCE", "HTTPDoor"]

log = logging.getLogger("muxwsgi.proxy")

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], None]]

#: The key of `environ` with the `Entrance` for tunnels. A proxy has one door, and an entrance for each server that serves it.
ENTRANCE = "muxwsgi.proxy.entrance"

#: The response to a CONNECT whose tunnel is established.
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class HTTPDoor:
    """Answers requests: to other servers, to the proxy itself, and CONNECT."""

    def __init__(
        self,
        access: Access,
        rules: Rules,
        exchanges: Exchanges,
        upstreams: Upstreams,
        via: Via,
        nonproxy: WSGIApplication,
        entrance: Callable[[], Entrance],
        connect_timeout: float,
    ) -> None:
        """`nonproxy` answers requests to the proxy itself. `entrance` returns the one for requests that have none of this proxy in
        `ENTRANCE`."""
        self._access = access
        self._rules = rules
        self._exchanges = exchanges
        self._upstreams = upstreams
        self._via = via
        self._nonproxy = nonproxy
        self._entrance = entrance
        self._connect_timeout = connect_timeout

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        entrance: Entrance | None = environ.get(ENTRANCE)
        if entrance is None or not entrance.follows(self._rules):  # middleware may pass the request on to another proxy
            entrance = self._entrance()
        connection: Connection = environ["muxwsgi.connection"]
        if environ["SERVER_PROTOCOL"] == "HTTP/2.0":
            _join_cookies(environ)
        tunnel: Context | None = connection.tunnel
        if environ["REQUEST_METHOD"] == "CONNECT":
            return self._connect(environ, start_response, connection, tunnel, entrance)

        # 1. Inside a tunnel, the tunnel has the destination.
        if tunnel is not None:
            assert tunnel.destination is not None
            ctx = Context(connection, tunnel.door, tunnel.destination, tunnel)
            return self._exchanges.serve(environ, start_response, ctx, _in_tunnel(environ, tunnel))

        # 2. Outside, the target has the destination. A target without a host is a request to the proxy itself.
        if environ["SERVER_PROTOCOL"] == "HTTP/2.0":
            _make_absolute(environ, connection)
        target: str = environ["RAW_URI"]
        if target[:1] == "/" or target == "*":
            try:
                self._access.admit(connection)
            except NotAdmitted as refusal:
                return _refuse(start_response, refusal)
            return self._nonproxy(environ, start_response)
        try:
            connection.identity = self._access.identify(connection, environ.get("HTTP_PROXY_AUTHORIZATION"))
        except (NotAdmitted, CredentialsWanted) as refusal:
            return _refuse(start_response, refusal)
        secure = target[:5].lower() == "https"
        host, port = split_host_port(environ["HTTP_HOST"])
        ctx = Context(connection, "http", (host, port or (443 if secure else 80)))
        ctx.passed = environ.get("HTTP_VIA", "")
        layers = (Layer(host, ("http/1.1",)),) if secure else ()
        assert ctx.destination is not None
        return self._exchanges.serve(environ, start_response, ctx, Endpoint(*ctx.destination, layers))

    def _connect(
        self, environ: Environ, start_response: StartResponse, connection: Connection, tunnel: Context | None, entrance: Entrance
    ) -> Iterable[bytes]:
        """CONNECT (RFC 9110 section 9.3.6)."""
        if tunnel is None:
            try:
                connection.identity = self._access.identify(connection, environ.get("HTTP_PROXY_AUTHORIZATION"))
            except (NotAdmitted, CredentialsWanted) as refusal:
                return _refuse(start_response, refusal)
        host, port = split_host_port(environ["RAW_URI"])
        assert port is not None  # the engine has checked
        if environ.get("CONTENT_LENGTH", "0") != "0" or "HTTP_TRANSFER_ENCODING" in environ:
            raise _refused_body(environ)
        ctx = Context(connection, "connect", (host, port), tunnel)
        ctx.request = Request(environ)
        if tunnel is None:
            ctx.passed = environ.get("HTTP_VIA", "")
        else:
            # A CONNECT inside a tunnel: the tunnel's destination is another proxy, and the inner tunnel goes through it.
            ctx.dial = NestedConnect(self._upstreams, tunnel, environ["muxwsgi.fields"], self._connect_timeout)

        def established() -> Connection:
            taken: Connection = environ["muxwsgi.hijack"]()
            taken.sendall(ESTABLISHED)
            return taken

        try:
            self._via.check(environ.get("HTTP_VIA", ""))
            entrance.enter(ctx, established)
        except Fault as fault:
            given = fault.response if isinstance(fault, (Rejected, NestedConnectRefused)) else None
            response = given or self._rules.error(fault, ctx) or error_response(fault)
            status, fields, pieces = to_wsgi(response, "GET")
            start_response(status, fields)
            return pieces
        except PeerError as error:
            if not environ["muxwsgi.response"].head_sent:
                raise
            log.debug("%r: %s", ctx, error)  # the client's error inside its tunnel, not an error of this application
        return ()


def _in_tunnel(environ: Environ, tunnel: Context) -> Endpoint:
    """The endpoint of a request in a tunnel. A client that speaks HTTP/2 without TLS knows that its server does."""
    assert tunnel.destination is not None
    endpoint = Endpoint(*tunnel.destination, for_http_1(tunnel.layers))
    endpoint.begins_http2 = not tunnel.layers and environ["SERVER_PROTOCOL"] == "HTTP/2.0"
    return endpoint


def _join_cookies(environ: Environ) -> None:
    """Make one field of the cookies of a request, as HTTP/1.1 has them (RFC 9113 section 8.2.3)."""
    fields = environ["muxwsgi.fields"]
    if sum(name == "cookie" for name, _ in fields) > 1:
        others = [field for field in fields if field[0] != "cookie"]
        environ["muxwsgi.fields"] = (*others, ("cookie", environ["HTTP_COOKIE"]))


def _make_absolute(environ: Environ, connection: Connection) -> None:
    """Give a request of HTTP/2 the target that it would have in HTTP/1.1: there are no absolute targets in HTTP/2, and each request has a
    scheme and an authority. It is for the proxy itself if both could be the proxy's: the scheme is that of the connection, and the port
    that of the bind. A host that is an address has to be the bind's too."""
    scheme = environ.get("muxwsgi.scheme", environ["wsgi.url_scheme"])
    if scheme not in ("http", "https"):
        environ["muxwsgi.hijack"].refuse(400, f"the scheme {scheme!a} is not served")
    host, port = split_host_port(environ["HTTP_HOST"])
    server = connection.server
    if "muxwsgi.scheme" not in environ and isinstance(server, tuple):
        own_port = server[1] == (port or (443 if scheme == "https" else 80))
        if own_port and (address_of(host) is None or comparable(host) == comparable(server[0])):
            return
    target = environ["RAW_URI"]
    environ["RAW_URI"] = environ["REQUEST_URI"] = f"{scheme}://{environ['HTTP_HOST']}{'' if target == '*' else target}"


def _refused_body(environ: Environ) -> PeerError:
    """The error for a CONNECT with a body, which would be taken for the tunnel's first bytes (RFC 9110 section 9.3.6)."""
    error = PeerError(400, "CONNECT has no body")
    environ["muxwsgi.response"].peer_error = error
    return error


def _refuse(start_response: StartResponse, refusal: NotAdmitted | CredentialsWanted) -> Iterable[bytes]:
    text = f"{refusal.reason}\n".encode()
    phrase = HTTPStatus(refusal.status).phrase
    start_response(f"{refusal.status} {phrase}", [("Content-Type", "text/plain; charset=utf-8"), *refusal.fields])
    return [text]
