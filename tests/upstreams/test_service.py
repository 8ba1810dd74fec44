"""Servers that SRV records name."""

import logging
import socket
import threading
from collections.abc import Iterator

import dns.flags
import dns.message
import dns.rdatatype
import dns.resolver
import dns.rrset
import pytest

from muxwsgi import OperatorError
from muxwsgi.events import Events
from muxwsgi.observe.counters import Counters
from muxwsgi.observe.metrics import SERVERS
from muxwsgi.settings.upstream import UpstreamServerSettings, parse_upstream
from muxwsgi.upstreams import upstreams as upstreams_module
from muxwsgi.upstreams.service import Service, Target, query
from muxwsgi.upstreams.state import Readiness
from muxwsgi.upstreams.upstreams import Upstreams
from tests.dial.conftest import nothing_left, zone
from tests.mux.conftest import bounded
from tests.waiting import until

from .servers import Named, made, said

__all__ = ["bounded", "nothing_left"]

NAME = "_shop._tcp.example"


class Records:
    """What the name servers say at present; an error if there are none."""

    def __init__(self, *targets: Target) -> None:
        self.targets: tuple[Target, ...] | None = targets
        self.asked = 0

    def __call__(self, name: str) -> tuple[Target, ...]:
        assert name == NAME
        self.asked += 1
        if self.targets is None:
            raise OSError(0, "The DNS query name does not exist.")
        return self.targets


def upstreams_of(records: Records, before: Upstreams | None = None, **table: object) -> Upstreams:
    settings = parse_upstream("shop", {"server": [f"srv:{NAME}"], "resolve": 0.05, **table}, "upstream.shop")
    return Upstreams([settings], before, zone({"here.example": ["127.0.0.1"]}), ask=records)


def target(server: Named, priority: int = 10, weight: int = 1) -> Target:
    return Target(priority, weight, "here.example", server.port)


@pytest.mark.usefixtures("nothing_left")
def test_servers_come_and_go_with_the_records(caplog: pytest.LogCaptureFixture) -> None:
    with Named("a") as a, Named("b") as b:
        records = Records(target(a))
        with caplog.at_level(logging.INFO), made(upstreams_of(records)) as upstreams:
            shop = upstreams.named("shop")
            assert [said(shop) for _ in range(2)] == ["a", "a"]
            records.targets = (target(a), target(b))
            until(lambda: len(shop.servers) == 2)
            assert {said(shop) for _ in range(2)} == {"a", "b"}
            (first,) = (each for each in shop.servers if each.title == f"here.example:{a.port}")
            records.targets = (target(b),)
            until(lambda: len(shop.servers) == 1)
            assert first not in shop.servers
            assert said(shop) == "b"
            records.targets = ()
            until(lambda: not shop.servers)
            assert said(shop) == "upstream: no server can be used: there is none"
        assert caplog.records[1].getMessage() == (
            f"upstream shop: srv:{NAME} has the servers " + ", ".join(f"here.example:{port}" for port in sorted((a.port, b.port))) + " now"
        )


def test_records_that_vanish_leave_the_servers_in_use(caplog: pytest.LogCaptureFixture) -> None:
    with Named("a") as a:
        records = Records(target(a))
        with made(upstreams_of(records)) as upstreams:
            shop = upstreams.named("shop")
            assert said(shop) == "a"
            records.targets = None
            asked = records.asked
            until(lambda: records.asked > asked + 2)
            assert said(shop) == "a"
            assert [record.getMessage() for record in caplog.records] == [
                f"srv:{NAME}: the servers before stay: The DNS query name does not exist."
            ]


def test_a_service_that_was_never_found_is_said() -> None:
    records = Records()
    records.targets = None
    with made(upstreams_of(records)) as upstreams:
        assert said(upstreams.named("shop")) == f"upstream: no server can be used: srv:{NAME}: The DNS query name does not exist."


def test_a_fault_in_the_lookup_is_logged_and_it_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    with Named("a") as a:
        asked = 0

        def ask(name: str) -> list[Target]:
            nonlocal asked
            asked += 1
            return [target(a)] if asked > 1 else [1 / 0]  # type: ignore[list-item]

        with made(upstreams_of(ask)) as upstreams:  # type: ignore[arg-type]
            until(lambda: upstreams.named("shop").servers)
            assert said(upstreams.named("shop")) == "a"
        assert "ZeroDivisionError" in caplog.text


