"""HAProxy and nginx in front: the client is the client, whatever it sends."""

import json
import re
import socket
import ssl
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from muxwsgi.settings import CertificateFiles
from tests import warm
from tests.server.fronts import haproxy, nginx
from tests.system.server_process import ServerProcess, insecure_context
from tests.waiting import wait_for

APP = "tests.server.fronted_app:application"

#: What a client sends that would be another one.
FORGED = (
    "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.example\r\nX-Forwarded-Prefix: /evil\r\n"
    "X-Forwarded-Port: 1\r\nForwarded: for=127.0.0.1;proto=https;host=evil.example\r\nSCRIPT_NAME: /evil\r\nX-SSL-Client-Cert: x\r\n"
)


def get(port: int, fields: str = "", *, tls: ssl.SSLContext | None = None, source: str = "127.0.0.7") -> dict[str, Any]:
    """What the application says of a client at 127.0.0.7, and the port of that client as `port`."""
    sock: Any = socket.create_connection(("127.0.0.1", port), 20, source_address=(source, 0))
    with closing(sock):
        own = sock.getsockname()[1]
        if tls is not None:
            sock = tls.wrap_socket(sock, server_hostname="localhost")
        sock.sendall(f"GET /path HTTP/1.1\r\nHost: shop.example\r\n{fields}Connection: close\r\n\r\n".encode())
        answer = b""
        while data := sock.recv(65536):
            answer += data
        sock.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), answer
    if b"chunked" in head.lower():
        body = body.partition(b"\r\n")[2].rpartition(b"\r\n0\r\n")[0]
    return {"port": str(own), **json.loads(body)}


def is_client(seen: dict[str, Any]) -> bool:
    return (seen["REMOTE_ADDR"], seen["REMOTE_PORT"]) == ("127.0.0.7", seen["port"])


def tcp_front(server: ServerProcess, options: str, bind: str = "") -> str:
    return f"""
listen front
    mode tcp
    bind 127.0.0.1:PORT {bind}
    server muxwsgi 127.0.0.1:{server.port} {options}
"""


# The PROXY protocol


@pytest.mark.parametrize(("way", "version"), [("send-proxy", 1), ("send-proxy-v2", 2)])
def test_haproxy_names_the_client(tmp_path: Path, way: str, version: int) -> None:
    with ServerProcess(APP, "--proxy-protocol", "--access-logfile", str(tmp_path / "access")) as server, haproxy(tmp_path, tcp_front(server, way)) as port:
        seen = get(port, FORGED.replace("X-Forwarded-Proto: https\r\n", ""))  # from 127.0.0.7 it would be believed
        assert is_client(seen) and seen["version"] == version
        assert (seen["SERVER_NAME"], seen["SERVER_PORT"]) == ("127.0.0.1", str(port))
        assert (seen["wsgi.url_scheme"], seen["HTTP_HOST"], seen["SCRIPT_NAME"]) == ("http", "shop.example", "")
    assert (tmp_path / "access").read_text().startswith("127.0.0.7 - - ")


def test_haproxy_passes_tls_through_behind_its_header(tmp_path: Path) -> None:
    with ServerProcess(APP, "--proxy-protocol=v2", tls=True) as server, haproxy(tmp_path, tcp_front(server, "send-proxy-v2")) as port:
        for _ in range(5):
            seen = get(port, tls=insecure_context())
            assert is_client(seen) and seen["wsgi.url_scheme"] == "https" and seen["SSL_PROTOCOL"] == "TLSv1.3"


def test_haproxy_ends_tls_and_says_what_it_knows(tmp_path: Path, make_certificate: Callable[[], CertificateFiles]) -> None:
    files = make_certificate()
    pem = tmp_path / "both.pem"
    pem.write_text(Path(files.certfile).read_text() + Path(files.keyfile).read_text())
    bind = f"ssl crt {pem} ca-file {files.certfile} verify optional crt-ignore-err all ca-ignore-err all alpn http/1.1"
    options = "send-proxy-v2-ssl-cn proxy-v2-options crc32c,authority,ssl,cert-cn,ssl-cipher,unique-id"
    front = tcp_front(_Later(), options, bind).replace("mode tcp", "mode tcp\n    unique-id-format %ci:%cp")
    log = tmp_path / "access"
    logged = ("--access-logfile", str(log), "--access-logformat", "%(h)s %({PROXY_PROTOCOL_TLV_UNIQUE_ID}e)s %({SSL_TLS_SNI}e)s")
    with ServerProcess(APP, *logged, bind_options=",proxy-protocol") as server, haproxy(tmp_path, front.replace("0000", str(server.port))) as port:
        seen = get(port, tls=insecure_context())
        assert is_client(seen) and (seen["wsgi.url_scheme"], seen["HTTPS"]) == ("https", "on")
        assert (seen["authority"], seen["SSL_TLS_SNI"]) == ("localhost", "localhost")
        assert seen["unique_id"] == f"127.0.0.7:{seen['port']}"
        wait_for(log.read_text, "no line")
        assert log.read_text() == f"127.0.0.7 127.0.0.7:{seen['port']} localhost\n"
        assert seen["SSL_PROTOCOL"] == "TLSv1.3" and seen["SSL_CIPHER"].startswith("TLS_") and seen["SSL_CLIENT_VERIFY"] == "NONE"
        context = insecure_context()
        context.load_cert_chain(files.certfile, files.keyfile)
        shown = get(port, tls=context)
        assert shown["SSL_CLIENT_VERIFY"] in ("SUCCESS", "GENEROUS") and shown["SSL_CLIENT_S_DN_CN"]


