"""`--debug`: werkzeug's debugger, for requests from this machine alone."""

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain
from typing import Any

from werkzeug.debug import DebuggedApplication

from muxwsgi.cli.local_client import is_local
from muxwsgi.errors import OperatorError

__all__ = ["Debugged"]

log = logging.getLogger("muxwsgi.error")

#: The key of the environ under which the debugger finds the error that it shows.
_ERROR = "muxwsgi.debug.error"


class Debugged:
    """Calls `app`, and shows its errors in the debugger to those who are at this machine. Its PIN is in the error log."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self._debugger = DebuggedApplication(self._raise_again, evalex=True, console_init_func=lambda: {"app": app})
        self._debugger.trusted_hosts = [".localhost", "127.0.0.1", "[::1]"]
        if self._debugger.pin is None:
            raise OperatorError("debug: WERKZEUG_DEBUG_PIN turns the PIN off, and everybody at this machine could run code as this user")
        log.warning("the debugger is on, for this machine alone. Its PIN is %s", self._debugger.pin)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not is_local(environ):
            return self.app(environ, start_response)  # type: ignore[no-any-return]
        if "__debugger__=yes" in environ["QUERY_STRING"] or environ["PATH_INFO"] == self._debugger.console_path:
            return self._debugger(environ, start_response)
        try:
            result: Iterable[bytes] = self.app(environ, start_response)
            return _begun(result) if isinstance(result, Generator) else result
        except Exception as error:
            environ[_ERROR] = error
            exc_info = (type(error), error, error.__traceback__)  # the application may have begun a response
            return self._debugger(environ, lambda status, headers, _=None: start_response(status, headers, exc_info))

    def _raise_again(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """The application, as the debugger sees it."""
        if _ERROR in environ:
            raise environ.pop(_ERROR)
        return self.app(environ, start_response)  # type: ignore[no-any-return]


def _begun(result: Generator[bytes, None, None]) -> Iterable[bytes]:
    """`result` after its first part was made, because an application that is a generator runs only then."""
    for first in result:
        return _Resumed(first, result)
    return result


class _Resumed:
    def __init__(self, first: bytes, result: Generator[bytes, None, None]) -> None:
        self._parts = chain((first,), result)
        self.close = result.close

    def __iter__(self) -> Iterator[bytes]:
        return self._parts
