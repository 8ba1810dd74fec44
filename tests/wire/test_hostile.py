"""Peers that mean harm: what they send costs them their own connection, and nobody else a turn."""

from collections.abc import Callable, Iterator

import gevent
import pytest

from muxwsgi.wire.connection import Connection
from muxwsgi.wire.context import ServerContext
from tests.wire.conftest import tcp_pair
from tests.wire.key_update import HandmadeClient

#: A record with a KeyUpdate takes 27 bytes: this many fit into what the kernel takes without a reader.
FLOOD = 4000


@pytest.fixture
def turns() -> Iterator[Callable[[], int]]:
    """How often somebody else had a turn so far."""
    count = 0

    def live() -> None:
        nonlocal count
        while True:
            gevent.sleep(0)
            count += 1

    somebody = gevent.spawn(live)
    gevent.sleep(0)
    yield lambda: count
    somebody.kill()


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
    client.sendall(hand.key_updates(FLOOD) + hand.data(b"at last"))
    before = turns()
    assert inside.recv() == b"at last"
    assert turns() - before >= 2
    inside.finish()
    client.finish()
