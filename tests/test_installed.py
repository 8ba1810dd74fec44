"""Which packages name a group of entry points, as `importlib.metadata` would find them."""

import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import pytest

from muxwsgi.installed import packages_naming

GROUP = "muxwsgi.tests"
NAMES = f"[{GROUP}]\none = some_module:one\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of `sys.path`."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    return tmp_path


def install(folder: Path, name: str, text: str | None) -> None:
    (folder / name).mkdir()
    (folder / name / "METADATA").write_text("Metadata-Version: 2.1\nName: some-package\nVersion: 1\n")
    if text is not None:
        (folder / name / "entry_points.txt").write_text(text)


@pytest.mark.parametrize("name", ["some_package-1.0.dist-info", "some_package.egg-info", "Some_Package-2-py3.11.egg-info"])
def test_a_package_that_names_the_group_is_found(folder: Path, name: str) -> None:
    install(folder, "other-1.0.dist-info", "[console_scripts]\nother = other:main\n")
    install(folder, "without-1.0.dist-info", None)
    (folder / "old.egg-info").write_text("a file")
    assert packages_naming(GROUP) == set()
    install(folder, name, NAMES)
    (found,) = packages_naming(GROUP)
    assert found.lower().startswith("some_package")
    assert [each.name for each in entry_points(group=GROUP)] == ["one"]


def test_folders_that_do_not_exist_name_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(folder / "gone")])
    assert packages_naming(GROUP) == set()


def test_the_current_folder_is_looked_into(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(folder, "here-1.0.dist-info", NAMES)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [""])
    assert packages_naming(GROUP) == {"here"}


def test_an_archive_is_left_to_importlib_metadata(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = folder / "packages.zip"
    with zipfile.ZipFile(archive, "w") as written:
        written.writestr("zipped-1.0.dist-info/METADATA", "Name: zipped\nVersion: 1\n")
        written.writestr("zipped-1.0.dist-info/entry_points.txt", NAMES)
    monkeypatch.setattr(sys, "path", [str(archive)])
    assert packages_naming(GROUP) == {"?"}
    assert [each.name for each in entry_points(group=GROUP)] == ["one"]


def test_another_finder_of_packages_is_left_to_importlib_metadata(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, SimpleNamespace(find_distributions=lambda context: [])])
    assert packages_naming(GROUP) == {"?"}
