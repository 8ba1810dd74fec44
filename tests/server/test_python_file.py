"""A configuration file in Python, as gunicorn's users have it: what it means, what is said about it, and that a reload runs it again."""

import json
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from muxwsgi.cli.options import collect
from muxwsgi.errors import OperatorError
from tests import warm
from tests.system.server_process import ROOT, ServerProcess
from tests.waiting import wait_for

#: The file of a widely used image of gunicorn has most of these: parts of values beside the values.
GUNICORN = """
import json, multiprocessing, os
from gevent import monkey
monkey.patch_all()

cores = multiprocessing.cpu_count()
workers_per_core_str = os.getenv("WORKERS_PER_CORE", "1")
keepalive_str = os.getenv("KEEP_ALIVE", "7")
use_bind = "127.0.0.1:8123"
timeout_str = "120"
graceful_timeout_str = "99"

workers = max(int(float(workers_per_core_str) * 3), 2)
bind = use_bind
keepalive = int(keepalive_str)
timeout = int(timeout_str)
graceful_timeout = int(graceful_timeout_str)
worker_class = "gevent"
worker_connections = 500
accesslog = "-"
errorlog = "-"
loglevel = "WARNING"
access_log_format = "%(h)s"
threads = 1
daemon = False
worker_tmp_dir = "/dev/shm"
certfile = None
cert_reqs = 0
pythonpath = "/srv/a, /srv/b"
raw_env = ["A=1", "B=2"]
log_data = {"workers": workers, "cores": cores}
json.dumps(log_data)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def values_of(text: str, name: str = "x.conf.py") -> dict[str, object]:
    Path(name).write_text(text)
    return collect({}, name, {}, proxy=False)


def test_a_file_for_gunicorn_means_the_same(folder: Path) -> None:
    values = values_of(GUNICORN)
    expected = {
        "workers": "3", "bind": ["127.0.0.1:8123"], "keep_alive": 7.0, "timeout": 120.0, "graceful_timeout": 99.0, "max_connections": 500,
        "access_logfile": "-", "error_logfile": "-", "log_level": "warning", "access_logformat": "%(h)s", "certfile": [],
        "client_certificates": "none", "pythonpath": ["/srv/a", "/srv/b"], "raw_env": ["A=1", "B=2"],
    }  # fmt: skip
    assert {name: values[name] for name in expected} == expected
    assert values["remarks"] == [
        "x.conf.py, line 4: monkey.patch_all() is not called: each worker is patched before it loads the application",
        "x.conf.py: worker_tmp_dir of gunicorn has no effect: no heartbeat is written to a file",
    ]


def test_a_file_with_all_defaults_of_gunicorn_is_taken(folder: Path) -> None:
    values = values_of((ROOT / "tests" / "server" / "gunicorn_defaults.txt").read_text())
    assert all(" of gunicorn has no effect: " in remark for remark in values["remarks"])
    assert (values["keep_alive"], values["max_connections"], values["limit_request_line"], values["access_logfile"]) == (2.0, 1000, 4094, None)
    assert len(values["sources"]) > 30


def test_what_is_read_in_a_package_and_in_compiled_files_is_the_same(folder: Path) -> None:
    (folder / "settings_package").mkdir()
    (folder / "settings_package" / "__init__.py").write_text("")
    (folder / "settings_package" / "part.py").write_text("PAUSE = 4\n")
    (folder / "settings_package" / "production.py").write_text("from .part import PAUSE\nkeepalive = PAUSE\n")
    assert collect({}, "python:settings_package.production", {})["keep_alive"] == 4.0
    (folder / "settings_package" / "part.py").write_text("PAUSE = 50\n")
    assert collect({}, "python:settings_package.production", {})["keep_alive"] == 50.0
    (folder / "c.py").write_text("keepalive = 6\n")
    subprocess.run([sys.executable, "-c", "import py_compile; py_compile.compile('c.py', 'c.pyc')"], check=True, timeout=60)
    assert collect({}, "c.pyc", {})["keep_alive"] == collect({}, "file:c.py", {})["keep_alive"] == 6.0
    with pytest.raises(OperatorError, match=r"^python:settings_package.none: there is no module"):
        collect({}, "python:settings_package.none", {})
    with pytest.raises(OperatorError, match=r"^python:no_such_package.none: ModuleNotFoundError: No module named 'no_such_package'"):
        collect({}, "python:no_such_package.none", {})
    for name in [name for name in sys.modules if name.startswith("settings_package")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\ntimeuot = 3", r"x\.conf\.py, line 2: there is no option 'timeuot'; did you mean 'timeout'\?"),
        ("worker = 3", r"line 1: there is no option 'worker'; did you mean 'workers'\?"),
        ("def pre_frok(server, worker): pass", r"line 1: there is no option 'pre_frok'; did you mean 'pre_fork'\?"),
        ("if True:\n    try:\n        keep_alife = 1\n    except Exception:\n        pass", r"line 3: there is no option 'keep_alife'"),
        ('timeout = "soon"', r"x\.conf\.py: timeout: 'soon' is not a number"),
        ("workers = [1]", r"x\.conf\.py: workers: \[1\] is not a text"),
        ("backlog = True", r"x\.conf\.py: backlog: True is not a whole number"),
        ("cert_reqs = 7", r"x\.conf\.py: cert_reqs: 7 is not none, optional or required"),
        ("\n\n1/0", r"x\.conf\.py, line 3: ZeroDivisionError: division by zero"),
        ("def f():\n    return {}['a']\nf()", r"x\.conf\.py, line 2: KeyError: 'a'"),
        ("x = = 1", r"x\.conf\.py, line 1: SyntaxError: invalid syntax"),
        ("import no_such_module", r"x\.conf\.py, line 1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("import sys\nsys.exit('no database')", r"x\.conf\.py, line 2: it has ended the program: no database"),
        ("raw_env = ['A']", None),
        ("mitm = True", r"x\.conf\.py: mitm is an option of `muxwsgi proxy`"),
    ],
)
def test_a_fault_is_one_line_with_the_file_and_the_place(folder: Path, text: str, says: str | None) -> None:
    if says is None:
        Path("x.conf.py").write_text(text)
        done = warm.run([sys.executable, "-m", "muxwsgi", "check", "-c", "x.conf.py"], capture_output=True, text=True, timeout=60, env={"PYTHONPATH": str(ROOT)})
        assert (done.returncode, done.stderr) == (2, "muxwsgi: error: raw_env: 'A' is not KEY=VALUE\n")
        return
    with pytest.raises(OperatorError, match=says) as caught:
        values_of(text)
    assert "\n" not in str(caught.value)


def test_a_name_that_the_file_uses_is_not_a_misspelt_option(folder: Path) -> None:
    values = values_of("worker = 3\nworkers = worker\nrules = ['a']\nkeepalive = len(rules)\ncolour = 'red'\n")
    assert (values["workers"], values["keep_alive"]) == ("3", 1.0)
    assert values["remarks"] == ["x.conf.py, line 5: there is no option 'colour', and the file does not use the name"]


def test_a_file_that_patches_the_master_through_a_module_is_refused(folder: Path) -> None:
    (folder / "patching.py").write_text("import gevent.monkey\ngevent.monkey.patch_all()\n")
    (folder / "x.conf.py").write_text("import patching\n")
    code = "from muxwsgi.cli.options import collect; collect({}, 'x.conf.py', {})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={"PYTHONPATH": str(ROOT)})
    assert done.stderr.splitlines()[-1].startswith("muxwsgi.errors.OperatorError: x.conf.py: it has patched this process with gevent")


def test_reading_a_file_loads_no_gevent(folder: Path) -> None:
    (folder / "x.conf.py").write_text("keepalive = 3\nraw_env = ['A=1']\n")
    code = "import sys; from muxwsgi.cli.options import collect; collect({}, 'x.conf.py', {}); assert 'gevent' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env={"PYTHONPATH": str(ROOT)})


def test_a_file_in_the_working_folder_is_found_for_an_application_alone(folder: Path) -> None:
    (folder / "gunicorn.conf.py").write_text("keepalive = 11\n")
    assert collect({}, None, {}, proxy=False, find_file=True)["keep_alive"] == 11.0
    assert collect({}, None, {})["keep_alive"] == 75.0
    (folder / "muxwsgi.conf.py").write_text("keep_alive = 12\n")
    assert collect({}, None, {}, proxy=False, find_file=True)["keep_alive"] == 12.0
    assert collect({}, None, {"MUXWSGI_CONFIG": "gunicorn.conf.py"}, proxy=False, find_file=True)["keep_alive"] == 11.0


def test_a_file_of_another_kind_says_how_it_was_read(folder: Path) -> None:
    (folder / "gunicorn.cfg").write_text("import os\n")
    with pytest.raises(OperatorError, match=r"gunicorn\.cfg: .* \(it is read as TOML; the name of a Python file ends in \.py\)"):
        collect({}, "gunicorn.cfg", {})
    (folder / "x.toml").write_text("keepalive = 3\n")
    with pytest.raises(OperatorError, match=r"x\.toml: there is no option 'keepalive'; here it is 'keep_alive'"):
        collect({}, "x.toml", {})


def test_the_variable_of_gunicorn_is_answered(folder: Path) -> None:
    assert collect({}, None, {"GUNICORN_CMD_ARGS": "--bind :1"})["remarks"] == [
        "environment: GUNICORN_CMD_ARGS is not read: give each option as a variable, as MUXWSGI_BIND"
    ]


def test_the_printed_configuration_says_where_each_value_comes_from_and_is_a_file(folder: Path) -> None:
    (folder / "x.conf.py").write_text("keepalive = 3\nbackends = 1\nbind = 'unix:a \"b\".sock'\ndef on_exit(server): pass\n")
    environment = {"PYTHONPATH": str(ROOT), "MUXWSGI_BACKLOG": "7", "WEB_CONCURRENCY": "5"}
    command = [sys.executable, "-m", "muxwsgi", "run", "-c", "x.conf.py", "--log-level", "debug", "--print-config"]
    done = warm.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    printed = done.stdout[: done.stdout.index("\nunix:") + 1]
    for line in (
        "keep_alive = 3  # x.conf.py", "backlog = 7  # the variable MUXWSGI_BACKLOG", 'workers = "5"  # the variable WEB_CONCURRENCY',
        'log_level = "debug"  # the flag --log-level', "limit_request_fields = 100  # default", "# ca_certs is not set", "# the file is x.conf.py", "# the hooks of the file are on_exit",
    ):  # fmt: skip
        assert f"{line}\n" in printed
    assert tomllib.loads(printed)["bind"] == ['unix:a "b".sock']
    assert done.stdout.endswith("the configuration is good\n")
    done = warm.run([sys.executable, "-m", "muxwsgi", "proxy", "--print-config", "--upstream-proxy", "http://me:secret@127.0.0.1:1"], capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    assert 'upstream_proxy = "http://me:***@127.0.0.1:1"  # the flag --upstream-proxy' in done.stdout and "secret" not in done.stdout


APPLICATION = """
import json, os

