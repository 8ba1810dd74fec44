"""The commands that serve nothing: check, explain, hijackers, routes."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import click

from muxwsgi.cli.admin import wanted
from muxwsgi.cli.application import application
from muxwsgi.cli.configured import made_hijackers, prepare_process, server_settings, wanted_hijackers
from muxwsgi.cli.development import check_debug
from muxwsgi.cli.workers import worker_count
from muxwsgi.errors import OperatorError
from muxwsgi.mux.explain import Explanation, LayerHandler, repr_of
from muxwsgi.mux.explain import explain as explain_mux
from muxwsgi.mux.hijack import Hijacker
from muxwsgi.mux.matchers import shown
from muxwsgi.mux.mux import Mux
from muxwsgi.mux.registry import discover, select
from muxwsgi.mux.route import Route
from muxwsgi.observe.access_format import compile_format
from muxwsgi.protocols import described
from muxwsgi.server.binds import Listening, serves_both_families, tcp_address, try_bind
from muxwsgi.server.server import Server
from muxwsgi.settings import BindSettings, ServerSettings

__all__ = ["check", "check_proxy", "explain", "list_hijackers", "list_routes"]


def _nobody(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Takes the place of the application, because these commands serve nothing."""
    raise AssertionError("this application is never called")


def _composed(values: Mapping[str, Any], app: Any = _nobody) -> Server:
    """The server as it would run, but on other sockets. A running server may use the configured ones."""
    settings = server_settings(values)
    plugins, installed = wanted_hijackers(values, app)
    server = Server(
        app,
        hijackers=made_hijackers(values, plugins, installed),
        settings=settings,
        registered=installed,
        listening=[_elsewhere(bind) for bind in settings.binds],
    )
    server.close()
    return server


def _elsewhere(bind: BindSettings) -> Listening:
    """A free socket of this machine in place of the bind's. Routes and messages know the bind by the address that is configured."""
    return Listening(BindSettings(host="127.0.0.1", port=0), backlog=1).with_bind(bind)


def check(app_spec: str | None, values: Mapping[str, Any]) -> None:
    """Print what would be served. Raises `OperatorError` for a fault."""
    values = prepare_process(values)
    if values["access_logformat"]:
        compile_format(values["access_logformat"])
    wanted(values)
    settings = server_settings(values)
    binds = [bind for bind in settings.binds if bind.fd is None]  # of an open socket, only the socket knows the address
    check_debug(values, [(bind.address, None if bind.path else tcp_address(bind)[0]) for bind in binds], worker_count(values))
    app = application(app_spec, values) if app_spec else _nobody
    _list_binds(_composed(values, app), settings)
    click.echo("the configuration is good" + (f", and {app_spec} loads" if app_spec else ""))


def check_proxy(values: Mapping[str, Any]) -> None:
    """Print what the proxy would serve. Raises `OperatorError` for a fault."""
    from muxwsgi.cli.proxy import check_records, made_proxy

    values = prepare_process(values)
    if values["access_logformat"]:
        compile_format(values["access_logformat"])
    for name in _RECORDS:  # a check writes nothing, and another process may have locked the file
        path = values[name]
        if path and path != "-" and not os.access(Path(path).parent, os.W_OK):
            raise OperatorError(f"{name}: no file can be written in {Path(path).parent}")
    wanted(values)
    check_records(values)
    proxy, _ = made_proxy({**values, **dict.fromkeys(_RECORDS), "flow_filter": None, "flow_rotate": 0})
    settings = server_settings(values)
    for bind in settings.binds:
        if bind.path is None and bind.fd is None:
            proxy.access.check_bind(tcp_address(bind), can_ask=bind.transparent is None)
    _list_binds(_composed(values, proxy), settings)
    click.echo(f"tunnels are {'intercepted' if proxy.may_intercept else 'relayed as they are'}")
    click.echo("the configuration is good")


#: Options of the proxy with the name of a file that it writes.
_RECORDS = ("flows", "har", "keylog")


def _list_binds(server: Server, settings: ServerSettings) -> None:
    """Try each bind, and print it. A bind that is in use is not a fault, because a running server may have it."""
    for bind, (address, _) in zip(settings.binds, server.binds, strict=True):
        others = [other for other in settings.binds if other is not bind]
        note = try_bind(bind, both_families=serves_both_families(bind, others))
        behind = f" ({note})" if note is not None else ""
        if bind.transparent is not None:
            click.echo(f"{bind.address} (transparent={bind.transparent}){behind}")
        else:
            proxied = "" if bind.proxy_protocol == "off" else f", PROXY protocol {bind.proxy_protocol}"
            click.echo(f"{bind.address} (TLS {bind.tls}{proxied}): {', '.join(_served(server, server.muxes[address]))}{behind}")


def _served(server: Server, mux: Mux) -> list[str]:
    """The names of the routes that clients of a bind can reach, outside and inside of TLS."""
    if mux.only is not None and not isinstance(mux.only.handler, LayerHandler):
        return [mux.only.name]
    here = {route.name for route in mux.routes}
    for route in mux.routes:
        if isinstance(route.handler, LayerHandler):
            inner = route.handler.inner
            here |= {inner.only.name} if inner.only is not None else {each.name for each in inner.routes}
    return [route.name for route in server.routes if route.name in here]


