"""The errors of `wsgi.input` for a body that cannot be read to its end. They are also of the classes of the application's framework.

The errors of the connection and of the body are `OSError`s: Django makes `UnreadablePostError` of these, and werkzeug `ClientDisconnected`
where it reads a body with a Content-Length. It reads a body with `wsgi.input_terminated` (a chunked one) without that wrapping, so Flask
would log a traceback for each client that leaves. So where the application has loaded werkzeug, the same error is an `HTTPException` too.
"""

import sys
from functools import cache
from typing import Any, NoReturn

from muxwsgi.errors import PeerError

__all__ = ["raise_unreadable"]


def raise_unreadable(error: PeerError | OSError) -> NoReturn:
    """Raise `error`. If werkzeug is loaded, the exception is of the same class and also of a class of werkzeug: `ClientDisconnected`,
    `RequestEntityTooLarge` for 413, `RequestTimeout` for 408."""
    if "werkzeug.exceptions" not in sys.modules:
        raise error
    status, args, reason = 400, error.args, str(error)
    if isinstance(error, PeerError):
        status, reason = error.status, error.reason
        args = (status, reason, error.fields)
    kind: Any = type(error)
    made = _of_werkzeug(kind, status)(*args)
    made.description = reason
    raise made from error


@cache
def _of_werkzeug(kind: type[Exception], status: int) -> Any:
    """A subclass of `kind` and of werkzeug's exception for `status`. `OSError` comes first, so `str` and `errno` are those of `OSError`."""
    from werkzeug.exceptions import ClientDisconnected, default_exceptions

    base = ClientDisconnected if status == 400 else default_exceptions.get(status, ClientDisconnected)
    return type(kind.__name__, (kind, base), {"__module__": kind.__module__, "code": status, "response": None})
