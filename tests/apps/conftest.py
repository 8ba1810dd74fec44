"""The server of `make run`, plain and in TLS on ports of its own, with everything mounted."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.server_process import ServerProcess

IOT_GATEWAY = Path(__file__).parents[2] / "apps" / "iot-gateway"
sys.path.append(str(IOT_GATEWAY))  # it is not installed: its hijacker would serve MQTT in all other tests


@pytest.fixture(scope="session")
def iot_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH in which apps/iot-gateway is installed."""
    packages = tmp_path_factory.mktemp("iot") / "packages"
    pip = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(packages))
    subprocess.run([*pip, str(IOT_GATEWAY)], check=True, timeout=120)
    return packages


@pytest.fixture(scope="session", params=[False, True], ids=["plain", "tls"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    data = tmp_path_factory.mktemp("data")
    environment = {"XDG_DATA_HOME": str(data), "POLLS_DATA": str(data / "polls")}
    options = ("--graceful-timeout=1", "--mount", "/polls=apps.polls.wsgi:application")
    with ServerProcess("apps.guestbook:create_app()", *options, tls=request.param, environment=environment) as process:
        yield process
        assert process.stop() == 0
        assert process.tracebacks() == [], process.log
