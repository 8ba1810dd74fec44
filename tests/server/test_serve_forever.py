"""`Server.serve_forever` in a program of somebody else: which signals end it, and whose they are before and after."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

import pytest

from tests.system.server_process import ROOT, read_until_closed

#: {before} runs before `serve_forever`, which {call} calls. A request to /slow is answered after a second.
PROGRAM = """
from gevent import monkey; monkey.patch_all()
import gevent, muxwsgi, os, signal, sys, threading

def app(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        say("in the view")
        gevent.sleep(1)
    if environ["PATH_INFO"] == "/stuck":
        say("in the view")
        gevent.sleep(600)
    if environ["PATH_INFO"] == "/fork":
        pid = os.fork()
        if not pid:
            say(signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.getsignal(signal.SIGTERM).name,
                signal.pthread_sigmask(signal.SIG_BLOCK, []))
            os._exit(0)
        os.waitpid(pid, 0)
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]

def say(*words):
    print(*words, flush=True)

server = muxwsgi.Server(app, binds=["127.0.0.1:0"])
say(server.addresses[0].rpartition(":")[2])
{before}
handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
gevent.spawn(say, "serving")
{call}
say("returned", (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers)
{after}
"""


class Program:
    """`out` is what it says, line by line."""

    def __init__(self, before: str, call: str, after: str) -> None:
        code = PROGRAM.format(before=before, call=call, after=after)
        self.process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.out: IO[str] = self.process.stdout
        self.port = int(self.out.readline())
        assert self.out.readline() == "serving\n"

    def ask(self, path: str) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        return sock

    def ended(self) -> tuple[str, str, int]:
        """What it says from now on, and to standard error, and its exit status."""
        said, errors = self.process.communicate(timeout=30)
        return said, errors, self.process.returncode


@contextmanager
def running(before: str = "", call: str = "server.serve_forever()", after: str = "") -> Iterator[Program]:
    program = Program(before, call, after)
    try:
        yield program
    finally:
        program.process.kill()
        program.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_term_drain_and_return(number: signal.Signals) -> None:
    with running() as program:
        with program.ask("/slow") as sock:
            assert program.out.readline() == "in the view\n"
            program.process.send_signal(number)
            assert read_until_closed(sock).endswith(b"\r\n\r\nhello")
        assert program.ended() == ("returned True\n", "", 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_one_cuts_what_is_left(number: signal.Signals) -> None:
    with running() as program, program.ask("/stuck") as sock:
        assert program.out.readline() == "in the view\n"
        program.process.send_signal(number)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:  # the drain has begun when the port is closed
            try:
                socket.create_connection(("127.0.0.1", program.port), timeout=5).close()
            except ConnectionRefusedError:
                break
            time.sleep(0.05)
        program.process.send_signal(number)
        with suppress(ConnectionResetError):
            assert read_until_closed(sock) == b""
        said, errors, status = program.ended()
        assert (said, status) == ("returned True\n", 0) and errors == "1 connections were cut at shutdown\n"


@pytest.mark.parametrize(
    "take",
    [
        "signal.signal(signal.{name}, lambda *_: (say('mine'), server.request_stop()))",
        "gevent.signal_handler(signal.{name}, lambda: (say('mine'), server.request_stop()))",
    ],
    ids=["signal", "gevent"],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_handler_of_the_program_stays_its_own_during_and_after(number: signal.Signals, take: str) -> None:
    after = f"os.kill(os.getpid(), signal.{number.name}); gevent.sleep(0.5)"
    with running(before=take.format(name=number.name), after=after) as program:
        program.process.send_signal(number)
        assert program.ended() == ("mine\nreturned True\nmine\n", "", 0)


def test_ctrl_c_is_pythons_again_when_it_has_returned() -> None:
    after = "try:\n    say('waiting')\n    gevent.sleep(30)\nexcept KeyboardInterrupt:\n    say('interrupted')"
    with running(after=after) as program:
        program.process.send_signal(signal.SIGTERM)
        assert [program.out.readline() for _ in range(2)] == ["returned True\n", "waiting\n"]
        program.process.send_signal(signal.SIGINT)
        said, _, status = program.ended()  # gevent writes a line of its own where its hub is interrupted
        assert (said, status) == ("interrupted\n", 0)


def test_a_signal_that_is_ignored_stays_so() -> None:
    with running(before="signal.signal(signal.SIGINT, signal.SIG_IGN)") as program:
        program.process.send_signal(signal.SIGINT)
        with program.ask("/") as sock:
            assert read_until_closed(sock).endswith(b"hello")
        program.process.send_signal(signal.SIGTERM)
        assert program.ended() == ("returned True\n", "", 0)


def test_a_thread_that_is_not_the_main_one_takes_none() -> None:
    call = (
        "def serve():\n"
        "    muxwsgi.Server(app, binds=['127.0.0.1:0']).serve_forever()\n"
        "gevent.get_hub().threadpool.spawn(serve)\n"
        "try:\n"
        "    gevent.sleep(30)\n"
        "except KeyboardInterrupt:\n"
        "    say('interrupted')\n"
        "    say('returned', True)\n"
        "    os._exit(0)"
    )
    with running(call=call) as program:
        time.sleep(1)
        program.process.send_signal(signal.SIGINT)
        said, _, status = program.ended()
        assert (said, status) == ("interrupted\nreturned True\n", 0)


def test_a_child_that_a_view_forks_has_them_as_python_has_them() -> None:
    with running() as program:
        with program.ask("/fork") as sock:
            assert program.out.readline() == "True SIG_DFL set()\n"
            assert read_until_closed(sock).endswith(b"hello")
        program.process.send_signal(signal.SIGTERM)
        assert program.ended() == ("returned True\n", "", 0)
