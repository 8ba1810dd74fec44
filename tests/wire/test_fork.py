"""Forks of processes that do not serve: a master's, and a program's that has stopped."""

import json
import subprocess
import sys

from tests.system.server_process import ROOT


def output_of(program: str) -> object:
    """What a program prints as JSON."""
    command = [sys.executable, "-c", program]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=120).stdout)


CHILD_OF = """
import json, os, signal, socket
import muxwsgi
from muxwsgi.wire import fork

def hello(environ, start_response):
    if environ["PATH_INFO"] == "/fails":
        raise LookupError("on purpose")
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]

def get(address, path="/"):
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), 10) as sock:
        sock.sendall(b"GET " + path.encode() + b" HTTP/1.1\\r\\nHost: h\\r\\nConnection: close\\r\\n\\r\\n")
        answer = b""
        while part := sock.recv(1000):
            answer += part
    return b" 500 " in answer if path == "/fails" else answer.endswith(b"hello")

server = muxwsgi.Server(hello, ["127.0.0.1:0"])
"""


def test_a_master_may_fork_a_worker_that_serves_its_sockets() -> None:
    program = CHILD_OF + (
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    import gevent\n"
        "    gevent.signal_handler(signal.SIGTERM, server.request_stop)\n"
        "    server.serve_forever()\n"
        "    os._exit(3)\n"
        "found = get(server.addresses[0])\n"
        "os.kill(pid, signal.SIGTERM)\n"
        "print(json.dumps([found, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), fork.is_child()]))"
    )
    assert output_of(program) == [True, 3, False]


def test_a_child_may_serve_by_a_server_of_its_own() -> None:
    program = CHILD_OF + (
        "import gevent.os\n"
        "server.start()\n"
        "r, w = os.pipe()\n"
        "pid = gevent.os.fork()\n"
        "if pid == 0:\n"
        "    own = muxwsgi.Server(hello, ['127.0.0.1:0'])\n"
        "    gevent.signal_handler(signal.SIGTERM, own.request_stop)\n"
        "    own.start()\n"
        "    os.write(w, own.addresses[0].encode() + b'\\n')\n"
        "    own.serve_forever()\n"
        "    os._exit(4)\n"
        "address = os.fdopen(r).readline().strip()\n"
        "found = get(address) and get(address, '/fails') and get(address)\n"
        "os.kill(pid, signal.SIGTERM)\n"
        "status = os.waitstatus_to_exitcode(gevent.os.waitpid(pid, 0)[1])\n"
        "print(json.dumps([found, status, address != server.addresses[0]]))"
    )
    assert output_of(program) == [True, 4, True]


def test_a_program_whose_main_greenlet_forks_ends_as_it_would_without_a_server() -> None:
    program = CHILD_OF + (
        "import gevent.os\n"
        "server.start()\n"
        "gevent.spawn(gevent.sleep, 100)\n"
        "gevent.sleep(0)\n"
        "pid = gevent.os.fork()\n"
        "if pid == 0:\n"
        "    raise SystemExit(5)\n"
        "status = os.waitstatus_to_exitcode(gevent.os.waitpid(pid, 0)[1])\n"
        "print(json.dumps(status))"
    )
    assert output_of(program) == 5


def test_a_first_child_that_ends_at_once_is_waited_for() -> None:
    program = CHILD_OF + (
        "import gevent, gevent.os, time\n"
        "server.start()\n"
        "os.register_at_fork(after_in_parent=lambda: time.sleep(0.3))\n"
        "pid = gevent.os.fork_and_watch()\n"
        "if pid == 0:\n"
        "    os._exit(6)\n"
        "with gevent.Timeout(20):\n"
        "    print(json.dumps(os.waitstatus_to_exitcode(gevent.os.waitpid(pid, 0)[1])))"
    )
    assert output_of(program) == 6


def test_a_server_that_has_stopped_leaves_forks_alone() -> None:
    program = CHILD_OF + (
        "server.start()\n"
        "server.stop(0)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os._exit(int(fork.is_child()))\n"
        "print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))"
    )
    assert output_of(program) == 0
