"""The command line as an operator meets it: one line on what is wrong and where, exit status 2, before anything is served."""

import functools
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from muxwsgi.cli.options import ALL, OPTIONS, collect, markdown
from muxwsgi.errors import OperatorError
from tests import warm
from tests.tls.authority import Authority

ROOT = Path(__file__).parents[2]
APP = "tests.system.counted_app"


@functools.cache
def own_ports() -> list[str]:
    """A prefix for a command, which has the default ports for itself then, also if another process listens on them: a network namespace with
    a loopback. Empty where none can be made."""
    for namespace in (["unshare", "--net"], ["unshare", "--user", "--map-root-user", "--net"]):
        if subprocess.run([*namespace, "ip", "link", "set", "lo", "up"], capture_output=True, check=False).returncode == 0:
            return [*namespace, "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    return []


def muxwsgi(*arguments: str, input: bytes = b"", beside_others: bool = False, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    """Run the command. One that would serve binds a free port, if no bind is given, because the master binds first. `check`
    without one has a network to itself, unless it runs `beside_others`."""
    if arguments[:1] in (("run",), ("proxy",)) and "-b" not in arguments and "-c" not in arguments:
        environment = {"MUXWSGI_BIND": "127.0.0.1:0", **environment}
    namespace = own_ports() if arguments[:1] == ("check",) and "-b" not in arguments and not beside_others else []
    return warm.run(
        [*namespace, sys.executable, "-m", "muxwsgi", *arguments], cwd=ROOT, input=input, capture_output=True, timeout=60, env={**os.environ, **environment}
    )


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "no_such_module"], r"app 'no_such_module': there is no module 'no_such_module'"),
        (["run", "no_such_package.module:app"], r"there is no module 'no_such_package'"),
        (["run", "guestbook.py"], r"a module is named with dots and without \.py; did you mean guestbook\?$"),
        (["run", "./ok.py"], r"a module is named with dots and without \.py; did you mean ok\?$"),
        (["run", "ok/app"], r"did you mean ok\.app\?$"),
        (["run", "ok/app.py:create()"], r"did you mean ok\.app:create\(\)\?$"),
        (["run", "/srv/my-site/app.py"], r"did you mean --pythonpath /srv/my-site app\?$"),
        (["run"], r"name the application, as in `muxwsgi run module:app`"),
        (["app:app"], r"there is no command 'app:app'; did you mean `muxwsgi run app:app`\?$"),
        (["rum"], r"there is no command 'rum'; did you mean 'run'\?$"),
        (["run", "tests.server.applications:asgi"], r"it is an ASGI application.*a2wsgi"),
        (["run", "tests.server.applications:asgi_object"], r"it is an ASGI application"),
        (["run", "tests.server.applications:create_app"], r"a factory is called with parentheses: tests\.server\.applications:create_app\(\)$"),
        (["check", "tests.server.applications:create_app"], r"a factory is called with parentheses"),
        (["check", "tests.server.applications:Site"], r"a factory is called with parentheses"),
        (["run", APP, "-b", "8000"], r"bind '8000': it is HOST:PORT.*; did you mean 127\.0\.0\.1:8000, or :8000"),
        (["run", APP, "-b", "http://localhost:8000/"], r"; did you mean localhost:8000\?$"),
        (["run", APP, "-b", "https://localhost:8443"], r"; did you mean localhost:8443,tls=required\?$"),
        (["run", APP, "-b", "localhost"], r"; did you mean localhost:8000\?$"),
        (["run", APP, "-b", "/run/a.sock"], r"; did you mean unix:/run/a\.sock\?$"),
        (["check", "-b", "192.0.2.1:80"], r"bind 192\.0\.2\.1:80: Cannot assign"),
        (["check", "-b", "unix:/no/such/folder/socket"], r"bind unix:/no/such/folder/socket: No such file"),
        (["check", "-b", "unix:/etc/passwd"], r"bind unix:/etc/passwd: a file that is not a socket exists there"),
        (["proxy", "--wsgi-app", "x"], r"wsgi_app: `muxwsgi proxy` serves no application"),
        (["run", "apps.guestbook:create_app"], r"not a WSGI application.*a factory is called with parentheses: apps\.guestbook:create_app\(\)"),
        (["run", "json:dumps"], r"app 'json:dumps': it is not a WSGI application, which takes \(environ, start_response\)$"),
        (["run", "muxwsgi_inspector:create_proxy('/no/such/policy')"], r"app .*: /no/such/policy: No such file"),
        (["run", "muxwsgi_inspector:create_proxy('apps/inspector-rules/policy.toml')", "--mount", f"/x={APP}"], r"mount: a proxy has no paths"),
        (["run", f"{APP}:nothing"], r"'nothing' is not in module"),
        (["run", f"{APP}:BLOCK"], r"it is a bytes, not a callable"),
        (["run", f"{APP}:f(open('x'))"], r"literal arguments"),
        (["run", "json"], r"neither `application` nor `app`"),
        (["run", APP, "-b", "nonsense"], r"bind 'nonsense': it is HOST:PORT"),
        (["run", APP, "-b", ":80000"], r"bind ':80000': the largest port is 65535"),
        (["run", APP, "-b", "127.0.0.1:0,redirect-http"], r"redirect-http is for a bind that requires TLS"),
        (["run", APP, "--redirect-http"], r"redirect_http: no bind requires TLS"),
        (["run", APP, "--client-certificates", "required"], r"client_certificates: no bind has TLS"),
        (["run", APP, "--ca-certs", "/no/such/file"], r"ca_certs: clients are asked for no certificate"),
        (["run", APP, "-b", "::1:80"], r"an IPv6 address stands in brackets"),
        (["run", APP, "-b", "127.0.0.1:0,tls=maybe"], r"'tls=maybe' is not tls=off"),
        (["run", APP, "-b", "127.0.0.1:0,tls=required"], r"TLS needs a certificate"),
        (["run", APP, "-b", "192.0.2.1:80"], r"bind 192\.0\.2\.1:80: Cannot assign"),
        (["run", APP, "-b", "no.such.host.invalid:80"], r"bind no\.such\.host\.invalid:80: 'no\.such\.host\.invalid' is not an address"),
        (["run", APP, "-b", "fd://99"], r"bind fd://99: Bad file descriptor"),
        (["run", APP, "-b", "unix:/no/such/folder/socket"], r"bind unix:/no/such/folder/socket: No such file"),
        (["run", APP, "--tls", "required"], r"tls=required needs a certificate"),
        (["run", APP, "--keyfile", "x"], r"more keyfiles than certfiles"),
        (["run", APP, "--certfile", "/no/such/file"], r"certfile: /no/such/file: No such file"),
        (["run", APP, "--keep-alive", "soon"], r"'--keep-alive'.*'soon'"),
        (["run", APP, "--keep-alive", "-1"], r"keep_alive: -1\.0 is less than 0"),
        (["run", APP, "--keep-alife", "1"], r"No such option.*keep-alive"),
        (["run", APP, "--hijack", "no-such"], r"no hijacker is named 'no-such'"),
        (["run", APP, "--no-hijack", "ecko"], r"did you mean 'echo'"),
        (["run", APP, "--fallback", "no-such"], r"fallback: no route or hijacker is named 'no-such'"),
        (["run", APP, "--silence", "forward:nowhere"], r"silence: .*forward"),
        (["run", APP, "--mount", "/x=no_such_module"], r"mount /x: 'no_such_module': there is no module"),
        (["run", APP, "--mount", "/x"], r"mount '/x': it is /prefix=module:app"),
        (["run", APP, "--chdir", "/no/such/folder"], r"chdir: /no/such/folder"),
        (["run", APP, "--access-logfile", "/no/such/folder/log"], r"access_logfile: /no/such/folder/log"),
        (["run", APP, "--access-logfile", "-", "--access-logformat", "%(Z)s"], r"unknown atom '%\(Z\)s'"),
        (["run", APP, "-c", "/no/such/file.toml"], r"/no/such/file\.toml: No such file"),
        (["proxy", "--client-certificates", "required"], r"client_certificates: no bind has TLS"),
        (["proxy", "--flows", "records", "--har", "./records"], r"flows, har and keylog: each needs a separate file"),
        (["proxy", "--rules", "json"], r"rules 'json': the module has no `add_rules`; name it, as in json:NAME"),
        (["proxy", "--rules", "apps.guestbook:create_app"], r"rules 'apps\.guestbook:create_app': it is not a function that takes the proxy"),
        (["explain"], r"either a FILE"),
        (["explain", "/no/such/file"], r"/no/such/file: No such file"),
        (["explain", "."], r"is a directory"),
        (["explain", "--hex", "xy"], r"'xy' is not hexadecimal"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: list[str], says: str) -> None:
    done = muxwsgi(*arguments)
    assert done.returncode == 2, done
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1 and lines[0].startswith("muxwsgi: error: "), done.stderr.decode()
    assert re.search(says, lines[0]), lines[0]


