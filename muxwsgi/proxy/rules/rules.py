"""`Rules`: what the operator wants done with what passes through, in the order in which it was said.

Request rules run in order; each sees what the ones before it made of the request, until one answers by itself or an application is mounted
there. Response rules all run, each on what the one before it left; on answers that rules gave, too. Of connect and error rules the first
with an opinion wins.

Rules may be added while the proxy serves: what is being asked at that moment goes on with those that it began with.

What a rule raises passes untouched, to become a 500 with a traceback in the error log. Only werkzeug's `HTTPException` (what `abort(403)`
raises) is the answer that it means to be.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

import werkzeug.wrappers
from werkzeug.exceptions import HTTPException

from muxwsgi.names import split_host_port
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
    """Rules of one proxy: how they are written, and how the proxy asks them."""

    def __init__(self) -> None:
        # Tuples, which are replaced and never changed: who iterates has the ones that there were.
        self._request: tuple[Rule[Any], ...] = ()
        self._response: tuple[Rule[ResponseFunction], ...] = ()
        self._connect: tuple[Rule[ConnectFunction], ...] = ()
        self._chunk: tuple[Rule[ChunkFunction], ...] = ()
        self._frame: tuple[Rule[FrameFunction], ...] = ()
        self._error: tuple[Rule[ErrorFunction], ...] = ()

    # How they are written

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
        """`.do(func)`: func(chunk, ctx) sees the bytes of tunnels that carry no HTTP, and returns None, other bytes or `DROP`."""

        def add(rule: Rule[ChunkFunction]) -> None:
            self._chunk = (*self._chunk, rule)

        return OnEither(conditions, add)

    def on_frame(self, *conditions: Test) -> Sentence[FrameFunction]:
        """`.do(func)`: func(frame, ctx) sees the frames of WebSockets, and returns None, another frame or `DROP`."""

        def add(rule: Rule[FrameFunction]) -> None:
            self._frame = (*self._frame, rule)

        return OnEither(conditions, add)

    def on_error(self, *conditions: Test) -> Sentence[ErrorFunction]:
        """`.do(func)`: func(fault, ctx) is called where the upstream gave no response, and may return one."""

        def add(rule: Rule[ErrorFunction]) -> None:
            self._error = (*self._error, rule)

        return OnEither(conditions, add)

    def mount(self, test: Test, app: "WSGIApplication") -> None:
        """Let a WSGI application answer the requests that `test` holds of. It takes its turn among the request rules."""
        if not callable(app):
            raise TypeError(f"{app!r} is no WSGI application")
        self.on_request(test).do(lambda request, ctx: MountedApp(app, request))

    # How the proxy asks them

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
        """Whether `connect` could have an opinion."""
        return bool(self._connect)

    @property
    def may_intercept(self) -> bool:
        """Whether a rule says outright that tunnels are intercepted. What functions return is not known before."""
        return any(isinstance(getattr(rule.function, "action", None), Mitm) for rule in self._connect)

    @property
    def has_http_rules(self) -> bool:
        """Whether anything that is HTTP, or begins as HTTP as WebSockets do, could be changed or refused."""
        return bool(self._request or self._response or self._frame)

    def connect(self, host: str, ctx: Context) -> tuple[Action | None, str]:
        """What to do with a tunnel to `host` ("host:port"), and where it goes then. None where no rule has an opinion."""
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
                raise TypeError(f"the connect rule {name_of(rule.function)} returned {result!r}, which is no action (and host)")
            if goes_to is not host and not (isinstance(goes_to, str) and 0 < (split_host_port(goes_to)[1] or 0) < 65536):
                raise TypeError(f"the connect rule {name_of(rule.function)} returned the host {goes_to!r}, which is not host:port")
            return action, goes_to
        return None, host

    def request(self, request: Request, ctx: Context) -> "Request | AnyResponse | MountedApp":
        """What becomes of a request: it goes on, perhaps as another one, or a rule answers it, or an application does.

        `ctx.request` follows what rules put in its place.
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
        """The response as rules leave it. Raises `Fault` where its body cannot be had as a rule needs it; the caller closes it then.

        `ctx.response` follows what rules put in its place. Closing the result closes what it took the place of.
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
                raise TypeError(f"the response rule {name_of(rule.function)} returned {result!r}, which is no Response")
            result.call_on_close(response.close)
            response = result
            ctx.response = cast(Response, response)
        return response

    def may_read(self, request: Request, ctx: Context) -> bool:
        """Whether a rule may ask for the body of the response to come: `limit_accept_encoding(request.headers)` then."""
        return any(rule.may_be_for(request, ctx) for rule in self._response)

    def error(self, fault: "Fault", ctx: Context) -> AnyResponse | None:
        """A rule's answer where the upstream gave none; None for the proxy's own. Sets `ctx.error`."""
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
                    raise TypeError(f"the error rule {name_of(rule.function)} returned {result!r}, which is no Response")
                return result
        return None

    def chunk_hooks(self, ctx: Context) -> list[ChunkFunction]:
        """The functions that want to see the bytes of this tunnel: for `filter_chunk`."""
        if not self._chunk:
            return []
        subject = _tunnel(ctx)
        return [rule.function for rule in self._chunk if rule.is_for(subject, ctx)]

    def frame_hooks(self, ctx: Context) -> list[FrameFunction]:
        """The functions that want to see the frames of this WebSocket, `ctx.request` of which asked for it: for `filter_frame`."""
        return [rule.function for rule in self._frame if rule.is_for(_subject(ctx), ctx)]


def _call(function: Callable[[Any, Context], Any], subject: object, ctx: Context) -> Any:
    """What a rule makes of `subject`. Where it has forked, the child ends here, and what it returned is of no use."""
    try:
        result = function(subject, ctx)
    except BaseException as error:
        end_child(error)
        if isinstance(error, HTTPException) and isinstance(error, OSError):  # not the rule's answer, but what `wsgi.input` raises
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
    host, port = ctx.destination
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def filter_chunk(hooks: Iterable[ChunkFunction], data: bytes, from_client: bool, ctx: Context) -> bytes:
    """What to send on in place of `data`, b"" for nothing. Raises `Refused` where the stream shall end."""
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
    """What to send on in place of `frame`, None for nothing. Raises `Refused` where the WebSocket shall end."""
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
