"""A release that others could make: an sdist, a wheel from that sdist, and an install from the wheel."""

import os
import re
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest

import muxwsgi

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    # Without isolation: what builds is installed here already.
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", str(folder), str(ROOT))
    (found,) = folder.glob("*.tar.gz")
    return found


def test_the_sdist_holds_what_a_build_needs_and_what_a_reader_wants(sdist: Path) -> None:
    assert sdist.name == f"muxwsgi-{muxwsgi.__version__}.tar.gz"
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = {str(path.relative_to(ROOT)) for pattern in ("*.py", "*.pxd", "py.typed") for path in (ROOT / "muxwsgi").rglob(pattern)}
    assert sources <= names
    assert {"LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md", "pyproject.toml", "docs/README.md"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc", ".c"))]


def test_the_plain_wheel_of_the_sdist_is_installed_and_answers(sdist: Path, tmp_path: Path) -> None:
    unpacked = tmp_path / "unpacked"
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (source,) = unpacked.iterdir()
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(tmp_path), str(source), MUXWSGI_PURE="1")
    (wheel,) = tmp_path.glob("*.whl")

    # An environment of its own, which borrows what muxwsgi needs from this one.
    folder = tmp_path / "environment"
    venv.create(folder, with_pip=False, symlinks=True)
    run(sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet", "--no-deps", "--no-index", str(wheel))
    (packages,) = folder.glob("lib/python*/site-packages")
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "borrowed.pth").write_text("\n".join(borrowed) + "\n")

    said = run(str(folder / "bin" / "muxwsgi"), "--version", PYTHONSAFEPATH="1", PYTHONPATH="")
    assert re.fullmatch(rf"muxwsgi, version {re.escape(muxwsgi.__version__)} \(pure\)\n", said)
    assert (packages / f"muxwsgi-{muxwsgi.__version__}.dist-info" / "licenses" / "LICENSE").exists()


def test_the_version_stands_in_one_place() -> None:
    assert f'"{muxwsgi.__version__}"' in (ROOT / "muxwsgi" / "__init__.py").read_text()
    assert muxwsgi.__version__ not in (ROOT / "setup.py").read_text() + (ROOT / "pyproject.toml").read_text()
