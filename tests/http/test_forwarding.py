"""What a proxy in front says of its client: who is believed, in which field, and at which place in it."""

import base64
import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

import gevent
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from muxwsgi.errors import OperatorError, PeerError
from muxwsgi.http.client_certificate import passed_certificate_environ
from muxwsgi.http.exchange import Exchange
from muxwsgi.http.forwarded import parse_forwarded, parse_node
from muxwsgi.http.h1.h1 import HTTP1
from muxwsgi.http.root_path import with_root_path
from muxwsgi.networks import parse_networks
from muxwsgi.settings import CertificateFiles, HTTPSettings, TrustSettings
from muxwsgi.wire.connection import Address, Connection
from muxwsgi.wire.memory import memory_pair
from muxwsgi.wire.peer import TrustedPeers
from tests.http.conftest import hello, read_all
from tests.subscribed import subscribed

PROXY: Address = ("10.0.0.1", 5000)
STRANGER: Address = ("192.0.2.66", 5000)
TEN = "10.0.0.0/8, fd00::/8"

#: Fields by which a client would become another one.
FORGED = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Port": "1",
    "X-Forwarded-Prefix": "/evil",
    "X-Forwarded-Protocol": "ssl",
    "X-Forwarded-Ssl": "on",
    "Forwarded": "for=203.0.113.9;proto=https;host=evil.example",
}
FORGED_KEYS = {"HTTP_" + name.upper().replace("-", "_") for name in FORGED}


class Asked:
    """The answer to one request: its status, and the environ that the application got."""

    def __init__(self, status: int, environ: dict[str, Any], logged: Exchange, text: str) -> None:
        self.status, self.environ, self.logged, self.text = status, environ, logged, text

    def __getitem__(self, key: str) -> Any:
        return self.environ[key]


def ask(client: Address, fields: dict[str, str] | Sequence[tuple[str, str]] = (), *, path: str = "/", root: str = "", repeat: int = 1, **trust: Any) -> Asked:
    """Send a request with `fields` from `client` to an engine with the settings `trust`, `repeat` times on one connection."""
    seen: dict[str, Any] = {}
    exchanges: list[Exchange] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.clear()
        seen.update(environ)
        return hello(environ, start_response)

    near, far = memory_pair()
    server = Connection(near, client=client, server=("10.0.0.2", 8000))
    peer = Connection(far, client=("memory", 0), server=("memory", 1))
    events = subscribed(exchange=exchanges.append)
    engine = HTTP1(with_root_path(app, root), HTTPSettings(linger=0.05), events=events, trust=TrustSettings(**trust))
    pairs = fields.items() if isinstance(fields, dict) else fields
    lines = "".join(f"{name}: {value}\r\n" for name, value in pairs)

    def serve() -> None:
        try:
            engine(server)
        finally:
            server.finish()

    with gevent.Timeout(10):
        serving = gevent.spawn(serve)
        peer.sendall(f"GET {path} HTTP/1.1\r\nHost: inner.example\r\n{lines}\r\n".encode("latin-1") * repeat)
        peer.shutdown(1)
        answer = read_all(peer).decode("latin-1")
        serving.get()
        peer.finish()
    statuses = [int(each) for each in re.findall(r"HTTP/1\.1 (\d{3})", answer)]
    assert len(set(statuses)) == 1, answer
    return Asked(statuses[-1], seen, exchanges[-1], answer)


def said_of(environ: dict[str, Any]) -> dict[str, Any]:
    """What an environ says of the client, and of what it has asked for."""
    keys = ("REMOTE_ADDR", "REMOTE_PORT", "wsgi.url_scheme", "HTTPS", "HTTP_HOST", "SERVER_NAME", "SERVER_PORT", "SCRIPT_NAME", "PATH_INFO")
    return {key: environ.get(key) for key in keys}


ALL_X = "x-forwarded-for, x-forwarded-proto, x-forwarded-host, x-forwarded-port, x-forwarded-prefix"


# Who is believed


