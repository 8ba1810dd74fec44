"""What the operator may set, in frozen dataclasses, checked once, here. Each field's default, unit, bounds and option stand beside it.

Nothing below the command line reads a file or the environment: it is given one of these. A value that is not allowed is an
`OperatorError` that names the setting as the operator wrote it.
"""

from dataclasses import dataclass
from typing import Literal

from muxwsgi.errors import OperatorError
from muxwsgi.names import join_host_port
from muxwsgi.setting import check, setting, shared

__all__ = [
    "BindSettings",
    "BufferChunked",
    "CertificateFiles",
    "ClientCertificates",
    "HTTPSettings",
    "MuxSettings",
    "ServerSettings",
    "TLSMode",
    "TLSSettings",
    "Transparent",
    "UnknownALPN",
    "WorkerSettings",
]

#: Seconds that a handshake may take, TLS' or SOCKS', by default.
HANDSHAKE_TIMEOUT = 10.0

#: Seconds until the head of an upstream's response has to be there, by default.
RESPONSE_HEAD_TIMEOUT = 120.0

#: Sections of docs/configuration.md.
BIND = "Where to listen"
TLS = "TLS"
ROUTES = "Which route gets a connection"
HTTP = "HTTP"
PROCESS = "The process"
WORKERS = "Workers"

ClientCertificates = Literal["none", "optional", "required"]

#: Whose chunked requests are read before the application runs.
BufferChunked = Literal["always", "django", "never"]

#: What happens to a TLS client that offers ALPN ids, and none that a route owns: it is refused with no_application_protocol (RFC 7301
#: section 3.2), or goes on as if it had offered none.
UnknownALPN = Literal["refuse", "ignore"]


@dataclass(frozen=True, kw_only=True, slots=True)
class HTTPSettings:
    """Limits and deadlines of the HTTP engine."""

    keep_alive: float = setting(
        75.0, "Seconds that a connection may rest between requests; 0 closes after each response.", section=HTTP, unit="SECONDS", at_least=0
    )
    request_head_timeout: float = setting(
        60.0, "Seconds that a request head may take, from its first byte to its last: 408.", section=HTTP, unit="SECONDS", above=0
    )
    body_min_rate: float = setting(
        500.0, "Bytes per second that a body must move, either way; 0 for no minimum.", section=HTTP, unit="RATE", at_least=0
    )
    body_rate_grace: float = setting(
        60.0, "Seconds that a body may stand still, and until the minimum rate counts.", section=HTTP, unit="SECONDS", above=0
    )
    limit_request_line: int = setting(8190, "Bytes of a request line: 414 above.", section=HTTP, unit="BYTES", at_least=1)
    limit_request_fields: int = setting(100, "Number of request fields: 431 above.", section=HTTP, unit="N", at_least=1)
    limit_request_field_size: int = setting(
        8190, "Bytes of one request field: 431 above.", section=HTTP, unit="BYTES", flags=("--limit-request-field_size",), at_least=1
    )
    limit_request_head: int = setting(65536, "Bytes of a whole request head: 431 above.", section=HTTP, unit="BYTES", at_least=1)
    limit_request_body: int = setting(0, "Bytes of a request body, 0 for no limit: 413 above.", section=HTTP, unit="BYTES", at_least=0)
    buffer_chunked: BufferChunked = setting(
        "django",
        "Read chunked request bodies before the application runs, which then sees a Content-Length: always, never, or where the "
        "application is Django, which ignores chunked bodies.",
        section=HTTP,
        choices=("always", "django", "never"),
    )
    limit_buffered_body: int = setting(
        1 << 30,
        "Bytes of a body that is buffered so, 0 for no limit but --limit-request-body: 413 above.",
        section=HTTP,
        unit="BYTES",
        at_least=0,
    )
    linger: float = setting(2.0, "Seconds that a refused client has to read why before the connection is closed.", unit="SECONDS", above=0)
    server_header: str = setting("muxwsgi", "Value of the Server field; empty for none.", section=HTTP, unit="TEXT")

    def __post_init__(self) -> None:
        check(self)
        if not all(" " <= char <= "~" for char in self.server_header):
            raise OperatorError(f"server_header: {self.server_header!r} is not printable ASCII")


