"""The peers: how each is started, on one worker, without an access log, and what it cannot do.

`python -m tests.bench --list` shows them all. Settings differ from a peer's defaults only where the default would end idle connections or
refuse many of them, and are the same for every load.
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["FILE_PEERS", "FILE_SIZES", "HTTP2_PEERS", "HTTP_PEERS", "WEBSOCKET_PEERS", "Peer", "Start", "haproxy_front", "nginx_configuration", "nginx_front"]

BIN = Path(sys.executable).parent
#: Seconds that idle connections are kept: longer than any turn.
KEEP = "600"
#: Files that peers serve, and their bytes.
FILE_SIZES = {"1k": 1 << 10, "1m": 1 << 20, "100m": 100 << 20}
#: Connections that are let in.
MANY = "15000"


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a peer is started with.

    port          to listen at, on 127.0.0.1
    app           the WSGI application, as module:name
    certificate   certificate and key in PEM where clients speak TLS to the peer
    folder        a folder of its own for its files
    workers       processes that serve
    mode          of a proxy: forward, grpc, answer or tunnel
    origin        the certificate and key of the server behind a proxy: it is its own authority
    authority     certificate and key that proxies sign with
    upstream      port of the server behind a relay
    """

    port: int
    app: str
    certificate: tuple[Path, Path] | None
    folder: Path
    workers: int = 1
    mode: str = ""
    origin: tuple[Path, Path] | None = None
    authority: tuple[Path, Path] | None = None
    upstream: int = 0

    @property
    def files_folder(self) -> Path:
        return self.folder / "files"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def files(self, certificate: str, key: str) -> list[str]:
        """The two flags with their files, where there is TLS."""
        return [certificate, str(self.certificate[0]), key, str(self.certificate[1])] if self.certificate else []


@dataclass(frozen=True, kw_only=True)
class Peer:
    """`command(start)` starts it; `needs` is a package of `packages.PACKAGES` or a program of Debian's.

    cannot    load or mode by name, with the reason
    """

    name: str
    title: str
    command: Callable[[Start], list[str]]
    needs: str = ""
    cannot: Mapping[str, str] = field(default_factory=dict)
    environment: Callable[[Start], dict[str, str]] = lambda start: {}


def _muxwsgi(start: Start) -> list[str]:
    files = start.files("--certfile", "--keyfile")
    return [sys.executable, "-m", "muxwsgi", "run", start.app, "-b", start.address, "-w", str(start.workers), "--keep-alive", KEEP, *files]


def _script(name: str) -> Callable[[Start], list[str]]:
    def command(start: Start) -> list[str]:
        files = [str(file) for file in start.certificate or ()]
        return [sys.executable, "-m", f"tests.bench.servers.{name}", str(start.port), start.app, *files]

    return command


def _granian(start: Start) -> list[str]:
    command = [str(BIN / "granian"), "--interface", "wsgi", "--host", "127.0.0.1", "--port", str(start.port), "--http", "1", "--no-ws"]
    command += ["--workers", str(start.workers), "--runtime-threads", "1", "--blocking-threads", "1", "--no-log", "--backpressure", MANY]
    return [*command, *start.files("--ssl-certificate", "--ssl-keyfile"), start.app]


def _uwsgi(start: Start) -> list[str]:
    # Its http-socket closes behind every answer without saying so; its http11-socket serves one connection at a time, or hangs with gevent.
    command = [str(BIN / "uwsgi"), "--http-socket", start.address, "--home", str(BIN.parent), "--wsgi", start.app]
    command += ["--processes", str(start.workers), *(["--master"] if start.workers > 1 else [])]
    command += ["--need-app", "--add-header", "Connection: close", "--buffer-size", "16384"]
    return [*command, "--disable-logging", "--die-on-term", "--listen", "2048"]


def _uwsgi_gevent(start: Start) -> list[str]:
    return [*_uwsgi(start), "--gevent", "100", "--gevent-monkey-patch"]


def _gunicorn(*worker: str) -> Callable[[Start], list[str]]:
    def command(start: Start) -> list[str]:
        command = [sys.executable, "-m", "gunicorn", *worker, "-w", str(start.workers), "--worker-connections", MANY, "--keep-alive", KEEP]
        return [*command, "--log-level", "error", "-b", start.address, *start.files("--certfile", "--keyfile"), start.app]

    return command


def _waitress(start: Start) -> list[str]:
    command = [sys.executable, "-m", "waitress", f"--listen={start.address}", "--threads=4", f"--connection-limit={MANY}"]
    return [*command, "--asyncore-use-poll", f"--channel-timeout={KEEP}", start.app]


def _hypercorn(start: Start) -> list[str]:
    command = [sys.executable, "-m", "hypercorn", "-w", "1", "-b", start.address, "--backlog", "2048", "--keep-alive", KEEP]
    return [*command, *start.files("--certfile", "--keyfile"), f"wsgi:{start.app}"]


