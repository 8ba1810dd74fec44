"""Where logs go beside files: syslog, the handlers of a configuration of logging, and `--capture-output`."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.server_process import ServerProcess
from tests.waiting import wait_for

APP = "tests.server.logging_app"

HELLO = (200, b"hello")


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


# Syslog


@pytest.fixture
def rsyslog(tmp_path: Path) -> Iterator["RSyslog"]:
    daemon = RSyslog(tmp_path)
    daemon.start()
    yield daemon
    daemon.stop()


class RSyslog:
    """A real rsyslogd, which receives on a unix socket and writes files."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "devlog"
        self.messages = folder / "messages"
        self._folder = folder
        self._configuration = folder / "rsyslog.conf"
        self._configuration.write_text(f"""
global(workDirectory="{folder}")
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="{self.socket}" CreatePath="on" RateLimit.Interval="0")
template(name="whole" type="string" string="%syslogfacility-text%|%syslogseverity-text%|%programname%|%procid%|%msg%\\n")
action(type="omfile" file="{self.messages}" template="whole" asyncWriting="off")
""")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["rsyslogd", "-n", "-f", str(self._configuration), "-i", str(self._folder / "pid")]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        wait_for(self.socket.exists, "rsyslogd has made no socket")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.communicate(timeout=20)
            self._process = None

    def lines(self) -> list[list[str]]:
        return [line.split("|") for line in text_of(self.messages).splitlines()]


def test_rsyslog_gets_both_logs_and_again_after_a_restart(rsyslog: RSyslog) -> None:
    options = ["--log-syslog", "--log-syslog-to", f"unix:{rsyslog.socket}", "--log-syslog-facility", "local5", "--log-syslog-prefix", "shop"]
    with ServerProcess(APP, *options) as server:
        assert server.get("/?first") == HELLO
        assert server.get("/fail")[0] == 500
        wait_for(lambda: "GET /fail" in text_of(rsyslog.messages))
        access = next(line for line in rsyslog.lines() if "GET /?first HTTP/1.1" in line[4])
        error = next(line for line in rsyslog.lines() if "LookupError: of the application" in line[4])
        assert access[:3] == ["local5", "info", "shop.access"] and access[3].isdigit()
        assert error[:3] == ["local5", "err", "shop.error"]
        assert "LookupError: of the application" in server.log, "the error log goes to standard error too"
        rsyslog.stop()
        assert server.get("/?while-it-restarts") == HELLO
        server.wait_for_log("messages wait")
        rsyslog.start()
        wait_for(lambda: "/?while-it-restarts" in text_of(rsyslog.messages))
        server.wait_for_log("messages are sent again; 0 were lost")
        assert server.stop() == 0
        wait_for(lambda: any(line[4].strip() == "stopped" for line in rsyslog.lines()), "its last words")
        assert server.tracebacks() != [] and "muxwsgi" not in server.tracebacks()[0].splitlines()[-1]


def test_the_access_log_can_be_kept_out_of_syslog(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as daemon:
        daemon.bind(("127.0.0.1", 0))
        daemon.settimeout(0.2)
        to = f"udp://127.0.0.1:{daemon.getsockname()[1]}"
        with ServerProcess(APP, "--log-syslog", "--log-syslog-to", to, "--disable-redirect-access-to-syslog") as server:
            assert server.get("/") == HELLO
            assert server.stop() == 0
        got = b""
        try:
            while True:
                got += daemon.recv(9000) + b"\n"
        except TimeoutError:
            pass
        assert b"muxwsgi.error" in got and b"stopped" in got and b"muxwsgi.access" not in got


# A configuration of logging

INI = """
[loggers]
keys = root, error, access
[handlers]
keys = error, access, root
[formatters]
keys = short
[logger_root]
level = INFO
handlers = root
[logger_error]
qualname = muxwsgi.error
level = DEBUG
propagate = 0
handlers = error
[logger_access]
qualname = muxwsgi.access
propagate = 0
handlers = access
[handler_error]
class = FileHandler
args = (r"%(here)s/error",)
formatter = short
[handler_access]
class = FileHandler
args = (r"%(here)s/access",)
[handler_root]
class = FileHandler
args = (r"%(here)s/root",)
[formatter_short]
format = SHORT %(levelname)s %(message)s
"""


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]])
def test_an_ini_file_takes_the_logs_and_they_are_reopened(tmp_path: Path, workers: list[str]) -> None:
    (tmp_path / "logging.ini").write_text(INI)
    with ServerProcess(APP, "--log-config", str(tmp_path / "logging.ini"), "--access-logformat", "%(m)s %(U)s", *workers) as server:
        assert server.get("/first") == HELLO
        assert server.get("/fail")[0] == 500
        wait_for(lambda: (tmp_path / "access").read_text() == "GET /first\nGET /fail\n")
        wait_for(lambda: "SHORT ERROR application error in GET /fail" in (tmp_path / "error").read_text())
        assert "LookupError" not in server.log
        (tmp_path / "access").rename(tmp_path / "rotated")
        server.send_signal(signal.SIGUSR1)
        wait_for(lambda: (tmp_path / "access").exists())
        wait_for(lambda: "logs reopened" in (tmp_path / "error").read_text())
        assert server.get("/second") == HELLO
        wait_for(lambda: "GET /second\n" in (tmp_path / "access").read_text())
        assert server.stop() == 0
        assert "SHORT INFO stopped" in (tmp_path / "error").read_text()
        assert (tmp_path / "root").read_text() == ""