@pytest.mark.parametrize("trust", [{}, {"forwarded_allow_ips": TEN}, {"forwarded_allow_ips": TEN, "forwarded_headers": ALL_X}, {"forwarded_headers": "forwarded"}])
def test_a_stranger_changes_nothing_with_any_field(trust: dict[str, str]) -> None:
    plain = ask(STRANGER, **trust)
    forged = ask(STRANGER, FORGED, repeat=4, **trust)
    assert said_of(forged.environ) == said_of(plain.environ)
    assert said_of(forged.logged.request) == said_of(plain.environ)
    assert forged["REMOTE_ADDR"] == "192.0.2.66" and forged["REMOTE_PORT"] == "5000"


def test_without_settings_the_application_sees_the_fields_as_under_gunicorn() -> None:
    for client in (STRANGER, ("127.0.0.1", 5)):
        assert FORGED_KEYS <= set(ask(client, FORGED).environ)


def test_once_the_operator_has_said_who_is_trusted_other_fields_are_dropped() -> None:
    assert not FORGED_KEYS & set(ask(STRANGER, FORGED, forwarded_allow_ips=TEN, repeat=3).environ)
    assert FORGED_KEYS & set(ask(PROXY, FORGED, forwarded_allow_ips=TEN).environ) == {"HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO"}
    assert ("Forwarded", FORGED["Forwarded"]) in ask(STRANGER, FORGED, forwarded_allow_ips=TEN)["muxwsgi.fields"]


@pytest.mark.parametrize("client", [("127.0.0.1", 5), ("127.9.9.9", 5), ("::1", 5, 0, 0), "", "/run/front.sock"])
def test_loopback_and_unix_sockets_say_the_scheme_by_default_and_nothing_else(client: Address) -> None:
    asked = ask(client, FORGED, repeat=3)
    plain = ask(client)
    assert said_of(asked.environ) == said_of(plain.environ) | {"wsgi.url_scheme": "https", "HTTPS": "on", "SERVER_PORT": "443"}
    assert asked.logged.request["wsgi.url_scheme"] == "https"


@pytest.mark.parametrize(
    ("listed", "peer", "trusted"),
    [
        ("10.0.0.1", PROXY, True),
        ("10.0.0.2", PROXY, False),
        ("10.0.0.0/8", PROXY, True),
        ("192.0.2.0/24 ,10.0.0.1", PROXY, True),
        ("*", STRANGER, True),
        ("*", "", True),
        ("none", ("127.0.0.1", 1), False),
        ("none", "", False),
        (TEN, "", True),
        (TEN, ("127.0.0.1", 1), False),
        ("fe80::/10", ("fe80::1%eth0", 1, 0, 2), True),
        ("10.0.0.0/8", ("2002:a00:1::1", 1, 0, 0), False),  # 6to4: the peer chooses what stands in its address
        ("10.0.0.0/8", ("64:ff9b::a00:1", 1, 0, 0), False),
    ],
)
def test_who_is_trusted(listed: str, peer: Address, trusted: bool) -> None:
    assert TrustedPeers(parse_networks(listed, "x")).trusts(peer) is trusted
    scheme = ask(peer, {"X-Forwarded-Proto": "https"}, forwarded_allow_ips=listed)["wsgi.url_scheme"]
    assert scheme == ("https" if trusted else "http")


@pytest.mark.parametrize("listed", ["", " , ", "10.0.0.1/8", "proxy.example", "10.0.0.0/33", "*, 10.0.0.1", "none,::1", "::ffff:10.0.0.1", "127.1"])
def test_a_list_that_is_none_is_the_operators_error(listed: str) -> None:
    with pytest.raises(OperatorError, match="forwarded_allow_ips: "):
        TrustSettings(forwarded_allow_ips=listed)


# Which field


def test_the_fields_that_the_front_does_not_set_are_not_believed() -> None:
    asked = ask(PROXY, FORGED, forwarded_allow_ips=TEN, forwarded_headers="x-forwarded-for")
    assert asked["REMOTE_ADDR"] == "203.0.113.9"
    assert said_of(asked.environ) == said_of(ask(PROXY).environ) | {"REMOTE_ADDR": "203.0.113.9", "REMOTE_PORT": None}


