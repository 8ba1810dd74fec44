"""The table of options. `proxy_options` has the options of the proxy only. Flags, the configuration file, MUXWSGI_ variables and
docs/configuration.md all come from the table.

For each option the flag wins over the variable, the variable over the file, the file over the default. `sources` reads files and variables.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

from muxwsgi.cli.hooks import Hooks
from muxwsgi.cli.option import Option, by_section, option, options_of
from muxwsgi.cli.proxy_options import PROXY_OPTIONS
from muxwsgi.cli.sources import Found, Table, default_file, from_environ, from_toml
from muxwsgi.errors import OperatorError
from muxwsgi.server.passed import passed_sockets
from muxwsgi.settings import (
    AdminSettings,
    DevelopmentSettings,
    HTTP2Settings,
    HTTPSettings,
    LogSettings,
    MuxSettings,
    ResponseSettings,
    ServerSettings,
    SystemSettings,
    TrustSettings,
    WorkerSettings,
    short_route,
)
from muxwsgi.settings.sections import APP, BIND, FRONT, LOGS, ROUTES, SECTIONS, TLS, WORKERS

__all__ = ["ALL", "OPTIONS", "collect", "markdown", "shown_default"]

#: Variables that gunicorn reads too, with the options that they set if nothing else does.
_SHARED_VARIABLES = {"FORWARDED_ALLOW_IPS": "forwarded_allow_ips", "SCRIPT_NAME": "root_path"}

#: Options that are not fields of a settings class. All others are.
_ROWS = (
    option("bind", str, ["127.0.0.1:8000"], BIND, "HOST:PORT, :PORT, [ADDRESS]:PORT, unix:PATH, fd://N or fd://NAME; options of this bind alone behind commas: "
            "tls=off|required|optional, certfile=FILE, keyfile=FILE, redirect-http, proxy-protocol, transparent=redirect|tproxy, only=HANDLER (no first bytes are looked at), silence=HANDLER, silence-after=SECONDS; of a unix socket mode=660, user=USER, group=GROUP. "
            "Default: all sockets that systemd passes, or 127.0.0.1:8000.", many=True, flags=("-b",), metavar="ADDRESS"),
    option("tls", str, None, TLS, "off, required, or optional (TLS and plain on one port). Default: required if there is a certificate.",
            choices=("off", "required", "optional")),
    option("certfile", str, [], TLS, "Certificate with its chain, PEM. Several are chosen by server name; the first is used if none fits.", many=True,
            metavar="FILE"),
    option("keyfile", str, [], TLS, "Private key of the certfile at the same place, PEM. Default: the certfile itself.", many=True, metavar="FILE"),
    option("tls_dev", bool, False, TLS, "Serve TLS with a self-signed certificate for this machine, made on first use and kept."),
    option("redirect_http", bool, False, TLS, "Redirect (308) plain HTTP that reaches a port that requires TLS, instead of refusing it (400)."),
    option("proxy_protocol", str, "off", FRONT, "Each connection begins with a PROXY header of a load balancer (v1, v2, or auto for either), which names the client. "
            "The flag alone is auto. -b ADDRESS,proxy-protocol has it for one bind.", choices=("off", "v1", "v2", "auto"), bare="auto"),
    option("route", dict, [], ROUTES, "Send connections elsewhere: a protocol of docs/protocols.md, sni:NAME or alpn:ID, and http, a hijacker, forward:HOST:PORT, "
            "passthrough:HOST:PORT (TLS as it is), close or reject, as in ssh=forward:127.0.0.1:22. In the file a table, [[route]], with more: docs/routes.md.",
            many=True, metavar="MATCH=TO", short=short_route),
    option("upstream", dict, {}, ROUTES, "Servers behind one name, for forward:NAME, as in '{\"NAME\": {\"server\": [\"HOST:PORT\"]}}'. In the file a table for each: [upstream.NAME]. "
            "docs/upstreams.md.", metavar="JSON"),
    option("hijack", str, None, ROUTES, "Serve only these hijackers of those installed; `none` for none at all. Default: all, and beside a proxy none.", many=True, metavar="NAME"),
    option("hijack_options", dict, {}, ROUTES, "Options of hijackers by name, as in '{\"NAME\": {\"OPTION\": 1}}'. In the file a table for each: [hijack.NAME].", metavar="JSON"),
    option("no_hijack", str, [], ROUTES, "Leave this hijacker out.", many=True, metavar="NAME"),
    option("wsgi_app", str, None, APP, "The application, if the command names none: module:attribute or module:factory().", metavar="APP"),
    option("mount", str, [], APP, "Mount a further application, as in /prefix=module:app.", many=True, metavar="PREFIX=APP"),
    option("static", str, [], APP, "Serve the files of a folder, as in /prefix=FOLDER.", many=True, metavar="PREFIX=FOLDER"),
    option("static_max_age", int, None, APP, "Seconds that clients may keep files of --static without asking. Default: they are told nothing.", metavar="SECONDS"),
    option("x_sendfile", str, [], APP, "The application may send files below this folder by the response field X-Sendfile.", many=True, metavar="FOLDER"),
    option(
        "x_accel_redirect",
        str,
        [],
        APP,
        "The application may send files of a folder by the response field X-Accel-Redirect, as in /prefix=FOLDER.",
        many=True,
        metavar="PREFIX=FOLDER",
    ),
    option("chdir", str, None, APP, "Change to this folder before anything is loaded.", metavar="FOLDER"),
    option("pythonpath", str, [], APP, "Look for modules here first.", many=True, metavar="FOLDER"),
    option("raw_env", str, [], APP, "Set this variable for the application, as in DEBUG=1.", many=True, flags=("-e", "--env"), metavar="KEY=VALUE"),
    option(
        "workers",
        str,
        "1",
        WORKERS,
        "How many processes serve: a number, or auto for one a CPU. The variable WEB_CONCURRENCY is used if none is given.",
        flags=("-w",),
        metavar="N",
    ),
    option("access_logfile", str, None, LOGS, "Write an access log to this file; - for standard output.", metavar="FILE"),
    option("access_logformat", str, None, LOGS, "Its format in gunicorn's atoms, or `json` for an object a line. Default: the combined log format.", metavar="FORMAT"),
    option("error_logfile", str, "-", LOGS, "Write the error log to this file; - for standard error.", metavar="FILE"),
    option("logconfig_dict", dict, None, LOGS, "Configure logging as logging.config.dictConfig() does: a table in the file, JSON elsewhere.", metavar="JSON"),
    option("log_level", str, "info", LOGS, "What the error log keeps.", choices=("debug", "info", "warning", "error", "critical")),
)

_SETTINGS = (
    *(ServerSettings, WorkerSettings, SystemSettings, MuxSettings, HTTPSettings, ResponseSettings, HTTP2Settings),
    *(LogSettings, TrustSettings, AdminSettings, DevelopmentSettings),
)

OPTIONS = by_section(SECTIONS, [*_ROWS, *(each for owner in _SETTINGS for each in options_of(owner))])

ALL = (*OPTIONS, *PROXY_OPTIONS)

_BY_NAME = {each.name: each for each in ALL}


def collect(
    flags: Mapping[str, Any],
    config: str | None,
    environ: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
    *,
    proxy: bool = True,
    find_file: bool = False,
) -> dict[str, Any]:
    """Every option's value, by name. `flags` has None, or an empty list, for options that were not given on the command line.

    `config` is the file named there, or None. With `find_file`, the working folder is searched for one then. `defaults` are the command's
    defaults. If no bind is given, the sockets are used that systemd has passed. If there are none, and no default for `bind`, the variable
    PORT is used. Without `proxy`, an option of the proxy in the file or the environment is an error, because such a file (with
    `proxy_auth`, for example) would not have the expected effect. Raises `OperatorError`.

    More keys say how it was configured: `config` the file or None, `hooks` the file's `Hooks`, `remarks` what to tell the operator, a line each, and `sources`
    where each value comes from that is not a default.
    """
    environ = os.environ if environ is None else environ
    values = {each.name: each.default for each in ALL} | dict(defaults or {})
    sources: dict[str, str] = {}
    remarks: list[str] = []
    hooks = Hooks()

    def take(given: Mapping[str, Any], source: Callable[[Option], str]) -> None:
        values.update(given)
        sources.update({name: source(_BY_NAME[name]) for name in given})

    if "bind" not in (defaults or {}) and environ.get("PORT"):
        take({"bind": [_bind_of_port(environ["PORT"])]}, lambda option: "the variable PORT")
    if passed_sockets():
        take({"bind": [f"fd://{each.fd}" for each in passed_sockets()]}, lambda option: "systemd")
    if environ.get("WEB_CONCURRENCY") and not proxy:  # platforms set it to fit the machine, and gunicorn reads it too
        take({"workers": environ["WEB_CONCURRENCY"]}, lambda option: "the variable WEB_CONCURRENCY")
    for variable, name in _SHARED_VARIABLES.items():
        if environ.get(variable):
            take({name: environ[variable]}, lambda option, variable=variable: f"the variable {variable}")  # type: ignore[misc]
    path = config or environ.get("MUXWSGI_CONFIG") or (default_file() if find_file else None)
    table = Table(ALL, () if proxy else PROXY_OPTIONS)
    if path:
        found = _from_file(path, table)
        remarks += found.remarks
        take(found.values, lambda option: str(path))
        hooks = Hooks(found.hooks)
    found = from_environ(environ, table)
    remarks += found.remarks
    take(found.values, lambda option: f"the variable {option.variable}")
    given = {name: list(value) if isinstance(value, tuple) else value for name, value in flags.items() if value not in (None, (), [])}
    tables = {name: _BY_NAME[name].read(value, f"--{name}") for name, value in given.items() if _BY_NAME[name].kind is dict}
    take(given | tables, lambda option: f"the flag {option.flag}")
    return {**values, "config": path, "hooks": hooks, "remarks": remarks, "sources": sources}


def _from_file(path: str, table: Table) -> Found:
    from muxwsgi.cli.python_source import from_python, is_python_file

    return from_python(path, table) if is_python_file(path) else from_toml(path, table)


def _bind_of_port(port: str) -> str:
    """The bind for platforms that choose the port: on all addresses, as in gunicorn."""
    if not port.isascii() or not port.isdigit() or not 0 < int(port) <= 65535:
        raise OperatorError(f"environment: PORT: {port!r} is not a port (it is used if no bind is given)")
    return f"0.0.0.0:{port}"


def markdown() -> str:
    """The tables of docs/configuration.md."""
    lines: list[str] = []
    for section in dict.fromkeys(each.section for each in ALL):
        lines += [f"## {section}", "", "| flag | in the file | default | what it says |", "|---|---|---|---|"]
        for each in ALL:
            if each.section == section:
                flags = ", ".join(f"`{flag}`" for flag in (*each.flags, each.flag))
                value = "" if each.kind is bool else f" `{each.metavar or '|'.join(each.choices)}`".replace("|", "\\|")
                default = "" if each.default in (None, []) else f"`{shown_default(each.default)}`"
                repeat = " (repeatable)" if each.many else ""
                lines.append(f"| {flags}{value}{repeat} | `{each.name}` | {default} | {each.help.replace('|', chr(92) + '|')} |")
        lines.append("")
    return "\n".join(lines)


def shown_default(default: Any) -> str:
    """A default as an operator would write it."""
    if isinstance(default, bool):
        return str(default).lower()
    return " ".join(default) if isinstance(default, list) else f"{default:g}" if isinstance(default, float) else str(default)
