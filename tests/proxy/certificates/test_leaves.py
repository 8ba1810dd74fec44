"""What is in a leaf, for which names there is one, and how leaves are kept."""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import gevent
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from muxwsgi.names import InvalidName, canonical
from muxwsgi.proxy.certificates.authority import Authority
from muxwsgi.proxy.certificates.leaves import MIMICKED_NAMES, Leaves, MintingFailed
from tests.proxy.certificates.company import Company
from tests.proxy.certificates.conftest import names_in, verify

LONG = ".".join(["x" * 60] * 4)


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC).timestamp()

    def __call__(self) -> float:
        return self.now

    def pass_time(self, **spans: float) -> None:
        self.now += timedelta(**spans).total_seconds()


def common_name(certificate: x509.Certificate) -> str | None:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else None


@pytest.mark.parametrize(
    ("host", "also", "names", "flags"),
    [
        ("a.example", (), ["a.example"], ["-verify_hostname", "a.example"]),
        ("A.Example.", ("192.0.2.7",), ["a.example", "192.0.2.7"], ["-verify_ip", "192.0.2.7"]),
        ("192.0.2.7", ("192.0.2.7",), ["192.0.2.7"], ["-verify_ip", "192.0.2.7"]),
        ("[2001:DB8:0::1]", (), ["2001:db8::1"], ["-verify_ip", "2001:db8::1"]),
        ("fe80::1%eth0", (), ["fe80::1"], ["-verify_ip", "fe80::1"]),
        ("bücher.example", (), ["xn--bcher-kva.example"], ["-verify_hostname", "xn--bcher-kva.example"]),
        ("under_score.host-1", (), ["under_score.host-1"], ["-verify_hostname", "under_score.host-1"]),
        (LONG, (), [LONG], ["-verify_hostname", LONG]),
    ],
)
def test_openssl_verifies_a_leaf_for_its_names(
    leaves: Leaves, folder: Path, host: str, also: tuple[str, ...], names: list[str], flags: list[str]
) -> None:
    leaf = leaves.get(host, also)
    assert list(leaf.names) == names_in(leaf.certificate) == names
    verify(leaf.certificate, folder / "ca.pem", *flags)
    with pytest.raises(AssertionError, match=r"[Hh]ostname mismatch"):
        verify(leaf.certificate, folder / "ca.pem", "-verify_hostname", "sub." + names[0][-200:].lstrip("."))


def test_a_name_that_no_common_name_takes_stands_in_the_alternative_names_alone_which_are_critical_then(leaves: Leaves) -> None:
    long, short = leaves.get(LONG).certificate, leaves.get("x" * 63 + ".a").certificate
    assert common_name(long) is None and common_name(short) is None and common_name(leaves.get("a.example").certificate) == "a.example"
    assert long.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical
    assert not leaves.get("a.example").certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical


def test_a_leaf_says_what_servers_certificates_say(leaves: Leaves, authority: Authority) -> None:
    certificate = leaves.get("a.example").certificate
    extensions = certificate.extensions
    assert certificate.issuer == authority.certificate.subject
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical and usage.value.digital_signature and not usage.value.key_cert_sign
    own = extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert own == x509.SubjectKeyIdentifier.from_public_key(leaves.key.public_key())
    issuers = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == issuers.digest


def test_the_identifier_that_a_company_made_up_is_used(tmp_path: Path) -> None:
    company = Company(tmp_path / "company", identifier=b"made up")
    certificate = Leaves(Authority.load(company.folder)).get("a.example").certificate
    assert certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == b"made up"


def test_a_leaf_is_valid_from_a_day_ago_for_ninety_days(leaves: Leaves) -> None:
    certificate = leaves.get("a.example").certificate
    now = datetime.now(UTC)
    assert timedelta(hours=24) <= now - certificate.not_valid_before_utc < timedelta(hours=24, minutes=1)
    assert timedelta(days=89) < certificate.not_valid_after_utc - now <= timedelta(days=90)


