"""A network of three machines, made of network namespaces: a client, a router and a server.

    client  ----  router  ----  server
    10.77.1.2     10.77.1.1
    fd77:1::2     fd77:1::1
                  10.77.2.1     10.77.2.2
                  fd77:2::1     fd77:2::2

The client's only way to the server is through the router, where nftables may send its connections elsewhere. A socket stays in the namespace
that it was made in, so the three may have their sockets in this one process (`Namespace.make_socket`), and real programs run inside with `run` and
`popen`. All of it needs root, or the root of a user namespace (`unshare --user --map-root-user --net --mount`).

A lab cleans up after itself. What was left behind by one that was killed, the next one removes: the names say which process made
them.
"""

import ctypes
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import gevent.socket
import gevent.subprocess

from muxwsgi.wire.plain_socket import PlainSocket

__all__ = ["CLIENT", "ROUTER", "SERVER", "Lab", "Namespace", "interfaces", "sweep"]

CLIENT = {socket.AF_INET: "10.77.1.2", socket.AF_INET6: "fd77:1::2"}
ROUTER = {socket.AF_INET: "10.77.1.1", socket.AF_INET6: "fd77:1::1"}
SERVER = {socket.AF_INET: "10.77.2.2", socket.AF_INET6: "fd77:2::2"}

CLONE_NEWNET = 0x40000000  # linux/sched.h
PR_SET_PDEATHSIG = 1  # linux/prctl.h

#: Where `ip netns` keeps them.
FOLDER = Path("/run/netns")

#: muxwsgi-PID-STARTED-COUNT-ROLE. A process is its number and the time it was started: numbers come again.
NAME = re.compile(r"muxwsgi-(\d+)-(\d+)-\d+-[a-z]+")

_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """One machine of the lab."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._running: list[gevent.subprocess.Popen[str]] = []
        _do("ip", "netns", "add", name)
        with self.entered():  # interfaces need not wait for a second whether their link-local address is somebody else's
            for which in ("all", "default"):
                Path(f"/proc/sys/net/ipv6/conf/{which}/accept_dad").write_text("0")

    @contextmanager
    def entered(self) -> Iterator[None]:
        """What this thread does meanwhile happens there. No greenlet may be switched to in between: it would come along."""
        with open("/proc/thread-self/ns/net") as home, open(FOLDER / self.name) as there:
            _setns(there.fileno())
            try:
                yield
            finally:
                _setns(home.fileno())

    def make_socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> "gevent.socket.socket":
        """A gevent socket that lives there."""
        with self.entered():
            return gevent.socket.socket(family, kind)

    def connect(self, host: str, port: int) -> "gevent.socket.socket":
        """A gevent socket that is connected from there to an address."""
        sock = self.make_socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            sock.settimeout(10)
            sock.connect((host, port))
        except BaseException:
            sock.close()
            raise
        return sock

    def listen(self, host: str, port: int = 0, *, dual: bool = False) -> socket.socket:
        """A listening socket there, of the plain kind that `Listener` takes. `dual` serves IPv4 on an IPv6 socket too."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with self.entered():
            sock = PlainSocket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual)
        sock.bind((host, port))
        sock.listen(64)
        sock.setblocking(False)
        return sock

    def popen(self, *arguments: str, **more: Any) -> "gevent.subprocess.Popen[str]":
        """A program that runs there, until the lab is closed or this process ends."""
        process = gevent.subprocess.Popen(["ip", "netns", "exec", self.name, *arguments], text=True, preexec_fn=_die_with_parent, **more)
        self._running.append(process)
        return process

    def run(self, *arguments: str, timeout: float = 30) -> "gevent.subprocess.CompletedProcess[str]":
        """Run a program there to its end; its output as text."""
        return gevent.subprocess.run(["ip", "netns", "exec", self.name, *arguments], capture_output=True, text=True, timeout=timeout, preexec_fn=_die_with_parent)

    def ip(self, *commands: str, version: int | None = None) -> None:
        """`ip` commands there, without the word itself, for one version of IP where it does not show."""
        _do("ip", *([] if version is None else [f"-{version}"]), "-n", self.name, "-batch", "-", input="\n".join(commands) + "\n")

    def nft(self, rules: str) -> None:
        """All the nftables rules that are to hold there."""
        _do("ip", "netns", "exec", self.name, "nft", "-f", "-", input="flush ruleset\n" + rules)

    def close(self) -> None:
        """End what runs there, and the namespace with its interfaces. Sockets made there keep it alive until they are closed."""
        for process in self._running:
            if process.poll() is None:
                process.kill()
            process.wait()
        self._running.clear()
        _do("ip", "netns", "delete", self.name)


