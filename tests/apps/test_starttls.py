"""apps/hijack-starttls: psql, psycopg, swaks and openssl against servers without TLS, and clients that misbehave."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path

import psycopg
import pytest
from aiosmtpd.smtp import SMTP

from muxwsgi.errors import HandshakeError
from muxwsgi.testing import feed
from muxwsgi.testing.laws import hijacker_laws
from tests.proxy.clients.services import Postgres
from tests.system.server_process import ServerProcess
from tests.tls.authority import Authority

APPS = Path(__file__).parents[2] / "apps"
sys.path.append(str(APPS / "hijack-starttls"))  # it is not installed: it would answer silent clients in all other tests

from muxwsgi_starttls.postgresql import GSSENC_REQUEST, postgresql_tls
from muxwsgi_starttls.smtp import Options, SMTPStartTLS

STARTUP = b"\0\0\0\x12\0\3\0\0user\0ann\0\0"
smtp_starttls = SMTPStartTLS(Options(to="127.0.0.1:9", name="mail.example"))

TestPostgreSQL = hijacker_laws(
    postgresql_tls,
    dialogues=[(GSSENC_REQUEST + STARTUP, b"NE\0\0\0\x45SFATAL\0VFATAL\0C28000\0Mthis server requires TLS: sslmode=require\0\0")],
)
TestSMTP = hijacker_laws(
    smtp_starttls,
    dialogues=[
        (
            b"EHLO me\r\nNOOP\r\nMAIL FROM:<a@b>\r\nQUIT\r\n",
            b"220 mail.example ESMTP\r\n250-mail.example\r\n250-ENHANCEDSTATUSCODES\r\n250 STARTTLS\r\n250 2.0.0 ok\r\n"
            b"530 5.7.0 must issue a STARTTLS command first\r\n221 2.0.0 bye\r\n",
        ),
        (b"helo me\n", b"220 mail.example ESMTP\r\n250 mail.example\r\n"),
    ],
)


def test_a_client_of_postgresql_without_tls_is_refused_in_its_protocol() -> None:
    answer = feed(postgresql_tls, GSSENC_REQUEST + STARTUP)
    assert answer[:2] == b"NE"
    assert int.from_bytes(answer[2:6], "big") == len(answer) - 2


def test_a_client_of_smtp_cannot_go_on_for_ever() -> None:
    assert feed(smtp_starttls, b"EHLO me\r\n" + b"NOOP\r\n" * 30).endswith(b"250 2.0.0 ok\r\n421 4.7.0 too many commands without STARTTLS\r\n")
    assert feed(smtp_starttls, b"EHLO " + b"x" * 600 + b"\r\n").endswith(b"500 5.5.2 the line is too long\r\n")


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={"PATH": "/usr/bin:/bin:/usr/sbin", **environment}, check=False)


class Mailbox:
    """A mail server without TLS, in a thread; what it has received."""

    def __init__(self) -> None:
        self.received: list[tuple[str, list[str], bytes]] = []
        self.port = 0

    async def handle_DATA(self, server: SMTP, session: object, envelope: "Message") -> str:
        self.received.append((envelope.mail_from, envelope.rcpt_tos, envelope.content))  # type: ignore[attr-defined]
        return "250 2.0.0 taken"

    @contextmanager
    def served(self) -> Iterator["Mailbox"]:
        loop = asyncio.new_event_loop()
        server = loop.run_until_complete(loop.create_server(lambda: SMTP(self, hostname="behind.example", loop=loop), "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(20)
            server.close()
            loop.close()


@contextmanager
def front(folder: Path, bind_options: str, text: str) -> Iterator[tuple[ServerProcess, str]]:
    """A server with the package installed, and the certificate that clients verify."""
    packages = folder / "packages"
    pip = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(packages))
    subprocess.run([*pip, str(APPS / "hijack-starttls")], check=True, timeout=120)
    authority = Authority(folder)
    leaf = authority.leaf("mail.example", "127.0.0.1")
    (folder / "starttls.toml").write_text(text)
    options = (f",certfile={leaf.certfile},keyfile={leaf.keyfile}{bind_options}", {"PYTHONPATH": str(packages)})
    with ServerProcess(
        "tests.server.applications:wsgi", "-c", str(folder / "starttls.toml"), bind_options=options[0], environment=options[1], cold=True
    ) as server:
        yield server, authority.root


ASK = "select ssl, 6 * 7 from pg_stat_ssl where pid = pg_backend_pid()"


@pytest.mark.slow
def test_psql_has_tls_in_front_of_a_server_that_has_none(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with Postgres.start(authority.leaf("127.0.0.1")) as postgres:
        text = f"""