def test_a_table_in_the_file_configures_logging_and_a_formatter_gets_gunicorns_atoms(tmp_path: Path) -> None:
    (tmp_path / "muxwsgi.toml").write_text(f"""
access_logformat = '%(h)s "%({{x-name}}i)s"'
[logconfig_dict.handlers.access]
class = "logging.FileHandler"
filename = "{tmp_path}/access"
formatter = "atoms"
[logconfig_dict.formatters.atoms]
format = "%(name)s %(levelname)s %(message)s %(args)s"
[logconfig_dict.loggers."muxwsgi.access"]
handlers = ["access"]
""")
    with ServerProcess(APP, "-c", str(tmp_path / "muxwsgi.toml")) as server:
        urllib.request.urlopen(urllib.request.Request(f"http://{server.address}/", headers={"X-Name": 'a"b'}), timeout=10).close()
        wait_for(lambda: r'muxwsgi.access INFO 127.0.0.1 "a\u0022b" ' in text_of(tmp_path / "access"))
        assert "listening" in server.log, "the loggers that it leaves out are as ever"


def test_a_configuration_for_gunicorns_loggers_works(tmp_path: Path) -> None:
    (tmp_path / "logging.ini").write_text(INI.replace("muxwsgi.", "gunicorn."))
    with ServerProcess(APP, "--log-config", str(tmp_path / "logging.ini"), "--access-logformat", "%(m)s %(U)s") as server:
        assert server.get("/fail")[0] == 500
        wait_for(lambda: "SHORT ERROR application error in GET /fail" in text_of(tmp_path / "error"))
        wait_for(lambda: text_of(tmp_path / "access") == "GET /fail\n")
        assert server.stop() == 0
    assert text_of(tmp_path / "root") == "" and "application error" not in server.log


def dictionary(handler: dict[str, object], logger: str = "muxwsgi.error") -> str:
    return json.dumps({"handlers": {"one": handler}, "loggers": {logger: {"handlers": ["one"], "level": "INFO"}}})


def test_a_handler_that_waits_and_one_that_raises_hold_up_no_request(tmp_path: Path) -> None:
    slow = tmp_path / "slow.json"
    slow.write_text(dictionary({"class": "tests.server.log_handlers.Slow"}))
    with ServerProcess(APP, "--log-config-json", str(slow)) as server:
        begin = time.monotonic()
        for _ in range(40):
            assert server.get("/fail")[0] == 500
        assert time.monotonic() - begin < 40, "the handler takes a second for a record"
        assert server.stop(timeout=60) == 0, "the master waits for it with each of its own lines"
    broken = tmp_path / "broken.json"
    broken.write_text(dictionary({"class": "tests.server.log_handlers.Broken"}, "muxwsgi"))
    with ServerProcess(APP, "--log-config-json", str(broken)) as server:
        for _ in range(3):
            assert server.get("/fail")[0] == 500
        server.wait_for_log("log_config_json: a handler failed: ZeroDivisionError")
        assert server.stop() == 0
        assert 1 <= server.log.count("a handler failed") <= 3, "once a minute in each process"


