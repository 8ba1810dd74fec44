"""`--preload` and `--preload-module`: what the process does that forks the workers of a generation. Imports no gevent before it is forked.

It is patched like a worker, so modules that it imports are those that a worker would have. What the application has begun while it was
loaded is in each worker then. That is right for greenlets and threads, and for files. It is not for what two processes cannot share, so
that is said, or refused.
"""

import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from muxwsgi.errors import OperatorError
from muxwsgi.names import address_text
from muxwsgi.record import record
from muxwsgi.server.preloader import Preloader
from muxwsgi.server.worker import Worker
from muxwsgi.wire.plain_socket import PlainSocket

if TYPE_CHECKING:
    from muxwsgi.observe.error_log import ErrorLog

__all__ = ["Leftovers", "Loaded", "preload", "preloads", "say_no_preload"]

log = logging.getLogger("muxwsgi.error")


@record()
class Loaded:
    """What a preloader has loaded, and the error log that it has opened before."""

    app: Any
    error_log: "ErrorLog"


def preloads(values: Mapping[str, Any]) -> bool:
    """Whether the options want a preloader. While an application is written, each worker has to load it, to notice what it has read."""
    return bool(values["preload_app"] or values["preload_module"]) and not (values["reload"] or values["debug"])


def say_no_preload(values: Mapping[str, Any]) -> None:
    """Log that the options have no effect beside others."""
    if (values["preload_app"] or values["preload_module"]) and not preloads(values):
        log.warning("preload_app, preload_module: with --reload and --debug each worker loads the application itself")


def preload(
    preloader: Preloader, values: Mapping[str, Any], load: Callable[[], Loaded], masters_log: "ErrorLog"
) -> tuple[Worker, Loaded | None]:
    """Load what the options name, and fork workers. Returns in each worker, with what `load` has returned. Raises `OperatorError`."""
    from muxwsgi.patch import patch_all

    patch_all()
    import_module("muxwsgi.cli.run")
    from muxwsgi.cli.load_app import load_module

    for name in values["preload_module"]:
        load_module(name, f"preload_module {name!r}")
    loaded = load() if values["preload_app"] else None
    if loaded is not None:
        masters_log.forsake()
    gc.collect()
    gc.freeze()  # later collections in a worker do not write to the memory that it shares
    from gevent import reinit
    from gevent.monkey import get_original

    error_log = masters_log if loaded is None else loaded.error_log
    worker = preloader.run(get_original("os", "fork"), get_original("os", "waitpid"), error_log.reopen)
    reinit()
    return worker, loaded


class Leftovers:
    """What the application has begun while it was loaded. Made before that."""

    def __init__(self) -> None:
        self._sockets = set(_sockets())

    def check(self) -> None:
        """Log what workers cannot share well. Raises `OperatorError` for what would go wrong in any case."""
        peers = [peer for name, peer in _sockets().items() if name not in self._sockets and peer]
        if peers:
            log.warning(
                "preload_app: the application has connected to %s while it was loaded, and all workers have that connection: close it "
                "there, or in the hook post_fork",
                ", ".join(peers),
            )
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            children = file.read().split()
        if children:
            log.warning(
                "preload_app: the application has started processes while it was loaded (%s): workers cannot wait for them",
                ", ".join(children),
            )
        if any(not loop.is_closed() for loop in _event_loops()):
            raise OperatorError(
                "preload_app: the application has made an event loop of asyncio while it was loaded, and workers would wake up each "
                "other's: make it at the first request, or serve without --preload"
            )


def _event_loops() -> Iterator[Any]:
    """The loops of asyncio that exist."""
    if "asyncio" not in sys.modules:
        return
    from asyncio import AbstractEventLoop

    for each in gc.get_objects():
        if issubclass(type(each), AbstractEventLoop):
            yield each


def _sockets() -> dict[str, str]:
    """The sockets of this process, by their name in /proc, with the address that each is connected to; "" for others."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            kind = os.readlink(f"/proc/self/fd/{name}")
            if not kind.startswith("socket:"):
                continue
            found[kind] = ""
            with PlainSocket(fileno=os.dup(int(name))) as sock:
                peer = sock.getpeername()
        except OSError:  # it is not connected, or the descriptor was that of the folder
            continue
        if peer:
            found[kind] = address_text(peer) if isinstance(peer, tuple) else f"unix:{peer}"
    return found
