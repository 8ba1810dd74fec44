"""`NestedConnect`: CONNECT inside an intercepted tunnel to another proxy. The inner tunnel goes through that proxy."""

from collections.abc import Iterable
from time import monotonic
from typing import TYPE_CHECKING

from muxwsgi.errors import Expired
from muxwsgi.http.body import BrokenBody
from muxwsgi.http.client.connection import BrokenResponse, ClientConnection, ClientSettings
from muxwsgi.proxy.exchange.fields import RequestPlan, end_to_end
from muxwsgi.proxy.fault import Fault, Phase
from muxwsgi.proxy.rules.message import Response
from muxwsgi.proxy.upstream.endpoint import Endpoint, for_http_1
from muxwsgi.proxy.upstream.upstreams import Upstreams

if TYPE_CHECKING:
    from muxwsgi.proxy.context import Context
    from muxwsgi.wire.connection import Connection

__all__ = ["NestedConnectRefused", "NestedConnect"]

#: Bytes of the other proxy's error page that are passed on at most.
PAGE_AT_MOST = 65536


class NestedConnectRefused(Fault):
    """The other proxy refuses the tunnel. `response` is its response; after a 407 the client can authenticate."""

    def __init__(self, proxy: str, response: Response) -> None:
        super().__init__(Phase.CHAIN, f"the proxy {proxy} answered {response.status}")
        self.response = response


class NestedConnect:
    """A `Dial`: connects to the tunnel's destination, and sends the client's CONNECT there, with its credentials."""

    def __init__(self, upstreams: Upstreams, tunnel: "Context", fields: Iterable[tuple[str, str]], timeout: float) -> None:
        """`tunnel` goes to the other proxy. `fields` are those of the client's CONNECT. The other proxy has `timeout` seconds to answer."""
        assert tunnel.destination is not None  # every tunnel has one
        self._upstreams = upstreams
        self._tunnel = tunnel
        self._proxy = Endpoint(*tunnel.destination, for_http_1(tunnel.layers))
        self._fields = list(fields)
        self._timeout = timeout

    def __call__(self, host: str, port: int) -> "Connection":
        """Raises `Fault`."""
        goes_to = Endpoint(host, port).authority
        plan = RequestPlan("CONNECT", goes_to, self._fields)
        plan.host = goes_to
        plan.in_tunnel = True
        name = self._proxy.authority
        connection = self._upstreams.stream(self._proxy, self._tunnel)
        try:
            connection.deadline = monotonic() + self._timeout
            client = ClientConnection(connection, ClientSettings(response_head_timeout=0))
            client.send(plan.head()[0])
            answer = client.receive("CONNECT")
            if answer.status == 101:
                raise BrokenResponse("it switches to another protocol without a request for it")
            if not 200 <= answer.status < 300:
                raise NestedConnectRefused(name, _page(client, answer.status, answer.reason, end_to_end(answer.fields)))
            connection.lifeline.deadline = float("inf")
            return client.take_over()
        except BaseException as error:
            connection.finish()
            if isinstance(error, Expired):
                raise Fault(Phase.TIMEOUT, f"the proxy {name} has not answered in time") from error
            if isinstance(error, OSError):
                reason = error.reason if isinstance(error, (BrokenResponse, BrokenBody)) else error.strerror or str(error)
                raise Fault(Phase.CHAIN, f"the proxy {name}: {reason}") from error
            raise


def _page(client: ClientConnection, status: int, reason: str, fields: list[tuple[str, str]]) -> Response:
    """The refusal with its page. A page that is too long is left out."""
    page = b""
    while not client.body.done and len(page) <= PAGE_AT_MOST:
        page += client.body.read_some(PAGE_AT_MOST)
    kept = [field for field in fields if field[0].lower() != "content-length"]
    if len(page) > PAGE_AT_MOST:
        page = b""
        kept = [field for field in kept if field[0].lower() not in ("content-type", "content-encoding")]
    return Response.of_upstream(status, reason, kept, [page])