def test_forwarded_and_the_other_fields_exclude_each_other() -> None:
    with pytest.raises(OperatorError, match="forwarded and x-forwarded-for say the same"):
        TrustSettings(forwarded_headers="x-forwarded-for, forwarded")
    with pytest.raises(OperatorError, match="'x-real-ip' is not x-forwarded-for"):
        TrustSettings(forwarded_headers="x-real-ip")
    believed = ask(PROXY, FORGED, forwarded_allow_ips=TEN, forwarded_headers="Forwarded")
    assert (believed["REMOTE_ADDR"], believed["HTTP_HOST"]) == ("203.0.113.9", "evil.example")
    assert "HTTP_X_FORWARDED_FOR" not in believed.environ


def test_all_fields_of_a_front_that_sets_all() -> None:
    fields = {
        "X-Forwarded-For": "198.51.100.7:4711",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "shop.example:8443",
        "X-Forwarded-Port": "9443",
        "X-Forwarded-Prefix": "/shop/",
    }
    asked = ask(PROXY, fields, path="/cart", forwarded_allow_ips=TEN, forwarded_headers=ALL_X, repeat=3)
    assert said_of(asked.environ) == {
        "REMOTE_ADDR": "198.51.100.7",
        "REMOTE_PORT": "4711",
        "wsgi.url_scheme": "https",
        "HTTPS": "on",
        "HTTP_HOST": "shop.example:8443",
        "SERVER_NAME": "shop.example",
        "SERVER_PORT": "9443",
        "SCRIPT_NAME": "/shop",
        "PATH_INFO": "/cart",
    }
    assert said_of(asked.logged.request) == said_of(asked.environ)


def test_the_next_request_of_the_connection_is_another_clients() -> None:
    near, far = memory_pair()
    server = Connection(near, client=PROXY, server=("10.0.0.2", 8000))
    peer = Connection(far, client=("memory", 0), server=("memory", 1))
    seen: list[Exchange] = []
    engine = HTTP1(hello, HTTPSettings(linger=0.05), events=subscribed(exchange=seen.append), trust=TrustSettings(forwarded_allow_ips=TEN))
    serving = gevent.spawn(engine, server)
    serving.link(lambda _: server.finish())
    texts = ["X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: 192.0.2.2", "X-Forwarded-For: 192.0.2.2", "X: y", "X: y", "X-Forwarded-For: 192.0.2.3"]
    with gevent.Timeout(10):
        peer.sendall("".join(f"GET / HTTP/1.1\r\nHost: a\r\n{text}\r\n\r\n" for text in texts).encode())
        peer.shutdown(1)
        read_all(peer)
        serving.get()
    assert [each.request["REMOTE_ADDR"] for each in seen] == ["192.0.2.1", "192.0.2.2", "192.0.2.2", "10.0.0.1", "10.0.0.1", "192.0.2.3"]
    peer.finish()


# At which place


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("198.51.100.1, 192.0.2.1", "192.0.2.1"),  # the first is what the client has sent
        ("<script>, 999, , 192.0.2.1", "192.0.2.1"),
        ("198.51.100.1, 192.0.2.1, 10.0.0.9,10.0.0.8", "192.0.2.1"),  # through three proxies
        ("198.51.100.1, 10.9.9.9, 192.0.2.1, fd00::5", "192.0.2.1"),
        ("10.0.0.7, 10.0.0.9", "10.0.0.7"),  # all are proxies: the request began at one
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("192.0.2.1, unknown", ""),
        ("10.0.0.5, unknown, 10.0.0.9", ""),  # not that of a proxy, which may have rights
        ("_hidden", ""),
        ("", "10.0.0.1"),
    ],
)
def test_the_first_address_from_the_end_that_is_not_a_proxy_is_the_client(value: str, client: str) -> None:
    asked = ask(PROXY, {"X-Forwarded-For": value}, forwarded_allow_ips=TEN)
    assert asked.status == 200 and asked["REMOTE_ADDR"] == client == asked.logged.request["REMOTE_ADDR"]


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("for=192.0.2.1", "192.0.2.1"),
        ("for=198.51.100.1, for=192.0.2.1", "192.0.2.1"),
        ('for=198.51.100.1,for=192.0.2.1 , ,For="10.0.0.9:80";by=_me, for="[fd00::5]"', "192.0.2.1"),
        ("for=10.0.0.7, for=10.0.0.9", "10.0.0.7"),
        ('for="[::ffff:192.0.2.1]"', "192.0.2.1"),
        ('for="\\1\\92.0.2.1"', "192.0.2.1"),  # quoted-pair
        ("for=10.0.0.5, for=unknown, for=10.0.0.9", ""),
        ('for="_secret:_port"', ""),
    ],
)
def test_forwarded_is_read_from_the_end_too(value: str, client: str) -> None:
    assert ask(PROXY, {"Forwarded": value}, forwarded_allow_ips=TEN, forwarded_headers="forwarded")["REMOTE_ADDR"] == client


