"""A configuration file in Python: it is run, and what it has assigned are the values.

The file runs in the master. So it runs before anything is patched, and once for each start and reload. Modules that it imports stay loaded,
and workers inherit them. Before a reload they are forgotten, so that the file and the workers get new code. Modules of Python and of
installed packages are not.

A file for gunicorn assigns more names than settings: parts of values, functions that it calls. A name that the file also reads is such a
part. A name that is only assigned was meant as a setting.
"""

import ast
import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from importlib.machinery import SourcelessFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from muxwsgi.errors import OperatorError
from muxwsgi.record import record
from muxwsgi.signals import StopRequested

__all__ = ["PythonFile", "is_python_file", "loaded_files", "run_python_file"]

#: As gunicorn writes the two kinds of places.
_MODULE, _FILE = "python:", "file:"

_SUFFIXES = (".py", ".pyc")

#: gunicorn names the module so. Functions of the file are found by it when they are pickled.
_NAME = "__config__"

#: Modules that the last file has loaded.
_loaded: set[str] = set()

#: The file that was run last.
_run_files: set[str] = set()


@record()
class PythonFile:
    """What a file has assigned.

    path        as it is named in messages
    values      what its names mean at its end
    unread      the names that it assigns and does not read, each with its line. None if the source is not known
    remarks     what its operator should know
    """

    path: str
    values: dict[str, Any]
    unread: dict[str, int] | None
    remarks: tuple[str, ...]


def loaded_files() -> set[str]:
    """The absolute paths of the last file and of the modules of the project that it has imported."""
    modules = [sys.modules[name] for name in _loaded if name in sys.modules]
    return {*_run_files, *(os.path.abspath(path) for module in modules if (path := getattr(module, "__file__", None)))}


def is_python_file(place: str) -> bool:
    """Whether `place` names a Python file or module, and not a TOML file."""
    return place.startswith((_MODULE, _FILE)) or place.endswith(_SUFFIXES)


def run_python_file(place: str) -> PythonFile:
    """Run the file or module of `place`: `PATH.py`, `file:PATH` or `python:MODULE`. Raises `OperatorError` with its name and the line."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as gunicorn does, for modules beside the application
    importlib.invalidate_caches()
    forgotten = {name: sys.modules.pop(name) for name in _loaded if name in sys.modules}
    before = set(sys.modules)
    patched = _patched()
    try:
        found = _module(place) if place.startswith(_MODULE) else _run(place.removeprefix(_FILE))
    except OperatorError:
        sys.modules.update(forgotten)
        raise
    _loaded.clear()
    _loaded.update(name for name in set(sys.modules) - before if _is_of_project(sys.modules[name]))
    if _patched() > patched:
        raise OperatorError(
            f"{found.path}: it has patched this process with gevent, and a master must not be patched. Each worker is patched before it "
            "loads the application"
        )
    return found


def _module(place: str) -> PythonFile:
    name = place.removeprefix(_MODULE)
    try:
        spec = importlib.util.find_spec(name)  # runs the packages that the module is in
    except BaseException as error:
        raise _fault(error, place, "") from None
    if spec is None:
        raise OperatorError(f"{place}: there is no module {name!r}")
    if spec.origin is None or not spec.origin.endswith(_SUFFIXES):
        raise OperatorError(f"{place}: {name!r} is not a Python file")
    return _run(spec.origin, place, name)


def _run(path: str, place: str | None = None, name: str = _NAME) -> PythonFile:
    """Run the file at `path`, as the module `name`. `place` is its name in messages."""
    shown = place or path
    tree, code, remarks = _compiled(path, shown)
    _run_files.clear()
    _run_files.add(os.path.abspath(path))
    module = ModuleType(name)
    module.__file__ = os.path.abspath(path)
    module.__package__ = name.rpartition(".")[0]
    earlier = sys.modules.get(name)
    sys.modules[name] = module
    try:
        exec(code, vars(module))
    except BaseException as error:
        del sys.modules[name]
        if earlier is not None:
            sys.modules[name] = earlier
        raise _fault(error, shown, path) from None
    return PythonFile(shown, dict(vars(module)), None if tree is None else _unread(tree), remarks)


def _compiled(path: str, shown: str) -> tuple[ast.Module | None, CodeType, tuple[str, ...]]:
    """The file's tree (None without source), its code, and what its operator should know. Raises `OperatorError`."""
    try:
        if path.endswith(".pyc"):
            code = SourcelessFileLoader(_NAME, path).get_code(_NAME)
            assert code is not None
            return None, code, ()
        tree = ast.parse(Path(path).read_bytes(), path)
        remarks = _without_patches(tree, shown)
        return tree, compile(tree, path, "exec"), remarks
    except OSError as error:
        raise OperatorError(f"{shown}: {error.strerror}") from error
    except (SyntaxError, ValueError, ImportError, EOFError) as error:
        raise _fault(error, shown, path) from None


