"""`Context`: the exchange or tunnel that rules, hooks and hijackers are given. goproxy's `ProxyCtx`."""

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from muxwsgi.records.fingerprint import ClientTLS
from muxwsgi.wire.connection import Address, Connection

if TYPE_CHECKING:
    import werkzeug.wrappers

    from muxwsgi.dial.upstream_proxy import UpstreamProxy
    from muxwsgi.proxy.fault import Fault
    from muxwsgi.proxy.rules.message import Request
    from muxwsgi.records.flow import Flow, Kind
    from muxwsgi.records.recorder import Recorder
    from muxwsgi.wire.tls.server_context import ServerSide

__all__ = ["Context", "Dial", "Door", "Layer", "number_sessions"]

#: How a client came in.
Door = Literal["http", "connect", "socks4", "socks5", "redirect", "tproxy"]

#: (host, port) -> a plain connection to it. A rule may set `ctx.dial` to such a function.
Dial = Callable[[str, int], Connection]

_sessions: Iterator[int] = itertools.count(1)


def number_sessions(numbers: Iterator[int]) -> None:
    """Take the numbers of requests and tunnels from there, so that several processes give each number once."""
    global _sessions
    _sessions = numbers


def _no_side() -> None:
    """For a tunnel that is not intercepted."""


class Layer(NamedTuple):
    """A layer of TLS to an upstream: `server_name` is the SNI, `alpn` the protocol ids that are offered."""

    server_name: str
    alpn: tuple[str, ...] = ()


class Context:
    """One per request and one per tunnel. The requests inside a tunnel share its `user_data`.

    session         number of the request or tunnel; no other worker gives the same one
    door            how the client came in
    client          its address
    connection      the client's connection, decrypted as far as its layers of TLS have been removed
    destination     (host, port) of the tunnel or of the request
    identity        the user that authenticated, None without authentication
    tls             the client's ClientHello, None without TLS
    passed          the Via field of the request to the proxy, inside a tunnel that of its CONNECT; "" without one
    user_data       for rules: values that they set at CONNECT are there in every request and hijack inside
    tunnel          the context of the tunnel that a request runs in, None outside
    request         None until there is one (in tunnels that carry no HTTP, always)
    response        None until there is one
    error           why the upstream gave no response, None where it did
    dial            a rule's function that connects for this request or tunnel, None for the proxy's
    upstream        the proxy to go through: None for the proxy's own choice, `DIRECT` for none
    action          the action that was decided for the tunnel, one of `rules.actions`; None outside
    server_side     returns the TLS settings with which a hijacker in the tunnel serves (`Connection.start_tls()`); None if the tunnel is
                    not intercepted
    mux             chooses the handler of a connection that a hijacker gives back (`Connection.back_to_mux()`); None if the tunnel is not
                    intercepted
    layers          the layers of TLS that were removed inside the tunnel, the outermost first
    flow            the record for the flow log, None without one
    """

    __slots__ = (
        "action",
        "client",
        "connection",
        "destination",
        "dial",
        "door",
        "error",
        "flow",
        "identity",
        "layers",
        "mux",
        "passed",
        "request",
        "response",
        "server_side",
        "session",
        "tls",
        "tunnel",
        "upstream",
        "user_data",
    )

    def __init__(self, connection: Connection, door: Door, destination: tuple[str, int] | None, tunnel: "Context | None" = None) -> None:
        self.session = next(_sessions)
        self.connection = connection
        self.door: Door = door
        self.client: Address = connection.client
        self.destination = destination
        self.identity = connection.identity
        self.tunnel = tunnel
        self.request: "Request | None" = None
        self.response: "werkzeug.wrappers.Response | None" = None
        self.error: "Fault | None" = None
        self.flow: "Flow | None" = None
        self.action: object = None
        self.server_side: Callable[[], ServerSide | None] = _no_side
        self.mux: Callable[[Connection], None] | None = None
        self.layers: tuple[Layer, ...] = ()
        if tunnel is None:
            self.tls: ClientTLS | None = None
            self.passed = ""
            self.user_data: dict[str, Any] = {}
            self.dial: Dial | None = None
            self.upstream: "UpstreamProxy | None" = None
        else:
            self.tls = tunnel.tls
            self.passed = tunnel.passed
            self.user_data = tunnel.user_data
            self.dial = tunnel.dial
            self.upstream = tunnel.upstream

    def record(self, recorder: "Recorder", kind: "Kind", connection: Connection) -> "Flow | None":
        """Begin the flow of this request or tunnel on `connection`, as `flow`; None while there are no sinks."""
        self.flow = recorder.begin(
            kind,
            connection,
            door=self.door,
            session=self.session,
            tunnel=None if self.tunnel is None else self.tunnel.session,
            destination=self.destination,
            identity=self.identity,
            client_tls=self.tls,
        )
        return self.flow

    def __repr__(self) -> str:
        return f"<Context {self.session} {self.door} from {self.client!r} to {self.destination!r}>"
