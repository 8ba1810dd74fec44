"""Dialling directly."""

import errno
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator

import gevent
import gevent.subprocess
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muxwsgi.dial import happy_eyeballs
from muxwsgi.dial.dialer import DialSettings
from muxwsgi.dial.errors import ConnectError, DialError, DialTimeout, Forbidden, InvalidTarget, Loop
from muxwsgi.dial.guard import Guard
from muxwsgi.dial.happy_eyeballs import interleave
from muxwsgi.dial.upstream_choice import UpstreamChoice
from muxwsgi.dial.upstream_proxy import DIRECT, UpstreamProxy
from muxwsgi.errors import OperatorError
from muxwsgi.wire.sweeper import Sweeper
from tests.dial.conftest import BlackHole, DialerMaker, Greeter, greeting, zone

# A socket that is left to the collector to close is a warning of its own.
pytestmark = [pytest.mark.usefixtures("nothing_left"), pytest.mark.filterwarnings("error::ResourceWarning")]

ELSEWHERE = ("203.0.113.9", 50000)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is bound and that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def test_an_address_is_dialled(make_dialer: DialerMaker, greeter: Greeter) -> None:
    dialled = make_dialer().connect("127.0.0.1", greeter.port, None)
    assert dialled.address == f"127.0.0.1:{greeter.port}"
    assert dialled.via == DIRECT
    assert dialled.resolved is None
    assert dialled.began <= dialled.connected
    assert dialled.connection.client == ("127.0.0.1", greeter.port)
    assert dialled.connection.server == dialled.connection.getsockname()
    assert greeting(dialled) == "hello from 127.0.0.1"


def test_an_ipv6_address_is_dialled(make_dialer: DialerMaker) -> None:
    greeter = Greeter("::1")
    dialled = make_dialer().connect("::1", greeter.port, None)
    assert dialled.address == f"[::1]:{greeter.port}"
    assert greeting(dialled) == "hello from ::1"
    greeter.stop()


def test_a_name_is_resolved_and_dialled(make_dialer: DialerMaker, greeter: Greeter) -> None:
    dialled = make_dialer(zone({"greeter.example": ["127.0.0.1"]})).connect("greeter.example", greeter.port, None)
    assert dialled.resolved is not None
    assert dialled.began <= dialled.resolved <= dialled.connected
    assert greeting(dialled) == "hello from 127.0.0.1"


def test_the_system_resolves_where_nothing_else_is_said(make_dialer: DialerMaker, greeter: Greeter) -> None:
    assert greeting(make_dialer().connect("localhost", greeter.port, None)) == "hello from 127.0.0.1"


def test_small_writes_go_out_at_once_and_dead_peers_are_noticed(make_dialer: DialerMaker, greeter: Greeter) -> None:
    with make_dialer().connect("127.0.0.1", greeter.port, None).connection as connection:
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_the_sweeper_keeps_what_was_dialled(make_dialer: DialerMaker, greeter: Greeter, sweeper: Sweeper) -> None:
    with make_dialer().connect("127.0.0.1", greeter.port, None).connection as connection:
        assert connection.lifeline in sweeper.lines
        assert connection.recv(100).startswith(b"hello")
        connection.deadline = 0
        with pytest.raises(TimeoutError):
            connection.recv(100)


def test_nobody_at_the_address_is_a_fault_that_names_it(make_dialer: DialerMaker, closed_port: int) -> None:
    with pytest.raises(DialError) as caught:
        make_dialer().connect("127.0.0.1", closed_port, None)
    assert isinstance(caught.value, ConnectError)
    assert caught.value.reason == f"127.0.0.1:{closed_port}: 127.0.0.1: Connection refused"


def test_each_address_says_why_not(make_dialer: DialerMaker, closed_port: int) -> None:
    dialer = make_dialer(zone({"gone.example": ["127.0.0.1", "127.0.0.2", "::1"]}))
    with pytest.raises(DialError) as caught:
        dialer.connect("gone.example", closed_port, None)
    assert isinstance(caught.value, ConnectError)
    assert caught.value.reason == (
        f"gone.example:{closed_port}: 127.0.0.1: Connection refused; ::1: Connection refused; 127.0.0.2: Connection refused"
    )


