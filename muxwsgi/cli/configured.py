"""Makes settings of option values, and finds the hijackers. `run` and the commands that serve nothing use it."""

import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from muxwsgi.cli.logs import CONFIGURATION, check_logs
from muxwsgi.cli.options import ALL
from muxwsgi.errors import OperatorError
from muxwsgi.mux.hijack import Hijacker
from muxwsgi.mux.registry import Registered, discover, select, unknown_hijacker
from muxwsgi.server.bind_text import parse_bind
from muxwsgi.server.passed import expand_binds, passed_sockets
from muxwsgi.server.proxy_application import ProxyApplication
from muxwsgi.setting import from_options
from muxwsgi.settings import (
    BindSettings,
    CertificateFiles,
    HTTP2Settings,
    HTTPSettings,
    MuxSettings,
    ResponseSettings,
    RouteSettings,
    ServerSettings,
    TLSMode,
    TrustSettings,
    UpstreamSettings,
    parse_route,
    parse_upstream,
)

__all__ = ["made_hijackers", "prepare_process", "say_remarks", "server_settings", "set_environment", "wanted_hijackers"]

log = logging.getLogger("muxwsgi.error")


def server_settings(values: Mapping[str, Any]) -> ServerSettings:
    """The settings of the options. Makes the development certificate if an option asks for it. Raises `OperatorError`."""
    certificates = _certificates(values)
    tls: TLSMode = values["tls"] or ("required" if certificates else "off")
    # A bind may have a separate certificate, so a missing certificate is found there.
    default = BindSettings(
        tls=tls if certificates else "off",
        certificates=certificates if tls != "off" else (),
        reuse_port=values["reuse_port"],
        redirect_http=values["redirect_http"] and tls == "required" and bool(certificates),
        proxy_protocol=values["proxy_protocol"],
    )
    if values["tls"] in ("required", "optional") and not certificates and not any("certfile=" in bind for bind in values["bind"]):
        raise OperatorError(f"tls={values['tls']} needs a certificate (--certfile and --keyfile, or --tls-dev)")
    binds = tuple(_absolute_bind(parse_bind(text, default)) for text in expand_binds(values["bind"], passed_sockets()))
    _check_no_tls_is_missed(values, binds)
    return from_options(
        ServerSettings,
        values,
        binds=binds,
        http=from_options(HTTPSettings, values),
        http2=from_options(HTTP2Settings, values),
        mux=from_options(MuxSettings, values),
        trust=from_options(TrustSettings, values),
        responses=from_options(ResponseSettings, values),
        routes=_routes(values),
        upstreams=_upstreams(values),
    )


def _routes(values: Mapping[str, Any]) -> tuple[RouteSettings, ...]:
    source = values["sources"].get("route", "route") if "sources" in values else "route"
    routes = []
    for number, table in enumerate(values["route"], 1):
        settings = parse_route(table, f"{source}: route {number}")
        routes.append(replace(settings, clients_file=_absolute(settings.clients_file)))
    return tuple(routes)


def _upstreams(values: Mapping[str, Any]) -> tuple[UpstreamSettings, ...]:
    source = values["sources"].get("upstream", "upstream") if "sources" in values else "upstream"
    upstreams = []
    for name, table in values["upstream"].items():
        settings = parse_upstream(name, table, f"{source}: upstream.{name}")
        servers = [replace(each, **{key: _absolute(getattr(each, key)) for key in ("ca_file", "crt", "key")}) for each in settings.servers]
        upstreams.append(replace(settings, servers=tuple(servers)))
    return tuple(upstreams)


def _check_no_tls_is_missed(values: Mapping[str, Any], binds: Sequence[BindSettings]) -> None:
    """Raises `OperatorError` for settings that need TLS if no bind has TLS."""
    if values["client_certificates"] != "none" and all(bind.tls == "off" for bind in binds):
        raise OperatorError("client_certificates: no bind has TLS, in which clients could show one (--certfile, or --tls-dev)")
    if values["ca_certs"] and values["client_certificates"] == "none":
        raise OperatorError("ca_certs: clients are asked for no certificate (--client-certificates required, or optional)")
    if values["hsts"] and values["tls_dev"]:
        raise OperatorError("hsts: browsers would not forget it when the development certificate is gone (--tls-dev)")
    if values["redirect_http"] and not any(bind.redirect_http for bind in binds):
        raise OperatorError("redirect_http: no bind requires TLS, so there is nothing to redirect to")


