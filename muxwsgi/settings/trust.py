"""Which peers may say who the client is, and in which fields."""

import re
from typing import Literal

from muxwsgi.errors import OperatorError
from muxwsgi.grammar import is_token
from muxwsgi.networks import LOOPBACK, Networks, parse_networks
from muxwsgi.record import record
from muxwsgi.setting import check, setting
from muxwsgi.settings.sections import FRONT

__all__ = ["FORWARDED_FIELDS", "HeaderMap", "TrustSettings"]

#: What happens to request fields with an underscore in their names, as gunicorn spells it.
HeaderMap = Literal["drop", "refuse", "dangerous"]

#: The fields that `forwarded_headers` may name.
FORWARDED_FIELDS = (
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-protocol",
    "x-forwarded-ssl",
    "forwarded",
)

#: `X_Y`, as in an environ.
_UNDERSCORED = re.compile(r"[A-Z0-9]+(_[A-Z0-9]+)+")

#: A path prefix: it begins with one slash. A second one there would make a URL of it that names another host.
_PREFIX = re.compile(r"(?:/[A-Za-z0-9\-._~!$&'()*+,;=:@%]+)*/?")


@record(kw_only=True)
class TrustSettings:
    """Which peers may say who the client is, and in which fields. docs/behind-a-proxy.md explains."""

    forwarded_allow_ips: str | None = setting(
        None,
        "Peers whose forwarding fields are believed: addresses and networks behind commas, * or none. Peers on unix sockets are believed "
        "too. The variable FORWARDED_ALLOW_IPS counts if none is given. Default: loopback, for x-forwarded-proto.",
        section=FRONT,
        unit="LIST",
    )
    forwarded_headers: str | None = setting(
        None,
        "The fields that these peers set: " + ", ".join(FORWARDED_FIELDS) + ". Default: x-forwarded-for and x-forwarded-proto if "
        "--forwarded-allow-ips is given, else x-forwarded-proto.",
        section=FRONT,
        unit="LIST",
    )
    client_cert_header: str = setting(
        "",
        "The field in which these peers pass on a client certificate that they have verified, such as Client-Cert, X-SSL-Client-Cert or "
        "X-Forwarded-Client-Cert.",
        section=FRONT,
        unit="NAME",
    )
    forwarder_headers: str = setting(
        "",
        "Fields with underscores that are accepted from these peers, such as SCRIPT_NAME.",
        section=FRONT,
        unit="LIST",
    )
    header_map: HeaderMap = setting(
        "drop",
        "What happens to other request fields with underscores in their names: drop, refuse (400), or dangerous (X_Y becomes X-Y).",
        section=FRONT,
        choices=("drop", "refuse", "dangerous"),
    )
    root_path: str = setting(
        "",
        "The path below which a proxy in front serves the application: its SCRIPT_NAME. The variable SCRIPT_NAME counts if none is given.",
        section=FRONT,
        unit="PATH",
    )

    proxy_allow_ips: str = setting(
        "127.0.0.1,::1",
        "Peers that may connect to binds with the PROXY protocol: as for --forwarded-allow-ips. Others are refused.",
        section=FRONT,
        unit="LIST",
        flags=("--proxy-allow-from",),
    )
    proxy_protocol_timeout: float = setting(
        10.0, "Seconds from accept in which the whole PROXY header has to come.", section=FRONT, unit="SECONDS", above=0
    )

    def __post_init__(self) -> None:
        check(self)
        fields = self.fields
        for name in fields:
            if name not in FORWARDED_FIELDS:
                raise OperatorError(f"forwarded_headers: {name!r} is not {', '.join(FORWARDED_FIELDS[:-1])} or {FORWARDED_FIELDS[-1]}")
        others = [name for name in fields if name not in ("forwarded", "x-forwarded-prefix")]
        if "forwarded" in fields and others:
            raise OperatorError(
                f"forwarded_headers: forwarded and {others[0]} say the same, and a front sets one of them: clients could send the other"
            )
        if self.client_cert_header and (not is_token(self.client_cert_header) or "_" in self.client_cert_header):
            raise OperatorError(f"client_cert_header: {self.client_cert_header!r} is not the name of a field")
        for name in self.underscored:
            if not _UNDERSCORED.fullmatch(name) or name in ("CONTENT_LENGTH", "TRANSFER_ENCODING"):
                raise OperatorError(f"forwarder_headers: {name!r} is not a name such as SCRIPT_NAME or REMOTE_USER")
        if not _PREFIX.fullmatch(self.root_path):
            raise OperatorError(f"root_path: {self.root_path!r} is not a path such as /shop")
        _ = self.forwarders, self.proxies  # parsed here, for their errors

    @property
    def is_default(self) -> bool:
        """Whether the operator has said nothing about forwarding fields."""
        return self.forwarded_allow_ips is None and self.forwarded_headers is None

    @property
    def forwarders(self) -> Networks:
        """The peers whose forwarding fields are believed."""
        return LOOPBACK if self.forwarded_allow_ips is None else parse_networks(self.forwarded_allow_ips, "forwarded_allow_ips")

    @property
    def proxies(self) -> Networks:
        """The peers that may connect to binds with the PROXY protocol."""
        return parse_networks(self.proxy_allow_ips, "proxy_allow_ips")

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that are believed, in lower case."""
        if self.forwarded_headers is not None:
            return tuple(dict.fromkeys(self.forwarded_headers.lower().replace(",", " ").split()))
        return ("x-forwarded-proto",) if self.forwarded_allow_ips is None else ("x-forwarded-for", "x-forwarded-proto")

    @property
    def underscored(self) -> tuple[str, ...]:
        """`forwarder_headers`, in upper case."""
        return tuple(dict.fromkeys(self.forwarder_headers.upper().replace(",", " ").split()))
