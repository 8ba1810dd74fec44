"""`--root-path`: the application is served below a path by a proxy in front."""

from collections.abc import Callable, Iterable
from typing import Any

from muxwsgi.http.environ import Environ, WSGIApplication

__all__ = ["with_root_path"]


def with_root_path(app: WSGIApplication, root_path: str) -> WSGIApplication:
    """`app` with SCRIPT_NAME `root_path`, unless a trusted proxy gives another one. `app` itself if `root_path` is empty.

    Some proxies take the prefix off the path, and some leave it there. So it is taken off PATH_INFO if it stands there.
    """
    prefix = root_path.rstrip("/")
    if not prefix:
        return app
    below = prefix + "/"

    def application(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not environ["SCRIPT_NAME"]:
            environ["SCRIPT_NAME"] = prefix
            path = environ["PATH_INFO"]
            if path == prefix or path.startswith(below):
                environ["PATH_INFO"] = path[len(prefix) :]
        return app(environ, start_response)

    return application
