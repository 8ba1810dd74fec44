"""An application that says which modules are loaded."""

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_BEFORE = list(sys.modules)  # a server that loads something for the first request has forgotten it at the start


def application(environ: dict[str, Any], start_response: "Callable[..., Any]") -> list[bytes]:
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(sorted({*_BEFORE, *sys.modules})).encode()]
