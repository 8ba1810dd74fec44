"""The table of options; those of the proxy alone are in `proxy_options`. Flags, the configuration file, MUXWSGI_ variables and
docs/configuration.md all come from it.

For each option the flag wins over the variable, the variable over the file, the file over the default. What is wrong is an `OperatorError`
that names the source and the place; a name that does not exist is answered with the nearest one that does.
"""

import os
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from muxwsgi.cli.option import PREFIX, Option, option
from muxwsgi.cli.proxy_options import PROXY_OPTIONS
from muxwsgi.errors import OperatorError
from muxwsgi.settings import HTTPSettings

__all__ = ["OPTIONS", "collect", "markdown", "shown_default"]

#: Variables with our prefix that are not options: the file itself, and a switch of the build.
NOT_OPTIONS = frozenset({"MUXWSGI_CONFIG", "MUXWSGI_PURE"})


_BIND = "Where to listen"
_TLS = "TLS"
_ROUTES = "Who gets a connection"
_HTTP = "HTTP"
_APP = "The application"
_PROCESS = "The process"
_LOGS = "Logs"

#: Where the defaults of deadlines stand.
_HTTP_DEFAULTS = HTTPSettings()

OPTIONS: tuple[Option, ...] = (
    option("bind", str, ["127.0.0.1:8000"], _BIND, "HOST:PORT, :PORT, [ADDRESS]:PORT, unix:PATH or fd://N; options of this bind alone behind commas: "
            "tls=off|required|optional, certfile=FILE, keyfile=FILE, redirect-http, transparent=redirect|tproxy.", many=True, flags=("-b",), metavar="ADDRESS"),
    option("backlog", int, 2048, _BIND, "Connections that the kernel keeps until they are accepted.", metavar="N"),
    option("max_connections", int, 0, _BIND, "Connections served at once, 0 for no limit; further ones wait in the backlog.", metavar="N"),
    option("tls", str, None, _TLS, "off, required, or optional (TLS and plain on one port). Default: required where there is a certificate.",
            choices=("off", "required", "optional")),
    option("certfile", str, [], _TLS, "Certificate with its chain, PEM. Several are chosen by server name; the first where none fits.", many=True,
            metavar="FILE"),
    option("keyfile", str, [], _TLS, "Private key of the certfile at the same place, PEM. Default: the certfile itself.", many=True, metavar="FILE"),
    option("tls_dev", bool, False, _TLS, "Serve TLS with a self-signed certificate for this machine, made on first use and kept."),
    option("redirect_http", bool, False, _TLS, "Redirect (308) plain HTTP that reaches a port that requires TLS, instead of refusing it (400)."),
    option("client_certificates", str, "none", _TLS, "Whether clients are asked for a certificate, and must have one.",
            choices=("none", "optional", "required")),
    option("ca_certs", str, None, _TLS, "CA certificates that client certificates are verified with, PEM.", metavar="FILE"),
    option("ciphers", str, None, _TLS, "OpenSSL cipher list for TLS 1.2. Default: forward secrecy and AEAD only.", metavar="LIST"),
    option("unknown_alpn", str, "refuse", _TLS, "What happens to clients that offer ALPN ids, and none that is served: refuse (no_application_protocol), or ignore the ids, for devices with ids of their own.", choices=("refuse", "ignore")),
    option("handshake_timeout", float, 10.0, _TLS, "Seconds that a TLS handshake may take.", metavar="SECONDS"),
    option("hijack", str, None, _ROUTES, "Serve only these hijackers of those installed; `none` for none at all. Default: all, and beside a proxy none.", many=True, metavar="NAME"),
    option("no_hijack", str, [], _ROUTES, "Leave this hijacker out.", many=True, metavar="NAME"),
    option("fallback", str, "close", _ROUTES, "Who gets what no route matches: close, http (answers 400), forward:HOST:PORT or a hijacker.", metavar="WHO"),
    option("silence", str, "close", _ROUTES, "Who gets connections on which the client waits for the server to speak: as for fallback.", metavar="WHO"),
    option("sniff_timeout", float, 3.0, _ROUTES, "Seconds that first bytes may take to decide, where somebody would get the connection then; else --request-head-timeout.", metavar="SECONDS"),
    option("peek_limit", int, 16384, _ROUTES, "First bytes looked at, at most.", metavar="BYTES"),
    option("keep_alive", float, _HTTP_DEFAULTS.keep_alive, _HTTP, "Seconds that a connection may rest between requests.", metavar="SECONDS"),
    option("request_head_timeout", float, _HTTP_DEFAULTS.request_head_timeout, _HTTP, "Seconds that a request head may take: 408.",
            metavar="SECONDS"),
    option("body_min_rate", float, _HTTP_DEFAULTS.body_min_rate, _HTTP, "Bytes per second that a body must move, either way; 0 for no minimum.",
            metavar="RATE"),
    option("body_rate_grace", float, _HTTP_DEFAULTS.body_rate_grace, _HTTP,
            "Seconds that a body may stand still, and until the minimum rate counts.", metavar="SECONDS"),
    option("limit_request_line", int, 8190, _HTTP, "Bytes of a request line: 414 above.", metavar="BYTES"),
    option("limit_request_fields", int, 100, _HTTP, "Number of request fields: 431 above.", metavar="N"),
    option("limit_request_field_size", int, 8190, _HTTP, "Bytes of one request field: 431 above.", flags=("--limit-request-field_size",), metavar="BYTES"),
    option("limit_request_head", int, 65536, _HTTP, "Bytes of a whole request head: 431 above.", metavar="BYTES"),
    option("limit_request_body", int, 0, _HTTP, "Bytes of a request body, 0 for no limit: 413 above.", metavar="BYTES"),
    option("buffer_chunked", str, "django", _HTTP, "Read chunked request bodies before the application runs, which then sees a Content-Length: "
            "always, never, or where the application is Django, which ignores chunked bodies.", choices=("always", "django", "never")),
    option("limit_buffered_body", int, 1 << 30, _HTTP, "Bytes of a body that is buffered so, 0 for no limit but --limit-request-body: 413 above.", metavar="BYTES"),
    option("server_header", str, "muxwsgi", _HTTP, "Value of the Server field; empty for none.", metavar="TEXT"),
    option("wsgi_app", str, None, _APP, "The application, where the command names none: module:attribute or module:factory().", metavar="APP"),
    option("mount", str, [], _APP, "Mount a further application, as in /prefix=module:app.", many=True, metavar="PREFIX=APP"),
    option("chdir", str, None, _APP, "Change to this folder before anything is loaded.", metavar="FOLDER"),
    option("pythonpath", str, [], _APP, "Look for modules here first.", many=True, metavar="FOLDER"),
    option("graceful_timeout", float, 30.0, _PROCESS, "Seconds that open exchanges and hijacked connections have to end at shutdown.", metavar="SECONDS"),
    option("access_logfile", str, None, _LOGS, "Write an access log there; - for standard output.", metavar="FILE"),
    option("access_logformat", str, None, _LOGS, "Its format in gunicorn's atoms, or `json` for an object a line. Default: the combined log format.", metavar="FORMAT"),
    option("error_logfile", str, "-", _LOGS, "Write the error log there; - for standard error.", metavar="FILE"),
    option("log_level", str, "info", _LOGS, "What the error log keeps.", choices=("debug", "info", "warning", "error", "critical")),
)

