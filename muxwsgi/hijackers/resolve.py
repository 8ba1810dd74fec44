"""The route that the value of `--fallback` or `--silence` means."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from muxwsgi.errors import OperatorError
from muxwsgi.mux.registry import Registered
from muxwsgi.mux.route import Route

if TYPE_CHECKING:
    from muxwsgi.upstreams.upstreams import Upstreams

__all__ = ["resolve"]


def resolve(
    spec: str, routes: Iterable[Route] = (), registered: Sequence[Registered] = (), upstreams: "Upstreams | None" = None
) -> Route | None:
    """The route that `spec` means; None for `close`.

    close                   the connection is closed
    forward:HOST:PORT       the connection is relayed to another server; see `forward_route` for what else may stand there
    NAME                    a route of `routes` (the server's, such as `http`), with its limit; else a `registered`
                            hijacker, served or not

    Raises `OperatorError` for any other value, and for a hijacker that cannot be loaded.
    """
    if spec == "close":
        return None
    kind, separator, target = spec.partition(":")
    if kind == "forward" and separator:
        from muxwsgi.hijackers.forward import forward_route  # and all of dial/

        return forward_route(target, upstreams)
    known = {route.name: route for route in routes}
    if spec in known:
        return known[spec]
    for plugin in registered:
        if plugin.name == spec:
            if plugin.hijacker is None:
                raise OperatorError(
                    plugin.error.line if plugin.error else f"hijacker {spec!r} cannot be loaded"
                )
            return plugin.made().route()
    from difflib import get_close_matches  # messages alone need it

    names = sorted({"close", "forward:HOST:PORT", *known, *(plugin.name for plugin in registered)})
    near = get_close_matches(spec, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
    raise OperatorError(f"no route or hijacker is named {spec!r}; {hint}")
