"""Routes of a configuration: what they match, on which condition, and where they lead."""

import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.server import StreamServer
from OpenSSL import SSL

import muxwsgi
from muxwsgi import Connection, Match, OperatorError, hijack
from muxwsgi.mux.matchers import prefix
from muxwsgi.mux.mux import Reason
from muxwsgi.observe.metrics import OF_WORKERS
from muxwsgi.server.conditions import ClientsInFile, TimeOfDay
from muxwsgi.server.route_match import matcher_of
from muxwsgi.settings import BindSettings, CertificateFiles, MuxSettings, RouteSettings, ServerSettings, parse_route, short_route
from muxwsgi.wire.throttle import BURST
from muxwsgi.wire.tls.client_context import ClientContext
from tests.http.conftest import errors as error_log
from tests.http.conftest import hello
from tests.tls.authority import Authority

__all__ = ["error_log"]

YES, NO, MORE = Match.YES, Match.NO, Match.MORE
GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@hijack(match=prefix(b"SHOUT "))
def shout(connection: Connection) -> None:
    connection.sendall(b"shout|" + connection.recv())


@hijack(name="greets")
def greets(connection: Connection) -> None:
    connection.sendall(b"220 there\r\n")


def routes(*tables: dict[str, Any]) -> tuple[RouteSettings, ...]:
    return tuple(parse_route(table, f"route {number}") for number, table in enumerate(tables, 1))


@contextmanager
def upstream(name: bytes) -> Iterator[str]:
    """A server that says its name and what it received. Its address."""

    def serve(sock: Any, address: Any) -> None:
        data = sock.recv(65536)
        sock.sendall(name + b"|" + data)
        sock.close()

    server = StreamServer(("127.0.0.1", 0), serve)
    server.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.stop()


@contextmanager
def serving(*tables: dict[str, Any], binds: Sequence[str] = ("127.0.0.1:0",), **settings: Any) -> Iterator[muxwsgi.Server]:
    settings.setdefault("mux", MuxSettings(sniff_timeout=20.0))
    made = ServerSettings(routes=routes(*tables), **settings)
    server = muxwsgi.Server(hello, binds=binds, hijackers=[shout, greets], settings=made)
    server.start()
    try:
        with gevent.Timeout(20):
            yield server
    finally:
        server.stop(graceful_timeout=0)


def connect(server: muxwsgi.Server, bind: int = 0) -> Connection:
    host, _, port = server.addresses[bind].rpartition(":")
    return Connection.from_socket(gevent.socket.create_connection((host, int(port))))


def all_of(connection: Connection) -> bytes:
    received = b""
    while data := connection.recv():
        received += data
    connection.finish()
    return received


def say(server: muxwsgi.Server, data: bytes, tls: ClientContext | None = None, name: str | None = None, bind: int = 0) -> bytes:
    """What comes back; b"" for a connection that is closed."""
    connection = connect(server, bind)
    try:
        if tls is not None:
            connection = connection.start_tls(tls, server_hostname=name)
        connection.sendall(data)
        return all_of(connection)
    except OSError:
        return b""


# What matches