def test_an_address_that_cannot_be_reached_is_a_fault_at_once(make_dialer: DialerMaker) -> None:
    with pytest.raises(DialError, match=r"255\.255\.255\.255: ") as caught:
        make_dialer().connect("255.255.255.255", 80, None)
    assert isinstance(caught.value, ConnectError)


@pytest.mark.parametrize("port", [0, -1, 65536, 10**9])
def test_what_is_no_port_is_not_dialled(make_dialer: DialerMaker, port: int) -> None:
    with pytest.raises(DialError, match="is not a port") as caught:
        make_dialer().connect("127.0.0.1", port, None)
    assert isinstance(caught.value, InvalidTarget)


def test_silence_is_a_timeout(make_dialer: DialerMaker) -> None:
    hole = BlackHole("127.0.0.1")
    for names in (["127.0.0.1"], ["127.0.0.1", "127.0.0.1"]):
        with pytest.raises(DialError, match=r"^hole.example:\d+: 127\.0\.0\.1: no answer$") as caught:
            make_dialer(zone({"hole.example": names}), connect_timeout=0.05).connect("hole.example", hole.port, None)
        assert isinstance(caught.value, DialTimeout)
    hole.close()


def test_the_callers_deadline_comes_before_our_own(make_dialer: DialerMaker) -> None:
    hole = BlackHole("127.0.0.1")
    for deadline in (0.0, 1.0):  # long over
        with pytest.raises(DialError) as caught:
            make_dialer(connect_timeout=3600).connect("127.0.0.1", hole.port, None, deadline=deadline)
        assert isinstance(caught.value, DialTimeout)
    hole.close()


def test_resolving_is_part_of_the_time(make_dialer: DialerMaker) -> None:
    def slow(host: str, port: int) -> list[tuple[int, str]]:
        gevent.sleep(3600)
        return []

    with pytest.raises(DialError, match="name servers") as caught:
        make_dialer(slow, connect_timeout=0.05, resolve_timeout=3600).connect("slow.example", 80, None)
    assert isinstance(caught.value, DialTimeout)


def test_the_guard_is_asked_about_the_address_and_not_the_name(make_dialer: DialerMaker, greeter: Greeter) -> None:
    dialer = make_dialer(zone({"innocent.example": ["127.0.0.1"]}))
    for host in ("innocent.example", "127.0.0.1", "2130706433", "0x7f.1"):
        with pytest.raises(DialError, match=r"127\.0\.0\.1 is a loopback address") as caught:
            dialer.connect(host, greeter.port, ELSEWHERE)
        assert isinstance(caught.value, Forbidden)
    assert greeter.accepted == []
    assert greeting(dialer.connect("innocent.example", greeter.port, ("127.0.0.1", 1))) == "hello from 127.0.0.1"


def test_a_name_that_changes_between_two_looks_is_looked_at_once(make_dialer: DialerMaker, greeter: Greeter) -> None:
    answers = iter([["127.0.0.2"], ["127.0.0.1"]])
    dialer = make_dialer(lambda host, port: [(socket.AF_INET, ip) for ip in next(answers)], Guard(allow=["127.0.0.2/32"]))
    with pytest.raises(DialError, match=r"127\.0\.0\.2: Connection refused"):
        dialer.connect("rebinding.example", greeter.port, ELSEWHERE)
    assert greeter.accepted == []


def test_addresses_that_a_client_may_not_go_to_are_left_out(make_dialer: DialerMaker) -> None:
    greeter = Greeter("127.0.0.1", "127.0.0.2")
    dialer = make_dialer(zone({"both.example": ["127.0.0.1", "::1", "127.0.0.2"]}), Guard(allow=["127.0.0.2/32"]))
    assert greeting(dialer.connect("both.example", greeter.port, ELSEWHERE)) == "hello from 127.0.0.2"
    assert greeter.accepted == ["127.0.0.2"]
    greeter.stop()


