"""An application that answers with the id of its request."""

import logging
from collections.abc import Iterable
from typing import Any


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/fail":
        raise LookupError("of the application")
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield environ.get("muxwsgi.request_id", "none").encode()
    logging.getLogger("muxwsgi.error").info("a line of the server")