ALL = (*OPTIONS, *PROXY_OPTIONS)

_BY_NAME = {each.name: each for each in ALL}


def collect(
    flags: Mapping[str, Any],
    config: str | None,
    environ: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
    *,
    proxy: bool = True,
) -> dict[str, Any]:
    """Every option's value, by name. `flags` has None, or an empty list, for what was not given on the command line.

    `config` is the file named there, or None. `defaults` are a command's own; without one for `bind`, the variable PORT is it. Without `proxy` the options of the proxy are an error in the file
    and the environment: whoever writes `proxy_auth` there must not be served without. Raises `OperatorError`.
    """
    environ = os.environ if environ is None else environ
    values = {each.name: each.default for each in ALL} | dict(defaults or {})
    if "bind" not in (defaults or {}) and environ.get("PORT"):
        values["bind"] = [_bind_of_port(environ["PORT"])]
    path = config or environ.get("MUXWSGI_CONFIG")
    found = {} if not path else _from_file(path)
    for where, given in ((path, found), ("environment", _from_environ(environ))):
        for name in given if not proxy else ():
            if any(each.name == name for each in PROXY_OPTIONS):
                raise OperatorError(f"{where}: {name} is an option of `muxwsgi proxy` and `muxwsgi check --proxy` alone; in Python it is said to Proxy()")
        values.update(given)
    values.update({name: list(value) if isinstance(value, tuple) else value for name, value in flags.items() if value not in (None, (), [])})
    return values


def _bind_of_port(port: str) -> str:
    """Where platforms that choose the port expect an application: on all addresses, as gunicorn does."""
    if not port.isascii() or not port.isdigit() or not 0 < int(port) <= 65535:
        raise OperatorError(f"environment: PORT: {port!r} is not a port (it counts where no bind is given)")
    return f"0.0.0.0:{port}"


def _from_file(path: str) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
        found = tomllib.loads(text)
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path}: {error}") from error
    values = {}
    for key, value in found.items():
        found_option = _BY_NAME.get(key.replace("-", "_"))
        if found_option is None:
            raise OperatorError(f"{path}: {_unknown(key, list(_BY_NAME))}")
        values[found_option.name] = found_option.read(value, f"{path}: {key}")
    return values


def _from_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    by_variable = {each.variable: each for each in ALL}
    values = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable in NOT_OPTIONS:
            continue
        known = by_variable.get(variable)
        if known is None:
            raise OperatorError(f"environment: {_unknown(variable, list(by_variable))}")
        values[known.name] = known.read(value, f"environment: {variable}")
    return values


def _unknown(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"{name!r} is no option" + (f"; did you mean {near[0]!r}?" if near else "")


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
