"""One HTTP exchange of a client with the proxy: request rules, the upstream, response rules. Read it from `serve` down.

Without rules, no werkzeug object is made, and the message passes unchanged.
"""

import logging
import sys
from collections.abc import Callable, Iterable
from functools import partial
from http import HTTPStatus
from itertools import chain
from typing import TYPE_CHECKING, Any

import werkzeug.wrappers
from werkzeug.wsgi import ClosingIterator

from muxwsgi.errors import Draining, Expired, ResponseAborted
from muxwsgi.http.body import BrokenBody
from muxwsgi.http.websocket.frame import Frame
from muxwsgi.http.websocket.handshake import UPGRADING, is_websocket, without_extensions
from muxwsgi.proxy.context import Context, Layer
from muxwsgi.proxy.exchange.client_watch import ClientGone
from muxwsgi.proxy.exchange.fields import Fields, RequestPlan, passable_upgrades
from muxwsgi.proxy.exchange.forward import Forwarder, Incoming, Outcome
from muxwsgi.proxy.exchange.max_forwards import answer_of_the_last, one_less
from muxwsgi.proxy.exchange.response_body import ResponseBody
from muxwsgi.proxy.fault import Fault, Phase
from muxwsgi.proxy.rules.actions import Refused
from muxwsgi.proxy.rules.coding_fields import limit_accept_encoding
from muxwsgi.proxy.rules.message import Request, Response, to_wsgi
from muxwsgi.proxy.rules.rules import MountedApp, Rules, filter_frame
from muxwsgi.proxy.streams.inspected import relay_inspected
from muxwsgi.proxy.streams.messages import MessageRecorder
from muxwsgi.proxy.streams.websocket import relay_frames
from muxwsgi.proxy.upstream.endpoint import Endpoint
from muxwsgi.records.flow import Flow, Head
from muxwsgi.records.recorder import Recorded, Recorder

if TYPE_CHECKING:
    from muxwsgi.proxy.settings import ProxySettings
    from muxwsgi.wire.connection import Connection

__all__ = ["Exchanges", "error_response"]

log = logging.getLogger("muxwsgi.proxy")

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], None]]

#: A body of known length up to this size is awaited before the head is sent on, so that both leave in one write.
WAIT_FOR_BODY = 65536

#: For responses of HTTP/2.
_PHRASES = {status.value: status.phrase for status in HTTPStatus}

#: Error types of the Proxy-Status field (RFC 9209 section 2.3).
_ERROR_TYPES = {
    Phase.TARGET: "http_request_error",
    Phase.POLICY: "http_request_denied",
    Phase.LOOP: "proxy_loop_detected",
    Phase.RESOLVE: "dns_error",
    Phase.CONNECT: "destination_unavailable",
    Phase.TLS: "tls_protocol_error",
    Phase.CHAIN: "destination_unavailable",
    Phase.SEND: "http_request_error",
    Phase.HEAD: "http_protocol_error",
    Phase.BODY: "http_response_incomplete",
    Phase.TIMEOUT: "http_response_timeout",
}


