"""An application that says which trace it runs in."""

import json
import sys
from collections.abc import Iterable
from typing import Any


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    match environ["PATH_INFO"]:
        case "/fail":
            raise LookupError("of the application")
        case "/half":
            return half(start_response)
        case "/missing":
            start_response("404 Not Found", [])
            return [b""]
    loaded = "opentelemetry" in sys.modules
    told = {key: environ.get(f"HTTP_{key.upper()}", "none") for key in ("traceparent", "tracestate")} | {"loaded": loaded, "current": ""}
    if loaded:
        from opentelemetry import trace

        told["current"] = f"{trace.get_current_span().get_span_context().span_id:016x}"
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(told).encode()]


def half(start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "10")])
    yield b"x"
    raise LookupError("in the middle")
