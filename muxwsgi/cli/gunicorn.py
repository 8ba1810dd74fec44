"""gunicorn's settings, each with our option for the same thing, or with the reason why there is none.

Three things come from this table: what a name of gunicorn's means in a Python configuration file, what is said about a flag of gunicorn's
that does not exist here, and the table of docs/from-gunicorn.md. The settings are those of gunicorn 27.0.1 (docs.gunicorn.org, "Settings").
"""

from collections.abc import Callable, Iterable
from typing import Any

from muxwsgi.cli.hooks import HOOKS
from muxwsgi.cli.option import Option
from muxwsgi.record import record

__all__ = ["SETTINGS", "Theirs", "hint", "hint_for", "markdown", "option_for"]


@record()
class Theirs:
    """One setting of gunicorn.

    name        as in its configuration file
    flags       on its command line
    ours        name of our option, if it has another name and other flags
    remark      what differs here
    why         why there is no option
    instead     what does the same without an option, in the words of the page
    read        makes our value of gunicorn's, in a Python file
    harmless    values of it that change nothing here, so that no warning is needed
    """

    name: str
    flags: tuple[str, ...] = ()
    ours: str = ""
    remark: str = ""
    why: str = ""
    instead: str = ""
    read: Callable[[Any], Any] | None = None
    harmless: tuple[Any, ...] = ()