def test_a_leaf_is_never_valid_when_its_ca_is_not(tmp_path: Path) -> None:
    company = Company(tmp_path / "company", since=-0.5, days=7)
    leaf = Leaves(Authority.load(company.folder)).get("a.example")
    assert leaf.certificate.not_valid_before_utc == company.certificate.not_valid_before_utc
    assert leaf.not_after == leaf.certificate.not_valid_after_utc == company.certificate.not_valid_after_utc


def test_serial_numbers_are_random_and_the_key_is_the_leaves_own(authority: Authority, leaves: Leaves) -> None:
    hosts = [leaves.get(f"{n}.example").certificate for n in range(20)]
    assert len({certificate.serial_number for certificate in hosts}) == 20
    assert all(certificate.serial_number.bit_length() > 100 for certificate in hosts)
    assert len({certificate.public_key().public_numbers() for certificate in hosts}) == 1  # type: ignore[union-attr]
    key = hosts[0].public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    assert key != authority.certificate.public_key() and key != Leaves(authority).get("0.example").certificate.public_key()


def test_an_rsa_key_is_a_choice(authority: Authority, folder: Path) -> None:
    leaf = Leaves(authority, key_type="rsa").get("a.example")
    assert isinstance(leaf.certificate.public_key(), rsa.RSAPublicKey)
    verify(leaf.certificate, folder / "ca.pem")


# Names


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a..b", ".a", "*.example", "*", "a b", "a/b", "../../etc/passwd", "a\nb", "a\x00b", "[]", "[a.example]", "1:2", "::1]",
     "x" * 64, ".".join(["x" * 60] * 5), "\x1b[2Jx", "é" * 100, "é" * 100000, "a" * 1000000, "caf\udce9"],
)  # fmt: skip
def test_what_is_no_name_gets_no_leaf(leaves: Leaves, name: str) -> None:
    for arguments in ((name,), ("a.example", (name,))):
        with pytest.raises(InvalidName) as refusal:
            leaves.get(*arguments)  # type: ignore[arg-type]
        said = str(refusal.value)
        assert len(said) < 1200 and said.isascii() and said.isprintable()
    assert leaves.minted == leaves.size == leaves.failed == 0


@given(st.text(max_size=300) | st.text("aA0-_.*:[]%é\x00\n/", max_size=80))
def test_any_text_is_a_name_in_one_spelling_or_refused(text: str) -> None:
    try:
        name = canonical(text)
    except InvalidName as refusal:
        assert str(refusal).isascii() and str(refusal).isprintable()
        return
    assert canonical(name) == name and canonical(name.upper()) == name
    assert name.isascii() and name == name.lower() and 0 < len(name) <= 253 and not set(name) & set("*/\\%[] \n\0")


label = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,20}[a-z0-9_])?", fullmatch=True)
hosts = st.lists(label, min_size=1, max_size=5).map(".".join).filter(lambda host: not host.rpartition(".")[2].isdigit())
addresses = st.ip_addresses().map(str)


@given(host=hosts | addresses, also=st.lists(hosts | addresses, max_size=3).map(tuple))
def test_every_name_has_a_leaf_for_it_and_for_nothing_else(authority: Authority, host: str, also: tuple[str, ...]) -> None:
    leaf = Leaves(authority).get(host, also)
    wanted = list(dict.fromkeys(canonical(name) for name in (host, *also)))
    alternative = leaf.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    for name, general in zip(wanted, alternative, strict=True):
        try:
            expected: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            expected = x509.DNSName(name)
        assert general == expected
    leaf.certificate.verify_directly_issued_by(authority.certificate)


# Mimicry


def upstreams(
    subject: list[x509.NameAttribute], names: list[x509.GeneralName] | None, extra: x509.ExtensionType | None = None
) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody")]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=300))
        .not_valid_after(now + timedelta(days=300))
    )
    for extension in (x509.SubjectAlternativeName(names) if names else None, extra):
        if extension is not None:
            builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256())


