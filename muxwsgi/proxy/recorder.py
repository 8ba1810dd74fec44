"""`Recorder`: makes flows while somebody listens, and nothing while nobody does."""

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from muxwsgi.errors import Cut
from muxwsgi.names import join_host_port
from muxwsgi.proxy.flow import Flow, FlowSink, Kind, TLSSide

if TYPE_CHECKING:
    from muxwsgi.proxy.context import Context
    from muxwsgi.wire.connection import Address, Connection

__all__ = ["Recorded", "Recorder"]

log = logging.getLogger("muxwsgi.error")


class Recorder:
    """Begins and ends flows. `sinks` get each flow when it has ended."""

    def __init__(self, sinks: Iterable[FlowSink], capture_limit: int) -> None:
        self.sinks = list(sinks)
        self._capture_limit = capture_limit

    def begin(self, kind: Kind, ctx: "Context", connection: "Connection") -> Flow | None:
        """A flow for what begins now, as `ctx.flow`; None where nobody listens."""
        if not self.sinks:
            return None
        ctx.flow = flow = Flow(
            kind,
            address_text(connection.client),
            address_text(connection.server),
            ctx.door,
            ctx.session,
            connection.id,
            self._capture_limit,
            tunnel=None if ctx.tunnel is None else ctx.tunnel.session,
            destination=None if ctx.destination is None else address_text(ctx.destination),
            identity=ctx.identity,
        )
        said = ctx.tls
        if connection.tls is not None:
            flow.client_tls = TLSSide(
                version=connection.tls.version,
                cipher=connection.tls.cipher,
                sni=connection.tls.sni,
                alpn=connection.tls.alpn,
                ja3=None if said is None else said.ja3,
                ja4=None if said is None else said.ja4,
            )
        elif said is not None:  # TLS that is passed through: the ClientHello is all that can be known of it
            flow.client_tls = TLSSide(version=None, cipher=None, sni=said.sni, ja3=said.ja3, ja4=said.ja4)
        return flow

    def end(self, flow: Flow | None, ctx: "Context", error: str | None) -> None:
        """It has ended, whole or by `error`. Only the first call for a flow counts, so that whoever sees it fail may say so."""
        if flow is None or flow.ended is not None:
            return
        flow.ended = flow.now()
        flow.error = error
        flow.trace = list(ctx.connection.trace)
        for sink in self.sinks:
            try:
                sink(flow)
            except Cut:
                raise
            except BaseException:  # a failing sink must not affect traffic
                log.exception("the flow sink %r failed: it has not taken flow %d", sink, flow.id)


class Recorded:
    """The body of a response as rules and applications leave it, on its way into a flow, which ends with it."""

    __slots__ = ("_body", "_ctx", "_error", "_flow", "_iterator", "_recorder")

    def __init__(self, body: Iterable[bytes], flow: Flow, ctx: "Context", recorder: Recorder) -> None:
        self._body = body
        self._iterator: Iterator[bytes] = iter(body)
        self._flow = flow
        self._ctx = ctx
        self._recorder = recorder
        self._error: str | None = "the client went away"

    def __iter__(self) -> "Recorded":
        return self

    def __next__(self) -> bytes:
        try:
            block = next(self._iterator)
        except StopIteration:
            self._error = None
            raise
        except BaseException as error:
            self._error = str(error) or repr(error)
            raise
        self._flow.back.add(block)
        return block

    def close(self) -> None:
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            self._recorder.end(self._flow, self._ctx, self._error)


def address_text(address: "Address") -> str:
    """host:port, with an IPv6 address in brackets; the path of a unix socket."""
    if isinstance(address, str):
        return f"unix:{address}"
    host, port = address[0], address[1]
    return join_host_port(host, port)
