"""What comes out of a run, without a run."""

import os
import platform
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from muxwsgi import __version__
from muxwsgi.build import BUILD
from tests.bench import packages
from tests.bench.answers import await_http, called
from tests.bench.clients import Target
from tests.bench.echoes import MAGIC, message
from tests.bench.loads import BROWSER_FIELDS, GROUPS, HELLO, LOADS, Load
from tests.bench.processes import BenchError, cpu_seconds, memory
from tests.bench.registry import PEERS
from tests.bench.report import BEGIN, END, write
from tests.bench.results import Figures, Results
from tests.bench.run import Plan, machine
from tests.bench.table import markdown, text
from tests.bench.visitors import NUMBER, heads


def figures(speed: float = 1000.0, cpu: float = 10.0, server_busy: float = 1.0, load_busy: float = 0.5) -> Figures:
    return Figures(speed=speed, cpu=cpu, p50=1.0, p99=2.0, server_busy=server_busy, load_busy=load_busy, rss=2048, pss=1024)


def results() -> Results:
    found = Results({"when": "today", "processor": "a & b <c>", "options": "3 rounds"}, {"squid": "not installed"})
    for speed in (900.0, 1000.0, 5000.0):
        found.add("hello", "muxwsgi", figures(speed))
    found.add("hello", "bjoern", figures(500.0, cpu=25.0))
    found.add("hello", "nginx", figures(4000.0, server_busy=0.5, load_busy=0.99))
    found.add("memory", "muxwsgi", Figures(more={"connection": 12.5}))
    found.add("memory", "bare-openssl", Figures(more={"connection": 4.0}))
    found.add("idle-0", "muxwsgi", figures(1000.0, cpu=20.0))
    found.add("idle-10000", "muxwsgi", figures(900.0, cpu=21.0))
    return found


def load_named(name: str) -> Load:
    return next(load for load in LOADS if load.name == name)


def test_a_file_gives_back_what_was_measured(tmp_path: Path) -> None:
    written = results()
    written.write(tmp_path / "run.json")
    assert Results.read(tmp_path / "run.json") == written


def test_medians_and_ratios_are_against_muxwsgi() -> None:
    table = markdown(results(), "http")
    assert "| muxwsgi | 1,000 | 1.00 | 10.0 | 1.00 |" in table
    assert "| bjoern | 500 | 2.00 | 25.0 | 2.50 |" in table


def test_memory_is_compared_with_a_process_that_only_holds_connections() -> None:
    assert "| muxwsgi | 12.5 | 8.5 |" in markdown(results(), "memory")


def test_idle_connections_are_compared_with_none() -> None:
    shown = markdown(results(), "idle")
    assert shown.count("against none idle") == 1
    assert "against none idle: requests/s -10%, CPU +5%" in shown


def test_a_server_that_waited_for_the_load_is_marked_and_explained() -> None:
    shown = text(results())
    assert "4,000*" in shown
    assert "1,000*" not in shown
    assert "* the server waited for the load" in shown


def test_who_is_missing_is_named_with_the_reason() -> None:
    assert "without squid: not installed" in text(results())


