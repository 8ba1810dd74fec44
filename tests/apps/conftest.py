"""The server of `make run`, plain and in TLS on ports of its own, with everything mounted."""

from collections.abc import Iterator

import pytest

from tests.system.server_process import ServerProcess


@pytest.fixture(scope="session", params=[False, True], ids=["plain", "tls"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    data = tmp_path_factory.mktemp("data")
    environment = {"XDG_DATA_HOME": str(data), "POLLS_DATA": str(data / "polls")}
    options = ("--graceful-timeout=1", "--mount", "/polls=apps.polls.wsgi:application")
    with ServerProcess("apps.guestbook:create_app()", *options, tls=request.param, environment=environment) as process:
        yield process
        assert process.stop() == 0
        assert process.tracebacks() == [], process.log