@pytest.mark.parametrize("value", ["192.0.2.1, ", "192.0.2", "1.2.3.4.5", "client.example", "192.0.2.1:99999", "[::1", "::1]", "010.0.0.1", "192.0.2.1 x", "127.1"])
def test_what_a_trusted_proxy_cannot_have_written_is_refused(value: str) -> None:
    asked = ask(PROXY, {"X-Forwarded-For": value}, forwarded_allow_ips=TEN)
    assert asked.status == 400 and asked.environ == {}
    assert ask(STRANGER, {"X-Forwarded-For": value}, forwarded_allow_ips=TEN).status == 200


def test_with_a_star_only_the_last_address_counts_because_no_other_is_known_to_be_a_proxys() -> None:
    assert ask(STRANGER, {"X-Forwarded-For": "127.0.0.1, 10.0.0.1, 192.0.2.1"}, forwarded_allow_ips="*")["REMOTE_ADDR"] == "192.0.2.1"


def test_the_element_of_the_client_says_its_scheme_and_host() -> None:
    value = 'for=127.0.0.1;proto=http;host=evil.example, for="[2001:db8::1]:99";proto=https;host="shop.example", for=10.0.0.9;proto=http;host=inner'
    asked = ask(PROXY, {"Forwarded": value}, forwarded_allow_ips=TEN, forwarded_headers="forwarded")
    assert (asked["REMOTE_ADDR"], asked["REMOTE_PORT"], asked["wsgi.url_scheme"], asked["HTTP_HOST"]) == ("2001:db8::1", "99", "https", "shop.example")
    assert asked["SERVER_PORT"] == "443"


def test_a_proxy_that_says_nothing_of_the_client_leaves_the_address_of_the_connection() -> None:
    asked = ask(PROXY, {"Forwarded": "for=127.0.0.1, proto=https"}, forwarded_allow_ips=TEN, forwarded_headers="forwarded")
    assert (asked["REMOTE_ADDR"], asked["wsgi.url_scheme"]) == ("10.0.0.1", "https")


@pytest.mark.parametrize(
    "value",
    ['for="', "for=", "for", "=1.2.3.4", "for=[::1]", "for=1.2.3.4:80", 'for="1.2.3.4', "for=1.2.3.4;for=1.2.3.5", "for=1.2.3.4 proto=http", "for =1.2.3.4",
     "for=1.2.3.4;proto=gopher", 'for=1.2.3.4;host="a b"', "for=1.2.3.4;host=", 'for="\\"', "for=_", ", ".join(["for=1.2.3.4"] * 200)],
)
def test_a_malformed_forwarded_field_of_a_trusted_peer_is_refused(value: str) -> None:
    assert ask(PROXY, {"Forwarded": value}, forwarded_allow_ips=TEN, forwarded_headers="forwarded").status == 400


@given(st.text(st.characters(max_codepoint=255), max_size=60))
def test_no_beginning_that_a_client_writes_changes_what_the_proxy_says(theirs: str) -> None:
    """A proxy appends its element. The parser finds it at the end, or refuses the whole."""
    try:
        last = parse_forwarded(f"{theirs}, for=192.0.2.1;proto=https")[-1]
    except ValueError:
        return
    assert (str(last.address), last.proto) == ("192.0.2.1", "https")


