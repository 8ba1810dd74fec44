"""What a string names, and where that is."""

import ipaddress
import socket

import gevent
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from muxwsgi.dial.errors import DialError, DialTimeout, InvalidTarget, ResolveError
from muxwsgi.dial.resolve import MAX_ADDRESSES, addresses, host_name, literal, system_resolver


def by_the_system(host: str) -> tuple[int, str] | None:
    """The address that the C library takes `host` for, without asking anybody."""
    try:
        found = socket.getaddrinfo(host, None, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        return None
    address = ipaddress.ip_address(found[0][4][0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return socket.AF_INET, str(address.ipv4_mapped)  # which is where the kernel connects to
    return found[0][0], str(address)


octets = st.integers(0, 2**32 + 9).flatmap(lambda number: st.sampled_from([str(number), hex(number), f"0{number:o}", f"0x{number:X}"]))
number_like = st.lists(octets | st.integers(0, 300).map(str), min_size=1, max_size=5).map(".".join)
address_like = st.text("0123456789abcdefx:.", min_size=1, max_size=24)


@settings(max_examples=500, deadline=None)
@given(st.ip_addresses().map(str) | number_like | address_like)
@example("0.")
@example("::1.")
@example("127.1")
@example("0x7f.1")
@example("2130706433")
@example("0177.0.0.1")
@example("0x")
@example("1.2.3.4.5")
@example("::ffff:127.0.0.1")
@example("1::2::3")
def test_whatever_the_system_would_take_for_an_address_is_one(host: str) -> None:
    # The dot at the end of a name says that it is complete; what the proxy after us makes of it behind a number is not known.
    assert literal(host) == by_the_system(host if ":" in host else host.removesuffix("."))


@pytest.mark.parametrize("host", ["localhost", "", "127.0.0.1 and more", "127.0.0.1\n", "1.2.3.4/8", "[::1]", "fe80::1%eth0", "1.2.3.4:80", "\u0661.2.3.4"])
def test_other_strings_are_none(host: str) -> None:
    assert literal(host) is None


def test_the_dot_at_the_end_changes_nothing() -> None:
    assert literal("127.0.0.1.") == (socket.AF_INET, "127.0.0.1")
    assert host_name("example.com.") == "example.com"


@pytest.mark.parametrize("host", ["a b", "a\r\nb", "a\0b", "", ".", "a..b", "-a", "[::1]", "a/b", "a:80", "user@a", "fe80::1%eth0", "x" * 64, "x." * 130 + "x", "ü" * 60, "\udcff"])
def test_what_can_be_no_name_is_asked_of_nobody(host: str) -> None:
    def never(host: str, port: int) -> list[tuple[int, str]]:
        raise AssertionError("asked")

    with pytest.raises(DialError) as caught:
        addresses(never, host, 80, 1)
    assert isinstance(caught.value, InvalidTarget)
    assert caught.value.reason.isprintable()


def test_names_with_other_letters_are_asked_in_ascii() -> None:
    assert host_name("bücher.example") == "xn--bcher-kva.example"


def test_a_literal_is_asked_of_nobody() -> None:
    def never(host: str, port: int) -> list[tuple[int, str]]:
        raise AssertionError("asked")

    assert addresses(never, "0x7f.1", 80, 1) == [(socket.AF_INET, "127.0.0.1")]
    assert addresses(never, "::0:1", 80, 1) == [(socket.AF_INET6, "::1")]


def test_the_system_knows_localhost() -> None:
    found = addresses(system_resolver, "localhost", 80, 10)
    assert set(found) <= {(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")}
    assert found


def test_a_name_that_is_nowhere_is_a_fault_of_resolving() -> None:
    with pytest.raises(DialError, match=r"^nowhere\.invalid: ") as caught:
        addresses(system_resolver, "nowhere.invalid", 80, 10)
    assert isinstance(caught.value, ResolveError)


def test_a_name_without_addresses_is_a_fault_of_resolving() -> None:
    with pytest.raises(DialError, match=r"empty\.example: the name has no address") as caught:
        addresses(lambda host, port: [], "empty.example", 80, 1)
    assert isinstance(caught.value, ResolveError)


def test_name_servers_that_say_nothing_are_given_up() -> None:
    def silent(host: str, port: int) -> list[tuple[int, str]]:
        gevent.sleep(60)
        return []

    with pytest.raises(DialError, match=r"slow\.example: no answer from the name servers") as caught:
        addresses(silent, "slow.example", 80, 0.05)
    assert isinstance(caught.value, DialTimeout)


def test_a_name_has_as_many_addresses_as_we_look_at() -> None:
    many = [(socket.AF_INET, f"192.0.2.{number}") for number in range(200)]
    assert addresses(lambda host, port: [many[0], *many], "many.example", 80, 1) == many[:MAX_ADDRESSES]
