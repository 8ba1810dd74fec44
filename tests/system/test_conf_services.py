"""conf/: systemd's units, logrotate, the image, Kubernetes, Prometheus, Grafana: each is read by the program that it is for, or by its schema."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from muxwsgi.settings import ServerSettings, WorkerSettings
from tests.system.server_process import ROOT, ServerProcess
from tests.waiting import wait_for

CONF = ROOT / "conf"
APP = "tests.system.front_app"


def value(text: str, name: str) -> str:
    """The last value of a setting in a unit file."""
    return re.findall(rf"^{name}=(.*)$", text, re.M)[-1]


# systemd


def units(folder: Path) -> list[Path]:
    """Copies of the units, in which the command is one of this machine."""
    folder.mkdir(exist_ok=True)
    text = (CONF / "systemd/muxwsgi.service").read_text()
    for name, new in (("/srv/app/.venv/bin/muxwsgi", "/bin/true"), ("WorkingDirectory=/srv/app", "WorkingDirectory=/")):
        assert text.count(name) == 1
        text = text.replace(name, new)
    (folder / "muxwsgi.service").write_text(text)
    shutil.copy(CONF / "systemd/muxwsgi.socket", folder)
    return [folder / "muxwsgi.service", folder / "muxwsgi.socket"]


def test_systemd_verifies_the_units(tmp_path: Path) -> None:
    for unit in units(tmp_path / "units"):
        ran = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}/units:"})
        assert "units/" not in ran.stderr and "muxwsgi" not in ran.stderr and ran.returncode == 0, ran.stderr


def test_the_service_is_exposed_as_little_as_the_page_says(tmp_path: Path) -> None:
    page = (ROOT / "docs/deployment.md").read_text()
    (level,) = re.findall(r"exposure level of (\d\.\d)", page)
    ran = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={int(float(level) * 10)}", str(units(tmp_path / "units")[0])],
        capture_output=True, text=True,
    )
    assert ran.returncode == 0 and f"Overall exposure level for muxwsgi.service: {level} OK" in ran.stdout, ran.stdout[-300:] + ran.stderr


def test_systemd_waits_longer_than_a_stop_and_a_start_may_take() -> None:
    text = (CONF / "systemd/muxwsgi.service").read_text()
    assert int(value(text, "TimeoutStopSec")) > ServerSettings().graceful_timeout + WorkerSettings().kill_after
    assert int(value(text, "TimeoutStartSec")) > WorkerSettings().boot_timeout
    assert value(text, "Type") == "notify" and value(text, "KillMode") == "mixed"


def test_the_service_runs_without_the_system_calls_that_its_unit_takes_away(tmp_path: Path) -> None:
    """No systemd runs here, so only what a process can do to itself is tried: no new privileges, no capabilities, a read-only system."""
    script = f'mount -t tmpfs none /home && mount -o bind,ro / /mnt; exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all --ambient-caps=-all {sys.executable} -m muxwsgi run {APP} -b unix:$1/web.sock --pid $1/app.pid'
    process = subprocess.Popen(["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path)], cwd=ROOT)
    try:
        wait_for(lambda: (tmp_path / "web.sock").exists())
        curl = ["curl", "-sS", "--retry", "20", "--retry-delay", "1", "--retry-all-errors", "--unix-socket", str(tmp_path / "web.sock"), "http://localhost/"]
        assert b"REQUEST_METHOD" in subprocess.run(curl, capture_output=True, timeout=60, check=True).stdout
    finally:
        process.terminate()
        assert process.wait(30) == 0


# logrotate


@pytest.mark.skipif(os.geteuid() != 0, reason="logrotate is root's, as the folder")
def test_logrotate_rotates_the_logs_and_the_server_writes_the_new_ones(tmp_path: Path) -> None:
    logs, pid = tmp_path / "logs", tmp_path / "app.pid"
    logs.mkdir(mode=0o755)
    text = (CONF / "logrotate").read_text()
    text = text.replace("/var/log/muxwsgi/", f"{logs}/").replace("/run/muxwsgi/app.pid", str(pid))
    assert text.count(str(pid)) == 3
    (tmp_path / "logrotate").write_text(text)
    (tmp_path / "logrotate").chmod(0o644)
    access, error = logs / "access.log", logs / "error.log"
    with ServerProcess(APP, "--pid", str(pid), "--access-logfile", str(access), "--error-logfile", str(error)) as server:
        for number in range(2):
            assert server.get(f"/{number}")[0] == 200
            wait_for(lambda number=number: f"GET /{number} " in access.read_text())
            subprocess.run(["logrotate", "--force", "--state", str(tmp_path / "state"), str(tmp_path / "logrotate")], check=True, capture_output=True, timeout=60)
            wait_for(lambda: access.exists() and "SIGUSR1" in error.read_text())
        assert server.get("/last")[0] == 200
        wait_for(lambda: "GET /last " in access.read_text())
        assert "GET /1 " in (logs / "access.log.1").read_text() and (logs / "access.log.2.gz").exists()
        assert server.stop(signal.SIGTERM) == 0


# Docker


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    ran = subprocess.run([str(hadolint), "--failure-threshold", "style", str(CONF / "Dockerfile")], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "")


def test_the_command_of_the_image_serves(tmp_path: Path) -> None:
    """There is no Docker here: the command runs in a folder with the application, as the image has it."""
    (tmp_path / "app.py").write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom tests.system.front_app import app as application\n")
    (command,) = re.findall(r"^CMD (\[.*\])$", (CONF / "Dockerfile").read_text(), re.M)
    program, *arguments = json.loads(command)
    (bind,) = [each for each in arguments if each.startswith("0.0.0.0:")]
    assert program == "muxwsgi" and f"EXPOSE {bind.removeprefix('0.0.0.0:')}\n" in (CONF / "Dockerfile").read_text()
    arguments[arguments.index(bind)] = f"unix:{tmp_path}/socket"
    process = subprocess.Popen([str(Path(sys.executable).parent / program), *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        curl = ["curl", "-sS", "--retry", "30", "--retry-delay", "1", "--retry-all-errors", "--unix-socket", f"{tmp_path}/socket", "http://localhost/"]
        assert b"REQUEST_METHOD" in subprocess.run(curl, capture_output=True, timeout=60, check=True).stdout
    finally:
        process.terminate()
        output = process.communicate(timeout=30)[0]
    assert b'"GET / HTTP/1.1" 200' in output


# Kubernetes


def resources() -> dict[str, dict[str, Any]]:
    return {each["kind"]: each for each in yaml.safe_load_all((CONF / "kubernetes.yaml").read_text())}


@pytest.mark.parametrize("kind", sorted(resources()))
def test_kubernetes_schema_has_the_resource(kind: str) -> None:
    kubernetes_validate.validate(resources()[kind], kubernetes_validate.latest_version(), strict=True)


def test_kubernetes_waits_longer_than_a_pod_may_take_to_end() -> None:
    pod = resources()["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    slept = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    arguments = container["args"]
    graceful = float(arguments[arguments.index("--graceful-timeout") + 1])
    assert pod["terminationGracePeriodSeconds"] >= slept + graceful + WorkerSettings().kill_after + 5
    path = arguments[arguments.index("--health-path") + 1]
    assert [container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe")] == [path, path]
    assert container["startupProbe"]["failureThreshold"] * container["startupProbe"]["periodSeconds"] >= WorkerSettings().boot_timeout


def test_the_resources_name_each_other() -> None:
    found = resources()
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert set(found) == {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"}
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == found["Service"]["spec"]["selector"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == found["Deployment"]["metadata"]["name"]
    assert found["Service"]["spec"]["ports"][0]["targetPort"] == "http"
