"""MQTT brokers in turn: python -m tests.bench.mqtt [--seconds N] [--rounds N] [--amqtt COMMAND]

muxwsgi with apps/iot-gateway, mosquitto, and amqtt if its command is given. Messages have QoS 0 and 64 bytes. A publisher sends a few, and the next
ones when all subscribers have them, so none is dropped. The broker has one processor, and the clients another. The last figure is the memory of a
client that has subscribed and is idle.
"""

import argparse
import contextlib
import os
import resource
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.processes import LOAD_CPU, ROOT, SERVER_CPU, BenchError, cpu_seconds, memory, started

PAYLOAD = b"x" * 64
TOPIC = b"\0\5bench"
MESSAGE = bytes((0x30, len(TOPIC) + len(PAYLOAD))) + TOPIC + PAYLOAD
SUBSCRIBE = b"\x82\x0a\0\1" + TOPIC + b"\0"

#: Subscribers, and messages that are sent at once.
LOADS = ((1, 1), (1, 100), (1000, 1), (1000, 10))

IDLE = 2000

#: Seconds until a broker counts as one that does not start, or has lost a message.
PATIENCE = 20.0


def muxwsgi(port: int, folder: Path) -> tuple[list[str], dict[str, str]]:
    packages = folder / "packages"
    pip = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(packages))
    subprocess.run([*pip, str(ROOT / "apps" / "iot-gateway")], check=True, capture_output=True)
    options = '{"mqtt": {"allow_anonymous": true}}'
    command = [sys.executable, "-m", "muxwsgi", "run", "tests.bench.applications.hello:application", "-b", f"127.0.0.1:{port}"]
    return [*command, "--hijack", "mqtt", "--hijack-options", options], {"PYTHONPATH": os.pathsep.join((str(packages), os.environ.get("PYTHONPATH", "")))}


def mosquitto(port: int, folder: Path) -> tuple[list[str], dict[str, str]]:
    (folder / "mosquitto.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    return ["mosquitto", "-c", str(folder / "mosquitto.conf")], {}


def amqtt(port: int, folder: Path, program: str) -> tuple[list[str], dict[str, str]]:
    (folder / "amqtt.yaml").write_text(
        f"listeners:\n  default:\n    type: tcp\n    bind: 127.0.0.1:{port}\nplugins:\n  amqtt.plugins.authentication.AnonymousAuthPlugin:\n"
        "    allow_anonymous: true\n"
    )
    return [program, "-c", str(folder / "amqtt.yaml")], {}


def connected(port: int, name: str) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    body = b"\0\4MQTT\4\2\0\0" + len(name).to_bytes(2, "big") + name.encode()
    sock.sendall(bytes((0x10, len(body))) + body)
    if sock.recv(4, socket.MSG_WAITALL) != b"\x20\2\0\0":
        sock.close()
        raise BenchError("CONNECT was refused")
    return sock


def subscribed(port: int, number: int, stack: contextlib.ExitStack) -> list[socket.socket]:
    socks = []
    for n in range(number):
        sock = stack.enter_context(connected(port, f"reader-{n}"))
        sock.sendall(SUBSCRIBE)
        if sock.recv(5, socket.MSG_WAITALL) != b"\x90\3\0\1\0":
            raise BenchError("SUBSCRIBE was refused")
        socks.append(sock)
    return socks


def load(port: int, pid: int, subscribers: int, at_once: int, seconds: float) -> tuple[float, float]:
    """Messages a second, and microseconds of the broker's processor for each."""
    with contextlib.ExitStack() as stack, selectors.EpollSelector() as selector:
        for sock in subscribed(port, subscribers, stack):
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ)
        publisher = stack.enter_context(connected(port, "writer"))
        sent = MESSAGE * at_once

        def turn() -> None:
            publisher.sendall(sent)
            left = len(sent) * subscribers
            while left:
                ready = selector.select(PATIENCE)
                if not ready:
                    raise BenchError("a message was lost")
                for key, _ in ready:
                    left -= len(key.fileobj.recv(1 << 16))  # type: ignore[union-attr]

        for _ in range(20):
            turn()
        count, began, used = 0, time.monotonic(), cpu_seconds(pid, precise=True)
        while time.monotonic() < began + seconds:
            turn()
            count += at_once * subscribers
        return count / (time.monotonic() - began), (cpu_seconds(pid, precise=True) - used) / count * 1e6


def idle(port: int, pid: int) -> float:
    """KiB of a client that has subscribed. The first clients pay for what a broker makes once."""
    with contextlib.ExitStack() as stack:
        subscribed(port, 100, stack)
        with contextlib.ExitStack() as more:
            before = memory(pid)[1]
            for n in range(IDLE):
                sock = more.enter_context(connected(port, f"idle-{n}"))
                sock.sendall(SUBSCRIBE.replace(TOPIC, b"\0\5quiet"))
                sock.recv(5, socket.MSG_WAITALL)
            return (memory(pid)[1] - before) / IDLE


def _await(port: int) -> None:
    give_up = time.monotonic() + PATIENCE
    while True:
        try:
            connected(port, "first").close()
            return
        except (OSError, BenchError) as error:
            if time.monotonic() > give_up:
                raise BenchError(f"the broker does not start: {error}") from None
            time.sleep(0.1)


@contextlib.contextmanager
def broker(name: str, program: str) -> Iterator[tuple[int, int]]:
    """Its port and process."""
    with tempfile.TemporaryDirectory() as made, socket.create_server(("127.0.0.1", 0)) as probe:
        folder, port = Path(made), int(probe.getsockname()[1])
        probe.close()
        command, environment = {"muxwsgi": muxwsgi, "mosquitto": mosquitto}[name](port, folder) if name != "amqtt" else amqtt(port, folder, program)
        with started(command, SERVER_CPU, folder / "output", environment) as process:
            try:
                _await(port)
            except BenchError as error:
                raise BenchError(f"{error}; it said: {(folder / 'output').read_text()[-600:]}") from None
            yield port, process.pid


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.mqtt", description="MQTT brokers in turn.")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load (default 3)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each broker; the median counts (default 3)")
    parser.add_argument("--amqtt", default="", help="the command of amqtt, which needs an environment of its own")
    given = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 8192), hard), hard))
    os.sched_setaffinity(0, {LOAD_CPU})
    names = ["muxwsgi", "mosquitto", *(["amqtt"] if given.amqtt else [])]
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    held: dict[str, list[float]] = {}
    for _ in range(given.rounds):
        for name in names:
            with broker(name, given.amqtt) as (port, pid):
                for subscribers, at_once in LOADS:
                    found.setdefault((f"1 to {subscribers}, {at_once} at once", name), []).append(load(port, pid, subscribers, at_once, given.seconds))
                held.setdefault(name, []).append(idle(port, pid))
    print(f"{'messages/s, us of CPU per message':<36}", *(f"{name:>22}" for name in names))
    for row in dict.fromkeys(row for row, _ in found):
        cells = [[statistics.median(column) for column in zip(*found[row, name], strict=True)] for name in names]
        print(f"{row:<36}", *(f"{speed:>12,.0f} {cpu:>9.2f}" for speed, cpu in cells))
    print(f"{'KiB of an idle client':<36}", *(f"{statistics.median(held[name]):>22.1f}" for name in names))


if __name__ == "__main__":
    main()
