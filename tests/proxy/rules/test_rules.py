"""`Rules`: what is called, in which order, with what, and what comes of it."""

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import flask
import pytest
import werkzeug.wrappers
from werkzeug.exceptions import abort
from werkzeug.test import run_wsgi_app

from muxwsgi.proxy.context import Context
from muxwsgi.proxy.fault import Fault, Phase
from muxwsgi.proxy.rules.conditions import (
    content_type_is,
    dst_host_is,
    header_matches,
    method_is,
    protocol_is,
    req_host_is,
    status_code_is,
    url_is,
)
from muxwsgi.proxy.rules.message import Request, Response, to_wsgi
from muxwsgi.proxy.rules.rules import (
    CONTINUE,
    DROP,
    Accept,
    Chunk,
    Hijack,
    Mitm,
    MountedApp,
    Refused,
    Reject,
    Rules,
    filter_chunk,
    filter_frame,
)
from muxwsgi.wire.connection import Connection

from .conftest import MakeContext, MakeRequest


@pytest.fixture
def rules() -> Rules:
    return Rules()


@pytest.fixture
def ask(rules: Rules, make_request: MakeRequest, make_context: MakeContext) -> Callable[..., Any]:
    def ask(*args: Any, **options: Any) -> Any:
        request = make_request(*args, **options)
        return rules.request(request, make_context(request=request))

    return ask


# Requests


def test_without_rules_nothing_happens(rules: Rules, make_request: MakeRequest, make_context: MakeContext) -> None:
    request = make_request()
    ctx = make_context(("example.com", 443), request=request)
    response = Response()
    assert not rules.has_request_rules and not rules.has_response_rules
    assert rules.request(request, ctx) is request
    assert rules.response(response, ctx) is response
    assert rules.connect("example.com:443", ctx) == (None, "example.com:443")
    assert rules.error(Fault(Phase.CONNECT, "refused"), ctx) is None
    assert rules.chunk_hooks(ctx) == rules.frame_hooks(ctx) == []
    assert not rules.may_read(request, ctx)


def test_request_rules_run_in_order_until_one_answers(rules: Rules, ask: Callable[..., Any]) -> None:
    called = []

    @rules.on_request()
    def first(request: Request, ctx: Context) -> None:
        called.append("first")
        request.headers["X"] = "1"

    @rules.on_request(header_matches("X", "1")).do
    def second(request: Request, ctx: Context) -> Response | None:
        called.append("second")
        return Response("no", 403) if request.path == "/no" else None

    rules.on_request(url_is("/never")).do(lambda request, ctx: called.append("never"))
    rules.on_request(method_is("GET"), url_is("/a")).do(lambda request, ctx: called.append("third"))
    assert rules.has_request_rules
    assert ask("http://example.com/no").status_code == 403
    assert called == ["first", "second"]
    called.clear()
    assert ask("http://example.com/a").headers["X"] == "1"
    assert called == ["first", "second", "third"]
    called.clear()
    ask("http://example.com/a", "POST")
    assert called == ["first", "second"]


def test_a_decorated_function_stays_itself(rules: Rules) -> None:
    def rule(*args: object) -> None: ...

    assert rules.on_request()(rule) is rules.on_response()(rule) is rules.on_connect()(rule) is rule
    assert rules.on_request().do(rule) is rules.on_connect().hijack(rule) is rules.on_chunk()(rule) is rules.on_frame()(rule) is rule


def test_a_request_takes_the_place_of_another_one(rules: Rules, make_request: MakeRequest, make_context: MakeContext) -> None:
    other = make_request("http://other.example/")
    rules.on_request(req_host_is("example.com")).do(lambda request, ctx: other)
    seen = []
    rules.on_request(req_host_is("other.example")).do(lambda request, ctx: seen.append((request, ctx.request)))
    request = make_request()
    ctx = make_context(request=request)
    assert rules.request(request, ctx) is other
    assert seen == [(other, other)]


