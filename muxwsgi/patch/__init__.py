"""What `muxwsgi run` changes in Python before it loads the application.

gevent makes sockets, locks, threads and processes wait without holding up others. It leaves two modules of the standard library that
hold up, or break, the other greenlets of the thread: these are done here.

A program that serves by `Server` itself and has called gevent's `patch_all` may call this one instead. Importing it changes nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from muxwsgi.installed import packages_naming
from muxwsgi.patch.on_import import when_imported
from muxwsgi.patch.processes import patch_connections, patch_multiprocessing, patch_semaphores
from muxwsgi.patch.running_loop import patch_asyncio

__all__ = ["patch_all", "patch_asyncio", "patch_multiprocessing"]


def patch_all() -> None:
    """gevent's `patch_all`, and `patch_asyncio` and `patch_multiprocessing` when their modules are imported. To be called before anything
    else is imported. Idempotent."""
    from gevent import monkey

    with _plugins_looked_for_once():
        monkey.patch_all()
    when_imported("asyncio", patch_asyncio)
    when_imported("multiprocessing.connection", patch_connections)
    when_imported("multiprocessing.synchronize", patch_semaphores)


@contextmanager
def _plugins_looked_for_once() -> Iterator[None]:
    """gevent looks for its plugins before and after each module that it patches, 25 times. Each time `entry_points` opens a file of each
    installed package, which took more than half of the time of a start where 80 are installed.

    gevent's own plugin warns if `signal` is patched and `os` is not, so it has nothing to say here."""
    if packages_naming("gevent.plugins.") <= {"gevent"}:
        from gevent import events

        looked = events.notify_and_call_entry_points
        events.notify_and_call_entry_points = events.notify
        try:
            yield
        finally:
            events.notify_and_call_entry_points = looked
        return
    from importlib import metadata

    original = metadata.entry_points
    installed = original()
    metadata.entry_points = installed.select
    try:
        yield
    finally:
        metadata.entry_points = original
