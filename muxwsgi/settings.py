"""What the operator may set, in frozen dataclasses, checked once, here.

Nothing below the command line reads a file or the environment: it is given one of these. A value that cannot be is an `OperatorError` that
names the setting as the operator wrote it.
"""

from dataclasses import dataclass
from typing import Literal

from muxwsgi.errors import OperatorError
from muxwsgi.names import join_host_port

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
]

ClientCertificates = Literal["none", "optional", "required"]

#: Whose chunked requests are read before the application runs.
BufferChunked = Literal["always", "django", "never"]

#: What happens to a TLS client that offers ALPN ids, and none that a route owns: it is refused with no_application_protocol (RFC 7301
#: section 3.2), or goes on as if it had offered none.
UnknownALPN = Literal["refuse", "ignore"]


@dataclass(frozen=True, kw_only=True, slots=True)
class HTTPSettings:
    """Limits and deadlines of the HTTP engine.

    limit_request_line          bytes of the request line, above: 414
    limit_request_fields        number of fields, above: 431
    limit_request_field_size    bytes of one field line, above: 431
    limit_request_head          bytes of the whole head, above: 431
    limit_request_body          bytes of a body, above: 413; 0 for no limit
    buffer_chunked              whether chunked bodies are read before the application runs, which then sees a Content-Length: always,
                                never, or where the application is Django
    limit_buffered_body         bytes of such a body, above: 413; 0 for no limit but limit_request_body
    keep_alive                  seconds that a connection may rest between requests; 0 closes after each response
    request_head_timeout        seconds from the first byte of a head to its last, above: 408
    body_min_rate               bytes per second that a body must move in either direction, 0 for no minimum
    body_rate_grace             seconds until that minimum counts: how long a body may stand still
    linger                      seconds that a refused client has to read why before the connection is closed
    server_header               value of the Server field, "" for none
    """

    limit_request_line: int = 8190
    limit_request_fields: int = 100
    limit_request_field_size: int = 8190
    limit_request_head: int = 65536
    limit_request_body: int = 0
    buffer_chunked: BufferChunked = "django"
    limit_buffered_body: int = 1 << 30
    keep_alive: float = 75.0
    request_head_timeout: float = 60.0
    body_min_rate: float = 500.0
    body_rate_grace: float = 60.0
    linger: float = 2.0
    server_header: str = "muxwsgi"

    def __post_init__(self) -> None:
        for name in ("limit_request_line", "limit_request_fields", "limit_request_field_size", "limit_request_head"):
            _check(name, getattr(self, name), at_least=1)
        for name in ("limit_request_body", "limit_buffered_body", "keep_alive", "body_min_rate"):
            _check(name, getattr(self, name), at_least=0)
        for name in ("request_head_timeout", "body_rate_grace", "linger"):
            _check(name, getattr(self, name), above=0)
        if self.buffer_chunked not in ("always", "django", "never"):
            raise OperatorError(f"buffer_chunked: {self.buffer_chunked!r} is not always, django or never")
        if not all(" " <= char <= "~" for char in self.server_header):
            raise OperatorError(f"server_header: {self.server_header!r} is not printable ASCII")


@dataclass(frozen=True, kw_only=True, slots=True)
class CertificateFiles:
    """A certificate with its chain and its private key, in PEM. One file may hold both."""

    certfile: str
    keyfile: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TLSSettings:
    """What a TLS bind serves.

    certificates            chosen by server name; the first where none fits
    client_certificates     whether clients are asked for a certificate, and must have one
    client_ca               file with the CA certificates that client certificates are verified with
    handshake_timeout       seconds from the first byte to the end of the handshake
    ciphers                 OpenSSL cipher list for TLS 1.2; None for the built-in choice
    unknown_alpn            whether a client is refused that offers ALPN ids of which no route owns one
    """

    certificates: tuple[CertificateFiles, ...]
    client_certificates: ClientCertificates = "none"
    client_ca: str | None = None
    handshake_timeout: float = 10.0
    ciphers: str | None = None
    unknown_alpn: UnknownALPN = "refuse"

    def __post_init__(self) -> None:
        if self.unknown_alpn not in ("refuse", "ignore"):
            raise OperatorError(f"unknown_alpn: {self.unknown_alpn!r} is not refuse or ignore")
        if not self.certificates:
            raise OperatorError("certfile: TLS needs a certificate (--certfile and --keyfile, or --tls-dev)")
        if self.client_certificates not in ("none", "optional", "required"):
            raise OperatorError(f"client_certificates: {self.client_certificates!r} is not none, optional or required")
        if self.client_certificates != "none" and self.client_ca is None:
            raise OperatorError("ca_certs: asking clients for certificates needs the CA certificates to verify them with")
        _check("handshake_timeout", self.handshake_timeout, above=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class MuxSettings:
    """How long and how far first bytes are looked at.

    sniff_timeout   seconds; a client that is silent for longer goes to the silence route, and one that is undecided to the fallback or to
                    the route that was held back. Where there is none, `HTTPSettings.request_head_timeout` holds instead, if it is longer
    peek_limit      bytes; what is undecided then goes to the fallback route
    """

    sniff_timeout: float = 3.0
    peek_limit: int = 16384

    def __post_init__(self) -> None:
        _check("sniff_timeout", self.sniff_timeout, above=0)
        _check("peek_limit", self.peek_limit, at_least=64)


def _check(name: str, value: float, *, at_least: float | None = None, above: float | None = None) -> None:
    if at_least is not None and not value >= at_least:
        raise OperatorError(f"{name}: {value} is less than {at_least}")
    if above is not None and not value > above:
        raise OperatorError(f"{name}: {value} is not more than {above}")


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
    """Everything a server needs beside its application and its hijackers.

    client_certificates, client_ca, handshake_timeout, ciphers, unknown_alpn    as in `TLSSettings`, for every bind with TLS
    fallback, silence       who gets connections that no route matches, or on which the client says nothing: `close`, `http`, the name
                            of a hijacker, or `forward:HOST:PORT`
    backlog                 connections that the kernel keeps until they are accepted
    max_connections         connections served at once, 0 for no limit; further ones wait in the backlog
    graceful_timeout        seconds that exchanges and hijacked connections have to end at shutdown
    """

    binds: tuple[BindSettings, ...] = (BindSettings(host="127.0.0.1", port=8000),)
    http: HTTPSettings = HTTPSettings()
    mux: MuxSettings = MuxSettings()
    client_certificates: ClientCertificates = "none"
    client_ca: str | None = None
    handshake_timeout: float = 10.0
    ciphers: str | None = None
    unknown_alpn: UnknownALPN = "refuse"
    fallback: str = "close"
    silence: str = "close"
    backlog: int = 2048
    max_connections: int = 0
    graceful_timeout: float = 30.0

    def __post_init__(self) -> None:
        if not self.binds:
            raise OperatorError("bind: there is no address to listen on")
        _check("backlog", self.backlog, at_least=1)
        _check("max_connections", self.max_connections, at_least=0)
        _check("graceful_timeout", self.graceful_timeout, at_least=0)

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