@dataclass(frozen=True, kw_only=True, slots=True)
class CertificateFiles:
    """A certificate with its chain and its private key, in PEM. One file may hold both."""

    certfile: str
    keyfile: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TLSSettings:
    """What a TLS bind serves. Of the certificates, the server name chooses; the first where none fits."""

    certificates: tuple[CertificateFiles, ...]
    client_certificates: ClientCertificates = setting(
        "none", "Whether clients are asked for a certificate, and must have one.", section=TLS, choices=("none", "optional", "required")
    )
    client_ca: str | None = setting(
        None, "CA certificates that client certificates are verified with, PEM.", section=TLS, option="ca_certs", unit="FILE"
    )
    ciphers: str | None = setting(
        None, "OpenSSL cipher list for TLS 1.2. Default: forward secrecy and AEAD only.", section=TLS, unit="LIST"
    )
    unknown_alpn: UnknownALPN = setting(
        "refuse",
        "What happens to clients that offer ALPN ids, and none that is served: refuse (no_application_protocol), or ignore the ids, for "
        "devices with ids of their own.",
        section=TLS,
        choices=("refuse", "ignore"),
    )
    handshake_timeout: float = setting(HANDSHAKE_TIMEOUT, "Seconds that a TLS handshake may take.", section=TLS, unit="SECONDS", above=0)

    def __post_init__(self) -> None:
        if not self.certificates:
            raise OperatorError("certfile: TLS needs a certificate (--certfile and --keyfile, or --tls-dev)")
        check(self)
        if self.client_certificates != "none" and self.client_ca is None:
            raise OperatorError("ca_certs: asking clients for certificates needs the CA certificates to verify them with")


@dataclass(frozen=True, kw_only=True, slots=True)
class MuxSettings:
    """How long and how far first bytes are looked at.

    After `sniff_timeout` a silent client goes to the silence route, and one that is undecided to the fallback or to the route that was held
    back. Where there is none, `HTTPSettings.request_head_timeout` holds instead, if it is longer.
    """

    sniff_timeout: float = setting(
        3.0,
        "Seconds that first bytes may take to decide, where a route gets undecided connections then; else --request-head-timeout.",
        section=ROUTES,
        unit="SECONDS",
        above=0,
    )
    peek_limit: int = setting(16384, "First bytes looked at, at most.", section=ROUTES, unit="BYTES", at_least=64)

    def __post_init__(self) -> None:
        check(self)


TLSMode = Literal["off", "required", "optional"]

