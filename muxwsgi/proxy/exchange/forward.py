"""Forwards one request to the upstream, and its response back. Read it from `forward` down.

Bodies are streamed both ways: the next block is read when the last one is sent. An upstream connection goes back to the pool only after its
response was read to the end, so another exchange never gets bytes of this one.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from muxwsgi.http.client.connection import BrokenResponse, NoResponse, ResponseHead
from muxwsgi.http.client.h2_exchange import StreamExchange
from muxwsgi.http.environ import has_chunks
from muxwsgi.http.h2.field import OF_CONNECTIONS
from muxwsgi.http.upstream_span import KEY as UPSTREAM_SPAN
from muxwsgi.http.upstream_span import UpstreamSpan
from muxwsgi.proxy.exchange.client_watch import ClientGone, ClientWatch
from muxwsgi.proxy.exchange.fields import Fields, RequestPlan, end_to_end
from muxwsgi.proxy.exchange.response_body import ResponseBody
from muxwsgi.proxy.exchange.upload import Upload, chunked, pieces_of
from muxwsgi.proxy.fault import Fault, Phase
from muxwsgi.proxy.upstream.endpoint import Endpoint
from muxwsgi.proxy.upstream.needs import Needs, needs_of
from muxwsgi.proxy.upstream.upstreams import Client, Upstreams
from muxwsgi.proxy.via import Via
from muxwsgi.records.flow import Head

if TYPE_CHECKING:
    from muxwsgi.proxy.context import Context
    from muxwsgi.proxy.settings import ProxySettings

__all__ = ["Forwarder", "Incoming", "Outcome"]

#: Bodies up to this size are read first and sent together with the head. Larger ones are sent while the proxy waits for the response.
SEND_WITH_HEAD = 65536

#: With `Expect: 100-continue`: seconds after which the body is sent to a server that does not answer 100 (RFC 9110 section 10.1.1).
CONTINUE_TIMEOUT = 1.0

#: Requests that may be sent again when a kept connection turns out to be closed (RFC 9110 section 9.2.2).
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


class Incoming:
    """A request's body on its way upstream.

    pieces              its bytes, as they come; a tuple if the body is in memory
    length, chunked     its framing; None and False without a body
    expects_continue    whether the client waits for a 100 before it sends the body
    environ             of the request
    upload              what sends a body that does not go with the head, None before
    """

    __slots__ = ("chunked", "environ", "expects_continue", "length", "pieces", "upload")

    def __init__(self, environ: dict[str, Any], length: int | None, chunked: bool, pieces: Iterable[bytes]) -> None:
        self.environ = environ
        self.length = length
        self.chunked = chunked
        self.pieces = pieces
        self.upload: Upload | None = None
        self.expects_continue = "HTTP_EXPECT" in environ and type(pieces) is not tuple and environ["SERVER_PROTOCOL"] != "HTTP/1.0"

    @property
    def begun(self) -> bool:
        """Whether a body that is streamed has begun to go, so that the request cannot be sent again."""
        return self.upload is not None and self.upload.begun

    @property
    def fits_with_head(self) -> bool:
        """Whether the whole body is sent with the head: it is small, and the client does not wait for a 100."""
        if type(self.pieces) is tuple:
            return sum(map(len, self.pieces)) <= SEND_WITH_HEAD
        return self.length is not None and self.length <= SEND_WITH_HEAD and not self.expects_continue

    @property
    def trailers(self) -> Mapping[str, str]:
        """The client's trailer fields, known after the end of the body. Empty if the body is not chunked."""
        return self.environ.get("muxwsgi.trailers", {}) if self.chunked else {}

    @classmethod
    def untouched(cls, environ: dict[str, Any]) -> "Incoming":
        """The body as the client sends it."""
        if has_chunks(environ):
            return cls(environ, None, True, pieces_of(environ["wsgi.input"]))
        text = environ.get("CONTENT_LENGTH")
        if not text:
            return cls(environ, None, False, ())
        length = int(text)
        return cls(environ, length, False, pieces_of(environ["wsgi.input"]) if length else ())


class Outcome:
    """An upstream's response: its head, and its body as an iterator. The caller closes the body."""

    __slots__ = ("body", "fields", "head")

    def __init__(self, head: ResponseHead, fields: Fields, body: "ResponseBody") -> None:
        self.head = head
        self.fields = fields
        self.body = body