@pytest.mark.parametrize("name", ["wsgi", "wrapped", "anything", "PerRequest", "site", "partial", "create_app()", "Site()"])
def test_whatever_can_be_an_application_passes(name: str) -> None:
    done = muxwsgi("check", f"tests.server.applications:{name}", "-b", "127.0.0.1:0")
    assert done.returncode == 0, done.stderr


def test_a_certificate_without_its_key_says_what_is_missing(tmp_path: Path) -> None:
    files = Authority(tmp_path).leaf("a.example")
    done = muxwsgi("check", "-b", "127.0.0.1:0", "--certfile", files.certfile)
    assert done.returncode == 2
    assert done.stderr.decode().endswith("does not hold a private key in PEM: give --keyfile\n")


def test_the_file_may_name_the_application(tmp_path: Path) -> None:
    path = write(tmp_path / "app.toml", 'wsgi_app = "tests.server.applications:wsgi"\nbind = ["127.0.0.1:0"]\n')
    done = muxwsgi("check", "-c", path)
    assert done.returncode == 0 and b"tests.server.applications:wsgi loads" in done.stdout
    assert b"it is not a WSGI" in muxwsgi("run", "json:dumps", "-c", path).stderr  # the command's own wins


def test_a_bind_that_is_in_use_is_noted_and_not_wrong() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = muxwsgi("check", "-b", f"127.0.0.1:{taken.getsockname()[1]}", beside_others=True)
    assert done.returncode == 0 and b"(in use now)" in done.stdout