@pytest.mark.parametrize(
    ("match", "takes", "leaves"),
    [
        ("ssh", b"SSH-2.0-x\r\n", b"GET / HTTP/1.1\r\n"),
        ({"protocol": "ssh"}, b"SSH-2.0-x\r\n", b"X"),
        ({"prefix": ["AB", "CD"]}, b"CD", b"AC"),
        ({"prefix": "\x16\xff"}, b"\x16\xff", b"\x16\xfe"),
        ({"regex": "[A-Z]+ x"}, b"AB x", b"AB y"),
        ({"any": ["ssh", {"prefix": "AB"}]}, b"AB", b"x"),
        ({"all": [{"prefix": "A"}, {"not": {"prefix": "AB"}}]}, b"AC", b"AB"),
        ({"protocol": "postgresql", "user": "ann"}, b"\0\0\0\x12\0\3\0\0user\0ann\0\0", b"\0\0\0\x12\0\3\0\0user\0bob\0\0"),
    ],
)
def test_a_match_is_a_protocol_or_a_table(match: Any, takes: bytes, leaves: bytes) -> None:
    matcher = matcher_of(match, "here")
    assert matcher(takes) is YES
    assert matcher(leaves) is NO


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"match": "sssh", "to": "http"}, "route 1: match: no protocol is named 'sssh'; did you mean 'ssh'?"),
        ({"match": "ssh"}, "route 1: `to` is missing"),
        ({"match": "ssh", "to": "htp"}, "route 1: to: no route or hijacker is named 'htp'; did you mean 'http'?"),
        ({"match": "ssh", "to": "forward:x"}, "route 1: to: forward:x: no upstream is named 'x', and the configuration has none; expected"),
        ({"match": "ssh", "to": "passthrough:x"}, "route 1: to: forward:x: no upstream is named 'x'"),
        ({"macth": "ssh", "to": "http"}, "route 1: there is no key 'macth'"),
        ({"match": {"regex": "("}, "to": "http"}, "route 1: match: regex: missing )"),
        ({"match": {"regex": "a$"}, "to": "http"}, "route 1: match: regex: pattern b'a$' has"),
        ({"match": {"regex": "a", "prefix": "b"}, "to": "http"}, "route 1: match: a table has one of"),
        ({"match": {"regex": "a", "user": "b"}, "to": "http"}, "route 1: match: 'user' does not belong to 'regex'"),
        ({"match": {"protocol": "ssh", "user": "b"}, "to": "http"}, "route 1: match: 'user' says nothing about ssh"),
        ({"match": {"prefix": "€"}, "to": "http"}, "route 1: match: prefix: '€' has characters above U+00FF"),
        ({"match": {"any": []}, "to": "http"}, "route 1: match: any: [] is not a list"),
        ({"match": {"sni": "a.example"}, "to": "http"}, "route 1: match: sni and alpn in a match are for to = passthrough"),
        ({"match": 7, "to": "http"}, "route 1: match: 7 is neither"),
        ({"match": "ssh", "to": "http", "clients": "10.0.0.0/33"}, "route 1: clients: '10.0.0.0/33' is not an address"),
        ({"match": "ssh", "to": "http", "clients_file": "/nowhere/x"}, "route 1: /nowhere/x: No such file"),
        ({"match": "ssh", "to": "http", "time": "8-9"}, "route 1: '8-9' is not a time"),
        ({"match": "ssh", "to": "http", "limit": True}, "route 1: limit: True is not a number"),
        ({"match": "ssh", "to": "http", "limit": 0}, "route 1: route 'ssh': limit must be at least 1"),
        ({"match": "ssh", "to": "http", "tls": "maybe"}, "route 1: tls: 'maybe' is not no, yes or any"),
        ({"match": "ssh", "to": "http", "bind": "nowhere"}, "route 1: bind 'nowhere'"),
        ({"match": "ssh", "to": "http", "silence": 1}, "route 1: silence: 1 is not true or false"),
        ({"to": "http"}, "route 1: it would get all connections"),
        ({"sni": "a.example", "to": "http"}, "route 1: sni: TLS ends on none of its binds, so it would get nothing"),
        ({"match": "ssh", "to": "http", "tls": "yes"}, "route 1: tls: TLS ends on none of its binds"),
        ({"match": "ssh", "to": "http", "subject": "CN=ann"}, "route 1: subject: TLS ends on none of its binds"),
        ({"match": "ssh", "to": "xyz"}, "route 1: to: no route or hijacker is named 'xyz'; there are close, forward:HOST:PORT, http, http2"),
        ({"sni": "a", "to": "passthrough:127.0.0.1:1", "tls": "yes"}, "route 1: tls: the ClientHello is looked at outside"),
        ({"sni": "a..b", "to": "passthrough:127.0.0.1:1"}, "route 1: sni:"),
        ({"match": "ssh", "name": "http", "to": "close"}, "route 1: another route is named 'http'"),
    ],
)
def test_a_fault_is_one_line_with_its_place(table: dict[str, Any], message: str) -> None:
    with pytest.raises(OperatorError, match=f"^{re.escape(message)}"):
        muxwsgi.Server(hello, binds=["127.0.0.1:0"], settings=ServerSettings(routes=routes(table)))


