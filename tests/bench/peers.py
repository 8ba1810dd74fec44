"""The servers: how each is started with the application, plain and with TLS, on one worker, without an access log."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PEERS", "Certificate", "Peer", "make_certificate"]

APPLICATION = "tests.bench.hello:application"


@dataclass(frozen=True)
class Certificate:
    """Files in PEM."""

    certfile: Path
    keyfile: Path


@dataclass(frozen=True)
class Peer:
    """`command(port, certificate)` starts the server on 127.0.0.1:`port`, with TLS where a certificate is given."""

    name: str
    command: Callable[[int, Certificate | None], list[str]]


def make_certificate(folder: Path) -> Certificate:
    """A P-256 certificate for localhost, the same for every peer."""
    certificate = Certificate(folder / "certificate.pem", folder / "key.pem")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(certificate.keyfile), "-out", str(certificate.certfile)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate


def _files(certificate: Certificate | None) -> list[str]:
    return ["--certfile", str(certificate.certfile), "--keyfile", str(certificate.keyfile)] if certificate else []


def _muxwsgi(port: int, certificate: Certificate | None) -> list[str]:
    return [sys.executable, "-m", "muxwsgi", "run", APPLICATION, "-b", f"127.0.0.1:{port}", *_files(certificate)]


def _gunicorn(port: int, certificate: Certificate | None) -> list[str]:
    command = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-w", "1", "--log-level", "warning"]
    return [*command, "-b", f"127.0.0.1:{port}", *_files(certificate), APPLICATION]


def _pywsgi(port: int, certificate: Certificate | None) -> list[str]:
    files = [str(certificate.certfile), str(certificate.keyfile)] if certificate else []
    return [sys.executable, "-m", "tests.bench.pywsgi_server", str(port), *files]


PEERS = (
    Peer("muxwsgi", _muxwsgi),
    Peer("gunicorn-gevent", _gunicorn),
    Peer("gevent-pywsgi", _pywsgi),
)
