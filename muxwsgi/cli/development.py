"""What is checked for `--debug` before anything is served. Imports neither gevent nor werkzeug."""

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any

from muxwsgi.errors import OperatorError
from muxwsgi.names import unmapped
from muxwsgi.server.binds import Listening

__all__ = ["check_debug", "places_of"]


def check_debug(values: Mapping[str, Any], places: Iterable[tuple[str, str | None]], workers: int) -> None:
    """Raises `OperatorError` if another machine could reach the debugger, or a request another worker than the one with the traceback.

    `places` are the addresses to listen on: as an operator writes each, and its IP address, None for a unix socket."""
    if not values["debug"]:
        return
    for address, host in places:
        if host is None:
            raise OperatorError(f"debug: {address}: it is not known who connects to a unix socket, and the debugger runs any code")
        if not unmapped(ip_address(host.partition("%")[0])).is_loopback:
            raise OperatorError(
                f"debug: {address}: other machines can reach it, and the debugger runs any code; bind loopback, as in 127.0.0.1:8000"
            )
    if workers > 1:
        raise OperatorError("debug: a traceback is in the worker that it happened in, so there can be only one (--workers 1)")


def places_of(listening: Iterable[Listening]) -> list[tuple[str, str | None]]:
    """The places of open sockets."""
    names = [(each.address, each.socket.getsockname()) for each in listening]
    return [(address, name[0] if isinstance(name, tuple) else None) for address, name in names]
