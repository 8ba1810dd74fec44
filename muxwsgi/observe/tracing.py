"""OpenTelemetry traces: a span for each request that the application gets, and for each that a proxy sends on. Needs the extra `otel`.

- **Context.** With a `traceparent` and `tracestate` (W3C Trace Context) of a trusted peer, the span is a child of the peer's. All other
  requests begin a trace: a client that chooses trace ids could make its requests part of another one's trace, and with the sampled flag
  have each of them recorded. What cannot be parsed is ignored, as the recommendation says (section 3.2).
- **Passing on.** The environ's `HTTP_TRACEPARENT` and `HTTP_TRACESTATE` are those of the span, so an application that passes them on, or is
  instrumented, makes children of it. The span is also the current one of OpenTelemetry's context in the greenlet.
- **In a proxy** the request that is sent on has a span too, of the kind client, which is a child of the request's. The upstream gets the
  context of this span. CONNECT has no span: it would last as long as the tunnel, and be the parent of all requests inside.
- **Sampling, exporter, resource** are configured by OpenTelemetry's variables (OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_ENDPOINT,
  OTEL_SERVICE_NAME and others). The provider is the server's alone. The application may set its own as the global one.
- **Export.** Spans that have ended wait in memory, up to a limit, and a greenlet sends them in batches. Requests never wait. Spans beyond
  the limit, and those that the collector does not take, are lost and counted. OpenTelemetry's BatchSpanProcessor is not used, because its
  thread would be started again in children that the application forks.

Names are those of the semantic conventions for HTTP servers and clients 1.23 and later (stable).
"""

import logging
import re
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import ContextVar, Token
from functools import partial
from typing import TYPE_CHECKING, Any

import gevent

from muxwsgi.errors import OperatorError
from muxwsgi.events import Events
from muxwsgi.http.environ import Environ, WSGIApplication
from muxwsgi.http.exchange import Exchange
from muxwsgi.http.field_list import with_field
from muxwsgi.http.upstream_span import KEY as UPSTREAM_SPAN
from muxwsgi.wire.fork import leave_to_parent

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Span

__all__ = ["Tracing"]

log = logging.getLogger("muxwsgi.error")

#: Spans that wait at most, and spans of one export: the defaults of OpenTelemetry's BatchSpanProcessor.
WAITING_AT_MOST, BATCH = 2048, 512

#: Seconds for the last export, when the server stops.
LAST_EXPORT = 2.0

#: Methods that are known (semantic conventions, `http.request.method`). The values of others are not bounded.
_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE", "QUERY"})

#: Parameters of a query that are signatures or keys, which the conventions want redacted.
_SECRET = re.compile(r"((?:^|&)(?:AWSAccessKeyId|Signature|sig|X-Goog-Signature)=)[^&]*")

_current: "ContextVar[_Traced | None]" = ContextVar("muxwsgi.traced", default=None)


#: The fields of W3C Trace Context, and their keys in an environ.
_FIELDS = (("traceparent", "HTTP_TRACEPARENT"), ("tracestate", "HTTP_TRACESTATE"))


class _Traced:
    """The span of the request with this environ, which this greenlet serves. `around` is that of the request that it is nested in: those
    inside of a tunnel of the proxy are served by the greenlet that serves its CONNECT."""

    __slots__ = ("around", "environ", "span", "token")

    def __init__(self, span: "Span", token: "Token[Context]", environ: Environ, around: "_Traced | None") -> None:
        self.span = span
        self.token = token
        self.environ = environ
        self.around = around