def test_anybodys_response_is_one(rules: Rules, ask: Callable[..., Any]) -> None:
    answer = flask.Response("no", 403)
    rules.on_request().do(lambda request, ctx: answer)
    assert ask() is answer


def test_abort_answers(rules: Rules, ask: Callable[..., Any]) -> None:
    rules.on_request().do(lambda request, ctx: abort(451, "Not here."))
    answer = ask()
    assert isinstance(answer, werkzeug.wrappers.Response)
    assert answer.status_code == 451 and b"Not here." in answer.get_data()


def test_a_body_above_the_limit_is_answered_with_413(rules: Rules, ask: Callable[..., Any]) -> None:
    rules.on_request().do(lambda request, ctx: request.get_data() and None)
    assert ask(method="POST", body=b"x" * 11, buffer_limit=10).status_code == 413


def test_what_a_rule_raises_passes_untouched(rules: Rules, ask: Callable[..., Any], make_context: MakeContext) -> None:
    def broken(*args: object) -> Any:
        raise ZeroDivisionError

    rules.on_request().do(broken)
    rules.on_response().do(broken)
    rules.on_connect().do(broken)
    rules.on_error().do(broken)
    for call in (
        ask,
        lambda: rules.response(Response(), make_context()),
        lambda: rules.connect("example.com:443", make_context()),
        lambda: rules.error(Fault(Phase.HEAD, ""), make_context()),
    ):
        with pytest.raises(ZeroDivisionError):
            call()


def test_what_makes_no_sense_is_an_error_that_names_the_rule(rules: Rules, ask: Callable[..., Any], make_context: MakeContext) -> None:
    def sloppy(*args: object) -> Any:
        return "no"

    rules.on_request().do(sloppy)
    rules.on_response().do(sloppy)
    rules.on_connect().do(sloppy)
    rules.on_error().do(sloppy)
    for call in (
        ask,
        lambda: rules.response(Response(), make_context()),
        lambda: rules.connect("example.com:443", make_context()),
        lambda: rules.error(Fault(Phase.HEAD, ""), make_context()),
        lambda: filter_chunk([sloppy], b"x", True, make_context()),
        lambda: filter_frame([sloppy], Frame(b"x"), make_context()),
    ):
        with pytest.raises(TypeError, match=r"test_rules\.test_what_makes_no_sense.*sloppy returned 'no'"):
            call()


@pytest.mark.parametrize("about", [status_code_is(404), content_type_is("text/html"), ~status_code_is(404), url_is("/") & status_code_is(404)])
def test_what_is_about_responses_is_refused_where_there_is_none(rules: Rules, about: Any) -> None:
    for sentence in (rules.on_request, rules.on_connect, rules.on_chunk, rules.on_frame, rules.on_error):
        with pytest.raises(TypeError, match="tests responses"):
            sentence(about)
    with pytest.raises(TypeError, match="tests responses"):
        rules.mount(about, lambda environ, start_response: [])
    rules.on_response(about)


def test_only_functions_are_rules(rules: Rules) -> None:
    for write in (rules.on_request().do, rules.on_response().do, rules.on_connect().do, rules.on_connect().hijack):
        with pytest.raises(TypeError, match="not a function"):
            write("no")
    with pytest.raises(TypeError, match="not a WSGI application"):
        rules.mount(url_is("/"), "no")


def test_rules_may_be_added_by_rules(rules: Rules, ask: Callable[..., Any]) -> None:
    called = []

    @rules.on_request()
    def adds(request: Request, ctx: Context) -> None:
        rules.on_request().do(lambda request, ctx: called.append("added"))

    ask()
    assert called == []
    ask()
    assert called == ["added"]


# An application in the upstream's place