def _commas(value: Any) -> Any:
    """gunicorn writes some lists as one text with commas."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _joined(value: Any) -> Any:
    """A list, as one text with commas."""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple, set)) else value


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _octal(value: Any) -> Any:
    """A number is 0o27 in Python, and text there is octal too."""
    return f"{value:o}" if isinstance(value, int) and not isinstance(value, bool) else value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _proxy_protocol(value: Any) -> Any:
    """Before gunicorn 24 it was true or false."""
    return {True: "auto", False: "off"}.get(value, value) if isinstance(value, bool) else _lower(value)


def _certificate_requirement(value: Any) -> Any:
    """The numbers of `ssl.VerifyMode`, as numbers or as texts."""
    return {0: "none", 1: "optional", 2: "required"}.get(int(value) if str(value).isdigit() else -1, value)


def _http2(value: Any) -> Any:
    """Whether a list of protocols has HTTP/2."""
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else list(value)
    return "on" if "h2" in names else "off"


def _settings(section: str, *rows: Theirs) -> tuple[tuple[str, Theirs], ...]:
    return tuple((section, row) for row in rows)


_GREENLETS = "every connection has a greenlet; there are no other workers"
_DIRTY = "there are no dirty workers: give long work to a task queue"
_ASGI = "WSGI is served, and not ASGI"
_PASTE = "name a function that loads the file: `muxwsgi run module:function()`"
_STRICT = "a request that two servers could read differently is refused"

_BY_SECTION = (
    *_settings(
        "Config File",
        Theirs(
            "config",
            ("-c", "--config"),
            instead="`-c`, `--config`",
            remark="a Python file, or TOML: [configuration.md](configuration.md#a-python-file)",
        ),
        Theirs("wsgi_app", ours="wsgi_app"),
    ),
    *_settings(
        "Server Socket",
        Theirs(
            "bind",
            ("-b", "--bind"),
            remark="several; TLS and redirect may differ per bind; `unix:PATH` and `fd://N` too, and `fd://NAME` for a socket that systemd "
            "passes. The umask is not 0 as in gunicorn, so only the server's user can connect to a unix socket. "
            "`unix:PATH,mode=660,group=www-data` lets nginx connect",
        ),
        Theirs("backlog", ("--backlog",)),
    ),
    *_settings(
        "Worker Processes",
        Theirs(
            "workers",
            ("-w", "--workers"),
            remark="also `auto`: one for each CPU. The variable `WEB_CONCURRENCY` too: [workers.md](workers.md)",
        ),
        Theirs("worker_class", ("-k", "--worker-class"), why=_GREENLETS, harmless=("gevent", "gunicorn.workers.ggevent.GeventWorker")),
        Theirs("threads", ("--threads",), why=_GREENLETS, harmless=(1,)),
        Theirs("worker_connections", ("--worker-connections",), remark="0, no limit, is the default. Also `--max-connections`"),
        Theirs(
            "max_requests",
            ("--max-requests",),
            remark="the next worker is ready before this one ends; `--worker-lifetime` and `--max-worker-memory` are new",
        ),
        Theirs("max_requests_jitter", ("--max-requests-jitter",)),
        Theirs(
            "timeout",
            ("-t", "--timeout"),
            remark="the log names the request and the stack that block. Clients have deadlines in each phase: [http.md](http.md#deadlines)",
        ),
        Theirs("graceful_timeout", ("--graceful-timeout",)),
        Theirs("keepalive", ("--keep-alive",), remark="75 s instead of 2"),
    ),
    *_settings(
        "Security",
        Theirs("limit_request_line", ("--limit-request-line",), remark="8190 bytes instead of 4094"),
        Theirs("limit_request_fields", ("--limit-request-fields",), remark="`--limit-request-head` and `--limit-request-body` are new"),
        Theirs("limit_request_field_size", ("--limit-request-field_size",)),
    ),
    *_settings(
        "Debugging",
        Theirs("reload", ("--reload",), remark="templates, the configuration and certificates too: [development.md](development.md)"),
        Theirs("reload_engine", ("--reload-engine",), remark="`inotify` needs the package watchfiles"),
        Theirs("reload_extra_files", ("--reload-extra-file",), remark="also patterns; new files that they fit count too", read=_commas),
        Theirs("spew", ("--spew",), why="use a debugger, or `python -m trace`"),
        Theirs("check_config", ("--check-config",), instead="`--check-config`, `muxwsgi check`", remark="tries the binds too"),
        Theirs("print_config", ("--print-config",), instead="`--print-config`", remark="says of each value where it comes from"),
    ),
    *_settings(
        "Server Mechanics",
        Theirs(
            "preload_app",
            ("--preload",),
            remark="a process between the master and the workers loads it, so HUP takes new code: [workers.md](workers.md#preloading). "
            "`--preload-module` is new",
        ),
        Theirs("sendfile", ("--no-sendfile",), why="the kernel sends files (sendfile) if it can", harmless=(None, True)),
        Theirs("reuse_port", ("--reuse-port",), remark="no queue is lost: [workers.md](workers.md#sockets)"),
        Theirs("chdir", ("--chdir",)),
        Theirs("daemon", ("-D", "--daemon"), remark="refused, with the reason: [deployment.md](deployment.md)"),
        Theirs("raw_env", ("-e", "--env"), ours="raw_env"),
        Theirs("pidfile", ("-p", "--pid"), remark="locked while the master runs; a file that a crash has left is used again"),
        Theirs("worker_tmp_dir", ("--worker-tmp-dir",), why="no heartbeat is written to a file"),
        Theirs("user", ("-u", "--user"), read=_text, remark="the master stays root: [deployment.md](deployment.md#without-systemds-user)"),
        Theirs("group", ("-g", "--group"), read=_text, remark="the default is the group of the user; workers keep none of root's groups"),
        Theirs(
            "umask",
            ("-m", "--umask"),
            read=_octal,
            remark="as a flag always octal; the default is the umask of the start, and not 0: see `bind`",
        ),
        Theirs("initgroups", ("--initgroups",)),
        Theirs("tmp_upload_dir", why="bodies are not written to files; `TMPDIR` says where the application's files go"),
        Theirs(
            "secure_scheme_headers",
            instead="`--forwarded-headers`",
            why="name the fields with `--forwarded-headers`",
            remark="`x-forwarded-proto` is believed by default; `x-forwarded-protocol` and `x-forwarded-ssl` if they are named",
        ),
        Theirs(
            "forwarded_allow_ips",
            ("--forwarded-allow-ips",),
            remark="also networks. If it is given, X-Forwarded-For counts too, and fields of other peers are removed: "
            "[behind-a-proxy.md](behind-a-proxy.md). The variable `FORWARDED_ALLOW_IPS` too",
            read=_joined,
        ),
        Theirs("pythonpath", ("--pythonpath",), remark="repeatable", read=_commas),
        Theirs("paste", ("--paste", "--paster"), why=_PASTE),
        Theirs(
            "proxy_protocol",
            ("--proxy-protocol",),
            remark="also for one bind. Each connection has to have a header: [behind-a-proxy.md](behind-a-proxy.md#the-proxy-protocol)",
            read=_proxy_protocol,
        ),
        Theirs(
            "proxy_allow_ips",
            ("--proxy-allow-from",),
            remark="also networks, and `--proxy-allow-ips`. Other peers are refused, also if they send no header",
            read=_joined,
        ),
        Theirs(
            "protocol",
            ("--protocol",),
            why="the first bytes of a connection say which protocol it is; uwsgi is not among them",
            harmless=("http",),
        ),
        Theirs(
            "uwsgi_allow_ips",
            ("--uwsgi-allow-from",),
            why="the uwsgi protocol is not served: let nginx `proxy_pass` instead of `uwsgi_pass`",
        ),
        Theirs("raw_paste_global_conf", ("--paste-global",), why=_PASTE),
        Theirs("permit_obsolete_folding", ("--permit-obsolete-folding",), why=_STRICT),
        Theirs("strip_header_spaces", ("--strip-header-spaces",), why=_STRICT),
        Theirs("permit_unconventional_http_method", ("--permit-unconventional-http-method",), why="every method that is a token is served"),
        Theirs("permit_unconventional_http_version", ("--permit-unconventional-http-version",), why=_STRICT),
        Theirs("casefold_http_method", ("--casefold-http-method",), why="methods are case-sensitive (RFC 9110, section 9.1)"),
        Theirs(
            "forwarder_headers",
            ("--forwarder-headers",),
            remark="none by default: name `SCRIPT_NAME` if your proxy sets or removes it",
            read=_joined,
        ),
        Theirs("header_map", ("--header-map",)),
        Theirs("root_path", ("--root-path",), remark="the variable `SCRIPT_NAME` counts too"),
    ),
    *_settings(
        "Logging",
        Theirs("accesslog", ("--access-logfile",)),
        Theirs(
            "access_log_format",
            ("--access-logformat",),
            remark="the same atoms, or `json`: [configuration.md](configuration.md#the-access-log)",
        ),
        Theirs("errorlog", ("--error-logfile", "--log-file")),
        Theirs("loglevel", ("--log-level",), read=_lower),
        Theirs("capture_output", ("--capture-output",), remark="`wsgi.errors` goes to the error log in any case"),
        Theirs("logger_class", ("--logger-class",), why="a handler, filter or formatter in `logconfig_dict` does it"),
        Theirs(
            "logconfig",
            ("--log-config",),
            remark="the loggers are `muxwsgi.error` and `muxwsgi.access`: [logs.md](logs.md#a-configuration-of-logging)",
        ),
        Theirs("logconfig_dict", remark="a table in a TOML file, JSON as a flag"),
        Theirs("logconfig_json", ("--log-config-json",)),
        Theirs("syslog", ("--log-syslog",)),
        Theirs(
            "syslog_addr",
            ("--log-syslog-to",),
            remark="the default is `unix:/dev/log`, and not `udp://localhost:514`: [logs.md](logs.md#syslog)",
        ),
        Theirs("syslog_prefix", ("--log-syslog-prefix",)),
        Theirs("syslog_facility", ("--log-syslog-facility",)),
        Theirs("disable_redirect_access_to_syslog", ("--disable-redirect-access-to-syslog",)),
        Theirs("enable_stdio_inheritance", ("-R", "--enable-stdio-inheritance"), why="workers always have the standard streams"),
        Theirs(
            "statsd_host",
            ("--statsd-host",),
            remark="the names of metrics are the same; `gunicorn.workers` is not sent: [logs.md](logs.md#statsd)",
        ),
        Theirs("statsd_prefix", ("--statsd-prefix",)),
        Theirs("dogstatsd_tags", ("--dogstatsd-tags",)),
        Theirs("enable_backlog_metric", ("--enable-backlog-metric",), why="`ss -lt` shows the backlog of a listening socket"),
    ),
    *_settings(
        "Process Naming",
        Theirs(
            "proc_name",
            ("-n", "--name"),
            remark="it needs no package. A worker shows its number too, as in `muxwsgi: worker 0 [NAME]`: [workers.md](workers.md#in-ps)",
        ),
        Theirs("default_proc_name", why="it is internal to gunicorn"),
    ),
    *_settings(
        "Server Hooks",
        *(Theirs(name, instead="the same", remark=hook.when) for name, hook in HOOKS.items()),
        Theirs("ssl_context", why="TLS is pyOpenSSL's, and not that of the ssl module; `--ciphers` and the options of certificates set it"),
    ),
    *_settings(
        "SSL",
        Theirs("keyfile", ("--keyfile",)),
        Theirs("certfile", ("--certfile",), remark="several, chosen by server name"),
        Theirs("ssl_version", ("--ssl-version",), why="TLS 1.2 and 1.3 are served; gunicorn ignores it too", harmless=(2,)),
        Theirs(
            "cert_reqs",
            ("--cert-reqs",),
            ours="client_certificates",
            remark="`none`, `optional`, `required`; in a Python file the numbers of the ssl module too",
            read=_certificate_requirement,
        ),
        Theirs("ca_certs", ("--ca-certs",)),
        Theirs(
            "suppress_ragged_eofs",
            ("--suppress-ragged-eofs",),
            why="an end without close_notify ends a request that is incomplete",
            harmless=(True,),
        ),
        Theirs("do_handshake_on_connect", ("--do-handshake-on-connect",), why="the handshake has a deadline: `--handshake-timeout`"),
        Theirs("ciphers", ("--ciphers",)),
    ),
    *_settings(
        "HTTP/2",
        Theirs(
            "http_protocols",
            ("--http-protocols",),
            ours="http2",
            remark="`on` or `off`, and on by default: [http2.md](http2.md). HTTP/1.1 is always served",
            read=_http2,
        ),
        Theirs("http2_cleartext", ("--http2-cleartext",), why="plain ports serve it too", harmless=("off", "on", False, True)),
        Theirs("http2_max_concurrent_streams", ("--http2-max-concurrent-streams",), remark="128 instead of 100"),
        Theirs("http2_initial_window_size", ("--http2-initial-window-size",)),
        Theirs("http2_max_frame_size", ("--http2-max-frame-size",), why="frames have up to 16,384 bytes", harmless=(16384,)),
        Theirs("http2_max_header_list_size", ("--http2-max-header-list-size",), why="`--limit-request-head` limits it", harmless=(65536,)),
    ),
    *_settings(
        "ASGI",
        Theirs("asgi_loop", ("--asgi-loop",), why=_ASGI, harmless=("auto",)),
        Theirs("asgi_lifespan", ("--asgi-lifespan",), why=_ASGI, harmless=("auto",)),
        Theirs("asgi_disconnect_grace_period", ("--asgi-disconnect-grace-period",), why=_ASGI),
        Theirs(
            "websocket_max_message_size",
            ("--websocket-max-message-size",),
            why="the application says it: `muxwsgi.websocket.accept(environ, max_size=...)`, or its library",
        ),
        Theirs("http_parser", ("--http-parser",), why="there is one parser, llhttp", harmless=("auto",)),
    ),
    *_settings(
        "Dirty Arbiters",
        Theirs("dirty_apps", ("--dirty-app",), why=_DIRTY),
        Theirs("dirty_workers", ("--dirty-workers",), why=_DIRTY),
        Theirs("dirty_timeout", ("--dirty-timeout",), why=_DIRTY),
        Theirs("dirty_threads", ("--dirty-threads",), why=_DIRTY),
        Theirs("dirty_graceful_timeout", ("--dirty-graceful-timeout",), why=_DIRTY),
        *(Theirs(name, why=_DIRTY) for name in ("on_dirty_starting", "dirty_post_fork", "dirty_worker_init", "dirty_worker_exit")),
    ),
    *_settings(
        "Control",
        Theirs(
            "control_socket",
            ("--control-socket",),
            remark="`muxwsgi ctl` instead of `gunicornc`; there is none by default: [observability.md](observability.md#muxwsgi-ctl)",
        ),
        Theirs("control_socket_mode", ("--control-socket-mode",), why="the mode is 600", harmless=(0o600,)),
        Theirs(
            "control_socket_disable",
            ("--no-control-socket",),
            why="there is a control socket only if an option asks for it",
            harmless=(True,),
        ),
    ),
)

SETTINGS = {row.name: row for _, row in _BY_SECTION}


def option_for(theirs: Theirs, options: Iterable[Option]) -> Option | None:
    """The option among `options` that does the same: the one that is named, or that has the same name or a flag with the same name."""
    known = list(options)
    for option in known:
        if option.name in (theirs.ours, theirs.name):
            return option
    long = {flag for flag in theirs.flags if flag.startswith("--")}
    return next((option for option in known if long & {option.flag, *option.flags}), None)


def hint(flag: str, options: Iterable[Option]) -> str | None:
    """What to say to a flag of gunicorn's that does not exist here; None if gunicorn has no such flag."""
    for row in SETTINGS.values():
        if flag in row.flags:
            option = option_for(row, options)
            return hint_for(row) if option is None else f"here it is {option.flag}"
    return None