def test_port_counts_where_no_bind_is_given(tmp_path: Path) -> None:
    assert collect({}, None, {"PORT": "5000"})["bind"] == ["0.0.0.0:5000"]
    assert collect({"bind": ("127.0.0.1:1",)}, None, {"PORT": "5000"})["bind"] == ["127.0.0.1:1"]
    assert collect({}, None, {"PORT": "5000", "MUXWSGI_BIND": ":2"})["bind"] == [":2"]
    assert collect({}, write(tmp_path / "c.toml", 'bind = [":3"]'), {"PORT": "5000"})["bind"] == [":3"]
    assert collect({}, None, {"PORT": ""})["bind"] == ["127.0.0.1:8000"]
    assert collect({}, None, {"PORT": "5000"}, {"bind": ["127.0.0.1:8080"]})["bind"] == ["127.0.0.1:8080"]  # a proxy opens no door by it
    for wrong in ("80000", "x", "-1"):
        with pytest.raises(OperatorError, match=f"environment: PORT: '{wrong}' is not a port"):
            collect({}, None, {"PORT": wrong})


@pytest.mark.parametrize("command", ["run", "proxy", "check"])
def test_help_has_the_sections_and_the_defaults(command: str) -> None:
    done = muxwsgi(command, "--help", COLUMNS="200")
    text = done.stdout.decode()
    assert done.returncode == 0
    for section in dict.fromkeys(option.section for option in OPTIONS):
        assert f"\n{section}:\n" in text
    assert f"[{'127.0.0.1:8080' if command == 'proxy' else '127.0.0.1:8000'}]" in " ".join(text.split())
    default = {option.name: option.default for option in OPTIONS}
    assert f"[{default['keep_alive']:.0f}]" in text and f"[{default['limit_buffered_body']}]" in text