class Forwarder:
    """Sends requests upstream."""

    def __init__(self, settings: "ProxySettings", upstreams: Upstreams, client_watch: ClientWatch, via: Via) -> None:
        self._settings = settings
        self._via = via
        self._upstreams = upstreams
        self._client_watch = client_watch

    def forward(self, plan: RequestPlan, endpoint: Endpoint, incoming: Incoming, ctx: "Context") -> Outcome:
        """Send the request, and return its response as soon as the head is complete. Raises `Fault` and `ClientGone`."""
        begin = incoming.environ.get(UPSTREAM_SPAN)
        if begin is None:
            return self._forward(plan, endpoint, incoming, ctx, None)
        span: UpstreamSpan = begin(plan.method, _url(plan, endpoint), endpoint.host, endpoint.port)
        plan.fields = span.carried_in(plan.fields)
        try:
            return self._forward(plan, endpoint, incoming, ctx, span)
        except Fault as fault:
            span.end(fault.reason, fault.phase.value)
            raise
        except BaseException as error:
            span.end(str(error) or type(error).__name__)
            raise

    def _forward(self, plan: RequestPlan, endpoint: Endpoint, incoming: Incoming, ctx: "Context", span: UpstreamSpan | None) -> Outcome:
        if "HTTP_VIA" in incoming.environ:
            self._via.check(incoming.environ["HTTP_VIA"])
        endpoint.begins_http2 = self._upstreams.begins_http2(endpoint)
        via = self._upstreams.next_proxy(endpoint, ctx)
        flow = ctx.flow
        url = _url(plan, endpoint) if flow is not None else ""
        to_proxy = endpoint.is_asked_of(via)
        plan.extra = self._via.sent(incoming.environ["SERVER_PROTOCOL"][5:], to_proxy=to_proxy)
        if to_proxy:
            if plan.target[:1] == "/" or plan.target == "*":
                plan.target = f"http://{endpoint.authority.removesuffix(':80')}{plan.target if plan.target != '*' else ''}"
            plan.in_tunnel = False  # the next hop is the upstream proxy, which gets this proxy's credentials and not the client's
            if via.authorization is not None:
                plan.extra = (*plan.extra, ("Proxy-Authorization", via.authorization))

        # 1. The request head, and a small body.
        plan.chunked = incoming.chunked
        plan.length = incoming.length
        try:
            head, fields = plan.head()
        except ValueError as error:
            raise Fault(Phase.SEND, str(error)) from error
        first = b""
        streamed = not incoming.fits_with_head
        if not streamed:
            first = b"".join(incoming.pieces)
            if incoming.length is not None and len(first) != incoming.length:
                raise ValueError(f"a rule's request body has {len(first)} bytes, and its Content-Length says {incoming.length}")
            if flow is not None:
                flow.from_client.add(first)
        if any(map(_authenticates_connection, fields)):
            self._upstreams.bind(ctx)

        # 2. A connection, and the response's head. A request that cannot have been processed is sent once more.
        size = 1 if streamed else len(first)
        needs = needs_of(plan.method, plan.target, fields, len(head), size, upgrade=plan.upgrade, keep_hop=plan.keep_hop)
        while True:
            if flow is not None:
                flow.request = Head((plan.method, url, "HTTP/1.1"), fields)
            client = self._upstreams.take(endpoint, ctx, via, needs)
            if flow is not None and isinstance(client, StreamExchange):
                flow.request = Head((plan.method, url, "HTTP/2"), [field for field in fields if field[0].lower() not in OF_CONNECTIONS])
            try:
                if isinstance(client, StreamExchange):
                    self._begin(client, plan, fields, first, incoming, streamed, endpoint)
                    data = first
                elif incoming.chunked and not streamed:
                    data = head + chunked(first, incoming.trailers)
                else:
                    data = head + first if first else head
                answer, upload = self._ask(client, plan, data, incoming, streamed, ctx)
                if answer.status == 421 and not needs.alone and not incoming.begun:
                    # The connection is the wrong one for this request, and it was not processed (RFC 9110 section 15.5.20).
                    again = needs._replace(kept=False, alone=True)
                else:
                    if answer.status == 101:
                        _check_switch(plan, upload)
                    break
            except BaseException as error:
                self._give_up(client, ctx)
                if not isinstance(error, OSError) or isinstance(error, ClientGone):
                    raise
                other = None if incoming.begun else _again(client, error, plan.method, streamed, needs)
                if other is None:
                    raise _fault(error, endpoint) from error
                again = other
                if again.http1:
                    self._upstreams.needs_http1(endpoint, ctx, via)
            else:
                self._give_up(client, ctx)
            needs = again
            if span is not None:
                span.resent()

        # 3. The response's body.
        if flow is not None:
            flow.first_byte = flow.now()
            flow.answered_by = "upstream"
            flow.response = Head((answer.version, str(answer.status), answer.reason), answer.fields)
        if span is not None:
            span.answered(answer.status, answer.version[5:])
        body = ResponseBody(
            client,
            upload,
            ctx,
            self._client_watch,
            lambda: self._upstreams.give_back(endpoint, ctx, via, client),
            switched=answer.status == 101,
            span=span,
        )
        fields = end_to_end(answer.fields, keep=self._settings.keep_destination_headers, upgrade=answer.status == 426)
        return Outcome(answer, fields, body)

    def _give_up(self, client: Client, ctx: "Context") -> None:
        client.close()
        self._client_watch.remove(ctx)

    def _ask(
        self, client: Client, plan: RequestPlan, data: bytes, incoming: Incoming, streamed: bool, ctx: "Context"
    ) -> tuple[ResponseHead, Upload | None]:
        """Send the request and read the head of the response. `ClientWatch` watches the client from the start."""
        upload: Upload | None = None
        self._client_watch.add(ctx, client.connection, incoming.environ["muxwsgi.response"])
        try:
            try:
                if not isinstance(client, StreamExchange):
                    client.send(data, more=streamed)
                elif not streamed and client.has_body:
                    if data:
                        client.send_piece(data, chunked=False)
                    client.send_end(incoming.trailers.items(), chunked=False)
            except ConnectionError:
                pass  # the server may have responded and closed before it had the whole request, so its response is read first
            if ctx.flow is not None:
                ctx.flow.sent = ctx.flow.now()
            if streamed:
                upload = incoming.upload = Upload(incoming.pieces, incoming.trailers, client, incoming.length, ctx.flow)
                upload.start(CONTINUE_TIMEOUT if incoming.expects_continue else 0.0)
            answer = client.receive(plan.method, self._pass_interim(incoming, upload))
            if upload is not None and not upload.begun:
                upload.stop()  # the final response has come before a 100, so the client need not send the body
            return answer, upload
        except BaseException:
            if upload is not None:
                upload.stop()
            raise

    def _begin(
        self,
        client: StreamExchange,
        plan: RequestPlan,
        fields: Fields,
        first: bytes,
        incoming: Incoming,
        streamed: bool,
        endpoint: Endpoint,
    ) -> None:
        """Open the stream of a request in HTTP/2, with its head."""
        ends = not streamed and not first and not incoming.trailers
        client.open(plan.method, endpoint.scheme, endpoint.authority, plan.target, fields, ends=ends)
        client.connection.idle_timeout = self._settings.upstream_idle_timeout

    def _pass_interim(self, incoming: Incoming, upload: Upload | None) -> Callable[[ResponseHead], None]:
        """Handles a 1xx: a 100 starts the upload, any other is sent on to the client."""

        def on_interim(head: ResponseHead) -> None:
            if head.status == 100:
                if upload is not None:
                    upload.start()
                return
            try:
                incoming.environ["muxwsgi.response"].informational(head.status, head.reason, end_to_end(head.fields))
            except ValueError as error:
                raise BrokenResponse(f"interim response: {error}") from error

        return on_interim


