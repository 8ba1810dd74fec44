"""`UpstreamProxy`: a further proxy, which the operator or a rule chooses. `DIRECT` stands for a connection without one."""

import re
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Literal, cast
from urllib.parse import unquote_to_bytes

from muxwsgi.dial.errors import InvalidTarget
from muxwsgi.dial.resolve import host_name, literal
from muxwsgi.errors import OperatorError
from muxwsgi.names import join_host_port

__all__ = ["DIRECT", "ProxyScheme", "UpstreamProxy"]

ProxyScheme = Literal["direct", "http", "https", "socks4a", "socks5", "socks5h"]

# The ports for URLs without a port. For HTTP these are the scheme's default ports, as in Go. curl uses 1080 for all schemes but https.
_PORTS = {"http": 80, "https": 443, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}

# Passwords may be unescaped, so the last "@" ends them.
_AUTHORITY = re.compile(
    r"(?:(?P<user>[^:@]*)(?::(?P<password>.*))?@)?(?:\[(?P<address>[^\]]*)\]|(?P<host>[^:@\[\]]*))(?::(?P<port>[0-9]*))?", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class UpstreamProxy:
    """One proxy. Proxies with different credentials are different, so it can be part of a pool's key.

    scheme              http, https (TLS to the proxy itself), socks4a, socks5 (names are resolved here), socks5h (names are resolved there)
    username, password  None without credentials
    trusted             whether the operator chose its address. If a client may have chosen it, it is dialled only if the guard allows the
                        client its address.
    """

    scheme: ProxyScheme
    host: str
    port: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    trusted: bool = True

    @classmethod
    def parse(cls, url: str, *, trusted: bool = True) -> "UpstreamProxy":
        """From `scheme://[user[:password]@]host[:port]`; without a scheme it is http. User and password may be percent-encoded.

        Raises `OperatorError`, whose message does not contain the password.
        """
        scheme, separator, rest = url.strip().partition("://")
        if not separator:
            scheme, rest = "http", url.strip()
        scheme = scheme.lower()
        if scheme not in _PORTS:
            raise OperatorError(f"upstream proxy: the scheme is none of {', '.join(_PORTS)}")
        match = _AUTHORITY.fullmatch(rest.removesuffix("/"))
        if match is None:  # any part of the URL may be the password
            raise OperatorError(f"upstream proxy {scheme}://...: expected {scheme}://[USER[:PASSWORD]@]HOST[:PORT]")
        shown = f"{scheme}://{rest.rpartition('@')[2][:100]}"
        try:
            host = _host(match["address"], match["host"])
            port = int(match["port"]) if match["port"] else _PORTS[scheme]
            if not 0 < port < 65536:
                raise ValueError(f"{port} is not a port")
            username = _credential("user name", match["user"])
            password = _credential("password", match["password"])
            if scheme in ("http", "https") and username is not None and ":" in username:
                raise ValueError("a user name with a colon cannot be sent (RFC 7617)")
            if scheme == "socks4a" and password:
                raise ValueError("SOCKS4a has no passwords")
            if scheme in ("socks5", "socks5h") and any(len(text.encode()) > 255 for text in (username or "", password or "")):
                raise ValueError("SOCKS5 has no room for credentials of more than 255 bytes (RFC 1929)")
        except ValueError as error:
            raise OperatorError(f"upstream proxy {shown}: {error}") from None
        return cls(cast(ProxyScheme, scheme), host, port, username, password, trusted)

    def __str__(self) -> str:
        """The URL without credentials, for errors and logs."""
        if self.scheme == "direct":
            return "direct"
        return f"{self.scheme}://{join_host_port(self.host, self.port)}"

    @property
    def authorization(self) -> str | None:
        """The value of Proxy-Authorization (RFC 7617, in UTF-8); None without credentials."""
        if self.username is None:
            return None
        return "Basic " + b64encode(f"{self.username}:{self.password or ''}".encode()).decode("ascii")

    @property
    def speaks_http(self) -> bool:
        """Whether it also takes requests in absolute form (RFC 9112 section 3.2.2), beside tunnels."""
        return self.scheme in ("http", "https")


#: No further proxy.
DIRECT = UpstreamProxy("direct", "", 0)


def _host(address: str | None, host: str) -> str:
    known = literal(host if address is None else address)
    if known is not None and (address is None or ":" in address):
        return known[1]
    if address is not None:
        raise ValueError(f"{address!r} is not an IPv6 address")
    try:
        return host_name(host)
    except InvalidTarget as error:
        raise ValueError(error.reason) from None


def _credential(what: str, text: str | None) -> str | None:
    if text is None:
        return None
    try:
        decoded = unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise ValueError(f"the {what} is not UTF-8") from None
    if not decoded.isprintable():
        raise ValueError(f"the {what} has control characters (RFC 7617)")
    return decoded