class Tracing:
    """Makes spans, and exports them.

    lost    number of spans that are lost
    """

    waiting = False

    def __init__(self, *, trusts: Callable[[Any], bool], exporter: Any = None) -> None:
        """`trusts(address)` says whether a peer's trace is continued. `exporter` is a `SpanExporter`; None for OTLP over HTTP. Raises
        `OperatorError` if OpenTelemetry is not installed, or its variables are wrong."""
        try:
            from opentelemetry import context, trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
            from opentelemetry.sdk.trace.export import SpanExportResult
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise OperatorError(f"otel_traces: {error.name} is missing: pip install 'muxwsgi[otel]'") from error
        tracing = self

        class Processor(SpanProcessor):
            def on_end(self, span: "ReadableSpan") -> None:
                tracing._ended(span)

        self.lost = 0
        self._trusts = trusts
        self._context = context
        self._trace = trace
        self._propagator = TraceContextTextMapPropagator()
        self._success = SpanExportResult.SUCCESS
        try:
            self._exporter = OTLPSpanExporter() if exporter is None else exporter
            provider = TracerProvider(shutdown_on_exit=False)
        except Exception as error:  # a variable of OpenTelemetry that cannot be read
            raise OperatorError(f"otel_traces: {error}") from error
        provider.add_span_processor(Processor())
        self._tracer = provider.get_tracer("muxwsgi")
        self._spans: deque[ReadableSpan] = deque()
        self._export: gevent.Greenlet[..., None] | None = None
        self._failing = False
        self._lost_said = 0
        leave_to_parent(self)

    def forsake(self) -> None:
        """In a forked child: drop the spans, which the parent exports."""
        self._spans.clear()
        self._export = None

    # Requests

    def around(self, app: WSGIApplication, *, passes_on: bool = False) -> WSGIApplication:
        """`app`, with a span for each request. With `passes_on`, `app` is a proxy."""

        def traced(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
            if passes_on and environ["REQUEST_METHOD"] == "CONNECT":
                return app(environ, start_response)
            span = self._begin(environ, passes_on)
            try:
                return app(environ, start_response)
            except Exception as error:
                span.record_exception(error)
                raise

        return traced

    def _begin(self, environ: Environ, passes_on: bool) -> "Span":
        trusted = self._trusts(environ["muxwsgi.connection"].client)
        parent = self._context.Context()
        if trusted and "HTTP_TRACEPARENT" in environ:
            carrier = {"traceparent": environ["HTTP_TRACEPARENT"], "tracestate": environ.get("HTTP_TRACESTATE", "")}
            parent = self._propagator.extract(carrier, parent)
        method = environ["REQUEST_METHOD"]
        known = method in _METHODS
        attributes = {
            "http.request.method": method if known else "_OTHER",
            "url.scheme": environ["wsgi.url_scheme"],
            "url.path": _path(environ),
        }
        span = self._tracer.start_span(method if known else "HTTP", context=parent, kind=self._trace.SpanKind.SERVER, attributes=attributes)
        if span.is_recording():
            if not known:
                span.set_attribute("http.request.method_original", method)
            for name, value in _attributes(environ):
                span.set_attribute(name, value)
        current = self._trace.set_span_in_context(span, parent)
        carrier = {}
        self._propagator.inject(carrier, current)
        for name, key in _FIELDS:
            environ.pop(key, None)
            if name in carrier:
                environ[key] = carrier[name]
            if passes_on:
                environ["muxwsgi.fields"] = with_field(environ["muxwsgi.fields"], name, carrier.get(name))
        if passes_on:
            environ[UPSTREAM_SPAN] = partial(self._begin_upstream, current)
        _current.set(_Traced(span, self._context.attach(current), environ, _current.get()))
        return span

    def _begin_upstream(self, parent: "Context", method: str, url: str, host: str, port: int) -> "_UpstreamSpan":
        known = method in _METHODS
        span = self._tracer.start_span(
            method if known else "HTTP",
            context=parent,
            kind=self._trace.SpanKind.CLIENT,
            attributes={"http.request.method": method if known else "_OTHER", "server.address": host, "server.port": port},
        )
        if span.is_recording():
            if not known:
                span.set_attribute("http.request.method_original", method)
            base, mark, query = url.partition("?")
            span.set_attribute("url.full", base + mark + _SECRET.sub(r"\1REDACTED", query))
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, self._trace.set_span_in_context(span, parent))
        return _UpstreamSpan(span, carrier, self._trace.StatusCode.ERROR)

    def _exchange(self, exchange: Exchange) -> None:
        traced = _current.get()
        if traced is None or traced.environ is not exchange.environ:
            return  # a request that was refused before the application
        _current.set(traced.around)
        self._context.detach(traced.token)
        span = traced.span
        if span.is_recording():
            self._finish(span, exchange)
        span.end()

    def _finish(self, span: "Span", exchange: Exchange) -> None:
        status = exchange.status[:3]
        error = None
        if status.isascii() and status.isdigit():
            span.set_attribute("http.response.status_code", int(status))
            error = status if status >= "500" else None
        span.set_attribute("http.response.body.size", exchange.body_bytes)
        if exchange.error is not None:
            error = error or "incomplete"
            span.set_status(self._trace.StatusCode.ERROR, exchange.error)
        elif error is not None:
            span.set_status(self._trace.StatusCode.ERROR)
        if error is not None:
            span.set_attribute("error.type", error)

    # Exporting

    def subscribe(self, events: Events) -> None:
        """Hear of exchanges, whose end is the end of the span."""
        events.subscribe(exchange=self._exchange)

    def _ended(self, span: "ReadableSpan") -> None:
        if not span.context.trace_flags.sampled:
            return
        if len(self._spans) >= WAITING_AT_MOST:
            self.lost += 1
            return
        self._spans.append(span)
        if len(self._spans) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Begin to export the spans that wait. Raises nothing, and does not wait."""
        if self._spans and (self._export is None or self._export.dead):
            self._export = gevent.spawn(self._export_all)

    def reopen(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Export the rest, within seconds. Raises nothing."""
        self.flush()
        if self._export is not None:
            self._export.join(LAST_EXPORT)
            if not self._export.dead:
                self._export.kill(block=False)
                log.warning("otel_traces: the collector does not answer: %d spans are lost", len(self._spans))
                self._spans.clear()

    def _export_all(self) -> None:
        # Spans of the export itself, of an application that traces its own client, would have to be exported too, without end.
        self._context.attach(self._context.set_value(self._context._SUPPRESS_INSTRUMENTATION_KEY, True, self._context.Context()))
        while self._spans:
            batch = [self._spans.popleft() for _ in range(min(BATCH, len(self._spans)))]
            why = "the collector did not take them"
            try:
                taken = self._exporter.export(batch) is self._success
            except Exception as error:
                taken, why = False, f"{type(error).__name__}: {error}"
            if not taken:
                self.lost += len(batch)
                if not self._failing:
                    self._failing = True
                    log.warning("otel_traces: spans are lost: %s", why)
                return
            if self._failing:
                self._failing = False
                lost, self._lost_said = self.lost - self._lost_said, self.lost
                log.info("otel_traces: spans are exported again; %d were lost", lost)


