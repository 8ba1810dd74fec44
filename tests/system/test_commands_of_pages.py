"""Every command of README.md, CONTRIBUTING.md, docs/ and apps/ is run here as it is written, or stands in `NOT_RUN` with the reason.

A command that is new on a page and in neither place fails `test_every_command_is_run_or_listed`. `tests/pages.py` says what is changed.
"""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from muxwsgi.cli import cli
from tests.pages import PAGES, ROOT, Reader, blocks, copy_of_the_sources, own_environment, quoted_commands
from tests.system.server_process import ServerProcess
from tests.waiting import wait_for

BLOCKS = blocks()

ELSEWHERE = "another test runs the same"
INDEX = "asks the package index"
SYSTEMD = "needs systemd as the first process; test_conf_services.py and test_conf_fronts.py check the files"
DOCKER = "needs Docker; test_conf_services.py runs the image's command"
FRAMEWORKS = "tests/frameworks/test_frameworks.py runs the programs of the page"
MINUTES = "takes minutes, and needs the peers' packages"

#: Commands of blocks: what is not run, and why.
NOT_RUN = {
    ("docs/upstreams.md", "muxwsgi ctl upstreams"): ELSEWHERE,  # tests/system/test_upstreams.py
    ("docs/upstreams.md", "muxwsgi ctl upstream drain redis/10.0.0.1:6379"): ELSEWHERE,
    ("CONTRIBUTING.md", "git clone ... muxwsgi && cd muxwsgi"): "the address is the reader's",
    ("CONTRIBUTING.md", "make run"): ELSEWHERE,
    ("CONTRIBUTING.md", "make .venv/tests.stamp"): INDEX,
    ("CONTRIBUTING.md", "make lint"): "`make test` begins with it",
    ("CONTRIBUTING.md", "make test-fast"): "it would run this test",
    ("CONTRIBUTING.md", "make test-python PYTHON=python3.13"): INDEX,
    ("docs/development.md", "muxwsgi run app:application --reload --debug"): ELSEWHERE,
    ("docs/files.md", "muxwsgi run app:application --static /static=./public --static-max-age 3600"): ELSEWHERE,
    ("docs/files.md", "muxwsgi run app:application --x-sendfile /srv/invoices"): "the folder is the reader's",
    ("docs/deployment.md", "python3 -m venv /srv/app/.venv"): INDEX,
    ("docs/deployment.md", "/srv/app/.venv/bin/pip install -r /srv/app/requirements.txt"): INDEX,
    ("docs/deployment.md", "systemctl daemon-reload"): SYSTEMD,
    ("docs/deployment.md", "systemctl enable --now muxwsgi.socket muxwsgi.service"): SYSTEMD,
    ("docs/deployment.md", "nginx -t && systemctl reload nginx"): SYSTEMD,
    ("docs/deployment.md", "systemctl reload muxwsgi"): SYSTEMD,
    ("docs/deployment.md", "systemctl status muxwsgi"): SYSTEMD,
    ("docs/deployment.md", "muxwsgi run app:application -b 0.0.0.0:80 --user www-data --pid /run/app.pid"): ELSEWHERE,  # test_privileges.py
    (
        "docs/deployment.md",
        "muxwsgi run app:application -b 0.0.0.0:443 -b 0.0.0.0:80,tls=off --certfile /etc/muxwsgi/example.org.pem --keyfile /etc/muxwsgi/example.org.key",
    ): "ports and certificate are the reader's; its options are checked as all others",
    ("docs/deployment.md", "certbot renew --deploy-hook 'systemctl reload muxwsgi'"): "asks Let's Encrypt",
    (
        "docs/routes.md",
        "muxwsgi run app:application -b 0.0.0.0:443 --certfile site.pem --keyfile site.key --route ssh=forward:127.0.0.1:22",
    ): "servers and ports are the reader's; its options are checked as all others, and test_office.py runs the same",
    (
        "docs/routes.md",
        "ssh -o ProxyCommand='openssl s_client -quiet -verify_quiet -connect %h:443' ann@site.example",
    ): "test_office.py runs the same",
    (
        "docs/routes.md",
        "muxwsgi run app:application --route redis=forward:10.0.0.5:6379 --route mqtt=forward:unix:/run/mosquitto.sock",
    ): "servers and ports are the reader's; its options are checked as all others, and test_office.py runs the same",
    (
        "docs/routes.md",
        "muxwsgi run app:application --certfile site.pem --keyfile site.key --route sni:legacy.example=passthrough:127.0.0.1:8443",
    ): "servers and ports are the reader's; its options are checked as all others, and test_office.py runs the same",
    (
        "docs/routes.md",
        "muxwsgi run app:application -b 0.0.0.0:443 -b 0.0.0.0:25,tls=off,silence=smtp,silence-after=0.2 --certfile site.pem --keyfile site.key --route smtp=forward:10.0.0.9:25",
    ): "servers and ports are the reader's; its options are checked as all others, and test_office.py runs the same",
    ("docs/frameworks.md", 'muxwsgi run "app:main()"'): FRAMEWORKS,
    ("docs/frameworks.md", "muxwsgi run app:app"): FRAMEWORKS,
    ("docs/frameworks.md", "muxwsgi run app:application"): FRAMEWORKS,
    ("docs/frameworks.md", "python manage.py runmux"): FRAMEWORKS,
    ("docs/frameworks.md", "python manage.py runmux 0:8000 --workers 4"): FRAMEWORKS,
    ("docs/workers.md", "muxwsgi run app:application --workers 4 --preload"): "tests/server/test_preload.py runs the same",
    ("docs/deployment.md", "docker build -t app ."): DOCKER,
    ("docs/deployment.md", "docker run --rm -p 8000:8000 --read-only --tmpfs /tmp --cap-drop ALL app"): DOCKER,
    ("docs/deployment.md", "kubectl apply -f kubernetes.yaml"): "needs Kubernetes; test_conf_services.py holds the file to its schema",
    ("docs/from-gunicorn.md", "gunicorn -k gevent -b 0.0.0.0:8000 app:application"): "gunicorn is not installed for the tests",
    ("docs/measuring.md", "make bench"): MINUTES,
    ("docs/measuring.md", 'make bench BENCH="--group http --load hello --peer bjoern --rounds 3"'): MINUTES,
    ("docs/measuring.md", 'make bench BENCH="--rounds 5 --minutes 60 --json run.json"'): MINUTES,
    ("docs/measuring.md", ".venv-bench/bin/python -m tests.bench --list"): MINUTES,
    ("docs/measuring.md", ".venv-bench/bin/python -m tests.bench report run.json"): MINUTES,
    ("docs/observability.md", "pip install muxwsgi[metrics,top]"): INDEX,
    (
        "docs/observability.md",
        "muxwsgi run app:application --workers 4 --admin-bind 127.0.0.1:9000 --control-socket /run/muxwsgi/ctl",
    ): "tests/system/test_admin.py runs the same, with sockets of its own",
    ("docs/performance.md", "taskset -c 0 python -m tests.bench.websocket_codec"): MINUTES,
    ("docs/performance.md", "python -m tests.bench.mqtt"): MINUTES,
    ("docs/performance.md", 'make bench PYTHON=/usr/bin/python3 BENCH="--group relay --rounds 3 --json run.json"'): MINUTES,
    ("docs/performance.md", 'make bench PYTHON=/usr/bin/python3 BENCH="--rounds 2 --seconds 2 --minutes 16 --json run.json"'): MINUTES,
    ("docs/performance.md", 'make bench PYTHON=/usr/bin/python3 BENCH="--group start --group workers --group reload --rounds 3 --json run.json"'): MINUTES,
}

