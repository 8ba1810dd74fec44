"""`Endpoint`: the destination of a request or a stream."""

from typing import TYPE_CHECKING

from muxwsgi.names import join_host_port
from muxwsgi.proxy.context import Layer

if TYPE_CHECKING:
    from muxwsgi.dial.upstream_proxy import UpstreamProxy

__all__ = ["HTTP_IDS", "Endpoint", "for_http_1", "offering"]

#: The ALPN ids of what requests are sent in, the preferred one first.
HTTP_IDS = ("h2", "http/1.1")

#: The ids of layers whose requests may be of either. Other ids are what a client has chosen for a protocol that the proxy does not know.
_OF_EITHER = frozenset({(), ("http/1.1",)})


class Endpoint:
    """The destination of a request or a stream.

    host, port      the address to connect to
    layers          the layers of TLS, the outermost first; empty for a plain stream
    begins_http2    whether requests without TLS are of HTTP/2, since the server is known to speak it ("prior knowledge")
    is_proxy        whether the client uses it as a proxy, with targets in absolute form. Their hosts are not checked here
    """

    __slots__ = ("begins_http2", "host", "is_proxy", "layers", "port")

    def __init__(self, host: str, port: int, layers: tuple[Layer, ...] = ()) -> None:
        self.host = host
        self.port = port
        self.layers = layers
        self.is_proxy = False
        self.begins_http2 = False

    @property
    def scheme(self) -> str:
        """http or https."""
        return "https" if self.layers else "http"

    @property
    def chooses(self) -> bool:
        """Whether the server can choose between HTTP/2 and HTTP/1.1 by ALPN."""
        return bool(self.layers) and self.layers[-1].alpn in _OF_EITHER

    def is_asked_of(self, via: "UpstreamProxy") -> bool:
        """Whether requests for it go to the proxy `via` with an absolute target, and not through a tunnel of `via`."""
        return via.speaks_http and not (self.layers or self.is_proxy or self.begins_http2)

    @property
    def authority(self) -> str:
        """host:port, an IPv6 address in brackets."""
        return join_host_port(self.host, self.port)


def offering(layers: tuple[Layer, ...], ids: tuple[str, ...]) -> tuple[Layer, ...]:
    """`layers`, the innermost of which offers `ids`."""
    return (*layers[:-1], Layer(layers[-1].server_name, ids))


def for_http_1(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """`layers` for requests of HTTP/1.1, also if the client has agreed on HTTP/2."""
    return offering(layers, ("http/1.1",)) if layers and layers[-1].alpn == ("h2",) else layers
