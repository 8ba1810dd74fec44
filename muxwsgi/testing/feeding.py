"""Bytes for a matcher or a hijacker, in memory and in any pieces."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import pairwise
from socket import SHUT_WR
from typing import TYPE_CHECKING

import gevent
from greenlet import GreenletExit

from muxwsgi.mux.hijack import Hijacker, hijacker_of
from muxwsgi.mux.match import Match
from muxwsgi.mux.mux import Mux
from muxwsgi.mux.route import Route
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.memory import memory_pair

if TYPE_CHECKING:
    from muxwsgi.mux.matchers import Matcher
    from muxwsgi.mux.route import Handler

__all__ = ["connection_pair", "feed", "pieces", "verdicts"]


def connection_pair() -> tuple[Connection, Connection]:
    """Two ends of one stream in memory: what is sent on one is received on the other. Both are the caller's to close.

    A direction holds 64 KiB before its writer waits, so a test that writes more needs a greenlet that reads.
    """
    near, far = memory_pair()
    return (
        Connection(near, client=("memory", 1), server=("memory", 0)),
        Connection(far, client=("memory", 0), server=("memory", 1)),
    )


def pieces(data: bytes, *cuts: int) -> list[bytes]:
    """`data` in pieces: cut at these positions, in any order, modulo its length. No piece is empty."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


def verdicts(matcher: "Matcher", data: bytes) -> list[Match]:
    """What the matcher says to the first 0, 1, 2, ... bytes of `data`, and to the whole."""
    return [matcher(data[:n]) for n in range(len(data) + 1)]


def feed(handler: "Handler | Hijacker | Route", said: bytes | Iterable[bytes], *, reset: bool = False, timeout: float = 5.0) -> bytes:
    """What `handler` answers to a client that sends `said` and then ends its direction.

    handler   a hijacker or a `Route`, which gets the connection through a mux, its first bytes included, or any callable. What a
              hijacker's matcher says NO to is closed without an answer
    said      the pieces in which the bytes come, each of them once the handler waits for more
    reset     the client resets the connection instead of ending its direction. What was answered is lost: b"" is returned
    timeout   seconds that the handler may take in all

    Raises what the handler raises, and `TimeoutError` if it has not returned in time.
    """
    server, client = connection_pair()
    answered = bytearray()
    parts = [said] if isinstance(said, bytes) else list(said)

    def talk() -> None:
        for piece in parts:
            client.sendall(piece)
            gevent.sleep(0)  # the handler sees this piece, and not yet the next one
        if reset:
            client.abort()
        else:
            client.shutdown(SHUT_WR)

    def listen() -> None:
        while part := client.recv():
            answered.extend(part)

    serving = gevent.spawn(_outcome, _served(handler, is_silent=not any(parts)), server)
    talking, listening = gevent.spawn(_unless_over, talk), gevent.spawn(_unless_over, listen)
    try:
        raised = serving.get(timeout=timeout)
        if raised is not None:
            raise raised
        server.finish()
        talking.get(timeout=timeout)
        listening.get(timeout=timeout)
    except gevent.Timeout:
        raise TimeoutError(f"the handler has not returned after {timeout:g} s; it has answered {bytes(answered[:100])!r} so far") from None
    finally:
        gevent.killall([serving, talking, listening])
        server.abort()
        client.abort()
    return b"" if reset else bytes(answered)


def _unless_over(act: Callable[[], None]) -> None:
    """A handler may end the connection before the client is done: what it said until then counts."""
    with suppress(OSError):
        act()


def _outcome(handler: "Handler", connection: Connection) -> BaseException | None:
    """What the handler raises, returned: gevent prints the traceback of a greenlet that fails."""
    try:
        handler(connection)
    except GreenletExit:
        raise
    except BaseException as error:
        return error
    return None


def _served(handler: "Handler | Hijacker | Route", *, is_silent: bool) -> "Handler":
    """What is called with the connection. A silent client is not waited for, if silence leads to the handler."""
    route = handler
    if not isinstance(route, Route):
        hijacker = route if isinstance(route, Hijacker) else hijacker_of(route)
        if hijacker is None:
            return handler  # type: ignore[return-value]
        route = hijacker.made({}, f"the hijacker {hijacker.name!r}").route()
    return route.handler if is_silent and route.takes_silence else Mux([route])
