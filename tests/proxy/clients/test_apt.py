"""apt, which pipelines: it sends ten requests before it reads an answer, and compares the hash of each file."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.clients.proxy_process import ProxyProcess, Trust, environment, requested, run
from tests.proxy.clients.services import Nginx

PACKAGES = 60

PACKAGE = """Package: {name}
Version: 1
Architecture: all
Maintainer: nobody <nobody@example.com>
Filename: ./{name}.deb
Size: {size}
SHA256: {sha256}
Description: nothing

"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packages of all sizes, with noise in them: what is inside, `apt-get download` does not mind."""
    folder = tmp_path_factory.mktemp("archive")
    index = ""
    for number in range(PACKAGES):
        content = os.urandom(1 + number * 1777)
        (folder / f"p{number}.deb").write_bytes(content)
        index += PACKAGE.format(name=f"p{number}", size=len(content), sha256=hashlib.sha256(content).hexdigest())
    (folder / "Packages").write_text(index)
    return folder


@pytest.fixture(scope="module")
def nginx(trust: Trust, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with Nginx.start(tmp_path_factory.mktemp("nginx"), archive, trust.leaf) as server:
        yield server


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_packages_arrive_each_as_its_own(scheme: str, proxy: ProxyProcess, archive: Path, nginx: Nginx, tmp_path: Path) -> None:
    for name in ("state/lists/partial", "cache/archives/partial", "downloaded"):
        (tmp_path / name).mkdir(parents=True)
    port = nginx.tls_port if scheme == "https" else nginx.port
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] {scheme}://localhost:{port}/ ./\n")
    (tmp_path / "apt.conf").write_text(
        f"""
        Dir::Etc::SourceList "{tmp_path / "sources.list"}";
        Dir::Etc::SourceParts "/dev/null";
        Dir::State "{tmp_path / "state"}";
        Dir::State::status "/dev/null";
        Dir::Cache "{tmp_path / "cache"}";
        APT::Sandbox::User "root";
        Acquire::Retries "0";
        Acquire::http::Pipeline-Depth "10";
        Acquire::http::Proxy "{proxy.url}";
        Acquire::https::Proxy "{proxy.url}";
        Acquire::https::CAInfo "{proxy.trust.ca}";
        """
    )

    def apt_get(*arguments: str) -> Any:
        done = run("apt-get", "-q", *arguments, cwd=tmp_path / "downloaded", env=environment(APT_CONFIG=str(tmp_path / "apt.conf")))
        assert done.returncode == 0, done.stderr
        return done

    apt_get("update")
    names = [f"p{number}" for number in range(PACKAGES)]
    apt_get("download", *names)
    for name in names:
        assert (tmp_path / "downloaded" / f"{name}_1_all.deb").read_bytes() == (archive / f"{name}.deb").read_bytes()
    for name in names:
        url = f"{scheme}://localhost:{port}/./{name}.deb"
        flow = proxy.flows.first(requested(url))
        assert (flow["response"]["status"], flow["from_server"]["size"]) == (200, (archive / f"{name}.deb").stat().st_size)
