"""Redis clients that mean harm: no command line takes work or memory out of proportion to its length."""

from collections.abc import Callable, Iterator

import gevent
import muxwsgi_resp
import pytest
from muxwsgi_resp.protocol import CommandReader, Error
from muxwsgi_resp.session import MAX_CHANNEL_NAMES, Hub, Session, execute
from muxwsgi_resp.store import MAX_GLOB, Store

from muxwsgi.testing import connection_pair

SERVER = muxwsgi_resp.resp(muxwsgi_resp.Options())


@pytest.fixture
def session() -> Session:
    return Session(Store(), Hub(), 1, deliver=lambda push: None)


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


@pytest.mark.parametrize("parts", [[b"HELLO", b"3", b"SETNAME", b"a"], [b"SCAN", b"0", b"COUNT", b"1"], [b"SET", b"k", b"v", b"KEEPTTL", b"GET"]])
def test_options_repeated_without_end_are_refused_before_they_are_read(session: Session, parts: list[bytes]) -> None:
    assert isinstance(execute(session, parts + parts[-2:] * 200_000), Error)


def test_names_of_channels_are_bounded_in_bytes(session: Session) -> None:
    name = b"x" * (MAX_CHANNEL_NAMES // 4)
    for number in range(3):
        execute(session, [b"SUBSCRIBE", name + b"%d" % number])
    assert isinstance(execute(session, [b"SUBSCRIBE", name + b"3"]), Error)
    assert len(session.channels) == 3


@pytest.mark.parametrize("command", [[b"KEYS"], [b"SCAN", b"0", b"MATCH"]])
def test_a_pattern_that_takes_long_to_compile_is_refused(session: Session, command: list[bytes]) -> None:
    assert not isinstance(execute(session, [*command, b"?" * MAX_GLOB]), Error)
    assert isinstance(execute(session, [*command, b"?" * (MAX_GLOB + 1)]), Error)


def test_commands_that_take_long_leave_others_their_turn(monkeypatch: pytest.MonkeyPatch, turns: Callable[[], int]) -> None:
    monkeypatch.setattr(muxwsgi_resp, "SECONDS_PER_TURN", 0.0)
    server, client = connection_pair()
    serving = gevent.spawn(SERVER, server)
    client.sendall(b"DBSIZE\r\n" * 20)
    gevent.sleep(0)
    before = turns()
    client.sendall(b"QUIT\r\n")
    serving.join(timeout=5)
    assert serving.ready() and turns() - before >= 19
    server.finish()
    client.finish()


def test_what_is_no_command_is_skipped_at_once() -> None:
    lines = 0

    class Reader(CommandReader):
        def _line(self) -> bytes | None:
            nonlocal lines
            lines += 1
            return super()._line()

    reader = Reader()
    assert list(reader.feed(b"\r\n\n*0\r\n" * 10_000 + b"PING\r\n")) == [[b"PING"]]
    assert lines < 5
