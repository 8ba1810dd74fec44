"""Who is meant by `--fallback` and `--silence`: a name or a small specification, made into a route."""

from collections.abc import Iterable, Sequence

from muxwsgi.errors import OperatorError
from muxwsgi.hijackers.forward import forward_route
from muxwsgi.mux.registry import Registered, unknown_hijacker
from muxwsgi.mux.route import Route

__all__ = ["resolve"]


def resolve(spec: str, routes: Iterable[Route] = (), registered: Sequence[Registered] = ()) -> Route | None:
    """The route that `spec` means; None for `close`.

    close                   nobody: the connection is closed
    forward:HOST:PORT       passed on to another server; also forward:[ADDRESS]:PORT and forward:unix:PATH
    NAME                    one of `routes` (those of the server, `http` among them): the very same one, with
                            its limit; or else one of the `registered` hijackers, served or not

    Raises `OperatorError` for anything else, and for a hijacker that cannot be loaded.
    """
    if spec == "close":
        return None
    kind, separator, target = spec.partition(":")
    if kind == "forward" and separator:
        return forward_route(target)
    known = {route.name: route for route in routes}
    if spec in known:
        return known[spec]
    for plugin in registered:
        if plugin.name == spec:
            if plugin.hijacker is None:
                raise OperatorError(
                    plugin.error.line if plugin.error else f"hijacker {spec!r} cannot be loaded"
                )
            return plugin.hijacker.route()
    names = {"close", "forward:HOST:PORT", *known, *(plugin.name for plugin in registered)}
    raise OperatorError(unknown_hijacker(spec, names))
