"""An application that writes where applications write: standard output and error, `wsgi.errors`, and logging."""

import io
import logging
import logging.config
import os
import subprocess
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

if configuration := os.environ.get("TEST_LOGGING"):
    if configuration.endswith(".ini"):
        logging.config.fileConfig(configuration)
    else:
        logging.config.dictConfig({"version": 1})

match os.environ.get("TEST_STREAMS"):  # what programs do that want another encoding, or no output at all
    case "wrapped anew":
        sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8")
        sys.stderr = io.TextIOWrapper(sys.stderr.buffer, encoding="utf-8", line_buffering=True)
    case "detached":
        sys.stdout = io.TextIOWrapper(sys.stdout.detach(), encoding="utf-8")
        sys.stderr = io.TextIOWrapper(sys.stderr.detach(), encoding="utf-8", line_buffering=True)
    case "closed":
        sys.stdout.close()
        sys.stderr.close()
        sys.stdout = sys.stderr = open(os.devnull, "w")
    case "gone":
        sys.stdout.detach()

LARGE = "x" * 100_000  # more than a pipe holds


def application(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    match environ["PATH_INFO"]:
        case "/print":
            print(LARGE)
        case "/print-word":
            print("a word")
        case "/print-error":
            print(LARGE, file=sys.stderr)
        case "/errors":
            environ["wsgi.errors"].write(environ["QUERY_STRING"] + "\n")
            environ["wsgi.errors"].writelines(["one\n", "two\n"])
            environ["wsgi.errors"].flush()
        case "/fail":
            raise LookupError("of the application")
        case "/dictConfig":
            logging.config.dictConfig({"version": 1})
        case "/child":
            subprocess.run([sys.executable, "-c", "print('of a child')"], check=True)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]
