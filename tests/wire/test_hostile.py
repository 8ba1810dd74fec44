"""Peers that mean harm: what they send costs them their own connection, and nobody else a turn."""

from collections.abc import Callable, Iterator

import gevent
import pytest

from muxwsgi.testing import connection_pair
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.context import ServerContext
from muxwsgi.wire.ready import give_turn
from muxwsgi.wire.transport import BYTES_PER_TURN
from tests.wire.conftest import tcp_pair
from tests.wire.key_update import HandmadeClient

#: A record with a KeyUpdate takes 27 bytes: this many fit into what the kernel takes without a reader.
FLOOD = 4000


@pytest.fixture
def turns() -> Iterator[Callable[[], int]]:
    """How often the event loop went round so far: each time everybody who is ready has a turn."""
    count = 0

    def note() -> None:
        nonlocal count
        count += 1

    watcher = gevent.get_hub().loop.check()
    watcher.start(note)
    yield lambda: count
    watcher.stop()
    watcher.close()


def handshake(server: Connection, client: Connection, context: ServerContext) -> tuple[Connection, HandmadeClient]:
    shaking = gevent.spawn(HandmadeClient, client)
    inside = server.start_tls(context)
    return inside, shaking.get(timeout=10)


def test_a_flood_of_key_updates_leaves_others_their_turn(server_context: ServerContext, turns: Callable[[], int]) -> None:
    server, client = tcp_pair()
    inside, hand = handshake(server, client, server_context)
    client.sendall(hand.key_updates(FLOOD) + hand.data(b"at last"))
    before = turns()
    assert inside.recv() == b"at last"
    assert turns() - before > FLOOD // 2, "OpenSSL must not read one record after the other by itself"
    inside.finish()
    client.finish()


def test_a_flood_of_key_updates_inside_another_stream_leaves_others_their_turn(server_context: ServerContext, turns: Callable[[], int]) -> None:
    server, client = tcp_pair()
    shaking = gevent.spawn(HandmadeClient, client)
    assert server.peek(1) == b"\x16", "read ahead: TLS goes through memory from here on"
    inside, hand = server.start_tls(server_context), shaking.get(timeout=10)
    client.sendall(hand.key_updates(2 * FLOOD) + hand.data(b"at last"))
    before = turns()
    assert inside.recv() == b"at last"
    assert turns() - before >= 8, "one for every 16 KiB"
    inside.finish()
    client.finish()


def test_who_gives_others_a_turn_lets_descriptors_be_looked_at(turns: Callable[[], int]) -> None:
    before = turns()
    for _ in range(50):
        give_turn()
    assert turns() - before >= 50


def test_a_reader_as_fast_as_we_write_leaves_others_their_turn(turns: Callable[[], int]) -> None:
    server, client = connection_pair()
    reading = gevent.spawn(lambda: [None for _ in iter(client.recv, b"")])
    before = turns()
    for _ in range(1000):
        server.sendall(bytes(16384))
    server.finish()
    reading.join(timeout=10)
    assert turns() - before >= 1000 * 16384 // BYTES_PER_TURN - 1
    client.finish()