def _certificates(values: Mapping[str, Any]) -> tuple[CertificateFiles, ...]:
    certfiles, keyfiles = values["certfile"], values["keyfile"]
    if len(keyfiles) > len(certfiles):
        raise OperatorError("keyfile: there are more keyfiles than certfiles")
    if keyfiles and len(keyfiles) < len(certfiles):
        raise OperatorError("keyfile: give one for each certfile, or none if the certfiles hold the keys")
    pairs = zip(certfiles, keyfiles or certfiles, strict=True)
    certificates = tuple(CertificateFiles(certfile=certfile, keyfile=keyfile) for certfile, keyfile in pairs)
    if values["tls_dev"]:
        if certificates:
            raise OperatorError("tls_dev: there is a certfile already")
        from muxwsgi.wire.tls.development_certificate import development_certificate

        certificates = (development_certificate(),)
    return certificates


def wanted_hijackers(values: Mapping[str, Any], app: object) -> tuple[list[Registered], list[Registered]]:
    """The hijackers to serve beside `app`, loaded, and all that are installed. Raises `OperatorError`.

    Beside a proxy, only hijackers that the operator names are served, because in a tunnel a hijacker answers in place of the destination.
    """
    installed = discover()
    named = values["hijack"]
    if named is None and isinstance(app, ProxyApplication):
        named = []
    return select(installed, named, values["no_hijack"]), installed


def made_hijackers(values: Mapping[str, Any], plugins: Sequence[Registered], installed: Sequence[Registered]) -> list[Hijacker]:
    """The hijackers of `plugins` with their options. Raises `OperatorError`."""
    source = values["sources"].get("hijack_options", "hijack") if "sources" in values else "hijack"
    by_name = {plugin.name: plugin for plugin in installed}
    for name, table in values["hijack_options"].items():
        where = f"{source}: hijack.{name}"
        if name not in by_name:
            raise OperatorError(f"{where}: {unknown_hijacker(name, by_name)}")
        if not isinstance(table, Mapping):
            raise OperatorError(f"{where}: {table!r} is not a table of its options")
        by_name[name].made(table, where)
    return [plugin.made() for plugin in plugins]


def prepare_process(values: Mapping[str, Any]) -> dict[str, Any]:
    """Set the working folder, the module path and the variables of `--env`, before anything is loaded.

    Returns `values` with absolute paths, because an application may change the folder, and files are opened after its import, and again
    later. Raises `OperatorError`."""
    set_environment(values["raw_env"])
    if values["chdir"]:
        try:
            os.chdir(values["chdir"])
        except OSError as error:
            raise OperatorError(f"chdir: {values['chdir']}: {error.strerror}") from error
    additions: Sequence[str] = [*values["pythonpath"], os.getcwd()]
    sys.path[:0] = [path for path in additions if path not in sys.path]
    values = {**values, **{option.name: _absolute(values[option.name]) for option in ALL if option.metavar in ("FILE", "FOLDER")}}
    if CONFIGURATION not in values:
        values[CONFIGURATION] = check_logs(values)
    return values


#: The values before that variables had which were set, None for those that did not exist.
_before: dict[str, str | None] = {}


def set_environment(pairs: Iterable[str]) -> None:
    """Set the variables of `pairs`, KEY=VALUE. Those that were set by an earlier call get the values back that they had before. Raises
    `OperatorError`."""
    wanted = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key or "\0" in pair:
            raise OperatorError(f"raw_env: {pair!r} is not KEY=VALUE")
        wanted[key] = value
    for key, earlier in _before.items():
        if earlier is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = earlier
    _before.clear()
    _before.update({key: os.environ.get(key) for key in wanted})
    os.environ.update(wanted)


def say_remarks(values: Mapping[str, Any]) -> None:
    """Tell the operator which file was read, and what there is to say about it."""
    if values["config"]:
        log.info("the configuration is %s", values["config"])
    for remark in values["remarks"]:
        log.warning("%s", remark)


def _absolute(value: Any) -> Any:
    if isinstance(value, list):
        return [_absolute(each) for each in value]
    return value if not value or value == "-" else os.path.abspath(value)


def _absolute_bind(bind: BindSettings) -> BindSettings:
    certificates = tuple(CertificateFiles(certfile=_absolute(c.certfile), keyfile=_absolute(c.keyfile)) for c in bind.certificates)
    return replace(bind, path=_absolute(bind.path), certificates=certificates)
