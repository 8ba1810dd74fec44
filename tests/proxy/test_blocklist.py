"""Block lists: what their lines mean, whatever a client writes, and files that change under them."""

import logging
import os
import time
from pathlib import Path

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muxwsgi.errors import OperatorError
from muxwsgi.proxy.context import Context
from muxwsgi.proxy.rules.blocklist import LOOK_AGAIN, BlockList
from muxwsgi.proxy.rules.message import Request, Response
from muxwsgi.records.fingerprint import ClientTLS
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.memory import memory_pair
from tests.proxy.hello import client_tls


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def of_lines(path: Path, *lines: str, clock: Clock | None = None) -> BlockList:
    path.write_text("".join(f"{line}\n" for line in lines))
    return BlockList([path], clock=clock or Clock())


def read_again(blocked: BlockList, clock: Clock) -> None:
    """What the next look leads to, to its end."""
    clock.now += 2 * LOOK_AGAIN
    blocked.blocked("anything")
    for file in blocked._files:
        if file.reading is not None:
            file.reading.join(30)


FILE = """\
# a hosts file, as they are published
127.0.0.1 localhost localhost.localdomain
::1 ip6-localhost
fe80::1%lo0 localhost
255.255.255.255 broadcasthost
0.0.0.0 0.0.0.0

0.0.0.0 ads.example.com www.ads.example.com   # two, and a comment
127.0.0.1\tTracker.Example.
:: six.example
# and what others write
plain.example
  Spaces.Example
under_score.example
*.below.example
*.Bücher.example
straße.example
192.0.2.7
[2001:DB8:0::7]
/^ad[0-9]+[.]/ # a regex
/x#y|zz{2}top/
0.0.0.0 *.hosts-below.example
"""


@pytest.fixture
def blocked(tmp_path: Path) -> BlockList:
    return of_lines(tmp_path / "list", *FILE.splitlines(), clock=Clock())


@pytest.mark.parametrize(
    ("host", "rule"),
    [
        ("ads.example.com", "ads.example.com"), ("ADS.Example.COM", "ads.example.com"), ("ads.example.com.", "ads.example.com"),
        ("www.ads.example.com", "www.ads.example.com"), ("tracker.example", "tracker.example"), ("six.example", "six.example"),
        ("plain.example", "plain.example"), ("spaces.example", "spaces.example"), ("under_score.example", "under_score.example"),
        ("a.below.example", "*.below.example"), ("a.b.c.below.example.", "*.below.example"), ("x.bücher.example", "*.xn--bcher-kva.example"),
        ("x.XN--BCHER-KVA.example", "*.xn--bcher-kva.example"), ("strasse.example", "strasse.example"), ("192.0.2.7", "192.0.2.7"),
        ("0xc0.0.2.7", "192.0.2.7"), ("3221225991", "192.0.2.7"), ("::ffff:192.0.2.7", "192.0.2.7"), ("2001:db8::7", "2001:db8::7"),
        ("[2001:0db8::0:7]", "2001:db8::7"), ("ad7.anything.example", "/^ad[0-9]+[.]/"), ("AD7.x", "/^ad[0-9]+[.]/"),
        ("zzztop.example", "/x#y|zz{2}top/"), ("a.hosts-below.example", "*.hosts-below.example"),
        ("example.com", None), ("a.plain.example", None), ("plain.example.com", None), ("below.example", None), ("xbelow.example", None),
        ("localhost", None), ("0.0.0.0", None), ("ip6-localhost", None), ("192.0.2.70", None), ("2001:db8::8", None), ("ad.example", None), ("", None),
        (".", None), ("..", None), ("a..b", None), ("*.below.example.", "*.below.example"), ("b\udcffd", None), ("x." * 200 + "below.example", None),
        ("ads.example.com" + "." * 300, "ads.example.com"),
    ],
)  # fmt: skip
def test_a_host_is_blocked_by_the_rule_that_means_it(blocked: BlockList, host: str, rule: str | None) -> None:
    assert blocked.blocked(host) == rule