#: Commands in backquotes that are not muxwsgi's: who runs them, or why nobody does.
QUOTED = {
    "bash .ci/run": "it is what runs the tests",
    "make lint": "`make test` begins with it",
    "make test": "it is what runs the tests",
    "python -c 'from muxwsgi.cli.options import markdown; print(markdown())'": "test_what_makes_the_tables_of_pages_runs",
    "python -c 'from muxwsgi.protocols import markdown; print(markdown())'": "test_what_makes_the_tables_of_pages_runs",
    "python -c 'from muxwsgi.cli import gunicorn, options; print(gunicorn.markdown(options.OPTIONS))'": "tests/server/test_from_gunicorn_page.py compares it",
    "python -m tests.protocols.record": "takes minutes, and needs clients of many protocols",
    "python -m trace": "it is Python's",
    "pip install 'muxwsgi[reload]'": INDEX,
    "pip install 'muxwsgi[otel]'": INDEX,
    "pip install 'muxwsgi[compress]'": INDEX,
    "pip install --upgrade": "names no package",
    "pip install -e .": "the project is the reader's",
    "python -m build": INDEX,
    "MUXWSGI_PURE=1 python -m build --wheel": INDEX,
    "python -m cibuildwheel": "needs Docker",
    "twine upload": "publishes",
    "twine upload dist/*": "publishes",
    "pip install": "names no package",
    "pip install psycogreen": INDEX,
    "pip install muxwsgi[metrics]": INDEX,
    "pip install muxwsgi[top]": INDEX,
    "htpasswd -B": "test_the_passwords_of_htpasswd_are_asked_for",
    "htpasswd -B -c FILE USER": "test_the_passwords_of_htpasswd_are_asked_for",
    "htpasswd -B -c passwords ann": "test_the_passwords_of_htpasswd_are_asked_for",
    "curl -x https://proxy.example:8443": "the end of the command is the reader's",
    "curl -x socks5h://127.0.0.1:8080": ELSEWHERE,
    "make clean": "removes the environment that the tests run in",
    "curl --proxy-http2 -x https://...": "Debian's curl has no --proxy-http2; tests/proxy/test_http2.py sends the same bytes",
    "make bench PYTHON=/usr/bin/python3": MINUTES,
}

