"""With the openssl command as client, over TCP."""

import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from OpenSSL import SSL

from muxwsgi.wire.tls.server_context import ServerContext
from tests.tls.authority import Authority
from tests.tls.handshakes import settings

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command")

Client = Callable[..., str]


@contextmanager
def serving(server: ServerContext) -> Iterator[Client]:
    """A function that runs `openssl s_client` with arguments and returns all it says. Each connection is greeted and ended."""
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]

    def serve() -> None:
        while True:
            try:
                sock, _ = listening.accept()
            except OSError:
                return
            tls = server.connection(sock)
            try:
                tls.do_handshake()
                tls.send(b"greetings\n")
                tls.shutdown()
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(1 << 14):
                    pass
            except (SSL.Error, OSError):
                pass
            sock.close()

    def run(*arguments: str) -> str:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-ign_eof", *arguments]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
        return (done.stdout + done.stderr).decode("utf-8", "replace")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield run
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        listening.close()


def test_the_chain_the_name_the_protocol(authority: Authority) -> None:
    server = ServerContext(settings(authority.leaf("a.example"), authority.leaf("*.b.example")), alpn=["redis", "http/1.1"])
    with serving(server) as client:
        for name, subject in (("a.example", "a.example"), ("x.b.example", "*.b.example")):
            said = client(
                *("-servername", name, "-verify_hostname", name, "-CAfile", authority.root, "-verify_return_error"),
                *("-showcerts", "-alpn", "http/1.1,redis"),
            )
            assert "Verification: OK" in said and "greetings" in said
            assert f"CN = {subject}" in said or f"CN={subject}" in said
            assert said.count("BEGIN CERTIFICATE") == 2
            assert "ALPN protocol: redis" in said
            assert "Compression: NONE" in said


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_session_that_was_saved_to_a_file_is_resumed(authority: Authority, tmp_path: Path, version: str) -> None:
    server = ServerContext(settings(authority.leaf("other.example"), authority.leaf("a.example")))
    kept = str(tmp_path / "session")
    with serving(server) as client:
        assert "\nNew, TLSv1." in client("-servername", "a.example", version, "-sess_out", kept)
        server.reload()
        said = client("-servername", "a.example", version, "-sess_in", kept)
        assert "\nReused, TLSv1." in said and "greetings" in said


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_old_versions_are_refused(authority: Authority, version: str) -> None:
    with serving(ServerContext(settings(authority.leaf("a.example")))) as client:
        said = client(version, "-cipher", "ALL:@SECLEVEL=0")
        assert "greetings" not in said and "alert protocol version" in said


def test_the_reason_why_a_client_certificate_is_refused_reaches_the_client(authority: Authority, stranger: Authority) -> None:
    server = ServerContext(settings(authority.leaf("a.example"), client_certificates="required", client_ca=authority.root))
    mine, theirs = authority.leaf("client.example"), stranger.leaf("client.example")
    with serving(server) as client:
        assert "greetings" in client("-cert", mine.certfile, "-key", mine.keyfile, "-cert_chain", mine.certfile)
        for version, alert in (("-tls1_3", "alert certificate required"), ("-tls1_2", "alert handshake failure")):
            said = client(version)
            assert alert in said and "greetings" not in said
            assert "CN = test root" in said or "CN=test root" in said, "the CA that is asked for is named"
        said = client("-cert", theirs.certfile, "-key", theirs.keyfile)
        assert "alert unknown ca" in said and "greetings" not in said
