"""docs/frameworks.md: each program of the page is served, and the frameworks' own commands start muxwsgi."""

import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from muxwsgi.contrib.django.management.commands.runmux import bind_of
from muxwsgi.contrib.paste import arguments_of
from tests.ports import reserved_port
from tests.system.server_process import ROOT, ServerProcess
from tests.waiting import wait_for

PAGE = (ROOT / "docs/frameworks.md").read_text()


def sections() -> Iterator[tuple[str, str, str]]:
    """The heading, the program, and the APP of the command."""
    for section in PAGE.split("\n## ")[1:]:
        program = re.search(r"^```python\n(.*?)^```", section, re.M | re.S)
        command = re.search(r"^    muxwsgi run \"?([^\"\n]+)", section, re.M)
        assert program is not None and command is not None
        yield section.partition("\n")[0], program[1], command[1]


@pytest.mark.parametrize(("name", "program", "app"), list(sections()), ids=lambda value: value if "\n" not in value else "")
def test_a_program_of_the_page_is_served(name: str, program: str, app: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(program)
    with ServerProcess(app, "--pythonpath", str(tmp_path)) as server:
        status, body = server.get("/")
        assert server.stop() == 0
    assert status == 200 and body.startswith(b"hello of ") and body.endswith(b"\n")
    assert name.removeprefix("A ").encode() in body, "it is the right program"


# Commands


class Started:
    """A command that has become a server at `port`."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.process = process
        self.port = port
        self.log = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line

    def get(self, path: str = "/") -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=20) as response:
            body: bytes = response.read()
        return body

    def status(self, path: str) -> int:
        try:
            self.get(path)
        except urllib.error.HTTPError as error:
            return error.code
        return 200


def environment() -> dict[str, str]:
    """With the commands of this interpreter's folder."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@contextmanager
def started(folder: Path, *command: str, **variables: str) -> Iterator[Started]:
    """Run `command` in `folder`, with {port} in it replaced. Ends it by its pid, which is the master's."""
    with reserved_port() as reserved:
        port = reserved.getsockname()[1]
        arguments = [sys.executable if each == "python" else each.format(port=port) for each in command]
        process = subprocess.Popen(
            arguments, cwd=folder, env={**environment(), **variables}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        server = Started(process, port)
        try:
            wait_for(lambda: " ready\n" in server.log or process.poll() is not None, lambda: f"it does not serve:\n{server.log}", 40)
            assert process.poll() is None, server.log
            yield server
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0, server.log
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(20)


def program_of(heading: str) -> str:
    return next(program for name, program, _ in sections() if name == heading)


SETTINGS = """
DEBUG = {debug}
SECRET_KEY = "x"
ALLOWED_HOSTS = {hosts}
ROOT_URLCONF = "project.urls"
WSGI_APPLICATION = "project.wsgi.application"
STATIC_URL = "static/"
INSTALLED_APPS = ["django.contrib.staticfiles", "project", "muxwsgi.contrib.django"]
"""

URLS = """
import socket, threading
from django.http import HttpResponse
from django.urls import path
urlpatterns = [path("", lambda request: HttpResponse(f"{request.META['SERVER_SOFTWARE']} {threading.current_thread().__class__.__module__} {socket.socket.__module__}"))]
"""

MANAGE = """
import os, sys
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""


def django_project(folder: Path, *, debug: bool, hosts: str = '["*"]') -> None:
    (folder / "project/static").mkdir(parents=True)
    files = {"__init__": "", "settings": SETTINGS.format(debug=debug, hosts=hosts), "urls": URLS, "wsgi": "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n"}
    for name, text in files.items():
        (folder / f"project/{name}.py").write_text(text)
    (folder / "project/static/style.css").write_text("body {}")
    (folder / "manage.py").write_text(MANAGE)


def test_manage_py_runmux_with_debug_reloads_and_serves_static_files(tmp_path: Path) -> None:
    django_project(tmp_path, debug=True)
    with started(tmp_path, "python", "manage.py", "runmux", "{port}", "--workers", "1") as server:
        assert server.get().startswith(b"muxwsgi ") and server.get().endswith(b"gevent._socket3"), "the standard library is patched"
        assert server.get("/static/style.css") == b"body {}"
        # With a line more: bytecode is taken for new by the second and the size of its source.
        (tmp_path / "project/urls.py").write_text("\n" + URLS.replace("SERVER_SOFTWARE", "SERVER_PROTOCOL"))
        wait_for(lambda: server.get().startswith(b"HTTP/1.1 "), lambda: f"it does not reload:\n{server.log}", 30)


def test_manage_py_runmux_without_debug_does_neither(tmp_path: Path) -> None:
    django_project(tmp_path, debug=False)
    with started(tmp_path, "python", "manage.py", "runmux", "-b", "127.0.0.1:{port}", "-w2") as server:
        assert server.get().startswith(b"muxwsgi ") and server.status("/static/style.css") == 404
        assert "watching" not in server.log.lower() and len(re.findall(r"worker .* ready|ready", server.log)) >= 1


def test_manage_py_runmux_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    django_project(tmp_path, debug=False, hosts="[]")
    for arguments, problem in ((["8000"], "You must set settings.ALLOWED_HOSTS"),):
        done = subprocess.run([sys.executable, "manage.py", "runmux", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60, env=environment())
        assert done.returncode == 1 and problem in done.stderr and "Traceback" not in done.stderr
    helped = subprocess.run([sys.executable, "manage.py", "runmux", "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=60, env=environment())
    assert helped.returncode == 0 and "--noreload" in helped.stdout and "muxwsgi run" in helped.stdout


@pytest.mark.parametrize(
    ("address", "bind"),
    [("8000", "127.0.0.1:8000"), ("0:8000", "0.0.0.0:8000"), ("127.0.0.1:80", "127.0.0.1:80"), ("[::1]:80", "[::1]:80"), ("unix:/x", "unix:/x"), ("localhost:80", "localhost:80")],
)
def test_addresses_are_those_of_runserver(address: str, bind: str) -> None:
    assert bind_of(address) == bind


def test_flask_mux_serves_the_application_that_flask_finds(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(program_of("Flask").replace("app = ", "shop = ").replace("@app", "@shop"))
    with started(tmp_path, "flask", "--app", "shop", "mux", "-p", "{port}", "--workers", "2", FLASK_DEBUG="") as server:
        assert server.get() == b"hello of Flask\n"
    (tmp_path / "app.py").write_text(program_of("Flask") + '\n\n@app.get("/fail")\ndef fail():\n    raise LookupError("lost")\n')
    with started(tmp_path, "flask", "--debug", "mux", "--bind", "127.0.0.1:{port}") as server:
        assert server.get() == b"hello of Flask\n"
        with pytest.raises(urllib.error.HTTPError) as caught:
            server.get("/fail")
        assert "__debugger__" in caught.value.read().decode()
        (tmp_path / "app.py").write_text(program_of("Flask").replace("hello", "changed"))
        wait_for(lambda: server.get() == b"changed of Flask\n", lambda: f"it does not reload:\n{server.log}", 30)


@pytest.mark.parametrize(
    ("program", "says", "shows"),
    [(None, "Could not import 'shop'.", False), ("import missing_module\n", "While importing 'shop', an ImportError was raised:", True)],
    ids=["no module", "a module that fails"],
)
def test_flask_mux_says_in_one_line_why_there_is_no_application(tmp_path: Path, program: str | None, says: str, shows: bool) -> None:
    if program is not None:
        (tmp_path / "shop.py").write_text(program)
    command = ["flask", "--app", "shop", "mux", "--bind", f"unix:{tmp_path}/socket"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    line = next(line for line in done.stderr.splitlines() if says in line)
    assert line.startswith("muxwsgi: error: ")
    assert ("Traceback" in done.stderr) is shows
    assert ("No module named 'missing_module'" in done.stderr) is shows


def test_pserve_serves_the_application_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(program_of("Pyramid"))
    ini = re.search(r"^```ini\n(.*?)^```", PAGE, re.M | re.S)
    assert ini is not None and ini[1].count("6543") == 1
    logging = "\n[loggers]\nkeys = root\n[handlers]\nkeys = console\n[formatters]\nkeys =\n[logger_root]\nlevel = INFO\nhandlers = console\n[handler_console]\nclass = StreamHandler\nargs = (sys.stderr,)\n"
    (tmp_path / "development.ini").write_text(ini[1].replace("6543", "%(http_port)s") + logging)
    with started(tmp_path, "pserve", "development.ini", "http_port={port}", PYTHONPATH=os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])) as server:
        assert server.get() == b"hello of Pyramid\n"


def test_settings_of_a_paste_file_are_flags(capsys: pytest.CaptureFixture[str]) -> None:
    given = {"port": "1", "workers": "2", "reload": "true", "capture_output": "off", "certfile": "a.pem\nb.pem"}
    assert arguments_of(given) == ["--bind", "127.0.0.1:1", "--workers", "2", "--reload", "--certfile", "a.pem", "--certfile", "b.pem"]
    assert arguments_of({"host": "::1"}) == ["--bind", "[::1]:8000"]
    for wrong, problem in (({"threads": "4"}, "threads is no setting of muxwsgi"), ({"reload": "perhaps"}, "reload: 'perhaps' is not")):
        with pytest.raises(SystemExit) as ended:
            arguments_of(wrong)
        assert ended.value.code == 2 and problem in capsys.readouterr().err
