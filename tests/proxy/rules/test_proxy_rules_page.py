"""docs/proxy-rules.md: every block of code in it runs, top to bottom, and does what the page says; every name in its tables is there."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from muxwsgi.proxy.certificates.authority import Authority, default_folder
from muxwsgi.proxy.context import Context
from muxwsgi.proxy.fault import Fault, Phase
from muxwsgi.proxy.proxy import Proxy
from muxwsgi.proxy.rules import actions, conditions
from muxwsgi.proxy.rules.message import Request, Response
from muxwsgi.proxy.rules.rules import CONTINUE, DROP, Accept, Hijack, Mitm, MountedApp, Refused, filter_chunk, filter_frame
from muxwsgi.testing import connection_pair
from tests.proxy.conftest import Lab, read_response

from .conftest import MakeContext, MakeRequest

PAGE = Path(__file__).parents[3] / "docs" / "proxy-rules.md"
TEXT = PAGE.read_text()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The names that the page defines, after all of it has run where `muxwsgi ca init` was; and `ca`, the certificate."""
    names: dict[str, Any] = {"__name__": "proxy_rules"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        Authority.create()
        _run(names)
        yield SimpleNamespace(**names, ca=default_folder() / "ca.pem")


def _run(names: dict[str, Any]) -> None:
    for block in re.finditer(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL):
        # Blank lines in front, so that a traceback points into the page.
        exec(compile("\n" * TEXT[: block.start(1)].count("\n") + block[1], str(PAGE), "exec"), names)


def table(heading: str, first_cells: str) -> list[str]:
    """The first cells of the table under `heading` whose first line is `first_cells`."""
    section = TEXT.split(f"\n## {heading}\n")[1]
    rows = section.split(f"\n{first_cells}\n")[1].split("\n\n")[0].splitlines()[1:]
    return [re.split(r"(?<!\\)\|", row)[1].strip() for row in rows]


# Names


def test_every_condition_is_on_the_page_and_no_other() -> None:
    named = {name for cell in table("Conditions", "| condition | holds of |") for name in re.findall(r"`(\w+)(?:\(|`)", cell)}
    offered = {name for name in conditions.__all__ if name[0].islower()} - {"condition"}
    assert named == offered


def test_everything_that_a_context_has_is_on_the_page_and_nothing_else() -> None:
    named = {name for cell in table("What a rule knows: ctx", "| attribute | |") for name in re.findall(r"`(\w+)`", cell)}
    assert named == set(Context.__slots__)


def test_every_action_is_on_the_page() -> None:
    cells = table("Tunnels", "| | what happens |")
    assert {name for cell in cells for name in re.findall(r"`\.(\w+)\(", cell)} == {"accept", "reject", "mitm", "hijack", "do"}
    for name in ("Accept", "Reject", "Mitm", "Hijack"):
        assert f"`{name}(" in TEXT and hasattr(actions, name)


def test_everything_that_the_page_says_of_messages_is_there(make_request: MakeRequest) -> None:
    for heading, message in (("Requests", make_request(method="POST", body=b"{}", fields="Content-Type: application/json")), ("Responses", Response("x"))):
        section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
        for cell in re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE):
            for name in re.findall(r"`(\w+)", cell):
                assert hasattr(message, name) or name in ("None",), name


def test_every_name_on_the_right_of_the_goproxy_table_is_there() -> None:
    proxy = Proxy()
    rows = TEXT.split("| goproxy | muxwsgi |")[1].split("\n\n")[0].splitlines()[2:]
    for row in rows:
        right = re.split(r"(?<!\\)\|", row)[2]
        for name in re.findall(r"proxy\.(\w+)\(", right):
            assert hasattr(proxy, name), name
        for name in re.findall(r"ctx\.(\w+)", right):
            assert name in Context.__slots__, name


# What the examples do


@pytest.fixture
def pass_through(page: SimpleNamespace, make_request: MakeRequest, make_context: MakeContext) -> Callable[..., Any]:
    def pass_through(*args: Any, **options: Any) -> Any:
        made = make_request(*args, **options)
        return page.proxy.rules.request(made, make_context(request=made))

    return pass_through


def test_requests_are_answered(page: SimpleNamespace, pass_through: Callable[..., Any]) -> None:
    answer = pass_through("http://ads.example/banner.gif")
    assert (answer.status_code, answer.get_data()) == (403, b"There is nothing here.\n")
    json = {"method": "POST", "fields": "Content-Type: application/json; charset=utf-8"}
    assert pass_through(body=b'{"password": "x"}', **json).status_code == 403
    passed = pass_through(body=b'{"name": "x"}', **json)
    assert isinstance(passed, Request) and b"".join(passed.outgoing().pieces) == b'{"name": "x"}'


def test_requests_are_sent_elsewhere(page: SimpleNamespace, pass_through: Callable[..., Any]) -> None:
    moved = pass_through("https://old.example/v1/a%20b?c", fields="Cookie: secret")
    assert moved.url == "https://new.example/v2/a%20b?c" and moved.redirected
    assert moved.fields == [("Host", "new.example")]
    ctx_of = []
    page.proxy.on_request(conditions.req_host_is("partner.example")).do(lambda request, ctx: ctx_of.append(ctx))
    pass_through("http://partner.example/")
    assert ctx_of[0].upstream is page.partner


def test_bodies_are_changed_while_they_pass(page: SimpleNamespace, pass_through: Callable[..., Any]) -> None:
    outgoing = pass_through("http://upload.example/", "PUT", body=b"hello").outgoing()
    assert outgoing.chunked and b"".join(outgoing.pieces) == b"HELLO"


