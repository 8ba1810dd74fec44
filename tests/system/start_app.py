"""An application that says which modules are loaded for the first request, and whether the garbage collector ran when it was imported."""

import gc
import json
import sys
from typing import TYPE_CHECKING, Any

from muxwsgi.cli import run

if TYPE_CHECKING:
    from collections.abc import Callable

run.LOAD_PROTOCOLS_AFTER = 3600.0  # on a slow machine the first request may come after a second

_COLLECTS = gc.isenabled()


def application(environ: dict[str, Any], start_response: "Callable[..., Any]") -> list[bytes]:
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"loaded": sorted(sys.modules), "collects": _COLLECTS}).encode()]
