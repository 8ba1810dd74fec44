"""A real server for a test: `serve`."""

import logging
import socket
import ssl
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import gevent
from gevent.monkey import get_original

if TYPE_CHECKING:
    from muxwsgi.mux.hijack import Hijacker
    from muxwsgi.mux.route import Handler, Route
    from muxwsgi.settings import CertificateFiles, ServerSettings

__all__ = ["WAYS", "Served", "Way", "serve"]

#: The ways in which `serve` serves: TCP, TLS, a unix socket, and through a proxy's tunnel, without TLS in it and with.
WAYS = ("plain", "tls", "unix", "tunnel", "tls-tunnel")

#: Seconds that the server may take to start, and to stop.
PATIENCE = 30.0

#: Where tunnels are said to lead. Nothing connects there: the proxy has the hijackers.
DESTINATION = ("localhost", 9)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the hijackers.

    name        one of `WAYS`
    address     (host, port), or the path of the unix socket; of the proxy, where there is a tunnel
    tls         what a client does TLS with, None without
    tunnel      (host, port) to CONNECT to, None without
    """

    name: str
    address: tuple[str, int] | str
    tls: ssl.SSLContext | None = None
    tunnel: tuple[str, int] | None = None

    def connect(self, timeout: float | None = 10.0) -> socket.socket:
        """A connected socket whose bytes the hijacker gets, as a client would have it: an `ssl.SSLSocket` in TLS."""
        if isinstance(self.address, str):
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(timeout)
            sock.connect(self.address)
        else:
            sock = socket.create_connection(self.address, timeout)
        try:
            if self.tunnel is not None:
                _enter_tunnel(sock, self.tunnel)
            return sock if self.tls is None else self.tls.wrap_socket(sock, server_hostname="localhost")
        except BaseException:
            sock.close()
            raise


@dataclass(frozen=True, slots=True)
class Served:
    """What `serve` gives to the test.

    ways        each `Way` by its name
    ca_file     the certificate that clients trust, in PEM
    failures    the tracebacks of what the hijackers raised, in the order they came
    """

    ways: Mapping[str, Way]
    ca_file: str
    failures: list[str]

    def __getitem__(self, name: str) -> Way:
        return self.ways[name]

    def __iter__(self) -> Iterator[Way]:
        return iter(self.ways.values())


@contextmanager
def serve(*hijackers: "Handler | Hijacker | Route", settings: "ServerSettings | None" = None) -> Iterator[Served]:
    """Serve `hijackers` in all `WAYS`, in a thread with a new event loop, until the context ends.

    Clients may block, as those of most libraries do. `settings` has other limits than the usual ones; its binds are not used. What the
    hijackers share with the test is shared between threads: queues and locks do it, events of gevent do not.
    """
    with tempfile.TemporaryDirectory(prefix="muxwsgi-") as folder:
        thread = _ServerThread(hijackers, settings, Path(folder))
        served = thread.start()
        try:
            yield served
        finally:
            thread.stop()


class _ServerThread:
    """A server and a proxy in a real thread, also where the process is patched: clients of either kind find it the same."""

    def __init__(self, hijackers: tuple[Any, ...], settings: "ServerSettings | None", folder: Path) -> None:
        self._hijackers = hijackers
        self._settings = settings
        self._folder = folder
        self._started = get_original("_thread", "allocate_lock")()
        self._ended = get_original("_thread", "allocate_lock")()
        self._served: Served | None = None
        self._error: BaseException | None = None
        self._hub: Any = None
        self._stop: Any = None

    def start(self) -> Served:
        self._started.acquire()
        self._ended.acquire()
        get_original("_thread", "start_new_thread")(self._run, ())
        if not self._started.acquire(timeout=PATIENCE):
            raise TimeoutError("the server did not start")
        if self._error is not None:
            raise self._error
        assert self._served is not None
        return self._served

    def stop(self) -> None:
        self._hub.loop.run_callback_threadsafe(self._stop.set)
        if not self._ended.acquire(timeout=PATIENCE):
            raise TimeoutError("the server did not stop")
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        failures = _Failures()
        log = logging.getLogger("muxwsgi.error")
        log.addHandler(failures)
        try:
            self._serve(failures.texts)
        except BaseException as error:  # for the test's thread to raise
            self._error = error
        finally:
            log.removeHandler(failures)
            gevent.get_hub().destroy(destroy_loop=True)
            if self._served is None:
                self._started.release()
            self._ended.release()

    def _serve(self, failures: list[str]) -> None:
        from muxwsgi.proxy.certificates.authority import Authority
        from muxwsgi.proxy.proxy import Proxy
        from muxwsgi.proxy.settings import ProxySettings
        from muxwsgi.server.server import Server
        from muxwsgi.settings import BindSettings, ServerSettings

        self._hub = gevent.get_hub()
        self._stop = gevent.event.Event()
        authority = Authority.create(self._folder / "ca")
        ca_file = str(self._folder / "ca" / "ca.pem")
        files = _certificate(authority, self._folder / "server.pem")
        path = str(self._folder / "socket")
        settings = self._settings or ServerSettings(graceful_timeout=1.0)
        binds = (
            BindSettings(host="127.0.0.1", certificates=(files,)),
            BindSettings(host="127.0.0.1", tls="required", certificates=(files,)),
            BindSettings(path=path, certificates=(files,)),
        )
        server = Server(_nothing_here, hijackers=self._hijackers, settings=replace(settings, binds=binds))
        proxy = Proxy(ProxySettings(default_action="mitm"), authority=authority)
        tunnels = Server(proxy, hijackers=self._hijackers, settings=replace(settings, binds=(BindSettings(host="127.0.0.1"),)))
        tls = ssl.create_default_context(cafile=ca_file)
        plain_at, tls_at = (("127.0.0.1", int(address.rpartition(":")[2])) for address in server.addresses[:2])
        proxy_at = ("127.0.0.1", int(tunnels.addresses[0].rpartition(":")[2]))
        ways = [
            Way("plain", plain_at),
            Way("tls", tls_at, tls),
            Way("unix", path),
            Way("tunnel", proxy_at, tunnel=DESTINATION),
            Way("tls-tunnel", proxy_at, tls, DESTINATION),
        ]
        server.start()
        tunnels.start()
        self._served = Served(MappingProxyType({way.name: way for way in ways}), ca_file, failures)
        self._started.release()
        self._stop.wait()
        gevent.joinall([gevent.spawn(server.stop), gevent.spawn(tunnels.stop)], raise_error=True)


class _Failures(logging.Handler):
    """Keeps the tracebacks that are logged."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info is not None and record.exc_info[0] is not None:
            self.texts.append("".join(traceback.format_exception(*record.exc_info)))


def _certificate(authority: Any, path: Path) -> "CertificateFiles":
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    from muxwsgi.proxy.certificates.leaves import Leaves
    from muxwsgi.settings import CertificateFiles
    from muxwsgi.wire.tls.key_files import write_private

    leaves = Leaves(authority)
    key = leaves.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(path, key + leaves.get("localhost", ("127.0.0.1",)).certificate.public_bytes(Encoding.PEM))
    return CertificateFiles(certfile=str(path), keyfile=str(path))


def _nothing_here(environ: Any, start_response: Any) -> list[bytes]:
    """What HTTP requests get that no hijacker took."""
    start_response("404 Not Found", [("Content-Length", "0")])
    return []


def _enter_tunnel(sock: socket.socket, destination: tuple[str, int]) -> None:
    host, port = destination
    sock.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        if not byte:
            break
        head += byte
    if not head.startswith(b"HTTP/1.1 200 "):
        raise ConnectionError(f"the proxy refuses the tunnel: {head!r}")
