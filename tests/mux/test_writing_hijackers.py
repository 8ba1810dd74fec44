"""docs/writing-hijackers.md: every block of code in it runs, top to bottom, and does what the page says."""

import re
import socket
import ssl
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import gevent
import pytest
from gevent.event import Event

from muxwsgi import Connection, Draining, Expired, Match, Mux, hijack
from muxwsgi.cli.new_hijacker import package
from muxwsgi.mux import matchers
from muxwsgi.mux.hijack import hijacker_of
from muxwsgi.testing import connection_pair
from muxwsgi.wire.service import Service
from muxwsgi.wire.tls.client_context import ClientContext
from muxwsgi.wire.tls.server_context import ServerContext

PAGE = Path(__file__).parents[2] / "docs" / "writing-hijackers.md"


def blocks(language: str) -> list[tuple[int, str]]:
    """(line number, code) of each block of `language` on the page."""
    text = PAGE.read_text()
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text[: match.start(1)].count("\n"), match[1]) for match in found]


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """The names that the page defines, after all of it has run."""
    module = ModuleType("muxwsgi_shout")  # the first block is its file, and the test's block imports it
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        for line, code in blocks("python"):
            # Blank lines in front, so that a traceback points into the page.
            exec(compile("\n" * line + code, str(PAGE), "exec"), module.__dict__)
    return module.__dict__


def test_every_block_of_code_runs(page: dict[str, Any]) -> None:
    assert [name for name in ("shout", "slow", "secretive", "patient") if hijacker_of(page[name])] == [
        "shout",
        "slow",
        "secretive",
        "patient",
    ]


def test_the_laws_on_the_page_hold(page: dict[str, Any]) -> None:
    classes = [page[name]() for name in page if name.startswith("Test")]
    assert [type(each).__name__ for each in classes] == ["MatcherLaws", "HijackerLaws", "MatcherLaws"]
    for each in classes:
        for test in (name for name in dir(each) if name.startswith("test_")):
            getattr(each, test)()


def test_the_files_on_the_page_are_those_that_new_hijacker_writes() -> None:
    shown = [code for _, code in (*blocks("python"), *blocks("toml"))]
    for name, text in package("shout").items():
        assert text in shown or name == "README.md", name


def test_the_table_of_options_of_the_page_fits_its_hijacker(page: dict[str, Any]) -> None:
    _, (_, table) = blocks("toml")
    greet = hijacker_of(page["Greet"])
    assert greet is not None
    handler: Any = greet.made(tomllib.loads(table)["hijack"]["greet"], "the page").handler
    assert (handler.options.greeting, handler.options.max_memory) == ("good morning", 64 << 20)


def test_every_matcher_that_the_page_names_is_there_and_no_other(page: dict[str, Any]) -> None:
    table = PAGE.read_text().split("| matcher | says YES to | in |")[1].split("\n\n")[0]
    named: dict[str, set[str]] = {}
    for cell, module in re.findall(r"^\| (`.*?) \|.*\| `([\w.]+)` \|$", table, re.MULTILINE):
        named.setdefault(module, set()).update(re.findall(r"`(\w+)", cell))
    for module, names in named.items():
        assert names <= set(import_module(module).__all__)
    makers = {"expression", "looks_into", "more_of", "named", "prompt_of", "shown"}  # for modules that make matchers, and muxes
    assert named[matchers.__name__] == {name for name in matchers.__all__ if name[0].islower()} - makers


def test_everything_that_the_page_says_a_connection_offers_is_there() -> None:
    table = PAGE.read_text().split("## What a Connection offers")[1]
    server, client = connection_pair()
    for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE):
        for name in re.findall(r"`(\w+)", cell):
            assert hasattr(server, name), name
    server.close()
    client.close()


def test_the_framed_matcher_decides_at_three_bytes(page: dict[str, Any]) -> None:
    assert [page["framed"](b"\0\x10\1..."[:n]) for n in (0, 2, 3, 6)] == [
        Match.MORE,
        Match.MORE,
        Match.YES,
        Match.YES,
    ]
    assert page["framed"](b"GET") is Match.NO


@pytest.mark.parametrize(
    ("name", "said", "answer"),
    [
        ("slow", b"SLOW x", b"hello SLOW x"),
        ("secretive", b"LOGIN sesame\n", b"welcome\n"),
        ("secretive", b"LOGIN\n", b"no\n"),
        ("patient", b"ASK?\n", b"42\n"),
    ],
)
def test_each_hijacker_of_the_page_does_what_it_says(
    page: dict[str, Any], name: str, said: bytes, answer: bytes
) -> None:
    server, client = connection_pair()
    serving = gevent.spawn(page[name], server)
    client.sendall(said)
    assert client.recv() == answer
    client.shutdown(socket.SHUT_WR)
    serving.get(timeout=5)
    server.close()
    client.close()


def test_a_hijacker_that_rests_ends_when_the_server_drains(page: dict[str, Any]) -> None:
    server, client = connection_pair()
    serving = gevent.spawn(page["patient"], server)
    gevent.sleep(0)
    assert server.resting
    server.lifeline.drain()
    with pytest.raises(Draining):
        serving.get(timeout=5)
    server.finish()
    client.close()


def test_a_login_that_drips_meets_its_deadline(
    page: dict[str, Any], swept: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = connection_pair()
    swept(server)
    monkeypatch.setattr(page["time"], "monotonic", lambda real=page["time"].monotonic: real() - 10)
    serving = gevent.spawn(page["secretive"], server)
    client.sendall(b"LOGIN ")
    gevent.sleep(0)
    monkeypatch.undo()
    with pytest.raises(Expired):
        serving.get(timeout=5)
    server.finish()
    client.close()


def test_starttls_asks_again_inside(
    page: dict[str, Any],
    make_server_context: Callable[..., ServerContext],
    make_client_context: Callable[..., ClientContext],
) -> None:
    server, client = connection_pair()
    server.lifeline.service = Service(Event(), make_server_context())
    mux = Mux([page["secured"]])
    serving = gevent.spawn(mux, server)
    client.sendall(b"STARTTLS\n")
    assert client.recv() == b"go ahead\n"
    inside = client.start_tls(make_client_context(), server_hostname="localhost")
    inside.sendall(b"SHOUT a\n")
    assert inside.recv() == b"SHOUT A\n"
    inside.close()
    serving.get(timeout=5)
    server.finish()
    assert server.trace[-1] == "mux 'inside': route 'shout' said YES to 8 bytes"


def test_a_hijacker_of_a_package_has_the_certificate_of_the_bind(page: dict[str, Any]) -> None:
    from muxwsgi.testing import serve

    with serve(page["starttls"]) as served, served["plain"].connect() as client:
        client.sendall(b"STARTTLS\n")
        assert client.recv(9) == b"go ahead\n"
        context = ssl.create_default_context(cafile=served.ca_file)
        with context.wrap_socket(client, server_hostname="localhost") as inside:
            inside.sendall(b"there")
            assert inside.recv(100) == b"hello there"


def test_a_hijacker_is_a_function_still() -> None:
    @hijack()
    def nothing(connection: Connection) -> None: ...

    server, client = connection_pair()
    nothing(server)
    server.close()
    client.close()
