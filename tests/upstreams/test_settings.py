"""`[upstream.NAME]` as an operator writes it."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from muxwsgi import OperatorError
from muxwsgi.cli import cli
from muxwsgi.hijackers.forward import Forward, forward_route
from muxwsgi.hijackers.resolve import resolve
from muxwsgi.settings.upstream import markdown, parse_upstream, short_upstream
from muxwsgi.upstreams.chosen import Only
from muxwsgi.upstreams.upstreams import Upstreams

ROOT = Path(__file__).parents[2]


def test_keys_of_the_upstream_are_the_defaults_of_its_servers() -> None:
    text = """
        balance = "leastconn"
        weight = 3
        maxconn = "1K"
        server = ["10.0.0.1:1", {address = "[::1]:2", weight = 5, backup = true}, {name = "c", address = "unix:/run/c.sock"}]
    """
    made = parse_upstream("db", tomllib.loads(text), "upstream.db")
    assert [(each.title, each.weight, each.maxconn, each.backup) for each in made.servers] == [
        ("10.0.0.1:1", 3, 1024, False),
        ("[::1]:2", 5, 1024, True),
        ("c", 3, 1024, False),
    ]
    assert made.options.balance == "leastconn"


def test_hyphens_are_as_good_as_underscores() -> None:
    made = parse_upstream("db", {"queue-timeout": 3, "server": [{"address": "a:1", "send-proxy-v2": True}]}, "upstream.db")
    assert made.options.queue_timeout == 3 and made.servers[0].send_proxy_v2


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({}, "upstream.db: `server` is missing"),
    ({"server": []}, "upstream.db: `server` is missing"),
    ({"server": "a:1"}, "upstream.db: `server` is missing"),
    ({"server": [7]}, "upstream.db: server 1: 7 is neither an address nor a table"),
    ({"server": ["a:1", "b"]}, "upstream.db: server 2: address: 'b' is not HOST:PORT"),
    ({"server": ["unix:" + "/" * 108]}, "upstream.db: server 1: address: 'unix:////"),
    ({"server": [{"weight": 1}]}, "upstream.db: server 1: `address` is missing"),
    ({"server": ["a:1", "a:1"]}, "upstream.db: two servers are named 'a:1'"),
    ({"server": ["a:1"], "balnce": "first"}, "upstream.db: there is no key 'balnce' in an upstream; there are server, balance,"),
    ({"server": [{"address": "a:1", "wight": 1}]}, "upstream.db: server 1: there is no option 'wight'; there are address,"),
    ({"server": ["a:1"], "balance": "best"}, "upstream.db: balance: 'best' is not roundrobin"),
    ({"server": ["a:1"], "retries": -1}, "upstream.db: retries: -1 is less than 0"),
    ({"server": ["a:1"], "retries": "3"}, "upstream.db: retries: '3' is not a whole number"),
    ({"server": ["a:1"], "connect_timeout": 30}, "upstream.db: connect_timeout: 30 is more than total_timeout, 20"),
    ({"server": ["a:1"], "inter": 0}, "upstream.db: server 1: inter: 0 is not more than 0"),
    ({"server": ["a:1"], "weight": 257}, "upstream.db: server 1: weight: 257 is more than 256"),
    ({"server": ["a:1"], "observe": "layer7"}, "upstream.db: server 1: observe: 'layer7' is not layer4 or none"),
    ({"server": ["a:1"], "ca_file": "x"}, "upstream.db: server 1: ca_file: it is for TLS: add ssl = true"),
    ({"server": ["a:1"], "verify": "none"}, "upstream.db: server 1: verify: it is for TLS: add ssl = true"),
    ({"server": ["a:1"], "ssl": True, "verify": "none", "verifyhost": "a"}, "upstream.db: server 1: verify: with none,"),
    ({"server": ["a:1"], "ssl": True, "key": "x"}, "upstream.db: server 1: key: there is no crt"),
    ({"server": ["a:1"], "ssl": True, "sni": "10.0.0.1"}, "upstream.db: server 1: sni: '10.0.0.1' is not a name"),
    ({"server": ["a:1"], "ssl": True, "alpn": [""]}, "upstream.db: server 1: alpn: '' is not an id"),
    ({"server": ["unix:/run/a"], "ssl": True}, "upstream.db: server 1: ssl: a unix socket has no name to verify"),
    ({"server": ["a:1"], "send_proxy": True, "send_proxy_v2": True}, "upstream.db: server 1: send_proxy: send_proxy_v2 is given too"),
    ({"server": ["a:1"], "proxy_v2_options": ["cn"]}, "upstream.db: server 1: proxy_v2_options: 'cn' is not alpn"),
    ({"server": ["a:1"], "check_send": "€"}, "upstream.db: server 1: check_send, check_expect: '€' has a character above"),
    ({"server": ["unix:/run/a"], "check_port": 1}, "upstream.db: server 1: check_port: 1 is not a port of unix:/run/a"),
    ({"server": ["unix:/run/a"], "source": "client"}, "upstream.db: server 1: source: a unix socket has no address"),
    ({"server": ["a:1"], "source": "eth0"}, "upstream.db: server 1: source: 'eth0' is neither an address"),
    ({"server": [{"address": "a:1", "name": "a/b"}]}, "upstream.db: server 1: name: 'a/b' is not a word"),
]


@pytest.mark.parametrize(("table", "message"), FAULTS, ids=lambda each: each if isinstance(each, str) else "")
def test_a_fault_is_one_line_with_its_place(table: dict[str, Any], message: str) -> None:
    with pytest.raises(OperatorError, match=f"^{re.escape(message)}") as found:
        parse_upstream("db", table, "upstream.db")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("name", ["", "a:1", "a/b", "a b", "-a", "x" * 64])
def test_a_name_is_a_word(name: str) -> None:
    with pytest.raises(OperatorError, match="an upstream is named by a word"):
        parse_upstream(name, {"server": ["a:1"]}, f"upstream.{name}")


def test_a_file_of_tls_that_is_not_there_is_said_with_its_server() -> None:
    made = parse_upstream("db", {"server": ["a:1"], "ssl": True, "ca_file": "/nowhere/ca.pem"}, "upstream.db")
    with pytest.raises(OperatorError, match=r"^upstream db: server a:1: ca_file: /nowhere/ca.pem: No such file"):
        Upstreams([made])


# The short form


def test_one_address_alone_is_tried_once_and_several_are_watched() -> None:
    one, two = short_upstream("127.0.0.1:22"), short_upstream("127.0.0.1:22,unix:/run/ssh.sock")
    assert (one.options.retries, one.servers[0].observe) == (0, "none")
    assert two.options.retries == 3 and {each.observe for each in two.servers} == {"layer4"}


@pytest.mark.parametrize("text", ["a:1,", "a:1,a:1", ",a:1", "a:1,b"])
def test_a_wrong_list_of_addresses_is_refused(text: str) -> None:
    with pytest.raises(OperatorError, match="expected forward:HOST:PORT"):
        resolve(f"forward:{text}")


def test_the_same_addresses_are_the_same_upstream() -> None:
    upstreams = Upstreams()
    handlers = [forward_route("a:1,b:2", upstreams).handler for _ in range(2)]
    assert isinstance(handlers[0], Forward) and isinstance(handlers[1], Forward)
    assert isinstance(handlers[0].chosen, Only) and isinstance(handlers[1].chosen, Only)
    assert handlers[0].chosen.upstream is handlers[1].chosen.upstream


def test_an_unknown_upstream_is_refused_with_the_nearest() -> None:
    upstreams = Upstreams([parse_upstream("redis", {"server": ["a:1"]}, "upstream.redis")])
    with pytest.raises(OperatorError, match="no upstream is named 'redsi'; did you mean 'redis'"):
        forward_route("redsi", upstreams)
    with pytest.raises(OperatorError, match="no upstream is named 'x'; there are redis"):
        forward_route("x", upstreams)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("python:nowhere", "expected forward:python:MODULE:FUNCTION"),
        ("python:no_such_module:f", "No module named 'no_such_module'"),
        ("python:json:nothing", "has no attribute 'nothing'"),
        ("python:json:__name__", "it is not a function"),
    ],
)
def test_a_function_that_is_not_there_is_refused(text: str, message: str) -> None:
    with pytest.raises(OperatorError, match=re.escape(message)):
        forward_route(text)


# The command line


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, arguments)
    return done.exit_code, done.output


def test_routes_lists_the_servers(tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    file.write_text(
        'bind = ["127.0.0.1:0"]\nhijack = ["none"]\n'
        '[[route]]\nmatch = "redis"\nto = "forward:redis"\n'
        '[upstream.redis]\nserver = ["10.0.0.1:1", {address = "10.0.0.2:1", backup = true, ssl = true, check = true}]\nbalance = "first"\n'
    )
    status, output = run("routes", "-c", str(file))
    assert status == 0, output
    lines = [re.sub(" +", " ", line) for line in output.splitlines()]
    at = lines.index("upstream redis (first):")
    assert lines[at + 2 : at + 4] == [
        " 10.0.0.1:1 10.0.0.1:1 1 - - - while down",
        " 10.0.0.2:1 10.0.0.2:1 (backup) 1 - verified - every 2 s",
    ]
    assert any("forward:redis" in line for line in lines)
    first = tmp_path / "first"
    first.write_bytes(b"*1\r\n$4\r\nPING\r\n")
    status, output = run("explain", "-c", str(file), str(first))
    assert status == 0, output
    assert output.endswith("   its servers, by first: 10.0.0.1:1, 10.0.0.2:1 (backup)\n")


def test_the_flag_takes_json() -> None:
    status, output = run("routes", "--upstream", json.dumps({"db": {"server": ["10.0.0.1:1"]}}), "--fallback", "forward:db", "--hijack", "none")
    assert status == 0 and "upstream db (roundrobin):" in output
    done = CliRunner().invoke(cli, ["routes", "--upstream", json.dumps({"db": {"server": []}}), "--hijack", "none"])
    assert isinstance(done.exception, OperatorError)  # `muxwsgi` prints it and exits with 2
    assert str(done.exception).startswith("the flag --upstream: upstream.db: `server` is missing")


def test_the_page_has_every_key() -> None:
    page = (ROOT / "docs" / "upstreams.md").read_text()
    assert page.endswith(f"## Keys\n\n{markdown().rstrip()}\n")
