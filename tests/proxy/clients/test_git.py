"""git over HTTPS: clone, fetch and push through a proxy that inspects, with git's own server behind it, and with files that nginx serves."""

from pathlib import Path

import pytest

from tests.proxy.clients.proxy_process import ProxyProcess, Trust, environment, run
from tests.proxy.clients.services import Nginx
from tests.system.server_process import ServerProcess


def git(*arguments: str | Path, home: Path) -> str:
    """git as somebody without any configuration has it; what it has printed."""
    person = {"GIT_AUTHOR_NAME": "Ann", "GIT_AUTHOR_EMAIL": "ann@example.com", "GIT_COMMITTER_NAME": "Ann", "GIT_COMMITTER_EMAIL": "ann@example.com"}
    done = run("git", *arguments, env=environment(HOME=str(home), GIT_CONFIG_NOSYSTEM="1", GIT_TERMINAL_PROMPT="0", **person))
    assert done.returncode == 0, f"git {arguments}: {done.stderr}"
    return str(done.stdout)


@pytest.fixture
def repository(repositories: Path, tmp_path: Path) -> Path:
    """A bare repository on the server, with 50 commits and a large file."""
    work, bare = tmp_path / "work", repositories / tmp_path.name
    git("init", "-q", "-b", "main", work, home=tmp_path)
    (work / "large").write_bytes(b"".join(b"%d" % (number * number) for number in range(500_000)))
    for number in range(50):
        (work / "file").write_text(f"{number}\n")
        git("-C", work, "add", "-A", home=tmp_path)
        git("-C", work, "commit", "-q", "-m", f"change {number}", home=tmp_path)
    git("clone", "-q", "--bare", work, bare, home=tmp_path)
    return bare


def through(proxy: ProxyProcess, way: str = "http") -> tuple[str, ...]:
    return "-c", f"http.proxy={way}://{proxy.address}", "-c", f"http.sslCAInfo={proxy.trust.ca}"


@pytest.mark.parametrize("way", ["http", "socks5h"])
def test_clone_push_and_fetch(way: str, proxy: ProxyProcess, origin: ServerProcess, repository: Path, tmp_path: Path) -> None:
    url = f"https://localhost:{origin.port}/git/{repository.name}"
    first, second = tmp_path / "first", tmp_path / "second"
    git(*through(proxy, way), "clone", "-q", url, first, home=tmp_path)
    assert git("-C", first, "log", "--format=%s", home=tmp_path).splitlines() == [f"change {number}" for number in reversed(range(50))]
    git(*through(proxy, way), "clone", "-q", "--depth=1", url, second, home=tmp_path)

    # More than http.postBuffer (1 MiB): git sends that in chunks, and asks first whether it may.
    (first / "new").write_bytes(b"".join(b"%d" % (number * number * number) for number in range(300_000)))
    git("-C", first, "add", "-A", home=tmp_path)
    git("-C", first, "commit", "-q", "-m", "one more", home=tmp_path)
    git(*through(proxy, way), "-C", first, "push", "-q", "origin", "main", home=tmp_path)
    assert git("-C", repository, "log", "-1", "--format=%s", home=tmp_path) == "one more\n"

    git(*through(proxy, way), "-C", second, "pull", "-q", home=tmp_path)
    assert (second / "new").read_bytes() == (first / "new").read_bytes()
    flow = proxy.flows.first(lambda flow: flow["request"] is not None and flow["request"]["url"] == f"{url}/git-receive-pack")
    assert flow["response"]["status"] == 200 and flow["from_client"]["size"] > 0


def test_clone_of_plain_files(trust: Trust, proxy: ProxyProcess, repository: Path, tmp_path: Path) -> None:
    git("-C", repository, "update-server-info", home=tmp_path)
    folder = tmp_path / "nginx"
    folder.mkdir()
    with Nginx.start(folder, repository.parent, trust.leaf) as nginx:
        git(*through(proxy), "clone", "-q", f"https://localhost:{nginx.tls_port}/{repository.name}", tmp_path / "clone", home=tmp_path)
    assert len(git("-C", tmp_path / "clone", "log", "--format=%s", home=tmp_path).splitlines()) == 50