def _url(plan: RequestPlan, endpoint: Endpoint) -> str:
    """The URL of the request, for the flow."""
    target = plan.target
    if target[:1] != "/" and target != "*":
        return target
    host = plan.host or next((value for name, value in plan.fields if name.lower() == "host"), "") or endpoint.authority
    return f"{endpoint.scheme}://{host}{target if target != '*' else ''}"


def _again(client: Client, error: OSError, method: str, streamed: bool, needs: Needs) -> Needs | None:
    """How a request that has failed is sent once more; None if it is not. The client's body was not begun."""
    repeatable = not streamed and method in _IDEMPOTENT and not (client.answered or isinstance(error, TimeoutError))
    if isinstance(client, StreamExchange):
        if client.http1_required and (client.refused or repeatable):
            return None if needs.http1 else needs._replace(http1=True)
        if client.refused:
            return needs._replace(kept=False) if needs.kept else None
    # The server may have just closed a kept connection.
    return needs._replace(kept=False) if needs.kept and repeatable and not client.fresh else None


def _authenticates_connection(field: tuple[str, str]) -> bool:
    """Whether a field authenticates the connection, and not only its request: NTLM and Negotiate. Inside a tunnel it may be for another
    proxy."""
    name, value = field
    return value[:9].lower().startswith(("ntlm", "negotiate")) and name.lower() in ("authorization", "proxy-authorization")


def _check_switch(plan: RequestPlan, upload: Upload | None) -> None:
    """Raises `BrokenResponse` if a 101 is not allowed (RFC 9110 section 15.2.2): the client must have asked for it, and its body must be
    complete."""
    if not plan.upgrade:
        raise BrokenResponse("the upstream switches to another protocol without a request for it")
    if upload is not None and not upload.complete:
        raise BrokenResponse("the upstream switches to another protocol before it has the request's body")


def _fault(error: OSError, endpoint: Endpoint) -> Fault:
    """The fault for an error of `_ask`."""
    if isinstance(error, NoResponse):
        return Fault(Phase.HEAD, f"{endpoint.authority}: the connection was closed without a response")
    if isinstance(error, BrokenResponse):
        return Fault(Phase.HEAD, f"{endpoint.authority}: {error.reason}")
    if isinstance(error, TimeoutError):
        return Fault(Phase.TIMEOUT, f"{endpoint.authority}: no response in time")
    return Fault(Phase.HEAD, f"{endpoint.authority}: the connection broke before the response: {error.strerror or error}")
