"""Which hosts are passed through: as listed, and as learned from clients that refuse our leaf."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxwsgi.errors import OperatorError
from muxwsgi.proxy.certificates.passthrough import CERTIFICATE_ALERTS, PassThrough, alert

UNKNOWN_CA = "TLS handshake: tlsv1 alert unknown ca"
GONE = "TLS handshake: the peer went away"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize(
    ("pattern", "covered", "not_covered"),
    [
        ("bank.example", ["bank.example", "BANK.example."], ["www.bank.example", "abank.example", "bank.example.org"]),
        ("*.bank.example", ["www.bank.example", "a.b.bank.example"], ["bank.example", "notbank.example", "www.bank.example.org"]),
        ("BÜCHER.example", ["bücher.example", "xn--bcher-kva.example"], ["bucher.example"]),
        ("192.0.2.7", ["192.0.2.7"], ["192.0.2.70"]),
        ("2001:DB8::1", ["[2001:db8:0::1]", "2001:db8::1%eth0"], ["2001:db8::2"]),
        (r"/(^|\.)bank\d+\.example$/", ["bank7.example", "WWW.BANK12.example"], ["bank.example", "bank7.example.org"]),
        ("/bank/", ["a.bank.example"], ["a.example"]),
    ],
)
def test_a_pattern_covers_what_it_says(pattern: str, covered: list[str], not_covered: list[str]) -> None:
    listed = PassThrough(["other.example", pattern])
    assert [host for host in covered if not listed.covers(host)] == []
    assert [host for host in not_covered if listed.covers(host)] == []


@pytest.mark.parametrize("pattern", ["", "*", "*.", "*.*.example", "a b", "/(/", "a..b", "//", "a*.example"])
def test_a_pattern_that_cannot_be_is_the_operators_fault(pattern: str) -> None:
    with pytest.raises(OperatorError, match="pass-through: "):
        PassThrough([pattern])


@pytest.mark.parametrize("options", [{"learn_after": 0}, {"window": 0}, {"learn_for": -1.0}, {"size": 0}])
def test_numbers_that_cannot_be_are_the_operators_fault(options: dict[str, float]) -> None:
    with pytest.raises(OperatorError):
        PassThrough(**options)  # type: ignore[arg-type]


@given(st.text(max_size=100))
def test_nothing_is_covered_by_an_empty_list_and_no_text_is_an_error(text: str) -> None:
    empty = PassThrough(learn_after=1)
    assert not empty.covers(text)
    empty.rejected(text, GONE)
    assert not empty.covers(text)


def test_refusals_are_counted_and_nothing_is_learned_unless_asked(clock: Clock) -> None:
    counting = PassThrough(clock=clock)
    for _ in range(100):
        assert not counting.rejected("A.example", UNKNOWN_CA)
    counting.rejected("b.example", GONE)
    assert counting.rejections == 101 and counting.rejections_by_host == {"a.example": 100, "b.example": 1}
    assert not counting.covers("a.example") and counting.learned == 0


def test_a_host_that_is_refused_often_enough_is_learned_for_a_while(clock: Clock) -> None:
    learning = PassThrough(learn_after=3, window=60, learn_for=3600, clock=clock)
    assert [learning.rejected("pinned.example", UNKNOWN_CA) for _ in range(3)] == [False, False, True]
    assert learning.covers("PINNED.example") and not learning.covers("other.example") and learning.learned == 1
    clock.now += 3599
    assert learning.covers("pinned.example") and learning.learned_hosts == {"pinned.example": 1.0}
    clock.now += 1
    assert not learning.covers("pinned.example") and learning.learned_hosts == {}
    assert [learning.rejected("pinned.example", UNKNOWN_CA) for _ in range(3)] == [False, False, True]
    assert learning.covers("pinned.example") and learning.learned == 2


def test_refusals_that_are_far_apart_do_not_add_up(clock: Clock) -> None:
    learning = PassThrough(learn_after=3, window=60, clock=clock)
    for _ in range(20):
        assert not learning.rejected("a.example", UNKNOWN_CA)
        clock.now += 31
    clock.now -= 1
    assert not learning.rejected("a.example", UNKNOWN_CA)
    assert learning.rejected("a.example", UNKNOWN_CA)


@pytest.mark.parametrize("reason", [GONE, "TLS handshake: no shared cipher", "TLS handshake: tlsv1 alert protocol version", "unknown ca", ""])
def test_only_an_alert_about_the_certificate_is_learned_from(reason: str) -> None:
    learning = PassThrough(learn_after=2)
    for _ in range(10):
        assert not learning.rejected("a.example", reason)
    assert not learning.covers("a.example") and learning.rejections_by_host == {"a.example": 10}
    learning.rejected("a.example", UNKNOWN_CA)
    assert not learning.covers("a.example"), "those that did not count do not count later"


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (UNKNOWN_CA, "unknown_ca"),
        ("TLS handshake: sslv3 alert bad certificate", "bad_certificate"),
        ("TLS handshake: ssl/tls alert certificate unknown", "certificate_unknown"),
        ("TLS handshake: ssl/tls alert handshake failure", "handshake_failure"),
        (GONE, None),
    ],
)
def test_the_alert_is_read_out_of_what_openssl_says(reason: str, expected: str | None) -> None:
    assert alert(reason) == expected
    assert expected in (None, "handshake_failure") or expected in CERTIFICATE_ALERTS


def test_the_tables_are_bounded(clock: Clock) -> None:
    learning = PassThrough(learn_after=2, size=10, clock=clock)
    for n in range(100):
        learning.rejected(f"{n}.example", UNKNOWN_CA)
        learning.rejected("busy.example", GONE)
    assert len(learning.rejections_by_host) == 10 and learning.forgotten == 91
    assert learning.rejections_by_host["busy.example"] == 100, "the one that was refused last stays"
    for n in range(100):
        clock.now += 1
        learning.rejected(f"{n}.example", UNKNOWN_CA)
        learning.rejected(f"{n}.example", UNKNOWN_CA)
    assert list(learning.learned_hosts) == [f"{n}.example" for n in range(90, 100)] and learning.learned == 100


def test_a_learned_host_does_not_outlive_its_time_by_being_refused_elsewhere(clock: Clock) -> None:
    learning = PassThrough(learn_after=1, learn_for=10, clock=clock)
    assert learning.rejected("a.example", UNKNOWN_CA)
    clock.now += 9
    assert not learning.rejected("a.example", UNKNOWN_CA)
    clock.now += 1
    assert not learning.covers("a.example")
