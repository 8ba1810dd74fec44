"""`Rule`: conditions and a function. And the sentences in which rules are written: `rules.on_request(condition, ...).do(function)`.

A sentence is also a decorator: `@rules.on_request(condition, ...)`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import werkzeug.wrappers

from muxwsgi.proxy.context import Context
from muxwsgi.proxy.rules.actions import Accept, Action, Chunk, Hijack, Hijacker, Look, Mitm, Passage, Reject
from muxwsgi.proxy.rules.condition import Condition, Test, condition

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

    from muxwsgi.http.websocket.frame import Frame
    from muxwsgi.proxy.fault import Fault
    from muxwsgi.proxy.rules.message import Request, Response

__all__ = [
    "Always",
    "ChunkFunction",
    "ConnectFunction",
    "ErrorFunction",
    "FrameFunction",
    "MountedApp",
    "OnConnect",
    "OnEither",
    "OnResponse",
    "RequestFunction",
    "ResponseFunction",
    "Rule",
    "Sentence",
    "name_of",
]

AnyResponse = werkzeug.wrappers.Response

#: None passes the request to the next rule. A request replaces this one. A response is sent to the client.
RequestFunction = Callable[["Request", Context], "Request | AnyResponse | MountedApp | None"]

#: None keeps the response, with the changes of the function. A response replaces it.
ResponseFunction = Callable[["Response", Context], "AnyResponse | None"]

#: None lets the next rule decide. A "host:port" beside the action redirects the tunnel.
ConnectFunction = Callable[[str, Context], "tuple[Action, str] | Action | None"]

#: None sends the chunk on, bytes replace it, b"" or `DROP` drop it.
ChunkFunction = Callable[[Chunk, Context], "bytes | Passage | None"]

#: None sends the frame on, a frame replaces it, `DROP` drops it.
FrameFunction = Callable[["Frame", Context], "Frame | Passage | None"]

#: None lets the next rule answer. If no rule does, the proxy answers.
ErrorFunction = Callable[["Fault", Context], "AnyResponse | None"]

@dataclass(frozen=True, slots=True)
class MountedApp:
    """An application answers `request` instead of the upstream: `app(request.to_environ(), start_response)`."""

    app: "WSGIApplication"
    request: "Request"


Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Rule(Generic[Function]):
    """`tests` are the tests of the conditions that this kind of rule uses."""

    conditions: tuple[Condition, ...]
    tests: tuple[Test, ...]
    function: Function

    def is_for(self, subject: Any, ctx: Context) -> bool:
        for test in self.tests:  # noqa: SIM110 - this is the hot path, and a generator costs more than the tests
            if not test(subject, ctx):
                return False
        return True

    def may_be_for(self, request: "Request", ctx: Context) -> bool:
        """Whether a response rule could apply to the response of `request`."""
        return all(each.reads_response or each.request(request, ctx) for each in self.conditions)


@dataclass(frozen=True, slots=True)
class Always:
    """A connect function with a fixed action. So the proxy knows before the first connection whether it needs a CA."""

    action: Action

    def __call__(self, host: str, ctx: Context) -> Action:
        return self.action


class Sentence(Generic[Function]):
    """`.do(function)` ends the sentence, and returns the function."""

    __slots__ = ("_add", "_conditions")

    def __init__(self, tests: tuple[Test, ...], add: Callable[[Rule[Function]], None]) -> None:
        self._conditions = tuple(condition(test) for test in tests)
        self._add = add
        for each in self._conditions:
            if each.needs_response:
                raise TypeError(f"{each!r} tests responses, and there is none yet: use it in on_response()")

    def do(self, function: Function) -> Function:
        """Call `function` for each subject for which all conditions are true."""
        self._add(Rule(self._conditions, self._tests(), _callable(function)))
        return function

    def __call__(self, function: Function) -> Function:
        return self.do(function)

    def _tests(self) -> tuple[Test, ...]:
        return tuple(each.request for each in self._conditions)


class OnEither(Sentence[Function]):
    """The subject is the request if there is one, otherwise the tunnel."""

    __slots__ = ()

    def _tests(self) -> tuple[Test, ...]:
        return self._conditions


class OnResponse(Sentence[ResponseFunction]):
    """What `on_response` returns."""

    __slots__ = ()

    def __init__(self, tests: tuple[Test, ...], add: Callable[[Rule[ResponseFunction]], None]) -> None:
        self._conditions = tuple(condition(test) for test in tests)
        self._add = add

    def _tests(self) -> tuple[Test, ...]:
        return tuple(each.response for each in self._conditions)


class OnConnect(Sentence[ConnectFunction]):
    """What `on_connect` returns."""

    __slots__ = ()

    def _tests(self) -> tuple[Test, ...]:
        return tuple(each.connect for each in self._conditions)

    def _always(self, action: Action) -> None:
        self._add(Rule(self._conditions, self._tests(), Always(action)))

    def accept(self) -> None:
        """Relay these tunnels without interception."""
        self._always(Accept())

    def reject(self, response: werkzeug.wrappers.Response | None = None) -> None:
        """Refuse these tunnels with `response`, by default a 403. It is sent many times, so its body must be in memory."""
        if response is not None and not response.is_sequence:
            raise TypeError("the response is sent many times, so its body must be in memory")
        self._always(Reject(response))

    def mitm(self, *, before: Look | None = None, after: Look | None = None) -> None:
        """Intercept these tunnels. `before` is called with the tunnel's connection, `after` with the decrypted one inside TLS. Each may
        `peek` and return `CONTINUE`, or keep the connection."""
        self._always(Mitm(before, after))

    def hijack(self, handler: Hijacker) -> Hijacker:
        """Give these tunnels to `handler(connection, ctx)`, which owns the connection until it returns. The tunnel is established then.
        Returns the handler."""
        self._always(Hijack(_callable(handler)))
        return handler


def _callable(function: Function) -> Function:
    if not callable(function):
        raise TypeError(f"{function!r} is not a function")
    return function


def name_of(function: object) -> str:
    """The name of a rule's function for errors."""
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"