class Exchanges:
    """Serves requests to other servers."""

    def __init__(self, settings: "ProxySettings", rules: Rules, forwarder: Forwarder, recorder: Recorder) -> None:
        self._settings = settings
        self._rules = rules
        self._forwarder = forwarder
        self._recorder = recorder
        self._relay_limits = (settings.tunnel_idle_timeout, settings.tunnel_fin_timeout)

    def serve(self, environ: Environ, start_response: StartResponse, ctx: Context, endpoint: Endpoint) -> Iterable[bytes]:
        """Answer the request of `environ`. `endpoint` is the destination that the client asked for."""
        flow = ctx.record(self._recorder, "http", ctx.connection)
        try:
            if "HTTP_MAX_FORWARDS" in environ and (last := answer_of_the_last(environ)) is not None:
                return self._answer_ourselves(last, environ, start_response, ctx, flow)

            # 1. Rules on the request. They may answer it, or redirect it.
            rules = self._rules
            request: Request | None = None
            if rules.has_request_rules or rules.has_response_rules:
                authority = environ.get("HTTP_HOST") or endpoint.authority
                scheme = _absolute_scheme(environ["RAW_URI"]) or endpoint.scheme
                request = Request.of(environ, scheme, authority, buffer_limit=self._settings.limit_body)
                if ctx.tunnel is not None:
                    request.carrier = (endpoint.scheme, endpoint.port)
                ctx.request = request
                answer = rules.request(request, ctx)
                if not isinstance(answer, Request):
                    return self._answer_here(answer, request, environ, start_response, ctx, flow)
                request = answer
                if rules.has_response_rules and rules.may_read(request, ctx):
                    limit_accept_encoding(request.headers)
                if request.redirected:
                    endpoint = _redirected(request, endpoint)

            # 2. The upstream.
            plan, incoming = self._plan(environ, request, endpoint, ctx)
            outcome = self._forwarder.forward(plan, endpoint, incoming, ctx)
            if outcome.head.status == 101:
                return self._switch(outcome, environ, ctx, flow)
            if plan.method == "HEAD" and environ["REQUEST_METHOD"] != "HEAD":  # by a rule: there is no body that the length is true of
                outcome.fields = [field for field in outcome.fields if field[0].lower() != "content-length"]

            # 3. Rules on the response.
            if request is not None and rules.has_response_rules:
                return self._respond_through_rules(outcome, request, environ, start_response, ctx, flow)
            return self._respond(outcome, environ, start_response, ctx, flow)
        except Fault as fault:
            return self._fail(fault, environ, start_response, ctx, flow)
        except (BrokenBody, ClientGone, Draining) as error:
            # An error of the peer for the engine: the body cannot be decoded, or the client has gone.
            environ["muxwsgi.response"].peer_error = error
            self._recorder.end(flow, str(error))
            raise
        except BaseException as error:
            self._recorder.end(flow, repr(error))
            raise

    # The request

    def _plan(self, environ: Environ, request: Request | None, endpoint: Endpoint, ctx: Context) -> tuple[RequestPlan, Incoming]:
        if request is None:
            target = environ["RAW_URI"]
            absolute = target[:1] != "/" and target != "*"
            # Inside a tunnel, the absolute form means that the tunnel's destination is another proxy.
            keep = endpoint.is_proxy = absolute and ctx.tunnel is not None
            if absolute and not keep:
                target = _origin_form(target, environ["REQUEST_METHOD"])
            plan = RequestPlan(environ["REQUEST_METHOD"], target, list(environ["muxwsgi.fields"]))
            if absolute and not keep:
                plan.host = environ["HTTP_HOST"]
            elif "HTTP_HOST" not in environ:
                plan.host = endpoint.authority
            incoming = Incoming.untouched(environ)
        else:
            target = request.target or "/"
            if ctx.tunnel is not None and not request.redirected and _absolute_scheme(environ["RAW_URI"]):
                target = request.url
                endpoint.is_proxy = True
            fields = request.fields if self._settings.keep_header else request.fields_onward()
            plan = RequestPlan(request.method, target, fields)
            if "Host" not in request.headers:
                plan.host = request.host
            body = request.outgoing()
            incoming = Incoming(environ, body.length, body.chunked, body.pieces)
        if "HTTP_MAX_FORWARDS" in environ:
            plan.fields = one_less(plan.method, plan.fields)
        plan.in_tunnel = ctx.tunnel is not None
        plan.keep_hop = self._settings.keep_header
        plan.upgrade = "HTTP_UPGRADE" in environ and _wants_upgrade(environ, plan.fields)
        if plan.upgrade and "websocket" in environ["HTTP_UPGRADE"].lower() and self._rules.frame_hooks(ctx):
            plan.fields = without_extensions(plan.fields)
        return plan, incoming

    def _answer_here(
        self,
        answer: "werkzeug.wrappers.Response | MountedApp",
        request: Request,
        environ: Environ,
        start_response: StartResponse,
        ctx: Context,
        flow: Flow | None,
    ) -> Iterable[bytes]:
        """Send the response of a rule or of a mounted application."""
        if flow is not None:
            flow.answered_by = "application" if isinstance(answer, MountedApp) else "rule"
            flow.request = Head((request.method, request.url, environ["SERVER_PROTOCOL"]), request.fields)
        if isinstance(answer, MountedApp):
            if flow is None and not self._rules.has_response_rules:
                return answer.app(answer.request.to_environ(), start_response)
            response: werkzeug.wrappers.Response | None = _run(answer.app, answer.request.to_environ())
            if response is None:  # the application has hijacked the connection, which has ended
                self._recorder.end(flow, None)
                return []
            answer = response
        try:
            if self._rules.has_response_rules:
                ctx.response = answer
                answer = self._rules.response(answer, ctx)
            status, fields, pieces = to_wsgi(answer, request.method)
            start_response(status, fields)
        except BaseException:
            answer.close()
            raise
        return self._record(status, fields, pieces, flow)

    def _answer_ourselves(
        self, response: Response, environ: Environ, start_response: StartResponse, ctx: Context, flow: Flow | None
    ) -> Iterable[bytes]:
        if flow is not None:
            flow.answered_by = "proxy"
            line = (environ["REQUEST_METHOD"], environ["RAW_URI"], environ["SERVER_PROTOCOL"])
            flow.request = Head(line, list(environ["muxwsgi.fields"]))
        status, fields, pieces = to_wsgi(response, environ["REQUEST_METHOD"])
        start_response(status, fields)
        return self._record(status, fields, pieces, flow)

    # The response

    def _respond(
        self, outcome: Outcome, environ: Environ, start_response: StartResponse, ctx: Context, flow: Flow | None
    ) -> Iterable[bytes]:
        """Pass the response on unchanged."""
        head, body = outcome.head, outcome.body
        try:
            reason = head.reason or (_PHRASES.get(head.status, "") if head.version == "HTTP/2" else "")  # HTTP/2 has none
            write = _start(start_response, f"{head.status} {reason}", outcome.fields)
            response = environ["muxwsgi.response"]
            response.omit_server()
            if body.done:
                self._recorder.end(flow, None)
                return ()
            if not body.ready and (head.length is None or head.length > WAIT_FOR_BODY):
                write(b"")  # an event stream's head does not wait for its first event
            else:
                first = _first(body)
                if body.done:
                    self._recorder.end(flow, None)
                    if not body.trailers:
                        return (first,)
                    write(first)  # in a chunk, because trailers can only follow chunks
                    response.trailers = body.trailers
                    return iter(())
                body.put_back(first)
        except BaseException:
            body.close()
            raise

        def on_end(error: str | None) -> None:
            if error is None:
                response.trailers = body.trailers
            self._recorder.end(flow, error)

        body.on_end = on_end
        return body

    def _respond_through_rules(
        self, outcome: Outcome, request: Request, environ: Environ, start_response: StartResponse, ctx: Context, flow: Flow | None
    ) -> Iterable[bytes]:
        head, body = outcome.head, outcome.body
        response: werkzeug.wrappers.Response = Response.of_upstream(
            head.status, head.reason, outcome.fields, body, buffer_limit=self._settings.limit_body
        )
        upstreams_own = response
        ctx.response = response
        body.flow = None  # the flow records what is sent on, after the rules
        try:
            response = self._rules.response(response, ctx)
            status, fields, pieces = to_wsgi(response, request.method)
            streams = not body.done and not isinstance(pieces, (list, tuple))
            own = response is upstreams_own
            engines = environ["muxwsgi.response"]
            if streams and own:
                body.on_end = lambda error: setattr(engines, "trailers", body.trailers if error is None else ())
            waits = not body.ready
            if streams and not waits:
                pieces = _begun(pieces)
            write = _start(start_response, status, fields)
            if own:
                engines.omit_server()
                if streams and (waits or body.trailers):
                    write(b"")
        except BaseException:
            response.close()
            body.close()
            raise
        return self._record(status, fields, pieces, flow)

    def _record(self, status: str, fields: Fields, pieces: Iterable[bytes], flow: Flow | None) -> Iterable[bytes]:
        """Record what goes to the client in the flow, if there is one. The flow ends with the body."""
        if flow is None:
            return pieces
        flow.response = Head(("HTTP/1.1", status[:3], status[4:]), fields)
        if isinstance(pieces, (list, tuple)):
            for piece in pieces:
                flow.from_server.add(piece)
            self._recorder.end(flow, None)
            return pieces
        return Recorded(pieces, flow, self._recorder)

    def _fail(self, fault: Fault, environ: Environ, start_response: StartResponse, ctx: Context, flow: Flow | None) -> Iterable[bytes]:
        """Answer for an exchange without a response from the upstream."""
        ctx.error = fault
        if flow is not None:
            flow.answered_by = "proxy"
        log.debug("%r: %s", ctx, fault.reason)
        try:
            response = self._rules.error(fault, ctx) or error_response(fault)
            status, fields, pieces = to_wsgi(response, environ["REQUEST_METHOD"])
            # start_response may have been called before, with a head that could not be sent.
            start_response(status, fields, sys.exc_info())
            if flow is not None:
                flow.response = Head(("HTTP/1.1", status[:3], status[4:]), fields)
        finally:
            self._recorder.end(flow, fault.reason)
        return pieces

    # Leaving HTTP

    def _switch(self, outcome: Outcome, environ: Environ, ctx: Context, flow: Flow | None) -> Iterable[bytes]:
        """After a 101, relay the other protocol (RFC 9110 section 15.2.2), mostly a WebSocket."""
        upstream = outcome.body.take_over()
        reason: str | None = None
        try:
            connection: "Connection" = environ["muxwsgi.hijack"]()
            head = outcome.head
            lines = [f"HTTP/1.1 101 {head.reason}", *(f"{name}: {value}" for name, value in head.fields), "", ""]
            connection.sendall("\r\n".join(lines).encode("latin-1"))
            # The response decides, because the client may have offered several protocols.
            if is_websocket(head.fields):
                if flow is not None:
                    flow.kind = "websocket"
                reason = self._relay_websocket(connection, upstream, ctx, head.fields)
            else:
                hooks = self._rules.chunk_hooks(ctx)
                relayed = relay_inspected(connection, upstream, ctx, hooks, *self._relay_limits)
                reason = None if relayed.error is None else str(relayed.error)
        except Refused as refused:
            reason = str(refused)
            log.info("%r: refused by a rule: %s", ctx, reason)
        except BaseException as error:
            reason = repr(error)
            raise
        finally:
            upstream.finish()
            self._recorder.end(flow, reason)
        return ()

    def _relay_websocket(self, connection: "Connection", upstream: "Connection", ctx: Context, fields: Fields) -> str | None:
        messages = None
        if ctx.flow is not None and self._settings.message_limit:
            messages = MessageRecorder(ctx.flow, fields, self._settings.message_limit)
        idle, fin = self._relay_limits
        hooks = self._rules.frame_hooks(ctx)

        def on_passed(frame: Frame) -> None:
            if ctx.flow is not None:
                (ctx.flow.from_client if frame.from_client else ctx.flow.from_server).add(frame.data)
            if messages is not None:
                messages.add_frame(frame)

        try:
            if hooks:
                on_frame = partial(filter_frame, hooks, ctx=ctx)
                relayed = relay_frames(connection, upstream, on_frame, on_passed=on_passed, idle_timeout=idle, fin_timeout=fin)
            else:
                relayed = relay_inspected(connection, upstream, ctx, (), idle, fin, messages)
        finally:
            if messages is not None:
                messages.end()
        return None if relayed.error is None else str(relayed.error)


