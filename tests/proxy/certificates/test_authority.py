"""The CA's files: who can read them, what is in them, what is refused, and what rotation does."""

import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from muxwsgi.errors import OperatorError
from muxwsgi.proxy.certificates import authority as authority_module
from muxwsgi.proxy.certificates.authority import Authority, default_folder, read_certificates, replaced_certificates
from muxwsgi.proxy.certificates.leaves import Leaves
from tests.proxy.certificates.company import Company
from tests.proxy.certificates.conftest import openssl, verify


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The folder of an authority that the test may change."""
    Authority.create(tmp_path / "own")
    return tmp_path / "own"


def test_a_new_authority_is_a_ca_for_ten_years_that_signs_leaves_and_no_other_ca(authority: Authority, folder: Path) -> None:
    certificate = authority.certificate
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert constraints.critical and constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    assert usage.critical and usage.value.key_cert_sign and usage.value.crl_sign and not usage.value.digital_signature
    assert certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    assert timedelta(days=3649) < certificate.not_valid_after_utc - datetime.now(UTC) < timedelta(days=3651)
    assert certificate.not_valid_before_utc < datetime.now(UTC) - timedelta(hours=23)
    assert openssl("verify", "-x509_strict", "-check_ss_sig", "-CAfile", folder / "ca.pem", folder / "ca.pem").endswith("OK\n")


def test_two_installations_have_different_keys_and_names(authority: Authority, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other")
    assert other.certificate.subject != authority.certificate.subject
    assert other.certificate.public_key() != authority.certificate.public_key()


def test_an_rsa_authority_is_made_and_loaded_again(tmp_path: Path) -> None:
    Authority.create(tmp_path / "ca", key_type="rsa")
    authority = Authority.load(tmp_path / "ca")
    key = authority.certificate.public_key()
    assert isinstance(key, rsa.RSAPublicKey) and key.key_size >= 3072
    verify(Leaves(authority).get("a.example").certificate, tmp_path / "ca" / "ca.pem")


def test_the_key_is_for_its_owner_alone_from_its_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen at every step that touches the file system, under an umask that forbids nothing."""
    replaced: list[tuple[int, int]] = []
    made: list[bool] = []
    replace = os.replace

    def look(source: str, target: str) -> None:
        replaced.append((mode(Path(source)), mode(Path(source).parent)))
        replace(source, target)

    def audit(event: str, args: tuple[object, ...]) -> None:
        if listening and event == "open" and isinstance(args[0], str) and "ca-key.pem" in args[0] and isinstance(args[2], int):
            made.append(bool(args[2] & os.O_CREAT) == bool(args[2] & os.O_EXCL))

    listening = [True]
    sys.addaudithook(audit)  # for ever, so that it is told when to stop listening
    monkeypatch.setattr(os, "replace", look)
    before = os.umask(0)
    try:
        Authority.create(tmp_path / "new" / "ca")
    finally:
        os.umask(before)
        listening.clear()
    assert replaced == [(0o600, 0o700), (0o600, 0o700)] and made and all(made)
    assert mode(tmp_path / "new") == mode(tmp_path / "new" / "ca") == 0o700
    assert sorted(path.name for path in (tmp_path / "new" / "ca").iterdir()) == ["ca-key.pem", "ca.pem"], "nothing is left behind"


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o666])
def test_a_key_that_others_can_read_or_write_is_refused(own: Path, bits: int) -> None:
    (own / "ca-key.pem").chmod(bits)
    with pytest.raises(OperatorError, match=rf"ca-key\.pem: others can read the key \(mode {bits:03o}\)"):
        Authority.load(own)


def test_no_authority_is_made_where_one_is_or_in_a_folder_that_is_open(own: Path, tmp_path: Path) -> None:
    before = (own / "ca-key.pem").read_bytes()
    with pytest.raises(OperatorError, match=r"ca\.pem exists already"):
        Authority.create(own)
    (own / "ca.pem").unlink()
    with pytest.raises(OperatorError, match=r"ca-key\.pem exists already"):
        Authority.create(own)
    assert (own / "ca-key.pem").read_bytes() == before
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    with pytest.raises(OperatorError, match="open to others"):
        Authority.create(tmp_path / "open")
    assert not list((tmp_path / "open").iterdir()) and mode(tmp_path / "open") == 0o755