def test_a_name_that_leads_to_ourselves_is_a_loop_whatever_else_it_leads_to(make_dialer: DialerMaker) -> None:
    greeter = Greeter("127.0.0.1", "127.0.0.2")
    dialer = make_dialer(zone({"me.example": ["127.0.0.2", "127.0.0.1"]}), Guard(lambda: [("127.0.0.1", greeter.port)]))
    with pytest.raises(DialError, match="this proxy itself") as caught:
        dialer.connect("me.example", greeter.port, None)
    assert isinstance(caught.value, Loop)
    assert greeter.accepted == []
    greeter.stop()


def test_a_pooled_connection_is_not_for_who_could_not_have_made_it(make_dialer: DialerMaker, greeter: Greeter) -> None:
    dialer = make_dialer()
    with dialer.connect("127.0.0.1", greeter.port, ("127.0.0.1", 1)).connection as connection:
        dialer.check_reuse(connection, ("127.0.0.1", 2))
        with pytest.raises(DialError) as caught:
            dialer.check_reuse(connection, ELSEWHERE)
    assert isinstance(caught.value, Forbidden)


def test_what_a_client_calls_a_host_comes_back_in_plain_letters(make_dialer: DialerMaker, closed_port: int) -> None:
    dialer = make_dialer(zone({"xn--bcher-kva.example": ["127.0.0.1"]}))
    for host, shown in (("b\u00fc\u00adcher.example.", "xn--bcher-kva.example"), ("2130706433", "127.0.0.1"), ("::0001", "[::1]")):
        with pytest.raises(DialError) as caught:
            dialer.connect(host, closed_port, None)
        assert caught.value.reason.startswith(f"{shown}:{closed_port}: ")


def test_a_patched_process_dials_as_well(greeter: Greeter) -> None:
    program = f"""
from gevent import monkey
monkey.patch_all()
import socket
from muxwsgi.dial.dialer import Dialer, DialSettings
from muxwsgi.dial.guard import Guard
from muxwsgi.dial.upstream_choice import UpstreamChoice
from muxwsgi.wire.sweeper import Sweeper
resolver = lambda host, port: [(socket.AF_INET, "127.0.0.2"), (socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1")]
dialer = Dialer(DialSettings(), Guard(lambda: [("0.0.0.0", 1)]), UpstreamChoice(), resolver, Sweeper(), connect_timeout=10)
with dialer.connect("any.example", {greeter.port}, None).connection as connection:
    print(connection.recv(100).decode())
"""
    done = gevent.subprocess.run([sys.executable, "-W", "error", "-c", program], stdout=subprocess.PIPE, timeout=60, check=True)
    assert done.stdout.decode().strip() == "hello from 127.0.0.1"


def test_a_connection_to_oneself_is_no_connection(make_dialer: DialerMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    # A port of ours that the kernel might choose as the source: here it is told to.
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    original = happy_eyeballs.PlainSocket

    class FromThatPort(original):  # type: ignore[valid-type, misc]
        def connect_ex(self, address: object) -> int:
            if self.getsockname()[1] == 0:
                self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self.bind(("127.0.0.1", port))
            return int(super().connect_ex(address))

    monkeypatch.setattr(happy_eyeballs, "PlainSocket", FromThatPort)
    with pytest.raises(DialError, match="Connection refused"):
        make_dialer().connect("127.0.0.1", port, None)


def test_the_source_address_is_the_operators(make_dialer: DialerMaker, greeter: Greeter) -> None:
    dialer = make_dialer(zone({"both.example": ["::1", "127.0.0.1"]}), source_addresses=("127.0.0.7",))
    with dialer.connect("both.example", greeter.port, None).connection as connection:
        assert connection.getsockname()[0] == "127.0.0.7"
    with pytest.raises(DialError, match="::1: no source address of this family is set"):
        dialer.connect("::1", greeter.port, None)


def test_a_source_address_that_is_not_ours_is_a_fault(make_dialer: DialerMaker, greeter: Greeter) -> None:
    with pytest.raises(DialError, match=os.strerror(errno.EADDRNOTAVAIL)) as caught:
        make_dialer(source_addresses=("198.51.100.77",)).connect("127.0.0.1", greeter.port, None)
    assert isinstance(caught.value, ConnectError)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"source_addresses": ("example.com",)}, "source_addresses: 'example.com' is not an address"),
        ({"source_addresses": ("127.0.0.1", "::1", "127.0.0.2")}, "source_addresses: 127.0.0.2 is the second one"),
        ({"resolve_timeout": float("nan")}, "resolve_timeout: nan"),
    ],
)
def test_a_wrong_setting_is_one_line_for_the_operator(wrong: dict[str, object], why: str) -> None:
    with pytest.raises(OperatorError, match=why):
        DialSettings(**wrong)  # type: ignore[arg-type]