@given(st.text(st.characters(max_codepoint=255), max_size=40))
def test_a_node_is_an_address_or_refused(text: str) -> None:
    try:
        address, port = parse_node(text, bare=True)
    except ValueError:
        return
    assert (address is not None or text.lower().startswith(("unknown", "_"))) and (port is None or 0 <= port <= 65535)


# Contradictions


@pytest.mark.parametrize(
    "fields",
    [
        [("X-Forwarded-Proto", "https"), ("X-Forwarded-Proto", "http")],
        [("X-Forwarded-Proto", "https, http")],
        [("X-Forwarded-Proto", "https"), ("X-Forwarded-Ssl", "off")],
        [("X-Forwarded-Protocol", "http"), ("X-Forwarded-Ssl", "on")],
        [("X-Forwarded-Proto", "gopher")],
        [("X-Forwarded-Ssl", "maybe")],
    ],
)
def test_two_schemes_are_refused(fields: list[tuple[str, str]]) -> None:
    names = "x-forwarded-proto, x-forwarded-protocol, x-forwarded-ssl"
    asked = ask(PROXY, fields, forwarded_allow_ips=TEN, forwarded_headers=names)
    assert asked.status == 400 and asked.environ == {}
    assert ask(STRANGER, fields, forwarded_allow_ips=TEN, forwarded_headers=names)["wsgi.url_scheme"] == "http"


def test_fields_that_agree_are_accepted() -> None:
    names = "x-forwarded-proto, x-forwarded-protocol, x-forwarded-ssl"
    fields = {"X-Forwarded-Proto": "HTTPS, https", "X-Forwarded-Protocol": "ssl", "X-Forwarded-Ssl": "on"}
    assert ask(PROXY, fields, forwarded_allow_ips=TEN, forwarded_headers=names)["wsgi.url_scheme"] == "https"
    assert ask(PROXY, {"X-Forwarded-Proto": "wss"})["wsgi.url_scheme"] == "http"  # 10.0.0.1 is not trusted by default
    assert ask("", {"X-Forwarded-Proto": "wss"})["wsgi.url_scheme"] == "https"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Forwarded-Host", "a/b"),
        ("X-Forwarded-Host", "user@a"),
        ("X-Forwarded-Host", "a:99999"),
        ("X-Forwarded-Port", "0"),
        ("X-Forwarded-Port", "65536"),
        ("X-Forwarded-Port", "+80"),
        ("X-Forwarded-Prefix", "//evil.example"),
        ("X-Forwarded-Prefix", "shop"),
        ("X-Forwarded-Prefix", "/a b"),
        ("X-Forwarded-Prefix", '/"><script>'),
    ],
)
def test_values_that_are_none_are_refused(name: str, value: str) -> None:
    assert ask(PROXY, {name: value}, forwarded_allow_ips=TEN, forwarded_headers=ALL_X).status == 400


# SCRIPT_NAME and names with underscores


def test_names_with_underscores_are_dropped_refused_or_mapped() -> None:
    fields = [("X-Y", "1"), ("X_Y", "2"), ("x_z", "3"), ("Content_Length", "5"), ("Transfer_Encoding", "chunked"), ("Host", "inner.example")][:-1]
    dropped = ask(STRANGER, fields)
    assert dropped["HTTP_X_Y"] == "1" and "HTTP_X_Z" not in dropped.environ
    assert ask(STRANGER, fields, header_map="refuse").status == 400
    assert ask(STRANGER, {"X-Y": "1"}, header_map="refuse").status == 200
    mapped = ask(STRANGER, fields, header_map="dangerous")
    assert (mapped["HTTP_X_Y"], mapped["HTTP_X_Z"]) == ("1,2", "3")
    assert "CONTENT_LENGTH" not in mapped.environ and "HTTP_TRANSFER_ENCODING" not in mapped.environ


