"""How a framework's command becomes `muxwsgi run`."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

__all__ = ["become", "joined_bind"]


def joined_bind(host: str, port: int | str) -> str:
    """The bind for an address and a port. An IPv6 address may have its brackets already."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def become(app: str, arguments: Sequence[str], variables: Mapping[str, str] | None = None) -> NoReturn:
    """Replace this process by `muxwsgi run app arguments`, with `variables` in its environment. The pid stays. Raises `OSError`."""
    os.environ.update(variables or {})
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.execv(sys.executable, [sys.executable, "-m", "muxwsgi", "run", app, *arguments])