def test_a_ca_file_that_is_not_there_is_noticed_at_the_start(make_dialer: DialerMaker) -> None:
    with pytest.raises(OperatorError, match=r"nowhere\.pem"):
        make_dialer(proxy_ca_file="nowhere.pem")


def test_no_descriptors_left_is_a_fault(make_dialer: DialerMaker, greeter: Greeter) -> None:
    dialer = make_dialer(zone({"two.example": ["127.0.0.1", "::1"]}))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        try:
            while True:
                held.append(os.dup(0))
        except OSError as error:
            assert error.errno == errno.EMFILE
        for host in ("127.0.0.1", "two.example"):
            with pytest.raises(DialError, match="Too many open files") as caught:
                dialer.connect(host, greeter.port, None)
            assert isinstance(caught.value, ConnectError)
        os.close(held.pop())  # enough for one socket, and not for a race
        with pytest.raises(DialError, match="Too many open files"):
            dialer.connect("two.example", greeter.port, None)
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert greeting(dialer.connect("two.example", greeter.port, None)) == "hello from 127.0.0.1"


# Several addresses


addresses = st.lists(st.integers(0, 99).map(lambda n: (socket.AF_INET, f"192.0.2.{n}")) | st.integers(0, 99).map(lambda n: (socket.AF_INET6, f"2001:db8::{n}")), min_size=1)


@settings(deadline=None)
@given(addresses)
def test_families_alternate_and_nothing_is_lost(found: list[tuple[int, str]]) -> None:
    mixed = interleave(found)
    assert mixed[0] == found[0]
    for family in (socket.AF_INET, socket.AF_INET6):
        assert [each for each in mixed if each[0] == family] == [each for each in found if each[0] == family]
    fewer = min(len([each for each in found if each[0] == family]) for family in (socket.AF_INET, socket.AF_INET6))
    assert all(mixed[index][0] != mixed[index + 1][0] for index in range(max(2 * fewer - 1, 0)))