def test_a_leaf_looks_like_the_upstreams_certificate_but_for_key_and_dates(leaves: Leaves, folder: Path) -> None:
    like = upstreams(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example GmbH"),
            x509.NameAttribute(NameOID.COMMON_NAME, "example"),
        ],
        [
            x509.DNSName("*.site.example"),
            x509.DNSName("www.example"),
            x509.IPAddress(ipaddress.ip_address("192.0.2.9")),
            x509.RFC822Name("root@example"),
            x509.DNSName("not a name"),
        ],
    )
    leaf = leaves.get("www.example", ("192.0.2.7",), like)
    assert names_in(leaf.certificate) == ["www.example", "192.0.2.7", "*.site.example", "192.0.2.9"]
    assert leaf.names == ("www.example", "192.0.2.7")
    assert leaf.certificate.subject.rfc4514_string() == "CN=example,O=Example GmbH"
    assert leaf.certificate.public_key() == leaves.key.public_key()
    assert leaf.certificate.not_valid_after_utc < datetime.now(UTC) + timedelta(days=91)
    verify(leaf.certificate, folder / "ca.pem", "-verify_hostname", "any.site.example")
    assert leaves.get("www.example", ("192.0.2.7",), like) is leaf and leaves.get("www.example", ("192.0.2.7",)) is not leaf


def test_what_is_odd_in_the_upstreams_certificate_is_left_out(leaves: Leaves, folder: Path) -> None:
    nothing = leaves.get("a.example", (), upstreams([], None))
    assert common_name(nothing.certificate) == "a.example" and names_in(nothing.certificate) == ["a.example"]
    many = leaves.get("a.example", (), upstreams([], [x509.DNSName(f"{n}.example") for n in range(1000)]))
    assert len(names_in(many.certificate)) == 1 + MIMICKED_NAMES
    malformed = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x03\x02\x01")
    broken = leaves.get("a.example", (), upstreams([x509.NameAttribute(NameOID.COMMON_NAME, "b")], None, malformed))
    assert names_in(broken.certificate) == ["a.example"] and common_name(broken.certificate) == "b"
    for leaf in (nothing, many, broken):
        verify(leaf.certificate, folder / "ca.pem", "-verify_hostname", "a.example")


# Keeping


def test_a_leaf_is_kept_and_found_by_any_spelling_of_its_name(leaves: Leaves) -> None:
    leaf = leaves.get("a.example")
    assert leaves.get("A.EXAMPLE.") is leaf and leaves.get("a.example", ("a.example",)) is leaf
    assert leaves.get("a.example", ("b.example",)) is not leaf
    assert (leaves.minted, leaves.hits, leaves.evicted, leaves.size) == (2, 2, 0, 2)


def test_the_leaf_that_was_not_used_for_longest_goes_first(authority: Authority) -> None:
    leaves = Leaves(authority, size=3)
    first, second = leaves.get("1.a"), leaves.get("2.a")
    leaves.get("3.a")
    assert leaves.get("1.a") is first
    leaves.get("4.a")
    assert (leaves.size, leaves.evicted) == (3, 1)
    assert leaves.get("1.a") is first and leaves.get("2.a") is not second
    for n in range(50):
        leaves.get(f"{n}.b")
    assert (leaves.size, leaves.evicted, leaves.minted) == (3, 52, 55)


def test_a_leaf_is_minted_anew_a_day_before_it_expires_and_its_sessions_go_on(authority: Authority) -> None:
    clock = Clock()
    leaves = Leaves(authority, clock=clock)
    first = leaves.get("a.example")
    clock.pass_time(days=89, seconds=-2)
    assert leaves.get("a.example") is first
    clock.pass_time(seconds=3)
    second = leaves.get("a.example")
    assert second is not first and second.not_after > first.not_after and second.session_id == first.session_id
    assert (leaves.minted, leaves.size, leaves.evicted) == (2, 1, 0)
    assert leaves.get("b.example").session_id != second.session_id


