"""The page that `--reload` serves while the application cannot be loaded."""

from collections.abc import Callable, Iterable
from html import escape
from typing import Any

from muxwsgi.cli.local_client import is_local

__all__ = ["ErrorPage"]

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>The application cannot be loaded</title>{refresh}
<style>body {{ font: 16px sans-serif; margin: 2em; }} pre {{ font-size: 14px; overflow: auto; background: #eee; padding: 1em; }}</style>
</head><body><h1>The application cannot be loaded</h1>
<p>{line}</p>
<pre>{detail}</pre>
<p>It is loaded again when one of its files changes.</p></body></html>
"""

_ELSEWHERE = "This page is shown only at the machine of the server. The error log has the same."


class ErrorPage:
    """A WSGI application that answers every request with 500, and the reason for requests from this machine."""

    def __init__(self, line: str, detail: str) -> None:
        """`line` is the reason, and `detail` the traceback, which may be empty."""
        self._line = line
        self._detail = detail

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        local = is_local(environ)
        refresh = '<meta http-equiv="refresh" content="2">' if environ["REQUEST_METHOD"] == "GET" else ""
        line, detail = (self._line, self._detail) if local else (_ELSEWHERE, "")
        body = _PAGE.format(refresh=refresh, line=escape(line), detail=escape(detail)).encode("utf-8", "replace")
        fields = [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
        start_response("500 Internal Server Error", fields)
        return [body]
