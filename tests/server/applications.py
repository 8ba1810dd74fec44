"""What operators name by mistake, and applications that only look like it."""

import functools
from collections.abc import Iterable
from typing import Any


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """As Starlette's functions are."""


class _ASGI:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """As FastAPI's objects are."""


asgi_object = _ASGI()


def wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [environ["SERVER_PORT"].encode(), b" ", environ["REMOTE_ADDR"].encode()]


def create_app(config: Any = None, debug: bool = False) -> Any:
    return wsgi


class Site:
    """As a Flask subclass that nobody has made an object of."""

    def __init__(self, config: Any = None, debug: bool = False) -> None:
        self.config = config

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return wsgi(environ, start_response)


@functools.wraps(wsgi)
def wrapped(*arguments: Any, **more: Any) -> Iterable[bytes]:
    return wsgi(*arguments, **more)


def anything(*arguments: Any) -> Iterable[bytes]:
    return wsgi(*arguments)


class PerRequest:
    """PEP 3333's class that is an application."""

    def __init__(self, environ: dict[str, Any], start_response: Any) -> None:
        self._result = wsgi(environ, start_response)

    def __iter__(self) -> Any:
        return iter(self._result)


site = Site()
partial = functools.partial(lambda extra, environ, start_response: wsgi(environ, start_response), 1)