def app(environ, start_response):
    body = json.dumps({name: os.environ.get(name) for name in ("A", "B", "MUXWSGI_KEEP_ALIVE")}).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


def test_a_reload_runs_the_file_again_and_a_wrong_one_leaves_what_serves(folder: Path) -> None:
    (folder / "env_app.py").write_text(APPLICATION)
    file = folder / "x.conf.py"
    file.write_text("workers = 2\nraw_env = ['A=first', 'MUXWSGI_KEEP_ALIVE=3']\n")
    options = ("-c", str(file), "--pythonpath", str(folder), "--hijack", "none")
    with ServerProcess("env_app:app", *options, environment={"B": "before", "A": "outside"}) as server:
        server.wait_for_log("2 workers are ready", patience=30)
        assert f"the configuration is {file}" in server.log

        def variables() -> dict[str, str | None]:
            answer: dict[str, str | None] = json.loads(server.get("/")[1])
            return answer

        assert variables() == {"A": "first", "B": "before", "MUXWSGI_KEEP_ALIVE": "3"}
        file.write_text("workers = 2\nraw_env = ['A=second'\n")
        server.send_signal(signal.SIGHUP)
        server.wait_for_log(f"the reload failed, and what served before goes on: {file}, line 2: SyntaxError: '[' was never closed", patience=20)
        assert variables()["A"] == "first"
        file.write_text("workers = 2\nraw_env = ['B=second']\nspew = True\n")
        server.send_signal(signal.SIGHUP)
        wait_for(lambda: variables() == {"A": "outside", "B": "second", "MUXWSGI_KEEP_ALIVE": None}, lambda: server.log)
        assert "spew of gunicorn has no effect: use a debugger" in server.log
        assert server.stop() == 0
