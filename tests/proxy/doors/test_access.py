"""Who may use the proxy: addresses, passwords, certificates, and what happens to who guesses."""

import base64
from collections.abc import Callable
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import gevent
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from muxwsgi.errors import OperatorError
from muxwsgi.proxy.doors.access import Access, CredentialsWanted, NotAdmitted, certificate_identity, one_user, parse_networks
from muxwsgi.proxy.doors.failures import Failures
from muxwsgi.settings import TLSSettings
from muxwsgi.testing import connection_pair
from muxwsgi.wire.connection import Address, Connection
from muxwsgi.wire.tls.client_context import ClientContext
from muxwsgi.wire.tls.server_context import ServerContext
from tests.proxy.doors.conftest import Clock
from tests.tls.authority import Authority

ANN = one_user("ann", "pass:word")
LAN = ("192.0.2.7", 40000)


def coming_from(client: Address) -> Connection:
    connection, far = connection_pair()
    far.finish()
    connection.client = client
    connection.finish()
    return connection


def basic(user: str, password: str, encoding: str = "utf-8") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode(encoding)).decode()


# Addresses

#: Addresses of clients that carry 127.0.0.1: 6to4, ISATAP, Teredo, NAT64, IPv4-translated, IPv4-compatible.
PRETENDERS = ["2002:7f00:1::1", "2001:db8::5efe:7f00:1", "2001:0:7f00:1::80ff:fffe", "64:ff9b::7f00:1", "::ffff:0:7f00:1", "::7f00:1"]