def test_of_processes_that_make_one_at_once_one_does(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from muxwsgi.errors import OperatorError\n"
        "from muxwsgi.proxy.certificates.authority import Authority\n"
        "sys.stdin.read(1)\n"
        "try: print(Authority.create(Path(sys.argv[1])).certificate.serial_number)\n"
        "except OperatorError as error: print(error)\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "ca")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = [process.communicate("x", timeout=60)[0] for process in processes]
    made = [output.strip() for output in outputs if "exists already" not in output]
    assert made == [str(Authority.load(tmp_path / "ca").certificate.serial_number)]


@pytest.mark.parametrize("name", ["", "x" * 56, "a\nb", "\x1b[2J"])
def test_a_name_that_does_not_fit_a_certificate_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OperatorError, match="1 to 55 printable characters"):
        Authority.create(tmp_path / "ca", name=name)
    assert not (tmp_path / "ca" / "ca-key.pem").exists()


@pytest.mark.parametrize("days", [0, -1, 10**9])
def test_a_lifetime_that_cannot_be_is_refused(tmp_path: Path, days: int) -> None:
    with pytest.raises(OperatorError, match="cannot be valid for"):
        Authority.create(tmp_path / "ca", lifetime_days=days)


def test_what_is_missing_broken_or_does_not_fit_is_said_in_one_line(own: Path, folder: Path, tmp_path: Path) -> None:
    certificate, key = (own / "ca.pem").read_bytes(), (own / "ca-key.pem").read_bytes()

    def refused(pattern: str) -> None:
        with pytest.raises(OperatorError, match=pattern) as refusal:
            Authority.load(own)
        assert "\n" not in str(refusal.value)
        (own / "ca.pem").write_bytes(certificate)
        (own / "ca-key.pem").touch(mode=0o600)
        (own / "ca-key.pem").write_bytes(key)
        Authority.load(own)

    (own / "ca.pem").unlink()
    refused("there is no CA in .*`muxwsgi ca init` makes one")
    (own / "ca-key.pem").unlink()
    refused(r"ca-key\.pem: No such file")
    (own / "ca.pem").write_bytes(b"nothing")
    refused(r"ca\.pem does not hold certificates in PEM")
    (own / "ca.pem").write_bytes(certificate[:300])
    refused(r"ca\.pem does not hold certificates in PEM")
    (own / "ca-key.pem").write_bytes(key[:100])
    refused(r"ca-key\.pem does not hold a private key in PEM")
    (own / "ca-key.pem").write_bytes((folder / "ca-key.pem").read_bytes())
    refused(r"ca-key\.pem is not the key of the certificate in ca\.pem")
    (own / "ca.pem").write_bytes(certificate + (folder / "ca.pem").read_bytes())
    refused(r"was not issued by .*, which follows it")
    with pytest.raises(OperatorError, match="there is no CA in"):
        Authority.load(tmp_path / "nowhere")
    with pytest.raises(OperatorError, match="cannot be read: Not a directory"):
        Authority.load(own / "ca.pem")


def test_a_folder_that_cannot_be_made_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OperatorError, match="cannot be made: File exists"):
        Authority.create(tmp_path / "file" / "ca")


def test_a_companys_intermediate_signs_and_its_chain_is_without_the_root(tmp_path: Path) -> None:
    company = Company(tmp_path / "company")
    authority = Authority.load(company.folder)
    assert authority.chain == (company.certificate,) and authority.anchor == company.root_certificate
    verify(Leaves(authority).get("a.example").certificate, company.root, "-untrusted", company.folder / "ca.pem")


def test_an_intermediate_without_its_root_is_what_clients_are_told_to_trust(tmp_path: Path) -> None:
    company = Company(tmp_path / "company", with_root=False)
    authority = Authority.load(company.folder)
    assert authority.chain == (company.certificate,) and authority.anchor == company.certificate