def test_help_says_if_for_a_condition() -> None:
    assert [option.name for option in ALL if re.search(r"\bwhere\b", option.help, re.I)] == []


def test_max_connections_has_the_name_of_gunicorn_too() -> None:
    done = muxwsgi("check", "--worker-connections", "-1")
    assert done.returncode == 2 and done.stderr == b"muxwsgi: error: max_connections: -1 is less than 0\n"


def test_an_application_that_cannot_be_imported_shows_its_traceback(tmp_path: Path) -> None:
    for text, words in (("import no_such_dependency", "no_such_dependency"), ("1/0", "division by zero")):
        write(tmp_path / "broken.py", text)
        done = muxwsgi("run", "broken:app", "--pythonpath", str(tmp_path))
        assert done.returncode == 2
        error = done.stderr.decode()
        assert "Traceback" in error and error.splitlines()[-1].startswith("muxwsgi: error: app 'broken:app': importing 'broken' failed")
        assert words in error.splitlines()[-1]


def test_rules_that_fail_show_their_traceback(tmp_path: Path) -> None:
    write(tmp_path / "broken.py", "def add_rules(proxy):\n    proxy.on_request().do(no_such_name)\n")
    done = muxwsgi("proxy", "--rules", "broken", "--pythonpath", str(tmp_path))
    assert done.returncode == 2
    error = done.stderr.decode()
    assert "Traceback" in error and "broken.py" in error
    assert error.splitlines()[-1] == "muxwsgi: error: rules 'broken': it failed: NameError: name 'no_such_name' is not defined"


