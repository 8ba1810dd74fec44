"""What a worker answers the admin process: the message has room for it, whatever clients have chosen."""

import socket
from types import SimpleNamespace
from typing import Any

from muxwsgi.server.answers import LONGEST, Answers, message, read_message
from muxwsgi.server.introductions import Introductions
from muxwsgi.testing import connection_pair
from muxwsgi.wire.connection import Connection


def test_a_page_of_connections_fits_into_a_message_and_none_is_left_out() -> None:
    """The trace of a connection has text of its client."""
    connections: list[Connection] = []
    for _ in range(100):
        connections += connection_pair()
    for each in connections:
        each.trace[:] = ["\\\x01" * 150] * 16
    server: Any = SimpleNamespace(live=[each.lifeline for each in connections])
    introductions = Introductions()
    try:
        answers = Answers(server, introductions, lambda level: None)
        found: list[int] = []
        more = True
        while more:
            answer = answers._answer({"serial": 1, "ask": "connections", "after": found[-1] if found else 0})
            found += [each["id"] for each in answer["connections"]]
            more = answer["more"]
            assert len(message(answer)) <= LONGEST
            assert answer["connections"]
    finally:
        introductions.close()
        for each in connections:
            each.finish()
    assert found == sorted(each.id for each in connections)


def test_a_message_that_is_too_long_is_not_read() -> None:
    near, far = socket.socketpair()
    with near, far:
        near.sendall((LONGEST + 1).to_bytes(4, "big"))
        try:
            read_message(far)
        except OSError as error:
            assert "too long" in str(error)
        else:
            raise AssertionError("it was read")
