"""What a plugin logs is in the error log, from the configured level on."""

from pathlib import Path

import pytest

from tests.system.server_process import ServerProcess
from tests.waiting import wait_for


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with the plugin as an installed package has it."""
    source = Path(__file__).with_name("plugin_app.py")
    (tmp_path / "logging_plugin.py").write_text(source.read_text())
    folder = tmp_path / "logging_plugin-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: logging-plugin\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[muxwsgi.hijack]\nlogs = logging_plugin:logs\n")
    return str(tmp_path)


@pytest.mark.parametrize("level", ["info", "warning"])
def test_lines_of_a_plugin_are_in_the_error_log(installed: str, tmp_path: Path, level: str) -> None:
    log = tmp_path / "error.log"
    options = ["--hijack=logs", f"--log-level={level}", f"--error-logfile={log}"]
    with ServerProcess("tests.system.counted_app", *options, environment={"PYTHONPATH": installed}) as server:
        for said in ("info something", "error else"):
            sock = server.connect()
            sock.sendall(b"LOG " + said.encode())
            assert sock.recv(100) == b"done"
            sock.close()
        wait_for(lambda: "ValueError" in log.read_text(), log.read_text)
        server.stop()
    lines = log.read_text().splitlines()
    texts = [line.split("] ", 3)[-1] for line in lines if "from the " in line]
    module = ["from the module: something", "from the module: else"][level == "warning" :]
    assert [text for text in texts if "module" in text] == module
    own = [text for text in texts if "from the connection" in text]
    assert len(own) == len(module) and all(" (logs): from the connection: " in text for text in own)
    failures = [line for line in lines if "a greenlet that its handler spawned has failed" in line]
    assert len(failures) == 2 and all("route 'logs' said YES" in line for line in failures)
