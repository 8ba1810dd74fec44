"""`muxwsgi run` as a process: signals, logs, addresses, limits."""

import contextlib
import os
import pty
import re
import resource
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from muxwsgi.settings import CertificateFiles
from tests import warm
from tests.ports import free_port
from tests.system.server_process import ROOT, ServerProcess, insecure_context, read_until_closed
from tests.tls.authority import Authority
from tests.waiting import wait_for

APP = "tests.system.counted_app"
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_exchanges_end_and_closes_resting_connections(sig: signal.Signals) -> None:
    with ServerProcess(APP) as server:
        resting, busy = server.connect(), server.connect()
        resting.sendall(GET)
        assert resting.recv(1000).endswith(b"hello")
        busy.sendall(GET.replace(b"/ ", b"/slow "))
        time.sleep(0.1)
        assert server.stop(sig) == 0
        assert resting.recv(1000) == b""
        answer = read_until_closed(busy)
        assert answer.endswith(b"hello") and b"\r\nConnection: close\r\n" in answer
        assert server.tracebacks() == []
        with pytest.raises(ConnectionRefusedError):
            server.connect()


def test_what_lasts_longer_than_the_graceful_timeout_is_cut() -> None:
    with ServerProcess(APP, "--graceful-timeout=0.3", "--hijack=echo") as server:
        sock = server.connect()
        sock.sendall(b"ECHO hi")
        assert sock.recv(100) == b"ECHO hi"
        assert server.stop() == 0
        assert "1 connections were cut" in server.log and server.tracebacks() == []
        with pytest.raises(ConnectionResetError):  # what it has got may be half of something
            sock.recv(1)


def test_a_second_signal_cuts_at_once() -> None:
    with ServerProcess(APP, "--graceful-timeout=60", "--hijack=echo") as server:
        sock = server.connect()
        sock.sendall(b"ECHO hi")
        assert sock.recv(100) == b"ECHO hi"
        server.send_signal(signal.SIGTERM)
        server.wait_for_log("stopping")
        assert server.stop() == 0


def test_a_hijacker_that_rests_does_not_hold_the_stop_up() -> None:
    with ServerProcess(APP, "--graceful-timeout=60", "--hijack=resp") as server:
        sock = server.connect()
        sock.sendall(b"PING\r\n")
        assert sock.recv(100) == b"+PONG\r\n"
        assert server.stop() == 0
        assert server.tracebacks() == []


