"""`Condition`: a question about a request, a response or a tunnel; and how conditions combine. The vocabulary is in `conditions`."""

from collections.abc import Callable, Iterable
from typing import Any

import werkzeug.wrappers

from muxwsgi.proxy.context import Context
from muxwsgi.proxy.rules.request import Request

__all__ = ["Condition", "Test", "all_of", "any_of", "condition", "never", "not_"]

#: (request | response | "host:port", context) -> whether the rule is for it.
Test = Callable[[Any, Context], bool]

Response = werkzeug.wrappers.Response


class Condition:
    """What it says of each subject, and how it was written (`repr`). Made by the functions below.

    request, response, connect      (subject, ctx) -> bool
    reads_response                  whether its answer in `on_response` cannot be known before there is a response
    needs_response                  whether it is about responses alone, so that it makes no sense elsewhere
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
        """Ask it of a request, a response, or the "host:port" of a tunnel."""
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
    """The test that nothing passes."""
    return False


def _of_its_request(test: Callable[[Request, Context], bool]) -> Callable[[Response, Context], bool]:
    def of_its_request(response: Response, ctx: Context) -> bool:
        return ctx.request is not None and test(ctx.request, ctx)

    return of_its_request


def condition(test: Test) -> Condition:
    """`test` itself, or a condition around a function, which is given whatever the rule is about."""
    if isinstance(test, Condition):
        return test
    if not callable(test):
        raise TypeError(f"{test!r} is no condition and no function")
    if getattr(test, "__module__", "") == "muxwsgi.proxy.rules.conditions":  # it returns a condition, which is as good as True
        raise TypeError(f"{getattr(test, '__name__', test)} makes a condition of what it is given: call it")
    name = getattr(test, "__qualname__", repr(test))
    return Condition(name, request=test, response=test, connect=test)


# Together


def all_of(*tests: Test) -> Condition:
    """All of them hold. Also spelled `a & b`. Of none it is always true."""
    return _combined("all_of", " & ", all, [condition(test) for test in tests])


def any_of(*tests: Test) -> Condition:
    """One of them holds. Also spelled `a | b`."""
    return _combined("any_of", " | ", any, [condition(test) for test in tests])


def not_(test: Test) -> Condition:
    """It does not hold. Also spelled `~a`. Of a tunnel `~url_is(...)` is therefore true."""
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