def test_an_application_takes_its_turn_among_the_request_rules(rules: Rules, ask: Callable[..., Any]) -> None:
    app = flask.Flask(__name__)

    @app.route("/hello", methods=["POST"])
    def hello() -> str:
        return f"{flask.request.url} {flask.request.headers['X']} {flask.request.get_data(as_text=True)}"

    rules.on_request().do(lambda request, ctx: request.headers.set("X", "1"))
    rules.mount(req_host_is("example.com"), app)
    rules.on_request().do(lambda request, ctx: Response("never", 500))
    mounted = ask("https://example.com/hello", "POST", body=b"body")
    assert isinstance(mounted, MountedApp) and mounted.app is app
    body, status, _ = run_wsgi_app(mounted.app, mounted.request.to_environ())
    assert (status, b"".join(body)) == ("200 OK", b"https://example.com/hello 1 body")


# Responses


def test_response_rules_all_run_each_on_what_the_one_before_it_left(rules: Rules, make_request: MakeRequest, make_context: MakeContext) -> None:
    class Body:
        closed = False

        def __iter__(self) -> Iterator[bytes]:
            yield b"abc"

        def close(self) -> None:
            self.closed = True

    @rules.on_response(status_code_is(200))
    def first(response: Response, ctx: Context) -> None:
        response.headers["X"] = "1"

    @rules.on_response(url_is("/a"), header_matches("X"))
    def second(response: Response, ctx: Context) -> Response:
        return Response((piece.upper() for piece in response.response), 201)

    third = rules.on_response(status_code_is(201)).do(lambda response, ctx: response.headers.set("Y", str(ctx.response is response)))
    assert third is not None and rules.has_response_rules
    body = Body()
    upstreams = Response.of_upstream(200, "OK", [], body)
    ctx = make_context(request=make_request("http://example.com/a"))
    ctx.response = upstreams
    answer = rules.response(upstreams, ctx)
    assert ctx.response is answer is not upstreams
    status, fields, pieces = to_wsgi(answer, "GET")
    assert (status, dict(fields)["Y"]) == ("201 CREATED", "True")
    assert not body.closed and list(pieces) == [b"ABC"]
    pieces.close()
    assert body.closed


def test_a_rule_that_reads_a_body_sees_it_decoded_and_it_goes_on_as_it_was(rules: Rules, make_request: MakeRequest, make_context: MakeContext) -> None:
    seen = []
    rules.on_response().do(lambda response, ctx: seen.append(response.headers.get("Content-Encoding")))
    rules.on_response(content_type_is("text/html")).do(lambda response, ctx: seen.append(response.get_data()))
    encoded = gzip.compress(b"hello")

    def through(kind: str) -> tuple[list[tuple[str, str]], bytes]:
        fields = [("Content-Type", kind), ("Content-Encoding", "gzip")]
        _, fields, pieces = to_wsgi(rules.response(Response.of_upstream(200, "OK", fields, [encoded]), make_context()), "GET")
        return fields, b"".join(pieces)

    assert through("text/html") == ([("Content-Type", "text/html"), ("Content-Encoding", "gzip")], encoded)
    assert through("text/css") == ([("Content-Type", "text/css"), ("Content-Encoding", "gzip")], encoded)
    assert seen == ["gzip", b"hello", "gzip"]


def test_a_body_that_cannot_be_decoded_does_not_pass_a_rule_that_reads_it(rules: Rules, make_context: MakeContext) -> None:
    rules.on_response().do(lambda response, ctx: response.get_data() and None)
    with pytest.raises(Fault, match="'compress'"):
        rules.response(Response.of_upstream(200, "OK", [("Content-Encoding", "compress")], [b"x"]), make_context())


def test_abort_takes_the_place_of_a_response(rules: Rules, make_context: MakeContext) -> None:
    rules.on_response().do(lambda response, ctx: abort(451))
    assert rules.response(Response(), make_context()).status_code == 451


