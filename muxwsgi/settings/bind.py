"""One address to listen on."""

from typing import Literal

from muxwsgi.errors import OperatorError
from muxwsgi.names import join_host_port
from muxwsgi.record import record
from muxwsgi.settings.tls import CertificateFiles

__all__ = ["BindSettings", "ProxyProtocolMode", "TLSMode", "Transparent"]

TLSMode = Literal["off", "required", "optional"]

#: How the kernel brings connections to a proxy whose clients know of none (nftables).
Transparent = Literal["redirect", "tproxy"]

#: The versions of PROXY headers that are accepted.
ProxyProtocolMode = Literal["off", "v1", "v2", "auto"]


@record(kw_only=True)
class BindSettings:
    """One address to listen on.

    host, port          TCP; port 0 takes a free one
    path                a unix socket instead
    fd                  an inherited listening socket instead
    reuse_port          whether each worker has a socket of its own there (SO_REUSEPORT); for TCP
    mode, user, group   permissions and owner of the unix socket's file; None: by the umask and the process
    tls                 off; required: anything else is turned away; optional: TLS and plain on the same port
    certificates        of this bind
    redirect_http       whether plain HTTP on a port that requires TLS is redirected (308) to https instead of refused (400)
    proxy_protocol      off; v1, v2 or auto (either): each connection has to begin with a PROXY header, before TLS
    only                the handler of all connections, whose first bytes are not looked at; None: they are asked
    silence             the handler of clients that wait for the server to speak; None: that of all binds
    silence_after       seconds until a client counts as such; None: `MuxSettings.sniff_timeout`
    transparent         whether the kernel brings connections here that were meant for others, and how; for a proxy alone
    """

    host: str = ""
    port: int = 0
    path: str | None = None
    fd: int | None = None
    tls: TLSMode = "off"
    certificates: tuple[CertificateFiles, ...] = ()
    redirect_http: bool = False
    proxy_protocol: ProxyProtocolMode = "off"
    only: str | None = None
    silence: str | None = None
    silence_after: float | None = None
    transparent: Transparent | None = None
    reuse_port: bool = False
    mode: int | None = None
    user: str | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        if self.transparent is not None and (self.path is not None or self.tls != "off"):
            raise OperatorError(f"bind {self.address}: a transparent bind is TCP, and its TLS is that of the tunnels: tls=off")
        if self.transparent is not None and self.proxy_protocol != "off":
            raise OperatorError(f"bind {self.address}: a transparent bind has the clients' own connections, which send no PROXY header")
        if self.transparent is not None and (self.only, self.silence, self.silence_after) != (None, None, None):
            raise OperatorError(f"bind {self.address}: a transparent bind has no routes: only and silence are for others")
        if self.only is not None and self.tls == "optional":
            raise OperatorError(f"bind {self.address}: only={self.only} is for a bind with TLS, or for one without")
        if self.only is not None and (self.silence, self.silence_after) != (None, None):
            raise OperatorError(f"bind {self.address}: only={self.only} gets silent clients too, at once")
        if self.path is None and (self.mode, self.user, self.group) != (None, None, None):
            raise OperatorError(f"bind {self.address}: mode, user and group are for unix sockets")
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