class _Later:
    """A server whose port is put in later."""

    port = "0000"


def test_the_checks_of_haproxy_are_the_load_balancers_own_and_no_errors(tmp_path: Path) -> None:
    front = tcp_front(_Later(), "send-proxy-v2 check-send-proxy check inter 200ms", "").replace("mode tcp", "mode tcp\n    option httpchk GET /ready")
    with ServerProcess(APP, "--proxy-protocol", "--access-logfile", str(tmp_path / "access")) as server, haproxy(tmp_path, front.replace("0000", str(server.port))) as port:
        assert is_client(get(port))
        wait_for(lambda: re.search(r'^127\.0\.0\.1 .*"GET /ready', (tmp_path / "access").read_text(), re.M), "no check came")
        assert "Traceback" not in server.log


def test_nginx_names_the_client(tmp_path: Path) -> None:
    with ServerProcess(APP, "--proxy-protocol=v1") as server:
        stream = f"stream {{ server {{ listen 127.0.0.1:PORT; proxy_pass 127.0.0.1:{server.port}; proxy_protocol on; }} }}"
        with nginx(tmp_path, stream) as port:
            seen = get(port)
            assert is_client(seen) and seen["version"] == 1


def test_a_client_that_goes_past_the_load_balancer_is_refused(tmp_path: Path) -> None:
    with ServerProcess(APP, "--proxy-protocol", "--proxy-allow-ips", "127.0.0.1") as server:
        with socket.create_connection(("127.0.0.1", server.port), 20, source_address=("127.0.0.7", 0)) as sock:
            sock.sendall(b"PROXY TCP4 127.0.0.1 127.0.0.1 1 1\r\nGET / HTTP/1.0\r\n\r\n")
            try:
                assert sock.recv(100) == b""
            except ConnectionResetError:
                pass
        assert is_client(_through_header(server.port))


def _through_header(port: int) -> dict[str, Any]:
    with socket.create_connection(("127.0.0.1", port), 20) as sock:
        sock.sendall(b"PROXY TCP4 127.0.0.7 127.0.0.1 4711 1\r\nGET / HTTP/1.0\r\n\r\n")
        answer = b""
        while data := sock.recv(65536):
            answer += data
    return {"port": "4711", **json.loads(answer.partition(b"\r\n\r\n")[2])}


def test_the_flag_without_a_value_is_auto_as_in_gunicorn() -> None:
    done = warm.run([sys.executable, "-m", "muxwsgi", "run", APP, "--proxy-protocol", "v3"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "v3" in done.stderr


# Forwarding fields


NGINX_HTTP = """
http {{
    access_log off;
    server {{
        listen 127.0.0.1:PORT;
        location / {{
            proxy_pass http://127.0.0.1:{port};
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
}}
"""


def test_behind_nginx_as_its_users_configure_it(tmp_path: Path) -> None:
    log = tmp_path / "access"
    with ServerProcess(APP, "--forwarded-allow-ips", "127.0.0.1", "--access-logfile", str(log)) as server:
        with nginx(tmp_path, NGINX_HTTP.format(port=server.port)) as port:
            for fields in ("", FORGED):
                seen = get(port, fields)
                assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"], seen["HTTP_HOST"]) == ("127.0.0.7", "http", "shop.example")
                assert (seen["SCRIPT_NAME"], seen["PATH_INFO"], seen["SERVER_PORT"]) == ("", "/path", "80")
                assert "HTTP_FORWARDED" not in seen and "HTTP_X_FORWARDED_HOST" not in seen
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["127.0.0.7"] * 2


def test_behind_haproxy_that_passes_on_what_it_does_not_know(tmp_path: Path) -> None:
    front = """
listen front
    mode http
    bind 127.0.0.1:PORT
    option forwardfor
    http-request set-header X-Forwarded-Proto http
    server muxwsgi 127.0.0.1:{port}
"""
    with ServerProcess(APP, "--forwarded-allow-ips", "127.0.0.1/32", "--forwarder-headers", "SCRIPT_NAME") as server:
        with haproxy(tmp_path, front.format(port=server.port)) as port:
            seen = get(port, FORGED.replace("SCRIPT_NAME: /evil\r\n", ""))
            assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"], seen["HTTP_HOST"], seen["SCRIPT_NAME"]) == ("127.0.0.7", "http", "shop.example", "")


def test_variables_that_gunicorn_reads() -> None:
    environment = {"FORWARDED_ALLOW_IPS": "127.0.0.7", "SCRIPT_NAME": "/path"}
    with ServerProcess(APP, environment=environment) as server:
        seen = get(server.port, "X-Forwarded-For: 192.0.2.1\r\n")
        assert (seen["REMOTE_ADDR"], seen["SCRIPT_NAME"], seen["PATH_INFO"]) == ("192.0.2.1", "/path", "")
        assert get(server.port, "X-Forwarded-For: 192.0.2.1\r\n", source="127.0.0.8")["REMOTE_ADDR"] == "127.0.0.8"
