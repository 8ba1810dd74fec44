"""Fields that are added to the responses of an application: Strict-Transport-Security (RFC 6797) and Server-Timing.

Server-Timing (W3C) has durations in milliseconds. `app` is what the application took until it called `start_response`, because the field
is in the head. `queue` is what the request had waited before, if a trusted proxy has said in X-Request-Start when it took it over.
"""

import re
from collections.abc import Callable, Iterable
from time import perf_counter, time
from typing import Any

from muxwsgi.http.environ import Environ, WSGIApplication
from muxwsgi.settings import ResponseSettings
from muxwsgi.wire.peer import TrustedPeers

__all__ = ["with_added_fields"]

#: X-Request-Start: seconds as of nginx (`t=${msec}`), or milliseconds or microseconds as of others.
_STARTED = re.compile(r"(?:t=)?([0-9]{9,17})(?:\.([0-9]{1,9}))?")

#: Seconds since the epoch that no clock shows, so a larger number is in a smaller unit.
_SECONDS_AT_MOST = 1e11

#: Seconds above which a time is a mistake: no client waits so long.
_WAITED_AT_MOST = 3600.0


def with_added_fields(app: WSGIApplication, settings: ResponseSettings, trusted: TrustedPeers) -> WSGIApplication:
    """`app`, to whose responses the fields are added; `app` itself if there are none. `trusted` peers say when a request began to wait."""
    strict = settings.strict_transport_security
    timed = settings.server_timing
    if not strict and not timed:
        return app

    def application(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        began = perf_counter()
        secure = bool(strict) and environ["wsgi.url_scheme"] == "https"
        waited = _waited(environ, trusted) if timed else None
        took: float | None = None

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            nonlocal took
            added: list[tuple[str, str]] = []
            if secure and not any(name.lower() == "strict-transport-security" for name, _ in headers):
                added.append(("Strict-Transport-Security", strict))
            if timed:
                if took is None or exc_info:  # `compression` gives the head again when it has the body, which is not the application's time
                    took = perf_counter() - began
                queue = "" if waited is None else f", queue;dur={waited * 1e3:.1f}"
                added.append(("Server-Timing", f"app;dur={took * 1e3:.1f}{queue}"))
            return start_response(status, [*headers, *added], exc_info)

        return app(environ, start)

    return application


def _waited(environ: Environ, trusted: TrustedPeers) -> float | None:
    """Seconds since the proxy has taken the request over; None if it is not known."""
    said = environ.get("HTTP_X_REQUEST_START")
    if said is None or not trusted.trusts(environ["muxwsgi.connection"].client):
        return None
    found = _STARTED.fullmatch(said)
    if found is None:
        return None
    at = float(f"{found[1]}.{found[2] or 0}")
    while at > _SECONDS_AT_MOST:
        at /= 1e3
    waited = time() - at
    return max(waited, 0.0) if -_WAITED_AT_MOST < waited < _WAITED_AT_MOST else None