def test_a_companys_rsa_key_of_2048_bits_signs(tmp_path: Path) -> None:
    company = Company(tmp_path / "company", rsa.generate_private_key(65537, 2048))
    leaf = Leaves(Authority.load(company.folder)).get("a.example")
    verify(leaf.certificate, company.root, "-untrusted", company.folder / "ca.pem")


@pytest.mark.parametrize(
    ("company", "pattern"),
    [
        ({"may_sign": False}, "CN=web inspection may not sign certificates"),
        ({"days": -1}, "expired on"),
        ({"since": 2, "days": 3}, "is not valid before"),
        ({"passphrase": b"secret"}, "is encrypted"),
        ({"key": ed25519.Ed25519PrivateKey.generate()}, "neither an EC nor an RSA key"),
    ],
)
def test_a_companys_certificate_that_cannot_serve_is_refused(tmp_path: Path, company: dict[str, object], pattern: str) -> None:
    made = Company(tmp_path / "company", **company)  # type: ignore[arg-type]
    with pytest.raises(OperatorError, match=pattern):
        Authority.load(made.folder)


def test_rotation_makes_another_key_and_keeps_the_old_certificate_without_its_key(own: Path) -> None:
    old = Authority.load(own)
    old_key = (own / "ca-key.pem").read_bytes()
    new = Authority.rotate(own)
    assert Authority.load(own).certificate == new.certificate
    assert new.certificate.public_key() != old.certificate.public_key() and new.certificate.subject != old.certificate.subject
    kept = replaced_certificates(own)
    assert list(kept) == [f"{old.certificate.serial_number:x}"]
    (path,) = kept.values()
    assert x509.load_pem_x509_certificate(path.read_bytes()) == old.certificate and b"PRIVATE" not in path.read_bytes()
    assert not any(old_key in file.read_bytes() for file in own.iterdir())
    assert {mode(file) for file in own.iterdir()} == {0o600}
    leaf = Leaves(new).get("a.example")
    verify(leaf.certificate, own / "ca.pem")
    with pytest.raises(AssertionError, match="unable to get local issuer certificate"):
        verify(leaf.certificate, path)


def test_rotation_keeps_the_name_and_the_kind_of_key_unless_told(tmp_path: Path) -> None:
    Authority.create(tmp_path / "ca", name="ACME inspection")
    assert isinstance(Authority.rotate(tmp_path / "ca").certificate.public_key(), ec.EllipticCurvePublicKey)
    rotated = Authority.rotate(tmp_path / "ca", key_type="rsa")
    assert isinstance(rotated.certificate.public_key(), rsa.RSAPublicKey)
    assert rotated.certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "ACME inspection"
    assert len(replaced_certificates(tmp_path / "ca")) == 2


def test_rotation_that_was_stopped_half_way_is_refused_and_repaired_by_rotating(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = authority_module.write_private

    def stopped(path: Path, data: bytes) -> None:
        if path.name == "ca.pem":
            raise OSError(28, "No space left on device")
        write(path, data)

    before = read_certificates(own)
    monkeypatch.setattr(authority_module, "write_private", stopped)
    with pytest.raises(OperatorError, match="cannot be rotated: No space left on device"):
        Authority.rotate(own)
    monkeypatch.undo()
    with pytest.raises(OperatorError, match="is not the key of the certificate"):
        Authority.load(own)
    Authority.rotate(own)
    assert Authority.load(own).certificate not in before
    assert list(replaced_certificates(own)) == [f"{before[0].serial_number:x}"]


def test_a_companys_certificate_is_not_rotated_here(tmp_path: Path) -> None:
    company = Company(tmp_path / "company")
    with pytest.raises(OperatorError, match="was issued by CN=root: ask there for a new one"):
        Authority.rotate(company.folder)
    assert Authority.load(company.folder).certificate == company.certificate


def test_the_default_folder_is_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "muxwsgi" / "ca"
    made = Authority.create()
    assert Authority.load().certificate == made.certificate
    assert mode(tmp_path / "muxwsgi") == mode(tmp_path / "muxwsgi" / "ca") == 0o700
