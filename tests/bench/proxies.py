"""The forward proxies. Each verifies the origin's certificate, and signs leaves with the authority it is given or with its own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from tests.bench.packages import program_of
from tests.bench.peers import Peer, Start
from tests.bench.processes import ROOT, BenchError

__all__ = ["PROXY_PEERS"]

ADDONS = Path(__file__).parent / "addons"


def _muxwsgi(start: Start) -> list[str]:
    if start.mode != "tunnel":
        environment = {**os.environ, **_muxwsgi_environment(start)}
        subprocess.run([sys.executable, "-m", "muxwsgi", "ca", "init"], check=True, capture_output=True, cwd=ROOT, env=environment)
    return [sys.executable, "-m", "muxwsgi", "run", "tests.bench.proxy_app:proxy", "-b", start.address]


def _muxwsgi_environment(start: Start) -> dict[str, str]:
    """Its authority is made in a folder of this turn; `proxy_app` reads the rest."""
    assert start.origin is not None
    return {"XDG_DATA_HOME": str(start.folder), "BENCH_PROXY_MODE": start.mode, "BENCH_PROXY_ORIGIN": str(start.origin[0])}


def _mitmproxy(start: Start) -> list[str]:
    assert start.origin is not None
    settings = [
        f"confdir={start.folder}",
        "flow_detail=0",
        "termlog_verbosity=error",
        f"ssl_verify_upstream_trusted_ca={start.origin[0]}",
        f"http2={'true' if start.mode == 'grpc' else 'false'}",
    ]
    command = [program_of("mitmproxy", "mitmdump"), "--quiet", "--listen-host", "127.0.0.1", "--listen-port", str(start.port)]
    for setting in settings:
        command += ["--set", setting]
    if start.mode == "tunnel":
        return [*command, "--ignore-hosts", ".*"]
    if start.mode == "answer":
        # Else it connects upstream to look at the certificate.
        return [*command, "--set", "connection_strategy=lazy", "--set", "upstream_cert=false", "-s", str(ADDONS / "mitmproxy_answers.py")]
    return command


def _proxy_py(start: Start) -> list[str]:
    assert start.origin is not None and start.authority is not None
    leaf_key = start.folder / "leaf.key"
    # One key for all its leaves.
    subprocess.run(
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(leaf_key)], check=True, capture_output=True
    )
    command = [
        program_of("proxy.py", "proxy"),
        "--hostname",
        "127.0.0.1",
        "--port",
        str(start.port),
        "--num-workers",
        "1",
        "--num-acceptors",
        "1",
    ]
    command += ["--log-level", "ERROR", "--timeout", "600", "--data-dir", str(start.folder), "--backlog", "2048"]
    if start.mode == "tunnel":
        return command
    command += ["--ca-cert-file", str(start.authority[0]), "--ca-key-file", str(start.authority[1]), "--ca-signing-key-file", str(leaf_key)]
    command += ["--ca-cert-dir", str(start.folder), "--ca-file", str(start.origin[0])]
    if start.mode == "answer":
        command += ["--plugins", "tests.bench.addons.proxy_py_answers.Answers"]
    return command


def _proxy_py_environment(start: Start) -> dict[str, str]:
    return {"PYTHONPATH": str(ROOT)}


def _squid(start: Start) -> list[str]:
    assert start.origin is not None and start.authority is not None
    helper = next(
        (path for path in ("/usr/lib/squid/security_file_certgen", "/usr/lib64/squid/security_file_certgen") if Path(path).exists()), None
    )
    if helper is None:
        raise BenchError("squid has no security_file_certgen (Debian package squid-openssl)")
    authority = start.folder / "authority.pem"
    authority.write_bytes(start.authority[0].read_bytes() + start.authority[1].read_bytes())
    database = start.folder / "leaves"
    subprocess.run([helper, "-c", "-s", str(database), "-M", "4MB"], check=True, capture_output=True)
    bump = f"ssl-bump generate-host-certificates=on dynamic_cert_mem_cache_size=4MB tls-cert={authority}" if start.mode != "tunnel" else ""
    rules = "acl first at_step SslBump1\nssl_bump peek first\nssl_bump bump all" if start.mode != "tunnel" else ""
    configuration = start.folder / "squid.conf"
    configuration.write_text(f"""
http_port {start.address} {bump}
{rules}
sslcrtd_program {helper} -s {database} -M 4MB
sslcrtd_children 1 startup=1
tls_outgoing_options cafile={start.origin[0]}
http_access allow all
cache deny all
access_log none
cache_log {start.folder}/cache.log
cache_store_log none
pid_filename {start.folder}/squid.pid
coredump_dir {start.folder}
netdb_filename none
pinger_enable off
shutdown_lifetime 0 seconds
""")
    # Squid gives root's rights up, and then needs its files.
    for path in (start.folder, *start.folder.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    return ["squid", "-N", "-f", str(configuration)]


PROXY_PEERS: tuple[Peer, ...] = (
    Peer(
        name="muxwsgi-proxy",
        title="muxwsgi",
        command=_muxwsgi,
        environment=_muxwsgi_environment,
        cannot={} if importlib.util.find_spec("muxwsgi.proxy") else {"proxy": "muxwsgi.proxy is not in this checkout"},
    ),
    Peer(name="mitmproxy", title="mitmdump", command=_mitmproxy, needs="mitmproxy"),
    Peer(name="proxy.py", title="proxy.py", command=_proxy_py, environment=_proxy_py_environment, needs="proxy.py"),
    Peer(name="squid", title="squid, ssl_bump", command=_squid, needs="squid", cannot={"answer": "cannot answer by itself"}),
)
