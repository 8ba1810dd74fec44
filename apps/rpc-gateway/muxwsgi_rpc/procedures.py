"""Functions by name, and how a call of one can fail."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from werkzeug.utils import import_string

from muxwsgi.setting import setting

__all__ = ["CallError", "Options", "Procedures"]

Function = TypeVar("Function", bound=Callable[..., Any])

_log = logging.getLogger("muxwsgi.rpc")

#: Codes of errors (JSON-RPC 2.0, section 5.1).
PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = -32700, -32600, -32601, -32602, -32603


class CallError(Exception):
    """What a client is told. A procedure may raise it, with a code of its own."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Procedures:
    """The functions that clients may call. Nothing else can be called, whatever a client names."""

    def __init__(self) -> None:
        self._functions: dict[str, tuple[Callable[..., Any], inspect.Signature]] = {}

    def register(self, function: Function) -> Function:
        """Let clients call `function` by its name. For a decorator."""
        self.add(function.__name__, function)
        return function

    def add(self, name: str, function: Callable[..., Any]) -> None:
        """Let clients call `function` by `name`, such as `shop.price`."""
        self._functions[name] = function, inspect.signature(function)

    def call(self, name: object, params: Sequence[Any] | Mapping[str, Any]) -> Any:
        """What the function returns. Raises `CallError`, and nothing else: any other exception of the function is logged, and the client
        learns nothing of it."""
        found = self._functions.get(name) if isinstance(name, str) else None
        if found is None:
            raise CallError(METHOD_NOT_FOUND, "Method not found")
        function, signature = found
        args, named = ((), params) if isinstance(params, Mapping) else (params, {})
        try:
            signature.bind(*args, **named)
        except TypeError:
            raise CallError(INVALID_PARAMS, "Invalid params") from None
        try:
            return function(*args, **named)
        except CallError:
            raise
        except Exception:
            _log.exception("%s failed", name)
            raise CallError(INTERNAL_ERROR, "Internal error") from None


@dataclass(frozen=True, kw_only=True)
class Options:
    """Of both hijackers."""

    procedures: str = setting("muxwsgi_rpc.example:procedures", "MODULE:ATTRIBUTE of the `Procedures`.")
    max_message: int = setting(1 << 20, "Bytes of a message.", unit="BYTES", at_least=64)

    def load(self) -> Procedures:
        """Raises `ValueError`."""
        try:
            found = import_string(self.procedures)
        except ImportError as error:
            raise ValueError(f"procedures: {error}") from error
        if not isinstance(found, Procedures):
            raise ValueError(f"procedures: {self.procedures} is no Procedures, but {found!r}")
        return found
