"""An authority and leaves under it, made once; the commands that verify them."""

import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from muxwsgi.proxy.certificates.authority import Authority
from muxwsgi.proxy.certificates.leaves import Leaves


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `authority` lies: nobody changes it."""
    folder = tmp_path_factory.mktemp("authority") / "ca"
    Authority.create(folder)
    return folder


@pytest.fixture(scope="session")
def authority(folder: Path) -> Authority:
    return Authority.load(folder)


@pytest.fixture
def leaves(authority: Authority) -> Leaves:
    return Leaves(authority)


def openssl(*arguments: object, stdin: bytes = b"") -> str:
    """What the command says; `AssertionError` with that where it fails."""
    done = subprocess.run(["openssl", *map(str, arguments)], input=stdin, capture_output=True, timeout=30, check=False)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


def verify(certificate: x509.Certificate, trusted: Path, *arguments: object) -> str:
    """Of `openssl verify`, told to be strict about RFC 5280."""
    return openssl(
        "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", trusted, *arguments, stdin=certificate.public_bytes(Encoding.PEM)
    )


def names_in(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]