def test_the_next_address_is_tried_at_once_where_one_refuses(make_dialer: DialerMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(happy_eyeballs, "ATTEMPT_DELAY", 3600.0)
    greeter = Greeter("127.0.0.3")
    dialer = make_dialer(zone({"third.example": ["127.0.0.1", "127.0.0.2", "127.0.0.3"]}))
    assert greeting(dialer.connect("third.example", greeter.port, None)) == "hello from 127.0.0.3"
    greeter.stop()


def test_nor_need_it_wait_where_another_is_still_silent(make_dialer: DialerMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(happy_eyeballs, "ATTEMPT_DELAY", 0.05)
    greeter = Greeter("127.0.0.3")
    hole = BlackHole("127.0.0.1", greeter.port)
    dialer = make_dialer(zone({"third.example": ["127.0.0.1", "127.0.0.2", "127.0.0.3"]}), connect_timeout=60)
    dialling = gevent.spawn(dialer.connect, "third.example", greeter.port, None)
    gevent.sleep(0)
    happy_eyeballs.ATTEMPT_DELAY = 3600.0  # the first attempt has begun: the second comes soon, and refuses
    assert greeting(dialling.get(timeout=120)) == "hello from 127.0.0.3"
    greeter.stop()
    hole.close()


def test_the_next_address_is_tried_beside_one_that_is_silent(make_dialer: DialerMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(happy_eyeballs, "ATTEMPT_DELAY", 0.02)
    greeter = Greeter("127.0.0.2")
    hole = BlackHole("127.0.0.1", greeter.port)
    other = BlackHole("::1", greeter.port)
    dialer = make_dialer(zone({"second.example": ["127.0.0.1", "::1", "127.0.0.2"]}), connect_timeout=3600)
    assert greeting(dialer.connect("second.example", greeter.port, None)) == "hello from 127.0.0.2"
    greeter.stop()
    hole.close()
    other.close()


def test_the_first_address_may_still_win_after_the_next_has_begun(make_dialer: DialerMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(happy_eyeballs, "ATTEMPT_DELAY", 0.02)
    hole = BlackHole("127.0.0.1")
    other = BlackHole("127.0.0.2", hole.port)
    dialling = gevent.spawn(make_dialer(zone({"late.example": ["127.0.0.1", "127.0.0.2"]}), connect_timeout=60).connect, "late.example", hole.port, None)
    gevent.sleep(0.2)
    hole.open()
    dialled = dialling.get(timeout=60)
    assert dialled.address == f"127.0.0.1:{hole.port}"
    dialled.connection.close()
    hole.close()
    other.close()


def test_those_that_refused_and_those_that_were_silent_are_both_named(make_dialer: DialerMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(happy_eyeballs, "ATTEMPT_DELAY", 0.01)
    hole = BlackHole("127.0.0.1")
    dialer = make_dialer(zone({"mixed.example": ["127.0.0.1", "127.0.0.2"]}), connect_timeout=0.2)
    with pytest.raises(DialError, match=r"127\.0\.0\.2: Connection refused; 127\.0\.0\.1: no answer") as caught:
        dialer.connect("mixed.example", hole.port, None)
    assert isinstance(caught.value, DialTimeout)
    hole.close()


@pytest.mark.parametrize("ips", [["127.0.0.1"], ["127.0.0.1", "127.0.0.2"]])
def test_who_is_killed_while_dialling_leaves_nothing(make_dialer: DialerMaker, ips: list[str]) -> None:
    hole = BlackHole("127.0.0.1")
    other = BlackHole("127.0.0.2", hole.port)
    dialer = make_dialer(zone({"hole.example": ips}), connect_timeout=3600)
    greenlets = [gevent.spawn(dialer.connect, "hole.example", hole.port, None) for _ in range(20)]
    gevent.sleep(0.05)
    gevent.killall(greenlets, timeout=10)
    assert all(greenlet.dead for greenlet in greenlets)
    hole.close()
    other.close()  # and `nothing_left`


def test_many_dial_at_once(make_dialer: DialerMaker) -> None:
    greeter = Greeter("127.0.0.1", "127.0.0.2")
    dialer = make_dialer(zone({"any.example": ["127.0.0.1", "127.0.0.2"]}))
    said = [gevent.spawn(lambda host: greeting(dialer.connect(host, greeter.port, None)), host) for host in ["any.example", "127.0.0.2"] * 50]
    assert [each.get(timeout=60) for each in said] == ["hello from 127.0.0.1", "hello from 127.0.0.2"] * 50
    greeter.stop()


# Which way


def test_a_rule_decides_before_the_operators_choice(make_dialer: DialerMaker, greeter: Greeter) -> None:
    proxy, other = UpstreamProxy.parse("http://127.0.0.1:1"), UpstreamProxy.parse("socks5://127.0.0.1:2")
    dialer = make_dialer(choice=UpstreamChoice(http=proxy, tunnel=proxy))
    client = ("127.0.0.1", 1)
    assert dialer.next_proxy("http", "example.com", 80, client) == proxy
    assert dialer.next_proxy("http", "example.com", 80, client, other) == other
    assert dialer.next_proxy("http", "example.com", 80, client, DIRECT) == DIRECT
    assert greeting(dialer.connect("127.0.0.1", greeter.port, client, via=DIRECT)) == "hello from 127.0.0.1"
    assert make_dialer().next_proxy("http", "example.com", 80, None) == DIRECT


def test_the_operators_proxy_is_not_forgotten_by_who_names_none(make_dialer: DialerMaker, greeter: Greeter, closed_port: int) -> None:
    proxy = UpstreamProxy.parse(f"http://127.0.0.1:{closed_port}")
    with pytest.raises(DialError, match=f"^the proxy http://127.0.0.1:{closed_port}: 127.0.0.1: Connection refused"):
        make_dialer(choice=UpstreamChoice(tunnel=proxy)).connect("127.0.0.1", greeter.port, None)
    assert greeter.accepted == []
