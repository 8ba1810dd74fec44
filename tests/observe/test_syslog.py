"""Syslog: the forms of messages, and daemons that are slow, gone, or come back."""

import logging
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from muxwsgi.errors import OperatorError
from muxwsgi.observe.syslog import INFO, Syslog, SyslogAddress, severity_of
from tests.waiting import wait_for


class Clock:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[socket.socket]:
    """A daemon on a unix socket of datagrams."""
    with listening(tmp_path) as sock:
        yield sock


def listening(folder: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(folder / "log"))
    sock.settimeout(5)
    return sock


def to(text: str, clock: Clock | None = None, said: list[str] | None = None, **more: object) -> Syslog:
    say = None if said is None else (lambda level, message: said.append(f"{logging.getLevelName(level)}: {message}"))
    return Syslog(SyslogAddress.parse(text), say=say, **({} if clock is None else {"clock": clock}), **more)  # type: ignore[arg-type]


def accepted(listener: socket.socket) -> socket.socket:
    listener.settimeout(5)
    connection, _ = listener.accept()
    connection.settimeout(5)
    return connection


# Forms


def test_a_message_to_dev_log_has_the_form_of_syslog_3(daemon: socket.socket, tmp_path: Path) -> None:
    to(f"unix:{tmp_path}/log", facility="local3", tag="shop").send(INFO, "a line\n", "error")
    assert re.fullmatch(rb"<158>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d shop\.error\[%d\]: a line" % os.getpid(), daemon.recv(9000))


def test_a_message_over_udp_is_rfc_5424() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as daemon:
        daemon.bind(("127.0.0.1", 0))
        daemon.settimeout(5)
        to(f"udp://127.0.0.1:{daemon.getsockname()[1]}").send(3, "caf\u00e9", "access")
        head = rb"<11>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z [!-~]+ muxwsgi\.access %d - - caf\xc3\xa9"
        assert re.fullmatch(head % os.getpid(), daemon.recv(9000))


def test_messages_of_a_stream_are_counted_in_rfc_5424_and_lines_in_rfc_3164(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        syslog = to(f"tcp://127.0.0.1:{listener.getsockname()[1]}", patience=5)
        syslog.send(INFO, "two\nlines")
        data = accepted(listener).recv(9000)
        count, _, message = data.partition(b" ")
        assert int(count) == len(message) and message.endswith(b" - - two\nlines")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "stream"))
        listener.listen()
        syslog = to(f"unix://{tmp_path}/stream#stream")
        syslog.send(INFO, "two\nlines")
        assert accepted(listener).recv(9000).endswith(b"]: two#012lines\n")


def test_a_name_that_a_head_cannot_hold_breaks_no_message(daemon: socket.socket, tmp_path: Path) -> None:
    to(f"unix:{tmp_path}/log", tag="a b\n\u00e9" + "x" * 100, rfc5424=True).send(INFO, "line")
    fields = daemon.recv(9000).split(b" ", 7)
    assert fields[3] == b"a_b__" + b"x" * 43 and fields[7] == b"line"


def test_a_message_that_is_too_long_is_cut_between_characters(daemon: socket.socket, tmp_path: Path) -> None:
    to(f"unix:{tmp_path}/log").send(INFO, "\u00e9" * 10_000)
    data = daemon.recv(20_000)
    assert 8190 <= len(data) <= 8192
    assert data.decode()


@pytest.mark.parametrize(("level", "severity"), [(50, 2), (40, 3), (30, 4), (20, 6), (10, 7), (25, 6)])
def test_levels_have_their_severities(level: int, severity: int) -> None:
    assert severity_of(level) == severity


@pytest.mark.parametrize("wrong", ["", "/dev/log", "unix:", "unix:/dev/log#seq", "udp:localhost", "tls://a:1", "udp://:514", "tcp://a:0", "tcp://a:70000"])
def test_an_address_that_is_none_is_an_error(wrong: str) -> None:
    with pytest.raises(OperatorError, match="log_syslog_to"):
        SyslogAddress.parse(wrong)


# Daemons in trouble


