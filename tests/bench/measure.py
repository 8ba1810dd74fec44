"""One turn of one peer under one load."""

import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench.answers import await_echo, await_http, await_http2, await_port, await_relay, await_tunnel, called
from tests.bench.applications.hello import BODY
from tests.bench.clients import Nothing, Reloads, Starts, Target, TwoAtOnce, Wrk
from tests.bench.idle import held
from tests.bench.loads import Load
from tests.bench.peers import FILE_SIZES, Peer, Start, haproxy_front, nginx_configuration, nginx_front
from tests.bench.processes import LOAD_CPU, SERVER_CPU, BenchError, cpu_seconds, memory, started
from tests.bench.results import Figures

__all__ = ["Certificates", "make_certificates", "measure"]

WARM_UP = 1
#: Connections held before idle ones are counted, so that what a server makes once is not theirs.
FIRST = 100


@dataclass(frozen=True)
class Certificates:
    """Certificate and key, PEM: of servers and the origin behind proxies (P-256, for localhost), and of the authority of proxies."""

    server: tuple[Path, Path]
    authority: tuple[Path, Path]


def make_certificates(folder: Path) -> Certificates:
    server, authority = (folder / "server.pem", folder / "server.key"), (folder / "authority.pem", folder / "authority.key")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    _certificate(server, *curve, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    _certificate(authority, *curve, "-subj", "/CN=bench", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    return Certificates(server, authority)


def _certificate(files: tuple[Path, Path], *options: str) -> None:
    command = ["openssl", "req", "-x509", "-nodes", "-days", "2", *options, "-out", str(files[0]), "-keyout", str(files[1])]
    subprocess.run(command, check=True, capture_output=True)


def measure(peer: Peer, load: Load, certificates: Certificates, seconds: int) -> Figures:
    """Start `peer`, see that it answers right, warm it up, load it for `seconds`, stop it. Raises `BenchError`."""
    with _folder(peer.name) as folder, _origin(load, certificates, folder) as (upstream, origin):
        start = Start(
            port=_free_port(),
            app=load.app,
            certificate=certificates.server if load.tls else None,
            folder=folder,
            workers=load.workers,
            mode=load.mode,
            origin=certificates.server,
            authority=certificates.authority,
            upstream=upstream,
        )
        target = Target(start.port, load.tls, load.path, load.body, folder, upstream, workers=load.workers)
        _make_files(start.files_folder, load)
        log = folder / "output"
        try:
            if isinstance(load.client, Starts):
                return _starts(peer, start, target, load, load.client.number, log)
            with started(peer.command(start), SERVER_CPU, log, peer.environment(start)) as server:
                _check(server, target, load)
                if isinstance(load.client, Reloads):
                    return _reloads(server, target, load)
                return _load(server, target, load, seconds, origin)
        except BenchError as error:
            said = log.read_text(errors="replace").strip()[-600:] if log.exists() else ""
            raise BenchError(f"{error}{f'; it said: {said}' if said else ''}") from None


def _check(server: "subprocess.Popen[bytes]", target: Target, load: Load) -> None:
    both = isinstance(load.client, TwoAtOnce)
    echoes = both or (isinstance(load.client, Wrk) and bool(load.client.echo))
    if echoes:
        await_echo(server, target)
    if load.group == "proxy":
        await_tunnel(server, target, BODY)
    elif load.group == "relay":
        await_relay(server, target)
    elif load.group in ("websocket", "grpc"):
        await_port(server, target)
    elif load.group == "http2":
        await_http2(server, target)
    elif both or not echoes:
        file = target.folder / "files" / load.path.rpartition("/")[2]
        await_http(server, target, file.read_bytes() if load.group == "files" else called(load.app, load.path, load.body))


def _make_files(folder: Path, load: Load) -> None:
    """What is asked for, where files are served; `index.html` is hello."""
    if load.group not in ("files", "http2"):
        return
    folder.mkdir()
    (folder / "index.html").write_bytes(BODY)
    name = load.path.rpartition("/")[2]
    if name in FILE_SIZES:
        (folder / name).write_bytes(bytes(range(256)) * (FILE_SIZES[name] // 256))


def _load(server: "subprocess.Popen[bytes]", target: Target, load: Load, seconds: int, origin: int) -> Figures:
    """`origin` is the process behind a proxy, which works on the load's processor, or 0."""
    if isinstance(load.client, Nothing):
        return _memory(server, target, load.idle, load.group == "relay")
    with held(target, load.idle):
        load.client.run(target, WARM_UP)
        began, used_before, origin_before = time.monotonic(), cpu_seconds(server.pid), cpu_seconds(origin)
        report = load.client.run(target, seconds)
        passed, used, origin_used = time.monotonic() - began, cpu_seconds(server.pid) - used_before, cpu_seconds(origin) - origin_before
        rss, pss = memory(server.pid)
        spread = _spread(target) if load.group == "workers" else {}
    if report is None:
        raise BenchError("this load makes no requests")
    return Figures(
        speed=report.requests / report.seconds,
        cpu=used / report.requests * 1e6,
        p50=report.p50,
        p99=report.p99,
        server_busy=used / passed,
        load_busy=(report.cpu + origin_used) / passed,
        rss=rss,
        pss=pss,
        more={**report.more, **spread},
    )


def _starts(peer: Peer, start: Start, target: Target, load: Load, number: int, log: Path) -> Figures:
    """Start it again and again. Between two attempts to connect, this process waits for a millisecond."""
    times, used = [], []
    expected = called(load.app, load.path, load.body)
    pss = rss = 0.0
    for _ in range(number):
        began = time.monotonic()
        with started(peer.command(start), SERVER_CPU, log, peer.environment(start)) as server:
            await_http(server, target, expected, pause=0.001)
            times.append((time.monotonic() - began) * 1e3)
            used.append(cpu_seconds(server.pid, precise=True) * 1e3)
            rss, pss = memory(server.pid)
    return Figures(rss=rss, pss=pss, more={"first": statistics.median(times), "first_cpu": statistics.median(used)})


def _reloads(server: "subprocess.Popen[bytes]", target: Target, load: Load) -> Figures:
    with _front(load, target) as port:
        report = load.client.run(replace(target, port=port, master=server.pid, workers=load.workers), 0)
        rss, pss = memory(server.pid)
    assert report is not None
    return Figures(p99=report.p99, rss=rss, pss=pss, more={**report.more, "requests": report.requests})


@contextmanager
def _front(load: Load, target: Target) -> Iterator[int]:
    """What stands before the server, on the load's processor. Yields the port for clients."""
    if not load.front:
        yield target.port
        return
    folder = target.folder / "front"
    folder.mkdir()
    port = _free_port()
    if load.front == "nginx":
        command = ["nginx", "-e", "stderr", "-c", str(nginx_front(folder, port, target.port))]
    else:
        command = ["haproxy", "-db", "-f", str(haproxy_front(folder, port, target.port))]
    with started(command, LOAD_CPU, folder / "output") as front:
        await_http(front, replace(target, port=port), called(load.app, load.path, load.body))
        yield port


def _spread(target: Target, number: int = 64) -> dict[str, float]:
    """The connections, of `number` that come at once, of the worker with the fewest and of the one with the most."""
    socks = [socket.create_connection(("127.0.0.1", target.port), 10) for _ in range(number)]
    found: Counter[bytes] = Counter()
    try:
        for sock in socks:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for sock in socks:
            answer = sock.recv(4096)
            found[answer.lower().partition(b"\r\nx-worker:")[2].partition(b"\r\n")[0]] += 1
    finally:
        for sock in socks:
            sock.close()
    if b"" in found:
        raise BenchError("an answer has no X-Worker")
    return {"fewest": float(min(found.values())) if len(found) == target.workers else 0.0, "most": float(max(found.values()))}


def _memory(server: "subprocess.Popen[bytes]", target: Target, number: int, relayed: bool) -> Figures:
    with held(target, FIRST, relayed):
        _, before = memory(server.pid)
        with held(target, number, relayed):
            rss, pss = memory(server.pid)
    return Figures(rss=rss, pss=pss, more={"connection": (pss - before) / number})


@contextmanager
def _folder(name: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f"bench-{name}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _origin(load: Load, certificates: Certificates, folder: Path) -> Iterator[tuple[int, int]]:
    """The server behind a proxy or a relay, on the load's processor: nginx with TLS and a constant, a gRPC server, or `relay_upstream`. Yields
    its port and process, or zeros."""
    if load.group == "relay":
        port = _free_port()
        command = [sys.executable, "-m", "tests.bench.generators.relay_upstream", str(port)]
        with started(command, LOAD_CPU, folder / "upstream") as upstream:
            await_port(upstream, Target(port, False, "/", b"", folder))
            yield port, upstream.pid
        return
    if load.group not in ("proxy", "grpc"):
        yield 0, 0
        return
    files = folder / "origin"
    files.mkdir()
    port = _free_port()
    if load.group == "grpc":
        command = [sys.executable, "-m", "tests.bench.servers.grpc_origin", str(port), *map(str, certificates.server)]
        with started(command, LOAD_CPU, files / "output") as origin:
            await_port(origin, Target(port, True, "/", b"", files))
            yield port, origin.pid
        return
    listen = f"127.0.0.1:{port}" + (f" [::1]:{port}" if socket.has_ipv6 and Path("/proc/net/if_inet6").exists() else "")
    configuration = nginx_configuration(files, listen, certificates.server, BODY.decode())
    with started(["nginx", "-e", "stderr", "-c", str(configuration)], LOAD_CPU, files / "output") as origin:
        await_http(origin, Target(port, True, "/", b"", files), BODY)
        yield port, origin.pid


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
