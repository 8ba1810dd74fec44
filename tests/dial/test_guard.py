"""Where which client may be connected to."""

import fcntl
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muxwsgi.dial.errors import DialError, Forbidden, Loop
from muxwsgi.dial.guard import Guard
from muxwsgi.dial.local_address import _can_be_bound, is_local
from muxwsgi.errors import OperatorError

HERE = ("127.0.0.1", 50000)
ELSEWHERE = ("203.0.113.9", 50000)

CLOSED = [
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "0.0.0.0/8",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::1/128",
    "::/128",
    "fe80::/10",
    "fc00::/7",
    "ff00::/8",
]

closed_addresses = st.sampled_from(CLOSED).flatmap(lambda network: st.ip_addresses(network=network))
closed_v4 = st.sampled_from([network for network in CLOSED if ":" not in network]).flatmap(lambda network: st.ip_addresses(network=network))
# What Python takes 192.0.0.0/24 for depends on its version.
public_v4 = st.ip_addresses(v=4).filter(
    lambda address: address.is_global and not address.is_multicast and address not in ip_network("192.0.0.0/24")
)


def _within(prefix: str, shift: int = 0) -> Callable[[IPv4Address], IPv6Address]:
    return lambda address: IPv6Address(int(IPv6Address(prefix)) | int(address) << shift)


CARRIERS = {
    "mapped": _within("::ffff:0:0"),
    "translated": _within("::ffff:0:0:0"),
    "compatible": _within("::"),
    "nat64": _within("64:ff9b::"),
    "6to4": _within("2002::", 80),
    "isatap": _within("2001:db8::5efe:0:0"),
    "teredo client": lambda address: IPv6Address(int(IPv6Address("2001:0:cb00:7101::")) | (int(address) ^ 0xFFFFFFFF)),
    "teredo server": _within("2001::", 64),
}


def refused(guard: Guard, ip: object, port: int, client: object) -> type[DialError] | None:
    try:
        guard.check(str(ip), port, client)  # type: ignore[arg-type]
    except DialError as error:
        return type(error)
    return None


@settings(deadline=None)
@given(closed_addresses)
def test_a_client_elsewhere_gets_to_no_special_address(address: object) -> None:
    assert refused(Guard(), address, 80, ELSEWHERE) is Forbidden


@settings(deadline=None)
@given(closed_v4, st.sampled_from(sorted(CARRIERS)))
def test_nor_by_any_ipv6_address_that_carries_it(address: IPv4Address, carrier: str) -> None:
    assert refused(Guard(), CARRIERS[carrier](address), 80, ELSEWHERE) is Forbidden


@settings(deadline=None)
@given(public_v4)
def test_a_client_elsewhere_gets_to_public_addresses(address: IPv4Address) -> None:
    assert refused(Guard(), address, 80, ELSEWHERE) is None


@settings(deadline=None)
@given(public_v4, st.sampled_from(["mapped", "translated", "nat64", "6to4"]))
def test_nat64_and_its_like_are_open_where_what_they_carry_is(address: IPv4Address, carrier: str) -> None:
    assert refused(Guard(), CARRIERS[carrier](address), 80, ELSEWHERE) is None


@pytest.mark.parametrize("ip", ["2606:4700::1111", "2001:4860:4860::8888", "64:ff9b::808:808"])
def test_a_client_elsewhere_gets_to_public_ipv6_addresses(ip: str) -> None:
    assert refused(Guard(), ip, 443, ELSEWHERE) is None


@pytest.mark.parametrize("client", [HERE, ("::1", 1, 0, 0), ("::ffff:127.0.0.1", 1, 0, 0), ("127.8.9.10", 1), "/run/client.sock", ""])
def test_a_client_on_this_machine_gets_everywhere(client: object) -> None:
    for ip in ("127.0.0.1", "::1", "10.1.2.3", "169.254.169.254", "fd00::1", "8.8.8.8"):
        assert refused(Guard(), ip, 80, client) is None


