"""An application with large answers: a file, a list, a generator."""

import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

SIZE = 64_000_000


def _blocks() -> Iterator[bytes]:
    for _ in range(SIZE // 64_000):
        yield bytes(64_000)


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    if environ["PATH_INFO"] == "/list":
        return [bytes(SIZE)]
    if environ["PATH_INFO"] == "/generator":
        return _blocks()
    file = tempfile.TemporaryFile()
    file.truncate(SIZE)
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file)
    return wrapped