@pytest.mark.parametrize(
    ("conditions", "url", "wanted"),
    [
        ((), "http://example.com/", True),
        ((url_is("/a"),), "http://example.com/", False),
        ((url_is("/a"),), "http://example.com/a", True),
        ((url_is("/a"), status_code_is(200)), "http://example.com/", False),
        ((status_code_is(200), content_type_is("text/html")), "http://example.com/", True),
        ((~content_type_is("text/html"),), "http://example.com/", True),
        ((url_is("/a") | status_code_is(200),), "http://example.com/", True),
        ((lambda response, ctx: False,), "http://example.com/", True),
    ],
)
def test_it_is_known_beforehand_whether_a_body_may_have_to_be_decoded(
    rules: Rules, make_request: MakeRequest, make_context: MakeContext, conditions: Any, url: str, wanted: bool
) -> None:
    request = make_request(url)
    assert not rules.may_read(request, make_context(request=request))
    rules.on_response(*conditions).do(lambda response, ctx: None)
    assert rules.may_read(request, make_context(request=request)) is wanted


# Tunnels


def takes(connection: Connection, ctx: Context) -> None: ...


def looks(connection: Connection, ctx: Context) -> Any:
    return CONTINUE


def test_the_first_rule_with_an_opinion_decides_on_a_tunnel(rules: Rules, make_context: MakeContext) -> None:
    refusal = Response("not there", 451)
    asked = []

    @rules.on_connect()
    def undecided(host: str, ctx: Context) -> None:
        asked.append(host)

    rules.on_connect(req_host_is("accepted.example")).accept()
    rules.on_connect(dst_host_is("refused.example")).reject()
    rules.on_connect(dst_host_is("refused-nicely.example")).reject(refusal)
    rules.on_connect(dst_host_is("looked-into.example")).mitm()
    rules.on_connect(dst_host_is("looked-at.example")).mitm(before=looks, after=takes)
    rules.on_connect(dst_host_is("hijacked.example")).hijack(takes)
    rules.on_connect(dst_host_is("aborted.example")).do(lambda host, ctx: abort(418))
    rules.on_connect(dst_host_is("moved.example")).do(lambda host, ctx: (Mitm(), "other.example:8443"))
    rules.on_connect(lambda host, ctx: host.startswith("function.")).do(lambda host, ctx: Accept())
    rules.on_connect().accept()
    rules.on_connect().reject()

    def decided(host: str) -> Any:
        action, goes_to = rules.connect(f"{host}:443", make_context())
        assert goes_to == f"{host}:443"
        return action

    assert decided("accepted.example") == Accept()
    assert decided("refused.example") == Reject()
    assert decided("refused-nicely.example") == Reject(refusal)
    assert decided("looked-into.example") == Mitm()
    assert decided("looked-at.example") == Mitm(looks, takes)
    assert decided("hijacked.example") == Hijack(takes)
    assert decided("aborted.example").response.status_code == 418
    assert decided("function.example") == decided("else.example") == Accept()
    assert rules.connect("moved.example:443", make_context()) == (Mitm(), "other.example:8443")
    assert len(asked) == 10


@pytest.mark.parametrize("host", ["other.example", "other.example:0", "other.example:65536", "other.example:x", 443, None])
def test_a_tunnel_goes_to_a_host_and_a_port(rules: Rules, make_context: MakeContext, host: Any) -> None:
    rules.on_connect().do(lambda *args: (Accept(), host))
    with pytest.raises(TypeError, match="not host:port"):
        rules.connect("example.com:443", make_context())


def test_a_refusal_that_can_be_sent_once_only_is_refused(rules: Rules) -> None:
    with pytest.raises(TypeError, match="many times"):
        rules.on_connect().reject(Response(piece for piece in ["no"]))


# Chunks, frames, faults


@dataclass(frozen=True)
class Frame:
    data: bytes


