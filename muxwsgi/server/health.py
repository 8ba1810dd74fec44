"""`with_health`: answers health checks of a load balancer on the binds of the service, without the application."""

from collections.abc import Callable, Iterable
from typing import Any

from muxwsgi.http.environ import WSGIApplication
from muxwsgi.record import record

__all__ = ["Health", "with_health"]


@record()
class Health:
    """
    path        the path of health checks
    unready     returns why the service gets no new clients, None if it may
    """

    path: str
    unready: Callable[[], str | None]


def with_health(app: WSGIApplication, health: Health, draining: Callable[[], bool]) -> WSGIApplication:
    """`app`, but requests for the path of `health` get 200, or 503 with the reason, which is also given while the server is `draining`.

    Only a request-target that is a path is a health check. A proxy gets the URLs of other servers too.
    """
    path, with_query = health.path, f"{health.path}?"

    def checked(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        target = environ["RAW_URI"]
        if target != path and not target.startswith(with_query):
            return app(environ, start_response)
        reason = "stopping" if draining() else health.unready()
        text = f"{reason or 'ok'}\n".encode()
        fields = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(text))), ("Cache-Control", "no-store")]
        start_response("503 Service Unavailable" if reason else "200 OK", fields)
        return [text]

    return checked
