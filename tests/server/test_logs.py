"""Logs that cannot be written or opened again, of a server as a process: it goes on, says so once, and loses no more than it has to."""

import contextlib
import os
import resource
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.server_process import ServerProcess
from tests.waiting import wait_for

APP = "tests.server.logging_app"

HELLO = (200, b"hello")


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        for fd in (reader, writer):
            with contextlib.suppress(OSError):
                os.close(fd)


def read_all(fd: int) -> str:
    """What the pipe holds and gets until its last writer is gone."""
    data = b""
    while block := os.read(fd, 65536):
        data += block
    return data.decode()


# A folder that was moved away


def test_logs_whose_folder_was_moved_away_are_written_on_and_that_is_said_once(tmp_path: Path) -> None:
    folder, moved = tmp_path / "logs", tmp_path / "moved"
    folder.mkdir()
    options = ["--access-logfile", f"{folder}/access", "--error-logfile", f"{folder}/error"]
    with ServerProcess(APP, *options) as server:
        wait_for(lambda: "listening" in (folder / "error").read_text())
        folder.rename(moved)
        for count in (1, 2):
            server.send_signal(signal.SIGUSR1)
            wait_for(lambda count=count: (moved / "error").read_text().count("logs reopened") == count)
        assert server.get("/") == HELLO
        assert server.get("/fail")[0] == 500
        wait_for(lambda: len(lines_of(moved / "access")) == 2)
        assert "LookupError: of the application" in (moved / "error").read_text()
        assert (moved / "error").read_text().count("it cannot be opened again") == 1, "the access log's"
        server.wait_for_log_times("it cannot be opened again", 2)
        assert server.log.count("it cannot be opened again") == 2, "the error log's, of the master and of the worker"
        folder.mkdir()
        server.send_signal(signal.SIGUSR1)
        wait_for(lambda: (folder / "access").exists() and "logs reopened" in (folder / "error").read_text())
        assert server.get("/fail")[0] == 500
        wait_for(lambda: len(lines_of(folder / "access")) == 1)
        assert server.stop() == 0
        assert "stopped" in (folder / "error").read_text()


def test_logs_are_reopened_by_their_first_name_after_a_chdir_of_the_operator(tmp_path: Path) -> None:
    """A relative name begins at the folder of --chdir, as docs/configuration.md says."""
    (tmp_path / "elsewhere").mkdir()
    options = ["--error-logfile", "../error", "--pythonpath", str(Path.cwd()), "--chdir", str(tmp_path / "elsewhere")]
    with ServerProcess(APP, *options, error_log=tmp_path / "error") as server:
        wait_for(lambda: "listening" in (tmp_path / "error").read_text())
        (tmp_path / "error").rename(tmp_path / "rotated")
        server.send_signal(signal.SIGUSR1)
        wait_for(lambda: "logs reopened" in "".join(lines_of(tmp_path / "error")))


# A disk that is full


