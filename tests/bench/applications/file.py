"""Files of the folder in the environment variable BENCH_FOLDER, through `wsgi.file_wrapper` where the server has one."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ.get("BENCH_FOLDER", "."))
BLOCK = 1 << 16


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    file = (FOLDER / environ["PATH_INFO"].rpartition("/")[2]).open("rb")
    size = os.fstat(file.fileno()).st_size
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(size))])
    wrapper = environ.get("wsgi.file_wrapper")
    if wrapper is not None:
        return wrapper(file, BLOCK)  # type: ignore[no-any-return]
    return iter(lambda: file.read(BLOCK), b"")