def test_a_report_takes_the_place_of_the_one_before_and_of_nothing_else(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text(f"before\n{BEGIN}\nold figures\n{END}\nbehind\n")
    write(results(), tmp_path)
    once = document.read_text()
    write(results(), tmp_path)
    assert document.read_text() == once
    assert once.startswith(f"before\n{BEGIN}\n")
    assert once.endswith(f"{END}\nbehind\n")
    assert "old figures" not in once


def test_a_report_of_some_groups_leaves_the_others(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text(f"{BEGIN}\n{END}\n")
    write(results(), tmp_path)
    before = document.read_text()
    later = Results({"when": "tomorrow"})
    later.add("reload-nginx", "muxwsgi", reloaded())
    later.add("hello", "muxwsgi", figures(7777.0))
    for _ in range(2):
        write(later, tmp_path)
        after = document.read_text()
        assert after.count("tomorrow") == 2
        assert "7,777" in after
        assert "| bjoern | 500 |" not in after
        assert before.partition("### Memory")[2].partition("\n###")[0].strip("\n").removesuffix(END).strip() in after
        assert after.startswith(before.partition("\n### ")[0])


def reloaded() -> Figures:
    more = {"requests": 20000.0, "reloads": 50.0, "lost": 14.0, "lost_502": 12.0, "lost_cut": 2.0, "quiet_p99": 4.0, "connects": 48.0}
    return Figures(p99=6.5, pss=2048, more=more)


def test_reloads_are_shown_with_what_was_lost() -> None:
    found = Results()
    found.add("reload-nginx", "muxwsgi", reloaded())
    assert "| muxwsgi | 50 | 20,000 | 14 | 4.0 | 6.5 | 48 | 2.0 | 502 12, cut 2 |" in markdown(found, "reload")


def test_starts_are_compared() -> None:
    found = Results()
    found.add("start", "muxwsgi", Figures(pss=2048, more={"first": 200.0, "first_cpu": 150.0}))
    found.add("start", "gunicorn-gevent", Figures(pss=1024, more={"first": 300.0, "first_cpu": 220.0}))
    assert "| gunicorn, gevent | 300 | 1.50 | 220 | 1.0 |" in markdown(found, "start")


def test_a_report_without_a_place_for_it_changes_nothing(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text("no place\n")
    with pytest.raises(ValueError, match="has no lines"):
        write(results(), tmp_path)
    assert document.read_text() == "no place\n"


def test_plots_are_xml_and_show_every_peer(tmp_path: Path) -> None:
    (tmp_path / "performance.md").write_text(f"{BEGIN}\n{END}\n")
    plots = [path for path in write(results(), tmp_path) if path.suffix == ".svg"]
    assert [path.name for path in plots] == ["http.svg", "idle.svg", "memory.svg"]
    words = {element.text for element in ElementTree.parse(plots[0]).iter("{http://www.w3.org/2000/svg}text")}
    assert {"muxwsgi", "bjoern", "nginx, a constant", "4,000*"} <= words


def test_a_note_stands_with_its_figures() -> None:
    found = Results()
    found.add("browser-varied", "muxwsgi", figures())
    note = load_named("browser-varied").note
    assert note
    assert note in text(found)
    assert f"(`browser-varied`)\n\n{note}\n\n| server |" in markdown(found, "http")


def test_requests_of_visitors_differ_in_path_query_and_two_fields() -> None:
    made = heads("localhost", "/", BROWSER_FIELDS)
    assert len(made) == len(set(made)) == NUMBER
    split = [head.decode().removesuffix("\r\n\r\n").split("\r\n") for head in made]
    changing = [line.partition(":")[0] for line, *others in zip(*split, strict=True) if len({line, *others}) == NUMBER]
    assert len(changing) == 3
    assert changing[0].startswith("GET /articles/")
    assert changing[1:] == ["User-Agent", "Cookie"]
    names = ["Host", *(field.partition(":")[0] for field in BROWSER_FIELDS)]
    assert all([line.partition(":")[0] for line in lines[1:]] == names for lines in split)


def test_a_run_says_which_build_it_has_measured() -> None:
    found = Results(machine("1 round"))
    found.add("hello", "muxwsgi", figures())
    assert f"muxwsgi {__version__} ({BUILD}), " in text(found)


def test_every_load_has_a_group_and_peers_that_exist() -> None:
    assert len({load.name for load in LOADS}) == len(LOADS)
    for load in LOADS:
        assert load.group in GROUPS
        assert set(load.peers) <= set(PEERS)


def test_rounds_go_over_all_loads_before_they_begin_again() -> None:
    pairs = [(load_named(name), PEERS[peer]) for name in ("hello", "memory") for peer in ("muxwsgi", "pywsgi")]
    turns = [(number, load.name, peer.name) for number, load, peer in Plan(pairs, 2, 1, 25).turns()]
    assert turns == [
        (1, "hello", "muxwsgi"),
        (1, "hello", "pywsgi"),
        (1, "memory", "muxwsgi"),
        (1, "memory", "pywsgi"),
        (2, "hello", "muxwsgi"),
        (2, "hello", "pywsgi"),
    ]


def test_a_peer_that_cannot_is_left_out_with_its_reason() -> None:
    found = Results()
    plan = Plan.of([load_named("hello"), load_named("hello-tls")], ["muxwsgi", "pywsgi", "waitress"], 1, 1, 25, found)
    assert ("hello-tls", "waitress") not in [(load.name, peer.name) for load, peer in plan.pairs]
    assert any(name.startswith("waitress (") and "hello-tls" in name for name in found.missing)


@pytest.mark.parametrize(("version", "missing"), [(platform.python_version(), False), ("3.11.999", True), ("", True)])
def test_a_peer_built_with_another_python_is_left_out(version: str, missing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "uwsgi"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho {version}\n")
    program.chmod(0o755)
    monkeypatch.setattr(packages, "VENV", tmp_path)
    monkeypatch.setattr(packages, "RECORD", tmp_path / "none.json")
    monkeypatch.setattr(packages, "_version", lambda package: "2.0")
    reason = packages.why_missing("uwsgi")
    assert (reason is not None and "built with Python" in reason) is missing


def test_an_echo_is_a_response_to_wrk_and_no_request_to_a_server() -> None:
    for close in (True, False):
        head, _, body = message(close).partition(b"\r\n\r\n")
        assert message(close).startswith(MAGIC)
        assert len(message(close)) == 128
        assert head.endswith(b"Content-Length: %d" % len(body))


@contextmanager
def answering(body: bytes, status: int = 200) -> Iterator[Target]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Target(server.server_port, False, "/", b"", Path())
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def idle_process() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    yield process
    process.communicate()


def test_a_right_answer_is_the_applications_own(idle_process: "subprocess.Popen[bytes]") -> None:
    with answering(b"Hello, World!") as target:
        await_http(idle_process, target, called(HELLO, "/", b""))


@pytest.mark.parametrize(("body", "status"), [(b"Hello, World?", 200), (b"", 200), (b"Hello, World!", 503)])
def test_a_wrong_answer_is_an_error(idle_process: "subprocess.Popen[bytes]", body: bytes, status: int) -> None:
    with answering(body, status) as target, pytest.raises(BenchError, match="the answer is"):
        await_http(idle_process, target, called(HELLO, "/", b""))


def test_a_server_that_ended_is_noticed_at_once() -> None:
    ended = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    ended.wait()
    with answering(b"") as target:
        pass
    with pytest.raises(BenchError, match="ended with status 3"):
        await_http(ended, target, b"")


def test_what_children_use_counts() -> None:
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}]); print('done', flush=True); sys.stdin.read()"
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"done\n"
        assert cpu_seconds(parent.pid) >= 0.2
        rss, pss = memory(parent.pid)
        assert rss >= pss > 0
    finally:
        parent.communicate()
    assert cpu_seconds(0) == 0
    assert cpu_seconds(os.getpid()) > 0
