"""What an operator may set of the proxy itself. Values that cannot be are an `OperatorError` that names the setting."""

from typing import Literal

from muxwsgi.errors import OperatorError
from muxwsgi.record import record
from muxwsgi.setting import check, setting, shared
from muxwsgi.settings import TLSSettings
from muxwsgi.settings.http import RESPONSE_HEAD_TIMEOUT

__all__ = ["LOOK", "RULES", "WAY", "ProxySettings"]

#: Sections of docs/configuration.md.
LOOK = "The proxy: interception"
WAY = "The proxy: how upstreams are reached"
RULES = "The proxy: rules and records"


@record(kw_only=True)
class ProxySettings:
    """Limits, deadlines and habits of the proxy."""

    default_action: Literal["accept", "mitm"] = setting(
        "accept", "What happens to a tunnel that no rule decides on: it is relayed as it is, or intercepted.", choices=("accept", "mitm")
    )
    ca_folder: str | None = setting(None, "The folder of the CA. Default: as for `muxwsgi ca`.", section=LOOK, unit="FOLDER")
    leaf_key_type: Literal["ec", "rsa"] | None = setting(
        None,
        "Kind of the leaves' key: ec or rsa, for clients that know no ECDSA. Default: as the CA's.",
        section=LOOK,
        choices=("ec", "rsa"),
    )
    passthrough: tuple[str, ...] = setting((), "Never intercept TLS for this host: a name, *.name or /regex/.", section=LOOK, unit="HOST")
    learn_after: int = setting(
        0,
        "Stop intercepting a host once clients have refused its leaf so many times; 0 for never.",
        section=LOOK,
        option="passthrough_after",
        unit="N",
        at_least=0,
    )
    mimic: bool = setting(False, "Give leaves the names of the upstream's certificate, which is fetched first.", section=LOOK)
    sniff_timeout: float = setting(
        1.0,
        "Seconds that first bytes in a tunnel may take. After them it is a protocol in which the server speaks first.",
        section=LOOK,
        option="tunnel_sniff_timeout",
        unit="SECONDS",
        above=0,
    )
    handshake_timeout: float = shared(TLSSettings, "handshake_timeout")
    insecure_upstream: bool = setting(False, "Do not verify the certificates of upstreams.", section=WAY)
    ignore_unexpected_eof: bool = setting(
        False,
        "Take TLS of an upstream that ends without close_notify for whole.",
        section=WAY,  # OpenSSL's name of it
    )
    upstream_ca: str | None = setting(
        None,
        "CA certificates that upstreams and https proxies are verified with, PEM. Default: the system's.",
        section=WAY,
        unit="FILE",
    )
    upstream_cert: str | None = setting(
        None, "Our certificate with its chain, PEM, for upstreams that ask for one.", section=WAY, unit="FILE"
    )
    upstream_key: str | None = setting(None, "Its private key, PEM. Default: the upstream-cert itself.", section=WAY, unit="FILE")
    upstream_tls_min: Literal["1.0", "1.1", "1.2", "1.3"] = setting(
        "1.2",
        "The lowest version of TLS with upstreams. Below 1.2 their old ciphers and short keys are taken too.",
        section=WAY,
        choices=("1.0", "1.1", "1.2", "1.3"),
    )
    upstream_http2: str = setting(
        "on",
        "Offer HTTP/2 to upstreams in TLS (ALPN), whatever clients speak. `off`: requests to them are of HTTP/1.1.",
        section=WAY,
        choices=("on", "off"),
    )
    upstream_h2c: tuple[str, ...] = setting(
        (), "Speak HTTP/2 without TLS to this upstream, which is known to take it.", section=WAY, unit="HOST[:PORT]"
    )
    accept_invalid_http_response: bool = setting(  # HAProxy's option of the name
        False, "Take response heads with bare line feeds, folded lines, lines that are not fields, or control characters.", section=WAY
    )
    connect_timeout: float = setting(10.0, "Seconds that connecting to an upstream may take: 504.", section=WAY, unit="SECONDS", above=0)
    response_head_timeout: float = setting(
        RESPONSE_HEAD_TIMEOUT, "Seconds until the head of a response has to be there: 504.", section=WAY, unit="SECONDS", above=0
    )
    upstream_idle_timeout: float = setting(
        300.0, "Seconds that an upstream may send no byte of a response's body.", section=WAY, unit="SECONDS", above=0
    )
    tunnel_idle_timeout: float = setting(
        3600.0, "Seconds that a tunnel may carry no byte, either way.", section=WAY, unit="SECONDS", above=0
    )
    tunnel_fin_timeout: float = setting(
        30.0, "The same once one side of the tunnel has ended its direction.", section=WAY, unit="SECONDS", above=0
    )
    max_idle: int = setting(512, "Upstream connections kept for later requests, all together.", unit="N", at_least=0)
    max_idle_per_host: int = setting(64, "The same for one host and port.", unit="N", at_least=0)
    idle_timeout: float = setting(60.0, "Seconds that they are kept.", unit="SECONDS", above=0)
    via: str | None = setting(
        None,
        "The proxy's name in the Via field, for servers and further proxies; a request that has it is refused (508). Default: a random "
        "name, for further proxies alone; empty for none.",
        section=WAY,
        unit="NAME",
    )
    pseudonym: str | None = setting(
        None, "The name for further proxies without `via`. Default: a random one. Processes that are one proxy need the same one."
    )
    keep_header: bool = setting(False, "Leave hop-by-hop fields in requests.", section=WAY)  # goproxy's KeepHeader
    keep_destination_headers: bool = setting(
        False,
        "Leave hop-by-hop fields in responses.",
        section=WAY,  # goproxy's KeepDestinationHeaders
    )
    limit_body: int = setting(
        16 << 20, "Bytes of a body that a rule may have in one piece.", section=RULES, option="limit_rule_body", unit="BYTES", at_least=0
    )
    capture_limit: int = setting(
        64 << 10,
        "Bytes of each body, and of each message of a WebSocket, that are recorded.",
        section=RULES,
        option="flow_bodies",
        unit="BYTES",
        at_least=0,
    )
    message_limit: int = setting(
        1000,
        "Messages of each WebSocket that are recorded, of 4 KiB on average; 0 reads none.",
        section=RULES,
        option="flow_messages",
        unit="N",
        at_least=0,
    )

    def __post_init__(self) -> None:
        check(self)
        if self.upstream_key is not None and self.upstream_cert is None:
            raise OperatorError("upstream_key: there is no upstream_cert that it is the key of")
        if self.via and not all("!" <= char <= "~" and char not in ',;"()' for char in self.via):
            raise OperatorError(f"via: {self.via!r} is not a pseudonym: letters, digits, '.', '-' and '_'")
