"""Three nodes behind a HAProxy, each a network namespace, and a client in another one.

    client 10.78.0.2, and .10 to .19   ----  10.78.0.1 balancer 10.78.N.1  ----  10.78.N.2 node N

The balancer runs HAProxy with the configuration of docs/scaling.md. It needs root, as `netns` does.
"""

import json
import os
import re
import signal
import socket
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import gevent

from tests.proxy.doors.netns import Lab, Namespace, _started, sweep

__all__ = ["BALANCER", "CLIENTS", "Farm", "Streamed", "Visitor"]

BALANCER = ("10.78.0.1", 8080)
CLIENTS = [f"10.78.0.{n}" for n in range(10, 20)]
ROOT = Path(__file__).parents[2]
NODES = {1: "one", 2: "two", 3: "three"}


def _configuration(folder: Path) -> str:
    """What docs/scaling.md has, with the addresses of the farm."""
    page = (ROOT / "docs" / "scaling.md").read_text()
    block = re.search(r"```haproxy\n(.*?)```", page, re.S)
    assert block is not None
    text = block[1].replace("/run/haproxy.sock", str(folder / "control")).replace("bind :8080", f"bind {BALANCER[0]}:{BALANCER[1]}")
    return re.sub(r"10\.0\.0\.1(\d):8000", r"10.78.\1.2:8000", text)


class Farm:
    """Starts all of it. A context manager, which ends all of it."""

    def __init__(self, folder: Path) -> None:
        if os.geteuid() != 0:
            raise PermissionError("network namespaces need root")
        sweep()
        self._folder = folder
        self._file = folder / "haproxy.cfg"
        self._file.write_text(_configuration(folder))
        Lab._count += 1
        stem = f"muxwsgi-{os.getpid()}-{_started(os.getpid())}-{Lab._count}"
        self._made: list[Namespace] = []
        self.processes: dict[int, Any] = {}
        try:
            self.balancer = self._make(f"{stem}-balancer")
            self.client = self._make(f"{stem}-client")
            self.nodes = {n: self._make(f"{stem}-{name}") for n, name in NODES.items()}
            self._wire()
            for n in NODES:
                self.start_node(n)
            self._log = (folder / "haproxy.log").open("w")
            self.haproxy = self.balancer.popen("haproxy", "-W", "-f", str(self._file), stdout=self._log, stderr=self._log)
            for n in NODES:
                self.wait_for_state(n, "UP")
        except BaseException:
            self.close()
            raise

    def _make(self, name: str) -> Namespace:
        namespace = Namespace(name)
        self._made.append(namespace)
        return namespace

    def _wire(self) -> None:
        for number, end in {0: self.client, **self.nodes}.items():
            self.balancer.ip(
                f"link add to-{number} type veth peer name uplink netns {end.name}", f"link set to-{number} up", f"addr add 10.78.{number}.1/24 dev to-{number}"
            )
            end.ip("link set lo up", "link set uplink up", f"addr add 10.78.{number}.2/24 dev uplink", f"route add default via 10.78.{number}.1")
        self.balancer.ip("link set lo up")
        self.client.ip(*(f"addr add {address}/24 dev uplink" for address in CLIENTS))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        while self._made:
            self._made.pop().close()
        if hasattr(self, "_log"):
            self._log.close()

    # Nodes

    def start_node(self, n: int) -> None:
        """Start node `n`. `wait_for_state` says when it is used."""
        log = self._folder / f"node-{n}.log"
        bind = f"10.78.{n}.2:8000,proxy-protocol"
        arguments = ["-b", bind, "--proxy-allow-ips", f"10.78.{n}.1", "--graceful-timeout", "10", "--access-logfile", str(self._folder / f"access-{n}.log")]
        with log.open("a") as output:
            self.processes[n] = self.nodes[n].popen(
                sys.executable, "-m", "muxwsgi", "run", "tests.system.farm_app:application", *arguments, stdout=output, stderr=output, cwd=ROOT, env={**os.environ, "NODE": str(n)}
            )

    def stop_node(self, n: int) -> int:
        """End node `n` by SIGTERM, and wait for it. Its status."""
        self.processes[n].send_signal(signal.SIGTERM)
        return int(self.processes[n].wait(30))

    def cut_off(self, n: int) -> None:
        """Take node `n`'s link down."""
        self.balancer.ip(f"link set to-{n} down")

    def connect_again(self, n: int) -> None:
        """Bring node `n`'s link up."""
        self.balancer.ip(f"link set to-{n} up")

    # HAProxy

    def state(self, n: int) -> str:
        """What HAProxy thinks of node `n`: UP, DOWN or something between."""
        control = gevent.socket.socket(socket.AF_UNIX)
        with control:
            control.settimeout(5)
            control.connect(str(self._folder / "control"))
            control.sendall(b"show stat\n")
            answer = b""
            while data := control.recv(65536):
                answer += data
        names, *rows = (line.split(",") for line in answer.decode().lstrip("# ").splitlines() if line)
        for row in rows:
            fields = dict(zip(names, row, strict=False))
            if fields.get("svname") == NODES[n]:
                return fields["status"]
        raise AssertionError(answer)

    def wait_for_state(self, n: int, wanted: str) -> None:
        """Wait until HAProxy thinks so."""
        with gevent.Timeout(40, AssertionError(f"node {n} is not {wanted}: {self.logs()}")):
            while True:
                try:
                    if self.state(n) == wanted:
                        return
                except (OSError, ValueError):  # it is starting
                    pass
                gevent.sleep(0.05)

    def reload_haproxy(self) -> None:
        """SIGUSR2: a new process takes the listening sockets, and the old one ends after its connections."""
        # `ip netns exec` has become HAProxy's master.
        self.haproxy.send_signal(signal.SIGUSR2)

    def logs(self) -> str:
        """The logs of all, for a failure."""
        return "\n".join(f"== {path.name}\n{path.read_text()[-2000:]}" for path in sorted(self._folder.glob("*.log")))