#: What the pages take for granted: an application, a certificate, rules.
APPLICATION = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello from " + environ["SCRIPT_NAME"].encode() + environ["PATH_INFO"].encode() + b"\\n"]


app = application


def create_app():
    return application


function = main = create_app
name = application
"""

#: The blocks that a test of this file follows.
FOLLOWED: set[tuple[str, str]] = set()

MakeReader = Callable[..., Reader]


def follows(page: str, first: str) -> Callable[[Any], Any]:
    """The test runs the block of `page` that begins with the command `first`."""
    FOLLOWED.add((page, first))
    return lambda test: test


@pytest.fixture
def reader(tmp_path: Path) -> MakeReader:
    def make(page: str, first: str, **more: Any) -> Reader:
        assert (page, first) in FOLLOWED
        left_out = frozenset(text for where, text in NOT_RUN if where == page)
        return Reader(BLOCKS[page, first], tmp_path, left_out=left_out, **more)

    return make


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with what commands name: app.py, admin/wsgi.py, filters.py, site.pem and the other files."""
    for name in ("app.py", "module.py", "admin/wsgi.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(APPLICATION)
    rules = re.search(r"^```python\n(.*?)^```", (ROOT / "docs/proxy-rules.md").read_text(), re.M | re.S)
    assert rules is not None
    (tmp_path / "filters.py").write_text(rules[1] + "\n\ndef add_rules(proxy):\n    proxy.on_request().do(lambda request, ctx: None)\n")
    make_certificate(tmp_path / "site.pem", tmp_path / "site.key")
    shutil.copy(ROOT / "conf/proxy.toml", tmp_path)
    (tmp_path / "app.toml").write_text('wsgi_app = "app:application"\n')
    for name in ("policy.toml", "deny.txt"):
        shutil.copy(ROOT / "apps/inspector-rules" / name, tmp_path)
    (tmp_path / "FILE").write_text("")
    return tmp_path


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The programs of an environment with muxwsgi, as in the reader's own; and the checkout that it was installed from."""
    folder = tmp_path_factory.mktemp("own")
    programs = own_environment(folder / "environment")
    checkout = copy_of_the_sources(folder / "checkout")
    subprocess.run([programs / "pip", "install", "."], cwd=checkout, env={**os.environ, "MUXWSGI_PURE": "1"}, check=True)
    return programs, checkout


def make_certificate(certificate: Path, key: Path) -> None:
    command = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -keyout {key} -out {certificate}"
    subprocess.run(command.split(), check=True, capture_output=True)


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[ServerProcess]:
    """A web server in TLS, in the place of www.example.org."""
    (tmp_path / "origin_app.py").write_text(APPLICATION)
    with ServerProcess("origin_app", "--pythonpath", str(tmp_path), tls=True) as server:
        yield server


@pytest.fixture
def plain_origin(tmp_path: Path) -> Iterator[ServerProcess]:
    (tmp_path / "origin_app.py").write_text(APPLICATION)
    with ServerProcess("origin_app", "--pythonpath", str(tmp_path)) as server:
        yield server


def curl(*arguments: str) -> str:
    return subprocess.run(["curl", "-sS", "--max-time", "20", *arguments], check=True, capture_output=True, text=True).stdout


# Which commands there are


def test_every_command_is_run_or_listed() -> None:
    commands = {(block.page, command.text) for block in BLOCKS.values() for command in block.commands}
    run = {(block.page, command.text) for key, block in BLOCKS.items() if key in FOLLOWED for command in block.commands}
    assert commands - run - set(NOT_RUN) == set(), "neither run here nor listed in NOT_RUN"
    assert set(NOT_RUN) - commands == set(), "no longer on the page"
    assert FOLLOWED - set(BLOCKS) == set(), "no longer on the page"
    assert len(commands) > 40


def test_every_quoted_command_is_known() -> None:
    quoted = {command for _, command in quoted_commands() if not command.startswith("muxwsgi ")}
    assert quoted == set(QUOTED)
    for reason in QUOTED.values():
        assert not reason.startswith("test_") or reason in globals()


# muxwsgi's own commands


def words_of(command: str) -> list[list[str]]:
    """The words of each `muxwsgi` in a command line, without its name."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    parts: list[list[str]] = [[]]
    for word in lexer:
        if word in ("|", "&&", "||", ";", "&"):
            parts.append([])
        else:
            parts[-1].append(word)
    return [words[1:] for words in parts if words and words[0] == "muxwsgi"]


def muxwsgi_commands() -> list[tuple[str, ...]]:
    written = [command.text for block in BLOCKS.values() for command in block.commands]
    written += [command for _, command in quoted_commands()]
    return sorted({tuple(words) for command in written for words in words_of(command)})


def parse(words: tuple[str, ...]) -> None:
    """Raises `click.UsageError` where the command line does not take them."""
    command: click.Command | None = cli
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        _, command, rest = command.resolve_command(click.Context(command), rest)
    assert command is not None
    if isinstance(command, click.Group) and not rest:
        return
    try:
        command.make_context("muxwsgi", list(rest))
    except click.exceptions.Exit as ended:  # --version
        assert ended.exit_code == 0
    except click.MissingParameter:
        assert not rest  # the page only names the command, as in `muxwsgi replay`


@pytest.mark.parametrize("words", muxwsgi_commands(), ids=" ".join)
def test_the_command_line_takes_what_the_pages_write(words: tuple[str, ...], files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    parse(words)


def checked() -> list[tuple[str, ...]]:
    """Of each `run` and `proxy` that says what to serve, and each `check`, the words of `muxwsgi check`."""
    found = []
    for words in muxwsgi_commands():
        if words[0] == "run" and len(words) > 1:
            found.append(("check", *words[1:]))
        elif words[0] == "proxy":
            found.append(("check", "--proxy", *words[1:]))
        elif words[0] == "check":
            found.append(words)
    return sorted(set(found))


#: Files and folders of the pages that are the reader's, and ours in their place.
OURS = {
    "/srv/invoices": "admin",
    "/static=./public": "/static=admin",
    "/etc/muxwsgi/example.org.pem": "site.pem",
    "/etc/muxwsgi/example.org.key": "site.key",
    "muxwsgi_rpc.example:app": "module:app",  # likewise: test_the_rpc_gateway
    "starttls.toml": "app.toml",  # its hijackers are not installed here: test_the_starttls_fronts
    "mqtt.toml": "app.toml",  # the same: test_the_mqtt_gateway
    "muxwsgi_iot:app": "app:application",
}


@pytest.mark.parametrize("words", checked(), ids=" ".join)
def test_check_accepts_what_the_pages_serve(words: tuple[str, ...], files: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    data = tmp_path_factory.getbasetemp() / "data-of-commands"
    environment = {**os.environ, "XDG_DATA_HOME": str(data)}
    subprocess.run([sys.executable, "-m", "muxwsgi", "ca", "init"], env=environment, capture_output=True)  # once; it overwrites none
    words = tuple(re.sub(r"^(127\.0\.0\.1|0\.0\.0\.0):\d+", "127.0.0.1:0", OURS.get(word, word)) for word in words)
    done = subprocess.run([sys.executable, "-m", "muxwsgi", *words], cwd=files, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def flags_of(command: click.Command) -> set[str]:
    """Options of a command are made, and some commands imported, when they are asked for."""
    context = click.Context(command)
    flags = {flag for parameter in command.get_params(context) if isinstance(parameter, click.Option) for flag in parameter.opts}
    if isinstance(command, click.Group):
        commands = [command.get_command(context, name) for name in command.list_commands(context)]
        flags |= {flag for each in commands if each is not None for flag in flags_of(each)}
    return flags


#: Options on the pages that are other programs'.
FOREIGN = {
    "--wheel": "build",
    "--app": "flask",
    "--noreload": "Django's runserver",
    "--nostatic": "Django's runserver",
    "--proxy-http2": "curl",
    "--upgrade": "pip",
    "--version": "muxwsgi's own, made by click",
    "--on-timeout": "sslh",
    "--kill-whom": "systemctl",
    "--rounds": "tests.bench",
    "--help": "click",
}


@pytest.mark.parametrize("page", PAGES)
def test_every_option_that_a_page_names_is_there(page: str) -> None:
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.M | re.S)
    if "/from-" in page:  # what stands on the left is the other program's
        text = re.sub(r"^\|[^|]*\|", "|", text, flags=re.M)
    quoted = re.findall(r"`([^`\n]+)`", text)
    if page in ("docs/measuring.md", "docs/performance.md", "docs/performance-history.md"):  # of the measuring program and the peers
        quoted = [words for words in quoted if words.startswith("muxwsgi ")]
    named = {flag for words in quoted for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", words)}
    assert named - flags_of(cli) - set(FOREIGN) == set()


# README.md and CONTRIBUTING.md


@follows("README.md", "make run")
@follows("README.md", "curl -sk https://127.0.0.1:8443/ | grep h1")
def test_the_first_minute(reader: MakeReader) -> None:
    served = reader("README.md", "make run")
    # What `make run` sets up is here already; without -o it would ask the package index whenever a file is newer.
    served.environment |= {"PORT": str(served.port(8443)), "MAKEFLAGS": "-o .venv/apps.stamp"}
    with served:
        served.serve("make run", 8443, cwd=ROOT)
        with reader("README.md", "curl -sk https://127.0.0.1:8443/ | grep h1", ports=served.ports) as second:
            for command in second.block.commands:
                second.run(command.text)


@pytest.mark.slow
@follows("README.md", "pip install .")
def test_an_application_of_your_own(reader: MakeReader, files: Path, own: tuple[Path, Path]) -> None:
    programs, checkout = own
    with reader("README.md", "pip install .", programs=programs, environment={"MUXWSGI_PURE": "1"}) as served:
        served.run("pip install .", cwd=checkout)
        served.serve("muxwsgi run app:application", 8000)
        assert curl(f"http://127.0.0.1:{served.port(8000)}/x") == "hello from /x\n"
        served.serve("muxwsgi run 'app:create_app()'", 8443)
        assert curl("-k", f"https://127.0.0.1:{served.port(8443)}/admin/x") == "hello from /admin/x\n"


@follows("README.md", "muxwsgi ca init && muxwsgi proxy --mitm --flows flows.jsonl")
def test_a_proxy_in_one_line(reader: MakeReader, origin: ServerProcess) -> None:
    proxy = reader("README.md", "muxwsgi ca init && muxwsgi proxy --mitm --flows flows.jsonl")
    proxy.environment = environment_of_proxy(proxy)
    with proxy:
        proxy.serve("muxwsgi ca init", 8080)
        ca = proxy.home / ".local/share/muxwsgi/ca/ca.pem"
        asked = ("-x", f"http://127.0.0.1:{proxy.port(8080)}", "--cacert", str(ca), f"https://localhost:{origin.port}/x")
        assert curl(*asked) == "hello from /x\n"
        flows = proxy.folder / "flows.jsonl"
        wait_for(lambda: flows.exists() and flows.read_text().endswith("\n"), "no flow was written")
        assert json.loads(flows.read_text())["request"]["url"] == f"https://localhost:{origin.port}/x"


def environment_of_proxy(reader: Reader) -> dict[str, str]:
    """The default port, free; and the development certificate of the origin is taken."""
    return {"MUXWSGI_BIND": f"127.0.0.1:{reader.port(8080)}", "MUXWSGI_INSECURE_UPSTREAM": "true"}


@follows("README.md", r"printf 'GET key\r\n' | muxwsgi explain -")
def test_explain_prints_what_the_readme_shows(reader: MakeReader) -> None:
    # The name of the mux has the default port, which nothing listens on here.
    with reader("README.md", r"printf 'GET key\r\n' | muxwsgi explain -", ports={"8000": 8000}) as explained:
        explained.run("printf")


@follows("CONTRIBUTING.md", "git clone ... muxwsgi && cd muxwsgi")
def test_a_contributor_runs_one_test(reader: MakeReader) -> None:
    with reader("CONTRIBUTING.md", "git clone ... muxwsgi && cd muxwsgi") as contributor:
        contributor.run(".venv/bin/python -m pytest", cwd=ROOT)


@pytest.mark.parametrize(
    ("module", "page"), [("muxwsgi.cli.options", "docs/configuration.md"), ("muxwsgi.protocols", "docs/protocols.md")]
)
def test_what_makes_the_tables_of_pages_runs(module: str, page: str) -> None:
    (command,) = [command for command in QUOTED if f"from {module} import markdown" in command]
    printed = subprocess.run([sys.executable, *shlex.split(command)[1:]], check=True, capture_output=True, text=True).stdout
    assert f"\n{printed.strip()}\n" in (ROOT / page).read_text()


# Deployment


@follows("docs/deployment.md", "python3 -m venv /srv/app/.venv")
def test_a_new_application_is_checked_before_it_is_a_service(reader: MakeReader, files: Path) -> None:
    with reader("docs/deployment.md", "python3 -m venv /srv/app/.venv") as operator:
        operator.replaced = {"/srv/app": str(files), ".venv/bin/muxwsgi": str(Path(sys.executable).parent / "muxwsgi")}
        assert "app:application" in operator.run("cd /srv/app")


@follows("docs/deployment.md", "muxwsgi run app:application")
def test_a_platform_sets_the_port(reader: MakeReader, files: Path) -> None:
    with reader("docs/deployment.md", "muxwsgi run app:application") as served:
        served.environment = {"PORT": str(served.port(8000)), "WEB_CONCURRENCY": "2"}
        served.serve("muxwsgi run", 8000)
        assert curl(f"http://127.0.0.1:{served.port(8000)}/x") == "hello from /x\n"


# Hijackers


@follows("docs/writing-hijackers.md", "muxwsgi new-hijacker shout --into shout")
@follows("docs/writing-hijackers.md", "pip install -e '.[tests]'")
@follows("docs/writing-hijackers.md", "pytest -q")
@follows("docs/writing-hijackers.md", "pip install build")
def test_the_tutorial(reader: MakeReader, own: tuple[Path, Path], tmp_path: Path) -> None:
    programs, _ = own
    page = "docs/writing-hijackers.md"
    with reader(page, "muxwsgi new-hijacker shout --into shout", programs=programs) as first:
        first.run("muxwsgi new-hijacker", cwd=tmp_path)
        first.run("cd shout", cwd=tmp_path)
    folder = tmp_path / "shout"
    # The name of the mux has the default port, which nothing listens on here.
    with reader(page, "pip install -e '.[tests]'", programs=programs, ports={"8000": 8000}) as second:
        for command in second.block.commands:
            second.run(command.text, cwd=folder)
    with reader(page, "pytest -q", programs=programs) as third:
        assert "18 passed" in third.run("pytest", cwd=folder)
    with reader(page, "pip install build", programs=programs) as fourth:
        fourth.replaced = {"python -m build": "python -m build --no-isolation"}  # what builds is installed here already
        for command in fourth.block.commands:
            fourth.run(command.text, cwd=folder)
    subprocess.run([programs / "python", "-m", "pip", "uninstall", "-qy", "muxwsgi-shout"], check=True)


@pytest.mark.slow
@follows("apps/hijack-echo/README.md", "pip install .")
def test_the_echo(reader: MakeReader, files: Path, own: tuple[Path, Path], tmp_path: Path) -> None:
    with example(reader, "hijack-echo", own, tmp_path) as served:
        served.environment = {"MUXWSGI_BIND": f"127.0.0.1:{served.port(8000)}"}
        served.serve("muxwsgi run", 8000)
        assert served.run("printf") == "ECHO hi\n"


@pytest.mark.slow
@follows("apps/hijack-resp/README.md", "pip install .")
def test_the_redis_protocol(reader: MakeReader, files: Path, own: tuple[Path, Path], tmp_path: Path) -> None:
    with example(reader, "hijack-resp", own, tmp_path) as served:
        served.environment = {"MUXWSGI_BIND": f"127.0.0.1:{served.port(8000)}"}
        served.serve("muxwsgi run", 8000)
        assert served.run("redis-cli") == "OK\n"


@pytest.mark.slow
@follows("apps/hijack-starttls/README.md", "pip install .")
@follows("apps/hijack-starttls/README.md", "muxwsgi run module:app -c starttls.toml")
def test_the_starttls_fronts(reader: MakeReader, files: Path, own: tuple[Path, Path], tmp_path: Path) -> None:
    with example(reader, "hijack-starttls", own, tmp_path) as installed:
        assert "smtp-starttls" in installed.run("muxwsgi hijackers")
    page = "apps/hijack-starttls/README.md"
    (text,) = re.findall(r"^```toml\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)
    try:
        with reader(page, "muxwsgi run module:app -c starttls.toml", programs=own[0]) as served:
            for port in ("5432", "587"):
                assert f"0.0.0.0:{port}," in text
                text = text.replace(f"0.0.0.0:{port},", f"127.0.0.1:{served.port(int(port))},")
            (files / "starttls.toml").write_text(text)
            served.serve("muxwsgi run", 5432)
            with socket.create_connection(("127.0.0.1", served.port(587)), timeout=10) as client:
                assert client.recv(100) == b"220 mail.example ESMTP\r\n"
    finally:  # it would answer silent clients of the other tests
        subprocess.run([own[0] / "python", "-m", "pip", "uninstall", "-qy", "muxwsgi-starttls"], check=True)


@pytest.mark.slow
@follows("apps/rpc-gateway/README.md", "pip install .")
def test_the_rpc_gateway(reader: MakeReader, files: Path, own: tuple[Path, Path], tmp_path: Path) -> None:
    with example(reader, "rpc-gateway", own, tmp_path) as served:
        served.environment = {"MUXWSGI_BIND": f"127.0.0.1:{served.port(8000)}"}
        served.serve("muxwsgi run", 8000)
        assert '"price":60' in served.run("curl 'http://127.0.0.1:8000/price")
        for beginning in ("curl -d", "printf"):
            assert served.run(beginning).strip() == '{"jsonrpc":"2.0","result":60,"id":1}'
    subprocess.run([own[0] / "python", "-m", "pip", "uninstall", "-qy", "muxwsgi-rpc"], check=True)


@pytest.mark.slow
@follows("apps/iot-gateway/README.md", "pip install .")
def test_the_mqtt_gateway(reader: MakeReader, files: Path, own: tuple[Path, Path], tmp_path: Path) -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```", (ROOT / "apps/iot-gateway/README.md").read_text(), re.M | re.S)
    (files / "mqtt.toml").write_text(text)
    subprocess.run(["htpasswd", "-B", "-b", "-c", str(files / "passwords"), "ann", "sesame"], check=True, capture_output=True)
    (files / "acl").write_text("user ann\ntopic readwrite house/#\n")
    try:
        with example(reader, "iot-gateway", own, tmp_path) as served:
            served.environment = {"MUXWSGI_BIND": f"127.0.0.1:{served.port(8000)}"}
            served.serve("muxwsgi run", 8000)
            asked = ["-sku", "ann:sesame", "-d", '{"topic": "house/a"}', "-H", "Content-Type: application/json"]
            assert "subscribers" in curl(f"https://127.0.0.1:{served.port(8000)}/api/publish", *asked)
    finally:  # it would serve MQTT in the other tests
        subprocess.run([own[0] / "python", "-m", "pip", "uninstall", "-qy", "muxwsgi-iot"], check=True)


INSPECTOR = "muxwsgi proxy --mitm --flows flows.jsonl --block deny.txt --passthrough '*.bank.example' --rules muxwsgi_inspector:add_rules"


@pytest.mark.slow
@follows("apps/inspector-rules/README.md", "pip install .")
@follows("apps/inspector-rules/README.md", INSPECTOR)
def test_the_inspector(reader: MakeReader, files: Path, own: tuple[Path, Path], tmp_path: Path) -> None:
    with example(reader, "inspector-rules", own, tmp_path) as served:
        served.run("muxwsgi ca init")
        served.serve("muxwsgi run", 8080)
    with reader("apps/inspector-rules/README.md", INSPECTOR, programs=served.programs) as proxy:
        proxy.environment = environment_of_proxy(proxy)
        proxy.serve("muxwsgi proxy", 8080)


def example(reader: MakeReader, name: str, own: tuple[Path, Path], folder: Path) -> Reader:
    """A reader who has installed the package of apps/ as its page says."""
    shutil.copytree(ROOT / "apps" / name, folder / name, ignore=shutil.ignore_patterns("*.egg-info", "build"))
    made = reader(f"apps/{name}/README.md", "pip install .", programs=own[0])
    made.run("pip install .", cwd=folder / name)
    return made


# The compiled build


@pytest.mark.slow
@follows("docs/compiled.md", "pip install .")
def test_the_builds(reader: MakeReader, tmp_path: Path) -> None:
    programs = own_environment(tmp_path / "environment")
    checkout = copy_of_the_sources(tmp_path / "checkout")
    with reader("docs/compiled.md", "pip install .", programs=programs, patience=600) as builder:
        version = "muxwsgi --version"
        builder.run("pip install .", cwd=checkout)
        assert "(compiled)" in builder.run(version)
        builder.run("MUXWSGI_PURE=1", cwd=checkout)
        assert "(pure)" in builder.run(version)
        builder.run("pip install --editable", cwd=checkout)
        assert "(pure)" in builder.run(version)


# From gunicorn


@follows("docs/from-gunicorn.md", "gunicorn -k gevent -b 0.0.0.0:8000 app:application")
def test_the_command_in_the_place_of_gunicorn(reader: MakeReader, files: Path) -> None:
    with reader("docs/from-gunicorn.md", "gunicorn -k gevent -b 0.0.0.0:8000 app:application") as served:
        served.serve("muxwsgi run", 8000)
        assert curl(f"http://127.0.0.1:{served.port(8000)}/") == "hello from /\n"


@follows("docs/workers.md", "muxwsgi run app:application -b 0.0.0.0:8000 --workers 4")
def test_several_workers(reader: MakeReader, files: Path) -> None:
    with reader("docs/workers.md", "muxwsgi run app:application -b 0.0.0.0:8000 --workers 4") as served:
        served.serve("muxwsgi run", 8000)
        assert curl(f"http://127.0.0.1:{served.port(8000)}/") == "hello from /\n"


# The proxy


@follows("docs/certificates.md", "muxwsgi ca init")
def test_a_ca_is_made_as_the_page_shows(reader: MakeReader) -> None:
    with reader("docs/certificates.md", "muxwsgi ca init") as operator:
        operator.run("muxwsgi ca init")
        environment = {**os.environ, "HOME": str(operator.home)}
        environment.pop("XDG_DATA_HOME", None)
        table = re.findall(r"^\| `(muxwsgi ca (?!init)[^`]+)`", (ROOT / "docs/certificates.md").read_text(), re.M)
        assert len(table) == 3
        for command in table:
            subprocess.run([sys.executable, "-m", *shlex.split(command)], env=environment, check=True, capture_output=True)


@follows("docs/proxy.md", "muxwsgi ca init")
@follows("docs/proxy.md", "curl -x http://127.0.0.1:8080 --cacert ~/.local/share/muxwsgi/ca/ca.pem https://www.example.org/")
@follows("docs/proxy.md", "muxwsgi run filters:proxy -b 127.0.0.1:8080")
def test_the_first_minute_of_the_proxy(reader: MakeReader, files: Path, origin: ServerProcess) -> None:
    proxy = reader("docs/proxy.md", "muxwsgi ca init")
    proxy.environment = environment_of_proxy(proxy)
    elsewhere = {"https://www.example.org/": f"https://localhost:{origin.port}/"}
    with proxy:
        proxy.run("muxwsgi ca init")
        proxy.serve("muxwsgi proxy", 8080)
        (key,) = [key for key in FOLLOWED if key[0] == "docs/proxy.md" and key[1].startswith("curl")]
        with reader(*key, ports=proxy.ports, replaced=elsewhere) as client:
            for way in ("curl -x http:", "curl -x socks5h:"):
                assert "hello from /\n" in client.run(way)
            client.follow("tail -f", f'"url":"https://localhost:{origin.port}/"')
    with reader("docs/proxy.md", "muxwsgi run filters:proxy -b 127.0.0.1:8080") as ruled:
        ruled.serve("muxwsgi run", 8080)
        assert "nothing here" in curl("-x", f"http://127.0.0.1:{ruled.port(8080)}", "http://ads.example/")


@follows("docs/proxy-rules.md", "muxwsgi ca init")
def test_the_first_rules_are_served(reader: MakeReader, files: Path) -> None:
    with reader("docs/proxy-rules.md", "muxwsgi ca init") as operator:
        operator.run("muxwsgi ca init")
        operator.serve("muxwsgi run", 8080)
        answer = curl("-x", f"http://127.0.0.1:{operator.port(8080)}", "http://ads.example/")
        assert answer == "There is nothing here.\n"


FLOWS = "muxwsgi proxy --flows flows.jsonl --har flows.har --flow-filter '~d example.com & !~t image'"


@follows("docs/flows.md", FLOWS)
def test_flows_are_written_shown_and_sent_again(reader: MakeReader, plain_origin: ServerProcess) -> None:
    operator = reader("docs/flows.md", FLOWS, replaced={"example.com": "localhost"}, ports={"8000": plain_origin.port})
    operator.environment = environment_of_proxy(operator)
    with operator:
        operator.serve("muxwsgi proxy", 8080)
        url = f"http://localhost:{plain_origin.port}/x"
        assert curl("--noproxy", "", "-x", f"http://127.0.0.1:{operator.port(8080)}", url) == "hello from /x\n"
        operator.follow("tail -f", f"GET\t{url}\t200".expandtabs(1).replace(" ", "\t"))
        assert "1 answered as then" in operator.run("muxwsgi replay")
        assert json.loads((operator.folder / "flows.har").read_text())["log"]["entries"]


def test_the_passwords_of_htpasswd_are_asked_for(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    command = next(command for command in QUOTED if command.startswith("htpasswd") and "FILE" in command)
    command = command.replace("FILE", str(passwords)).replace("USER", "somebody")
    subprocess.run(["htpasswd", "-i", *shlex.split(command)[1:]], input="secret\n", text=True, check=True, capture_output=True)
    with ServerProcess(None, "--proxy-auth", str(passwords)) as proxy:
        asked = ["-o", os.devnull, "-w", "%{http_code}", "--noproxy", "", "-x", f"http://127.0.0.1:{proxy.port}"]
        assert curl(*asked, "http://nowhere.invalid/") == "407"
        assert curl("-U", "somebody:secret", *asked, "http://nowhere.invalid/") == "502"
