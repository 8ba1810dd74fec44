"""`HandedOver`: sends the file that an application names in its response, after it has decided who may have it.

`X-Sendfile: /path/of/the/file` as with Apache's mod_xsendfile, and `X-Accel-Redirect: /prefix/file` as with nginx. Both work only below
folders that the operator has named. The application's status must be 200, and its body is dropped.
"""

import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import unquote_to_bytes

from muxwsgi.errors import OperatorError
from muxwsgi.http.environ import Environ, WSGIApplication
from muxwsgi.http.static.files import NotThere, OpenFile, answer, respond
from muxwsgi.http.static.folder import content_type

__all__ = ["HandedOver"]

log = logging.getLogger("muxwsgi.error")

#: Fields of the application that are about its own body. Those of the file take their place.
_OF_THE_BODY = frozenset({"x-sendfile", "x-accel-redirect", "content-length", "etag", "last-modified", "accept-ranges", "content-range"})


class HandedOver:
    """A WSGI application around another one. All responses without such a field pass unchanged."""

    def __init__(self, app: WSGIApplication, folders: Iterable[str], internal: dict[str, str]) -> None:
        """X-Sendfile may name files below `folders`. `internal` has the prefixes of X-Accel-Redirect, each with its folder. Without them,
        the field is passed on as any other. Raises `OperatorError`."""
        self.app = app
        self._folders = [_existing("x_sendfile", folder) for folder in folders]
        self._internal = [(prefix, _existing("x_accel_redirect", folder)) for prefix, folder in internal.items()]
        self._names = {name for name, known in (("x-sendfile", self._folders), ("x-accel-redirect", self._internal)) if known}

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        begun = _Begun(start_response, self._names)
        result = self.app(environ, begun)
        if not begun.called:  # the application is a generator
            result = _Started(result)
        if begun.named is None:
            return result
        name, value = begun.named
        if hasattr(result, "close"):
            result.close()
        fields = [field for field in begun.fields if field[0].lower() not in _OF_THE_BODY]
        try:
            path, root = self._place(name, value)
            file = OpenFile(path, root)
        except NotThere:
            log.error("%s: %s is not a file below a folder that was named for it", name, value)
            return answer(start_response, "404 Not Found", [])
        if not any(field.lower() == "content-type" for field, _ in fields):
            fields.append(("Content-Type", content_type(os.fsdecode(path))))
        return respond(environ, start_response, file, fields)

    def _place(self, name: str, value: str) -> tuple[bytes, bytes]:
        """The path, and the folder that it has to be in. Raises `NotThere`."""
        if name == "x-sendfile":
            path = os.path.normpath(unquote_to_bytes(value) if "%" in value else os.fsencode(value))
            for root in self._folders:
                if path.startswith(root + b"/"):
                    return path, os.path.realpath(root)
            raise NotThere
        path = unquote_to_bytes(value.partition("?")[0])
        for prefix, root in self._internal:
            if path.startswith(os.fsencode(prefix) + b"/"):
                inner = os.path.normpath(path[len(os.fsencode(prefix)) :].lstrip(b"/"))
                if inner.startswith(b"..") or b"\0" in inner:
                    raise NotThere
                return root + b"/" + inner, os.path.realpath(root)
        raise NotThere


class _Begun:
    """The `start_response` of the application. It holds a head back that names a file.

    called      whether the application has called it
    fields      of the head that is held back
    named       the name of the field that names a file, in lower case, and its value; None without one
    """

    def __init__(self, start_response: Callable[..., Any], names: set[str]) -> None:
        self._start_response = start_response
        self._names = names
        self.called = False
        self.fields: list[tuple[str, str]] = []
        self.named: tuple[str, str] | None = None

    def __call__(self, status: str, fields: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        self.called = True
        self.named = next(((name.lower(), value) for name, value in fields if name.lower() in self._names), None)
        if self.named is not None and status.startswith("200"):
            self.fields = list(fields)
            return lambda data: None
        self.named = None
        write: Callable[[bytes], object] = self._start_response(status, fields, exc_info)
        return write


class _Started:
    """An iterable whose first block was taken already."""

    def __init__(self, result: Iterable[bytes]) -> None:
        self._result = result
        self._rest = iter(result)
        self._first = list(itertools.islice(self._rest, 1))

    def __iter__(self) -> Iterator[bytes]:
        return itertools.chain(self._first, self._rest)

    def close(self) -> None:
        close = getattr(self._result, "close", None)
        if close is not None:
            close()


def _existing(option: str, folder: str) -> bytes:
    if not os.path.isdir(folder):
        raise OperatorError(f"{option}: {folder} is not a folder")
    return os.fsencode(os.path.abspath(folder)).rstrip(b"/")
