"""`Endpoint`: where a request or a stream goes."""

from muxwsgi.names import join_host_port
from muxwsgi.proxy.context import Layer

__all__ = ["Endpoint"]


class Endpoint:
    """Where a request or a stream goes.

    host, port      whom we connect to
    layers          TLS to be done then, the outermost first; none for a plain stream
    """

    __slots__ = ("host", "layers", "port")

    def __init__(self, host: str, port: int, layers: tuple[Layer, ...] = ()) -> None:
        self.host = host
        self.port = port
        self.layers = layers

    @property
    def scheme(self) -> str:
        """http or https."""
        return "https" if self.layers else "http"

    @property
    def authority(self) -> str:
        """host:port, an IPv6 address in brackets."""
        return join_host_port(self.host, self.port)