class _UpstreamSpan:
    """Implements `UpstreamSpan`."""

    __slots__ = ("_carrier", "_error", "_sent", "_span")

    def __init__(self, span: "Span", carrier: dict[str, str], error: Any) -> None:
        self._span = span
        self._carrier = carrier
        self._error = error
        self._sent = 1

    def carried_in(self, fields: list[tuple[str, str]]) -> list[tuple[str, str]]:
        for name, _ in _FIELDS:
            fields = with_field(fields, name, self._carrier.get(name))
        return fields

    def resent(self) -> None:
        self._span.set_attribute("http.request.resend_count", self._sent)
        self._sent += 1

    def answered(self, status: int, version: str) -> None:
        span = self._span
        span.set_attribute("http.response.status_code", status)
        span.set_attribute("network.protocol.version", version)
        if status >= 400:  # of a client's span 4xx is an error too
            span.set_status(self._error)
            span.set_attribute("error.type", str(status))

    def end(self, error: str | None, kind: str | None = None) -> None:
        if error is not None:
            self._span.set_status(self._error, error)
            self._span.set_attribute("error.type", kind or "incomplete")
        self._span.end()


def _path(environ: Environ) -> str:
    """The path as it was sent; decoded for a request-target that is not one (`*`, or a URL)."""
    target = str(environ["RAW_URI"]).partition("?")[0]
    return target if target.startswith("/") else str(environ["PATH_INFO"])


def _attributes(environ: Environ) -> Iterable[tuple[str, Any]]:
    """The attributes of the semantic conventions that only recorded spans have."""
    client = environ["muxwsgi.connection"].client
    if environ["QUERY_STRING"]:
        yield "url.query", _SECRET.sub(r"\1REDACTED", environ["QUERY_STRING"])
    yield "network.protocol.name", "http"
    yield "network.protocol.version", environ["SERVER_PROTOCOL"].removeprefix("HTTP/")
    yield "server.address", environ["SERVER_NAME"]
    yield "server.port", int(environ["SERVER_PORT"])
    if environ.get("REMOTE_ADDR"):
        yield "client.address", environ["REMOTE_ADDR"]
    if isinstance(client, tuple):
        yield "network.peer.address", client[0]
        yield "network.peer.port", client[1]
    if "HTTP_USER_AGENT" in environ:
        yield "user_agent.original", environ["HTTP_USER_AGENT"]