@pytest.mark.parametrize(
    ("access", "inside", "outside"),
    [
        (Access(), ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"], ["192.0.2.7", "10.0.0.1", "fe80::1%eth0", "::ffff:192.0.2.7", "0.0.0.0", "::", *PRETENDERS]),
        (Access(open=True), ["127.0.0.1", "192.0.2.7", "2001:db8::1"], []),
        (Access(allow=["192.0.2.0/24", "2001:db8::/32"]), ["192.0.2.7", "::ffff:192.0.2.7", "2001:db8::9"], ["127.0.0.1", "::1", "192.0.3.1"]),
        (Access(allow=["127.0.0.0/8"]), ["127.0.0.1", "::ffff:127.0.0.1"], ["::1", *PRETENDERS]),
        (Access(allow=["192.0.2.7"], open=True), ["192.0.2.7"], ["192.0.2.8", "127.0.0.1"]),
        (Access(allow=[]), [], ["127.0.0.1"]),
        (Access(ANN), ["127.0.0.1", "192.0.2.7"], []),
        (Access(client_certificates=True), ["192.0.2.7"], []),
        (Access(ANN, allow=["192.0.2.0/24"]), ["192.0.2.7"], ["198.51.100.1"]),
    ],
)
def test_an_address_is_admitted_or_not(access: Access, inside: list[str], outside: list[str]) -> None:
    assert {host: access.admits_address((host, 1)) for host in inside + outside} == dict.fromkeys(inside, True) | dict.fromkeys(outside, False)
    assert access.admits_address("/run/proxy.sock")
    assert access.admits_address("")


def test_nothing_else_is_asked_of_an_address_that_is_not_admitted() -> None:
    access = Access(ANN, allow=["198.51.100.0/24"])
    with pytest.raises(NotAdmitted) as refused:
        access.identify(coming_from(LAN), basic("ann", "pass:word"))
    assert (refused.value.status, refused.value.fields) == (403, ())


def test_what_is_no_network_is_the_operators_error() -> None:
    for text in ("10.0.0.1/8", "localhost", "", "10.0.0.0/40"):
        with pytest.raises(OperatorError, match="allow: "):
            parse_networks([text])


@pytest.mark.parametrize("address", [("0.0.0.0", 8080), ("::", 8080, 0, 0), ("192.0.2.1", 8080), ("fe80::1%eth0", 8080, 0, 2)])
def test_a_bind_that_anybody_could_use_is_refused(address: Any) -> None:
    with pytest.raises(OperatorError, match=r"bind .*8080: every host that reaches it could use the proxy"):
        Access().check_bind(address)
    for access in (Access(ANN), Access(client_certificates=True)):
        access.check_bind(address)
        with pytest.raises(OperatorError):
            access.check_bind(address, can_ask=False)
    for access in (Access(allow=["192.0.2.0/24"]), Access(open=True)):
        access.check_bind(address)
        access.check_bind(address, can_ask=False)


def test_loopback_and_unix_sockets_are_nobody_elses() -> None:
    for address in (("127.0.0.1", 8080), ("::1", 8080, 0, 0), "/run/proxy.sock", ""):
        Access().check_bind(address, can_ask=False)


# Passwords


def test_nobody_has_to_say_who_they_are_where_nothing_is_asked() -> None:
    assert Access().identify(coming_from(("127.0.0.1", 1)), None) is None
    assert Access().identify(coming_from(("127.0.0.1", 1)), basic("ann", "pass:word")) is None


def test_the_right_password_is_an_identity() -> None:
    assert Access(ANN).identify(coming_from(LAN), basic("ann", "pass:word")) == "ann"


def test_without_a_password_the_client_is_asked_for_one() -> None:
    with pytest.raises(CredentialsWanted) as asked:
        Access(ANN, realm='the "inner" circle\\').identify(coming_from(LAN), None)
    assert asked.value.status == 407
    assert asked.value.fields == (("Proxy-Authenticate", 'Basic realm="the \\"inner\\" circle\\\\", charset="UTF-8"'),)


@pytest.mark.parametrize("realm", ["line\r\nbreak", "Grün", "\x7f"])
def test_a_realm_that_cannot_be_sent_is_the_operators_error(realm: str) -> None:
    with pytest.raises(OperatorError, match="realm"):
        Access(ANN, realm=realm)


@pytest.mark.parametrize(
    "value",
    [
        basic("ann", "pass"),
        basic("bob", "pass:word"),
        basic("", "pass:word"),
        basic("ann", "pass:word\n"),
        "Basic YW5u",  # no colon
        "Basic !!!!",
        "Basic A",
        "Basic",
        "",
        "Bearer " + basic("ann", "pass:word")[6:],
        basic("ann", "pass:word") + ", Bearer x",
    ],
)
def test_what_proves_nothing_is_asked_again(value: str) -> None:
    with pytest.raises(CredentialsWanted):
        Access(ANN).identify(coming_from(LAN), value)


def test_the_scheme_is_not_case_sensitive_and_padding_may_be_missing() -> None:
    for value in (basic("ann", "pass:word").replace("Basic", "bASIC  "), basic("ann", "pass:word").rstrip("="), " " + basic("ann", "pass:word") + "\t"):
        assert Access(ANN).basic(LAN, value) == "ann"


@settings(deadline=None)
@given(st.text(min_size=1), st.text())
def test_any_user_and_password_that_may_be_sent_come_through(user: str, password: str) -> None:
    heard = []
    value = basic(user.encode("utf-8", "replace").decode(), password.encode("utf-8", "replace").decode())
    Access(lambda *said: heard.append(said)).basic(LAN, value)
    controls = any(char < " " or "\x7f" <= char <= "\x9f" for char in user + password)
    if not controls and ":" not in user:
        assert heard == [(user.encode("utf-8", "replace").decode(), password.encode("utf-8", "replace").decode())]
    elif controls:
        assert not heard


def test_latin_1_of_old_clients_is_understood() -> None:
    assert Access(one_user("jörg", "grün")).basic(LAN, basic("jörg", "grün", "latin-1")) == "jörg"


def test_credentials_may_say_who_it_is_or_neither_yes_nor_no() -> None:
    assert Access(lambda user, password: f"{user}@realm").basic(LAN, basic("ann", "x")) == "ann@realm"
    assert Access(lambda user, password: None).basic(LAN, basic("ann", "x")) is None


def test_an_error_of_the_operators_own_credentials_passes_through() -> None:
    def broken(user: str, password: str) -> bool:
        raise LookupError("the directory is down")

    with pytest.raises(LookupError):
        Access(broken).basic(LAN, basic("ann", "x"))


# Guessing


def test_who_guesses_is_not_heard_for_a_while_even_with_the_right_password() -> None:
    clock = Clock()
    access = Access(ANN, clock=clock)
    for _ in range(10):
        assert access.basic(LAN, basic("ann", "guess")) is None
    with pytest.raises(NotAdmitted) as refused:
        access.basic(LAN, basic("ann", "pass:word"))
    assert (refused.value.status, refused.value.fields) == (429, (("Retry-After", "6"),))
    assert access.basic(("192.0.2.8", 1), basic("ann", "pass:word")) == "ann"
    clock.now += 6
    assert access.basic(LAN, basic("ann", "pass:word")) == "ann"


def test_success_does_not_pay_for_guesses() -> None:
    access = Access(ANN, clock=Clock())
    for _ in range(10):
        access.basic(LAN, basic("bob", "guess"))
        if _ < 9:
            assert access.basic(LAN, basic("ann", "pass:word")) == "ann"
    with pytest.raises(NotAdmitted):
        access.basic(LAN, basic("bob", "guess"))


def test_guessing_a_hundred_times_at_once_teaches_no_more_than_one_by_one() -> None:
    def slow(user: str, password: str) -> bool:
        gevent.sleep(0.01)
        return ANN(user, password) is True

    access = Access(slow, clock=Clock())
    guesses = [gevent.spawn(access.basic, LAN, basic("ann", "pass:word" if n == 60 else str(n))) for n in range(100)]
    for guess in guesses:
        guess.join()
    answers = [guess.value if guess.successful() else guess.exception for guess in guesses]
    assert sum(answer is None for answer in answers) == 10
    assert sum(isinstance(answer, NotAdmitted) for answer in answers) == 90
    assert "ann" not in answers


def test_an_ipv6_client_is_its_whole_network() -> None:
    failures = Failures(burst=2, clock=Clock())
    access = Access(ANN, failures=failures)
    for host in ("2001:db8::1", "2001:db8::2"):
        access.basic((host, 1), basic("ann", "guess"))
    with pytest.raises(NotAdmitted):
        access.basic(("2001:db8::3", 1), basic("ann", "guess"))
    assert access.basic(("2001:db8:0:1::1", 1), basic("ann", "pass:word")) == "ann"


def test_local_clients_are_not_counted() -> None:
    access = Access(ANN, clock=Clock())
    for client in (("127.0.0.1", 1), ("::1", 1), "/run/proxy.sock"):
        for _ in range(30):
            assert access.basic(client, basic("ann", "guess")) is None
        assert access.basic(client, basic("ann", "pass:word")) == "ann"


def test_the_table_of_failures_is_bounded() -> None:
    failures = Failures(size=50, clock=Clock())
    access = Access(ANN, failures=failures)
    for n in range(200):
        access.basic((f"198.51.{n}.1", 1), basic("ann", "guess"))
    assert len(failures) == 50


# Client certificates

PairOf = Callable[..., Connection]


@pytest.fixture
def in_tls(tmp_path: Path) -> PairOf:
    """The server's end of a TLS connection whose client has shown a certificate of its own, or none."""
    authority = Authority(tmp_path)
    serving = authority.leaf("localhost")

    def make(*names: str, asked: bool = True, shown: bool = True, common_name: str | None = None) -> Connection:
        certificates = {"client_certificates": "optional", "client_ca": authority.root} if asked else {}
        server = ServerContext(TLSSettings(certificates=(serving,), **certificates))
        own = authority.leaf(*names, common_name=common_name) if shown else None
        client = ClientContext(ca_file=authority.root, certfile=own and own.certfile, keyfile=own and own.keyfile)
        near, far = connection_pair()
        dialling = gevent.spawn(far.start_tls, client, server_hostname="localhost")
        connection = near.start_tls(server)
        dialling.get().finish()
        connection.client = LAN
        connection.finish()
        return connection

    return make


def test_a_client_certificate_is_an_identity(in_tls: PairOf) -> None:
    connection = in_tls("ann.test")
    assert Access(client_certificates=True).identify(connection, None) == "ann.test"
    assert Access(ANN, client_certificates=True).identify(connection, None) == "ann.test"


def test_what_is_not_printable_in_a_certificate_is_escaped(in_tls: PairOf) -> None:
    assert Access(client_certificates=True).identify(in_tls(common_name="ann\nroot"), None) == "ann\\x0aroot"


def test_without_a_certificate_a_password_does_where_both_are_asked_for(in_tls: PairOf) -> None:
    connection = in_tls(shown=False)
    access = Access(ANN, client_certificates=True)
    assert access.identify(connection, basic("ann", "pass:word")) == "ann"
    with pytest.raises(CredentialsWanted):
        access.identify(connection, None)
    with pytest.raises(NotAdmitted, match="certificate"):
        Access(client_certificates=True).identify(connection, basic("ann", "pass:word"))


def test_a_certificate_that_was_not_asked_for_proves_nothing(in_tls: PairOf) -> None:
    with pytest.raises(CredentialsWanted):
        Access(ANN).identify(in_tls("ann.test"), None)
    with pytest.raises(NotAdmitted):
        Access(client_certificates=True).identify(in_tls("ann.test", asked=False), None)


def test_a_certificate_that_was_not_verified_proves_nothing(in_tls: PairOf) -> None:
    connection = in_tls("ann.test")
    assert connection.tls is not None
    connection.tls = connection.tls._replace(peer_verified=False)
    with pytest.raises(NotAdmitted):
        Access(client_certificates=True).identify(connection, None)


def test_a_certificate_without_a_common_name_goes_by_another_of_its_names() -> None:
    def named(subject: list[x509.NameAttribute[str]], *names: x509.GeneralName) -> str:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = x509.CertificateBuilder().subject_name(x509.Name(subject)).issuer_name(x509.Name([])).public_key(key.public_key()).serial_number(1)
        builder = builder.not_valid_before(datetime(2026, 1, 1)).not_valid_after(datetime(2026, 1, 2))
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        return certificate_identity(builder.sign(key, hashes.SHA256()))

    unit = [x509.NameAttribute(x509.NameOID.ORGANIZATIONAL_UNIT_NAME, "crew")]
    assert named([*unit, x509.NameAttribute(x509.NameOID.COMMON_NAME, "ann")], x509.DNSName("other.test")) == "ann"
    assert named(unit, x509.RFC822Name("ann@example.com"), x509.DNSName("other.test")) == "ann@example.com"
    assert named(unit, x509.IPAddress(ip_address("192.0.2.1"))) == "192.0.2.1"
    assert named(unit, x509.UniformResourceIdentifier("spiffe://example/ann")) == "spiffe://example/ann"
    assert named(unit) == "OU=crew"
