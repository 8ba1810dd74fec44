"""Which upstream a connection is for: always the same one, or the one that a function of the operator names."""

import logging
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from muxwsgi.errors import OperatorError
from muxwsgi.upstreams.errors import NotChosen

if TYPE_CHECKING:
    from muxwsgi.upstreams.upstream import Upstream
    from muxwsgi.upstreams.upstreams import Upstreams
    from muxwsgi.wire.connection import Connection

__all__ = ["ByFunction", "Chosen", "Only"]

log = logging.getLogger("muxwsgi.error")


class Chosen(Protocol):
    """Says which upstream a connection is for. Raises `NotChosen` if it is for none."""

    def __call__(self, connection: "Connection") -> "Upstream": ...


class Only:
    """One upstream for all connections."""

    def __init__(self, upstream: "Upstream") -> None:
        self.upstream = upstream

    def __call__(self, connection: "Connection") -> "Upstream":
        return self.upstream

    def __str__(self) -> str:
        return str(self.upstream)


class ByFunction:
    """The upstream whose name a function returns, which gets the `Connection`: its `client`, `server`, `tls` (`sni`, `alpn`,
    `peer_certificate`), `identity` and `peek`. None means that the connection is refused."""

    def __init__(self, text: str, upstreams: "Upstreams") -> None:
        """`text` is python:MODULE:FUNCTION. Raises `OperatorError`."""
        self._text = text
        self._upstreams = upstreams
        self._function = _function(text.removeprefix("python:"))

    def __call__(self, connection: "Connection") -> "Upstream":
        try:
            name = self._function(connection)
        except Exception as error:
            log.exception("connection %d: the upstream could not be chosen by %s", connection.id, self)
            raise NotChosen(f"the function raised {error!r}") from error
        if name is None:
            raise NotChosen("the function names no upstream")
        try:
            return self._upstreams.named(name)
        except OperatorError as error:
            raise NotChosen(f"the function returned a wrong name: {error}") from error

    def __str__(self) -> str:
        return self._text


def _function(text: str) -> Callable[[Any], Any]:
    module, colon, name = text.partition(":")
    if not colon or not module or not name:
        raise OperatorError(f"forward:python:{text}: expected forward:python:MODULE:FUNCTION")
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # the module's code may raise anything
        detail = "" if isinstance(error, ImportError | AttributeError) else traceback.format_exc()
        raise OperatorError(f"forward:python:{text}: {error}", detail=detail) from error
    if not callable(found):
        raise OperatorError(f"forward:python:{text}: it is not a function")
    return found  # type: ignore[no-any-return]
