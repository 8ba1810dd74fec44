"""`Relays`: relays the bytes of tunnels to their destinations and back, through the chunk hooks."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from muxwsgi.proxy.context import Context
from muxwsgi.proxy.fault import Fault
from muxwsgi.proxy.rules.actions import Refused
from muxwsgi.proxy.rules.rules import Rules
from muxwsgi.proxy.streams.inspected import relay_inspected
from muxwsgi.proxy.upstream.endpoint import Endpoint
from muxwsgi.proxy.upstream.upstreams import Upstreams
from muxwsgi.records.flow import Flow
from muxwsgi.records.recorder import Recorder

if TYPE_CHECKING:
    from muxwsgi.proxy.rules.rule import ChunkFunction
    from muxwsgi.proxy.settings import ProxySettings
    from muxwsgi.wire.connection import Connection

__all__ = ["Relays"]

log = logging.getLogger("muxwsgi.proxy")


class Relays:
    """Relays connections whose `tunnel` is a `Context`."""

    def __init__(self, settings: "ProxySettings", rules: Rules, upstreams: Upstreams, recorder: Recorder) -> None:
        self._settings = settings
        self._rules = rules
        self._upstreams = upstreams
        self._recorder = recorder

    def relay(self, connection: "Connection", watches: "Sequence[ChunkFunction]" = ()) -> None:
        """Relay the bytes to the destination and back, through `watches` and the chunk hooks."""
        ctx: Context = connection.tunnel
        flow = ctx.record(self._recorder, "raw", connection)
        upstream = self.open(connection, ctx, flow)
        if upstream is not None:
            self.relay_to(connection, upstream, ctx, flow, watches)

    def open(self, connection: "Connection", ctx: Context, flow: Flow | None) -> "Connection | None":
        """A connection to the destination; None if it fails. Then the client's connection is closed."""
        try:
            assert ctx.destination is not None
            return self._upstreams.stream(Endpoint(*ctx.destination, ctx.layers), ctx)
        except Fault as fault:
            ctx.error = fault
            connection.trace.append(f"relay: {fault.reason}")
            self._recorder.end(flow, fault.reason)
            log.debug("%r: %s", connection, fault)
            return None
        except BaseException as error:
            self._recorder.end(flow, repr(error))
            raise

    def relay_to(
        self,
        connection: "Connection",
        upstream: "Connection",
        ctx: Context,
        flow: Flow | None,
        watches: "Sequence[ChunkFunction]" = (),
    ) -> None:
        """The same with a given `upstream`, which is closed at the end."""
        reason: str | None = None
        hooks = [*watches, *self._rules.chunk_hooks(ctx)]
        try:
            limits = self._settings.tunnel_idle_timeout, self._settings.tunnel_fin_timeout
            result = relay_inspected(connection, upstream, ctx, hooks, *limits)
            reason = None if result.error is None else str(result.error)
            ended = f", ended by {reason}" if reason else ""
            connection.trace.append(f"relayed: {result.from_left} bytes there, {result.from_right} back{ended}")
        except Refused as refused:
            reason = str(refused)
            connection.trace.append(f"relay: refused: {reason}")
            log.info("%r to %s: refused by a rule: %s", connection, ctx.destination, reason)
        except BaseException as error:
            reason = repr(error)
            raise
        finally:
            upstream.finish()
            self._recorder.end(flow, reason)

    def end_idle(self, connection: "Connection", ctx: Context, flow: Flow | None) -> None:
        """Close a tunnel after its idle timeout."""
        reason = f"no byte in either direction for {self._settings.tunnel_idle_timeout:g} s"
        connection.trace.append(f"relay: {reason}")
        self._recorder.end(flow, reason)
        connection.cut()
