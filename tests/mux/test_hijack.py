"""`@hijack`, and finding what was made with it."""

import socket
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from muxwsgi import Connection, OperatorError, hijack
from muxwsgi.mux.hijack import hijacker_of
from muxwsgi.mux.match import Match
from muxwsgi.mux.matchers import all_of, any_of, never, not_, prefix
from muxwsgi.mux.registry import GROUP, Registered, discover, select
from muxwsgi.mux.route import Route
from muxwsgi.testing import connection_pair, feed


def test_the_decorated_callable_stays_what_it_was() -> None:
    @hijack(
        match=prefix(b"x"),
        name="ex",
        alpn=["x/1"],
        priority=3,
        limit=5,
        limit_wait=1.5,
        idle_timeout=60,
        takes_silence=True,
    )
    def serve(connection: Connection) -> None:
        """Serves."""

    assert serve.__doc__ == "Serves."
    hijacker = hijacker_of(serve)
    assert hijacker is not None
    route = hijacker.route()
    assert route.handler is serve
    assert (route.name, route.alpn, route.priority) == ("ex", ("x/1",), 3)
    assert (route.limit, route.limit_wait, route.idle_timeout, route.takes_silence) == (5, 1.5, 60, True)


def test_a_hijacker_that_wants_a_socket_is_given_one_and_stays_what_it_was() -> None:
    @hijack(as_socket=True)
    def shout(sock: Any) -> None:
        sock.sendall(sock.recv(100).upper())

    hijacker = hijacker_of(shout)
    assert hijacker is not None
    server, client = connection_pair()
    client.sendall(b"hello")
    hijacker.route().handler(server)
    server.finish()
    assert client.recv() == b"HELLO" and client.recv() == b""
    left, right = socket.socketpair()
    with left, right:
        right.sendall(b"as a function")
        shout(left)
        assert right.recv(100) == b"AS A FUNCTION"


def test_without_a_name_it_has_that_of_the_callable_and_without_a_matcher_it_matches_nothing() -> None:
    @hijack()
    def line_printer(connection: Connection) -> None: ...

    hijacker = hijacker_of(line_printer)
    assert hijacker is not None
    assert hijacker.name == "line-printer"
    assert hijacker.match is never


def test_any_callable_object_can_be_a_hijacker() -> None:
    class Counter:
        def __call__(self, connection: Connection) -> None: ...

    counter = hijack(match=prefix(b"x"))(Counter())
    hijacker = hijacker_of(counter)
    assert hijacker is not None
    assert (hijacker.name, hijacker.handler) == ("counter", counter)


def test_what_was_not_decorated_is_no_hijacker() -> None:
    assert hijacker_of(len) is None