def test_a_handler_whose_pipe_nobody_reads_stops_nobody(tmp_path: Path) -> None:
    """As /dev/stdout of a container whose log driver is stuck."""
    reader, writer = os.pipe()
    try:
        handler = {"class": "logging.FileHandler", "filename": "/dev/stdout"}
        options = ["--logconfig-dict", dictionary(handler, "muxwsgi.access"), "--access-logformat", "x" * 5000]
        with ServerProcess(APP, *options, stdout=writer) as server:
            for _ in range(50):
                assert server.get("/") == HELLO
            assert server.stop() == 0
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("log-config", "[loggers]\nkeys=root\n", "log_config: {path}: KeyError 'formatters'"),
        ("log-config", "no ini", "log_config: {path}: File contains no section headers."),
        ("log-config-json", "{", "log_config_json: {path}: Expecting property name"),
        ("log-config-json", "[]", "log_config_json: {path}: it is not a JSON object"),
        ("log-config-json", '{"handlers": {"a": {"class": "no.Such"}}}', "log_config_json: {path}: Unable to configure handler 'a': "),
        ("log-config-json", None, "log_config_json: {path}: No such file or directory"),
    ],
)
def test_a_configuration_that_is_wrong_is_one_line(name: str, text: str | None, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "logging"
    if text is not None:
        path.write_text(text)
    with pytest.raises(AssertionError) as failed, ServerProcess(APP, f"--{name}", str(path)):
        pass
    said = [line for line in str(failed.value).splitlines() if line.startswith("muxwsgi: error: ")]
    assert len(said) == 1 and said[0].startswith("muxwsgi: error: " + expected.format(path=path)), failed.value
    assert "Traceback" not in str(failed.value)


def test_a_reload_takes_a_new_configuration_and_not_a_broken_one(tmp_path: Path) -> None:
    path = tmp_path / "logging.ini"
    path.write_text(INI)
    with ServerProcess(APP, "--log-config", str(path), "--workers", "2") as server:
        assert server.get("/first") == HELLO
        wait_for(lambda: "GET /first" in text_of(tmp_path / "access"))
        path.write_text(INI.replace("FileHandler", "NoSuchHandler"))
        server.send_signal(signal.SIGHUP)
        wait_for(lambda: "the reload failed, and what served before goes on: log_config: " in text_of(tmp_path / "error"))
        assert server.get("/second") == HELLO
        wait_for(lambda: "GET /second" in text_of(tmp_path / "access"))
        path.write_text(INI.replace("SHORT", "LONG").replace("s/access", "s/other"))
        server.send_signal(signal.SIGHUP)
        wait_for(lambda: "LONG INFO" in text_of(tmp_path / "error"))
        wait_for(lambda: server.get("/third") == HELLO and "GET /third" in text_of(tmp_path / "other"))
        assert server.stop() == 0


# What the application prints


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]])
def test_captured_output_is_in_the_error_log_with_that_of_children_and_after_a_rotation(tmp_path: Path, workers: list[str]) -> None:
    path = tmp_path / "error"
    with ServerProcess(APP, "--capture-output", "--error-logfile", str(path), *workers) as server:
        assert server.get("/child") == HELLO
        assert server.get("/print-word") == HELLO
        wait_for(lambda: "of a child\n" in path.read_text() and "a word\n" in path.read_text())
        path.rename(tmp_path / "rotated")
        server.send_signal(signal.SIGUSR1)
        wait_for(lambda: text_of(path).count("logs reopened") == max(1, 2 * bool(workers)))
        assert server.get("/print-word") == HELLO
        assert server.get("/child") == HELLO
        wait_for(lambda: "of a child\n" in path.read_text() and "a word\n" in path.read_text())
        assert server.stop() == 0


# Health checks


def test_paths_can_be_left_out_of_the_access_log_unless_they_fail(tmp_path: Path) -> None:
    path = tmp_path / "access"
    options = ["--access-logfile", str(path), "--access-logformat", "%(U)s %(s)s", "--access-log-exclude", "/healthz", "--access-log-exclude=/fa"]
    with ServerProcess(APP, *options) as server:
        for target in ("/healthz", "/healthz/deep?a", "/fail", "/health"):
            server.get(target)
        assert server.stop() == 0
    assert path.read_text() == "/fail 500\n/health 200\n"