class Visitor:
    """Clients that ask all the time, each with an address of its own, on kept connections. `stop` returns what went wrong.

    A request on a kept connection that the peer closes is sent again on a new one (RFC 9112 section 9.3.1).
    """

    def __init__(self, farm: Farm, method: str = "GET", path: str = "/slow", clients: int = 6) -> None:
        self.failures: list[str] = []
        self.answers = 0
        self.nodes: dict[str, int] = {}
        self._farm = farm
        self._request = f"{method} {path} HTTP/1.1\r\nHost: farm.example\r\n{'Content-Length: 3' if method == 'POST' else 'X: y'}\r\n\r\n" + ("abc" if method == "POST" else "")
        self._stopping = False
        self._running = [gevent.spawn(self._visit, CLIENTS[n]) for n in range(clients)]

    def stop(self) -> list[str]:
        self._stopping = True
        gevent.joinall(self._running, timeout=60, raise_error=True)
        assert all(each.ready() for each in self._running)
        return self.failures

    def _visit(self, address: str) -> None:
        sock = None
        while not self._stopping:
            fresh = sock is None
            try:
                if sock is None:
                    sock = self._connect(address)
                head, body = self._ask(sock)
            except (OSError, EOFError) as error:
                if sock is not None:
                    sock.close()
                sock = None
                if fresh or not isinstance(error, EOFError | ConnectionError):
                    self.failures.append(f"{address}: {error!r}")
                continue
            if not head.startswith("HTTP/1.1 200 "):
                self.failures.append(f"{address}: {head.splitlines()[0]}")
                sock.close()
                sock = None
                continue
            answer = json.loads(body)
            self.answers += 1
            self.nodes[answer["node"]] = self.nodes.get(answer["node"], 0) + 1
            if answer["client"] != address:
                self.failures.append(f"{address} is {answer['client']} to node {answer['node']}")
            if "connection: close" in head.lower() or self.answers % 7 == 0:
                sock.close()
                sock = None
        if sock is not None:
            sock.close()

    def _connect(self, address: str) -> Any:
        sock = self._farm.client.make_socket()
        sock.settimeout(30)
        sock.bind((address, 0))
        sock.connect(BALANCER)
        return sock

    def _ask(self, sock: Any) -> tuple[str, str]:
        sock.sendall(self._request.encode())
        data = b""
        while b"\r\n\r\n" not in data:
            data += _received(sock, data)
        head, _, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        while length is not None and len(body) < int(length[1]):
            body += _received(sock, b"x")
        return head.decode(), body.decode()


def _received(sock: Any, before: bytes) -> bytes:
    data: bytes = sock.recv(65536)
    if not data:
        raise OSError("the response is incomplete") if before else EOFError("closed without an answer")
    return data


class Streamed:
    """A connection that the application has taken over. `node` has it, `lines` have come so far, `ended` is how it ended."""

    def __init__(self, farm: Farm, address: str) -> None:
        self.lines: list[str] = []
        self.ended: str | None = None
        self._sock = farm.client.make_socket()
        self._sock.settimeout(60)
        self._sock.bind((address, 0))
        self._sock.connect(BALANCER)
        self._sock.sendall(b"GET /stream HTTP/1.1\r\nHost: farm.example\r\nConnection: Upgrade\r\nUpgrade: lines\r\n\r\n")
        file = self._sock.makefile("rb")
        while (line := file.readline()) not in (b"\r\n", b""):
            assert line.startswith(b"HTTP/1.1 101") or b":" in line, line
        self.client, self.node = file.readline().decode().split()
        self._reading = gevent.spawn(self._read, file)

    def _read(self, file: Any) -> None:
        try:
            while line := file.readline():
                self.lines.append(line.decode().strip())
            self.ended = "closed"
        except ConnectionResetError:
            self.ended = "reset"

    def close(self) -> None:
        self._reading.kill()
        self._sock.close()