@pytest.mark.parametrize("client", [("10.0.0.9", 1), ("::ffff:10.0.0.9", 1, 0, 0), ("fe80::1%eth0", 1, 0, 2), ("0.0.0.0", 1)])
def test_a_client_in_a_private_network_is_elsewhere(client: object) -> None:
    assert refused(Guard(), "10.1.2.3", 80, client) is Forbidden


@settings(deadline=None)
@given(st.ip_addresses(network="127.0.0.0/8"), st.sampled_from(sorted(set(CARRIERS) - {"mapped"})))
def test_a_client_is_not_here_because_its_ipv6_address_carries_a_loopback_address(address: IPv4Address, carrier: str) -> None:
    client = str(CARRIERS[carrier](address)), 50000, 0, 0
    if client[0] != "::1":
        for ip in ("127.0.0.1", "::1", "169.254.169.254", "10.1.2.3"):
            assert refused(Guard(), ip, 80, client) is Forbidden, client


def test_a_stream_in_memory_is_on_this_machine() -> None:
    assert refused(Guard(), "127.0.0.1", 80, ("memory", 1)) is None


@pytest.mark.parametrize("ip", ["0.0.0.0", "::", "::ffff:0.0.0.0"])
@pytest.mark.parametrize("client", [HERE, ELSEWHERE])
def test_nobody_gets_to_the_unspecified_address(ip: str, client: object) -> None:
    guard = Guard(allow=["0.0.0.0/0", "::/0"])
    assert refused(guard, ip, 80, client) is Forbidden


def test_private_opens_private_networks_and_neither_loopback_nor_metadata() -> None:
    guard = Guard(private=True)
    for ip in ("10.1.2.3", "192.168.1.1", "100.64.0.1", "fd12::1", "::ffff:10.1.2.3"):
        assert refused(guard, ip, 80, ELSEWHERE) is None
    for ip in ("127.0.0.1", "::1", "169.254.1.1", "169.254.169.254", "fd00:ec2::254", "100.100.100.200", "::ffff:127.0.0.1"):
        assert refused(guard, ip, 80, ELSEWHERE) is Forbidden


def test_an_allowed_network_is_open_and_its_neighbour_is_not() -> None:
    guard = Guard(allow=["10.1.0.0/16", "fd00:1::/32"])
    for ip in ("10.1.2.3", "::ffff:10.1.2.3", "fd00:1::9"):
        assert refused(guard, ip, 80, ELSEWHERE) is None
    for ip in ("10.2.0.1", "::ffff:10.2.0.1", "fd00:2::9"):
        assert refused(guard, ip, 80, ELSEWHERE) is Forbidden


@pytest.mark.parametrize("ip", ["fd00::5efe:10.1.2.3", "fe80::5efe:10.1.2.3"])
def test_an_allowed_network_opens_no_ipv6_address_that_only_carries_one_of_its_addresses(ip: str) -> None:
    assert refused(Guard(allow=["10.1.0.0/16"]), ip, 80, ELSEWHERE) is Forbidden


def test_what_teredo_carries_is_judged_one_by_one() -> None:
    server, client = _within("2001::", 64)(IPv4Address("10.1.2.3")), 0xFFFFFFFF ^ int(IPv4Address("127.0.0.1"))
    assert refused(Guard(allow=["10.1.0.0/16"]), IPv6Address(int(server) | client), 80, ELSEWHERE) is Forbidden


def test_our_own_address_is_itself_and_not_what_it_carries() -> None:
    guard = Guard(lambda: [("2002:cb00:7101::1", 8080)])
    assert refused(guard, "2002:cb00:7101::1", 8080, HERE) is Loop
    assert refused(guard, "203.0.113.1", 8080, HERE) is None


def test_what_is_no_network_cannot_be_allowed() -> None:
    with pytest.raises(OperatorError, match=r"^allow_destination: .*10\.0\.0\.1/8"):
        Guard(allow=["10.0.0.1/8"])


