"""`Condition`: a test of a request, a response or a tunnel, and how conditions combine. `conditions` has the vocabulary."""

from collections.abc import Callable, Iterable
from typing import Any

import werkzeug.wrappers

from muxwsgi.proxy.context import Context
from muxwsgi.proxy.rules.request import Request

__all__ = ["Condition", "Test", "all_of", "any_of", "condition", "never", "not_"]

#: (request | response | "host:port", context) -> whether the rule applies.
Test = Callable[[Any, Context], bool]

Response = werkzeug.wrappers.Response


class Condition:
    """A test for each kind of subject. `repr` shows how it was written. The functions below make conditions.

    request, response, connect      (subject, ctx) -> bool
    reads_response                  whether its result in `on_response` depends on the response
    needs_response                  whether it tests responses only, so that it is an error elsewhere
    """

    __slots__ = ("_text", "connect", "needs_response", "reads_response", "request", "response")

    def __init__(
        self,
        text: str,
        *,
        request: Callable[[Request, Context], bool],
        response: Callable[[Response, Context], bool] | None = None,
        connect: Callable[[str, Context], bool] | None = None,
        needs_response: bool = False,
        reads_response: bool | None = None,
    ) -> None:
        self._text = text
        self.request = request
        self.response = response if response is not None else _of_its_request(request)
        self.connect = connect if connect is not None else never
        self.needs_response = needs_response
        self.reads_response = response is not None if reads_response is None else reads_response

    def __call__(self, subject: Any, ctx: Context) -> bool:
        """Test a request, a response, or the "host:port" of a tunnel."""
        if isinstance(subject, str):
            return self.connect(subject, ctx)
        if isinstance(subject, Response):
            return self.response(subject, ctx)
        return self.request(subject, ctx)

    def __and__(self, other: Test) -> "Condition":
        return all_of(self, other)

    def __rand__(self, other: Test) -> "Condition":
        return all_of(other, self)

    def __or__(self, other: Test) -> "Condition":
        return any_of(self, other)

    def __ror__(self, other: Test) -> "Condition":
        return any_of(other, self)

    def __invert__(self) -> "Condition":
        return not_(self)

    def __repr__(self) -> str:
        return self._text


def never(subject: object, ctx: Context) -> bool:
    """A test that is always False."""
    return False


def _of_its_request(test: Callable[[Request, Context], bool]) -> Callable[[Response, Context], bool]:
    def of_its_request(response: Response, ctx: Context) -> bool:
        return ctx.request is not None and test(ctx.request, ctx)

    return of_its_request


def condition(test: Test) -> Condition:
    """`test` itself, or a condition that calls a function with the rule's subject."""
    if isinstance(test, Condition):
        return test
    if not callable(test):
        raise TypeError(f"{test!r} is neither a condition nor a function")
    if getattr(test, "__module__", "") == "muxwsgi.proxy.rules.conditions":  # it would return a condition, which is always true
        raise TypeError(f"{getattr(test, '__name__', test)} returns a condition: call it with arguments")
    name = getattr(test, "__qualname__", repr(test))
    return Condition(name, request=test, response=test, connect=test)


# Together


def all_of(*tests: Test) -> Condition:
    """True if all of them are true. Also spelled `a & b`. Without arguments it is always true."""
    return _combined("all_of", " & ", all, [condition(test) for test in tests])


def any_of(*tests: Test) -> Condition:
    """True if one of them is true. Also spelled `a | b`."""
    return _combined("any_of", " | ", any, [condition(test) for test in tests])


def not_(test: Test) -> Condition:
    """True if `test` is false. Also spelled `~a`. So `~url_is(...)` is true for a tunnel."""
    inner = condition(test)
    request, response, connect = inner.request, inner.response, inner.connect
    return Condition(
        f"~{inner!r}",
        request=lambda subject, ctx: not request(subject, ctx),
        response=lambda subject, ctx: not response(subject, ctx),
        connect=lambda subject, ctx: not connect(subject, ctx),
        needs_response=inner.needs_response,
        reads_response=inner.reads_response,
    )


def _combined(name: str, sign: str, fold: Callable[[Iterable[bool]], bool], parts: list[Condition]) -> Condition:
    def asked(tests: list[Test]) -> Test:
        return lambda subject, ctx: fold(test(subject, ctx) for test in tests)

    return Condition(
        f"({sign.join(map(repr, parts))})" if len(parts) > 1 else f"{name}({', '.join(map(repr, parts))})",
        request=asked([part.request for part in parts]),
        response=asked([part.response for part in parts]),
        connect=asked([part.connect for part in parts]),
        needs_response=any(part.needs_response for part in parts),
        reads_response=any(part.reads_response for part in parts),
    )
