"""A master opens the listening sockets, and has no gevent: what is imported for it must not bring gevent in."""

import subprocess
import sys

PROGRAM = """
import sys
from muxwsgi.server.bind_text import parse_bind
from muxwsgi.server.binds import listen_on

(listening,) = listen_on([parse_bind("127.0.0.1:0")], 1)
print(type(listening.socket).__module__, listening.address.rpartition(":")[0])
listening.close()
print(sorted(name for name in sys.modules if name.partition(".")[0] == "gevent"))
"""


def test_sockets_are_opened_without_gevent() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["socket 127.0.0.1", "[]"]


def test_sockets_of_a_patched_process_are_the_interpreters_own() -> None:
    program = "from gevent.monkey import patch_all; patch_all()\n" + PROGRAM
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[0] == "socket 127.0.0.1"
