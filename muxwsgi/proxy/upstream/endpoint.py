"""`Endpoint`: the destination of a request or a stream."""

from typing import TYPE_CHECKING

from muxwsgi.names import join_host_port
from muxwsgi.proxy.context import Layer

if TYPE_CHECKING:
    from muxwsgi.dial.upstream_proxy import UpstreamProxy

__all__ = ["Endpoint", "for_http_1"]


class Endpoint:
    """The destination of a request or a stream.

    host, port      the address to connect to
    layers          the layers of TLS, the outermost first; empty for a plain stream
    speaks_http2    whether requests are of HTTP/2, since the client knows that the server speaks it
    is_proxy        whether the client uses it as a proxy, with targets in absolute form. Their hosts are not checked here
    """

    __slots__ = ("host", "is_proxy", "layers", "port", "speaks_http2")

    def __init__(self, host: str, port: int, layers: tuple[Layer, ...] = ()) -> None:
        self.host = host
        self.port = port
        self.layers = layers
        self.is_proxy = False
        self.speaks_http2 = bool(layers) and layers[-1].alpn == ("h2",)

    @property
    def scheme(self) -> str:
        """http or https."""
        return "https" if self.layers else "http"

    def is_asked_of(self, via: "UpstreamProxy") -> bool:
        """Whether requests for it go to the proxy `via` with an absolute target, and not through a tunnel of `via`."""
        return via.speaks_http and not self.layers and not self.is_proxy

    @property
    def authority(self) -> str:
        """host:port, an IPv6 address in brackets."""
        return join_host_port(self.host, self.port)


def for_http_1(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """`layers` for requests of HTTP/1.1, also if the client has agreed on HTTP/2."""
    if layers and layers[-1].alpn == ("h2",):
        return (*layers[:-1], Layer(layers[-1].server_name, ("http/1.1",)))
    return layers
