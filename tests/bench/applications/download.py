"""1 MiB in one piece."""

from collections.abc import Callable, Iterable
from typing import Any

BODY = b"0123456789abcdef" * 65536
HEADERS = [("Content-Type", "application/octet-stream"), ("Content-Length", str(len(BODY)))]


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", HEADERS)
    return [BODY]