def test_chunks_pass_all_hooks_of_their_tunnel(rules: Rules, make_context: MakeContext) -> None:
    seen: list[Chunk] = []
    rules.on_chunk(dst_host_is("example.com"), protocol_is("tls")).do(lambda chunk, ctx: seen.append(chunk))
    rules.on_chunk(dst_host_is("example.com")).do(lambda chunk, ctx: chunk.data.upper() if chunk.from_client else None)
    rules.on_chunk(dst_host_is("example.com")).do(lambda chunk, ctx: seen.append(chunk))
    ctx = make_context(("example.com", 6379), tls=True)
    hooks = rules.chunk_hooks(ctx)
    assert len(hooks) == 3
    assert filter_chunk(hooks, b"ping", True, ctx) == b"PING"
    assert filter_chunk(hooks, b"pong", False, ctx) == b"pong"
    assert seen == [Chunk(b"ping", True), Chunk(b"PING", True), Chunk(b"pong", False), Chunk(b"pong", False)]
    assert len(rules.chunk_hooks(make_context(("example.com", 6379)))) == 2
    assert rules.chunk_hooks(make_context(("::1", 6379))) == rules.chunk_hooks(make_context()) == []


@pytest.mark.parametrize("nothing", [b"", DROP])
def test_a_chunk_that_one_hook_drops_is_not_shown_to_the_next(make_context: MakeContext, nothing: Any) -> None:
    def never(*args: object) -> None:
        raise AssertionError("called")

    assert filter_chunk([lambda *args: nothing, never], b"x", True, make_context()) == b""


def test_a_hook_may_end_the_stream(make_context: MakeContext) -> None:
    def refuse(*args: object) -> None:
        raise Refused("SSH is not for here")

    with pytest.raises(Refused, match="SSH") as caught:
        filter_chunk([refuse], b"SSH-2.0-", True, make_context())
    assert caught.value.reason == "SSH is not for here"
    with pytest.raises(Refused):
        filter_frame([refuse], Frame(b""), make_context())


def test_frames_pass_all_hooks_of_their_websocket(rules: Rules, make_request: MakeRequest, make_context: MakeContext) -> None:
    seen: list[Any] = []
    rules.on_frame(url_is("/chat")).do(lambda frame, ctx: Frame(frame.data.upper()))
    rules.on_frame(req_host_is("example.com")).do(lambda frame, ctx: seen.append(frame))
    ctx = make_context(request=make_request("http://example.com/chat", fields="Upgrade: websocket"))
    hooks: Any = rules.frame_hooks(ctx)
    frame: Any = Frame(b"hi")
    assert filter_frame(hooks, frame, ctx) == Frame(b"HI") == seen[0]
    assert filter_frame([lambda *args: DROP, *hooks], frame, ctx) is None
    assert len(rules.frame_hooks(make_context(request=make_request("http://example.com/")))) == 1


def test_a_rule_may_answer_where_the_upstream_gave_no_response(rules: Rules, make_request: MakeRequest, make_context: MakeContext) -> None:
    rules.on_error(url_is("/a")).do(lambda fault, ctx: None)
    rules.on_error(url_is("/a")).do(lambda fault, ctx: Response(f"{fault.reason}, {ctx.error is fault}", 503))
    rules.on_error(url_is("/b")).do(lambda fault, ctx: abort(418))
    rules.on_error(dst_host_is("example.com"), method_is("CONNECT")).do(lambda fault, ctx: Response("no tunnel", 503))
    fault = Fault(Phase.CONNECT, "refused")
    answer = rules.error(fault, make_context(request=make_request("http://example.com/a")))
    assert answer is not None and answer.get_data() == b"refused, True"
    answer = rules.error(fault, make_context(request=make_request("http://example.com/b")))
    assert answer is not None and answer.status_code == 418
    assert rules.error(fault, make_context(request=make_request("http://example.com/c"))) is None
    answer = rules.error(fault, make_context(("example.com", 443)))
    assert answer is not None and answer.get_data() == b"no tunnel"
