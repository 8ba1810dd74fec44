"""Leaves are, byte for byte, what cryptography's builder makes."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from muxwsgi.proxy.certificates.authority import Authority, Key
from muxwsgi.proxy.certificates.leaf_template import LeafTemplate
from muxwsgi.wire.tls.development_certificate import FOR_SIGNATURES
from tests.proxy.certificates.company import Company

values = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF), min_size=1, max_size=64).filter(lambda text: len(text.encode()) <= 64)
attributes = st.sampled_from([NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME])
subjects = st.lists(st.builds(x509.NameAttribute, attributes, values), max_size=2, unique_by=lambda each: each.oid).map(x509.Name)
labels = st.from_regex(r"[a-z0-9]{1,60}", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=4).map(".".join).map(x509.DNSName) | st.ip_addresses().map(x509.IPAddress)
alternatives = st.lists(names, min_size=1, max_size=300).map(x509.SubjectAlternativeName)
serials = st.integers(1, 2**159 - 1) | st.sampled_from([1, 127, 128, 255, 256, 2**158, 2**159 - 1])
dates = st.datetimes(datetime(1951, 1, 1), datetime(2199, 1, 1)).map(lambda date: date.replace(microsecond=0, tzinfo=UTC))


@pytest.fixture(scope="module")
def authorities(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> list[Authority]:
    folder: Path = tmp_path_factory.mktemp("companies")
    company = Company(folder / "rsa", rsa.generate_private_key(65537, 2048), identifier=b"made up")
    return [authority, Authority.load(company.folder)]


@pytest.fixture(scope="module")
def keys() -> list[Key]:
    return [ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)]


@given(data=st.data(), subject=subjects, alternative=alternatives, serial=serials, moments=st.lists(dates, min_size=2, max_size=2).map(sorted))
def test_a_leaf_is_what_the_builder_makes(
    authorities: list[Authority],
    keys: list[Key],
    data: st.DataObject,
    subject: x509.Name,
    alternative: x509.SubjectAlternativeName,
    serial: int,
    moments: list[datetime],
) -> None:
    authority, key = data.draw(st.sampled_from(authorities)), data.draw(st.sampled_from(keys))
    begins, ends = moments
    identifier = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    expected = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(FOR_SIGNATURES, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .add_extension(alternative, critical=not subject.rdns)
        .sign(authority._key, hashes.SHA256())
    )
    made = x509.load_der_x509_certificate(LeafTemplate(authority, key).mint(subject, alternative, serial, begins, ends))
    assert made.tbs_certificate_bytes == expected.tbs_certificate_bytes
    assert made.signature_algorithm_oid == expected.signature_algorithm_oid
    made.verify_directly_issued_by(authority.certificate)
    if isinstance(authority._key, rsa.RSAPrivateKey):  # these are the same each time
        assert made == expected and isinstance(made.signature_algorithm_parameters, padding.PKCS1v15)


def test_an_authority_without_an_identifier_is_known_by_its_key(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    bare = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bare")]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bare")]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now.replace(year=now.year + 1, day=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    template = LeafTemplate(Authority((bare,), key), ec.generate_private_key(ec.SECP256R1()))
    der = template.mint(x509.Name([]), x509.SubjectAlternativeName([x509.DNSName("a")]), 1, now, now)
    identifier = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert identifier == x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
