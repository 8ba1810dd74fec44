"""`hello`, with the process that answers in a field."""

import os
from typing import TYPE_CHECKING

from tests.bench.applications.hello import BODY

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def application(environ: "WSGIEnvironment", start_response: "StartResponse") -> list[bytes]:
    environ["wsgi.input"].read()
    fields = [("Content-Type", "text/plain"), ("Content-Length", str(len(BODY))), ("X-Worker", str(os.getpid()))]
    start_response("200 OK", fields)
    return [BODY]
