"""What `muxwsgi run` changes in Python before it loads the application.

gevent makes sockets, locks, threads and processes wait without holding up others. It leaves two modules of the standard library that
hold up, or break, the other greenlets of the thread: these are done here.

A program that serves by `Server` itself and has called gevent's `patch_all` may call this one instead. Importing it changes nothing.
"""

from muxwsgi.patch.processes import patch_multiprocessing
from muxwsgi.patch.running_loop import patch_asyncio

__all__ = ["patch_all", "patch_asyncio", "patch_multiprocessing"]


def patch_all() -> None:
    """gevent's `patch_all`, `patch_asyncio` and `patch_multiprocessing`. To be called before anything else is imported. Idempotent."""
    from gevent import monkey

    monkey.patch_all()
    patch_asyncio()
    patch_multiprocessing()
