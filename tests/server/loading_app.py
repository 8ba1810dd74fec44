"""An application that takes its time to be imported, in the way that TEST_LOADING names."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def told(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def end_children() -> list[int]:
    """What children ended with that were told to stop at once."""
    ended = []
    for _ in range(30):
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
            os._exit(1)
        os.kill(pid, signal.SIGTERM)
        ended.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    return ended


how = os.environ.get("TEST_LOADING")
if how != "catches":
    told("loading")
match how:
    case "sleeps":
        time.sleep(60)  # which is gevent's by now
    case "computes":
        while True:
            pass
    case "catches":
        with contextlib.suppress(BaseException):
            told("loading")
            time.sleep(60)
        told("caught")
    case "until told":
        while not os.path.exists(os.environ["TEST_FILE"]):
            time.sleep(0.02)
    case "thread":
        threading.Thread(target=time.sleep, args=(120,), name="the application's").start()
    case "process":
        multiprocessing.get_context("fork").Process(target=time.sleep, args=(120,), name="the application's").start()
    case "forks":
        told(f"children ended with {set(end_children())}")


def application(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]