def test_a_plain_bind_with_a_certificate_has_routes_inside_of_starttls(make_certificate: Callable[[], CertificateFiles]) -> None:
    bind = BindSettings(host="127.0.0.1", tls="off", certificates=(make_certificate(),))
    wanted = routes({"match": "ssh", "to": "http", "tls": "yes"})
    muxwsgi.Server(hello, settings=ServerSettings(routes=wanted, binds=(bind,))).close()


def test_the_short_form_is_a_protocol_a_server_name_or_an_alpn_id() -> None:
    assert short_route("ssh=forward:127.0.0.1:22") == {"match": "ssh", "to": "forward:127.0.0.1:22"}
    assert short_route("sni:a.example=passthrough:b:1") == {"sni": "a.example", "to": "passthrough:b:1"}
    assert short_route("alpn:x=close") == {"alpn": "x", "to": "close"}
    for wrong in ("ssh", "=http", "ssh=", "sni:=http", "size:7=http"):
        with pytest.raises(OperatorError, match=r"MATCH=TO|in front of ="):
            short_route(wrong)


# Where they lead


def test_first_bytes_go_to_other_servers_and_hijackers_and_to_nobody() -> None:
    with ExitStack() as stack:
        ssh = stack.enter_context(upstream(b"sshd"))
        server = stack.enter_context(
            serving(
                {"match": "ssh", "to": f"forward:{ssh}"},
                {"match": {"prefix": "YELL "}, "to": "shout", "name": "yell"},
                {"match": {"prefix": "BYE"}, "to": "close"},
                {"match": {"prefix": "NO"}, "to": "reject"},
                {"match": {"prefix": "SHOUT no"}, "to": "close", "name": "in front of hijackers"},
            )
        )
        assert say(server, b"SSH-2.0-a\r\n") == b"sshd|SSH-2.0-a\r\n"
        assert say(server, b"YELL x") == b"shout|YELL x"
        assert say(server, b"SHOUT x") == b"shout|SHOUT x"
        assert say(server, b"SHOUT no") == b""
        assert say(server, b"BYE") == b""
        assert say(server, GET).endswith(b"hello")
        refused = connect(server)
        refused.sendall(b"NO")
        with pytest.raises(ConnectionResetError):
            refused.recv()


