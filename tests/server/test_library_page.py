"""docs/library.md: its blocks, one after the other, are a program that serves, logs and ends."""

import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

from tests.system.server_process import ROOT, insecure_context, read_until_closed
from tests.tls.authority import Authority


def program(ports: tuple[int, int]) -> str:
    text = (ROOT / "docs/library.md").read_text()
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.M | re.S))
    for written, real in zip((8000, 8443), ports, strict=True):
        assert code.count(f"port={written}") == 1
        code = code.replace(f"port={written}", f"port={real}")
    return code


def ask(sock: socket.socket, path: str) -> bytes:
    with sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        return read_until_closed(sock)


def connected(port: int, process: "subprocess.Popen[str]") -> socket.socket:
    give_up = time.monotonic() + 30
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=15)
        except ConnectionRefusedError:
            assert process.poll() is None and time.monotonic() < give_up
            time.sleep(0.05)


def test_the_program_of_the_page_serves_writes_its_logs_and_ends(tmp_path: Path) -> None:
    certificate = Authority(tmp_path).leaf("localhost")
    Path(certificate.certfile).rename(tmp_path / "site.pem")
    Path(certificate.keyfile).rename(tmp_path / "site.key")
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = (one.getsockname()[1], other.getsockname()[1])
    (tmp_path / "site.py").write_text(program(ports))
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); exec(open('site.py').read())"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert ask(connected(ports[0], process), "/plain").endswith(b"\r\n\r\nhello\n")
        tls: ssl.SSLSocket = insecure_context().wrap_socket(connected(ports[1], process))
        assert ask(tls, "/secret").endswith(b"\r\n\r\nhello\n")
        assert ask(connected(ports[0], process), "/broken").startswith(b"HTTP/1.1 500 ")
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30) == ("ended\n", "")
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()
    lines = (tmp_path / "access.log").read_text().splitlines()
    assert sorted(re.sub(r" \d+$", "", line) for line in lines) == [
        '127.0.0.1 "GET /broken HTTP/1.1" 500',
        '127.0.0.1 "GET /plain HTTP/1.1" 200',
        '127.0.0.1 "GET /secret HTTP/1.1" 200',
    ]
    errors = (tmp_path / "error.log").read_text()
    assert "application error in GET /broken: answered with 500" in errors and "ValueError: a mistake of the application" in errors
