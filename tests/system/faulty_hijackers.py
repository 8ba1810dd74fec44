"""Hijackers and an application that fail as code in C, endless loops and leaks do. `test_worker_faults.py` installs the module."""

import ctypes
import os
import resource
import time
from collections.abc import Callable, Iterable
from typing import Any

from muxwsgi import Connection, hijack
from muxwsgi.mux.matchers import prefix


@hijack(match=prefix(b"SPIN"))
def spins(connection: Connection) -> None:
    spin_for_a_minute()


def spin_for_a_minute() -> None:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        pass


@hijack(match=prefix(b"CRASH"))
def crashes(connection: Connection) -> None:
    read_address_0()


def read_address_0() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/crash":
        read_address_0()
    if path == "/eat":
        bytearray(1 << 40)
    if path == "/write":
        with open(environ["QUERY_STRING"], "wb") as file:
            file.write(bytes(3 << 19))
    if path == "/remove":
        os.remove(environ["QUERY_STRING"])
    body = b"%d %d" % (os.getpid(), len(environ["wsgi.input"].read()))
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
