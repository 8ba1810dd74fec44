"""The peers of the group `relay`: each passes all that is not HTTP, or all of it, on to one server."""

import os
import sys

from tests.bench.peers import KEEP, Peer, Start

__all__ = ["RELAY_PEERS"]

#: Connections that are let in. Each needs two descriptors.
MANY = "5000"


def _muxwsgi(start: Start) -> list[str]:
    own = [sys.executable, "-m", "muxwsgi", "run", start.app, "-b", start.address, *start.files("--certfile", "--keyfile")]
    return [*own, "--fallback", f"forward:127.0.0.1:{start.upstream}"]


def _haproxy(start: Start) -> list[str]:
    tls = ""
    if start.certificate:
        both = start.folder / "both.pem"
        both.write_text("".join(file.read_text() for file in start.certificate))
        tls = f"ssl crt {both}"
    path = start.folder / "haproxy.cfg"
    path.write_text(f"""
global
    maxconn {MANY}
    nbthread 1
defaults
    mode tcp
    timeout connect 5s
    timeout client {KEEP}s
    timeout server {KEEP}s
listen relay
    bind {start.address} {tls}
    server upstream 127.0.0.1:{start.upstream}
""")
    return ["haproxy", "-db", "-f", str(path)]


def _nginx(start: Start) -> list[str]:
    tls, listen = "", ""
    if start.certificate:
        listen = "ssl"
        tls = f"ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {start.certificate[0]}; ssl_certificate_key {start.certificate[1]};"
    module = "/usr/lib/nginx/modules/ngx_stream_module.so"
    load = f"load_module {module};" if os.path.exists(module) else ""
    user = "user root;" if os.geteuid() == 0 else ""
    path = start.folder / "nginx.conf"
    path.write_text(f"""
{load} daemon off; {user} worker_processes 1; pid {start.folder}/nginx.pid; error_log stderr error; worker_rlimit_nofile {MANY};
events {{ worker_connections {MANY}; }}
stream {{
    server {{ listen {start.address} {listen} backlog=2048; {tls} proxy_timeout {KEEP}s; proxy_pass 127.0.0.1:{start.upstream}; }}
}}
""")
    return ["nginx", "-e", "stderr", "-c", str(path)]


def _sslh(start: Start) -> list[str]:
    return ["sslh-select", "-f", "-n", "-p", start.address, "--anyprot", f"127.0.0.1:{start.upstream}"]


RELAY_PEERS: tuple[Peer, ...] = (
    Peer(name="muxwsgi-relay", title="muxwsgi", command=_muxwsgi),
    Peer(name="haproxy", title="HAProxy, tcp", command=_haproxy, needs="haproxy"),
    Peer(name="nginx-stream", title="nginx, stream", command=_nginx, needs="nginx"),
    Peer(name="sslh", title="sslh-select", command=_sslh, needs="sslh", cannot={"tls": "speaks no TLS"}),
)