def test_certificates_are_read_again_on_sighup_without_dropping_connections(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files, new = authority.leaf("old.example"), authority.leaf("new.example")

    def shown(server: ServerProcess) -> str:
        with insecure_context().wrap_socket(server.connect(), server_hostname="x") as sock:
            from cryptography import x509

            return x509.load_der_x509_certificate(sock.getpeercert(True) or b"").subject.rfc4514_string()

    with ServerProcess(APP, "--certfile", files.certfile, "--keyfile", files.keyfile) as server:
        server.tls = True
        held = server.open()
        assert shown(server) == "CN=old.example"
        Path(files.certfile).write_text("broken")
        server.send_signal(signal.SIGHUP)
        server.wait_for_log("the reload failed, and what served before goes on: ")
        assert shown(server) == "CN=old.example"
        Path(files.certfile).write_bytes(Path(new.certfile).read_bytes())
        Path(files.keyfile).write_bytes(Path(new.keyfile).read_bytes())
        server.send_signal(signal.SIGHUP)
        server.wait_for_log_times("1 worker is ready", 2)
        assert shown(server) == "CN=new.example"
        held.sendall(GET)
        assert held.recv(1000).endswith(b"hello")
        held.close()


def test_plain_http_on_a_tls_port_is_told_in_words(tmp_path: Path) -> None:
    with ServerProcess(APP, "--tls-dev", environment={"XDG_DATA_HOME": str(tmp_path)}) as server:
        sock = server.connect()
        sock.sendall(b"POST /path?x=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc")
        answer = read_until_closed(sock)
        assert answer.startswith(b"HTTP/1.1 400 ") and b"https://" in answer


def test_plain_http_can_be_redirected_to_the_same_port(tmp_path: Path) -> None:
    with ServerProcess(APP, "--tls-dev", "--redirect-http", environment={"XDG_DATA_HOME": str(tmp_path)}) as server:
        for host, expected in (("localhost", "localhost"), ("example.org:80", "example.org"), ("[::1]:80", "[::1]")):
            sock = server.connect()
            sock.sendall(f"GET /path?x=1 HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            answer = read_until_closed(sock)
            assert answer.startswith(b"HTTP/1.1 308 ")
            assert f"\r\nLocation: https://{expected}:{server.port}/path?x=1\r\n".encode() in answer
        done = subprocess.run(
            ["curl", "-sSLk", f"http://127.0.0.1:{server.port}/"], capture_output=True, timeout=20, check=True
        )
        assert done.stdout == b"hello"


def test_tls_optional_serves_both_on_one_port(tmp_path: Path) -> None:
    with ServerProcess(APP, "--tls-dev", bind_options=",tls=optional", environment={"XDG_DATA_HOME": str(tmp_path)}) as server:
        assert server.get("/") == (200, b"hello")
        server.tls = True
        assert server.get("/") == (200, b"hello")


def test_a_unix_socket_is_served_and_removed_and_a_stale_one_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    with ServerProcess(APP, "-b", f"unix:{path}") as server:
        done = subprocess.run(["curl", "-sS", "--unix-socket", str(path), "http://localhost/"], capture_output=True, timeout=20, check=True)
        assert done.stdout == b"hello"
        second = warm.run(
            [sys.executable, "-m", "muxwsgi", "run", APP, "-b", f"unix:{path}"], cwd=ROOT, capture_output=True, timeout=20
        )
        assert second.returncode == 2 and b"in use" in second.stderr
        assert server.stop() == 0
    assert not path.exists()


def test_a_folder_that_is_a_file_now_does_not_hold_up_a_stop(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with ServerProcess("tests.system.front_app", "-b", f"unix:{folder}/socket") as server:
        (folder / "socket").unlink()
        folder.rmdir()
        folder.touch()
        assert server.stop() == 0
        assert "its file cannot be removed: Not a directory" in server.log and server.tracebacks() == []


def test_an_inherited_descriptor_is_served() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        fd = listening.fileno()
        process = subprocess.Popen([sys.executable, "-m", "muxwsgi", "run", APP, "-b", f"fd://{fd}"], cwd=ROOT, pass_fds=[fd])
        try:
            with socket.create_connection(listening.getsockname(), timeout=20) as sock:
                sock.sendall(GET)
                assert sock.recv(1000).endswith(b"hello")
        finally:
            process.terminate()
            assert process.wait(15) == 0


def test_an_address_in_use_is_said_so() -> None:
    with ServerProcess(APP) as server:
        done = warm.run(
            [sys.executable, "-m", "muxwsgi", "run", APP, "-b", server.address], cwd=ROOT, capture_output=True, timeout=20
        )
        assert done.returncode == 2
        assert re.fullmatch(rb"muxwsgi: error: bind 127\.0\.0\.1:\d+: Address already in use\n", done.stderr)


def test_ipv6_and_port_0_are_served_where_the_log_says() -> None:
    with ServerProcess(APP, "-b", "[::1]:0") as server:
        server.wait_for_log("listening on [::1]:")
        port = int(re.search(r"listening on \[::1\]:(\d+)", server.log)[1])  # type: ignore[index]
        with socket.create_connection(("::1", port), timeout=10) as sock:
            sock.sendall(GET)
            assert sock.recv(1000).endswith(b"hello")


def greeted(host: str, port: int) -> bytes:
    """The body that a client gets, or b"" where nobody listens."""
    try:
        with socket.create_connection((host, port), timeout=10) as sock:
            sock.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            return read_until_closed(sock).partition(b"\r\n\r\n")[2]
    except ConnectionRefusedError:
        return b""


def test_a_bind_to_all_ipv6_addresses_serves_ipv4_too_and_knows_its_clients_by_their_own_addresses() -> None:
    port = free_port()
    with ServerProcess("tests.server.applications:wsgi", "-b", f"[::]:{port}") as server:
        server.wait_for_log(f"listening on [::]:{port}", 60)
        assert greeted("127.0.0.1", port) == f"{port} 127.0.0.1".encode()
        assert greeted("::1", port) == f"{port} ::1".encode()


def test_a_bind_to_all_ipv6_addresses_leaves_ipv4_to_a_bind_that_has_it() -> None:
    port = free_port()
    for order in ([f"[::]:{port}", f"0.0.0.0:{port},tls=off"], [f"127.0.0.1:{port}", f"[::]:{port}"]):
        with ServerProcess("tests.server.applications:wsgi", "-b", order[0], "-b", order[1]) as server:
            server.wait_for_log("listening on " + order[1].removesuffix(",tls=off"), 60)
            assert greeted("127.0.0.1", port).endswith(b" 127.0.0.1")
            assert greeted("::1", port).endswith(b" ::1")
            assert server.log.count("listening on") == 3
    with ServerProcess("tests.server.applications:wsgi", "-b", f"[::1]:{port}") as server:
        server.wait_for_log(f"listening on [::1]:{port}", 60)
        assert greeted("127.0.0.1", port) == b""


def test_a_bind_may_be_plain_beside_others_with_a_certificate(tmp_path: Path) -> None:
    files = Authority(tmp_path).leaf("localhost")
    port = free_port()
    options = ["-b", f"127.0.0.1:{port},tls=off", "--certfile", files.certfile, "--keyfile", files.keyfile, "--redirect-http"]
    with ServerProcess("tests.server.applications:wsgi", *options) as server:
        server.wait_for_log(f"listening on 127.0.0.1:{port} (TLS off): http", 60)
        server.wait_for_log(f"listening on 127.0.0.1:{server.port} (TLS required): http", 60)
        assert greeted("127.0.0.1", port).startswith(str(port).encode())


def test_the_access_log_has_gunicorns_atoms_and_is_reopened(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    atoms = '%(h)s|%(l)s|%(u)s|%(r)s|%(m)s|%(U)s|%(q)s|%(H)s|%(s)s|%(B)s|%(b)s|%(f)s|%(a)s|%(T)s|%(p)s|%({x-a}i)s|%({Content-Type}o)s|%({SERVER_NAME}e)s|100%%'
    with ServerProcess(APP, "--access-logfile", str(path), "--access-logformat", atoms) as server:
        with server.connect() as sock:
            sock.sendall(b'GET /?q=1 HTTP/1.1\r\nHost: a\r\nUser-Agent: "x"\r\nReferer: y\r\nX-A: \x9b31m\\\r\n\r\n')
            assert sock.recv(1000).endswith(b"hello")
        line = wait_for(lambda: path.read_text())
        assert line == (
            f"127.0.0.1|-|-|GET /?q=1 HTTP/1.1|GET|/|q=1|HTTP/1.1|200|5|5|y|\\u0022x\\u0022|0|<{server.worker_pid}>|\\\\x9b31m\\\\|text/plain|127.0.0.1|100%\n"
        )
        path.rename(tmp_path / "rotated")
        server.send_signal(signal.SIGUSR1)
        server.wait_for_log("logs reopened")
        server.get("/")
        assert "GET / HTTP/1.1" in wait_for(lambda: path.read_text() if path.exists() else "")


def test_nothing_is_lost_of_the_access_log_at_the_stop(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with ServerProcess(APP, "--access-logfile", str(path)) as server:
        for _ in range(5):
            server.get("/")
        assert server.stop() == 0
    assert path.read_text().count('"GET / HTTP/1.1" 200 5') == 5


def test_a_full_file_table_is_survived(tmp_path: Path) -> None:
    def few_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    log = tmp_path / "error.log"
    process = subprocess.Popen(
        [sys.executable, "-m", "muxwsgi", "run", APP, "-b", f"127.0.0.1:{port}", "--error-logfile", str(log), "--silence=http", "--sniff-timeout=60"],
        cwd=ROOT,
        preexec_fn=few_files,
    )
    held: list[socket.socket] = []
    try:
        wait_for(lambda: connects(port))
        held += [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(60)]
        wait_for(lambda: "cannot accept connections for now" in log.read_text())
        time.sleep(1)
        assert log.read_text().count("cannot accept") == 1, "once, not at every try"
        for sock in held:
            sock.close()
        with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
            sock.sendall(GET)
            assert sock.recv(1000).endswith(b"hello")
        wait_for(lambda: connects(port) and "accepting again" in log.read_text())  # it is known when the backlog is found empty
        assert "Traceback" not in log.read_text()
    finally:
        for sock in held:
            sock.close()
        process.terminate()
        assert process.wait(15) == 0


def test_connections_above_the_limit_wait_until_one_ends() -> None:
    with ServerProcess(APP, "--max-connections=2", "--hijack=none") as server:
        time.sleep(0.2)
        first, second, third = server.connect(), server.connect(), server.connect()
        for sock in (first, second):
            sock.sendall(GET)
            assert sock.recv(1000).endswith(b"hello")
        third.sendall(GET)
        third.settimeout(0.3)
        with pytest.raises(TimeoutError):
            third.recv(1000)
        first.close()
        third.settimeout(10)
        assert third.recv(1000).endswith(b"hello")


def test_silence_and_the_unknown_go_where_they_are_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as greeter:

        def greet() -> None:
            with contextlib.suppress(OSError):
                for _ in range(2):
                    sock, _ = greeter.accept()
                    sock.sendall(b"220 speaking first\r\n")
                    while data := sock.recv(100):
                        sock.sendall(data[::-1])
                    sock.close()

        threading.Thread(target=greet, daemon=True).start()
        forward = f"forward:127.0.0.1:{greeter.getsockname()[1]}"
        with ServerProcess(APP, "--silence", forward, "--fallback", forward, "--sniff-timeout=0.2") as server:
            for first in (b"", b"\x00unknown"):
                sock = server.connect()
                sock.sendall(first)
                received = b""
                while len(received) < 20 + len(first):
                    received += sock.recv(100)
                assert received.startswith(b"220 speaking first\r\n") and received.endswith(first[::-1])
                sock.close()


def test_by_default_silence_and_the_unknown_are_closed_and_half_a_request_is_told_so() -> None:
    with ServerProcess(APP, "--sniff-timeout=0.2", "--request-head-timeout=1") as server:
        with server.connect() as silent, server.connect() as unknown, server.connect() as half:
            unknown.sendall(b"\x00unknown")
            half.sendall(b"OPTI")
            assert read_until_closed(silent) == read_until_closed(unknown) == b""
            assert read_until_closed(half)[:13] == b"HTTP/1.1 408 "


def test_mounts_see_their_prefix(tmp_path: Path) -> None:
    (tmp_path / "where.py").write_text(
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [(environ['SCRIPT_NAME'] + '|' + environ['PATH_INFO']).encode()]\n"
        "def make(name):\n"
        "    return lambda environ, start_response: [start_response('200 OK', []) and b'' or name.encode()]\n"
    )
    mounts = ["--mount", "/one=where:app", "--mount", "/two/deep=where:make('made')"]
    with ServerProcess(APP, "--pythonpath", str(tmp_path), *mounts) as server:
        assert server.get("/one/x%20y") == (200, b"/one|/x y")
        assert server.get("/one") == (200, b"/one|")
        assert server.get("/two/deep/x") == (200, b"made")
        assert server.get("/") == (200, b"hello")


def shown_on_a_terminal(*arguments: str, until: str, folder: Path) -> str:
    """What `muxwsgi` says to somebody who starts it by hand, up to the words `until`."""
    primary, secondary = pty.openpty()
    environment = {**os.environ, "XDG_DATA_HOME": str(folder)}
    process = warm.Popen([sys.executable, "-m", "muxwsgi", *arguments], cwd=ROOT, stderr=secondary, env=environment)
    os.close(secondary)
    shown = ""
    try:
        give_up = time.monotonic() + 20
        while until not in shown and time.monotonic() < give_up:
            if select.select([primary], [], [], 1)[0]:
                shown += os.read(primary, 10_000).decode()
        assert until in shown, shown
    finally:
        process.terminate()
        assert process.wait(15) == 0
        os.close(primary)
    return shown.replace("\r\n", "\n")


def test_the_terminal_is_told_what_can_be_tried(tmp_path: Path) -> None:
    shown = shown_on_a_terminal("run", APP, "-b", "127.0.0.1:0", "--tls-dev", until="redis-cli --tls", folder=tmp_path)
    assert re.search(r"curl -k https://127\.0\.0\.1:\d+/", shown), shown
    assert re.search(r"openssl s_client -quiet -no_ign_eof -connect 127\.0\.0\.1:\d+", shown)


def test_the_terminal_is_told_how_a_proxy_is_used_and_its_ca_trusted(tmp_path: Path) -> None:
    binds = ("-b", "127.0.0.1:0", "-b", "127.0.0.1:0,transparent=redirect", "-b", f"unix:{tmp_path / 'socket'}")
    plain = shown_on_a_terminal("proxy", *binds, until="Tunnels are", folder=tmp_path)
    port = re.search(r"listening on 127\.0\.0\.1:(\d+) \(TLS off\)", plain)
    assert port, plain
    assert f"curl -x http://127.0.0.1:{port[1]} https://example.com/\n" in plain
    assert f"curl -x socks5h://127.0.0.1:{port[1]} https://example.com/\n" in plain
    assert f"http://127.0.0.1:{port[1]}/proxy.pac" in plain
    assert f"https_proxy=http://127.0.0.1:{port[1]}\n" in plain
    assert f"curl -x socks5h://localhost{tmp_path / 'socket'} https" in plain
    assert re.search(r"listening on 127\.0\.0\.1:(\d+) \(transparent=redirect\)(?s:.)* redirect to :\1\n", plain), plain
    assert "relayed as they are" in plain

    folder = tmp_path / "ca"
    warm.run([sys.executable, "-m", "muxwsgi", "ca", "init", "--folder", str(folder)], cwd=ROOT, check=True, capture_output=True)
    options = ("--mitm", "--ca-folder", str(folder), "-b", "127.0.0.1:0", "--tls-dev", "--hijack", "resp")
    inside = shown_on_a_terminal("proxy", *options, until="beside HTTP: resp.", folder=tmp_path)
    assert re.search(rf"curl -x https://127\.0\.0\.1:\d+ --proxy-insecure --cacert {folder}/ca\.pem https", inside), inside
    assert "socks5h" not in inside, "no client speaks SOCKS in TLS"
    assert f"muxwsgi ca export --folder {folder}`" in inside
    assert "Served in tunnels, beside HTTP: resp." in inside


def test_client_certificates_reach_the_application_in_mod_ssls_names(tmp_path: Path, make_certificate: Callable[[], CertificateFiles]) -> None:
    authority = Authority(tmp_path)
    mine = authority.leaf("alice.example", common_name="alice")
    (tmp_path / "names.py").write_text(
        "import json\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [json.dumps({k: v for k, v in environ.items() if k.startswith('SSL_') or k == 'HTTPS'}).encode()]\n"
    )
    files = make_certificate()
    options = ["--certfile", files.certfile, "--client-certificates", "required", "--ca-certs", authority.root, "--pythonpath", str(tmp_path)]
    with ServerProcess("names:app", *options) as server:
        context = insecure_context()
        context.load_cert_chain(mine.certfile, mine.keyfile)
        with context.wrap_socket(server.connect(), server_hostname="localhost") as sock:
            sock.sendall(GET)
            answer = sock.recv(10_000)
            while not answer.endswith(b"}"):
                answer += sock.recv(10_000)
        seen: dict[str, Any] = __import__("json").loads(answer.partition(b"\r\n\r\n")[2])
        assert seen["HTTPS"] == "on" and seen["SSL_PROTOCOL"] == "TLSv1.3" and seen["SSL_TLS_SNI"] == "localhost"
        assert seen["SSL_CLIENT_VERIFY"] == "SUCCESS" and seen["SSL_CLIENT_S_DN"] == "CN=alice"
        assert seen["SSL_CLIENT_I_DN"] == "CN=test intermediate" and seen["SSL_CLIENT_CERT"].startswith("-----BEGIN CERTIFICATE-----\n")
        with pytest.raises((ssl.SSLError, ConnectionResetError)), insecure_context().wrap_socket(server.connect()) as sock:
            sock.sendall(GET)
            sock.recv(1)


def connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_paths_of_options_are_those_of_the_operators_folder_whatever_the_application_does(tmp_path: Path) -> None:
    """Many programs change the folder when they are imported. Files are opened after that, and again later."""
    folder, other = tmp_path / "here", tmp_path / "there"
    folder.mkdir()
    other.mkdir()
    pair = Authority(folder).leaf("localhost")
    tls = ["--certfile", Path(pair.certfile).name, "--keyfile", Path(pair.keyfile).name]
    text = f"import os\nos.chdir({str(other)!r})\nfrom tests.server.logging_app import application\n"
    (folder / "moving_app.py").write_text(text)
    log, sock = folder / "access", folder / "sock"
    options = ["--chdir", str(folder), "--access-logfile=access", "-b", "unix:sock", *tls]
    with ServerProcess("moving_app", *options, environment={"PYTHONPATH": str(ROOT)}) as server:
        server.wait_for_log("listening")
        assert sock.is_socket()
        server.send_signal(signal.SIGHUP)
        server.wait_for_log_times("1 worker is ready", 2)
        server.send_signal(signal.SIGUSR1)
        server.wait_for_log("logs reopened")
        assert log.exists() and list(other.iterdir()) == []
        assert "failed" not in server.log
