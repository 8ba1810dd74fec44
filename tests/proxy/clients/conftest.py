"""A proxy that inspects, a server behind it, and who trusts whom."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.clients.proxy_process import ProxyProcess, Trust, run
from tests.system.server_process import ROOT, ServerProcess
from tests.tls.authority import Authority

#: The names of the servers. The last one is resolved by nobody but the proxies that are told to.
NAMES = ("localhost", "127.0.0.1", "10.77.2.2", "fd77:2::2", "site.test")

StartProxy = Callable[..., ProxyProcess]


def muxwsgi(*arguments: str | Path) -> Any:
    return run(sys.executable, "-m", "muxwsgi", *arguments, cwd=ROOT)


@pytest.fixture(scope="session")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    folder = tmp_path_factory.mktemp("trust")
    authority = Authority(folder)
    made = muxwsgi("ca", "init", "--folder", folder / "ca")
    assert made.returncode == 0, made.stderr
    return Trust(ca_folder=folder / "ca", ca=folder / "ca" / "ca.pem", root=Path(authority.root), leaf=authority.leaf(*NAMES))


@pytest.fixture(scope="session")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server looks for git repositories."""
    return tmp_path_factory.mktemp("repositories")


@pytest.fixture(scope="session")
def origin(trust: Trust, repositories: Path) -> Iterator[ServerProcess]:
    """The server behind the proxy; plain and TLS on one port."""
    options = (f"--certfile={trust.leaf.certfile}", f"--keyfile={trust.leaf.keyfile}", "--tls=optional", "--graceful-timeout=1")
    with ServerProcess("tests.proxy.clients.origin", *options, environment={"GIT_PROJECT_ROOT": str(repositories)}) as process:
        yield process
        assert process.stop() == 0
        assert process.tracebacks() == [], process.log


@pytest.fixture(scope="session")
def proxy(trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    """A proxy that looks into everything and has neither rules nor hijackers, for all tests that need no other one."""
    with ProxyProcess(trust, tmp_path_factory.mktemp("proxy")) as process:
        yield process
        assert process.stop() == 0
        assert process.tracebacks() == [], process.log


@pytest.fixture
def start_proxy(trust: Trust, tmp_path: Path) -> Iterator[StartProxy]:
    """Starts a proxy with options of its own. It ends with the test, and well."""
    with ExitStack() as stack:
        started: list[ProxyProcess] = []

        def start(*options: str, **more: Any) -> ProxyProcess:
            folder = tmp_path / f"proxy-{len(started)}"
            folder.mkdir()
            process = stack.enter_context(ProxyProcess(trust, folder, *options, **more))
            started.append(process)
            return process

        yield start
        for process in started:
            assert process.stop() == 0
            assert process.tracebacks() == [], process.log
