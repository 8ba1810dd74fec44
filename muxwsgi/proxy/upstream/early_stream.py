"""`EarlyStream`: a connection that is made for a tunnel before its protocol is known. The first request or relay uses it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muxwsgi.dial.upstream_proxy import UpstreamProxy
    from muxwsgi.proxy.context import Dial, Layer
    from muxwsgi.proxy.upstream.endpoint import Endpoint
    from muxwsgi.wire.connection import Connection

__all__ = ["EarlyStream"]


class EarlyStream:
    """`connection` goes to `endpoint`, with its layers of TLS. It was made through `via` or by a rule's `dial`."""

    __slots__ = ("_dial", "_endpoint", "_via", "connection")

    def __init__(self, connection: "Connection", endpoint: "Endpoint", via: "UpstreamProxy", dial: "Dial | None") -> None:
        self.connection = connection
        self._endpoint = endpoint
        self._via = via
        self._dial = dial

    def layers_left(self, endpoint: "Endpoint", via: "UpstreamProxy", dial: "Dial | None") -> "tuple[Layer, ...] | None":
        """The layers of TLS that `endpoint` still needs; None if this connection goes elsewhere."""
        made = self._endpoint
        if (made.host, made.port, self._via, self._dial) != (endpoint.host, endpoint.port, via, dial):
            return None
        done = len(made.layers)
        return endpoint.layers[done:] if endpoint.layers[:done] == made.layers else None

    @property
    def is_quiet(self) -> bool:
        """Whether the server has neither sent a byte nor ended the stream."""
        timeout = self.connection.gettimeout()
        self.connection.settimeout(0)
        try:
            self.connection.peek(1)
        except BlockingIOError:
            return True
        except OSError:
            pass
        finally:
            self.connection.settimeout(timeout)
        return False
