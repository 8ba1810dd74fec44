"""JSON-RPC 2.0 (https://www.jsonrpc.org/specification): over TCP, one message a line, and over HTTP."""

import json
import logging
from collections.abc import Callable, Iterable
from typing import Any

from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.wrappers import Request, Response

from muxwsgi import Connection, hijack
from muxwsgi.mux.matchers import regex
from muxwsgi_rpc.procedures import INTERNAL_ERROR, INVALID_REQUEST, PARSE_ERROR, CallError, Options, Procedures

__all__ = ["JSONRPC", "answer", "json_rpc_application"]

_log = logging.getLogger("muxwsgi.rpc")

#: Calls in a batch.
BATCH = 100


def answer(text: bytes, procedures: Procedures) -> bytes | None:
    """The response to one message, a call or a batch; None if it holds only notifications."""
    try:
        message = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):  # ValueError: also what is not UTF-8
        return _error(None, CallError(PARSE_ERROR, "Parse error"))
    if not isinstance(message, list):
        return _one(message, procedures)
    if not message or len(message) > BATCH:
        return _error(None, CallError(INVALID_REQUEST, "Invalid Request"))
    answers = [each for each in (_one(call, procedures) for call in message) if each is not None]
    return b"[" + b",".join(answers) + b"]" if answers else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")  # RFC 8259 section 6


def _one(call: Any, procedures: Procedures) -> bytes | None:
    wants_answer = not isinstance(call, dict) or "id" in call
    ident = call.get("id") if isinstance(call, dict) else None
    if not isinstance(ident, str | int | float | None) or isinstance(ident, bool):
        ident = None
    try:
        if not isinstance(call, dict) or call.get("jsonrpc") != "2.0" or not isinstance(call.get("method"), str):
            wants_answer = True  # only a valid request can be a notification (section 4.1)
            raise CallError(INVALID_REQUEST, "Invalid Request")
        params = call.get("params", [])
        if not isinstance(params, list | dict):
            wants_answer = True
            raise CallError(INVALID_REQUEST, "Invalid Request")
        result = procedures.call(call["method"], params)
        if not wants_answer:
            return None
        return _encoded({"jsonrpc": "2.0", "result": result, "id": ident})
    except CallError as error:
        return _error(ident, error) if wants_answer else None
    except (TypeError, ValueError, RecursionError):
        _log.exception("the result of %s cannot be written as JSON", call["method"])
        return _error(ident, CallError(INTERNAL_ERROR, "Internal error"))


def _error(ident: Any, error: CallError) -> bytes:
    return _encoded({"jsonrpc": "2.0", "error": {"code": error.code, "message": error.message}, "id": ident})


def _encoded(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode()


@hijack(
    match=regex(rb"\s*(?:\[\s*)?\{\s*\"(?:jsonrpc|method|params|id)\"", 256),
    options=Options,
    idle_timeout=600,
)
class JSONRPC:
    """One message a line, answered in order."""

    def __init__(self, options: Options) -> None:
        self._procedures = options.load()
        self._longest = options.max_message

    def __call__(self, connection: Connection) -> None:
        with connection.makefile("rb") as lines:
            while True:
                connection.resting = True
                line = lines.readline(self._longest)
                connection.resting = False
                if not line:
                    return
                if not line.strip():
                    continue
                if len(line) == self._longest and not line.endswith(b"\n"):
                    connection.sendall(_error(None, CallError(INVALID_REQUEST, "the message is too long")) + b"\n")
                    return
                response = answer(line, self._procedures)
                if response is not None:
                    connection.sendall(response + b"\n")


def json_rpc_application(procedures: Procedures, max_message: int = 1 << 20) -> Callable[[dict[str, Any], Any], Iterable[bytes]]:
    """A WSGI application that answers POSTed messages, for the same procedures."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(environ)
        request.max_content_length = max_message
        try:
            if request.method != "POST":
                raise MethodNotAllowed(["POST"])
            response = answer(request.get_data(), procedures)
        except HTTPException as error:  # also 413
            return error(environ, start_response)
        if response is None:
            return Response(status=204)(environ, start_response)
        return Response(response, content_type="application/json")(environ, start_response)

    return application
