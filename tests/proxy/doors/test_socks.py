"""SOCKS 4, 4a and 5: the dialogue, in memory."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muxwsgi.errors import PeerError
from muxwsgi.proxy.doors.access import Access, one_user
from muxwsgi.proxy.fault import Fault, Phase
from tests.proxy.doors.conftest import Clock
from tests.proxy.doors.socks_client import ANN, GREETING, Dialogue, login, request4, request5


@pytest.mark.parametrize(
    "host", ["192.0.2.1", "2001:db8::1", "example.com", "under_score.test", "2001:db8::7", "xn--bcher-kva.example", "h" * 255]
)
def test_socks5_learns_the_destination(host: str) -> None:
    dialogue = Dialogue()
    answer, error = dialogue.run(GREETING, request5(host, 443), b"data")
    assert (answer, error) == (b"\x05\x00" + b"\x05\x00\x00\x01" + bytes(6) + b"DATA", None)
    assert dialogue.opened == [("socks5", (host, 443))]
    assert dialogue.near.destination == (host, 443)


@pytest.mark.parametrize("host", ["192.0.2.1", "example.com", "h" * 255])
def test_socks4_and_4a_learn_the_destination(host: str) -> None:
    dialogue = Dialogue()
    answer, error = dialogue.run(request4(host, 80, b"ann"), b"data")
    assert (answer, error) == (b"\x00\x5a" + bytes(6) + b"DATA", None)
    assert dialogue.opened == [("socks4", (host, 80))]


@settings(deadline=None)
@given(st.sampled_from([GREETING + request5("example.com", 443), request4("example.com", 443, b"u"), request4("192.0.2.1", 1)]), st.data())
def test_bytes_sent_with_the_request_are_the_tunnels_however_they_were_cut(message: bytes, draw: Any) -> None:
    whole = message + b"first words"
    cuts = sorted(draw.draw(st.lists(st.integers(1, len(whole) - 1), max_size=6)))
    parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True) if a < b]
    answer, error = Dialogue().run(*parts)
    assert error is None
    assert answer.endswith(b"FIRST WORDS")


@pytest.mark.parametrize(
    ("phase", "code"),
    [(Phase.POLICY, 2), (Phase.LOOP, 2), (Phase.TARGET, 4), (Phase.RESOLVE, 4), (Phase.CONNECT, 5), (Phase.TIMEOUT, 6), (Phase.TLS, 1), (Phase.CHAIN, 1)],
)
def test_a_fault_has_a_reply_of_its_own(phase: Phase, code: int) -> None:
    answer, error = Dialogue(fault=Fault(phase, "why")).run(GREETING, request5("example.com", 443))
    assert (answer[2:4], error) == (bytes((5, code)), None)
    answer, error = Dialogue(fault=Fault(phase, "why")).run(request4("example.com", 443))
    assert (answer[:2], error) == (b"\x00\x5b", None)


def test_a_fault_that_open_raises_is_replied_too() -> None:
    def opens(*_: Any) -> None:
        raise Fault(Phase.RESOLVE, "no such name")

    assert Dialogue(open=opens).run(GREETING, request5("example.com", 443)) == (b"\x05\x00\x05\x04\x00\x01" + bytes(6), None)


def test_a_bug_in_open_is_a_failure_to_the_client_and_an_error_to_us() -> None:
    def opens(*_: Any) -> None:
        raise RuntimeError("bug")

    answer, error = Dialogue(open=opens).run(GREETING, request5("example.com", 443))
    assert answer[2:4] == b"\x05\x01"
    assert isinstance(error, RuntimeError)


def test_a_client_is_answered_once() -> None:
    def opens(_connection: Any, _door: Any, _destination: Any, reply: Any) -> None:
        reply(None)
        reply(None)

    answer, error = Dialogue(open=opens).run(GREETING, request5("example.com", 443))
    assert answer.count(b"\x05\x00\x00\x01") == 1
    assert "answered before" in str(error)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (request5("example.com", 443, 2), 7),
        (request5("example.com", 443, 3), 7),
        (b"\x05\x01\x00\x02\x01\x01", 8),
        (b"\x04\x01\x00\x01", 1),
        (request5("example.com", 0), 1),
        (request5("", 443), 1),
        (request5("line\nbreak", 443), 1),
        (request5("a b", 443), 1),
        (b"\x05\x01\x00\x03\x0cfe80::1%eth0\x01\xbb", 1),
        (b"\x05\x01\x00\x03\x03b\xfcx\x01\xbb", 1),
    ],
)
def test_what_is_not_served_is_refused_by_its_number(request_: bytes, code: int) -> None:
    dialogue = Dialogue()
    answer, error = dialogue.run(GREETING, request_)
    assert answer == b"\x05\x00\x05" + bytes((code,)) + b"\x00\x01" + bytes(6)
    assert isinstance(error, PeerError)
    assert not dialogue.opened


@pytest.mark.parametrize(
    "request_",
    [request4("192.0.2.1", 80, command=2), request4("192.0.2.1", 0), request4("a\nb", 1), request4("192.0.2.1", 1)[:-1] + b"x" * 300],
)
def test_socks4_refuses_in_its_own_way(request_: bytes) -> None:
    dialogue = Dialogue()
    answer, error = dialogue.run(request_)
    assert answer == b"\x00\x5b" + bytes(6)
    assert isinstance(error, PeerError)
    assert not dialogue.opened


def test_a_client_that_leaves_in_the_middle_is_no_error_of_ours() -> None:
    for message in (GREETING + request5("example.com", 443), request4("example.com", 443, b"ann")):
        for n in range(1, len(message)):
            dialogue = Dialogue()
            _, error = dialogue.run(message[:n])
            assert isinstance(error, PeerError), n
            assert not dialogue.opened


# Who may


def test_a_user_with_the_right_password_is_known_in_the_tunnel() -> None:
    dialogue = Dialogue(ANN)
    answer, error = dialogue.run(b"\x05\x02\x00\x02", login(b"ann", b"pass word:1"), request5("example.com", 443))
    assert (answer[:6], error) == (b"\x05\x02\x01\x00\x05\x00", None)
    assert dialogue.near.identity == "ann"


@pytest.mark.parametrize(
    "said",
    [login(b"ann", b"no"), login(b"bob", b"pass word:1"), login(b"ann", b""), login(b"", b"x"), login(b"ann", b"\x00"), b"\x02\x01a\x01b"],
)
def test_a_wrong_password_ends_it(said: bytes) -> None:
    dialogue = Dialogue(ANN)
    answer, error = dialogue.run(b"\x05\x01\x02", said, request5("example.com", 443))
    assert answer == b"\x05\x02\x01\x01"
    assert isinstance(error, PeerError)
    assert not dialogue.opened


@pytest.mark.parametrize("methods", [b"\x00", b"\x01", b"\x80\x00"])
def test_who_offers_no_password_where_one_is_wanted_is_sent_away(methods: bytes) -> None:
    dialogue = Dialogue(ANN)
    answer, _ = dialogue.run(bytes((5, len(methods))) + methods, request5("example.com", 443))
    assert answer == b"\x05\xff"
    assert not dialogue.opened


def test_socks4_is_refused_where_a_password_is_wanted() -> None:
    dialogue = Dialogue(ANN)
    assert dialogue.run(request4("example.com", 443, b"ann"))[0] == b"\x00\x5b" + bytes(6)
    assert not dialogue.opened


def test_a_client_that_only_offers_a_password_may_say_any_where_none_is_wanted() -> None:
    dialogue = Dialogue()
    answer, error = dialogue.run(b"\x05\x01\x02", login(b"who", b"ever"), request5("example.com", 443))
    assert (answer[:6], error) == (b"\x05\x02\x01\x00\x05\x00", None)
    assert dialogue.near.identity is None


def test_an_address_that_may_not_use_the_proxy_is_told_so_at_once() -> None:
    for message, answer in ((GREETING, b"\x05\xff"), (request4("192.0.2.1", 80), b"\x00\x5b" + bytes(6))):
        dialogue = Dialogue(Access(allow=["192.0.2.0/24"]))
        dialogue.near.client = ("198.51.100.1", 40000)
        assert dialogue.run(message)[0] == answer
        assert not dialogue.opened


def test_who_guesses_is_not_heard_even_with_the_right_password() -> None:
    access = Access(one_user("ann", "right"), clock=Clock())
    answers = []
    for password in [b"wrong"] * 10 + [b"right"]:
        dialogue = Dialogue(access)
        dialogue.near.client = ("192.0.2.7", 40000)
        answers.append(dialogue.run(b"\x05\x01\x02", login(b"ann", password))[0])
        assert not dialogue.opened
    assert set(answers) == {b"\x05\x02\x01\x01"}