def test_a_daemon_that_does_not_read_stops_nobody_and_what_is_lost_is_said(daemon: socket.socket, tmp_path: Path) -> None:
    said: list[str] = []
    syslog = to(f"unix:{tmp_path}/log", said=said, at_most=20_000)
    for number in range(3000):
        syslog.send(INFO, f"line {number:04}")
    assert syslog.waiting and syslog.lost > 1000
    assert len(said) == 1 and "ERROR: log_syslog_to: unix:" in said[0] and "does not keep up" in said[0]
    got = []
    daemon.settimeout(0)
    while True:
        try:
            got.append(daemon.recv(9000))
        except BlockingIOError:
            if not syslog.waiting:
                break
            syslog.flush()
    assert len(got) + syslog.lost == 3000
    assert got[0].endswith(b"line 0000") and got == sorted(got, key=lambda each: each[-4:])
    assert said[1:] == [f"WARNING: log_syslog_to: unix:{tmp_path}/log: messages are sent again; {syslog.lost} were lost"]


def test_a_daemon_that_restarts_gets_what_was_logged_meanwhile(tmp_path: Path, clock: Clock) -> None:
    said: list[str] = []
    before = listening(tmp_path)
    syslog = to(f"unix:{tmp_path}/log", clock, said)
    syslog.send(INFO, "one")
    assert before.recv(9000).endswith(b"one")
    before.close()
    (tmp_path / "log").unlink()
    clock.now += 10
    syslog.send(INFO, "two")
    syslog.send(INFO, "three")
    assert syslog.waiting and len(said) == 1 and "Connection refused" in said[0]
    clock.now += 10
    syslog.flush()
    assert len(said) == 1, "the file is missing now, which is the same outage"
    with listening(tmp_path) as after:
        syslog.flush()
        assert syslog.waiting, "it is tried once a second"
        clock.now += 10
        syslog.flush()
        assert [after.recv(9000)[-3:] for _ in range(2)] == [b"two", b"ree"]
    assert syslog.lost == 0 and "sent again; 0 were lost" in said[1]


def test_a_daemon_of_udp_that_is_gone_is_said_once(clock: Clock) -> None:
    """Each second datagram is taken by the kernel, which has not heard of the one before yet."""
    said: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        address = gone.getsockname()
    syslog = to(f"udp://127.0.0.1:{address[1]}", clock, said)
    for _ in range(50):
        clock.now += 1
        syslog.send(INFO, "line")
    assert len(said) == 1 and "Connection refused" in said[0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as daemon:
        daemon.bind(address)
        for _ in range(3):
            clock.now += 10
            syslog.send(INFO, "line")
        assert daemon.recv(9000).endswith(b"line")
    assert len(said) == 2 and "messages are sent again" in said[1]


def test_a_stream_that_the_daemon_has_ended_loses_no_whole_message(clock: Clock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        syslog = to(f"tcp://127.0.0.1:{listener.getsockname()[1]}", clock, patience=5)
        syslog.send(INFO, "one")
        connection = accepted(listener)
        assert connection.recv(9000).endswith(b"one")
        connection.close()
        clock.now += 10
        syslog.send(INFO, "two")  # finds the end of the stream
        clock.now += 10
        syslog.flush()
        assert accepted(listener).recv(9000).endswith(b"two")
        assert syslog.lost == 0


def test_a_message_that_was_begun_on_a_stream_is_lost_with_it(clock: Clock) -> None:
    """Its rest would be a broken message on the next connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        syslog = to(f"tcp://127.0.0.1:{listener.getsockname()[1]}", clock, patience=5, at_most=64 << 20)
        syslog.send(INFO, "first")
        connection = accepted(listener)
        sent = 1
        while not syslog.waiting and sent < 100_000:
            syslog.send(INFO, "x" * 8000)
            sent += 1
        assert syslog.waiting
        connection.close()  # with unread bytes: a reset
        wait_for(lambda: (syslog.flush(), syslog.lost)[1] or not syslog.waiting)
        clock.now += 10
        syslog.send(INFO, "last")
        after = accepted(listener)
        data = b""
        while not data.endswith(b"- - last"):
            syslog.flush()
            data += after.recv(1 << 20)
        while data:  # each message is whole
            count, _, rest = data.partition(b" ")
            assert rest.startswith(b"<14>1 ")
            data = rest[int(count) :]


def test_a_child_neither_repeats_nor_mixes_what_the_parent_has_begun() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        syslog = to(f"tcp://127.0.0.1:{listener.getsockname()[1]}", patience=5)
        syslog.send(INFO, "of the parent")
        first = accepted(listener)
        child = os.fork()
        if child == 0:
            syslog.send(INFO, "of the child")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        second = accepted(listener)
        assert second.recv(9000).endswith(b"of the child") and second.recv(9000) == b""
        syslog.send(INFO, "of the parent again")
        syslog.close()
        data = b""
        while block := first.recv(9000):
            data += block
        assert b"child" not in data and data.endswith(b"of the parent again")
