"""`muxwsgi proxy`: from option values to a `Proxy`. Imported in a process that is patched already."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muxwsgi.cli.load_app import load_rules
from muxwsgi.cli.run import Log, serve_made
from muxwsgi.dial.dialer import DialSettings
from muxwsgi.dial.upstream_choice import UpstreamChoice
from muxwsgi.dial.upstream_proxy import UpstreamProxy
from muxwsgi.errors import OperatorError
from muxwsgi.proxy.certificates.authority import Authority
from muxwsgi.proxy.certificates.key_log import KeyLog
from muxwsgi.proxy.context import number_sessions
from muxwsgi.proxy.doors.access import Access, Credentials
from muxwsgi.proxy.proxy import Proxy
from muxwsgi.proxy.rules.blocklist import BlockList
from muxwsgi.proxy.settings import ProxySettings
from muxwsgi.records.flow import FlowSink, number_flows
from muxwsgi.records.flow_filter import parse_filter
from muxwsgi.records.flow_log import FlowLog
from muxwsgi.records.har import HARFile
from muxwsgi.setting import from_options
from muxwsgi.signals import Signals
from muxwsgi.wire.connection import number_connections

if TYPE_CHECKING:
    from muxwsgi.cli.workers import Role

__all__ = ["check_records", "made_proxy", "serve"]


def serve(role: "Role", signals: Signals, pseudonym: str) -> None:
    """Serve until a signal stops the worker. All workers have the same `pseudonym`, so that each knows a request that has passed another
    one. Raises `OperatorError` before anything is served."""
    number_connections(role.board.numbers("connections"))
    number_sessions(role.board.numbers("sessions"))
    number_flows(role.board.numbers("flows"))
    serve_made(partial(made_proxy, pseudonym=pseudonym), "proxy", role, signals)


def made_proxy(values: Mapping[str, Any], pseudonym: str | None = None) -> tuple[Proxy, list[Log]]:
    """The proxy of the options, and the logs that it writes. Raises `OperatorError`."""
    sinks, logs = _records(values)
    key_log = KeyLog(values["keylog"]) if values["keylog"] else None
    proxy = Proxy(
        _settings(values, pseudonym),
        access=Access(
            _credentials(values),
            realm=values["proxy_realm"],
            allow=values["allow"] or None,
            client_certificates=values["client_certificates"] != "none",
            open=values["open_proxy"],
        ),
        authority=Authority.load(Path(values["ca_folder"]) if values["ca_folder"] else None) if values["mitm"] else None,
        upstreams=_upstreams(values),
        dialing=DialSettings(
            source_addresses=tuple(values["source_address"]),
            proxy_ca_file=values["upstream_ca"],
        ),
        allow_private=values["allow_private"],
        allow_networks=values["allow_destination"],
        key_log=key_log,
        sinks=sinks,
        direct_hosts=values["pac_direct"],
    )
    if values["block"]:
        proxy.block(BlockList(values["block"]).blocked)
    if values["rules"]:
        load_rules(values["rules"])(proxy)
    return proxy, logs


def _credentials(values: Mapping[str, Any]) -> Credentials | None:
    if not values["proxy_auth"]:
        return None
    from muxwsgi.proxy.doors.htpasswd import Htpasswd  # takes 0.1 s, so only if it is needed

    return Htpasswd(values["proxy_auth"])


def _settings(values: Mapping[str, Any], pseudonym: str | None) -> ProxySettings:
    return from_options(ProxySettings, values, default_action="mitm" if values["mitm"] else "accept", pseudonym=pseudonym)


def _upstreams(values: Mapping[str, Any]) -> UpstreamChoice | None:
    url = values["upstream_proxy"]
    if url is None:
        return None
    if url == "direct":
        return UpstreamChoice()
    upstream = UpstreamProxy.parse(url)
    return UpstreamChoice(http=upstream, tunnel=upstream)


def check_records(values: Mapping[str, Any]) -> None:
    """Check that options of records are only given with a record. Raises `OperatorError`."""
    if values["flow_filter"]:
        parse_filter(values["flow_filter"])
    for name, what in (("flow_filter", "choose from"), ("flow_rotate", "rotate")):
        if values[name] and not (values["flows"] or values["har"]):
            raise OperatorError(f"{name}: nothing is recorded that it could {what} (--flows, or --har)")


def _records(values: Mapping[str, Any]) -> tuple[list[FlowSink], list[Log]]:
    check_records(values)
    wanted = parse_filter(values["flow_filter"]) if values["flow_filter"] else None
    paths = [values[name] for name in ("flows", "har", "keylog") if values[name]]
    if len({os.path.realpath(path) for path in paths}) < len(paths):
        raise OperatorError("flows, har and keylog: each needs a separate file")
    sinks: list[FlowSink] = []
    logs: list[Log] = []
    for make, path in ((FlowLog, values["flows"]), (HARFile, values["har"])):
        if path:
            written = make(path, flow_filter=wanted, max_bytes=values["flow_rotate"])
            sinks.append(written)
            logs.append(written)
    return sinks, logs
