"""Request buffering: a chunked body is read before the application runs, which then sees a body with a Content-Length. In HTTP/2 this is a
body without a Content-Length.

It is for applications that read only CONTENT_LENGTH bytes. Django takes a chunked body for an empty one, and answers 200. Buffering costs
such an application nothing, because it reads the body before it answers anyway. All others get chunked bodies as they come.

It is a WSGI middleware, so it can be used for one mounted application alone. The body is read through `wsgi.input`, so the minimum rate,
`limit_request_body` and the 400 for broken chunks apply.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from muxwsgi.http.environ import Environ, WSGIApplication
from muxwsgi.settings import BufferChunked

__all__ = ["RequestBuffering", "with_buffering"]

#: Bytes of a body that are kept in memory; a larger one goes to a file in the folder for temporary files.
IN_MEMORY = 1 << 19

#: Bytes read at once.
BLOCK = 1 << 16

#: The attributes in which middlewares keep the application that they wrap.
_INNER = ("app", "wsgi_app", "application", "__wrapped__")
_DEEPEST = 20

log = logging.getLogger("muxwsgi.error")


class RequestBuffering:
    """A WSGI application that buffers chunked requests for another one.

    The file has no name, so the kernel removes it however the process ends. It is closed at the end of the exchange.
    """

    def __init__(self, app: WSGIApplication, limit: int) -> None:
        """`limit`: bytes of a chunked body, above: 413; 0 for no limit but that of other bodies."""
        from muxwsgi.http.spool import Spool  # most applications need no buffering, and `tempfile` takes long to import

        self.app = app
        self._limit = limit
        self._spool = Spool

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not environ.get("wsgi.input_terminated"):  # it has a Content-Length, or no body
            return self.app(environ, start_response)
        with contextlib.ExitStack() as stack:
            spool = stack.enter_context(self._spool(max_size=IN_MEMORY))
            size = 0
            source = environ["wsgi.input"]
            while data := source.read1(BLOCK):
                size += len(data)
                if self._limit and size > self._limit:
                    return _refused(start_response, "413 Content Too Large", f"a chunked body may have {self._limit} bytes here")
                try:
                    spool.write(data)
                except OSError as error:
                    return self._not_stored(environ, start_response, error)
            try:
                spool.seek(0)  # what the file holds back is written here, which may fail as well
            except OSError as error:
                return self._not_stored(environ, start_response, error)
            environ["wsgi.input"] = spool
            environ["CONTENT_LENGTH"] = str(size)
            environ.pop("HTTP_TRANSFER_ENCODING", None)  # the body is not chunked any more; in HTTP/2 it never was
            result = self.app(environ, start_response)
            if isinstance(result, list | tuple):
                return result
            return _Result(result, stack.pop_all())

    def _not_stored(self, environ: Environ, start_response: Callable[..., Any], error: OSError) -> list[bytes]:
        """RFC 4918 section 11.5."""
        why = error.strerror or str(error)
        log.error("a request body cannot be buffered in %s: %s: %s is answered with 507", self._spool.folder(), why, environ["RAW_URI"])
        return _refused(start_response, "507 Insufficient Storage", "no room for the request's body")


class _Result:
    """The application's iterable. Its `close` also closes the file of the request."""

    def __init__(self, result: Iterable[bytes], stack: contextlib.ExitStack) -> None:
        self._result = result
        self._stack = stack

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._result)

    def close(self) -> None:
        with self._stack:
            close = getattr(self._result, "close", None)
            if close is not None:
                close()


def _refused(start_response: Callable[..., Any], status: str, text: str) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Connection", "close")])
    return [f"{text}\n".encode()]


def with_buffering(app: WSGIApplication, when: BufferChunked, limit: int) -> WSGIApplication:
    """`app` with buffering: `always` for all requests, `django` for Django applications in it, `never` for none."""
    if when == "never" or isinstance(app, RequestBuffering):
        return app
    if when == "always" or _is_django(app):
        return RequestBuffering(app, limit)
    if type(app).__module__ == "werkzeug.middleware.dispatcher" and type(app).__name__ == "DispatcherMiddleware":
        dispatcher: Any = app
        mounts = {prefix: with_buffering(mounted, when, limit) for prefix, mounted in dispatcher.mounts.items()}
        again: WSGIApplication = type(dispatcher)(with_buffering(dispatcher.app, when, limit), mounts)
        return again
    return RequestBuffering(app, limit) if _leads_to_django(app) else app


def _leads_to_django(app: object, depth: int = 0) -> bool:
    """Whether `app` is or wraps a Django application, as far as its attributes show."""
    if _is_django(app):
        return True
    if depth == _DEEPEST:
        return False
    inner = [_attribute(app, name) for name in _INNER]
    mounts = _attribute(app, "mounts")
    inner += mounts.values() if isinstance(mounts, dict) else []
    return any(_leads_to_django(each, depth + 1) for each in inner if callable(each) and each is not app)


def _attribute(app: object, name: str) -> Any:
    try:
        return getattr(app, name, None)
    except Exception:  # a property of an application's class, which may do anything
        return None


def _is_django(app: object) -> bool:
    """isinstance, without importing Django for it."""
    return any(cls.__module__ == "django.core.handlers.wsgi" and cls.__name__ == "WSGIHandler" for cls in type(app).__mro__)
