"""The load generators, as `measure` starts them: one process each (two for mixed traffic), pinned to the load's processor."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.bench.echoes import message
from tests.bench.processes import LOAD_CPU, BenchError, pinned
from tests.bench.results import Report
from tests.bench.visitors import heads

__all__ = ["Calls", "Client", "H2Load", "Handshakes", "Nothing", "Relayed", "Reloads", "Starts", "Target", "Tunnels", "TwoAtOnce", "WebSockets", "Wrk"]

SCRIPT = Path(__file__).parent / "generators" / "wrk.lua"
#: Seconds beyond its time after which a generator hangs.
PATIENCE = 30.0
#: Seconds for one reload, at most.
RELOAD_AT_MOST = 15


@dataclass(frozen=True)
class Target:
    """What is loaded: 127.0.0.1:`port`. `folder` is for files; `upstream` is the port of the origin behind a proxy. `master` is the process that
    reloads its `workers`."""

    port: int
    tls: bool
    path: str
    body: bytes
    folder: Path
    upstream: int = 0
    master: int = 0
    workers: int = 1


class Client(Protocol):
    def run(self, target: Target, seconds: int) -> Report | None:
        """Load it for `seconds`. Raises `BenchError` where an answer was wrong or missing."""


@dataclass(frozen=True)
class Nothing:
    """No load at all: what is measured is how much memory idle connections take."""

    def run(self, target: Target, seconds: int) -> None:
        return None


@dataclass(frozen=True)
class Wrk:
    """`wrk` with `connections` connections.

    pipeline    requests that are sent at once
    varied      path, query and some of the `fields` are others with every request (`visitors`)
    echo        talk to the echo hijacker instead of HTTP: `close` opens a connection per message, `keep-alive` keeps it
    """

    connections: int = 64
    fields: tuple[str, ...] = ()
    pipeline: int = 1
    varied: bool = False
    echo: str = ""

    def start(self, target: Target, seconds: int) -> "_Running":
        wrk = shutil.which("wrk")
        if wrk is None:
            raise BenchError("wrk is missing (Debian package wrk)")
        url = f"{'https' if target.tls else 'http'}://127.0.0.1:{target.port}{target.path}"
        command = [wrk, "-t1", f"-c{self.connections}", f"-d{seconds}", "--timeout", "10", "-s", str(SCRIPT)]
        for each in self.fields:
            command += ["-H", each]
        return _Running([*command, url, "--", *self._script(target)], seconds)

    def run(self, target: Target, seconds: int) -> Report:
        said, cpu = self.start(target, seconds).result()
        return self.read(said, cpu)

    def read(self, said: dict[str, Any], cpu: float) -> Report:
        if any(said["errors"].values()):
            raise BenchError(f"errors under load: {said['errors']} of {said['requests']} requests")
        if not said["requests"]:
            raise BenchError("no request was answered in time")
        if self.pipeline > 1:
            if said["requests"] <= self.connections * self.pipeline:
                raise BenchError(f"{said['requests']} requests were answered: not those behind the first")
            # Its percentiles are those of whole batches, and sometimes nothing.
            return Report(requests=said["requests"], seconds=said["seconds"], p50=None, p99=None, cpu=cpu)
        return Report(requests=said["requests"], seconds=said["seconds"], p50=said["p50"], p99=said["p99"], cpu=cpu)

    def _script(self, target: Target) -> list[str]:
        if self.pipeline > 1:
            return ["pipeline", str(self.pipeline)]
        if self.varied:
            requests = b"".join(heads(f"127.0.0.1:{target.port}", target.path, self.fields))
            return ["turns", str(_file(target.folder / "requests", requests))]
        if self.echo:
            return ["raw", str(_file(target.folder / f"echo-{self.echo}", message(close=self.echo == "close")))]
        if target.body:
            return ["post", str(_file(target.folder / "body", target.body))]
        return []


@dataclass(frozen=True)
class TwoAtOnce:
    """HTTP and hijacked connections at the same time. Speed and CPU are of both together, and p50 and p99 are HTTP's."""

    http: Wrk
    hijacked: Wrk

    def run(self, target: Target, seconds: int) -> Report:
        running = [client.start(target, seconds) for client in (self.http, self.hijacked)]
        said = [each.result() for each in running]
        http, hijacked = self.http.read(*said[0]), self.hijacked.read(*said[1])
        share = hijacked.requests / (http.requests + hijacked.requests)
        return Report(
            requests=http.requests + hijacked.requests,
            seconds=max(http.seconds, hijacked.seconds),
            p50=http.p50,
            p99=http.p99,
            cpu=http.cpu + hijacked.cpu,
            more={"hijacked_share": share, "hijacked_p50": hijacked.p50 or 0.0, "hijacked_p99": hijacked.p99 or 0.0},
        )


@dataclass(frozen=True)
class Handshakes:
    """A TLS connection per request."""

    connections: int = 16
    resumed: bool = False

    def run(self, target: Target, seconds: int) -> Report:
        arguments = [str(target.port), str(self.connections), str(seconds), "resumed" if self.resumed else "full"]
        report = _python("tests.bench.generators.handshakes", arguments, seconds)
        # The first connection of each has nothing to resume.
        wanted = (report.more["handshakes"] - self.connections) * 0.95 if self.resumed else 0
        if report.more["resumed"] < wanted or (not self.resumed and report.more["resumed"]):
            raise BenchError(f"{report.more['resumed']:.0f} of {report.more['handshakes']:.0f} TLS sessions were resumed")
        return report