def explain(data: bytes, values: Mapping[str, Any]) -> None:
    """Print the verdict of each route of each bind on `data`."""
    values = prepare_process(values)
    server = _composed(values)
    shown = set()
    for bind, (address, _) in zip(server_settings(values).binds, server.binds, strict=True):
        found = explain_mux(server.muxes[address], data, described)
        text = "\n".join([str(found).replace(address, bind.address), *_servers_of(found, server)])
        if text not in shown:
            shown.add(text)
            click.echo(text)


def _servers_of(found: Explanation, server: Server) -> Iterator[str]:
    """The servers of the upstream that a connection would go to."""
    route = (found.inside or found.otherwise).route
    to = "" if route is None else server.destinations.get(route.name, route.name).partition(":")[2]
    for upstream in server.upstreams:
        if str(upstream) == to:
            listed = ", ".join(f"{each.title}{' (backup)' if each.backup else ''}" for each in upstream.settings.servers)
            yield f"   its servers, by {upstream.settings.options.balance}: {listed}"


def list_routes(values: Mapping[str, Any]) -> None:
    """Print the routes of each bind in the order that they are asked, outside and inside of TLS."""
    values = prepare_process(values)
    server = _composed(values)
    for bind, (address, _) in zip(server_settings(values).binds, server.binds, strict=True):
        mux = server.muxes[address]
        _print_routes(mux, bind.address, server.destinations)
        for route in mux.routes:
            if isinstance(route.handler, LayerHandler):
                _print_routes(route.handler.inner, f"{bind.address}, inside of TLS", server.destinations)
    _print_upstreams(server)


def _print_routes(mux: Mux, name: str, destinations: Mapping[str, str]) -> None:
    click.echo(f"{name}:")
    rows = [("ROUTE", "MATCHES", "IF", "TO", "ALPN", "LIMIT")]
    for route in mux.routes:
        limit = "-" if route.limit is None else str(route.limit)
        condition = "-" if route.when is None else str(route.when)
        to = destinations.get(route.name) or _to(route)
        rows.append((route.name, shorten(repr_of(route), 60), condition, to, ",".join(route.alpn) or "-", limit))
    _print_table(rows)
    if mux.only is not None:
        click.echo(f"  all connections: {mux.only.name}, without a look at their first bytes")
        return
    for what, end in (("silence", mux.silence), ("anything else", mux.fallback)):
        click.echo(f"  {what}: {'closed' if end is None else end.name}")


def _print_upstreams(server: Server) -> None:
    """Print the servers of each `[upstream.NAME]`."""
    for upstream in server.upstreams:
        if not upstream.settings.is_named:  # its addresses stand in the routes
            continue
        click.echo(f"upstream {upstream} ({upstream.settings.options.balance}):")
        rows = [("SERVER", "ADDRESS", "WEIGHT", "MAXCONN", "TLS", "PROXY", "CHECK")]
        for own in upstream.settings.servers:
            tls = "-" if not own.ssl else "verified" if own.verify == "required" else "not verified"
            header = "v1" if own.send_proxy else "v2" if own.send_proxy_v2 else "-"
            check = f"every {own.inter:g} s" if own.check else "while down" if own.observe == "layer4" else "-"
            address = f"{own.address}{' (backup)' if own.backup else ''}{' (disabled)' if own.disabled else ''}"
            rows.append((own.title, address, str(own.weight), str(own.maxconn or "-"), tls, header, check))
        _print_table(rows)


def _to(route: Route) -> str:
    """Where a route of the server, or of a hijacker, leads."""
    if isinstance(route.handler, LayerHandler):
        return "TLS is terminated"
    return "http" if not route.is_stream else "a hijacker"


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def shorten(expression: str, most: int = 72) -> str:
    """Shorten a matcher, because long ones make the table unreadable. `muxwsgi explain` shows their verdicts."""
    return expression if len(expression) <= most else expression[: most - 3] + "..."


def _options_of(hijacker: Hijacker) -> str:
    """The options that an operator may set, each with its default."""
    if hijacker.options is None:
        return "-"
    return ",".join([each.name if each.default is MISSING else f"{each.name}={each.default}" for each in fields(hijacker.options)])


def list_hijackers(values: Mapping[str, Any]) -> None:
    """Print the table of installed hijackers."""
    with contextlib.suppress(FileNotFoundError):
        values = prepare_process(values)
    installed = discover()
    if not installed:
        click.echo("no hijacker is installed (packages offer them by the entry point group muxwsgi.hijack)")
        return
    try:
        chosen = {plugin.name for plugin in select([p for p in installed if p.error is None], values["hijack"], values["no_hijack"])}
    except OperatorError:
        select(installed, values["hijack"], values["no_hijack"])  # raises for an unknown name
        raise
    rows = [("NAME", "MATCHES", "PRIORITY", "ALPN", "SILENCE", "OPTIONS", "PACKAGE", "SERVED")]
    for plugin in installed:
        package = f"{plugin.package} {plugin.version}"
        hijacker = plugin.hijacker
        if hijacker is None:
            rows.append((plugin.name, "-", "-", "-", "-", "-", package, f"no: {plugin.error.line if plugin.error else ''}"))
        else:
            served = "yes" if plugin.name in chosen else "no: not wanted"
            alpn = ",".join(hijacker.alpn) or "-"
            silence = "takes it" if hijacker.takes_silence else "-"
            matches, options = shorten(shown(hijacker.match)), _options_of(hijacker)
            rows.append((plugin.name, matches, str(hijacker.priority), alpn, silence, options, package, served))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() or os.linesep)