#: How the kernel brings connections to a proxy whose clients know of none (nftables).
Transparent = Literal["redirect", "tproxy"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BindSettings:
    """One address to listen on.

    host, port          TCP; port 0 takes a free one
    path                a unix socket instead
    fd                  an inherited listening socket instead
    tls                 off; required: anything else is turned away; optional: TLS and plain on the same port
    certificates        of this bind
    redirect_http       whether plain HTTP on a port that requires TLS is redirected (308) to https instead of refused (400)
    transparent         whether the kernel brings connections here that were meant for others, and how; for a proxy alone
    """

    host: str = ""
    port: int = 0
    path: str | None = None
    fd: int | None = None
    tls: TLSMode = "off"
    certificates: tuple[CertificateFiles, ...] = ()
    redirect_http: bool = False
    transparent: Transparent | None = None

    def __post_init__(self) -> None:
        if self.transparent is not None and (self.path is not None or self.tls != "off"):
            raise OperatorError(f"bind {self.address}: a transparent bind is TCP, and its TLS is that of the tunnels: tls=off")
        if self.tls not in ("off", "required", "optional"):
            raise OperatorError(f"bind {self.address}: tls={self.tls} is not off, required or optional")
        if self.tls != "off" and not self.certificates:
            raise OperatorError(f"bind {self.address}: TLS needs a certificate (--certfile and --keyfile, or --tls-dev)")
        if self.redirect_http and self.tls != "required":
            raise OperatorError(f"bind {self.address}: redirect-http is for tls=required alone")

    @property
    def address(self) -> str:
        """As the operator writes it."""
        if self.path is not None:
            return f"unix:{self.path}"
        if self.fd is not None:
            return f"fd://{self.fd}"
        return join_host_port(self.host, self.port)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    """Everything a server needs beside its application and its hijackers. What is about TLS holds for every bind that has it."""

    binds: tuple[BindSettings, ...] = (BindSettings(host="127.0.0.1", port=8000),)
    http: HTTPSettings = HTTPSettings()
    mux: MuxSettings = MuxSettings()
    client_certificates: ClientCertificates = shared(TLSSettings, "client_certificates")
    client_ca: str | None = shared(TLSSettings, "client_ca")
    ciphers: str | None = shared(TLSSettings, "ciphers")
    unknown_alpn: UnknownALPN = shared(TLSSettings, "unknown_alpn")
    handshake_timeout: float = shared(TLSSettings, "handshake_timeout")
    fallback: str = setting(
        "close",
        "What happens to bytes that no route matches: close, http (answers 400), forward:HOST:PORT or a hijacker.",
        section=ROUTES,
        unit="HANDLER",
    )
    silence: str = setting(
        "close",
        "What happens to connections on which the client waits for the server to speak: as for fallback.",
        section=ROUTES,
        unit="HANDLER",
    )
    backlog: int = setting(2048, "Connections that the kernel keeps until they are accepted.", section=BIND, unit="N", at_least=1)
    max_connections: int = setting(
        0, "Connections served at once, 0 for no limit; further ones wait in the backlog.", section=BIND, unit="N", at_least=0
    )
    graceful_timeout: float = setting(
        30.0,
        "Seconds that open exchanges and hijacked connections have to end at shutdown.",
        section=PROCESS,
        unit="SECONDS",
        at_least=0,
    )

    def __post_init__(self) -> None:
        if not self.binds:
            raise OperatorError("bind: no address to listen on")
        check(self)

    def tls_of(self, bind: BindSettings) -> TLSSettings:
        """The TLS settings of one of the binds."""
        return TLSSettings(
            certificates=bind.certificates,
            client_certificates=self.client_certificates,
            client_ca=self.client_ca,
            handshake_timeout=self.handshake_timeout,
            ciphers=self.ciphers,
            unknown_alpn=self.unknown_alpn,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSettings:
    """How many processes serve, and when one of them is replaced. A worker that is replaced goes on until the other one is ready.

    workers         how many serve
    kill_after      seconds beyond the graceful timeout until a worker is killed: it cuts its connections meanwhile
    settled_after   seconds after which a worker that ends unexpectedly is replaced without a delay
    """

    workers: int = setting(1, "How many processes serve.", at_least=1)
    graceful_timeout: float = shared(ServerSettings, "graceful_timeout")
    timeout: float = setting(
        30.0,
        "Seconds that a worker may be blocked by what its application computes or waits for without gevent, until the worker is replaced; "
        "0 for no limit. The error log says by what.",
        section=WORKERS,
        unit="SECONDS",
        flags=("-t",),
        at_least=0,
    )
    boot_timeout: float = setting(
        60.0, "Seconds that a worker may take to load the application, until it is given up.", section=WORKERS, unit="SECONDS", above=0
    )
    max_requests: int = setting(
        0,
        "Requests after which a worker is replaced, 0 for no limit: for applications that leak memory.",
        section=WORKERS,
        unit="N",
        at_least=0,
    )
    max_requests_jitter: int = setting(
        0,
        "Up to so many requests more, another number for each worker, so that not all are replaced at once.",
        section=WORKERS,
        unit="N",
        at_least=0,
    )
    worker_lifetime: float = setting(
        0.0, "Seconds after which a worker is replaced, 0 for no limit.", section=WORKERS, unit="SECONDS", at_least=0
    )
    max_worker_memory: int = setting(
        0, "MiB of memory above which a worker is replaced, 0 for no limit.", section=WORKERS, unit="MIB", at_least=0
    )
    kill_after: float = setting(10.0, "Seconds from the graceful timeout until a worker is killed.", above=0)
    settled_after: float = setting(10.0, "Seconds after which a worker counts as settled.", at_least=0)

    def __post_init__(self) -> None:
        check(self)
