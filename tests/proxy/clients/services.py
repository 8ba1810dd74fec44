"""Servers of other protocols than HTTP, as Debian packages them: each on ports of 127.0.0.1, in a folder that goes with it."""

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from muxwsgi.settings import CertificateFiles
from tests.ports import free_ports
from tests.proxy.clients.proxy_process import PATIENCE, run

__all__ = ["SSH", "Nghttpd", "Nginx", "Postgres", "Redis"]

#: Debian's place of the server's programs, which are not in PATH.
POSTGRES_PROGRAMS = Path("/usr/lib/postgresql")


@contextmanager
def running(*command: str | Path, log: Path, ready: Callable[[], bool]) -> Iterator[subprocess.Popen[bytes]]:
    """A server that is started, waited for, and ended by its process id."""
    with log.open("wb") as file:
        process = subprocess.Popen([str(each) for each in command], stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        give_up = time.monotonic() + PATIENCE
        while not ready():
            assert process.poll() is None and time.monotonic() < give_up, log.read_text("utf-8", "replace")
            time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def program(name: str, package: str) -> str:
    """The path of a program that the tests need."""
    found = shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/bin")
    assert found is not None, f"{name} is missing (Debian package {package}), and the tests need it"
    return found


# It reads pytest's folders, which are for their owner alone.
_NGINX = """
user {user};
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    gzip on;
    gzip_proxied any;
    server {{
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{http2_port} http2;
        listen 127.0.0.1:{tls_port} ssl http2;
        ssl_certificate {certificate.certfile};
        ssl_certificate_key {certificate.keyfile};
        location / {{ root {root}; }}
    }}
}}
"""


class Nginx:
    """Serves the files below a folder: HTTP/1.1 on `port`, HTTP/2 alone on `http2_port`; in TLS, with HTTP/2 for who asks for it, on `tls_port`."""

    def __init__(self, port: int, tls_port: int, http2_port: int) -> None:
        self.port = port
        self.tls_port = tls_port
        self.http2_port = http2_port

    @classmethod
    @contextmanager
    def start(cls, folder: Path, root: Path, certificate: CertificateFiles) -> Iterator["Nginx"]:
        ports = dict(zip(("port", "tls_port", "http2_port"), free_ports(3), strict=True))
        (folder / "nginx.conf").write_text(_NGINX.format(user=getpass.getuser(), folder=folder, root=root, certificate=certificate, **ports))
        nginx = program("nginx", "nginx-light")
        with running(nginx, "-c", folder / "nginx.conf", "-e", "stderr", log=folder / "log", ready=lambda: all(map(listens, ports.values()))):
            yield cls(**ports)


class Nghttpd:
    """nghttpd, which speaks nothing but HTTP/2: in TLS on `port`. It serves the files below a folder, and echoes what is posted."""

    def __init__(self, port: int) -> None:
        self.port = port

    @classmethod
    @contextmanager
    def start(cls, folder: Path, root: Path, certificate: CertificateFiles) -> Iterator["Nghttpd"]:
        (port,) = free_ports(1)
        nghttpd = program("nghttpd", "nghttp2-server")
        command = (nghttpd, "-a", "127.0.0.1", "-d", root, "--echo-upload", str(port), str(certificate.keyfile), str(certificate.certfile))
        with running(*command, log=folder / "log", ready=lambda: listens(port)):
            yield cls(port)


class Redis:
    """redis-server, plain on `port` and in TLS on `tls_port`."""

    def __init__(self, port: int, tls_port: int) -> None:
        self.port = port
        self.tls_port = tls_port

    @classmethod
    @contextmanager
    def start(cls, folder: Path, certificate: CertificateFiles) -> Iterator["Redis"]:
        port, tls_port = free_ports(2)
        command = (
            *(program("redis-server", "redis-server"), "--bind", "127.0.0.1", "--port", port, "--tls-port", tls_port),
            *("--tls-cert-file", certificate.certfile, "--tls-key-file", certificate.keyfile, "--tls-auth-clients", "no", "--save", "", "--dir", folder),
        )
        with running(*map(str, command), log=folder / "redis.log", ready=lambda: listens(port) and listens(tls_port)):
            yield cls(port, tls_port)


class Postgres:
    """A PostgreSQL cluster of its own with TLS, and a user ann with the password `PASSWORD`. It refuses to run as root."""

    PASSWORD = "secret word"

    def __init__(self, port: int) -> None:
        self.port = port

    @classmethod
    @contextmanager
    def start(cls, certificate: CertificateFiles) -> Iterator["Postgres"]:
        versions = sorted(POSTGRES_PROGRAMS.glob("*/bin"), key=lambda path: int(path.parent.name))
        assert versions, "there is no PostgreSQL server (Debian package postgresql), and the tests need it"
        bare = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        (port,) = free_ports(1)
        # pytest's folders are for their owner alone, and that is not postgres.
        with tempfile.TemporaryDirectory(prefix="muxwsgi-postgres-") as name:
            folder = Path(name)
            for source, target in ((certificate.certfile, "server.crt"), (certificate.keyfile, "server.key")):
                shutil.copy(source, folder / target)
            (folder / "password").write_text(cls.PASSWORD)
            (folder / "server.key").chmod(0o600)
            if bare:
                for path in (folder, *folder.iterdir()):
                    shutil.chown(path, "postgres", "postgres")
            data = folder / "data"
            initdb = ("-U", "ann", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}", "--no-sync", "--no-locale", "-E", "UTF8")
            made = run(*bare, versions[-1] / "initdb", "-D", data, *initdb, cwd=folder)
            assert made.returncode == 0, made.stderr
            settings = {
                "listen_addresses": "127.0.0.1",
                "port": port,
                "unix_socket_directories": folder,
                "ssl": "on",
                "ssl_cert_file": folder / "server.crt",
                "ssl_key_file": folder / "server.key",
                "fsync": "off",
            }
            options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
            accepts = (versions[-1] / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port))
            with running(
                *(*bare, versions[-1] / "postgres", "-D", data, *options), log=folder / "log", ready=lambda: run(*accepts).returncode == 0
            ):
                yield cls(port)


class SSH:
    """sshd for the user that we are, with a key.

    client      options for `ssh`, which trust the server and have the key
    """

    def __init__(self, port: int, client: list[str]) -> None:
        self.port = port
        self.client = client

    @classmethod
    @contextmanager
    def start(cls, folder: Path) -> Iterator["SSH"]:
        (port,) = free_ports(1)
        for key in ("host", "user"):
            made = run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key)
            assert made.returncode == 0, made.stderr
        shutil.copy(folder / "user.pub", folder / "authorized")
        (folder / "known").write_text(f"inside {(folder / 'host.pub').read_text()}")
        configuration = folder / "sshd_config"
        configuration.write_text(
            f"ListenAddress 127.0.0.1:{port}\n"
            f"HostKey {folder / 'host'}\n"
            f"AuthorizedKeysFile {folder / 'authorized'}\n"
            "StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
            "PidFile none\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # it wants an empty folder there, which a service would make
        client = [
            *("ssh", "-F", "none", "-i", str(folder / "user"), "-o", f"UserKnownHostsFile={folder / 'known'}", "-o", "GlobalKnownHostsFile=none"),
            *("-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "HostKeyAlias=inside", "-o", "ConnectTimeout=20", "-p", str(port)),
        ]
        sshd = program("sshd", "openssh-server")  # which insists on an absolute path
        with running(sshd, "-D", "-e", "-f", configuration, log=folder / "sshd.log", ready=lambda: listens(port)):
            yield cls(port, client)
