"""WebSockets for WSGI applications (RFC 6455).

    from muxwsgi.websocket import accept

    def application(environ, start_response):
        ws = accept(environ)
        for message in ws:          # str or bytes
            ws.send(message)
        return []

Pings are answered, and clients that are silent are pinged. When the server stops or reloads, clients get a Close with code 1001. A request
that cannot become a WebSocket is answered with 400, 403 or 426, whatever the application does with the exception.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from muxwsgi.http.hijack import Hijack
from muxwsgi.http.websocket.deflate import answer_deflate
from muxwsgi.http.websocket.endpoint import ConnectionClosed, WebSocket
from muxwsgi.http.websocket.handshake import VERSION, accept_of, asks_for_websocket, is_key
from muxwsgi.http.websocket.handshake import subprotocols as names_of

__all__ = ["ConnectionClosed", "WebSocket", "accept", "asks_for_websocket"]

_VERSIONS = ("Sec-WebSocket-Version", VERSION)


def accept(
    environ: Mapping[str, Any],
    *,
    subprotocols: Sequence[str] = (),
    origins: Collection[str | None] | None = None,
    compression: bool = False,
    max_size: int = 1 << 20,
    ping_interval: float | None = 20.0,
    ping_timeout: float | None = 20.0,
    close_timeout: float = 10.0,
) -> WebSocket:
    """Answer a request for a WebSocket with 101, and return the WebSocket. It is closed with 1000 when the application returns.

    subprotocols    names that the application speaks, the best first. The first that the client offers is agreed on
    origins         values of Origin that are allowed, such as `https://example.org`, and None for requests without the field. By default
                    browsers may come from the request's own host only, and others from anywhere. `("*",)` allows all
    compression     offer permessage-deflate (RFC 7692), without context between messages: an idle WebSocket takes no memory for it
    max_size        bytes of a message from the client, inflated: 1009 above
    ping_interval   seconds without a byte after which the client gets a ping, None for never
    ping_timeout    seconds that it has to answer, None for no limit
    close_timeout   seconds that it has to answer a Close

    Raises `PeerError` if the request asks for no WebSocket, or not properly (400, 426), or comes from another origin (403); with werkzeug
    loaded this is one of its exceptions too. Raises `RuntimeError` if a response has begun.
    """
    hijack: Hijack = environ["muxwsgi.hijack"]
    _check(environ, origins, hijack)
    answer = [("Sec-WebSocket-Accept", accept_of(environ["HTTP_SEC_WEBSOCKET_KEY"]))]
    offered = names_of(environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL", ""))
    subprotocol = next((name for name in subprotocols if name in offered), None)
    if subprotocol is not None:
        answer.append(("Sec-WebSocket-Protocol", subprotocol))
    deflate = None
    if compression:
        deflate, extension = answer_deflate(environ.get("HTTP_SEC_WEBSOCKET_EXTENSIONS", ""))
        if deflate is not None:
            answer.append(("Sec-WebSocket-Extensions", extension))
    websocket = WebSocket(
        hijack.upgrade("websocket", answer),
        subprotocol=subprotocol,
        deflate=deflate,
        max_size=max_size,
        ping_interval=ping_interval,
        ping_timeout=ping_timeout,
        close_timeout=close_timeout,
    )
    hijack.ends_with(websocket.application_ended)
    return websocket


def _check(environ: Mapping[str, Any], origins: Collection[str | None] | None, hijack: Hijack) -> None:
    """Refuse what cannot become a WebSocket (RFC 6455 section 4.2.1)."""
    if not asks_for_websocket(environ):
        hijack.refuse(426, "this is a WebSocket", [("Upgrade", "websocket"), ("Connection", "Upgrade"), _VERSIONS])
    if environ.get("HTTP_SEC_WEBSOCKET_VERSION") != VERSION:
        hijack.refuse(426, "this version of WebSocket is not served", [("Upgrade", "websocket"), ("Connection", "Upgrade"), _VERSIONS])
    if not is_key(environ.get("HTTP_SEC_WEBSOCKET_KEY", "")):
        hijack.refuse(400, "Sec-WebSocket-Key is missing or malformed")
    origin = environ.get("HTTP_ORIGIN")
    if not (_same_host(origin, environ) if origins is None else origin in origins or "*" in origins):
        hijack.refuse(403, "this origin may not open a WebSocket here")


def _same_host(origin: str | None, environ: Mapping[str, Any]) -> bool:
    """Whether a browser's page is of the host that it asks. The scheme is not compared, because a proxy in front may have ended TLS."""
    if origin is None:
        return True
    scheme, separator, authority = origin.partition("://")
    port = {"http": ":80", "https": ":443"}.get(scheme, "")
    host = environ.get("HTTP_HOST", "").lower()
    return bool(separator) and authority.lower().removesuffix(port) == host.removesuffix(port)
