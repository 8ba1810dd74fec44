"""The proxy's own pages: a PAC file for browsers, the CA certificate, and a page that says how to use the proxy.

The only standard for PAC is Netscape's of 1996, so the script is in the JavaScript of that time.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Network, ip_network
from typing import Any

from muxwsgi.errors import OperatorError
from muxwsgi.names import Breadth, join_host_port, parse_host

__all__ = ["FrontPage", "pac"]

#: `uri-host [ ":" port ]` (RFC 9112 section 3.2): a name or an IPv4 address, or an IPv6 address in brackets. It is strict, because the
#: value that the client sends is put into a script.
_HOST = re.compile(r"(?P<host>[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5})?)?")

_SCRIPT = """\
function FindProxyForURL(url, host) {
    var names = %(names)s;
    var domains = %(domains)s;
    var networks = %(networks)s;
    var i;
    host = host.toLowerCase().replace(/^\\[|\\]$|\\.$/g, "");
    if (host === "::1" || host === "localhost" || /\\.localhost$/.test(host)) return "DIRECT";
    if (isPlainHostName(host) && host.indexOf(":") < 0) return "DIRECT";
    for (i = 0; i < names.length; i++) {
        if (host === names[i]) return "DIRECT";
    }
    for (i = 0; i < domains.length; i++) {
        if (dnsDomainIs(host, domains[i])) return "DIRECT";
    }
    if (/^[0-9]+\\.[0-9]+\\.[0-9]+\\.[0-9]+$/.test(host)) {
        for (i = 0; i < networks.length; i++) {
            if (isInNet(host, networks[i][0], networks[i][1])) return "DIRECT";
        }
    }
    return %(proxy)s;
}
"""


#: Returns a certificate, None if the proxy has none.
Certificate = Callable[[], bytes | None]


class FrontPage:
    """A WSGI application.

    /proxy.pac, /wpad.dat       the PAC script, with the address of the proxy that the request used
    /ca.pem, /ca.der            the CA certificate, for clients to trust
    /                           how to use the proxy, in plain text

    Every other path is 404, methods other than GET and HEAD are 405.
    """

    def __init__(
        self, *, direct: Iterable[str] = (), ca_pem: Certificate | None = None, ca_der: Certificate | None = None
    ) -> None:
        """`direct` are hosts that browsers reach without the proxy, as in `pac`. `ca_pem` and `ca_der` return the certificate.

        Raises `OperatorError`.
        """
        self._direct = tuple(direct)
        pac("PROXY localhost:1", self._direct)  # raises now for a wrong entry, and not at the first request
        self._ca_pem = ca_pem
        self._ca_der = ca_der

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Sequence[bytes]:
        """Errors of `ca_pem` and `ca_der` pass through."""
        secure = environ["wsgi.url_scheme"] == "https"
        address = _reached_at(environ, secure)
        status = "200 OK"
        fields: list[tuple[str, str]] = []
        kind = "text/plain; charset=utf-8"
        method = environ["REQUEST_METHOD"]
        match environ["PATH_INFO"]:
            case "/" | "/proxy.pac" | "/wpad.dat" | "/ca.pem" | "/ca.der" if method not in ("GET", "HEAD"):
                status, body = "405 Method Not Allowed", b"This answers to GET and HEAD.\n"
                fields.append(("Allow", "GET, HEAD"))
            case "/":
                body = self._about(address, secure).encode()
            case "/proxy.pac" | "/wpad.dat":
                kind = "application/x-ns-proxy-autoconfig"
                body = pac(f"{'HTTPS' if secure else 'PROXY'} {address}", self._direct).encode()
            case "/ca.pem" if (pem := _asked(self._ca_pem)) is not None:
                kind = "application/x-x509-ca-cert"
                fields.append(("Content-Disposition", 'attachment; filename="muxwsgi-ca.pem"'))
                body = pem
            case "/ca.der" if (der := _asked(self._ca_der)) is not None:
                kind = "application/x-x509-ca-cert"
                fields.append(("Content-Disposition", 'attachment; filename="muxwsgi-ca.der"'))
                body = der
            case _:
                status, body = "404 Not Found", b"This is a proxy. It has no such page.\n"
        fields += [
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-cache"),  # the script depends on Host
            ("X-Content-Type-Options", "nosniff"),
        ]
        start_response(status, fields)
        return [] if method == "HEAD" else [body]

    def _about(self, address: str, secure: bool) -> str:
        scheme = "https" if secure else "http"
        lines = [
            "This is muxwsgi, a proxy.",
            "",
            f"curl            curl --proxy {scheme}://{address} https://example.com/",
            f"environment     https_proxy={scheme}://{address}",
            f"browsers        {scheme}://{address}/proxy.pac",
        ]
        if _asked(self._ca_pem) is not None:
            lines += [
                "",
                "It may intercept TLS. Clients that accept this need its CA certificate:",
                f"PEM             {scheme}://{address}/ca.pem",
            ]
            if _asked(self._ca_der) is not None:
                lines.append(f"DER             {scheme}://{address}/ca.der")
        return "\n".join(lines) + "\n"


def pac(proxy: str, direct: Iterable[str] = ()) -> str:
    """The PAC script. Browsers use `proxy` (for example `PROXY 192.0.2.1:8080`) except for loopback, names without a dot, and `direct`:

    `www.example.com`   this host; an IP address too
    `*.example.com`     the hosts below
    `.example.com`      the host and the hosts below
    `10.0.0.0/8`        URLs with an address of this IPv4 network. Names are not looked up, because that would slow down every page

    `DIRECT` is never a second choice, so a browser that cannot reach the proxy does not go around it. Raises `OperatorError`.
    """
    names: list[str] = []
    domains: list[str] = []
    networks: list[tuple[str, str]] = [("127.0.0.0", "255.0.0.0")]
    for entry in direct:
        text = entry.strip()
        try:
            if "/" in text:
                network = ip_network(text)
                if not isinstance(network, IPv4Network):
                    raise OperatorError(f"direct: {entry!r}: PAC has no IPv6 networks, only IPv6 addresses")
                networks.append((str(network.network_address), str(network.netmask)))
                continue
            breadth = Breadth.BELOW if text.startswith("*.") else Breadth.WITH_ITSELF if text.startswith(".") else None
            host = parse_host(text.removeprefix("*").removeprefix("."))
        except ValueError:
            raise OperatorError(f"direct: {entry!r} is not a host name, *.DOMAIN, .DOMAIN, an address or an IPv4 network") from None
        if breadth is not None and isinstance(host, str):
            domains.append(f".{host}")
        if breadth is not Breadth.BELOW:
            names.append(str(host))
    values = {"names": names, "domains": domains, "networks": networks, "proxy": proxy}
    return _SCRIPT % {key: json.dumps(value) for key, value in values.items()}


def _asked(certificate: Certificate | None) -> bytes | None:
    return None if certificate is None else certificate()


def _reached_at(environ: dict[str, Any], secure: bool) -> str:
    """`host:port` by which the client has reached the proxy."""
    field = _HOST.fullmatch(environ.get("HTTP_HOST", ""))
    if field is not None and int(field["port"] or 1) in range(1, 65536):
        return f"{field['host']}:{field['port'] or (443 if secure else 80)}"
    host, port = environ["SERVER_NAME"], environ["SERVER_PORT"]
    return join_host_port(host, port)