def test_tls_is_passed_on_as_it_is_by_server_name_and_terminated_for_the_others(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ours, theirs = authority.leaf("office.example"), authority.leaf("legacy.example")

    with ExitStack() as stack:
        inner = stack.enter_context(
            serving({"match": {"prefix": "A"}, "to": "shout"}, binds=[f"127.0.0.1:0,certfile={theirs.certfile},keyfile={theirs.keyfile}"])
        )
        git = stack.enter_context(upstream(b"git"))
        server = stack.enter_context(
            serving(
                {"sni": "*.legacy.example", "to": "close"},
                {"sni": "legacy.example", "to": f"passthrough:{inner.addresses[0]}"},
                {"sni": "git.example", "match": "http1", "to": f"forward:{git}"},
                {"match": "ssh", "to": "shout", "tls": "no"},
                binds=[f"127.0.0.1:0,certfile={ours.certfile},keyfile={ours.keyfile}"],
            )
        )
        tls = ClientContext(ca_file=authority.root)
        assert say(server, b"A", tls, "legacy.example") == b"shout|A"
        assert say(server, b"", tls, "x.legacy.example") == b""
        unnamed = ClientContext(verify=False)
        assert say(server, GET, unnamed, "git.example").startswith(b"git|GET / ")
        assert say(server, GET, tls, "office.example").endswith(b"hello")
        assert say(server, b"SSH-2.0-a") == b"shout|SSH-2.0-a"  # the bind requires TLS, and the route is for what has none
        assert say(server, b"SSH-2.0-a\n", tls, "office.example") == b""


def test_tls_is_passed_on_without_a_certificate_of_ours() -> None:
    with upstream(b"tls") as there, serving({"alpn": "dot", "to": f"passthrough:{there}"}) as server:
        context = SSL.Context(SSL.TLS_METHOD)
        connection = SSL.Connection(context, None)
        connection.set_alpn_protos([b"dot"])
        connection.set_connect_state()
        with pytest.raises(SSL.WantReadError):
            connection.do_handshake()
        opening = connection.bio_read(65536)
        assert say(server, opening) == b"tls|" + opening


def test_an_alpn_id_of_a_protocol_leads_to_its_route(make_certificate: Callable[[], CertificateFiles]) -> None:
    files = make_certificate()
    with (
        upstream(b"broker") as there,
        serving({"match": "mqtt", "to": f"forward:{there}"}, binds=[f"127.0.0.1:0,certfile={files.certfile}"]) as server,
    ):
        assert say(server, b"anything", ClientContext(ca_file=files.certfile, alpn=("mqtt",)), "localhost") == b"broker|anything"


# On which condition


def test_the_address_of_the_client_decides_which_routes_are_asked(tmp_path: Path) -> None:
    listed = tmp_path / "clients"
    listed.write_text("# nobody yet\n192.0.2.0/24\n")
    with serving(
        {"match": {"prefix": "A"}, "to": "shout", "clients": "127.0.0.0/8"},
        {"match": {"prefix": "B"}, "to": "shout", "clients": ["10.0.0.0/8", "192.0.2.1"], "name": "b"},
        {"match": {"prefix": "C"}, "to": "shout", "except_clients": "127.0.0.1", "name": "c"},
        {"match": {"prefix": "D"}, "to": "shout", "clients_file": str(listed), "name": "d"},
    ) as server:
        assert say(server, b"A\0") == b"shout|A\0"
        assert say(server, b"B\0") == b""
        assert say(server, b"C\0") == b""
        assert say(server, b"D\0") == b""
        assert say(server, GET).endswith(b"hello")
        listed.write_text("192.0.2.0/24\n127.0.0.1\n")
        with gevent.Timeout(10):
            while say(server, b"D\0") != b"shout|D\0":
                gevent.sleep(0.1)


def test_a_list_that_becomes_faulty_or_goes_stays_in_use_and_is_read_again_later(tmp_path: Path, error_log: Callable[[], list[str]]) -> None:
    path = tmp_path / "list"
    path.write_text("127.0.0.1")
    now = [0.0]
    condition = ClientsInFile(str(path), lambda: now[0])

    class Client:
        client = ("127.0.0.1", 1)

    def holds() -> bool:
        now[0] += 2
        return condition(Client())  # type: ignore[arg-type]

    assert holds()
    path.write_text("127.0.0.1 nonsense")
    assert holds()
    assert holds()
    assert len(error_log()) == 1
    assert "'nonsense' is not an address" in error_log()[0]
    os.unlink(path)
    assert holds()
    assert holds()
    assert len(error_log()) == 2
    path.write_text("192.0.2.1 10.0.0.0/8")
    assert not holds()


def test_a_list_whose_new_content_has_the_size_and_the_time_of_the_old_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("192.0.2.1")
    now = [0.0]
    condition = ClientsInFile(str(path), lambda: now[0])
    old = path.stat()
    while path.stat().st_ctime_ns == old.st_ctime_ns:  # the clock of the file system moves in steps
        path.write_text("127.0.0.1")
        os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    now[0] = 2.0

    class Client:
        client = ("127.0.0.1", 1)

    assert condition(Client())  # type: ignore[arg-type]


def test_a_certificate_decides_which_routes_are_asked(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ours, ann, bob = authority.leaf("office.example"), authority.leaf("ann.example", common_name="ann"), authority.leaf("bob.example")
    with serving(
        {"match": {"prefix": "A"}, "to": "shout", "subject": "CN=ANN"},
        {"match": {"prefix": "B"}, "to": "shout", "san": ["*.org", "bob.*"], "name": "b"},
        binds=[f"127.0.0.1:0,certfile={ours.certfile},keyfile={ours.keyfile},tls=optional"],
        client_certificates="optional",
        client_ca=authority.root,
    ) as server:

        def said(data: bytes, files: CertificateFiles | None) -> bytes:
            shown = {} if files is None else {"certfile": files.certfile, "keyfile": files.keyfile}
            return say(server, data, ClientContext(ca_file=authority.root, **shown), "office.example")

        assert said(b"A\0", ann) == b"shout|A\0"
        assert said(b"A\0", bob) == said(b"A\0", None) == b""
        assert said(b"B\0", bob) == b"shout|B\0"
        assert said(b"B\0", ann) == b""
        assert say(server, b"A\0") == b""


@pytest.mark.parametrize(
    ("text", "holds", "fails"),
    [
        ("08:00-18:00", ["mon 08:00", "sun 17:59"], ["mon 07:59", "mon 18:00"]),
        ("mon-fri 08:00-18:00", ["fri 09:00"], ["sat 09:00", "fri 19:00"]),
        ("sat,sun", ["sat 00:00", "sun 23:59"], ["fri 23:59", "mon 00:00"]),
        ("fri-mon 00:00-24:00", ["fri 00:00", "mon 23:59"], ["thu 23:59", "tue 00:00"]),
        ("fri 22:00-06:00", ["fri 22:00", "sat 05:59"], ["fri 05:00", "sat 22:00", "sat 06:00"]),
    ],
)
def test_days_and_hours(text: str, holds: list[str], fails: list[str]) -> None:
    days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    for expected, moments in ((True, holds), (False, fails)):
        for moment in moments:
            day, clock = moment.split()
            hour, minute = map(int, clock.split(":"))
            now = time.struct_time((2026, 1, 1, hour, minute, 0, days.index(day), 1, 0))
            assert TimeOfDay(text, lambda now=now: now)(None) is expected, moment  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    "text", ["", "8:00-9:00", "mon-", "mon tue", "09:00-09:00", "09:00-25:00", "24:30-08:00", "someday 08:00-09:00", "mon 08:00"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(OperatorError, match="is not a time"):
        TimeOfDay(text)


# Binds


def test_a_decision_of_every_kind_is_counted() -> None:
    results = next(metric for metric in OF_WORKERS if metric.name == "muxwsgi_sniff_results_total")
    assert {values[0] for values in results.series} == {reason.value for reason in Reason}


def test_a_route_is_on_the_binds_that_it_names() -> None:
    with socket.socket() as taken:  # two addresses of which the ports are known before
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with serving(
        {"match": {"prefix": "A"}, "to": "shout", "bind": f"127.0.0.1:{port}"}, binds=[f"127.0.0.1:{port}", "127.0.0.1:0"]
    ) as server:
        assert say(server, b"A\0") == b"shout|A\0"
        assert say(server, b"A\0", bind=1) == b""


def test_a_bind_has_its_own_silence_with_its_own_wait() -> None:
    with serving(
        binds=["127.0.0.1:0,silence=greets,silence-after=0.05", "127.0.0.1:0,silence=greets,silence-after=0", "127.0.0.1:0"]
    ) as server:
        for bind in (0, 1):
            assert connect(server, bind).recv() == b"220 there\r\n"
        late = connect(server, 2)
        late.settimeout(0.3)
        with pytest.raises(TimeoutError):
            late.recv()
    with serving(binds=["127.0.0.1:0,silence=greets,silence-after=15"]) as server:
        early = connect(server)
        early.sendall(b"SHOUT x")
        assert all_of(early) == b"shout|SHOUT x"


def test_the_route_of_a_protocol_whose_server_speaks_first_takes_silence() -> None:
    with serving({"match": "smtp", "to": "greets"}, mux=MuxSettings(sniff_timeout=0.1)) as server:
        assert connect(server).recv() == b"220 there\r\n"
    with pytest.raises(OperatorError, match="silence: smtp and mysql take connections of silent clients"):
        muxwsgi.Server(
            hello,
            binds=["127.0.0.1:0"],
            hijackers=[greets],
            settings=ServerSettings(routes=routes({"match": "smtp", "to": "greets"}, {"match": "mysql", "to": "greets"})),
        )


def test_two_that_take_silence_are_told_apart_by_the_client() -> None:
    with serving(
        {"match": "mysql", "to": "close", "clients": "192.0.2.1"},
        {"match": "smtp", "to": "greets", "clients": "127.0.0.1"},
        mux=MuxSettings(sniff_timeout=0.1),
    ) as server:
        assert connect(server).recv() == b"220 there\r\n"


def test_a_bind_for_one_protocol_asks_nothing(make_certificate: Callable[[], CertificateFiles]) -> None:
    files = make_certificate()
    with upstream(b"broker") as there:
        with serving(
            {"match": "mqtt", "to": f"forward:{there}"},
            binds=["127.0.0.1:0,only=mqtt", "127.0.0.1:0,only=greets", f"127.0.0.1:0,only=mqtt,certfile={files.certfile}"],
        ) as server:
            assert say(server, b"GET / HTTP/1.1\r\n\r\n") == b"broker|GET / HTTP/1.1\r\n\r\n"
            assert connect(server, 1).recv() == b"220 there\r\n"
            assert say(server, b"x", ClientContext(ca_file=files.certfile), "localhost", bind=2) == b"broker|x"
            assert say(server, b"\0", bind=2) == b""  # the bind requires TLS


@pytest.mark.parametrize(
    ("bind", "message"),
    [
        ("127.0.0.1:0,only=nothing", "bind 127.0.0.1:0: only: no route or hijacker is named 'nothing'"),
        ("127.0.0.1:0,only=close", "bind 127.0.0.1:0: only=close serves nobody"),
        ("127.0.0.1:0,only=greets,silence=greets", "bind 127.0.0.1:0: only=greets gets silent clients too"),
        ("127.0.0.1:0,silence-after=soon", "bind '127.0.0.1:0,silence-after=soon': 'silence-after=soon' is not"),
    ],
)
def test_a_fault_in_a_bind_is_one_line(bind: str, message: str) -> None:
    with pytest.raises(OperatorError, match=f"^{message}"):
        muxwsgi.Server(hello, binds=[bind], hijackers=[greets])


def test_limits_hold_over_all_binds_and_are_kept_by_a_reload() -> None:
    with serving(
        {"match": {"prefix": "A"}, "to": "forward:127.0.0.1:1", "limit": 1, "name": "a"}, binds=["127.0.0.1:0", "127.0.0.1:0"]
    ) as server:
        slots = server.routes[0].slots
        assert slots.limit == 1
        server.swap(hello, [shout, greets])
        assert server.routes[0].slots is slots


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"to": "forward:127.0.0.1:1", "upload_rate": 0}, "route 1: a rate is more than 0 bytes a second, not 0"),
        ({"to": "http", "download_rate": 1000}, "route 1: rates are for forward and passthrough, and not for 'http'"),
    ],
)
def test_a_fault_in_a_rate_is_one_line(table: dict[str, Any], message: str) -> None:
    with pytest.raises(OperatorError, match=f"^{message}"), serving({"match": {"prefix": "A"}, **table}):
        pass


@pytest.mark.parametrize("key", ["download_rate", "total_download_rate"])
@pytest.mark.parametrize("encrypted", [False, True])
def test_a_rate_holds_for_what_is_forwarded(key: str, encrypted: bool, make_certificate: Callable[..., CertificateFiles]) -> None:
    data = os.urandom(120_000)
    files = make_certificate()

    def serve(sock: Any, address: Any) -> None:
        assert sock.recv(10) == b"A"
        sock.sendall(data)
        sock.close()

    server = StreamServer(("127.0.0.1", 0), serve)
    server.start()
    options = f",certfile={files.certfile},keyfile={files.keyfile}" if encrypted else ""
    route = {"match": {"prefix": "A"}, "to": f"forward:127.0.0.1:{server.server_port}", key: 200_000}
    with serving(route, binds=[f"127.0.0.1:0{options}"]) as muxwsgi_server:
        connection = connect(muxwsgi_server)
        if encrypted:
            connection = connection.start_tls(ClientContext(ca_file=files.certfile), server_hostname="localhost")
        began = time.monotonic()
        connection.sendall(b"A")
        assert connection.makefile("rb").read() == data
        assert time.monotonic() - began > 120_000 / 200_000 - BURST - 0.06
        connection.close()
    server.stop()
