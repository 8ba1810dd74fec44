"""For tests of handlers and hijackers: a connection whose other end the test holds. No socket, no server."""

from muxwsgi.wire.connection import Connection
from muxwsgi.wire.memory import memory_pair

__all__ = ["connection_pair"]


def connection_pair() -> tuple[Connection, Connection]:
    """Two ends of one stream in memory: what is sent on one is received on the other. Both are the caller's to close.

    A direction holds 64 KiB before its writer waits, so a test that writes more needs a greenlet that reads.
    """
    near, far = memory_pair()
    return (
        Connection(near, client=("memory", 1), server=("memory", 0)),
        Connection(far, client=("memory", 0), server=("memory", 1)),
    )