def nginx_configuration(
    folder: Path, listen: str, certificate: tuple[Path, Path] | None, body: str, *, http2: bool = False, root: Path | None = None
) -> Path:
    """A file for nginx that answers everything with `body`, or from the folder `root`. `listen` are addresses, separated by spaces."""
    tls = ""
    if certificate:
        # Debian's nginx of 2022 speaks no TLS 1.3 unless it is told to, and a handshake of 1.2 is another thing.
        tls = f"ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {certificate[0]}; ssl_certificate_key {certificate[1]}; "
        tls += "ssl_session_cache shared:bench:10m;"
    listens = " ".join(f"listen {address}{' ssl' if certificate else ''}{' http2' if http2 else ''} backlog=2048;" for address in listen.split())
    if root is not None:
        location = f"location / {{ root {root}; sendfile on; tcp_nopush on; }} location /files/ {{ alias {root}/; sendfile on; tcp_nopush on; }}"
    else:
        location = f'location / {{ return 200 "{body}"; }}'
    # Who runs the benchmark owns its folders, which are for nobody else.
    user = "user root;" if os.geteuid() == 0 else ""
    path = folder / "nginx.conf"
    path.write_text(f"""
daemon off; {user} worker_processes 1; pid {folder}/nginx.pid; error_log stderr error; worker_rlimit_nofile {MANY};
events {{ worker_connections {MANY}; }}
http {{
    access_log off; keepalive_timeout {KEEP}; keepalive_requests 1000000000; default_type text/plain;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{ {listens} {tls} {location} }}
}}
""")
    return path


def nginx_front(folder: Path, port: int, upstream: int) -> Path:
    """A file for nginx in front of a server, as conf/nginx.conf has it: connections to the server are kept, and a GET may be sent again."""
    path = folder / "front.conf"
    path.write_text(f"""
daemon off; worker_processes 1; pid {folder}/front.pid; error_log stderr crit; worker_rlimit_nofile {MANY};
events {{ worker_connections {MANY}; }}
http {{
    access_log off; keepalive_timeout {KEEP}; keepalive_requests 1000000000;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    upstream app {{ server 127.0.0.1:{upstream} fail_timeout=0; keepalive 64; }}
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location / {{
            proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;
            proxy_next_upstream error timeout;
        }}
    }}
}}
""")
    return path


def haproxy_front(folder: Path, port: int, upstream: int) -> Path:
    """The same for HAProxy, with its own habits: it keeps connections, and sends no request again."""
    path = folder / "front.cfg"
    path.write_text(f"""
global
    maxconn 5000
    nbthread 1
defaults
    mode http
    timeout connect 5s
    timeout client 600s
    timeout server 600s
frontend front
    bind 127.0.0.1:{port}
    default_backend app
backend app
    server app 127.0.0.1:{upstream}
""")
    return path


def _nginx(start: Start) -> list[str]:
    configuration = nginx_configuration(start.folder, start.address, start.certificate, "Hello, World!")
    return ["nginx", "-e", "stderr", "-c", str(configuration)]


def _granian_rsgi(start: Start) -> list[str]:
    command = [str(BIN / "granian"), "--interface", "rsgi", "--host", "127.0.0.1", "--port", str(start.port), "--http", "1", "--loop", "uvloop"]
    return [*command, "--workers", "1", "--runtime-threads", "1", "--no-log", "tests.bench.applications.websocket_rsgi:application"]


_NO_TLS = {"tls": "speaks no TLS"}
_NGINX = dict.fromkeys(("flask", "django", "post", "stream"), "runs no applications")
_BJOERN = {**_NO_TLS, "pipeline": "answers only the first of the requests that come together"}
_UWSGI = {**_NO_TLS, "stream": "ends a body of unknown length by closing, which wrk counts as an error"}
_PYWSGI = {"churn": "closes without saying so in the answer, which wrk counts as an error"}

HTTP_PEERS: tuple[Peer, ...] = (
    Peer(name="muxwsgi", title="muxwsgi", command=_muxwsgi),
    Peer(name="nginx", title="nginx, a constant", command=_nginx, needs="nginx", cannot=_NGINX),
    Peer(name="bjoern", title="bjoern", command=_script("bjoern"), needs="bjoern", cannot=_BJOERN),
    Peer(name="granian", title="granian", command=_granian, needs="granian"),
    Peer(name="uwsgi", title="uWSGI, http-socket (no keep-alive)", command=_uwsgi, needs="uwsgi", cannot=_UWSGI),
    Peer(name="uwsgi-gevent", title="uWSGI, gevent (no keep-alive)", command=_uwsgi_gevent, needs="uwsgi", cannot=_UWSGI),
    Peer(name="gunicorn-gevent", title="gunicorn, gevent", command=_gunicorn("-k", "gevent"), needs="gunicorn"),
    Peer(name="gunicorn-gthread", title="gunicorn, 16 threads", command=_gunicorn("-k", "gthread", "--threads", "16"), needs="gunicorn"),
    Peer(name="waitress", title="waitress", command=_waitress, needs="waitress", cannot=_NO_TLS),
    Peer(name="cheroot", title="cheroot", command=_script("cheroot"), needs="cheroot"),
    Peer(name="pywsgi", title="gevent.pywsgi", command=_script("pywsgi"), cannot=_PYWSGI),
    Peer(name="hypercorn", title="hypercorn", command=_hypercorn, needs="hypercorn"),
)

