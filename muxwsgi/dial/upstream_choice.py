"""`UpstreamChoice`: the proxy that a destination is reached through, by the operator's settings or the usual environment variables."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from muxwsgi.dial.upstream_proxy import UpstreamProxy
from muxwsgi.errors import OperatorError
from muxwsgi.names import address_of, comparable, parse_host, split_host_port

__all__ = ["NoProxy", "UpstreamChoice"]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of NO_PROXY: a network or a domain, on one port or (None) on all."""

    network: IPv4Network | IPv6Network | None
    domain: str
    port: int | None

    def fits(self, address: IPv4Address | IPv6Address | None, name: str, port: int) -> bool:
        if self.port is not None and self.port != port:
            return False
        if self.network is not None:
            return address is not None and address in self.network
        return address is None and (name == self.domain or name.endswith("." + self.domain))


class NoProxy:
    """Destinations that are reached without a proxy: what NO_PROXY lists, separated by commas or spaces.

    example.com, .example.com, *.example.com    the name and all names below it, as in curl
    192.0.2.1, 2001:db8::1, [2001:db8::1]       an address; it is compared with addresses only, and no name is resolved for it
    192.0.2.0/24, 2001:db8::/32                 a network
    example.com:8443, [2001:db8::1]:443         on that port only
    *                                           everything
    """

    def __init__(self, entries: str | Iterable[str] = "") -> None:
        """Raises `OperatorError` for an entry in another form, because it would never match."""
        words = re.split(r"[\s,]+", entries) if isinstance(entries, str) else list(entries)
        self._all = "*" in words
        self._entries = tuple(_entry(word) for word in words if word not in ("", "*"))

    def __contains__(self, destination: tuple[str, int]) -> bool:
        if self._all:
            return True
        if not self._entries:
            return False
        host, port = destination
        address = address_of(host)
        name = comparable(host) if address is None else ""
        return any(entry.fits(address, name, port) for entry in self._entries)


def _entry(word: str) -> _Entry:
    try:
        if "/" in word:
            return _Entry(ip_network(word, strict=False), "", None)
        host, port = split_host_port(word)
        if port is not None and not 0 < port < 65536:
            raise ValueError
        found = parse_host(host.removeprefix("*").removeprefix("."))
        if isinstance(found, str):
            return _Entry(None, found, port)
        return _Entry(ip_network(found), "", port)
    except ValueError:
        raise OperatorError(f"no_proxy: {word!r} is not a name, an address or a network, with or without a port") from None


class UpstreamChoice:
    """The operator's choice of further proxies. Without arguments: never a proxy."""

    def __init__(
        self,
        *,
        http: UpstreamProxy | None = None,
        tunnel: UpstreamProxy | None = None,
        no_proxy: NoProxy | None = None,
    ) -> None:
        """`http` is for requests in plain HTTP. `tunnel` is for HTTPS, WebSockets over TLS and all other protocols."""
        self._http = http
        self._tunnel = tunnel
        self._no_proxy = no_proxy or NoProxy()

    @classmethod
    def of_environment(cls, environ: Mapping[str, str]) -> "UpstreamChoice":
        """From http_proxy, HTTPS_PROXY, ALL_PROXY and NO_PROXY, with curl's rules. A lower-case name wins over the upper-case one. An empty
        variable counts as not set. HTTP_PROXY in upper case is ignored, because under CGI a client can set it with a field named Proxy.

        HTTPS_PROXY is for everything that needs a tunnel, as in goproxy. Raises `OperatorError`, which names the variable.
        """

        def variable(*names: str) -> str:
            return next((environ[name] for name in names if environ.get(name)), "")

        def proxy(*names: str) -> UpstreamProxy | None:
            for name in names:
                if environ.get(name):
                    try:
                        return UpstreamProxy.parse(environ[name])
                    except OperatorError as error:
                        raise OperatorError(f"{name}: {error}") from None
            return None

        return cls(
            http=proxy("http_proxy", "all_proxy", "ALL_PROXY"),
            tunnel=proxy("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"),
            no_proxy=NoProxy(variable("no_proxy", "NO_PROXY")),
        )

    def choose(self, scheme: str, host: str, port: int) -> UpstreamProxy | None:
        """The proxy for a destination, None for none. `scheme` is "http" or "ws" for plain HTTP. Any other scheme means a tunnel."""
        proxy = self._http if scheme in ("http", "ws") else self._tunnel
        return None if proxy is None or (host, port) in self._no_proxy else proxy
