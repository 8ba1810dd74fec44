"""`ConditionalMux`: a mux with routes that are only for some connections, by their client, their TLS or the time.

What holds is found out once, before the question. Then the routes that are left are an ordinary mux, so its laws hold: among them the
decision depends on the bytes alone.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from muxwsgi.mux.mux import Mux
from muxwsgi.mux.route import Route

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["ConditionalMux", "mux_of"]

#: Muxes that are kept, one for each set of routes that some connection had.
_KEPT = 256


class ConditionalMux(Mux):
    """A mux that asks only the routes whose condition (`Route.when`) holds. Its own `decide` asks all of them."""

    def __init__(self, routes: Iterable[Route], **options: Any) -> None:
        """As `Mux`, and several routes may take silence: the first whose condition holds gets it, and then one without a condition."""
        routes = list(routes)
        whole = options if options.get("silence") else options | {"silence": next((each for each in routes if each.takes_silence), None)}
        super().__init__(routes, **whole)
        self._options = options
        self._silence_of_all = options.get("silence") or next((each for each in routes if each.takes_silence and each.when is None), None)
        self._narrowed: dict[tuple[bool, ...], Mux] = {}

    def __call__(self, connection: "Connection") -> None:
        """As `Mux`."""
        holds = tuple([route.when is None or route.when(connection) for route in self.routes])
        mux = self._narrowed.get(holds)
        if mux is None:
            if len(self._narrowed) >= _KEPT:
                self._narrowed.clear()
            routes = [route for route, held in zip(self.routes, holds, strict=True) if held]
            silence = next((route for route in routes if route.takes_silence and route.when is not None), self._silence_of_all)
            mux = self._narrowed[holds] = Mux(routes, **(self._options | {"silence": silence}))
        mux(connection)


def mux_of(routes: Iterable[Route], **options: Any) -> Mux:
    """A mux of `routes`, which looks at their conditions if there are any."""
    routes = list(routes)
    kind = ConditionalMux if any(route.when is not None for route in routes) else Mux
    return kind(routes, **options)
