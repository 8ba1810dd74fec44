"""Peers that mean harm: what they send costs them their own connection, and nobody else a turn."""

import os
import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import gevent
import pytest

from muxwsgi.errors import HandshakeError
from muxwsgi.testing import connection_pair
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.ready import give_turn
from muxwsgi.wire.tls import info as info_module
from muxwsgi.wire.tls.server_context import ServerContext
from muxwsgi.wire.transport import BYTES_PER_TURN
from tests.pairs import tcp_pair
from tests.tls.authority import Authority
from tests.tls.handshakes import VERSIONS, client_context, settings
from tests.tls.handshakes import handshake as handshake_in_memory
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


def handshake(server: Connection, client: Connection, tls: ServerContext) -> tuple[Connection, HandmadeClient]:
    shaking = gevent.spawn(HandmadeClient, client)
    inside = server.start_tls(tls)
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


@pytest.mark.parametrize("version", VERSIONS)
def test_a_resumed_session_does_not_outlive_the_clients_certificate(
    tmp_path: Path, version: ssl.TLSVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    server = ServerContext(settings(authority.leaf("a.example"), client_certificates="required", client_ca=authority.root))
    client = client_context(authority, version, authority.leaf("client.example", days=5))
    first, _ = handshake_in_memory(server, client)
    second, info = handshake_in_memory(server, client, session=first.session)
    assert info.resumed and info.peer_verified

    class InSixDays(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + timedelta(days=6)

    monkeypatch.setattr(info_module, "datetime", InSixDays)
    with pytest.raises(HandshakeError, match="expired"):
        handshake_in_memory(server, client, session=second.session)


@pytest.mark.parametrize("last", ["close", "send", "send much", "shutdown"])
def test_a_connection_that_was_reset_leaves_no_error_for_the_next_one(make_pair: Callable[[str], tuple[Connection, Connection]], last: str) -> None:
    victim, bystander = make_pair("tls")
    server, client = make_pair("tls")
    bystander.sendall(b"I am here")
    assert victim.recv() == b"I am here"
    client.abort()
    if last != "close":
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            if last == "shutdown":
                server.shutdown(socket.SHUT_WR)
            else:
                server.sendall(bytes(10 if last == "send" else 1_000_000))
    server.finish()
    below = socket.socket(fileno=os.dup(bystander.descriptor()))
    below.shutdown(socket.SHUT_WR)  # an end without close_notify
    below.close()
    assert victim.recv() == b""


@pytest.mark.parametrize("read_ahead", [False, True], ids=["descriptor", "memory"])
def test_a_record_that_drips_in_buys_no_time(server_context: ServerContext, read_ahead: bool) -> None:
    server, client = tcp_pair()
    shaking = gevent.spawn(HandmadeClient, client)
    if read_ahead:
        server.peek(1)
    inside, hand = server.start_tls(server_context), shaking.get(timeout=10)

    def drip() -> None:
        for byte in hand.data(bytes(1000)):
            client.sendall(bytes((byte,)))
            gevent.sleep(0.01)

    dripping = gevent.spawn(drip)
    inside.settimeout(0.1)
    with pytest.raises(TimeoutError):
        inside.recv()
    assert not dripping.ready(), "it was the whole record that came"
    dripping.kill()
    inside.finish()
    client.finish()


def test_who_does_not_wait_sees_what_is_behind_records_without_data(server_context: ServerContext) -> None:
    server, client = tcp_pair()
    inside, hand = handshake(server, client, server_context)
    inside.settimeout(0)
    with pytest.raises(BlockingIOError):
        inside.recv()
    client.sendall(hand.key_updates(3) + hand.data(b"not asked for"))
    assert inside.recv() == b"not asked for"
    client.sendall(hand.key_updates(3))
    with pytest.raises(BlockingIOError):
        inside.recv()
    client.shutdown(socket.SHUT_WR)
    assert inside.recv() == b""
    inside.finish()
    client.finish()