def _fault(error: BaseException, shown: str, path: str) -> BaseException:
    """The exception to raise: one line with the place of `error` in the file. A stop that the operator asked for is raised as it is."""
    if isinstance(error, (KeyboardInterrupt, StopRequested)):
        return error
    if isinstance(error, SyntaxError) and error.filename == path:
        return OperatorError(f"{shown}, line {error.lineno}: SyntaxError: {error.msg}")
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    at = f"{shown}, line {lines[-1]}" if lines else shown
    text = " ".join(str(error).split())
    if isinstance(error, SystemExit):
        return OperatorError(f"{at}: it has ended the program: {text or 'sys.exit()'}")
    return OperatorError(f"{at}: {type(error).__name__}" + (f": {text}" if text else ""))


def _without_patches(tree: ast.Module, shown: str) -> tuple[str, ...]:
    """Take calls of gevent's `patch_all` and the like out of `tree`. Files for gunicorn's gevent worker have them."""
    remarks = []

    class Removal(ast.NodeTransformer):
        def visit_Expr(self, node: ast.Expr) -> ast.AST:
            name = ast.unparse(node.value.func) if isinstance(node.value, ast.Call) else ""
            if name.removeprefix("gevent.").removeprefix("monkey.") not in _PATCHES:
                return node
            remarks.append(f"{shown}, line {node.lineno}: {name}() is not called: each worker is patched before it loads the application")
            return ast.copy_location(ast.Pass(), node)

        def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
            return node  # a hook may be called in a worker

    Removal().visit(tree)
    return tuple(remarks)


_PATCHES = ("patch_all", "patch_socket", "patch_ssl", "patch_thread", "patch_time", "patch_select", "patch_os", "patch_queue")


def _patched() -> int:
    """How many modules gevent has patched. Does not load gevent."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None:
        return 0
    is_patched: Callable[[str], bool] = monkey.is_module_patched
    return sum(is_patched(name) for name in ("socket", "ssl", "threading", "time", "select", "os", "queue"))


def _unread(tree: ast.Module) -> dict[str, int]:
    """The names that the module assigns at its top level and never reads, with their lines."""
    read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return {name: line for name, line in _assigned(tree.body) if name not in read and not name.startswith("_")}


def _assigned(body: list[ast.stmt]) -> Iterator[tuple[str, int]]:
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield statement.name, statement.lineno
        elif isinstance(statement, ast.Assign):
            for target in statement.targets:
                yield from (
                    (node.id, node.lineno) for node in ast.walk(target) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
                )
        elif isinstance(statement, (ast.AnnAssign, ast.AugAssign)) and isinstance(statement.target, ast.Name):
            yield statement.target.id, statement.lineno
        for field in ("body", "orelse", "finalbody"):
            if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                yield from _assigned(getattr(statement, field, []))
        for handler in getattr(statement, "handlers", []):
            yield from _assigned(handler.body)


def _is_of_project(module: object) -> bool:
    """Whether the code of `module` may change between two reloads, because it is neither Python's nor installed."""
    path = getattr(module, "__file__", None)
    if not isinstance(path, str) or getattr(module, "__name__", "").partition(".")[0] == "muxwsgi":
        return False
    return not path.startswith(_INSTALLED)


_INSTALLED = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})
