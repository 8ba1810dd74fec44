"""`--reload`: real processes, and files that are changed as editors change them."""

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509

from muxwsgi.cli import reloading
from muxwsgi.cli.watched import Watched
from muxwsgi.server.master import Master
from muxwsgi.settings import WorkerSettings
from tests.system.server_process import ServerProcess, insecure_context
from tests.tls.authority import Authority
from tests.waiting import until, wait_for

APPLICATION = """
import os
import part

def app(environ, start_response):
    if environ["PATH_INFO"] == "/later":
        import later
    folder = os.path.dirname(os.path.abspath(__file__))
    path = os.path.join(folder, "templates", "page.html")
    page = open(path).read() if os.path.exists(path) else ""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"one {part.VALUE} {os.getpid()} {page}".encode()]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "site_app.py").write_text(APPLICATION)
    (tmp_path / "part.py").write_text("VALUE = 'a'\n")
    (tmp_path / "later.py").write_text("VALUE = 'later'\n")
    return tmp_path


@contextmanager
def serving(folder: Path, *options: str, engine: str = "auto", workers: str = "1", app: str = "site_app:app") -> Iterator[ServerProcess]:
    arguments = ("--reload", "--reload-engine", engine, "-w", workers, "--pythonpath", str(folder), "--hijack", "none", *options)
    environment = {"XDG_DATA_HOME": str(folder), "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}
    with ServerProcess(app, *arguments, environment=environment) as server:
        server.wait_for_log(" ready", patience=30)
        yield server


def body(server: ServerProcess, path: str = "/") -> str:
    return server.get(path)[1].decode()


def wait_for_body(server: ServerProcess, text: str, status: int = 200) -> str:
    def look() -> str | None:
        try:
            answer = server.get("/")
        except OSError:
            return None
        return answer[1].decode() if answer[0] == status and text in answer[1].decode() else None

    return wait_for(look, lambda: f"{text!r} never came:\n{server.log}")


def head(server: ServerProcess) -> bytes:
    """The head of a response, empty if the connection was closed."""
    with server.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        try:
            return sock.recv(65536).partition(b"\r\n\r\n")[0] + b"\r\n"
        except ConnectionError:
            return b""


def wait_for_change(server: ServerProcess, path: Path) -> None:
    """Until the change of `path` is in the log, and new workers are ready after that."""

    def noticed() -> bool:
        _, found, after = server.log.rpartition(f"changed: {path}")
        return bool(found) and "is ready" in after

    wait_for(noticed, lambda: f"{path}: {server.log}")


def replace(path: Path, text: str) -> None:
    """As most editors save: a new file, renamed over the old one."""
    fresh = path.with_name(f".{path.name}.swp")
    fresh.write_text(text)
    os.replace(fresh, path)


@pytest.mark.parametrize("engine", ["poll", "inotify"])
def test_a_saved_module_is_served_and_the_configuration_too(folder: Path, engine: str) -> None:
    file = folder / "x.conf.py"
    file.write_text("import values_of_file\nserver_header = values_of_file.NAME\n")
    (folder / "values_of_file.py").write_text("NAME = 'first'\n")
    with serving(folder, "-c", str(file), engine=engine) as server:
        assert body(server).startswith("one a ")
        replace(folder / "part.py", "VALUE = 'b'\n")
        wait_for_body(server, "one b ")
        (folder / "site_app.py").write_text(APPLICATION.replace("one", "two"))  # not by a rename
        wait_for_body(server, "two b ")
        replace(folder / "values_of_file.py", "NAME = 'second'\n")
        wait_for(lambda: b"Server: second\r\n" in head(server), lambda: server.log)
        replace(file, "server_header = 'third'\n")
        wait_for(lambda: b"Server: third\r\n" in head(server), lambda: server.log)
        assert server.stop() == 0


@pytest.fixture(params=["poll", "inotify"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_changes_of_a_template_a_new_file_and_a_module_loaded_later(folder: Path, engine: str) -> None:
    (folder / "templates").mkdir()
    (folder / "templates" / "page.html").write_text("old page")
    (folder / "conf" / "deep").mkdir(parents=True)
    with serving(folder, "--reload-extra-file", str(folder / "conf" / "**" / "*.yaml"), engine=engine) as server:
        first = body(server)
        assert first.endswith("old page")
        for path, text in (
            (folder / "templates" / "page.html", "new page"),
            (folder / "templates" / "further.html", "x"),
            (folder / "conf" / "deep" / "a.yaml", "a: 1"),
            (folder / "conf" / "deep" / "b.yaml", "b: 1"),
        ):
            replace(path, text)
            wait_for_change(server, path)
        wait_for_body(server, "new page")
        (folder / "conf" / "deep" / "a.yaml").unlink()
        wait_for_change(server, folder / "conf" / "deep" / "a.yaml")

        def changes_later() -> bool:
            """Also if a worker of before has loaded it."""
            body(server, "/later")
            replace(folder / "later.py", f"VALUE = '{time.monotonic()}'\n")
            time.sleep(1)
            return f"changed: {folder / 'later.py'}" in server.log

        wait_for(changes_later, lambda: server.log)


def test_what_is_no_change_reloads_nothing(folder: Path, engine: str) -> None:
    with serving(folder, engine=engine) as server:
        pid = body(server).split()[2]
        (folder / "__pycache__").mkdir(exist_ok=True)
        (folder / "__pycache__" / "part.cpython-311.pyc").write_bytes(b"x")
        (folder / ".part.py.swp").write_text("x")
        (folder / "unrelated.py").write_text("x = 1\n")
        (folder / "notes.txt").write_text("x")
        time.sleep(1.5)  # there is nothing to wait for: a look each 0.4 s would have found it
        assert body(server).split()[2] == pid and server.log.count("is ready") == 1


def test_several_files_that_are_saved_at_once_are_one_change(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.conf", "b.conf")]
    for file in files:
        file.write_text("x")
    watched = Watched([str(file) for file in files])
    try:
        replace(files[0], "y")
        assert watched.look() == [] and watched.is_settling
        replace(files[1], "y")
        assert watched.look() == [] and watched.is_settling
        assert watched.look() == [str(file) for file in files]
        assert watched.look() == [] and not watched.is_settling
    finally:
        watched.stop()


def test_the_second_worker_that_tells_of_a_change_starts_no_second_reload() -> None:
    master = Master(SimpleNamespace(settings=WorkerSettings(workers=2)))  # type: ignore[arg-type]
    first, second, newer = (SimpleNamespace(generation=number, has_changed=True) for number in (1, 1, 2))
    master._workers = {1: first, 2: second}  # type: ignore[dict-item]
    master._serving = 1
    master._notice_changes()
    assert master._reload_wanted
    master._reload_wanted, master._booting = False, 2  # the reload has begun
    second.has_changed = True
    master._notice_changes()
    assert not master._reload_wanted and not second.has_changed
    master._workers[3] = newer  # type: ignore[assignment]
    master._notice_changes()
    assert master._reload_wanted


def test_what_cannot_be_loaded_is_a_page_until_it_is_mended(folder: Path, engine: str) -> None:
    with serving(folder, engine=engine) as server:
        replace(folder / "part.py", "VALUE = = 'b'\n")
        page = wait_for_body(server, "The application cannot be loaded", 500)
        assert "SyntaxError" in page and "part.py" in page and "Traceback" in page
        assert "the application cannot be loaded, and a page says so until a file changes" in server.log
        replace(folder / "part.py", "import not_there\nVALUE = not_there.VALUE\n")
        wait_for_body(server, "No module named &#x27;not_there&#x27;", 500)
        (folder / "not_there.py").write_text("VALUE = 'there'\n")
        wait_for_body(server, "one there ")
        assert server.stop() == 0


def test_a_start_with_an_error_serves_the_page_and_shows_it_only_here(folder: Path) -> None:
    (folder / "site_app.py").write_text("raise RuntimeError('no <database>')\n")
    with serving(folder) as server:

        def page(*fields: str, host: str = "localhost") -> str:
            with server.connect() as sock:
                sock.sendall("\r\n".join(["GET / HTTP/1.1", f"Host: {host}", *fields, "Connection: close", "", ""]).encode())
                data = b""
                while part := sock.recv(65536):
                    data += part
            assert data.startswith(b"HTTP/1.1 500 ")
            return data.decode()

        assert "no &lt;database&gt;" in page() and "no &lt;database&gt;" in page("X-Forwarded-For: 127.0.0.1", host="127.0.0.1:8000")
        for elsewhere in (
            page("X-Forwarded-For: 192.0.2.1"),
            page("X-Forwarded-For: 192.0.2.1, 127.0.0.1"),
            page("Forwarded: for=127.0.0.1, for=192.0.2.1"),
            page('Forwarded: for="[2001:db8::1]:80";proto=http'),
            page("Forwarded: by=127.0.0.1"),
            page("X-Real-IP: unknown"),
            page(host="evil.example"),
            page(host="localhost.evil.example:8000"),
        ):
            assert "database" not in elsewhere and "only at the machine of the server" in elsewhere
        (folder / "site_app.py").write_text(APPLICATION)
        wait_for_body(server, "one a ")


def test_a_configuration_that_is_wrong_leaves_what_serves_and_is_read_again(folder: Path) -> None:
    file = folder / "x.toml"
    file.write_text("keep_alive = 5\n")
    with serving(folder, "-c", str(file)) as server:
        replace(file, "keep_alife = 5\n")
        server.wait_for_log("there is no option 'keep_alife'", patience=20)
        assert body(server).startswith("one a ")
        replace(file, "keep_alive = 6\n")
        wait_for_change(server, file)


def test_a_kept_connection_is_not_answered_by_the_old_code(folder: Path) -> None:
    with serving(folder) as server, server.connect() as kept:
        kept.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"one a " in kept.recv(65536)
        replace(folder / "part.py", "VALUE = 'b'\n")
        wait_for_body(server, "one b ")
        kept.settimeout(30)
        assert kept.recv(65536) == b""  # the old worker has closed it


def test_a_signal_reloads_as_without_the_option(folder: Path) -> None:
    with serving(folder) as server:
        server.send_signal(signal.SIGHUP)
        server.wait_for_log_times("worker is ready", 2)
        assert body(server).startswith("one a ")


def test_a_change_while_the_modules_are_loaded_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the import and the first look, the file is saved: what was read is old."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "watched_module.py").write_text("x = 1\n")
    watched = Watched()
    try:
        import watched_module  # type: ignore[import-not-found]  # noqa: F401

        replace(tmp_path / "watched_module.py", "x = 2\n")
        assert watched.look() == []
        assert watched.is_settling
        assert watched.look() == [str(tmp_path / "watched_module.py")]
        assert watched.look() == watched.look() == []
        (tmp_path / "watched_module.py").unlink()
        watched.look()
        replace(tmp_path / "watched_module.py", "x = 3\n")  # the editor goes on
        assert watched.look() == []
        assert watched.look() == [str(tmp_path / "watched_module.py")]
    finally:
        watched.stop()


def test_folders_of_djangos_templates_are_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shared").mkdir()
    settings = SimpleNamespace(configured=True, TEMPLATES=[{"DIRS": [tmp_path / "shared", tmp_path / "missing"]}])
    monkeypatch.setitem(sys.modules, "django.conf", SimpleNamespace(settings=settings))  # type: ignore[arg-type]
    (tmp_path / "conf" / "deep").mkdir(parents=True)
    watched = Watched(patterns=[str(tmp_path / "conf" / "**" / "*.yaml")])
    try:
        assert {str(tmp_path / "shared"), str(tmp_path / "conf"), str(tmp_path / "conf" / "deep")} <= watched.folders
        (tmp_path / "shared" / "page.html").write_text("x")
        (tmp_path / "shared" / "page.html~").write_text("x")
        assert watched.look() == []
        assert watched.look() == [str(tmp_path / "shared" / "page.html")]
    finally:
        watched.stop()


def test_a_renewed_certificate_is_served(folder: Path) -> None:
    authority = Authority(folder)
    files = authority.leaf("a.example")
    file = folder / "tls.toml"
    file.write_text(f'certfile = ["{files.certfile}"]\nkeyfile = ["{files.keyfile}"]\n')

    def served_name() -> str:
        with server.connect() as sock, insecure_context().wrap_socket(sock, server_hostname="a.example") as tls:
            return str(x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"").serial_number)

    with serving(folder, "-c", str(file)) as server:
        before = served_name()
        other = authority.leaf("a.example", "b.example")
        for old, new in ((files.keyfile, other.keyfile), (files.certfile, other.certfile)):
            if old != new:
                os.replace(new, old)
        wait_for(lambda: served_name() != before, lambda: server.log)


def test_a_port_stays_open_in_a_reload(folder: Path) -> None:
    with serving(folder) as server:
        for value in ("b", "c", "d"):
            replace(folder / "part.py", f"VALUE = '{value}'\n")
            while f"one {value} " not in body(server):
                socket.create_connection(("127.0.0.1", server.port), timeout=10).close()


def test_a_look_that_fails_is_not_the_last_one(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(reloading, "RARE_LOOK", 0.01)
    looks: list[None] = []
    reported: list[None] = []

    def look(self: Watched, *, failed: bool) -> list[str]:
        looks.append(None)
        if len(looks) == 1:
            raise RuntimeError("dictionary changed size during iteration")
        return ["app.py"] if len(looks) == 2 else []

    monkeypatch.setattr(Watched, "look", look)
    watching = reloading.Reloading({"config": None, "reload_extra_files": [], "reload_engine": "poll"}, [])
    watching.start(lambda: reported.append(None), failed=False)
    try:
        until(lambda: reported)
    finally:
        watching.stop()
    assert "a look at the files failed" in caplog.text and "changed size" in caplog.text
