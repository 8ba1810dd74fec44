"""`muxwsgi ca`, as its users run it."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import pkcs12

from muxwsgi.proxy.certificates.authority import Authority, replaced_certificates
from muxwsgi.proxy.certificates.leaves import Leaves
from tests import warm
from tests.proxy.certificates.company import Company
from tests.proxy.certificates.conftest import verify


class Command:
    """`muxwsgi ca ...` for a user whose files lie in `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / "data" / "muxwsgi" / "ca"

    def __call__(self, *arguments: object, status: int = 0) -> subprocess.CompletedProcess[bytes]:
        environment = {**os.environ, "XDG_DATA_HOME": str(self.home / "data")}
        command = [sys.executable, "-m", "muxwsgi", "ca", *map(str, arguments)]
        done = warm.run(command, env=environment, cwd=self.home, capture_output=True, timeout=60, check=False)
        assert done.returncode == status, done.stderr
        return done

    def refused(self, *arguments: object) -> str:
        """The one line."""
        said = self(*arguments, status=2).stderr.decode()
        assert said.startswith("muxwsgi: error: ") and said.count("\n") == 1 and "Traceback" not in said
        return said


@pytest.fixture
def ca(tmp_path: Path) -> Command:
    return Command(tmp_path)


@pytest.fixture
def made(ca: Command) -> Command:
    Authority.create(ca.folder)
    return ca


def test_init_makes_one_that_signs_and_says_where_it_is_and_how_to_trust_it(ca: Command) -> None:
    said = ca("init", "--name", "ACME").stdout.decode()
    authority = Authority.load(ca.folder)
    verify(Leaves(authority).get("a.example").certificate, ca.folder / "ca.pem")
    fingerprint = authority.certificate.fingerprint(hashes.SHA256()).hex(":").upper()
    for text in (str(ca.folder / "ca.pem"), fingerprint, "O=ACME", "EC secp256r1", "curl --cacert", "update-ca-certificates", "certutil", "REQUESTS"):
        assert text in said
    assert "exists already" in ca.refused("init")
    assert Authority.load(ca.folder).certificate == authority.certificate


def test_show_says_the_same_and_what_is_wrong(made: Command) -> None:
    certificate = Authority.load(made.folder).certificate
    said = made("show").stdout.decode()
    assert certificate.fingerprint(hashes.SHA256()).hex(":").upper() in said and certificate.subject.rfc4514_string() in said
    assert f"{certificate.not_valid_after_utc:%Y-%m-%d}" in said and str(made.folder / "ca-key.pem") in said
    (made.folder / "ca-key.pem").chmod(0o644)
    assert "others can read the key" in made.refused("show")


def test_export_writes_the_certificate_in_every_form_and_never_the_key(made: Command, tmp_path: Path) -> None:
    authority = Authority.load(made.folder)
    done = made("export")
    assert x509.load_pem_x509_certificates(done.stdout) == [authority.certificate] and b"certutil" in done.stderr
    assert x509.load_der_x509_certificate(made("export", "--format", "der").stdout) == authority.certificate
    key, none, certificates = pkcs12.load_key_and_certificates(made("export", "--format", "p12").stdout, None)
    assert (key, none, certificates) == (None, None, [authority.certificate])
    file = tmp_path / "with a space.crt"
    done = made("export", "--output", file)
    assert done.stdout == b"" and shlex.quote(str(file)) in done.stderr.decode()
    assert x509.load_pem_x509_certificate(file.read_bytes()) == authority.certificate
    assert b"PRIVATE" not in file.read_bytes()


def test_export_does_not_overwrite_the_ca_and_says_what_it_cannot_write(made: Command) -> None:
    before = (made.folder / "ca-key.pem").read_bytes()
    assert "belongs to the CA itself" in made.refused("export", "--output", made.folder / "ca-key.pem")
    (made.home / "link").symlink_to(made.folder / "ca-key.pem")
    assert "belongs to the CA itself" in made.refused("export", "--output", made.home / "link")
    assert (made.folder / "ca-key.pem").read_bytes() == before
    assert "No such file" in made.refused("export", "--output", made.home / "none" / "file")


def test_of_a_companys_ca_the_root_is_what_clients_are_given(ca: Command, tmp_path: Path) -> None:
    company = Company(tmp_path / "company")
    assert x509.load_pem_x509_certificates(ca("export", "--folder", company.folder).stdout) == [company.root_certificate]
    assert b"issued by    CN=root" in ca("show", "--folder", company.folder).stdout
    assert "ask there for a new one" in ca.refused("rotate", "--folder", company.folder)


def test_rotate_replaces_it_and_the_old_one_can_still_be_exported(made: Command) -> None:
    old = Authority.load(made.folder).certificate
    said = made("rotate", "--key-type", "rsa").stdout.decode()
    assert "until they are started again" in said and "RSA 3072" in said
    assert Authority.load(made.folder).certificate != old
    (serial,) = replaced_certificates(made.folder)
    assert serial in made("show").stdout.decode()
    assert x509.load_pem_x509_certificate(made("export", "--old", serial).stdout) == old
    assert "was replaced in" in made.refused("export", "--old", "../ca-key")


def test_where_there_is_none_it_says_what_makes_one(ca: Command) -> None:
    for command in ("show", "export", "rotate"):
        assert "`muxwsgi ca init` makes one" in ca.refused(command)
    assert not ca.folder.exists()


def test_a_wrong_option_is_one_line(ca: Command) -> None:
    ca.refused("init", "--key-type", "dsa")
    ca.refused("nothing")


def test_no_command_imports_gevent_and_help_imports_no_cryptography(tmp_path: Path) -> None:
    code = (
        "import sys, runpy\n"
        "sys.argv = ['muxwsgi', 'ca', *sys.argv[1:]]\n"
        "try: runpy.run_module('muxwsgi', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'gevent', 'cryptography', 'OpenSSL'}), file=sys.stderr)\n"
    )
    for arguments, imported in ((["--help"], "[]\n"), (["init", "--folder", str(tmp_path / "ca")], "['cryptography']\n")):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, timeout=60, check=True, text=True)
        assert done.stderr == imported
