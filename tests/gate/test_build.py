"""That what is tested is what is said: plain Python or compiled, and all of the hot files or none."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import muxwsgi

PACKAGE = Path(muxwsgi.__file__).parent
ROOT = PACKAGE.parent
HOT = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in PACKAGE.rglob("*.pxd"))

#: Set by `make test`: what the run that it starts is meant to test.
EXPECTED = os.environ.get("EXPECT_BUILD", "pure")


def is_compiled(module: str) -> bool:
    return not (importlib.import_module(module).__file__ or "").endswith(".py")


@pytest.mark.parametrize("module", HOT)
def test_the_hot_files_are_what_this_run_says(module: str) -> None:
    assert is_compiled(module) == (EXPECTED == "compiled"), f"this run tests {EXPECTED} code, and {module} is something else"


def test_the_build_says_what_it_is() -> None:
    ran = subprocess.run([sys.executable, "-m", "muxwsgi", "--version"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.endswith(f" ({EXPECTED})\n")


def test_there_are_hot_files() -> None:
    assert len(HOT) >= 9


def test_the_command_runs_the_same_code() -> None:
    script = "import muxwsgi.http.h1.h1 as h1; print(h1.__file__)"
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip().endswith(".py") == (EXPECTED == "pure")


_CLASS = re.compile(r"^cdef class (\w+)(?:\((\w+)\))?:\n((?:(?:    .*)?\n)*)", re.M)
_FIELDS = re.compile(r"^    cdef (?:public |readonly )?(?:long long|unsigned int|unsigned long long(?:\[::1\])?|\w+) (\w+(?:, \w+)*)(?:\[[0-9]+\])?$", re.M)


def typed_classes(source: Path) -> dict[str, tuple[str | None, set[str]]]:
    """The classes in the .pxd of `source`: name -> what it inherits from, its fields."""
    text = source.with_suffix(".pxd").read_text()
    return {name: (base or None, set(", ".join(_FIELDS.findall(body)).split(", "))) for name, base, body in _CLASS.findall(text)}


def assigned(definition: ast.ClassDef) -> set[str]:
    """The names that methods of a class assign to on `self`, without properties."""
    properties = {method.name for method in definition.body if isinstance(method, ast.FunctionDef) and method.decorator_list}
    return {
        node.attr
        for node in ast.walk(definition)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) and node.value.id == "self"
    } - properties


@pytest.mark.parametrize("module", HOT)
def test_every_field_is_typed(module: str) -> None:
    source = ROOT / (module.replace(".", "/") + ".py")
    typed = typed_classes(source)
    for definition in ast.walk(ast.parse(source.read_text())):
        if isinstance(definition, ast.ClassDef) and definition.name in typed:
            base, fields = typed[definition.name]
            at = source
            while base is not None:
                if base not in typed_classes(at):
                    (home,) = re.findall(rf"^from (\S+) cimport (?:\w+, )*{base}\b", at.with_suffix(".pxd").read_text(), re.M)
                    at = ROOT / (home.replace(".", "/") + ".py")
                base, inherited = typed_classes(at)[base]
                fields = fields | inherited
            missing = assigned(definition) - fields
            assert not missing, f"{definition.name} has no {missing} once it is compiled: name them in {source.with_suffix('.pxd').name}"


@pytest.mark.skipif(EXPECTED == "compiled", reason="the copy that is compiled here is no checkout")
def test_no_compiled_file_stands_beside_a_source() -> None:
    assert not [*PACKAGE.rglob("*.so"), *PACKAGE.rglob("*.c")], "such a file hides every change of its source"


def build(folder: Path, **environment: str) -> tuple[list[str], str]:
    """The names in a wheel made of this checkout, and what the build said."""
    command = [sys.executable, "setup.py", "bdist_wheel", "--dist-dir", str(folder), "--bdist-dir", str(folder / "image")]
    build_in = ["build", "--build-base", str(folder / "build")]
    ran = subprocess.run(
        [*command[:2], "egg_info", "--egg-base", str(folder), *build_in, *command[2:]],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        return packed.namelist(), ran.stderr


@pytest.mark.slow
def test_without_a_compiler_the_same_code_is_installed_as_python(tmp_path: Path) -> None:
    names, said = build(tmp_path, CC="false", MUXWSGI_PURE="")
    assert not [name for name in names if name.endswith((".so", ".c"))]
    assert "muxwsgi/http/h1/h1.py" in names
    assert "the hot files could not be compiled" in said
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as packed:
        assert packed.read("muxwsgi/pure.txt").startswith(b"the hot files could not be compiled: ")


def test_who_wants_plain_python_gets_it(tmp_path: Path) -> None:
    names, said = build(tmp_path, MUXWSGI_PURE="1")
    assert not [name for name in names if name.endswith((".so", ".c"))]
    assert "MUXWSGI_PURE is set" in said
    assert "muxwsgi/pure.txt" not in names


@pytest.mark.skipif(EXPECTED == "compiled", reason="this is about plain Python")
def test_plain_python_that_nobody_wanted_says_why(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "muxwsgi", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "muxwsgi" / "pure.txt").write_text("the hot files could not be compiled: no gcc\n")
    (tmp_path / "app.py").write_text("def app(environ, start_response): raise SystemExit\n")
    command = [sys.executable, "-m", "muxwsgi"]
    ran = subprocess.run([*command, "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.endswith(" (pure: the hot files could not be compiled: no gcc)\n")
    with subprocess.Popen([*command, "run", "app:app", "-b", f"unix:{tmp_path}/socket"], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            assert any(line.endswith("the hot files could not be compiled: no gcc\n") for line in server.stderr)
        finally:
            server.terminate()