def test_under_a_ca_with_hours_left_leaves_are_kept_and_when_it_ends_there_are_none(tmp_path: Path) -> None:
    clock = Clock()
    leaves = Leaves(Authority.load(Company(tmp_path / "company", days=0.5).folder), clock=clock)
    first = leaves.get("a.example")
    assert leaves.get("a.example") is first
    clock.pass_time(hours=7)
    assert leaves.get("a.example") is not first
    clock.pass_time(hours=6)
    with pytest.raises(MintingFailed, match=r"no leaf for a\.example: the CA expired on"):
        leaves.get("a.example")
    assert leaves.failed == 1


class SlowAuthority(Authority):
    """One that waits for its signatures, as one would whose key lies elsewhere. It fails as often as it is told to."""

    def __init__(self, authority: Authority, failures: int = 0) -> None:
        self.__dict__ |= authority.__dict__
        self.failures = failures
        self.asked = 0
        self.go = gevent.event.Event()

    def sign(self, data: bytes) -> bytes:
        self.asked += 1
        assert self.go.wait(10)
        if self.failures:
            self.failures -= 1
            raise OSError(5, "the card was pulled")
        return super().sign(data)


def test_a_leaf_is_minted_once_for_many_at_once(authority: Authority) -> None:
    slow = SlowAuthority(authority)
    leaves = Leaves(slow)
    waiting = [gevent.spawn(leaves.get, spelling) for spelling in ["a.example", "A.example"] * 25] + [gevent.spawn(leaves.get, "b.example")]
    gevent.sleep(0)
    assert slow.asked == 2, "another host waits for nobody"
    slow.go.set()
    gevent.joinall(waiting, timeout=10, raise_error=True)
    assert len({id(each.value) for each in waiting[:-1]}) == 1 and waiting[-1].value is not waiting[0].value
    assert (leaves.minted, leaves.hits, leaves.failed) == (2, 49, 0)


def test_a_failure_fails_all_who_waited_and_is_not_kept(authority: Authority) -> None:
    slow = SlowAuthority(authority, failures=1)
    leaves = Leaves(slow)
    waiting = [gevent.spawn(_outcome, leaves, "a.example") for _ in range(20)]
    gevent.sleep(0)
    slow.go.set()
    gevent.joinall(waiting, timeout=10, raise_error=True)
    assert all(isinstance(each.value, MintingFailed) and isinstance(each.value.__cause__, OSError) for each in waiting)
    assert (slow.asked, leaves.failed, leaves.minted, leaves.size) == (1, 1, 0, 0)
    assert leaves.get("a.example").names == ("a.example",) and slow.asked == 2


def _outcome(leaves: Leaves, host: str) -> object:
    try:
        return leaves.get(host)
    except MintingFailed as failure:
        return failure


@pytest.mark.parametrize("ended", [gevent.GreenletExit, gevent.Timeout])
def test_who_waits_for_a_greenlet_that_is_killed_gets_a_leaf_all_the_same(authority: Authority, ended: type[BaseException]) -> None:
    slow = SlowAuthority(authority)
    leaves = Leaves(slow)
    minting = gevent.spawn(_killed, leaves, ended)
    waiting = [gevent.spawn(leaves.get, "a.example") for _ in range(5)]
    gevent.sleep(0)
    minting.kill(ended(), timeout=10)
    assert minting.value == "killed"
    slow.go.set()
    gevent.joinall(waiting, timeout=10, raise_error=True)
    assert len({id(each.value) for each in waiting}) == 1
    assert (slow.asked, leaves.minted, leaves.failed) == (2, 1, 0)


def _killed(leaves: Leaves, ended: type[BaseException]) -> str:
    try:
        leaves.get("a.example")
    except ended:
        return "killed"
    return "not killed"
