"""1 MiB in 64 chunks, of a length that the server is not told."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

CHUNKS = 64
CHUNK = bytes(range(256)) * 64


def application(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return _chunks()


def _chunks() -> Iterator[bytes]:
    for _ in range(CHUNKS):
        yield CHUNK