def test_a_server_that_stays_keeps_its_state_also_through_a_swap() -> None:
    with Named("a") as a, Named("b") as b:
        records = Records(target(a))
        with made(upstreams_of(records)) as upstreams:
            shop = upstreams.named("shop")
            assert said(shop) == "a"
            shop.set_readiness(shop.servers[0], Readiness.DRAIN)
            records.targets = (target(a), target(b))
            until(lambda: len(shop.servers) == 2)
            assert {server.title: server.state.readiness.value for server in shop.servers}[f"here.example:{a.port}"] == "drain"
            records.targets = None
            after = upstreams_of(records, upstreams, weight=3)
            assert len(after.named("shop").servers) == 2, "the records are known from before"
            with made(after):
                assert [said(after.named("shop")) for _ in range(2)] == ["b", "b"]


def test_a_server_that_comes_back_has_its_state() -> None:
    with Named("a") as a, Named("b") as b:
        records = Records(target(a), target(b))
        with made(upstreams_of(records)) as upstreams:
            shop = upstreams.named("shop")
            until(lambda: len(shop.servers) == 2)
            state = shop.servers[0].state
            shop.set_readiness(shop.servers[0], Readiness.MAINT)
            records.targets = tuple(sorted((target(a), target(b))))[1:]
            until(lambda: len(shop.servers) == 1)
            records.targets = (target(a), target(b))
            until(lambda: len(shop.servers) == 2)
            assert shop.servers[0].state is state and state.readiness is Readiness.MAINT


def test_a_name_server_that_always_names_others_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstreams_module, "GONE_AT_MOST", 5)
    records = Records()
    upstreams = upstreams_of(records)
    counters = Counters(Events(), lambda name: 0, lambda name: 0)
    for number in range(300):
        records.targets = (Target(10, 1, "here.example", 1 + number),)
        ((_, service),) = upstreams._services
        service._look()
        counters.words((), memory=0, accepting=True, proxy=None, upstreams=upstreams)
    assert len(upstreams.named("shop").servers) == 1
    assert len(upstreams._states) == len(upstreams.counts) == 6
    assert len(counters._server_rows) <= 4 * SERVERS
    after = upstreams_of(records, upstreams)
    for number in range(20):
        records.targets = (Target(10, 1, "here.example", 1000 + number),)
        ((_, service),) = after._services
        service._look()
    assert len(after._states) + len(after._states_before) <= 12 and len(after.counts) == 6


def test_weights_and_priorities_of_records() -> None:
    template = UpstreamServerSettings(address=f"srv:{NAME}", maxconn=7)
    targets = [
        Target(20, 5, "c.example", 3),
        Target(10, 60000, "a.example", 1),
        Target(10, 0, "B.example", 2),
        Target(10, 1, "bad name", 2),
    ]
    service = Service(template, targets, lambda service, servers: None, lambda name: [])
    assert [(each.address, each.weight, each.backup, each.maxconn) for each in service.servers()] == [
        ("b.example:2", 1, False, 7),
        ("a.example:1", 256, False, 7),
        ("c.example:3", 1, True, 7),
    ]
    many = [Target(10, 1, f"s{number}.example", 1) for number in range(200)]
    assert len(Service(template, many, lambda service, servers: None, lambda name: []).servers()) == 64


@pytest.mark.parametrize("address", ["srv:", "srv:shop.example", "srv:_a b", "srv:_shop._tcp.example:1"])
def test_a_wrong_name_of_a_service_is_refused(address: str) -> None:
    with pytest.raises(OperatorError, match=r"server 1: address: .* is not HOST:PORT"):
        parse_upstream("shop", {"server": [address]}, "upstream.shop")


# A name server


@pytest.fixture
def name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A name server for `NAME`, which is the only one that dnspython knows."""
    answers = {
        f"{NAME}.": ["10 5 6379 one.example.", "20 0 6380 two.example."],
        "_none._tcp.example.": ["0 0 0 ."],
    }
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            data, client = sock.recvfrom(4096)
            if data == b"end":
                return
            asked = dns.message.from_wire(data)
            reply = dns.message.make_response(asked)
            reply.flags |= dns.flags.AA | dns.flags.RA
            name = asked.question[0].name
            texts = answers.get(name.to_text())
            if texts is None:
                reply.set_rcode(dns.rcode.NXDOMAIN)
            else:
                reply.answer.append(dns.rrset.from_text(name, 60, "IN", "SRV", *texts))
            sock.sendto(reply.to_wire(), client)

    thread = threading.Thread(target=serve)
    thread.start()
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = sock.getsockname()[1]
    monkeypatch.setattr(dns.resolver, "default_resolver", resolver)
    yield
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ending:
        ending.sendto(b"end", sock.getsockname())
    thread.join()
    sock.close()


@pytest.mark.usefixtures("name_server")
def test_dnspython_asks_a_name_server() -> None:
    assert sorted(query(NAME)) == [Target(10, 5, "one.example", 6379), Target(20, 0, "two.example", 6380)]
    assert query("_none._tcp.example") == []
    with pytest.raises(OSError, match="The DNS query name does not exist") as raised:
        query("_gone._tcp.example")
    assert "\n" not in str(raised.value)
