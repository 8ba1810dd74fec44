"""A proxy, and servers behind it, in this process: real sockets on loopback, and clients that are greenlets."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gevent
import gevent.server
import gevent.socket
import gevent.ssl
import pytest

from muxwsgi import Server
from muxwsgi.dial.upstream_choice import UpstreamChoice
from muxwsgi.proxy.certificates.authority import Authority
from muxwsgi.proxy.proxy import Proxy
from muxwsgi.proxy.settings import ProxySettings
from muxwsgi.records.flow import Flow
from muxwsgi.settings import CertificateFiles, HTTPSettings, ServerSettings

#: Nothing in these tests takes longer unless it hangs.
PATIENCE = 20.0


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    with gevent.Timeout(3 * PATIENCE):
        yield


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Path]:
    folder = tmp_path_factory.mktemp("ca") / "ca"
    return Authority.create(folder), folder / "ca.pem"


class Lab:
    """Starts servers, which the test's end stops.

    flows   what the proxy has recorded
    proxies, servers, clients   what was made here, in this order
    """

    def __init__(self, stack: ExitStack, authority: tuple[Authority, Path], certificate: CertificateFiles) -> None:
        self._stack = stack
        self.authority = authority[0]
        self.certificate = certificate
        self.ca_file = authority[1]
        self.flows: list[Flow] = []
        self.server: Server | None = None
        self.proxies: list[Proxy] = []
        self.servers: list[Server] = []
        self.clients: list[Any] = []

    def serve(self, app: Any, *, tls: bool = False, settings: ServerSettings | None = None, **more: Any) -> int:
        """A muxwsgi server; its port."""
        bind = "127.0.0.1:0" + (f",certfile={self.certificate.certfile}" if tls else "")
        server = Server(app, [bind], settings=settings or ServerSettings(http=HTTPSettings(linger=0.1)), **more)
        server.start()
        self._stack.callback(server.stop, 0.2)
        self.server = server
        self.servers.append(server)
        return int(server.addresses[0].rpartition(":")[2])

    def serve_raw(self, handle: Callable[[Any], None], *, tls: bool = False) -> int:
        """A server of anything: `handle(socket)` in a greenlet each. Its port."""

        def run(sock: Any, address: Any) -> None:
            try:
                handle(sock)
            except OSError:
                pass
            finally:
                sock.close()

        options = {"certfile": self.certificate.certfile, "keyfile": self.certificate.keyfile} if tls else {}
        server = gevent.server.StreamServer(("127.0.0.1", 0), run, **options)
        server.start()
        self._stack.callback(server.stop, 0.2)
        return int(server.server_port)

    def proxy(self, *, settings: ProxySettings | None = None, record: bool = False, **more: Any) -> Proxy:
        """A proxy that trusts the servers of this lab, and mints with its CA."""
        options = {name: getattr(settings, name) for name in ProxySettings.__slots__} if settings else {}
        options.setdefault("upstream_ca", None)
        options["upstream_ca"] = options["upstream_ca"] or self.certificate.certfile
        more.setdefault("upstreams", UpstreamChoice())
        proxy = Proxy(
            ProxySettings(**options), authority=self.authority, sinks=[self.flows.append] if record else [], **more
        )
        self.proxies.append(proxy)
        return proxy

    def serve_proxy(self, proxy: Proxy, **more: Any) -> int:
        return self.serve(proxy, **more)

    # The client's side

    def connect(self, port: int) -> gevent.socket.socket:
        sock = gevent.socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._stack.callback(sock.close)
        self.clients.append(sock)
        return sock

    def tunnel(self, port: int, destination: str) -> gevent.socket.socket:
        """A socket in a tunnel through the proxy at `port`."""
        sock = self.connect(port)
        sock.sendall(f"CONNECT {destination} HTTP/1.1\r\nHost: {destination}\r\n\r\n".encode())
        head = read_head(sock)
        assert head.startswith(b"HTTP/1.1 200 "), head
        return sock

    def wrap(self, sock: gevent.socket.socket, name: str = "localhost", *, trust: Path | None = None, alpn: Any = ()) -> Any:
        """TLS on the socket, trusting the proxy's CA."""
        context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(str(trust or self.ca_file))
        if alpn:
            context.set_alpn_protocols(list(alpn))
        wrapped = context.wrap_socket(sock, server_hostname=name)
        self._stack.callback(wrapped.close)
        self.clients.append(wrapped)
        return wrapped


@pytest.fixture
def lab(authority: tuple[Authority, Path], make_certificate: Callable[[], CertificateFiles]) -> Iterator[Lab]:
    with ExitStack() as stack:
        yield Lab(stack, authority, make_certificate())


def read_head(sock: Any) -> bytes:
    """The bytes up to CRLFCRLF, one by one, so that nothing behind it is taken."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        if not byte:
            break
        data += byte
    return data


def read_response(sock: Any) -> tuple[bytes, bytes]:
    """Head and body of a response with Content-Length, chunks (framing included), or until the end."""
    head = read_head(sock)
    lowered = head.lower()
    body = b""
    if b"content-length:" in lowered:
        length = int(lowered.split(b"content-length:")[1].split(b"\r\n")[0])
        while len(body) < length:
            more = sock.recv(length - len(body))
            if not more:
                break
            body += more
    elif b"transfer-encoding: chunked" in lowered:
        while not body.endswith(b"0\r\n\r\n"):
            more = sock.recv(65536)
            if not more:
                break
            body += more
    elif not head.startswith((b"HTTP/1.1 204", b"HTTP/1.1 304")):
        while more := sock.recv(65536):
            body += more
    return head, body