def test_the_flag_beats_the_variable_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    path = write(tmp_path / "c.toml", 'keep_alive = 3\nbacklog = 30\nlog-level = "debug"\nbind = ["127.0.0.1:1"]\ntls_dev = true\n')
    environ = {"MUXWSGI_KEEP_ALIVE": "4", "MUXWSGI_BACKLOG": "40", "MUXWSGI_BIND": "127.0.0.1:2 127.0.0.1:3", "MUXWSGI_CONFIG": path}
    values = collect({"keep_alive": 5.0, "bind": (), "tls_dev": None}, None, environ)
    assert values["keep_alive"] == 5.0
    assert values["backlog"] == 40
    assert values["log_level"] == "debug"
    assert values["bind"] == ["127.0.0.1:2", "127.0.0.1:3"]
    assert values["tls_dev"] is True
    assert values["graceful_timeout"] == 30.0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("keep_alife = 3", r"c\.toml: there is no option 'keep_alife'; did you mean 'keep_alive'"),
        ('keep_alive = "soon"', r"c\.toml: keep_alive: 'soon' is not a number"),
        ("backlog = 1.5", r"c\.toml: backlog: 1\.5 is not a whole number"),
        ("backlog = true", r"backlog: True is not a whole number"),
        ('tls = "maybe"', r"tls: 'maybe' is not off, required or optional"),
        ('tls_dev = "perhaps"', r"tls_dev: 'perhaps' is not true or false"),
        ("bind = 80", r"bind: 80 is not a list"),
        ("keep_alive = = 3", r"c\.toml: .*line 1"),
    ],
)
def test_a_wrong_file_is_named_with_the_place(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(OperatorError, match=says):
        collect({}, write(tmp_path / "c.toml", text), {})


def test_options_of_the_proxy_are_not_passed_over_where_an_application_is_served(tmp_path: Path) -> None:
    path = write(tmp_path / "c.toml", 'proxy_auth = "htpasswd"\n')
    assert collect({}, path, {})["proxy_auth"] == "htpasswd"
    with pytest.raises(OperatorError, match=r"c\.toml: proxy_auth is an option of `muxwsgi proxy`"):
        collect({}, path, {}, proxy=False)
    with pytest.raises(OperatorError, match=r"environment: mitm is an option of `muxwsgi proxy`"):
        collect({}, None, {"MUXWSGI_MITM": "1"}, proxy=False)


def test_a_variable_that_is_no_option_is_an_error() -> None:
    with pytest.raises(OperatorError, match="there is no option 'MUXWSGI_KEEPALIVE'; did you mean 'MUXWSGI_KEEP_ALIVE'"):
        collect({}, None, {"MUXWSGI_KEEPALIVE": "1"})


def test_the_page_of_options_is_what_the_table_says() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page.endswith(markdown()), "docs/configuration.md is out of date: see muxwsgi.cli.options.markdown"
    assert len({option.name for option in OPTIONS}) == len(OPTIONS)


def test_the_shipped_configuration_is_good() -> None:
    done = muxwsgi("check", APP, "-c", "conf/muxwsgi.toml", "--hijack", "none")
    assert done.returncode == 0, done.stderr
    assert b"127.0.0.1:8000 (TLS off): http, http2\n" in done.stdout


def test_the_shipped_configuration_shows_defaults_where_it_is_commented_out() -> None:
    by_name = {option.name: option for option in OPTIONS}
    for name, text in re.findall(r"^#? ?(\w+) = ([^\s#\[\"]+)", (ROOT / "conf" / "muxwsgi.toml").read_text(), re.M):
        if name != "limit_request_body":  # which the file sets on purpose
            assert float(by_name[name].default) == float(text), name


def test_a_proxy_is_checked_without_being_served(tmp_path: Path) -> None:
    records = ("--flows", str(tmp_path / "flows"), "--flow-filter", "~m GET", "--flow-rotate", "1000")
    done = muxwsgi("check", "--proxy", "-c", "conf/proxy.toml", *records)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == "127.0.0.1:8080 (TLS off): http, http2, socks5, socks4\ntunnels are relayed as they are\nthe configuration is good\n"
    assert not (tmp_path / "flows").exists()


@pytest.mark.parametrize(
    ("arguments", "served"),
    [
        ([], "http, http2, socks5, socks4"),
        (["--hijack", "none"], "http, http2, socks5, socks4"),
        (["--hijack", "resp"], "http, http2, resp, socks5, socks4"),
        (["--hijack", "resp", "--hijack", "echo", "--no-hijack", "resp"], "http, http2, echo, socks5, socks4"),
    ],
)
def test_beside_a_proxy_only_hijackers_that_are_named_are_served(tmp_path: Path, arguments: list[str], served: str) -> None:
    (tmp_path / "filters.py").write_text("from muxwsgi.proxy import Proxy\nproxy = Proxy()\n")
    for what in (["--proxy"], ["filters:proxy", "-b", "127.0.0.1:8080"]):
        done = muxwsgi("check", *what, *arguments, "--pythonpath", str(tmp_path))
        assert done.returncode == 0, done.stderr
        assert f"127.0.0.1:8080 (TLS off): {served}\n" in done.stdout.decode()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--proxy", "--mount", "/x=app:application"], r"mount: a proxy has no paths"),
        (["--proxy", "-b", ":8080"], r"bind 0\.0\.0\.0:8080: every host that reaches it could use the proxy"),
        (["--proxy", "-b", "[::]:8080,transparent=redirect"], r"bind \[::\]:8080: every host that reaches it could use the proxy"),
        (["--proxy", "--mitm", "--ca-folder", "/no/such/folder"], r"there is no CA in /no/such/folder"),
        (["--proxy", "--flows", "/no/such/folder/flows"], r"flows: no file can be written in /no/such/folder"),
        (["--proxy", "--flow-filter", "~m GET"], r"flow_filter: nothing is recorded that it could choose from \(--flows, or --har\)"),
        (["--proxy", "--flow-filter", "~m"], r"~m"),
        (["--proxy", "--flow-rotate", "1000", "--keylog", "-"], r"flow_rotate: nothing is recorded"),
        (["--proxy", APP], r"either an APP or --proxy"),
        (["--mitm"], r"--mitm needs --proxy"),
        (["-c", "conf/proxy.toml"], r"conf/proxy\.toml: mitm is an option of `muxwsgi proxy` and `muxwsgi check --proxy` alone"),
    ],
)
def test_a_check_of_a_proxy_says_what_is_wrong(arguments: list[str], says: str) -> None:
    test_what_is_wrong_is_said_in_one_line(["check", *arguments], says)