@pytest.mark.parametrize("header_map", ["drop", "dangerous"])
def test_a_name_with_underscores_is_no_way_around_the_trust(header_map: str) -> None:
    fields = {name.replace("-", "_"): value for name, value in FORGED.items() if "-" in name} | {"Client_Cert": ":AAAA:", "Script_Name": "/evil", "X-Forwarded_For": "1.1.1.1"}
    for trust in ({}, {"forwarded_allow_ips": TEN, "forwarded_headers": ALL_X, "client_cert_header": "Client-Cert", "forwarder_headers": "SCRIPT_NAME"}):
        asked = ask(STRANGER, fields, header_map=header_map, **trust)
        assert said_of(asked.environ) == said_of(ask(STRANGER, **trust).environ)
        assert not FORGED_KEYS & set(asked.environ)


def test_script_name_comes_from_a_trusted_peer_if_the_operator_wants_it() -> None:
    fields = {"SCRIPT_NAME": "/shop", "X_Other": "1", "Remote_User": "eve"}
    for client, trust in ((STRANGER, {"forwarder_headers": "SCRIPT_NAME"}), ("", {}), (PROXY, {"forwarded_allow_ips": TEN})):
        asked = ask(client, fields, path="/shop/cart", **trust)
        assert (asked["SCRIPT_NAME"], asked["PATH_INFO"]) == ("", "/shop/cart")
    asked = ask("", fields, path="/shop/cart", forwarder_headers="SCRIPT_NAME, REMOTE_USER")
    assert (asked["SCRIPT_NAME"], asked["PATH_INFO"], asked["HTTP_REMOTE_USER"]) == ("/shop", "/cart", "eve")
    assert "HTTP_X_OTHER" not in asked.environ
    for path in ("/shops", "/", "/admin"):  # a prefix that the path does not have would hide the path that the front has looked at
        assert ask("", fields, path=path, forwarder_headers="SCRIPT_NAME").status == 400
    with pytest.raises(OperatorError, match="forwarder_headers: 'CONTENT_LENGTH'"):
        TrustSettings(forwarder_headers="content_length")


@pytest.mark.parametrize(
    ("root", "path", "script_name", "path_info"),
    [
        ("/shop", "/shop/cart", "/shop", "/cart"),
        ("/shop/", "/shop", "/shop", ""),
        ("/shop", "/cart", "/shop", "/cart"),  # the front has taken it off
        ("/shop", "/shopping", "/shop", "/shopping"),
        ("/", "/cart", "", "/cart"),
        ("", "/cart", "", "/cart"),
    ],
)
def test_the_root_path_is_script_name(root: str, path: str, script_name: str, path_info: str) -> None:
    asked = ask(STRANGER, path=path, root=root)
    assert (asked["SCRIPT_NAME"], asked["PATH_INFO"]) == (script_name, path_info)


def test_a_trusted_prefix_takes_the_place_of_the_root_path() -> None:
    asked = ask("", {"X-Forwarded-Prefix": "/other"}, root="/shop", forwarded_headers="x-forwarded-prefix")
    assert asked["SCRIPT_NAME"] == "/other"
    with pytest.raises(OperatorError, match="root_path: 'shop' is not a path"):
        TrustSettings(root_path="shop")


# Client certificates


@pytest.fixture
def certificate(make_certificate: Callable[[], CertificateFiles]) -> x509.Certificate:
    with open(make_certificate().certfile, "rb") as file:
        return x509.load_pem_x509_certificate(file.read())


def test_a_certificate_is_read_in_each_form_and_from_trusted_peers_alone(certificate: x509.Certificate) -> None:
    pem = certificate.public_bytes(Encoding.PEM).decode()
    der = base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()
    forms = {
        "Client-Cert": f":{der}:",
        "X-SSL-Client-Cert": quote(pem, safe=""),
        "X-Forwarded-Client-Cert": f'By=spiffe://a;Cert="forged, by the client",Hash=ab;Cert="{quote(pem, safe="")}";Subject="CN=x, O=y"',
        "X-SSL-Client-DER": der,
    }
    for name, value in forms.items():
        asked = ask(PROXY, {name: value}, forwarded_allow_ips=TEN, client_cert_header=name, repeat=3)
        assert (asked["SSL_CLIENT_VERIFY"], asked["SSL_CLIENT_CERT"]) == ("SUCCESS", pem)
        assert asked["SSL_CLIENT_S_DN"] == certificate.subject.rfc4514_string()
        stranger = ask(STRANGER, {name: value, f"{name}-Chain": value}, forwarded_allow_ips=TEN, client_cert_header=name)
        assert not [key for key in stranger.environ if "CERT" in key or key.startswith("SSL_CLIENT") or "DER" in key]
        by_default = ask(STRANGER, {name: value}, client_cert_header=name)
        assert not [key for key in by_default.environ if "CERT" in key or "DER" in key]
        assert "SSL_CLIENT_CERT" not in ask(PROXY, {name: value}, forwarded_allow_ips=TEN).environ


