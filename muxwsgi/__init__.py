"""muxwsgi: one port, every protocol, any WSGI app.

A server that asks every connection one question, "what are your first bytes?", and hands it to the handler that the answer
names: HTTP to a WSGI application, anything else to a hijacker.

The public names are loaded on first use, so that `import muxwsgi` in a plugin, or the command line's `--help`, does not import
gevent.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from muxwsgi.errors import Draining, Expired, HandshakeError, OperatorError, PeerError, TLSError
    from muxwsgi.mux.hijack import hijack
    from muxwsgi.mux.match import Match
    from muxwsgi.mux.mux import Mux
    from muxwsgi.mux.route import Route
    from muxwsgi.server.server import Server
    from muxwsgi.wire.connection import Connection

_HOMES = {
    "Connection": "muxwsgi.wire.connection",
    "Draining": "muxwsgi.errors",
    "Expired": "muxwsgi.errors",
    "HandshakeError": "muxwsgi.errors",
    "Match": "muxwsgi.mux.match",
    "Mux": "muxwsgi.mux.mux",
    "OperatorError": "muxwsgi.errors",
    "PeerError": "muxwsgi.errors",
    "Route": "muxwsgi.mux.route",
    "Server": "muxwsgi.server.server",
    "TLSError": "muxwsgi.errors",
    "hijack": "muxwsgi.mux.hijack",
}

__all__ = [
    "Connection",
    "Draining",
    "Expired",
    "HandshakeError",
    "Match",
    "Mux",
    "OperatorError",
    "PeerError",
    "Route",
    "Server",
    "TLSError",
    "__version__",
    "hijack",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if home != "muxwsgi.errors":
        from muxwsgi.build import wrong_platform

        reason = wrong_platform()
        if reason is not None:
            raise ImportError(reason)
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