def test_explain_says_who_gets_given_bytes(tmp_path: Path) -> None:
    done = muxwsgi("explain", "-", input=b"GET / HTTP/1.1\r\n")
    assert done.returncode == 0 and b"route 'http' gets it" in done.stdout
    done = muxwsgi("explain", "--hex", b"*1\r\n$4\r\nPING\r\n".hex())
    assert b"route 'resp' gets it" in done.stdout
    path = tmp_path / "bytes"
    path.write_bytes(b"GET key\r\n")
    done = muxwsgi("explain", str(path), "--hijack", "none")
    assert done.returncode == 0 and b"no route gets it" in done.stdout
    done = muxwsgi("explain", "--hex", "160301", "--tls-dev", XDG_DATA_HOME=str(tmp_path))
    assert b"tls" in done.stdout


def test_hijackers_are_listed_with_where_they_come_from() -> None:
    lines = muxwsgi("hijackers", "--no-hijack", "echo").stdout.decode().splitlines()
    assert re.match(r"NAME +MATCHES +PRIORITY +ALPN +SILENCE +OPTIONS +PACKAGE +SERVED", lines[0])
    assert any(re.match(r"echo +prefix\(b'ECHO '\) +0 +- +- +- +muxwsgi-echo 0\.1\.0 +no: not wanted", line) for line in lines)
    assert any(re.match(r"resp .* redis +- +max_memory=\d+ +muxwsgi-resp 0\.1\.0 +yes", line) for line in lines)