hijack = ["postgresql-tls"]

[[route]]
match = {{protocol = "postgresql", user = "ann"}}
to = "forward:127.0.0.1:{postgres.port}"
tls = "yes"
"""
        (tmp_path / "front").mkdir()
        with front(tmp_path / "front", ",tls=off", text) as (server, root):
            where = f"host=127.0.0.1 port={server.port} user=ann dbname=postgres"
            for mode in ("require", f"verify-full sslrootcert={root}"):
                said = run("psql", f"{where} sslmode={mode}", "-Atc", ASK, PGPASSWORD=Postgres.PASSWORD)
                assert said.stdout == "f|42\n", said.stderr  # no TLS behind the front
            assert "is not in TLS" not in server.log
            refused = run("psql", f"{where} sslmode=disable", "-Atc", ASK, PGPASSWORD=Postgres.PASSWORD)
            assert refused.returncode != 0
            assert refused.stdout == ""
            other = run("psql", f"{where.replace('user=ann', 'user=bob')} sslmode=require", "-Atc", ASK, PGPASSWORD="x")
            assert other.returncode != 0
            assert server.tracebacks() == []


@pytest.mark.slow
def test_psycopg_begins_with_tls_at_once_and_needs_no_hijacker(tmp_path: Path) -> None:
    assert psycopg.pq.version() >= 170000
    authority = Authority(tmp_path)
    with Postgres.start(authority.leaf("127.0.0.1")) as postgres:
        text = f'hijack = ["none"]\n[[route]]\nmatch = "postgresql"\nto = "forward:127.0.0.1:{postgres.port}"\n'
        (tmp_path / "front").mkdir()
        with (
            front(tmp_path / "front", "", text) as (server, root),
            psycopg.connect(
                f"host=127.0.0.1 port={server.port} user=ann dbname=postgres sslmode=verify-full sslnegotiation=direct sslrootcert={root}",
                password=Postgres.PASSWORD,
            ) as connection,
        ):
            assert connection.execute(ASK).fetchall() == [(False, 42)]


@pytest.mark.slow
def test_swaks_sends_its_mail_in_tls_alone(tmp_path: Path) -> None:
    with Mailbox().served() as mailbox:
        text = f"""
hijack = ["smtp-starttls"]

[hijack-options.smtp-starttls]
to = "127.0.0.1:{mailbox.port}"
name = "mail.example"
"""
        with front(tmp_path, ",tls=off,only=smtp-starttls", text) as (server, root):
            swaks = ("swaks", "--server", f"127.0.0.1:{server.port}", "--from", "a@a.example", "--to", "b@b.example", "--body", "hello there")
            sent = run(*swaks, "--tls", "--tls-verify", "--tls-ca-path", root, "--tls-sni", "mail.example", HOME=str(tmp_path))
            assert sent.returncode == 0, sent.stdout + sent.stderr
            assert "behind.example" in sent.stdout  # the answer to the second EHLO is the mail server's
            ((sender, receivers, content),) = mailbox.received
            assert (sender, receivers) == ("a@a.example", ["b@b.example"])
            assert b"hello there" in content
            refused = run(*swaks, HOME=str(tmp_path))
            assert "530 5.7.0 must issue a STARTTLS command first" in refused.stdout
            assert len(mailbox.received) == 1
            shaken = run("openssl", "s_client", "-starttls", "smtp", "-connect", f"127.0.0.1:{server.port}", "-CAfile", root, "-verify_return_error")
            assert "Verification: OK" in shaken.stdout
            assert server.tracebacks() == []
        assert HandshakeError.__name__ not in server.log
