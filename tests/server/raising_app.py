"""An application that raises what it is asked for, where it is asked to."""

import builtins
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import gevent

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def made(name: str) -> BaseException:
    """An exception of the class that is called so."""
    found: Any = getattr(builtins, name, None) or getattr(gevent, name)
    error: BaseException = found() if name == "Timeout" else found("of the application")
    return error


class Body:
    def __init__(self, error: BaseException, where: str) -> None:
        self._error = error
        self._where = where

    def __iter__(self) -> Iterator[bytes]:
        if self._where == "first":
            raise self._error
        yield b"beginning"
        if self._where == "later":
            raise self._error

    def close(self) -> None:
        if self._where == "close":
            raise self._error


def application(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    where, _, name = environ["PATH_INFO"].strip("/").partition("/")
    if not where:
        start_response("200 OK", [("Content-Length", "5")])
        return [b"hello"]
    error = made(name)
    if where == "call":
        raise error
    if where == "taken":
        environ["muxwsgi.hijack"]().sendall(b"taken over")
        raise error
    if where == "spawned":
        gevent.spawn(_fail, error)
        gevent.sleep(0.05)
        start_response("200 OK", [])
        return [b"spawned"]
    start_response("200 OK", [])
    return Body(error, where)


def _fail(error: BaseException) -> None:
    raise error


def factory() -> None:
    """Ends as TEST_EXIT says."""
    value = os.environ["TEST_EXIT"]
    raise SystemExit(int(value) if value.isdigit() else value or None)


def interrupted() -> None:
    raise KeyboardInterrupt