def error_response(fault: Fault) -> Response:
    """The response for a fault: the reason is in the body, and the error type in Proxy-Status (RFC 9209)."""
    response = Response(f"{fault.reason}\n", f"{fault.status} {HTTPStatus(fault.status).phrase}", mimetype="text/plain")
    response.headers["Proxy-Status"] = f"muxwsgi; error={_ERROR_TYPES[fault.phase]}"
    response.headers["Cache-Control"] = "no-store"
    return response


def _start(start_response: StartResponse, status: str, fields: Fields) -> Callable[[bytes], None]:
    try:
        return start_response(status, fields)
    except ValueError as error:
        raise Fault(Phase.HEAD, f"the response cannot be passed on: {error}") from error


def _first(body: ResponseBody) -> bytes:
    """The first bytes of a response whose head is not sent on yet. So if there are none, the client can still get an error response."""
    try:
        return body.read()
    except ResponseAborted as error:
        cause = error.__cause__
        if isinstance(cause, ClientGone):
            raise cause
        late = isinstance(cause, Expired) or (isinstance(cause, BrokenBody) and cause.status == 408)
        raise Fault(Phase.TIMEOUT if late else Phase.BODY, str(error)) from error


def _begun(pieces: Iterable[bytes]) -> Iterable[bytes]:
    """`pieces`, with the first one read already, for the same reason."""
    if isinstance(pieces, (list, tuple)):
        return pieces
    iterator = iter(pieces)
    try:
        first = next(iterator, b"")
    except ResponseAborted as error:
        raise Fault(Phase.BODY, str(error)) from error
    return ClosingIterator(chain((first,), iterator), getattr(pieces, "close", None))