def file_limit(size: int) -> Callable[[], None]:
    """No file may grow larger: as a full disk, for whose write(2) a part fits."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_an_access_log_on_a_full_disk_loses_lines_and_no_request_and_neither_rotation_nor_stop_fail(tmp_path: Path) -> None:
    path = tmp_path / "access"
    options = ("--access-logfile", str(path), "--access-logformat", "%(q)s" + "x" * 60)
    whole = {"PYTHONDONTWRITEBYTECODE": "1"}  # Python would leave a part of a compiled module
    with ServerProcess(APP, *options, preexec=file_limit(256), environment=whole) as server:
        for number in range(20):
            assert server.get(f"/?{number:02}") == HELLO
        server.wait_for_log("File too large; lines are lost, the traffic goes on")
        assert path.stat().st_size == 256
        path.rename(tmp_path / "rotated")
        server.send_signal(signal.SIGUSR1)
        server.wait_for_log("logs reopened")
        assert server.get("/?20") == HELLO
        wait_for(lambda: path.exists() and path.read_text() == "20" + "x" * 60 + "\n")
        server.wait_for_log("it is written again; ")
        for number in range(21, 30):
            assert server.get(f"/?{number:02}") == HELLO
        assert server.stop() == 0
        assert server.tracebacks() == []


def test_a_device_that_is_full_is_no_reason_to_end(tmp_path: Path) -> None:
    """/dev/full opens, and takes nothing: all that is lost is the lines."""
    with ServerProcess(APP, "--access-logfile=/dev/full", "--error-logfile=/dev/full") as server:
        assert server.get("/") == HELLO
        assert server.get("/fail")[0] == 500
        server.wait_for_log("/dev/full: No space left on device; lines are lost")
        server.send_signal(signal.SIGUSR1)
        assert server.get("/errors") == HELLO
        assert server.stop() == 0
        assert server.log.count("lines are lost") == 2, "the master's and the worker's"


def test_a_disk_that_is_full_under_standard_output_and_error_fails_no_request(tmp_path: Path) -> None:
    """Nothing can be said any more, not even why the error log is not written."""
    with open("/dev/full", "w") as full:
        with ServerProcess(APP, "--error-logfile=/dev/full", "--access-logfile=-", stdout=full.fileno(), stderr=full.fileno()) as server:
            for path in ("/print", "/print-error", "/errors", "/"):
                assert server.get(path) == HELLO
            assert server.get("/fail")[0] == 500
            server.send_signal(signal.SIGUSR1)
            assert server.get("/") == HELLO
            assert server.stop() == 0


# What an application does to its streams


@pytest.mark.parametrize("how", ["wrapped anew", "detached", "closed", "gone"])
def test_what_an_application_does_to_its_streams_is_not_done_to_the_logs(how: str, tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as out, subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=out) as cat:
        assert cat.stdin is not None
        options = {"stdout": cat.stdin.fileno(), "environment": {"TEST_STREAMS": how}}
        with ServerProcess(APP, "--access-logfile=-", **options) as server:  # type: ignore[arg-type]
            cat.stdin.close()
            if how != "gone":
                assert server.get("/print-word") == HELLO
                assert server.get("/errors?said") == HELLO
            assert server.get("/fail")[0] == 500
            wait_for(lambda: "GET /fail" in (tmp_path / "out").read_text())
            assert server.get("/last") == HELLO
            wait_for(lambda: "GET /last" in (tmp_path / "out").read_text())  # it is still written in batches
            if how in ("wrapped anew", "detached"):
                wait_for(lambda: "a word" in (tmp_path / "out").read_text())
                server.wait_for_log("said\n")
            assert server.stop() == 0
            assert "LookupError: of the application" in server.log and "stopped" in server.log
            assert server.tracebacks() == ["Traceback (most recent call last):"], "of the application's error"


def test_an_application_that_is_not_to_be_buffered_is_not() -> None:
    """PYTHONUNBUFFERED is what images of containers set: what is printed is out before a process can crash."""
    with pipe() as (reader, writer):
        with ServerProcess(APP, stdout=writer, environment={"PYTHONUNBUFFERED": "1"}) as server:
            os.close(writer)
            assert server.get("/print-word") == HELLO
            assert select.select([reader], [], [], 0)[0], "it is there before the response is"
            assert os.read(reader, 100) == b"a word\n"


# A reader that does not read


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_reader_that_does_not_read_stops_nobody(kind: str) -> None:
    """Standard output and error in one pipe, as containers and service managers have them."""
    reader, writer = (s.detach() for s in socket.socketpair()) if kind == "socket" else os.pipe()
    try:
        with ServerProcess(APP, "--access-logfile=-", stdout=writer, stderr=writer) as server:
            assert os.get_blocking(writer), "the descriptor is shared: its flags are not ours"
            for _ in range(40):  # 4 MB; a traceback is small, so the pipe is filled first
                server.get("/print")
            for path in ("/print", "/print-error", "/fail"):
                for _ in range(5):
                    assert server.get(path)[0] in (200, 500)
                assert server.get("/") == HELLO
            assert os.get_blocking(writer)
            assert server.stop() == 0
    finally:
        os.close(reader)
        os.close(writer)


def test_lines_are_whole_and_the_loss_is_said_when_the_reader_reads_again() -> None:
    with pipe() as (reader, writer):
        with ServerProcess(APP, "--access-logfile=-", stdout=writer, stderr=writer) as server:
            os.close(writer)
            for _ in range(30):
                server.get("/print")
            server.get("/fail")
            time.sleep(1.5)  # the access log has tried to write
            written = b""
            while b"lines were lost, because their reader is slow or gone" not in written:
                assert select.select([reader], [], [], 15)[0], "it was never said"
                written += os.read(reader, 65536)
            assert server.get("/last") == HELLO
            assert server.stop() == 0
        written += read_all(reader).encode()
    assert b'"GET /last HTTP/1.1"' in written
    for line in written.decode().splitlines():
        assert line == "" or line.startswith(("[", "127.0.0.1 - - [", "Traceback", " ", "LookupError")) or line == "x" * 100_000, line[:200]


def test_a_reader_that_is_gone_stops_nobody(tmp_path: Path) -> None:
    with pipe() as (reader, writer):
        with ServerProcess(APP, "--access-logfile=-", stdout=writer, stderr=writer) as server:
            os.close(writer)
            assert server.get("/print") == HELLO
            os.close(reader)
            for path in ("/print", "/print-error", "/errors", "/"):
                assert server.get(path) == HELLO
            assert server.get("/fail")[0] == 500
            assert server.stop() == 0


def test_descriptors_that_were_closed_at_the_start_do_not_become_sockets(tmp_path: Path) -> None:
    """Else a line of the error log would be sent to a client."""

    def close_them() -> None:
        for fd in range(3):
            os.close(fd)

    with ServerProcess(APP, "--access-logfile=-", stderr=subprocess.DEVNULL, preexec=close_them) as server:
        kinds = [os.readlink(f"/proc/{server.pid}/fd/{fd}") for fd in range(3)]
        assert kinds == ["/dev/null"] * 3
        for path in ("/print", "/print-error", "/errors", "/", "/child"):
            assert server.get(path) == HELLO
        assert server.get("/fail")[0] == 500
        assert server.stop() == 0


def test_a_named_pipe_that_nobody_reads_stops_neither_the_start_nor_the_server(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with ServerProcess(APP, "--access-logfile", str(path), "--access-logformat", "%(q)s") as server:
        for number in range(3):
            assert server.get(f"/?{number}") == HELLO
        with open(path) as reader:
            assert [reader.readline() for _ in range(3)] == ["0\n", "1\n", "2\n"]
        assert server.stop() == 0


# What goes to the error log


def test_wsgi_errors_goes_to_the_error_log_and_to_standard_error_where_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "error"
    with ServerProcess(APP, "--error-logfile", str(path)) as server:
        assert server.get("/errors?said") == HELLO
        assert "\nsaid\none\ntwo\n" in path.read_text()
        assert "said" not in server.log
    with ServerProcess(APP) as server:
        assert server.get("/errors?said") == HELLO
        server.wait_for_log("said\none\ntwo\n")


INI = """
[loggers]
keys=root
[handlers]
keys=
[formatters]
keys=
[logger_root]
handlers=
"""


@pytest.mark.parametrize("how", ["dictConfig", "fileConfig", "later"])
@pytest.mark.parametrize("to_file", [False, True])
def test_an_application_that_configures_logging_does_not_mute_the_server(how: str, to_file: bool, tmp_path: Path) -> None:
    (tmp_path / "logging.ini").write_text(INI)
    configuration = {"dictConfig": "{}", "fileConfig": str(tmp_path / "logging.ini"), "later": ""}[how]
    options = ["--error-logfile", str(tmp_path / "error")] if to_file else []
    with ServerProcess(APP, *options, environment={"TEST_LOGGING": configuration}) as server:
        if how == "later":
            assert server.get("/dictConfig") == HELLO
        assert server.get("/fail")[0] == 500
        assert server.stop() == 0
        said = (tmp_path / "error").read_text() if to_file else server.log
        for expected in ("listening on", "LookupError: of the application", "stopping", "stopped"):
            assert expected in said


def test_every_logger_of_the_package_survives_an_application_that_configures_logging() -> None:
    """Those that are named in the package are those that are made enduring."""
    import re

    from muxwsgi.observe.error_log import LOGGERS

    package = Path(__file__).parents[2] / "muxwsgi"
    named = {name for path in package.rglob("*.py") for name in re.findall(r'getLogger\("(muxwsgi[.\w]*)"\)', path.read_text())}
    assert named - {"muxwsgi"} == set(LOGGERS)
