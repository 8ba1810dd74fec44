"""Sends half of a response, and then nothing for a long time."""

import time
from collections.abc import Iterator
from typing import Any


def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"half"
    time.sleep(600)
