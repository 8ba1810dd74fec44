"""The messages of a server at its start: a line in the log for each bind, and commands to try on a terminal."""

import logging
import os
import shlex
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from muxwsgi.mux.hijack import Hijacker
from muxwsgi.mux.matchers import shown
from muxwsgi.server.proxy_application import ProxyApplication
from muxwsgi.server.server import Server
from muxwsgi.settings import BindSettings

if TYPE_CHECKING:
    from muxwsgi.proxy.proxy import Proxy

__all__ = ["announce"]

log = logging.getLogger("muxwsgi.error")

#: A kind of client, and a command line to try it with.
Example = tuple[str, str]


def announce(server: Server, app: object, name: str, hijackers: Sequence[Hijacker], addresses: Collection[str]) -> None:
    """Log that `server` serves `app`, which the operator calls `name`, on those of its addresses that are in `addresses`."""
    binds = [(address, bind) for address, bind in server.binds if address in addresses]
    if not binds:
        return
    proxy = _as_proxy(app)
    routes = ", ".join(route.name for route in server.routes)
    for address, bind in binds:
        if bind.transparent is not None:
            log.info("listening on %s (transparent=%s): connections that the kernel redirects", address, bind.transparent)
        else:
            log.info("listening on %s (TLS %s): %s", address, bind.tls, routes)
    ca = _ca_file(proxy) if proxy is not None and proxy.may_intercept else None
    if ca is not None:
        log.info("tunnels are intercepted: clients have to trust %s", ca)
    if not sys.stderr.isatty():
        return
    lines = [""]
    for address, bind in binds:
        lines.append(f"  {address}   {_spoken(bind)}")
        examples = _examples(address, bind, name, hijackers) if proxy is None else _ways_in(address, bind, server, proxy, ca)
        lines += [f"    {client:<12} {command}" for client, command in examples]
        lines.append("")
    if proxy is not None:
        lines += [f"  {line}" for line in _about_tunnels(proxy, ca, hijackers)]
        lines.append("")
    print("\n".join(lines), file=sys.stderr)


def _as_proxy(app: object) -> "Proxy | None":
    if not isinstance(app, ProxyApplication):
        return None
    from muxwsgi.proxy.proxy import Proxy  # imported already for a proxy; otherwise the import takes 0.3 s

    return app if isinstance(app, Proxy) else None


def _spoken(bind: BindSettings) -> str:
    if bind.transparent is not None:
        return "transparent: for clients that know of no proxy"
    return {"off": "plain", "required": "TLS", "optional": "TLS and plain"}[bind.tls]


def _host_and_port(address: str) -> tuple[str, str]:
    """The host and the port for clients on this machine."""
    host, _, port = address.rpartition(":")
    return "localhost" if host in ("0.0.0.0", "[::]") else host, port


# An application


def _examples(address: str, bind: BindSettings, name: str, hijackers: Sequence[Hijacker]) -> Iterator[Example]:
    tls = bind.tls != "off"
    if address.startswith("unix:"):
        yield name, f"curl --unix-socket {address.removeprefix('unix:')} http://localhost/"
        return
    host, port = _host_and_port(address)
    yield name, f"curl {'-k https' if tls else 'http'}://{host}:{port}/"
    for hijacker in hijackers:
        if hijacker.examples is None:
            yield hijacker.name, f"what {shown(hijacker.match)} matches"
        else:
            yield hijacker.name, hijacker.examples[tls].format(host=host.strip("[]"), port=port)


# A proxy


def _ways_in(address: str, bind: BindSettings, server: Server, proxy: "Proxy", ca: str | None) -> Iterator[Example]:
    host, port = _host_and_port(address)
    if bind.transparent is not None:
        to = f"redirect to :{port}" if bind.transparent == "redirect" else f"tproxy to :{port} meta mark set 1"
        yield "nftables", f"tcp dport {{ 80, 443 }} {to}"
        return
    options = f"--cacert {shlex.quote(ca)} " if ca is not None else ""
    user = ""
    if proxy.access.asks_password:
        options = f"-U USER:PASSWORD {options}"
        user = "USER:PASSWORD@"
    if address.startswith("unix:"):
        yield "SOCKS", f"curl -x socks5h://localhost{shlex.quote(address.removeprefix('unix:'))} {options}https://example.com/"
        return
    if bind.tls != "off":
        certificate = "" if server.settings.client_certificates == "none" else "--proxy-cert FILE --proxy-key FILE "
        yield "HTTPS", f"curl -x https://{host}:{port} --proxy-insecure {certificate}{options}https://example.com/"
    if bind.tls != "required":
        yield "HTTP", f"curl -x http://{host}:{port} {options}https://example.com/"
        yield "SOCKS", f"curl -x socks5h://{host}:{port} {options}https://example.com/"
        yield "environment", f"export http_proxy=http://{user}{host}:{port} https_proxy=http://{user}{host}:{port}"
    yield "browsers", f"{'https' if bind.tls == 'required' else 'http'}://{host}:{port}/proxy.pac as the URL of a proxy configuration"


def _about_tunnels(proxy: "Proxy", ca: str | None, hijackers: Sequence[Hijacker]) -> Iterator[str]:
    if not proxy.may_intercept:
        yield "Tunnels are relayed as they are. To intercept them: --mitm, or a rule for it."
        return
    if ca is not None:
        folder = f" --folder {shlex.quote(proxy.settings.ca_folder)}" if proxy.settings.ca_folder else ""
        yield f"Tunnels are intercepted. Clients have to trust {ca}:"
        yield f"`muxwsgi ca export{folder}` prints how browsers and others learn to."
    else:
        yield "Tunnels are intercepted. Clients have to trust the CA."
    if hijackers:
        yield f"Served in tunnels, beside HTTP: {', '.join(hijacker.name for hijacker in hijackers)}."


def _ca_file(proxy: "Proxy") -> str | None:
    """The CA's file. None if the program has given the proxy its CA in Python, because then its folder is unknown."""
    from muxwsgi.proxy.certificates.authority import default_folder

    folder = proxy.settings.ca_folder
    path = os.path.join(os.path.abspath(folder or default_folder()), "ca.pem")
    return path if os.path.isfile(path) else None
