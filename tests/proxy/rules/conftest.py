"""Requests as the engine hands them to the proxy, without an engine: the head is parsed by the engine's own parser."""

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from muxwsgi.http.h1.head import Head
from muxwsgi.proxy.context import Context
from muxwsgi.proxy.rules.message import Request
from muxwsgi.settings import HTTPSettings
from muxwsgi.testing import connection_pair
from tests.proxy.hello import client_tls

MakeEnviron = Callable[..., dict[str, Any]]
MakeRequest = Callable[..., Request]
MakeContext = Callable[..., Context]


@pytest.fixture
def make_environ() -> MakeEnviron:
    def make(head: str, body: bytes = b"") -> dict[str, Any]:
        """The environ of a head that is written with line feeds alone, and without the empty line that ends it."""
        raw = head.strip().replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n"
        shared: dict[str, Any] = {"wsgi.url_scheme": "http", "REMOTE_ADDR": "192.0.2.7"}
        environ = Head(HTTPSettings(), shared).parse(raw)
        environ["wsgi.input"] = io.BufferedReader(io.BytesIO(body))
        environ["wsgi.input_terminated"] = True
        return environ

    return make


@pytest.fixture
def make_request(make_environ: MakeEnviron) -> MakeRequest:
    def make(
        url: str = "http://example.com/", method: str = "GET", fields: str = "", body: bytes = b"", *, chunked: bool = False, **options: Any
    ) -> Request:
        scheme, _, rest = url.partition("://")
        authority, slash, target = rest.partition("/")
        if body:
            fields += "\nTransfer-Encoding: chunked" if chunked else f"\nContent-Length: {len(body)}"
        environ = make_environ(f"{method} {slash or '/'}{target} HTTP/1.1\nHost: {authority}\n{fields.strip()}", body)
        return Request.of(environ, scheme, authority, **options)

    return make


@pytest.fixture
def make_context() -> Iterator[MakeContext]:
    connections = []

    def make(
        destination: tuple[str, int] | None = None, *, client: Any = ("192.0.2.7", 40000), request: Request | None = None, tls: bool = False
    ) -> Context:
        near, far = connection_pair()
        connections.extend((near, far))
        near.client = client
        ctx = Context(near, "connect", destination)
        ctx.request = request
        if tls:
            ctx.tls = client_tls("example.com")
        return ctx

    yield make
    for connection in connections:
        connection.close()