@dataclass(frozen=True)
class Tunnels:
    """HTTPS through a forward proxy; `fresh` makes a tunnel and a handshake per request."""

    connections: int = 16
    fresh: bool = False

    def run(self, target: Target, seconds: int) -> Report:
        arguments = [str(target.port), str(self.connections), str(seconds), str(target.upstream), "fresh" if self.fresh else "kept"]
        report = _python("tests.bench.generators.tunnels", arguments, seconds)
        if not self.fresh and report.more["closes"] > report.requests / 100:
            raise BenchError(f"nothing is kept alive: {report.more['closes']:.0f} of {report.requests} answers ended their connection")
        return report


#: Where proxies keep the certificate of their authority, in the folder of a turn.
_AUTHORITIES = ("muxwsgi/ca/ca.pem", "mitmproxy-ca-cert.pem")


@dataclass(frozen=True)
class Calls:
    """Unary calls of gRPC through a forward proxy that looks into them."""

    in_flight: int

    def run(self, target: Target, seconds: int) -> Report:
        authority = next((path for name in _AUTHORITIES if (path := target.folder / name).exists()), None)
        if authority is None:
            raise BenchError("the proxy has made no authority")
        arguments = map(str, (target.port, self.in_flight, seconds, target.upstream, authority))
        return _python("tests.bench.generators.grpc_calls", list(arguments), seconds)


@dataclass(frozen=True)
class H2Load:
    """`h2load` with HTTP/2: `streams` requests at a time on each of `connections`. `varied`: another path and query with every request."""

    connections: int
    streams: int
    varied: bool = False

    def run(self, target: Target, seconds: int) -> Report:
        if shutil.which("h2load") is None:
            raise BenchError("h2load is missing (Debian package nghttp2-client)")
        body = str(_file(target.folder / "body", target.body)) if target.body else "-"
        uris = "-"
        if self.varied:
            lines = [head.split(maxsplit=2)[1] for head in heads("", target.path, ())]
            uris = str(_file(target.folder / "uris", b"\n".join(lines) + b"\n"))
        arguments = [target.port, self.connections, self.streams, seconds, "tls" if target.tls else "plain", target.path, body, uris]
        return _python("tests.bench.generators.h2load", list(map(str, arguments)), seconds)


@dataclass(frozen=True)
class WebSockets:
    """Messages of `size` bytes on one connection, `in_flight` of them at a time; with permessage-deflate if `deflate`."""

    size: int
    in_flight: int = 1
    deflate: bool = False
    connections: int = 1

    def run(self, target: Target, seconds: int) -> Report:
        arguments = map(str, (target.port, self.connections, seconds, self.size, self.in_flight, "deflate" if self.deflate else "plain"))
        return _python("tests.bench.generators.websockets", list(arguments), seconds)


@dataclass(frozen=True)
class Relayed:
    """Through a relay: `kind` is one of `generators.relayed`."""

    kind: str
    connections: int = 1

    def run(self, target: Target, seconds: int) -> Report:
        arguments = map(str, (target.port, self.kind, self.connections, seconds, "tls" if target.tls else "plain"))
        return _python("tests.bench.generators.relayed", list(arguments), seconds)


@dataclass(frozen=True)
class Reloads:
    """Clients with kept connections, while the server is told to reload again and again."""

    reloads: int = 50
    #: Seconds before the first reload, whose p99 is the quiet one.
    quiet: int = 5

    def run(self, target: Target, seconds: int) -> Report:
        """The length of the load is the reloads'; `seconds` is not used."""
        arguments = map(str, (target.port, target.master, target.workers, self.reloads, self.quiet))
        return _python("tests.bench.generators.reloads", list(arguments), RELOAD_AT_MOST * self.reloads)


@dataclass(frozen=True)
class Starts:
    """The time from the start of the server's process to its first answer, and the processor time until then, `number` times."""

    number: int = 5

    def run(self, target: Target, seconds: int) -> None:
        return None


def _python(module: str, arguments: Sequence[str], seconds: int) -> Report:
    said, cpu = _Running([sys.executable, "-m", module, *arguments], seconds).result()
    named = {name: said.pop(name) for name in ("requests", "seconds", "p50", "p99")}
    return Report(**named, cpu=cpu, more=said)


class _Running:
    def __init__(self, command: Sequence[str], seconds: int) -> None:
        self._process = pinned(command, LOAD_CPU, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._limit = seconds + PATIENCE

    def result(self) -> tuple[dict[str, Any], float]:
        """The JSON object in the last line, and the user + system seconds that it took."""
        before = os.times()
        try:
            output, errors = self._process.communicate(timeout=self._limit)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise BenchError("the load generator did not end") from None
        except BaseException:  # the run is ended; the generator has a session of its own
            self._process.kill()
            self._process.wait()
            raise
        after = os.times()
        if self._process.returncode:
            raise BenchError(f"the load generator failed: {errors.decode(errors='replace').strip()[-600:]}")
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        said: dict[str, Any] = json.loads(output.splitlines()[-1])
        return said, cpu


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
