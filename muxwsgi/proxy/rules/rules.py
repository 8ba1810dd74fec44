"""`Rules`: the rules of one proxy, in the order in which they were added.

Request rules run in this order. Each gets the request with the changes of the ones before, until one returns a response, or until an
application is mounted for it. All response rules run, also on responses of rules, and each gets the response of the one before. For connect
and error rules, the first result that is not None counts.

Rules may be added while the proxy serves. An exchange uses the rules that were there when it began to run them.

An exception of a rule is not caught. It becomes a 500, with a traceback in the error log. Only werkzeug's `HTTPException`, which
`abort(403)` raises, is sent as a response.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

import werkzeug.wrappers
from werkzeug.exceptions import HTTPException

from muxwsgi.names import join_host_port, split_host_port
from muxwsgi.proxy.context import Context
from muxwsgi.proxy.rules.actions import (
    CONTINUE,
    DROP,
    Accept,
    Action,
    Chunk,
    Hijack,
    Hijacker,
    Look,
    Mitm,
    Passage,
    Refused,
    Reject,
)
from muxwsgi.proxy.rules.condition import Test
from muxwsgi.proxy.rules.message import Request, Response
from muxwsgi.proxy.rules.rule import (
    ChunkFunction,
    ConnectFunction,
    ErrorFunction,
    FrameFunction,
    MountedApp,
    OnConnect,
    OnEither,
    OnResponse,
    RequestFunction,
    ResponseFunction,
    Rule,
    Sentence,
    name_of,
)
from muxwsgi.wire.fork import end_child, is_child

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

    from muxwsgi.http.websocket.frame import Frame
    from muxwsgi.proxy.fault import Fault

__all__ = [
    "CONTINUE",
    "DROP",
    "Accept",
    "Action",
    "Chunk",
    "Hijack",
    "Hijacker",
    "Look",
    "Mitm",
    "MountedApp",
    "Refused",
    "Reject",
    "Rules",
    "filter_chunk",
    "filter_frame",
]

AnyResponse = werkzeug.wrappers.Response


class Rules:
    """The rules of one proxy: methods to add them, and methods that run them."""

    def __init__(self) -> None:
        # Tuples, which are replaced and never changed, so that a loop over one is not disturbed.
        self._request: tuple[Rule[Any], ...] = ()
        self._response: tuple[Rule[ResponseFunction], ...] = ()
        self._connect: tuple[Rule[ConnectFunction], ...] = ()
        self._chunk: tuple[Rule[ChunkFunction], ...] = ()
        self._frame: tuple[Rule[FrameFunction], ...] = ()
        self._error: tuple[Rule[ErrorFunction], ...] = ()

    # Methods that add rules

    def on_request(self, *conditions: Test) -> Sentence[RequestFunction]:
        """`.do(func)`: func(request, ctx) may change the request, and returns None, another request, or the response."""

        def add(rule: Rule[RequestFunction]) -> None:
            self._request = (*self._request, rule)

        return Sentence(conditions, add)

    def on_response(self, *conditions: Test) -> OnResponse:
        """`.do(func)`: func(response, ctx) may change the response, and returns None or another one."""

        def add(rule: Rule[ResponseFunction]) -> None:
            self._response = (*self._response, rule)

        return OnResponse(conditions, add)

    def on_connect(self, *conditions: Test) -> OnConnect:
        """`.accept()`, `.reject()`, `.mitm()`, `.hijack(func)`, or `.do(func)`: func(host, ctx) returns an action, an action and
        another "host:port", or None."""

        def add(rule: Rule[ConnectFunction]) -> None:
            self._connect = (*self._connect, rule)

        return OnConnect(conditions, add)

    def on_chunk(self, *conditions: Test) -> Sentence[ChunkFunction]:
        """`.do(func)`: func(chunk, ctx) gets the bytes of tunnels without HTTP, and returns None, other bytes or `DROP`."""

        def add(rule: Rule[ChunkFunction]) -> None:
            self._chunk = (*self._chunk, rule)

        return OnEither(conditions, add)

    def on_frame(self, *conditions: Test) -> Sentence[FrameFunction]:
        """`.do(func)`: func(frame, ctx) gets the frames of WebSockets, and returns None, another frame or `DROP`."""

        def add(rule: Rule[FrameFunction]) -> None:
            self._frame = (*self._frame, rule)

        return OnEither(conditions, add)

    def on_error(self, *conditions: Test) -> Sentence[ErrorFunction]:
        """`.do(func)`: func(fault, ctx) is called if the upstream gave no response, and may return one."""

        def add(rule: Rule[ErrorFunction]) -> None:
            self._error = (*self._error, rule)

        return OnEither(conditions, add)

    def mount(self, test: Test, app: "WSGIApplication") -> None:
        """Let a WSGI application answer the requests for which `test` is true. It has its place in the order of the request rules."""
        if not callable(app):
            raise TypeError(f"{app!r} is not a WSGI application")
        self.on_request(test).do(lambda request, ctx: MountedApp(app, request))

    # Methods that run rules

    @property
    def has_request_rules(self) -> bool:
        """Whether `request` could change anything."""
        return bool(self._request)

    @property
    def has_response_rules(self) -> bool:
        """Whether `response` could change anything."""
        return bool(self._response)

    @property
    def has_connect_rules(self) -> bool:
        """Whether `connect` could return an action."""
        return bool(self._connect)

    @property
    def may_intercept(self) -> bool:
        """Whether a rule with a fixed action intercepts tunnels. The results of functions are not known before."""
        return any(isinstance(getattr(rule.function, "action", None), Mitm) for rule in self._connect)

    @property
    def has_http_rules(self) -> bool:
        """Whether there are rules for HTTP, or for WebSockets, which begin as HTTP."""
        return bool(self._request or self._response or self._frame)

    def connect(self, host: str, ctx: Context) -> tuple[Action | None, str]:
        """The action for a tunnel to `host` ("host:port"), and its destination. The action is None if no rule decides."""
        for rule in self._connect:
            if not rule.is_for(host, ctx):
                continue
            try:
                result = _call(rule.function, host, ctx)
            except HTTPException as error:
                return Reject(error.get_response()), host
            if result is None:
                continue
            action, goes_to = result if isinstance(result, tuple) and len(result) == 2 else (result, host)
            if not isinstance(action, (Accept, Reject, Mitm, Hijack)):
                raise TypeError(f"the connect rule {name_of(rule.function)} returned {result!r}, which is not an action (and host)")
            if goes_to is not host and not (isinstance(goes_to, str) and 0 < (split_host_port(goes_to)[1] or 0) < 65536):
                raise TypeError(f"the connect rule {name_of(rule.function)} returned the host {goes_to!r}, which is not host:port")
            return action, goes_to
        return None, host

    def request(self, request: Request, ctx: Context) -> "Request | AnyResponse | MountedApp":
        """Run the request rules. Returns the request to forward, a rule's response, or a mounted application.

        `ctx.request` is always the current request.
        """
        for rule in self._request:
            if not rule.is_for(request, ctx):
                continue
            try:
                result = _call(rule.function, request, ctx)
            except HTTPException as error:
                return error.get_response(request.environ)
            if result is None:
                continue
            if isinstance(result, Request):
                ctx.request = request = result
            elif isinstance(result, (AnyResponse, MountedApp)):
                return result
            else:
                raise TypeError(f"the request rule {name_of(rule.function)} returned {result!r}: neither a Request nor a Response")
        return request

    def response(self, response: AnyResponse, ctx: Context) -> AnyResponse:
        """Run the response rules. Returns the response to send. Raises `Fault` if its body cannot be read or decoded for a rule; the caller
        closes it then.

        `ctx.response` is always the current response. Closing the result also closes the responses that it replaced.
        """
        for rule in self._response:
            if not rule.is_for(response, ctx):
                continue
            try:
                result: Any = _call(rule.function, cast(Response, response), ctx)
            except HTTPException as error:
                result = error.get_response()
            if result is None or result is response:
                continue
            if not isinstance(result, AnyResponse):
                raise TypeError(f"the response rule {name_of(rule.function)} returned {result!r}, which is not a Response")
            result.call_on_close(response.close)
            response = result
            ctx.response = cast(Response, response)
        return response

    def may_read(self, request: Request, ctx: Context) -> bool:
        """Whether a rule may read the body of the response. Then the caller limits Accept-Encoding (`limit_accept_encoding`)."""
        return any(rule.may_be_for(request, ctx) for rule in self._response)

    def error(self, fault: "Fault", ctx: Context) -> AnyResponse | None:
        """Run the error rules. Returns a rule's response, None for the proxy's. Sets `ctx.error`."""
        ctx.error = fault
        for rule in self._error:
            if rule.is_for(_subject(ctx), ctx):
                try:
                    result = _call(rule.function, fault, ctx)
                except HTTPException as error:
                    result = error.get_response()
                if result is None:
                    continue
                if not isinstance(result, AnyResponse):
                    raise TypeError(f"the error rule {name_of(rule.function)} returned {result!r}, which is not a Response")
                return result
        return None

    def chunk_hooks(self, ctx: Context) -> list[ChunkFunction]:
        """The chunk hooks that apply to this tunnel, for `filter_chunk`."""
        if not self._chunk:
            return []
        subject = _tunnel(ctx)
        return [rule.function for rule in self._chunk if rule.is_for(subject, ctx)]

    def frame_hooks(self, ctx: Context) -> list[FrameFunction]:
        """The frame hooks that apply to this WebSocket, for `filter_frame`. `ctx.request` is the request of its handshake."""
        return [rule.function for rule in self._frame if rule.is_for(_subject(ctx), ctx)]


def _call(function: Callable[[Any, Context], Any], subject: object, ctx: Context) -> Any:
    """The result of a rule for `subject`. If the rule has forked, the child ends here."""
    try:
        result = function(subject, ctx)
    except BaseException as error:
        end_child(error)
        if isinstance(error, HTTPException) and isinstance(error, OSError):  # raised by `wsgi.input`, not a response of the rule
            raise error.__cause__ or error from None
        raise
    if is_child():
        end_child(None)
    return result


def _subject(ctx: Context) -> Request | str:
    return ctx.request if ctx.request is not None else _tunnel(ctx)


def _tunnel(ctx: Context) -> str:
    if ctx.destination is None:
        return ""
    return join_host_port(*ctx.destination)


def filter_chunk(hooks: Iterable[ChunkFunction], data: bytes, from_client: bool, ctx: Context) -> bytes:
    """The bytes to send on for `data`, b"" for none. Raises `Refused` to end the stream."""
    for hook in hooks:
        result = _call(hook, Chunk(data, from_client), ctx)
        if result is None:
            continue
        if result is DROP:
            return b""
        if not isinstance(result, bytes):
            raise TypeError(f"the chunk rule {name_of(hook)} returned {result!r}: neither bytes nor DROP")
        data = result
        if not data:
            break
    return data


def filter_frame(hooks: Iterable[FrameFunction], frame: "Frame", ctx: Context) -> "Frame | None":
    """The frame to send on for `frame`, None for none. Raises `Refused` to end the WebSocket."""
    for hook in hooks:
        result = _call(hook, frame, ctx)
        if result is None:
            continue
        if result is DROP:
            return None
        if isinstance(result, Passage) or type(result) is not type(frame):
            raise TypeError(f"the frame rule {name_of(hook)} returned {result!r}: neither a Frame nor DROP")
        frame = result
    return frame
