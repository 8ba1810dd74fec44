"""Numbers for statsd: the datagrams that a daemon gets, and a daemon that is not there."""

import logging
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from muxwsgi.errors import OperatorError
from muxwsgi.events import Events, Refusal, tell
from muxwsgi.http.exchange import Exchange
from muxwsgi.observe.statsd import DATAGRAM, StatsD
from tests.system.server_process import ServerProcess


@pytest.fixture
def daemon() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(5)
        yield sock


def address_of(daemon: socket.socket) -> str:
    return f"127.0.0.1:{daemon.getsockname()[1]}"


def exchange(status: str = "200 OK", seconds: float = 0.0125) -> Exchange:
    return Exchange({}, {}, status, [], 0, seconds)


def subscribed(statsd: StatsD) -> Events:
    events = Events()
    statsd.subscribe(events)
    return events


def received(daemon: socket.socket) -> list[str]:
    """The lines that are there."""
    daemon.setblocking(False)
    lines: list[str] = []
    while True:
        try:
            data = daemon.recv(65536)
        except BlockingIOError:
            return lines
        assert len(data) <= DATAGRAM
        lines += data.decode().split("\n")


def test_the_names_are_gunicorns(daemon: socket.socket) -> None:
    statsd = StatsD(address_of(daemon))
    events = subscribed(statsd)
    for each in (exchange(), exchange("404 Not Found", 2), exchange(""), exchange("200 OK")):
        tell(events.exchange, each)
    tell(events.stream, object(), 1.0)
    tell(events.refused, object(), Refusal("silent", "why"))
    tell(events.handshake, object(), OSError())
    tell(events.handshake, object(), None)
    log = logging.getLogger("muxwsgi.error")
    log.warning("one")
    try:
        raise LookupError
    except LookupError:
        log.exception("two")
    statsd.close()
    assert sorted(received(daemon)) == [
        "gunicorn.log.exception:1|c",
        "gunicorn.log.warning:1|c",
        *["gunicorn.request.duration:12.500|ms"] * 3,
        "gunicorn.request.duration:2000.000|ms",
        "gunicorn.request.status.200:2|c",
        "gunicorn.request.status.404:1|c",
        "gunicorn.requests:4|c",
        "gunicorn.streams:1|c",
        "gunicorn.turned_away.handshake:1|c",
        "gunicorn.turned_away.silent:1|c",
    ]
    log.warning("after the end")
    statsd.flush()
    assert received(daemon) == []


def test_a_prefix_and_tags_are_in_each_line(daemon: socket.socket) -> None:
    statsd = StatsD(address_of(daemon), prefix="shop", tags="env:prod, region:eu")
    tell(subscribed(statsd).exchange, exchange())
    statsd.close()
    lines = received(daemon)
    assert len(lines) == 3
    assert all(re.fullmatch(r"shop\.gunicorn\.[a-z0-9.]+:[0-9.]+\|(c|ms)\|#env:prod,region:eu", line) for line in lines)


def test_many_requests_are_few_datagrams_and_none_is_lost(daemon: socket.socket) -> None:
    daemon.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    statsd = StatsD(address_of(daemon))
    events = subscribed(statsd)
    for _ in range(1000):
        tell(events.exchange, exchange())
    statsd.close()
    lines = received(daemon)
    assert lines.count("gunicorn.request.duration:12.500|ms") == 1000 and "gunicorn.requests:1000|c" in lines


@pytest.mark.parametrize("kind", ["udp", "unix", "full"])
def test_a_daemon_that_is_not_there_is_said_once_and_found_again(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    path = str(tmp_path / "statsd")
    if kind == "udp":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
            gone.bind(("127.0.0.1", 0))
            name: Any = gone.getsockname()
        statsd = StatsD(f"127.0.0.1:{name[1]}", clock=lambda: now[0])
    else:
        name = path
        statsd = StatsD(f"unix://{path}", clock=lambda: now[0])
    events = subscribed(statsd)
    full = None
    if kind == "full":
        full = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        full.bind(path)
    with caplog.at_level(logging.INFO, "muxwsgi.error"):
        for _ in range(2000 if full else 40):
            tell(events.exchange, exchange())
            statsd.flush()
        assert statsd.lost >= 1
        assert [record.getMessage() for record in caplog.records if "numbers are lost" in record.getMessage()] != []
        assert len(caplog.records) == 1, "also where ICMP comes with every second datagram"
        if full is not None:
            full.close()
            Path(path).unlink()
        with socket.socket(socket.AF_INET if kind == "udp" else socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
            daemon.bind(name)
            now[0] += 10
            for _ in range(2):  # the first may get the ICMP of the one before
                tell(events.exchange, exchange())
                statsd.flush()
            assert "gunicorn.requests:1|c" in received(daemon)
            now[0] += 10
            tell(events.exchange, exchange())
            statsd.flush()
        assert "numbers are sent again" in caplog.text
    statsd.close()


@pytest.mark.parametrize("wrong", ["", "localhost", ":8125", "unix:", "unix://", "localhost:0", "localhost:70000"])
def test_an_address_that_is_none_is_an_error(wrong: str) -> None:
    with pytest.raises(OperatorError, match="statsd_host"):
        StatsD(wrong)


def test_a_server_sends_its_numbers(daemon: socket.socket) -> None:
    with ServerProcess("tests.server.logging_app", "--statsd-host", address_of(daemon), "--statsd-prefix=shop") as server:
        assert server.get("/")[0] == 200
        assert server.get("/fail")[0] == 500
        assert server.stop() == 0
    lines = received(daemon)
    requests = sum(int(line.split(":")[1][:-2]) for line in lines if line.startswith("shop.gunicorn.requests:"))
    assert requests == 2 and "shop.gunicorn.request.status.500:1|c" in lines and "shop.gunicorn.log.exception:1|c" in lines


@pytest.mark.parametrize(
    ("options", "expected"),
    [(["--statsd-prefix", "a"], "statsd_prefix: no numbers"), (["--statsd-host=localhost:1", "--dogstatsd-tags", "a|b"], "dogstatsd_tags: 'a|b' has")],
)
def test_options_that_make_no_sense_are_one_line(options: list[str], expected: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(expected)), ServerProcess("tests.server.logging_app", *options):
        pass
