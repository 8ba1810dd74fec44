"""A name is understood in one place: the same odd spellings go through all that decide by host, and all agree."""

import json
import re

import pytest

from muxwsgi.dial.resolve import literal, spelled
from muxwsgi.dial.upstream_choice import NoProxy
from muxwsgi.mux.match import Match
from muxwsgi.protocols.tls import sni_is
from muxwsgi.proxy import BlockList, dst_host_is, is_localhost, req_host_is, req_host_matches
from muxwsgi.proxy.certificates.passthrough import PassThrough
from muxwsgi.proxy.doors.front_page import pac
from tests.mux.first_bytes import client_hello
from tests.proxy.rules.conftest import MakeContext

#: What an operator writes, and how a client may spell the same host.
SAME = [
    ("example.com", ["EXAMPLE.COM", "example.com.", "Example.com"]),
    ("bücher.example", ["xn--bcher-kva.example", "BÜCHER.example", "xn--bcher-kva.example."]),
    ("10.0.0.1", ["::ffff:10.0.0.1", "::ffff:a00:1", "167772161", "0xa.1", "10.1", "012.0.0.1", "10.0.0.1."]),
    ("2001:db8::1", ["2001:DB8:0:0::1", "2001:db8::0:1"]),
    ("example-.test", ["EXAMPLE-.test."]),
]
PAIRS = [(written, said) for host, spellings in SAME for written in (host, *spellings) for said in (host, *spellings)]


@pytest.mark.parametrize(("written", "said"), PAIRS)
def test_each_consumer_takes_one_spelling_for_the_other(written: str, said: str, make_context: MakeContext) -> None:
    authority = f"[{said}]:443" if ":" in said else f"{said}:443"
    wanted = f"[{written}]" if ":" in written else written
    for condition in (req_host_is(wanted), dst_host_is(wanted), dst_host_is(f"{wanted}:443"), BlockList(patterns=[written])):
        assert condition(authority, make_context()), condition
    assert BlockList(patterns=[written]).blocked(said) is not None
    assert PassThrough([written]).covers(said)
    assert (said, 443) in NoProxy(wanted) and (said, 443) in NoProxy(f"{wanted}:443")
    assert spelled(said) == spelled(written)
    names = json.loads(re.findall(r"var names = (.*);", pac("PROXY a:1", [written]))[0])
    networks = json.loads(re.findall(r"var networks = (.*);", pac("PROXY a:1", [written]))[0])
    assert spelled(said) in names or [spelled(said), "255.255.255.255"] in networks


@pytest.mark.parametrize("said", ["127.0.0.1", "::ffff:127.0.0.1", "127.1", "2130706433", "0x7f000001", "[::1]", "localhost.", "LOCALHOST", "a.localhost"])
def test_this_machine_is_known_by_every_spelling(said: str, make_context: MakeContext) -> None:
    assert is_localhost(f"{said}:80" if said[0] != ":" else f"[{said}]:80", make_context())
    assert req_host_matches(r"^(127\.0\.0\.1|::1|(.*\.)?localhost)$")(f"{said}:80" if said[0] != ":" else f"[{said}]:80", make_context())


def test_sni_is_takes_any_spelling_of_a_name() -> None:
    for written in ("EXAMPLE.com.", "example.com", "*.COM."):
        assert sni_is(written)(client_hello(b"example.com")) is Match.YES
    assert sni_is("bücher.example")(client_hello(b"xn--bcher-kva.example")) is Match.YES


def test_an_address_with_a_zone_is_compared_and_never_dialled() -> None:
    assert PassThrough(["fe80::1"]).covers("fe80::1%eth0")
    assert literal("fe80::1%eth0") is None
