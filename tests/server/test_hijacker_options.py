"""Hijackers with options: what an operator writes, what is made of it, and when a handler is started and stopped."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gevent
import pytest

import muxwsgi
from muxwsgi import Connection, OperatorError, hijack
from muxwsgi.mux.hijack import Hijacker, hijacker_of
from muxwsgi.mux.matchers import prefix
from muxwsgi.setting import read_options, setting
from tests.http.conftest import hello
from tests.system.server_process import ServerProcess
from tests.waiting import wait_for


@dataclass(frozen=True, kw_only=True)
class Options:
    greeting: str
    most: int = setting(1024, "Bytes.", unit="BYTES", at_least=1)
    pause: float = 0.5
    loud: bool = False
    names: tuple[str, ...] = ()
    mode: str = setting("a", "Which.", choices=("a", "b"))

    def __post_init__(self) -> None:
        if self.greeting == "no":
            raise OperatorError("greeting: 'no' is none")


@hijack(match=prefix(b"G"), options=Options)
class Greeter:
    told: list[str] = []

    def __init__(self, options: Options) -> None:
        self.options = options

    def start(self) -> None:
        self.told.append("start")

    def stop(self) -> None:
        self.told.append("stop")

    def __call__(self, connection: Connection) -> None:
        connection.sendall(self.options.greeting.encode())


def made(**values: Any) -> Hijacker:
    described = hijacker_of(Greeter)
    assert described is not None
    return described.made(values, "office.toml: hijack.greeter")


def test_values_have_the_types_of_the_defaults_and_sizes_have_units() -> None:
    values = {"greeting": "hi", "most": "64M", "pause": 1, "loud": True, "names": ["x"], "mode": "b"}
    assert read_options(Options, values, "here") == Options(greeting="hi", most=64 << 20, pause=1, loud=True, names=("x",), mode="b")
    assert read_options(Options, {"greeting": "hi"}, "here") == Options(greeting="hi")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "the option 'greeting' is missing"),
        ({"greeting": 1}, "greeting: 1 is not a text"),
        ({"greeting": "no"}, "greeting: 'no' is none"),
        ({"greeting": "hi", "most": "64X"}, "most: '64X' is not a whole number, or a size"),
        ({"greeting": "hi", "most": 0}, "most: 0 is less than 1"),
        ({"greeting": "hi", "most": True}, "most: True is not a whole number"),
        ({"greeting": "hi", "most": 1.5}, "most: 1.5 is not a whole number"),
        ({"greeting": "hi", "pause": "1"}, "pause: '1' is not a number"),
        ({"greeting": "hi", "loud": 1}, "loud: 1 is not true or false"),
        ({"greeting": "hi", "names": "x"}, "names: 'x' is not a list of texts"),
        ({"greeting": "hi", "mode": "c"}, "mode: 'c' is not a or b"),
        ({"greeting": "hi", "mots": 1}, "there is no option 'mots'; there are greeting, most"),
    ],
)
def test_a_fault_is_one_line_with_its_place(values: dict[str, Any], message: str) -> None:
    with pytest.raises(OperatorError, match=f"^office.toml: hijack.greeter: {message}"):
        made(**values)


def test_options_are_for_hijackers_that_have_some() -> None:
    @hijack()
    def plain(connection: Connection) -> None:
        """Never called."""

    described = hijacker_of(plain)
    assert described is not None
    assert described.made({}, "here") is described
    with pytest.raises(OperatorError, match="here: the hijacker 'plain' has no options"):
        described.made({"a": 1}, "here")
    with pytest.raises(ValueError, match="options is a dataclass"):
        hijack(options=dict)(plain)
    with pytest.raises(ValueError, match="as_socket is not for a hijacker with options"):
        hijack(options=Options, as_socket=True)


def say(server: muxwsgi.Server) -> bytes:
    host, _, port = server.addresses[0].rpartition(":")
    with gevent.Timeout(10), gevent.socket.create_connection((host, int(port))) as sock:
        sock.sendall(b"G\n")  # after a G alone the server waits for GET
        answer: bytes = sock.recv(100)
        return answer


def test_a_handler_is_started_before_the_first_connection_and_stopped_after_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(Greeter, "told", told)
    one, other = made(greeting="one"), made(greeting="other")
    server = muxwsgi.Server(hello, binds=["127.0.0.1:0"], hijackers=[one])
    assert told == []
    server.start()
    assert told == ["start"]
    assert say(server) == b"one"
    server.swap(hello, [one])  # the same one goes on
    assert say(server) == b"one"
    with gevent.Timeout(10):
        while server._retiring and not all(each.dead for each in server._retiring):
            gevent.sleep(0.01)
    assert told == ["start"]
    server.swap(hello, [other])
    assert say(server) == b"other"
    with gevent.Timeout(10):
        while told != ["start", "start", "stop"]:
            gevent.sleep(0.01)
    server.stop(graceful_timeout=0)
    assert told == ["start", "start", "stop", "stop"]


def test_one_that_needs_an_option_is_refused_without_it() -> None:
    with pytest.raises(OperatorError, match=r"^hijacker 'greeter': the option 'greeting' is missing"):
        muxwsgi.Server(hello, binds=["127.0.0.1:0"], hijackers=[Greeter])


PLUGIN = """
import sys
from dataclasses import dataclass
from muxwsgi import hijack
from muxwsgi.mux.matchers import prefix

@dataclass(frozen=True, kw_only=True)
class Options:
    greeting: str = "hello"
    most: int = 10

@hijack(match=prefix(b"GREET"), options=Options)
class Greet:
    def __init__(self, options):
        self.options = options

    def start(self):
        print("greet starts", file=sys.stderr, flush=True)

    def stop(self):
        print("greet stops", file=sys.stderr, flush=True)

    def __call__(self, connection):
        connection.sendall(f"{self.options.greeting} {self.options.most}".encode())
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A package with the hijacker `greet`. Runs a command beside it."""
    (tmp_path / "greet_plugin.py").write_text(PLUGIN)
    information = tmp_path / "greet_plugin-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: greet-plugin\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[muxwsgi.hijack]\ngreet = greet_plugin:Greet\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "muxwsgi", *words], capture_output=True, text=True, timeout=60, check=False)

    return run


def test_the_file_has_a_table_for_each_hijacker(installed: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    file = tmp_path / "options.toml"
    file.write_text('[hijack.greet]\ngreeting = "good morning"\nmost = "2K"\n')
    with ServerProcess("tests.server.applications:wsgi", "-c", str(file)) as server:
        with server.connect() as sock:
            sock.sendall(b"GREET")
            assert sock.recv(100) == b"good morning 2048"
        assert server.log.count("greet starts") == 1
    wait_for(lambda: server.log.count("greet stops") == 1, lambda: server.log)
    listed = installed("hijackers")
    assert "greeting=hello,most=10" in listed.stdout
    for text, message in (
        ("[hijack.greet]\nmots = 1\n", "hijack.greet: there is no option 'mots'; there are greeting, most"),
        ("[hijack.great]\n", "hijack.great: no hijacker is named 'great'; did you mean 'greet'?"),
        ("[hijack.echo]\na = 1\n", "hijack.echo: the hijacker 'echo' has no options"),
    ):
        file.write_text(text)
        refused = installed("check", "-c", str(file))
        assert refused.returncode == 2
        assert refused.stderr.splitlines()[-1] == f"muxwsgi: error: {file}: {message}"