def test_a_plugin_that_cannot_be_imported_stops_the_start_and_is_listed_with_the_reason(tmp_path: Path) -> None:
    folder = tmp_path / "broken_plugin-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[muxwsgi.hijack]\nbroken = broken_plugin:handle\n")
    (tmp_path / "broken_plugin.py").write_text("import no_such_dependency\n")
    done = muxwsgi("run", APP, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert re.fullmatch(rb"muxwsgi: error: hijacker 'broken' .*broken-plugin 1\.0.*no_such_dependency.*--no-hijack broken.*\n", done.stderr)
    listed = muxwsgi("hijackers", PYTHONPATH=str(tmp_path)).stdout.decode()
    assert re.search(r"^broken .*broken-plugin 1\.0 +no: .*no_such_dependency", listed, re.M)
    assert muxwsgi("check", APP, "--no-hijack", "broken", PYTHONPATH=str(tmp_path)).returncode == 0


def test_help_and_version_need_no_gevent() -> None:
    code = "import sys; sys.argv = ['muxwsgi', 'run', '--help']; import muxwsgi.cli; muxwsgi.cli.cli.main(standalone_mode=False); "
    done = subprocess.run([sys.executable, "-c", code + "assert 'gevent' not in sys.modules"], cwd=ROOT, capture_output=True, timeout=30)
    assert done.returncode == 0, done.stderr
    for option in OPTIONS:
        assert option.flag.encode() in done.stdout
    assert muxwsgi("--version").stdout.startswith(b"muxwsgi, version ")


def test_variables_that_kubernetes_sets_for_a_service_and_empty_ones_are_left_alone() -> None:
    addresses = {"SERVICE_HOST": "10.0.0.11", "SERVICE_PORT": "8000", "SERVICE_PORT_HTTP": "8000", "PORT": "tcp://10.0.0.11:8000"}
    ports = {"PORT_8000_TCP": "tcp://10.0.0.11:8000", "PORT_8000_TCP_PROTO": "tcp", "PORT_8000_TCP_PORT": "8000", "PORT_8000_TCP_ADDR": "10.0.0.11"}
    of_service = {f"{prefix}_{name}": value for prefix in ("MUXWSGI", "MUXWSGI_API") for name, value in (addresses | ports).items()}
    empty = {"MUXWSGI_KEEP_ALIVE": "", "MUXWSGI_BIND": "", "MUXWSGI_TLS": "", "MUXWSGI_CONFIG": "", "MUXWSGI_UNKNOWN": ""}
    assert collect({}, None, of_service | empty) == collect({}, None, {})
    with pytest.raises(OperatorError, match="there is no option 'MUXWSGI_PORT'"):
        collect({}, None, {"MUXWSGI_PORT": "8000"})


@pytest.mark.parametrize("arguments", [["check"], ["hijackers"], ["explain", "--hex", "00"], ["--version"], ["run", "--help"], ["ca", "init"]], ids=" ".join)
def test_output_that_cannot_be_written_is_one_line_and_exit_status_2(arguments: list[str], tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = warm.run(
            [sys.executable, "-m", "muxwsgi", *arguments],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=30,
            env={**os.environ, "XDG_DATA_HOME": str(tmp_path)},
        )
    assert (done.returncode, done.stderr) == (2, b"muxwsgi: error: standard output: No space left on device\n")


LASTING = "import threading, time\nthreading.Thread(target=time.sleep, args=(3600,)).start()\ndef app(environ, start_response): pass\n"


def test_check_does_not_wait_for_a_thread_of_the_application(tmp_path: Path) -> None:
    write(tmp_path / "lasting.py", LASTING)
    done = muxwsgi("check", "lasting:app", "--pythonpath", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.endswith(b"the configuration is good, and lasting:app loads\n")


@pytest.mark.parametrize("name", ["error_logfile", "certfile", "user", "wsgi_app"])
def test_a_nul_in_a_file_is_one_line(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / "x.toml", f'{name} = "a\\u0000b"\n')
    with pytest.raises(OperatorError, match=f"{name}: 'a.x00b' has a NUL character"):
        collect({}, file)


def test_routes_of_one_bind_are_shown_for_that_bind_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    file = tmp_path / "binds.toml"
    file.write_text(
        f'bind = ["127.0.0.1:8201", "127.0.0.1:8202,only=mqtt", "unix:{path},mode=660"]\nhijack = ["none"]\n'
        '[[route]]\nmatch = "ssh"\nto = "forward:127.0.0.1:22"\nbind = ["127.0.0.1:8201"]\n'
        f'[[route]]\nmatch = "mqtt"\nto = "forward:127.0.0.1:1883"\nbind = ["127.0.0.1:8202", "unix:{path}"]\n'
    )
    checked = muxwsgi("check", "-c", str(file))
    assert checked.returncode == 0, checked.stderr
    served = [line.partition(" (TLS off): ")[2].partition(" (")[0] for line in checked.stdout.decode().splitlines()[:3]]
    assert served == ["ssh, http, http2", "mqtt", "mqtt, http, http2"]
    listed = muxwsgi("routes", "-c", str(file)).stdout.decode()
    assert re.findall(r"^(?:\S+:$|  (?:ssh|mqtt) )", listed, re.MULTILINE) == [
        "127.0.0.1:8201:", "  ssh ", "127.0.0.1:8202:", "  mqtt ", f"unix:{path}:", "  mqtt "
    ]  # fmt: skip
    explained = muxwsgi("explain", "-c", str(file), "-", input=b"SSH-2.0-x\r\n").stdout.decode()
    assert explained.count("=> route 'ssh' gets it") == 1
    file.write_text('bind = "127.0.0.1:8202,only=nothing"\n')
    assert b"bind 127.0.0.1:8202: only: no route or hijacker is named 'nothing'" in muxwsgi("check", "-c", str(file)).stderr