labels = st.text(st.sampled_from("abcdef0123456789-_"), min_size=1, max_size=8)
hosts = st.lists(labels, min_size=1, max_size=4).map(lambda parts: "h" + ".".join(parts) + "x")


@settings(deadline=None)
@given(exact=st.lists(hosts, max_size=8), below=st.lists(hosts, max_size=4), asked=st.lists(hosts, max_size=4), data=st.data())
def test_as_one_would_look_them_up_one_after_the_other(exact: list[str], below: list[str], asked: list[str], data: st.DataObject) -> None:
    lines = data.draw(st.permutations([*exact, *(f"*.{host}" for host in below)]))
    blocked = BlockList(patterns=lines)
    for host in [*exact, *below, *(f"a.{host}" for host in below), *(f"{first}.{host}" for host in below for first in asked), *asked]:
        spelt = data.draw(st.sampled_from([host, host.upper(), f"{host}.", host.title()]))
        assert (blocked.blocked(spelt) is not None) == (host in exact or any(host.endswith(f".{name}") for name in below)), host


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("two words", "it has white space"), ("192.0.2.1 host.example", "does not begin with 0.0.0.0"), ("0.0.0.0 bad/host", "'bad/host' is not a host"),
        ("http://example.com/", "is not a host"), ("||example.com^", "is not a host"), ("*.", "is not a host"), ("*", "is not a host"), ("a*.example", "is not a host"), ("/a(b/", "unterminated"),
        ("-leading.example", "is not a host"), ("x" * 254, "is not a host"), ("example.com:80", "is not a host"), ("/", "is not a host"), ("//", "is not a host"), ("a,b", "is not a host"),
    ],
)  # fmt: skip
def test_a_broken_line_is_named_before_anything_is_served(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(OperatorError, match=r"list, line 3: ") as caught:
        of_lines(tmp_path / "list", "good.example", "# comment", line, "also-good.example")
    assert says in str(caught.value) and len(str(caught.value).splitlines()) == 1
    with pytest.raises(OperatorError, match=r"block: ") as caught:
        BlockList(patterns=["good.example", line])
    assert says in str(caught.value)


def test_a_file_that_is_not_there_or_no_text_is_the_operators_fault(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"block: .*list: No such file"):
        BlockList([tmp_path / "list"])
    with pytest.raises(OperatorError, match=r"Is a directory"):
        BlockList([tmp_path])
    (tmp_path / "list").write_bytes(b"good.example\n\xff\xfe\n")
    with pytest.raises(OperatorError, match=r"list, line 2: it is not UTF-8"):
        BlockList([tmp_path / "list"])


def test_files_of_windows_and_files_without_an_end_of_line_are_read(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"\xef\xbb\xbfone.example\r\n0.0.0.0 two.example\r\n*.three.example")
    blocked = BlockList([tmp_path / "list"])
    assert [blocked.blocked(host) is not None for host in ("one.example", "two.example", "a.three.example")] == [True] * 3 and len(
        blocked
    ) == 3


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    clock = Clock()
    blocked = of_lines(tmp_path / "list", "old.example", clock=clock)
    (tmp_path / "list").write_text("new.example\n")
    assert blocked.blocked("old.example") and not blocked.blocked("new.example"), "it is not looked at again so soon"
    read_again(blocked, clock)
    assert not blocked.blocked("old.example") and blocked.blocked("new.example")
    (tmp_path / "other").write_text("newer.example\n")
    (tmp_path / "other").replace(tmp_path / "list")
    read_again(blocked, clock)
    assert not blocked.blocked("new.example") and blocked.blocked("newer.example")


def test_a_file_is_looked_at_once_a_second_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    blocked = of_lines(tmp_path / "list", "a.example", clock=clock)
    looks = []
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **options: looks.append(path) or stat(path, **options))
    for _ in range(1000):
        clock.now += LOOK_AGAIN / 100
        blocked.blocked("a.example")
    assert len(looks) in (9, 10)