def hint_for(theirs: Theirs) -> str:
    """Why there is no such setting here, or what does the same: a cell of the page without its links, for a terminal."""
    before, link, rest = (theirs.why or theirs.instead).partition("[")
    return before.rstrip(": ") + rest.partition(")")[2] if link else before


def markdown(options: Iterable[Option]) -> str:
    """The table of docs/from-gunicorn.md."""
    known = list(options)
    lines = ["| gunicorn | muxwsgi | |", "|---|---|---|"]
    section = ""
    for of, row in _BY_SECTION:
        if of != section:
            section = of
            lines.append(f"| **{section}** | | |")
        theirs = ", ".join(f"`{name}`" for name in (row.name, *row.flags))
        lines.append(f"| {theirs} | {_ours(row, known)} | {_remark(row, known)} |".replace("  |", " |"))
    return "\n".join(lines) + "\n"


def _ours(row: Theirs, options: list[Option]) -> str:
    option = option_for(row, options)
    if option is None:
        return row.instead or "-"
    flags = (*option.flags, option.flag)
    if set(row.flags) & set(flags):
        return "the same" if option.name == row.name else f"the same flag; in a TOML file `{option.name}`"
    return f"`{option.name}`" if option.name == row.name else f"`{option.flag}`"


def _remark(row: Theirs, options: list[Option]) -> str:
    return row.why if option_for(row, options) is None and not row.instead else row.remark
