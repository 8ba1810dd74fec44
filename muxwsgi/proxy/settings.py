"""What an operator may set of the proxy itself. Values that cannot be are an `OperatorError` that names the setting."""

from dataclasses import dataclass
from typing import Literal

from muxwsgi.errors import OperatorError

__all__ = ["ProxySettings"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProxySettings:
    """Limits, deadlines and habits of the proxy.

    default_action          of a tunnel that no rule decides on: `accept` relays it as it is, `mitm` looks inside
    ca_folder               where the CA lies that `mitm` mints leaves with; None for the default folder
    leaf_key_type           of the leaves' key: `ec`, `rsa`, or None for that of the CA
    sniff_timeout           seconds that the first bytes of a tunnel may take; then the server is taken to speak first
    handshake_timeout       seconds for a TLS handshake, either side
    connect_timeout         seconds until an upstream has to have accepted, all its addresses together
    response_head_timeout   seconds from a request's end to the end of its response's head
    upstream_idle_timeout   seconds without a byte of a response's body
    tunnel_idle_timeout     seconds without a byte in either direction of a relayed stream
    tunnel_fin_timeout      the same once one side has ended its direction: its peer may be gone, and the other side may wait for ever
    limit_body              bytes of a body that a rule may have in one piece (`get_data`)
    max_idle                upstream connections kept for later requests, all together
    max_idle_per_host       and for one host and port
    idle_timeout            seconds that they are kept
    insecure_upstream       do not verify the certificates of upstreams
    ignore_unexpected_eof   take TLS of an upstream that ends without close_notify for whole, as OpenSSL's option of that name does
    upstream_ca             file with the CAs they are verified with; None for those of the system
    mimic                   leaves have the names of the upstream's certificate: it is fetched first
    passthrough             hosts whose TLS is never looked into: `example.com`, `*.example.com`, `/regex/`
    learn_after             clients' refusals of our leaf for a host until it is passed through by itself; 0 for never
    keep_header             leave hop-by-hop fields in requests (goproxy's KeepHeader)
    keep_destination_headers    leave hop-by-hop fields in responses as far as the engine can (goproxy's KeepDestinationHeaders)
    via                     our name in the Via field (RFC 9110 section 7.6.3), which then servers get too; None for one that nobody can
                            guess, which further proxies alone get; "" for none, and then loops through other proxies are not noticed
    capture_limit           bytes of each body that flows keep
    """

    default_action: Literal["accept", "mitm"] = "accept"
    ca_folder: str | None = None
    leaf_key_type: Literal["ec", "rsa"] | None = None
    sniff_timeout: float = 1.0
    handshake_timeout: float = 10.0
    connect_timeout: float = 10.0
    response_head_timeout: float = 120.0
    upstream_idle_timeout: float = 300.0
    tunnel_idle_timeout: float = 3600.0
    tunnel_fin_timeout: float = 30.0
    limit_body: int = 16 << 20
    max_idle: int = 512
    max_idle_per_host: int = 64
    idle_timeout: float = 60.0
    insecure_upstream: bool = False
    ignore_unexpected_eof: bool = False
    upstream_ca: str | None = None
    mimic: bool = False
    passthrough: tuple[str, ...] = ()
    learn_after: int = 0
    keep_header: bool = False
    keep_destination_headers: bool = False
    via: str | None = None
    capture_limit: int = 64 << 10

    def __post_init__(self) -> None:
        if self.default_action not in ("accept", "mitm"):
            raise OperatorError(f"default_action: {self.default_action!r} is not accept or mitm")
        if self.leaf_key_type not in ("ec", "rsa", None):
            raise OperatorError(f"leaf_key_type: {self.leaf_key_type!r} is not ec or rsa")
        for name in (
            "sniff_timeout",
            "handshake_timeout",
            "connect_timeout",
            "response_head_timeout",
            "upstream_idle_timeout",
            "tunnel_idle_timeout",
            "tunnel_fin_timeout",
            "idle_timeout",
        ):
            if not getattr(self, name) > 0:
                raise OperatorError(f"{name}: {getattr(self, name)} is not more than 0")
        for name in ("limit_body", "max_idle", "max_idle_per_host", "learn_after", "capture_limit"):
            if getattr(self, name) < 0:
                raise OperatorError(f"{name}: {getattr(self, name)} is less than 0")
        if self.via and not all("!" <= char <= "~" and char not in ',;"()' for char in self.via):
            raise OperatorError(f"via: {self.via!r} is no pseudonym: letters, digits, '.', '-' and '_'")