@pytest.mark.parametrize("value", [":AAAA:", "AAAA", "Hash=ab", "-----BEGIN CERTIFICATE-----", ":***:", 'Cert="x"'])
def test_a_certificate_that_cannot_be_read_is_refused(value: str) -> None:
    assert ask(PROXY, {"Client-Cert": value}, forwarded_allow_ips=TEN, client_cert_header="Client-Cert").status == 400


def test_a_subject_with_quotes_and_commas_does_not_hide_the_certificate(certificate: x509.Certificate) -> None:
    pem = certificate.public_bytes(Encoding.PEM).decode()
    cert = quote(pem, safe="")
    value = f'Hash=a;Subject="x", Hash=b;Subject="CN=\\"a, Hash=c;Cert=\\"forged\\"";Cert="{cert}";URI=spiffe://a,Hash=d;Cert="{cert}";Subject="\\",\\""'
    asked = ask(PROXY, {"X-Forwarded-Client-Cert": value}, forwarded_allow_ips=TEN, client_cert_header="X-Forwarded-Client-Cert")
    assert asked["SSL_CLIENT_CERT"] == pem
    without = ask(PROXY, {"X-Forwarded-Client-Cert": f'Cert="{cert}",Hash=b'}, forwarded_allow_ips=TEN, client_cert_header="X-Forwarded-Client-Cert")
    assert without.status == 400  # the first element is what the client has sent


def test_a_certificate_that_the_client_has_sent_in_front_of_the_proxys_is_refused(certificate: x509.Certificate) -> None:
    """A proxy that appends (Envoy: APPEND_FORWARD) does not look at what it appends to, and anybody has the certificates of others."""
    cert = quote(certificate.public_bytes(Encoding.PEM).decode(), safe="")
    for appended in (f'Hash=b;Cert="{cert}"', cert, "x"):
        for between in (",", "", "%0A"):
            asked = ask(PROXY, {"X-Cert": f"{cert}{between}{appended}"}, forwarded_allow_ips=TEN, client_cert_header="X-Cert")
            assert asked.status == 400
    asked = ask(PROXY, {"X-Cert": f'Hash=b;Cert="{cert}{cert}"'}, forwarded_allow_ips=TEN, client_cert_header="X-Cert")
    assert asked.status == 400


@given(st.text(st.characters(max_codepoint=255), max_size=80))
def test_no_value_raises_another_error(value: str) -> None:
    for text in (value, f":{value}:", f"-----BEGIN {value}", f'Hash=a;Cert="{value}'):
        with pytest.raises(PeerError):
            passed_certificate_environ(text)


def test_a_long_value_takes_no_longer_than_its_length() -> None:
    for text in ("," * 8000, "a=," * 2700, 'a="' + "\\" * 8000, 'a="",' * 1600 + "x", ";" * 8000):
        with gevent.Timeout(5), pytest.raises(PeerError):
            passed_certificate_environ(text)


def test_a_certificate_of_an_unknown_version_is_refused(certificate: x509.Certificate) -> None:
    der = certificate.public_bytes(Encoding.DER)
    broken = der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07", 1)
    assert broken != der
    with pytest.raises(PeerError):
        passed_certificate_environ(base64.b64encode(broken).decode())


def test_the_certificate_of_the_proxy_is_not_taken_for_the_clients() -> None:
    asked = ask(PROXY, forwarded_allow_ips=TEN, client_cert_header="Client-Cert")
    assert asked["SSL_CLIENT_VERIFY"] == "NONE" and "SSL_CLIENT_S_DN" not in asked.environ
