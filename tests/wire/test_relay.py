"""Relays between connected sockets: what counts as a regular end."""

import socket
import struct
from collections.abc import Iterator
from typing import Any

import gevent
import gevent.socket
import pytest

from muxwsgi.errors import Expired
from muxwsgi.testing import connection_pair
from muxwsgi.wire import copies as copies_module
from muxwsgi.wire.relay import Relayed, relay
from tests.pairs import Pair, tcp_pair


@pytest.fixture
def pairs() -> Iterator[tuple[Pair, Pair]]:
    pairs = tcp_pair(), tcp_pair()
    yield pairs
    for pair in pairs:
        for end in pair:
            end.close()


def relaying(pairs: tuple[Pair, Pair]) -> "gevent.Greenlet[..., Relayed]":
    return gevent.spawn(relay, pairs[0][0], pairs[1][0])


def reset(pair: Pair) -> None:
    sock, _ = pair[1].detach()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_who_is_gone_after_saying_the_end_need_not_be_told_of_the_other_end(pairs: tuple[Pair, Pair]) -> None:
    client, server = pairs
    running = relaying(pairs)
    client[1].sendall(b"all that I have to say")
    client[1].shutdown(socket.SHUT_WR)
    while server[1].recv(100):
        pass
    reset(client)
    server[1].close()
    assert running.get(timeout=10) == Relayed(22, 0, None)


def test_who_resets_before_saying_the_end_is_an_error(pairs: tuple[Pair, Pair]) -> None:
    client, server = pairs
    running = relaying(pairs)
    client[1].sendall(b"half of it")
    assert server[1].recv(100) == b"half of it"
    reset(client)
    server[1].close()  # both ends come at once
    result = running.get(timeout=10)
    assert isinstance(result.error, ConnectionResetError), result


def test_the_limit_of_idleness_counts_from_the_last_byte_and_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    client, server = connection_pair(), connection_pair()
    waited: list[float] = []
    wait = gevent.wait

    def noted(objects: Any, timeout: float | None = None, count: int | None = None) -> Any:
        assert timeout is not None
        waited.append(timeout)
        return wait(objects, timeout=timeout, count=count)

    monkeypatch.setattr(copies_module.gevent, "wait", noted)
    client[1].sendall(b"a byte that moves when the relay begins")
    result = relay(client[0], server[0], idle_timeout=1.0)
    assert isinstance(result.error, Expired) and result.from_left == 39
    assert waited[0] > 0.9 and sum(waited[1:]) < 0.9
