"""Real proxies in front of a server: HAProxy and nginx, each with a configuration that a test writes."""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.ports import reserved_port
from tests.waiting import wait_for

__all__ = ["haproxy", "nginx"]

_HAPROXY = """
global
    log stdout format raw local0
defaults
    timeout connect 5s
    timeout client 20s
    timeout server 20s
    retries 0
"""

_NGINX = """
daemon off;
master_process off;
worker_processes 1;
pid {folder}/pid;
error_log stderr;
events {{}}
"""


@contextmanager
def _running(command: list[str], port: int, folder: Path) -> Iterator[None]:
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:

        def listens() -> bool:
            assert process.poll() is None, log.read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for(listens, log.read_text)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _program(name: str, package: str) -> str:
    found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")
    assert found is not None, f"{name} is missing (Debian package {package})"
    return found


@contextmanager
def haproxy(folder: Path, configuration: str) -> Iterator[int]:
    """HAProxy with `configuration`, in which PORT stands for the port that it listens on, which is returned."""
    with reserved_port() as reserved:
        port = reserved.getsockname()[1]
        file = folder / "haproxy.cfg"
        file.write_text(_HAPROXY + configuration.replace("PORT", str(port)))
        with _running([_program("haproxy", "haproxy"), "-db", "-f", str(file)], port, folder):
            yield port


@contextmanager
def nginx(folder: Path, configuration: str) -> Iterator[int]:
    """nginx, as `haproxy`."""
    with reserved_port() as reserved:
        port = reserved.getsockname()[1]
        file = folder / "nginx.conf"
        module = "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n" if configuration.startswith("stream") else ""
        file.write_text(module + _NGINX.format(folder=folder) + configuration.replace("PORT", str(port)))
        with _running([_program("nginx", "nginx-light"), "-c", str(file), "-e", "stderr"], port, folder):
            yield port