@pytest.mark.parametrize("client", [HERE, ELSEWHERE])
@pytest.mark.parametrize(
    ("listener", "ip"),
    [
        (("127.0.0.1", 8080), "127.0.0.1"),
        (("127.0.0.1", 8080), "::ffff:127.0.0.1"),
        (("::1", 8080, 0, 0), "::1"),
        (("203.0.113.1", 8080), "203.0.113.1"),
        (("203.0.113.1", 8080), "64:ff9b::203.0.113.1"),
        (("::ffff:203.0.113.1", 8080, 0, 0), "203.0.113.1"),
        (("fe80::1%eth0", 8080, 0, 2), "fe80::1"),
        (("0.0.0.0", 8080), "127.0.0.1"),
        (("0.0.0.0", 8080), "127.1.2.3"),
        (("0.0.0.0", 8080), "0.0.0.0"),
        (("::", 8080, 0, 0), "::1"),
        (("::", 8080, 0, 0), "::"),
        (("::", 8080, 0, 0), "127.0.0.1"),
        (("::", 8080, 0, 0), "::ffff:127.0.0.1"),
    ],
)
def test_nobody_gets_to_our_own_listeners(listener: tuple[str, int], ip: str, client: object) -> None:
    guard = Guard(lambda: [("198.51.100.1", 9), listener[:2]], allow=["0.0.0.0/0", "::/0"])
    assert refused(guard, ip, 8080, client) is Loop
    if ip not in ("0.0.0.0", "::"):
        assert refused(guard, ip, 8081, client) is None


def test_another_address_with_our_port_is_not_ours() -> None:
    assert refused(Guard(lambda: [("127.0.0.1", 8080)]), "127.0.0.2", 8080, HERE) is None
    assert refused(Guard(lambda: [("0.0.0.0", 8080)]), "192.0.2.77", 8080, HERE) is None
    assert refused(Guard(lambda: [("::", 8080)]), "2001:db8::77", 8080, HERE) is None


def addresses_of_this_machine() -> list[str]:
    """As the interfaces have them: netdevice(7), proc(5)."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(any_socket, 0x8915, struct.pack("256s", name.encode()))  # SIOCGIFADDR
            except OSError:  # it has none
                continue
            found.append(socket.inet_ntoa(answer[20:24]))
    for line in Path("/proc/net/if_inet6").read_text("ascii").splitlines():
        found.append(str(IPv6Address(bytes.fromhex(line.split()[0]))))
    return found


def test_a_wildcard_listener_is_at_all_addresses_of_this_machine() -> None:
    guard = Guard(lambda: [("0.0.0.0", 8080), ("::", 8080)])
    found = addresses_of_this_machine()
    assert {"127.0.0.1", "::1"} <= set(found)
    for ip in found:
        assert refused(guard, ip, 8080, HERE) is Loop
        assert is_local(ip_address(ip))
        if not ip.startswith("fe80:"):  # which needs a zone to be bound
            assert _can_be_bound(ip_address(ip))


@pytest.mark.parametrize("ip", ["8.8.8.8", "198.51.100.77", "2001:db8:ffff::77", "ff02::1", "224.0.0.1"])
def test_other_addresses_are_not_local(ip: str) -> None:
    assert not is_local(ip_address(ip))


@pytest.mark.parametrize("ip", ["8.8.8.8", "198.51.100.77", "2001:db8:ffff::77"])
def test_other_addresses_cannot_be_bound_either(ip: str) -> None:
    assert not _can_be_bound(ip_address(ip))


def test_listeners_are_asked_for_each_time() -> None:
    listeners: list[tuple[str, int]] = []
    guard = Guard(lambda: listeners)
    assert refused(guard, "127.0.0.1", 8080, HERE) is None
    listeners.append(("127.0.0.1", 8080))
    assert refused(guard, "127.0.0.1", 8080, HERE) is Loop


def test_what_is_no_address_is_an_error_and_not_a_permission() -> None:
    with pytest.raises(ValueError, match="localhost"):
        Guard().check("localhost", 80, ELSEWHERE)