class Lab:
    """The three machines. A context manager: closed at its end."""

    _count = 0

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise PermissionError("network namespaces need root: try it under `unshare --user --map-root-user --net --mount`")
        sweep()
        Lab._count += 1
        stem = f"muxwsgi-{os.getpid()}-{_started(os.getpid())}-{Lab._count}"
        self._made: list[Namespace] = []
        try:
            self.client, self.router, self.server = (self._make(f"{stem}-{role}") for role in ("client", "router", "server"))
            self._wire()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _make(self, name: str) -> Namespace:
        namespace = Namespace(name)
        self._made.append(namespace)
        return namespace

    def _wire(self) -> None:
        # Both ends of a cable are made where they belong: nothing shows outside.
        client, router, server = self.client, self.router, self.server
        router.ip(
            f"link add to-client type veth peer name uplink netns {client.name}",
            f"link add to-server type veth peer name uplink netns {server.name}",
            "link set lo up",
            "link set to-client up",
            "link set to-server up",
            "addr add 10.77.1.1/24 dev to-client",
            "addr add fd77:1::1/64 dev to-client nodad",
            "addr add 10.77.2.1/24 dev to-server",
            "addr add fd77:2::1/64 dev to-server nodad",
        )
        for end, net in ((client, 1), (server, 2)):
            end.ip(
                "link set lo up",
                "link set uplink up",
                f"addr add 10.77.{net}.2/24 dev uplink",
                f"addr add fd77:{net}::2/64 dev uplink nodad",
                f"route add default via 10.77.{net}.1",
                f"route add ::/0 via fd77:{net}::1",
            )
        with router.entered():
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
        # For TPROXY: what is marked stays here, whatever its address.
        for version in (4, 6):
            router.ip("rule add fwmark 1 lookup 100", "route add local default dev lo table 100", version=version)

    def redirect(self, port: int) -> None:
        """All the TCP of the client to the router's `port` from now on, except what is meant for the router itself."""
        self._divert("type nat hook prerouting priority dstnat", f"redirect to :{port}")

    def tproxy(self, port: int) -> None:
        """The same by TPROXY."""
        self._divert("type filter hook prerouting priority mangle", f"tproxy to :{port} meta mark set 1 accept")

    def _divert(self, chain: str, statement: str) -> None:
        self.router.nft(f"""
            table inet doors {{
                chain arriving {{
                    {chain}
                    iifname "to-client" meta l4proto tcp fib daddr type != local {statement}
                }}
            }}
        """)

    def close(self) -> None:
        """Remove everything, also after half a start."""
        while self._made:
            self._made.pop().close()


def sweep() -> list[str]:
    """Remove the labs of processes that are no more; the names of their namespaces."""
    removed = []
    for path in sorted(FOLDER.glob("muxwsgi-*")):
        match = NAME.fullmatch(path.name)
        if match is None or _started(int(match[1])) == int(match[2]):
            continue
        for pid in _do("ip", "netns", "pids", path.name).split():  # its own died with it; these are what they have left
            os.kill(int(pid), signal.SIGKILL)
        _do("ip", "netns", "delete", path.name)
        removed.append(path.name)
    return removed


def interfaces(namespace: str | None = None) -> list[str]:
    """The names of the network interfaces there, or here."""
    there = [] if namespace is None else ["-n", namespace]
    return [link["ifname"] for link in json.loads(_do("ip", *there, "-json", "link"))]


def _started(pid: int) -> int | None:
    """When a process was started, in ticks since the machine was; None where there is none."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return None
    return int(status.rpartition(")")[2].split()[19])  # proc(5): field 22, and the second may have spaces in it


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _do(*arguments: str, input: str | None = None) -> str:
    done = subprocess.run(arguments, input=input, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(arguments)}: {done.stderr.strip() or done.returncode}")
    return done.stdout
