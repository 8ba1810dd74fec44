"""`Endpoint`: where a request or a stream goes."""

from typing import TYPE_CHECKING

from muxwsgi.names import join_host_port
from muxwsgi.proxy.context import Layer

if TYPE_CHECKING:
    from muxwsgi.dial.upstream_proxy import UpstreamProxy

__all__ = ["Endpoint"]


class Endpoint:
    """Where a request or a stream goes.

    host, port      whom we connect to
    layers          TLS to be done then, the outermost first; none for a plain stream
    is_proxy        whether it is asked as a proxy: with targets in absolute form, of which nobody here has judged the host
    """

    __slots__ = ("host", "is_proxy", "layers", "port")

    def __init__(self, host: str, port: int, layers: tuple[Layer, ...] = ()) -> None:
        self.host = host
        self.port = port
        self.layers = layers
        self.is_proxy = False

    @property
    def scheme(self) -> str:
        """http or https."""
        return "https" if self.layers else "http"

    def is_asked_of(self, via: "UpstreamProxy") -> bool:
        """Whether a request for it goes to `via` itself, with an absolute target, and not through a stream that `via` makes."""
        return via.speaks_http and not self.layers and not self.is_proxy

    @property
    def authority(self) -> str:
        """host:port, an IPv6 address in brackets."""
        return join_host_port(self.host, self.port)
