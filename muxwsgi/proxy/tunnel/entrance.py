"""`Entrance`: every tunnel begins here. CONNECT, SOCKS and transparent binds call it once they know the client and its destination.

The connect rules decide about the tunnel. If none of them decides, the proxy's default action applies:

    Accept      the proxy connects to the destination, and relays bytes
    Reject      the tunnel is refused
    Mitm        the tunnel is intercepted: see `Tunnels`
    Hijack      a function of the operator gets the connection
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import werkzeug.wrappers

from muxwsgi.dial.errors import InvalidTarget
from muxwsgi.dial.resolve import check_target
from muxwsgi.names import address_text, split_host_port
from muxwsgi.proxy.context import Context, Door
from muxwsgi.proxy.fault import Fault, Phase
from muxwsgi.proxy.rules.actions import Accept, Action, Hijack, Mitm, Reject
from muxwsgi.proxy.rules.rules import Rules
from muxwsgi.proxy.tunnel.relays import Relays
from muxwsgi.proxy.tunnel.tunnels import Tunnels
from muxwsgi.proxy.upstream.endpoint import Endpoint
from muxwsgi.proxy.upstream.upstreams import Upstreams
from muxwsgi.records.recorder import Recorder

if TYPE_CHECKING:
    from muxwsgi.proxy.settings import ProxySettings
    from muxwsgi.wire.connection import Connection

__all__ = ["Entrance", "Rejected"]


class Rejected(Fault):
    """A rule refuses the tunnel. `response` is the rule's response to the client, None for the proxy's."""

    def __init__(self, response: werkzeug.wrappers.Response | None) -> None:
        super().__init__(Phase.POLICY, "a rule refuses this destination")
        self.response = response


class Entrance:
    """Decides about tunnels, and serves each to its end."""

    def __init__(
        self, settings: "ProxySettings", rules: Rules, upstreams: Upstreams, recorder: Recorder, tunnels: Tunnels, relays: Relays
    ) -> None:
        self._default: Action = Mitm() if settings.default_action == "mitm" else Accept()
        self._rules = rules
        self._upstreams = upstreams
        self._recorder = recorder
        self._tunnels = tunnels
        self._relays = relays

    def follows(self, rules: Rules) -> bool:
        """Whether these rules decide here."""
        return self._rules is rules

    def open(self, connection: "Connection", door: Door, destination: tuple[str, int], reply: Callable[[Fault | None], None]) -> None:
        """Serve a tunnel. `reply` tells the client the result. This is `Open` of the doors."""

        def established() -> "Connection":
            reply(None)
            return connection

        try:
            self.enter(Context(connection, door, destination), established)
        except Fault as fault:
            reply(fault)

    def enter(self, ctx: Context, established: Callable[[], "Connection"]) -> None:
        """Decide about a tunnel, and serve it to its end. Raises `Fault` if it is refused; then `established` was not called."""
        assert ctx.destination is not None
        decided, goes_to = self._rules.connect(address_text(ctx.destination), ctx)
        if goes_to != address_text(ctx.destination):
            host, port = split_host_port(goes_to)
            assert port is not None  # `Rules` has checked
            ctx.destination = (host, port)
        ctx.action = action = decided or self._default
        if isinstance(action, (Accept, Mitm)):
            try:
                check_target(*ctx.destination)  # now, because the client cannot get an error once the tunnel is established
            except InvalidTarget as error:
                raise Fault.of_dial(error) from error
        match action:
            case Reject(response):
                rejected = Rejected(response)
                self._recorder.end(ctx.record(self._recorder, "connect", ctx.connection), rejected.reason)
                raise rejected
            case Accept():
                self._accept(ctx, established, asked_by_name=decided is None and self._rules.has_connect_rules)
            case Mitm():
                self._tunnels.intercept(_in_tunnel(established(), ctx), ctx, action)
            case Hijack(handler):
                handler(_in_tunnel(established(), ctx), ctx)

    def _accept(self, ctx: Context, established: Callable[[], "Connection"], *, asked_by_name: bool) -> None:
        """Relay. It connects to the upstream before the tunnel is established, so that the client can get an error."""
        assert ctx.destination is not None
        flow = ctx.record(self._recorder, "raw", ctx.connection)
        try:
            upstream = self._upstreams.stream(Endpoint(*ctx.destination), ctx)
        except BaseException as error:
            self._recorder.end(flow, error.reason if isinstance(error, Fault) else repr(error))
            raise
        try:
            connection = _in_tunnel(established(), ctx)
        except BaseException as error:
            upstream.finish()
            self._recorder.end(flow, repr(error))
            raise
        if asked_by_name:
            self._tunnels.relay_by_name(connection, upstream, ctx, flow)
        else:
            self._relays.relay_to(connection, upstream, ctx, flow)


def _in_tunnel(connection: "Connection", ctx: Context) -> "Connection":
    connection.tunnel = ctx
    connection.identity = ctx.identity  # in HTTP/2, requests of others may have come on the same connection meanwhile
    connection.destination = ctx.destination
    ctx.connection = connection
    return connection
