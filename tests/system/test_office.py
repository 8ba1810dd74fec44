"""conf/office.toml as it is, with other ports: OpenSSH, psql, redis-cli and web clients on one port."""

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from muxwsgi.settings import CertificateFiles
from tests.proxy.clients.services import SSH, Nginx, Postgres, Redis
from tests.system.server_process import ServerProcess
from tests.tls.authority import Authority

pytestmark = pytest.mark.slow

FILE = Path(__file__).parents[2] / "conf" / "office.toml"


class Office:
    def __init__(self, port: int, ssh: SSH, authority: Authority) -> None:
        self.port = port
        self.ssh = ssh
        self.authority = authority


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    folder = tmp_path_factory.mktemp("office")
    authority = Authority(folder)
    ours, legacy = authority.leaf("office.example", "127.0.0.1"), authority.leaf("legacy.office.example")
    root = folder / "root"
    root.mkdir()
    (root / "index.html").write_text("the legacy server")
    for path in (folder, root):
        path.chmod(0o755)
    with (
        SSH.start(tmp_path_factory.mktemp("ssh")) as ssh,
        Redis.start(tmp_path_factory.mktemp("redis"), ours) as redis,
        Postgres.start(ours) as postgres,
        Nginx.start(folder, root, legacy) as nginx,
        served(folder, ours, {22: ssh.port, 5432: postgres.port, 6379: redis.port, 8443: nginx.tls_port}) as server,
    ):
        yield Office(server.port, ssh, authority)


def served(folder: Path, certificate: CertificateFiles, ports: dict[int, int]) -> ServerProcess:
    text = (
        FILE.read_text()
        .replace("/etc/muxwsgi/office.example.pem", certificate.certfile)
        .replace("/etc/muxwsgi/office.example.key", certificate.keyfile)
    )
    for usual, port in ports.items():
        assert f"127.0.0.1:{usual}" in text
        text = text.replace(f"127.0.0.1:{usual}", f"127.0.0.1:{port}")
    file = folder / "office.toml"
    file.write_text(text)
    return ServerProcess("tests.server.applications:wsgi", "-c", str(file), tls=False)


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment}, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_openssh_comes_through_as_it_is_and_inside_of_tls(office: Office) -> None:
    options = [each for each in office.ssh.client[1:] if each not in ("-p", str(office.ssh.port))]
    assert run("ssh", *options, "-p", str(office.port), "127.0.0.1", "echo plain") == "plain\n"
    through = f"openssl s_client -quiet -verify_quiet -connect 127.0.0.1:{office.port} -servername office.example"
    assert run("ssh", *options, "-o", f"ProxyCommand={through}", "127.0.0.1", "echo inside") == "inside\n"


def test_psql_comes_through_with_its_own_tls_and_without(office: Office) -> None:
    for mode, encrypted in (("require", "t"), ("disable", "f")):
        said = run(
            *("psql", f"host=127.0.0.1 port={office.port} user=ann dbname=postgres sslmode={mode}", "-Atc"),
            "select ssl from pg_stat_ssl where pid = pg_backend_pid()",
            PGPASSWORD=Postgres.PASSWORD,
        )
        assert said == f"{encrypted}\n"


def test_redis_cli_comes_through_inside_of_tls_alone(office: Office) -> None:
    tls = ("--tls", "--cacert", office.authority.root, "--sni", "office.example")
    assert run("redis-cli", "-p", str(office.port), *tls, "set", "greeting", "hello") == "OK\n"
    assert run("redis-cli", "-p", str(office.port), *tls, "get", "greeting") == "hello\n"
    plain = subprocess.run(
        ["redis-cli", "-p", str(office.port), "get", "greeting"], capture_output=True, text=True, timeout=60, check=False
    )
    assert "hello" not in plain.stdout


def test_the_web_is_ours_and_a_second_one_keeps_its_certificate(office: Office) -> None:
    def fetched(name: str) -> str:
        return run(
            "curl",
            "-sS",
            "--cacert",
            office.authority.root,
            "--resolve",
            f"{name}:{office.port}:127.0.0.1",
            f"https://{name}:{office.port}/",
        )

    assert "legacy" not in fetched("office.example")
    assert fetched("legacy.office.example") == "the legacy server"
    assert "308" in run("curl", "-sSi", f"http://127.0.0.1:{office.port}/")
    context = ssl.create_default_context(cafile=office.authority.root)
    with (
        socket.create_connection(("127.0.0.1", office.port), timeout=20) as sock,
        context.wrap_socket(sock, server_hostname="legacy.office.example") as tls,
    ):
        assert tls.getpeercert()["subject"] == ((("commonName", "legacy.office.example"),),)  # type: ignore[index]


def test_the_routes_of_the_file_are_listed(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.leaf("office.example")
    text = (
        FILE.read_text()
        .replace("/etc/muxwsgi/office.example.pem", files.certfile)
        .replace("/etc/muxwsgi/office.example.key", files.keyfile)
    )
    commented = text.partition("# Further ones, as examples:\n")[2].replace("# ", "").replace("#\n", "\n")
    file = tmp_path / "office.toml"
    file.write_text(text + commented)
    listed = run(sys.executable, "-m", "muxwsgi", "routes", "-c", str(file))
    outside, _, inside = listed.partition("inside of TLS:")
    for name in ("passthrough:127.0.0.1:8443", "tls", "ssh", "postgresql", "openvpn", "rdp"):
        assert f"\n  {name} " in outside.replace("forward:10.0.0.7:3389 ", "rdp ", 1)
    assert "\n  redis " not in outside
    for name in ("ssh", "postgresql", "redis", "http"):
        assert f"\n  {name} " in inside
    assert "mon-fri 07:00-19:00" in outside