@pytest.mark.parametrize(
    ("terms", "why"),
    [
        ({"name": "a b"}, "cannot be named 'a b'"),
        ({"name": ""}, "cannot be named ''"),
        ({"name": "http"}, "muxwsgi's own"),
        ({"name": "none"}, "muxwsgi's own"),
        ({"alpn": "h2"}, "sequence of ids"),
        ({"name": "a", "limit": 0}, "limit must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused_where_it_is_written(terms: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        hijack(**terms)(lambda connection: None)  # type: ignore[arg-type]


# The registry, with packages installed by hand into a directory


class Packages:
    """Writes installed packages with an entry point each."""

    def __init__(self, where: Path) -> None:
        self.where = where

    def install(
        self, name: str, package: str, code: str, *, version: str = "1.0", target: str = "serve"
    ) -> None:
        module = package.replace("-", "_")
        (self.where / f"{module}.py").write_text(code)
        info = self.where / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {module}:{target}\n")


GOOD = """
from muxwsgi.mux.hijack import hijack
from muxwsgi.mux.matchers import prefix

@hijack(match=prefix(b"x"), name="other-name", limit=3)
def serve(connection): ...
"""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packages:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return Packages(tmp_path)


def mine(registered: list[Registered]) -> list[Registered]:
    """Without what else is installed where the tests run."""
    return [plugin for plugin in registered if plugin.package.startswith("zz-")]


def test_an_installed_hijacker_is_found_and_has_the_name_of_its_entry_point(packages: Packages) -> None:
    packages.install("zebra", "zz-zebra", GOOD, version="2.1")
    (plugin,) = mine(discover())
    assert (plugin.name, plugin.package, plugin.version, plugin.target) == (
        "zebra",
        "zz-zebra",
        "2.1",
        "zz_zebra:serve",
    )
    assert plugin.error is None
    assert plugin.hijacker is not None
    assert plugin.hijacker.name == "zebra"
    assert plugin.hijacker.limit == 3


def test_listing_imports_nothing(packages: Packages) -> None:
    packages.install("zebra", "zz-zebra", "raise SystemExit('no')")
    mine(discover())
    assert "zz_zebra" not in sys.modules


CANNOT = "cannot be loaded: "


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import no_such_module", CANNOT + "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit", CANNOT + "SystemExit"),
        ("serve = )", CANNOT + "SyntaxError: unmatched ')' (zz_zebra.py, line 1)"),
        ("", CANNOT + "AttributeError: module 'zz_zebra' has no attribute 'serve'"),
        ("raise ValueError('a\\nb')", CANNOT + "ValueError: a"),
        ("def serve(connection): ...", "is not decorated with @hijack"),
    ],
)
def test_what_cannot_be_loaded_says_why_in_one_line_and_stops_only_who_wants_it(
    packages: Packages, code: str, why: str
) -> None:
    line = f"hijacker 'zebra' (zz_zebra:serve, from zz-zebra 1.0) {why}"
    packages.install("zebra", "zz-zebra", code)
    packages.install("yak", "zz-yak", GOOD)
    registered = mine(discover())
    assert [plugin.name for plugin in select(registered, disable=["zebra"])] == ["yak"]
    assert [plugin.name for plugin in select(registered, enable=["yak"])] == ["yak"]
    assert "zz_zebra" not in sys.modules
    with pytest.raises(OperatorError) as caught:
        select(registered)
    assert str(caught.value) == f"{line} (leave it out with --no-hijack zebra)"
    broken = registered[1]
    assert broken.hijacker is None
    assert broken.error is not None
    assert broken.error.line == line
    assert ("Traceback" in broken.error.traceback) == (CANNOT in why)


def test_a_reserved_name_cannot_be_registered(packages: Packages) -> None:
    packages.install("http", "zz-web", GOOD)
    (plugin,) = mine(discover())
    assert plugin.error is not None
    assert "muxwsgi's own" in plugin.error.line


def test_two_packages_with_one_name_are_both_told(packages: Packages) -> None:
    packages.install("zebra", "zz-one", GOOD)
    packages.install("zebra", "zz-two", GOOD, version="2.0")
    packages.install("yak", "zz-yak", GOOD)
    registered = mine(discover())
    assert [plugin.name for plugin in select(registered, disable=["zebra"])] == ["yak"]
    assert [plugin.name for plugin in select(registered, enable=["yak"])] == ["yak"]
    with pytest.raises(OperatorError) as caught:
        select(registered)
    assert "two hijackers are named 'zebra'" in str(caught.value)
    assert "zz_one:serve from zz-one 1.0" in str(caught.value)
    assert "zz_two:serve from zz-two 2.0" in str(caught.value)
    assert "--no-hijack zebra" in str(caught.value)


def test_two_packages_with_one_name_are_listed(packages: Packages) -> None:
    packages.install("zebra", "zz-one", GOOD)
    packages.install("zebra", "zz-two", GOOD)
    (plugin,) = mine(discover())
    assert plugin.hijacker is None and plugin.error is not None
    assert plugin.error.line.startswith("two hijackers are named 'zebra'")


@pytest.mark.parametrize("answer", [True, False, None, "yes"])
def test_a_matcher_that_answers_with_something_else_is_found_where_it_is_declared(answer: object) -> None:
    def matches(data: bytes) -> Any:
        return answer if data.startswith(b"GET") else Match.NO

    with pytest.raises(ValueError, match=r"the matcher .*matches.* answers .*: a matcher answers Match\.YES, Match\.NO or Match\.MORE"):
        hijack(match=matches, name="zebra")(lambda connection: None)
    with pytest.raises(ValueError, match="route 'zebra'"):
        Route("zebra", matches, lambda connection: None)
    for combine in (any_of, all_of, not_):
        with pytest.raises(ValueError, match="a matcher answers"):
            combine(matches)


def test_the_same_entry_point_seen_twice_is_one() -> None:
    point = EntryPoint("zebra", "zz_zebra:serve", GROUP)
    assert [plugin.name for plugin in discover([point, point])] == ["zebra"]


def names(*wanted: str) -> list[Registered]:
    return [Registered(EntryPoint(name, "builtins:print", GROUP)) for name in wanted]


def test_none_wants_nobody() -> None:
    assert select(names("redis", "mqtt"), enable=["none"]) == []
    with pytest.raises(OperatorError, match="'none' cannot be combined"):
        select(names("redis"), enable=["none", "redis"])


@pytest.mark.parametrize(
    ("installed", "asked", "line"),
    [
        (("redis", "mqtt"), "rediss", "no hijacker is named 'rediss'; did you mean 'redis'?"),
        (("redis", "mqtt"), "xyz", "no hijacker is named 'xyz'; installed: mqtt, redis"),
        ((), "redis", "no hijacker is named 'redis'; none is installed"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(installed: tuple[str, ...], asked: str, line: str) -> None:
    for terms in ({"enable": [asked]}, {"disable": [asked]}):
        with pytest.raises(OperatorError) as caught:
            select(names(*installed), **terms)
        assert str(caught.value) == line


def test_an_instance_of_a_decorated_class_keeps_the_options_that_it_was_made_with() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Options:
        greeting: str = "hello"

    @hijack(match=prefix(b"x"), options=Options)
    class Greet:
        def __init__(self, options: Options) -> None:
            self.options = options

        def __call__(self, connection: Connection) -> None:
            connection.sendall(self.options.greeting.encode())

    assert feed(Greet(Options(greeting="good morning")), b"x") == b"good morning"
    assert feed(Greet, b"x") == b"hello"