def _absolute_scheme(target: str) -> str | None:
    """The scheme of a target in absolute form, None for another form."""
    return None if target[:1] in ("/", "*") else target.partition("://")[0].lower()


def _origin_form(target: str, method: str) -> str:
    """Path and query of an absolute target that the engine has accepted (RFC 9112 sections 3.2.1 and 3.2.4)."""
    start = target.index("://") + 3
    for at, char in enumerate(target[start:], start):
        if char == "/":
            return target[at:]
        if char == "?":
            return "/" + target[at:]
    return "*" if method == "OPTIONS" else "/"


def _wants_upgrade(environ: Environ, fields: Fields) -> bool:
    """Whether the client asks for another protocol, and rules have not removed that."""
    if "HTTP_CONNECTION" not in environ or environ["SERVER_PROTOCOL"] not in UPGRADING:
        return False
    options = [option.strip() for option in environ["HTTP_CONNECTION"].lower().split(",")]
    return "upgrade" in options and any(name.lower() == "upgrade" and passable_upgrades(value) for name, value in fields)


def _redirected(request: Request, before: Endpoint) -> Endpoint:
    host, port = request.destination
    endpoint = Endpoint(host, port, (Layer(host, ("http/1.1",)),) if request.scheme == "https" else ())
    endpoint.begins_http2 = before.begins_http2 and not endpoint.layers
    return endpoint


def _run(app: Any, environ: Environ) -> werkzeug.wrappers.Response | None:
    """The response of an application; None if it has hijacked the connection."""
    try:
        return Response.from_app(app, environ)
    except StopIteration:
        if environ["muxwsgi.response"].head_sent:
            return None
        raise RuntimeError("the mounted application returned without calling start_response()") from None
