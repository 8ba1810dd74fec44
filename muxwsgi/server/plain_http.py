"""The answers to plain HTTP on a port that requires TLS: an error page, or a redirect."""

from collections.abc import Iterable
from typing import Any

from muxwsgi.http.environ import WSGIApplication

__all__ = ["https_required", "redirect_to_https"]


def https_required(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer 400 with an explanation."""
    return _answer(start_response, "400 Bad Request", "This port speaks HTTPS only: use https:// instead of http://.\n", [])


def redirect_to_https(port: int) -> WSGIApplication:
    """An application that redirects every request to the same URL with https (308 keeps method and body, RFC 9110 section 15.4.9)."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST", "")
        name = host[: host.rindex("]") + 1] if host.startswith("[") else host.partition(":")[0]
        path = environ["PATH_INFO"]
        if not name or not path:
            return https_required(environ, start_response)
        target = environ["RAW_URI"]
        if not target.startswith("/"):  # absolute-form
            target = "/" + target.split("/", 3)[3] if target.count("/") >= 3 else "/"
        location = f"https://{name}{'' if port == 443 else f':{port}'}{target}"
        return _answer(start_response, "308 Permanent Redirect", f"See {location}\n", [("Location", location)])

    return application


def _answer(start_response: Any, status: str, text: str, headers: list[tuple[str, str]]) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Connection", "close"), *headers])
    return [text.encode()]
