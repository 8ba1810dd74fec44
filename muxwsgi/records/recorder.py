"""`Recorder`: begins flows and gives them to the sinks. Without sinks it makes no flow."""

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from muxwsgi.errors import Cut
from muxwsgi.names import address_text, join_host_port
from muxwsgi.records.fingerprint import ClientTLS
from muxwsgi.records.flow import Flow, FlowSink, Kind, TLSSide

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["Recorded", "Recorder"]

log = logging.getLogger("muxwsgi.error")


class Recorder:
    """Begins and ends flows. `sinks` get each flow when it has ended."""

    def __init__(self, sinks: Iterable[FlowSink], capture_limit: int) -> None:
        self.sinks = list(sinks)
        self._capture_limit = capture_limit

    def begin(
        self,
        kind: Kind,
        connection: "Connection",
        *,
        door: str,
        session: int,
        tunnel: int | None,
        destination: tuple[str, int] | None,
        identity: str | None,
        client_tls: ClientTLS | None,
    ) -> Flow | None:
        """A flow for the exchange or stream that begins now on `connection`; None if there are no sinks.

        `client_tls` is the ClientHello of the innermost TLS layer. The other arguments are the fields of `Flow`.
        """
        if not self.sinks:
            return None
        flow = Flow(
            kind,
            address_text(connection.client),
            address_text(connection.server),
            door,
            session,
            connection.id,
            self._capture_limit,
            tunnel=tunnel,
            destination=None if destination is None else join_host_port(*destination),
            identity=identity,
            trace=connection.trace,
        )
        if connection.tls is not None:
            flow.client_tls = TLSSide(
                version=connection.tls.version,
                cipher=connection.tls.cipher,
                sni=connection.tls.sni,
                alpn=connection.tls.alpn,
                ja3=None if client_tls is None else client_tls.ja3,
                ja4=None if client_tls is None else client_tls.ja4,
            )
        elif client_tls is not None:  # TLS is passed through, so only the ClientHello is known
            flow.client_tls = TLSSide(version=None, cipher=None, sni=client_tls.sni, ja3=client_tls.ja3, ja4=client_tls.ja4)
        return flow

    def end(self, flow: Flow | None, error: str | None) -> None:
        """End `flow`. `error` is None if it is complete. Only the first call for a flow counts."""
        if flow is None or flow.ended is not None:
            return
        flow.ended = flow.now()
        flow.error = error
        flow.trace = list(flow.trace)  # until now it was the connection's list, which grows
        for sink in self.sinks:
            try:
                sink(flow)
            except Cut:
                raise
            except BaseException:  # a failing sink must not affect traffic
                log.exception("the flow sink %r failed: it has not taken flow %d", sink, flow.id)


class Recorded:
    """The final body of a response, after rules and applications. Each block is added to the flow. The end of the body ends the flow."""

    __slots__ = ("_body", "_error", "_flow", "_iterator", "_recorder")

    def __init__(self, body: Iterable[bytes], flow: Flow, recorder: Recorder) -> None:
        self._body = body
        self._iterator: Iterator[bytes] = iter(body)
        self._flow = flow
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
        self._flow.from_server.add(block)
        return block

    def close(self) -> None:
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            self._recorder.end(self._flow, self._error)