STREAM_PEERS: tuple[Peer, ...] = (
    Peer(name="muxwsgi-echo", title="muxwsgi, a hijacker", command=_script("muxwsgi_echo")),
    Peer(name="bare-streamserver", title="bare gevent StreamServer", command=_script("bare_echo")),
    Peer(name="bare-mux", title="bare gevent StreamServer, first bytes", command=_script("bare_mux")),
    Peer(name="bare-openssl", title="bare sockets, pyOpenSSL", command=_script("bare_openssl")),
)

_NO_DEFLATE = dict.fromkeys(
    [f"websocket-{size}{many}-deflate" for size in ("125", "64k", "1m") for many in ("", "-16")], "has no permessage-deflate"
)

WEBSOCKET_PEERS: tuple[Peer, ...] = (
    Peer(name="picows", title="picows, uvloop", command=_script("picows_echo"), needs="picows", cannot=_NO_DEFLATE),
    Peer(name="websockets", title="websockets, uvloop", command=_script("websockets_echo"), needs="websockets"),
    Peer(name="granian-rsgi", title="granian, RSGI, uvloop", command=_granian_rsgi, needs="granian", cannot=_NO_DEFLATE),
    Peer(
        name="gevent-websocket",
        title="gevent-websocket, pywsgi",
        command=_script("gevent_websocket_echo"),
        needs="gevent-websocket",
        cannot=_NO_DEFLATE,
    ),
)


def _granian_http2(start: Start) -> list[str]:
    command = _granian(start)
    command[command.index("--http") + 1] = "2"
    return command


def _gunicorn_http2(start: Start) -> list[str]:
    command = _gunicorn("-k", "gevent", "--http-protocols", "h2,h1", "--http2-cleartext", "prior-knowledge")
    return command(start)


def _nghttpd(start: Start) -> list[str]:
    files = [str(start.certificate[1]), str(start.certificate[0])] if start.certificate else []
    return ["nghttpd", "-a", "127.0.0.1", "-d", str(start.files_folder), *([] if files else ["--no-tls"]), str(start.port), *files]


def _nginx_http2(start: Start) -> list[str]:
    configuration = nginx_configuration(start.folder, start.address, start.certificate, "Hello, World!", http2=True)
    return ["nginx", "-e", "stderr", "-c", str(configuration)]


def _nginx_files(http2: bool) -> Callable[[Start], list[str]]:
    def command(start: Start) -> list[str]:
        configuration = nginx_configuration(start.folder, start.address, start.certificate, "", http2=http2, root=start.files_folder)
        return ["nginx", "-e", "stderr", "-c", str(configuration)]

    return command


def _muxwsgi_static(start: Start) -> list[str]:
    return [*_muxwsgi(start), "--static", f"/files={start.files_folder}"]


def _granian_static(start: Start) -> list[str]:
    command = _granian(start)
    options = ["--static-path-route", "/files", "--static-path-mount", str(start.files_folder)]
    return [*command[:-1], *options, command[-1]]


def _folder(start: Start) -> dict[str, str]:
    return {"BENCH_FOLDER": str(start.files_folder)}


HTTP2_PEERS: tuple[Peer, ...] = (
    Peer(name="nghttpd", title="nghttpd, a file", command=_nghttpd, needs="nghttpd"),
    Peer(name="nginx-http2", title="nginx, a constant", command=_nginx_http2, needs="nginx"),
    Peer(name="nginx-files-http2", title="nginx, a file", command=_nginx_files(True), needs="nginx"),
    Peer(name="gunicorn-http2", title="gunicorn, gevent", command=_gunicorn_http2, needs="gunicorn"),
    Peer(name="granian-http2", title="granian", command=_granian_http2, needs="granian"),
)

FILE_PEERS: tuple[Peer, ...] = (
    Peer(name="muxwsgi-static", title="muxwsgi, --static", command=_muxwsgi_static),
    Peer(name="nginx-files", title="nginx", command=_nginx_files(False), needs="nginx"),
    Peer(name="gunicorn-files", title="gunicorn, gevent", command=_gunicorn("-k", "gevent"), needs="gunicorn", environment=_folder),
    Peer(name="granian-static", title="granian, static mount", command=_granian_static, needs="granian"),
)