def test_a_file_that_is_broken_then_is_said_once_and_the_old_list_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    blocked = of_lines(tmp_path / "list", "old.example", clock=clock)
    with caplog.at_level(logging.ERROR, "muxwsgi.error"):
        (tmp_path / "list").write_text("new.example\nbro ken\n")
        for _ in range(3):
            read_again(blocked, clock)
        assert [record.getMessage() for record in caplog.records] == [
            f"block: {tmp_path}/list, line 2: 'bro ken' is not a rule: it has white space, and does not begin with 0.0.0.0; "
            "the rules that were read before still apply"
        ]
        assert blocked.blocked("old.example") and not blocked.blocked("new.example")
    (tmp_path / "list").unlink()
    read_again(blocked, clock)
    assert blocked.blocked("old.example"), "a file that is gone unblocks nothing"
    (tmp_path / "list").write_text("new.example\n")
    read_again(blocked, clock)
    assert blocked.blocked("new.example") and not blocked.blocked("old.example")


def test_the_old_list_counts_until_the_new_one_is_whole_and_others_are_served_meanwhile(tmp_path: Path) -> None:
    clock = Clock()
    blocked = of_lines(tmp_path / "list", "always.example", "old.example", clock=clock)
    (tmp_path / "list").write_text("always.example\n" + "".join(f"0.0.0.0 h{number}.example\n" for number in range(30_000)))
    clock.now += 2 * LOOK_AGAIN
    blocked.blocked("")
    turns = 0
    deadline = time.monotonic() + 60
    while not blocked.blocked("h29999.example") and time.monotonic() < deadline:
        assert blocked.blocked("always.example") and blocked.blocked("old.example") and not blocked.blocked("h0.example")
        gevent.sleep(0)
        turns += 1
    assert turns > 30 and blocked.blocked("h0.example") and not blocked.blocked("old.example")


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    """As a shell's <(command) is: there is nothing to be read again."""
    reading, writing = os.pipe()
    os.write(writing, b"a.example\n")
    os.close(writing)
    clock = Clock()
    blocked = BlockList([f"/dev/fd/{reading}"], clock=clock)
    os.close(reading)
    read_again(blocked, clock)
    assert blocked.blocked("a.example")


def test_a_host_of_a_long_list_is_found_without_reading_it() -> None:
    """Of a list a hundred times as long it takes as many steps: no step of the lookup depends on the length."""

    def steps(lines: int) -> int:
        blocked = BlockList(patterns=(f"h{number}.example" for number in range(lines)))
        count = 0

        def counting(frame: object, event: str, argument: object) -> None:
            nonlocal count
            count += 1

        import sys

        sys.setprofile(counting)
        try:
            blocked.blocked("a.b.c.example")
        finally:
            sys.setprofile(None)
        return count

    steps(1)
    assert steps(10) == steps(1000)


def context(tls: ClientTLS | None = None) -> Context:
    ours, _theirs = memory_pair()
    ctx = Context(Connection(ours, client="test", server="test"), "connect", ("allowed.example", 443))
    ctx.tls = tls
    return ctx


def request(url: str) -> Request:
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return Request.of({"REQUEST_METHOD": "GET", "RAW_URI": slash + path, "HTTP_HOST": authority}, scheme, authority)


def test_it_is_a_condition_of_tunnels_requests_and_responses() -> None:
    blocked = BlockList(patterns=["bad.example", "2001:db8::7"])
    for subject, answer in (
        ("bad.example:443", True), ("BAD.example.:22", True), ("[2001:db8::7]:443", True), ("good.example:443", False),
        (request("http://bad.example/x"), True), (request("http://Bad.Example:8080/"), True), (request("http://good.example/bad.example"), False),
    ):  # fmt: skip
        assert blocked(subject, context()) is answer, subject
    ctx = context()
    assert blocked(Response("x"), ctx) is False
    ctx.request = request("https://bad.example/")
    assert blocked(Response("x"), ctx) is True


def test_a_host_that_only_the_client_hello_names_is_blocked_too() -> None:
    """A redirected client's tunnel goes to an address; the name comes later."""
    blocked = BlockList(patterns=["bad.example"])
    assert blocked("192.0.2.1:443", context(client_tls("bad.example"))) is True
    assert blocked("192.0.2.1:443", context(client_tls(None))) is False