def test_an_application_answers(page: SimpleNamespace, pass_through: Callable[..., Any]) -> None:
    mounted = pass_through("http://intranet.example/hello")
    assert isinstance(mounted, MountedApp)
    assert Response.from_app(mounted.app, mounted.request.to_environ()).get_data() == b"You asked for http://intranet.example/hello\n"


def test_responses_are_changed(page: SimpleNamespace, make_request: MakeRequest, make_context: MakeContext) -> None:
    ctx = make_context(request=make_request("https://www.example/app/"))
    answer = page.proxy.rules.response(Response("<body></body>", mimetype="text/html"), ctx)
    assert answer.headers["X-Seen-By"] == "muxwsgi"
    assert b"<p>Seen by a proxy.</p></body>" in answer.get_data()
    assert page.proxy.rules.may_read(ctx.request, ctx)
    late = page.proxy.rules.error(Fault(Phase.TIMEOUT, "too late"), ctx)
    assert (late.status_code, late.headers["Retry-After"]) == (503, "60")
    assert page.proxy.rules.error(Fault(Phase.CONNECT, "refused"), ctx) is None


def test_tunnels_are_decided_on(page: SimpleNamespace, make_context: MakeContext) -> None:
    assert page.proxy.rules.connect("bank.example:443", make_context()) == (Accept(), "bank.example:443")
    assert page.proxy.rules.connect("other.example:443", make_context()) == (Mitm(), "other.example:443")
    ctx = make_context()
    assert page.to_the_new_machine("staging.example:443", ctx) == (Mitm(), "staging-2.example:443")
    assert ctx.user_data == {"came for": "staging.example:443"}
    assert page.first.rules.connect("echo.example:7", make_context()) == (Hijack(page.echo), "echo.example:7")
    assert page.first.rules.connect("git.example:22", make_context()) == (Mitm(before=page.no_ssh), "git.example:22")


def test_a_look_at_a_tunnel_goes_on_or_keeps_it(page: SimpleNamespace, make_context: MakeContext) -> None:
    for said, answer in ((b"SSH-2.0-x\r\n", None), (b"GET / HTTP/1.1\r\n", CONTINUE)):
        near, far = connection_pair()
        far.sendall(said)
        assert page.no_ssh(near, make_context()) is answer
        assert near.recv() == said
        near.close()
        far.close()


def test_chunks_and_frames_are_looked_at(page: SimpleNamespace, make_request: MakeRequest, make_context: MakeContext) -> None:
    ctx = make_context(("example.com", 22))
    hooks = page.proxy.rules.chunk_hooks(ctx)
    assert filter_chunk(hooks, b"hello", True, ctx) == b"hello"
    with pytest.raises(Refused, match="not for here"):
        filter_chunk(hooks, b"SSH-2.0-x", False, ctx)
    ctx = make_context(request=make_request("http://example.com/chat"))
    hooks = page.proxy.rules.frame_hooks(ctx)
    frame, opcode = page.Frame, page.Opcode
    assert filter_frame(hooks, frame(opcode.TEXT, b"damn"), ctx) == frame(opcode.TEXT, b"darn")
    assert filter_frame(hooks, frame(opcode.TEXT, b"spam"), ctx) is None
    assert filter_frame(hooks, frame(opcode.BINARY, b"spam"), ctx) == frame(opcode.BINARY, b"spam")
    assert page.polite(frame(opcode.TEXT, b"spam"), ctx) is DROP


@pytest.mark.parametrize(("hour", "client", "refused"), [(3, "192.0.2.7", True), (3, "127.0.0.1", False), (12, "192.0.2.7", False)])
def test_a_function_is_a_condition(
    page: SimpleNamespace, make_request: MakeRequest, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch, hour: int, client: str, refused: bool
) -> None:
    # The page's functions have globals of their own, which is where they look for the clock.
    monkeypatch.setitem(page.at_night.request.__globals__, "datetime", SimpleNamespace(now=lambda: SimpleNamespace(hour=hour)))
    made = make_request()
    answer = page.night_shift.rules.request(made, make_context(client=(client, 1), request=made))
    assert isinstance(answer, Response) is refused


# Served


def test_the_proxy_of_the_page_serves(page: SimpleNamespace, lab: Lab) -> None:
    port = lab.serve_proxy(page.proxy)
    sock = lab.connect(port)
    sock.sendall(b"GET http://ads.example/ HTTP/1.1\r\nHost: ads.example\r\n\r\nGET http://intranet.example/hello HTTP/1.1\r\nHost: intranet.example\r\n\r\n")
    head, body = read_response(sock)
    assert head.startswith(b"HTTP/1.1 403 ") and body == b"There is nothing here.\n"
    head, body = read_response(sock)
    assert head.startswith(b"HTTP/1.1 200 ") and body == b"You asked for http://intranet.example/hello\n"


def test_the_hijacker_of_the_page_answers_in_a_tunnel(page: SimpleNamespace, lab: Lab) -> None:
    with gevent.Timeout(10):
        sock = lab.tunnel(lab.serve_proxy(page.first), "echo.example:7")
        sock.sendall(b"hello")
        assert sock.recv(100) == b"hello"


def test_an_application_of_the_page_answers_inside_of_tls_too(page: SimpleNamespace, lab: Lab) -> None:
    with gevent.Timeout(10):
        sock = lab.tunnel(lab.serve_proxy(page.proxy), "intranet.example:443")
        inside = lab.wrap(sock, "intranet.example", trust=page.ca)
        inside.sendall(b"GET /hello HTTP/1.1\r\nHost: intranet.example\r\n\r\n")
        assert read_response(inside)[1] == b"You asked for https://intranet.example/hello\n"
