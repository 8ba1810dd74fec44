"""`--reload`: which files a worker depends on, and whether they have changed since it read them.

A module has changed if its file is not the one that was read when it was imported. So a file that is saved while the application loads is
noticed too. Other files are compared with what they were when the worker started. Nothing is noticed about modules that the master had
loaded: a reload does not load these again.

Editors replace a file by a new one, or write it in several steps, and save several files. So a change counts only once two looks, a moment
apart, find the same files.
"""

import glob
import os
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from importlib.machinery import SourceFileLoader
from typing import Any

from muxwsgi.cli.python_file import loaded_files
from muxwsgi.file_state import FileState, file_state

__all__ = ["Watched"]

#: Folders of this name beside the modules of a project, in the working folder, and in Django's settings, hold templates.
_TEMPLATES = "templates"

_PYTHON = tuple({os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib")})
_INSTALLED = tuple({os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("purelib", "platlib")})


class Watched:
    """The files of one worker."""

    def __init__(self, files: Iterable[str] = (), patterns: Iterable[str] = ()) -> None:
        """Make it before the application is loaded, in the process that loads it. `files` may not exist. `patterns` are as in `glob`, with
        `**` for any folders; new files that they fit count as changes too."""
        self._patterns = list(patterns)
        self._before = set(sys.modules)
        self._read: dict[str, FileState | None] = {}
        self._known = {path: file_state(path) for path in {*map(os.path.abspath, files), *loaded_files()}}
        self._sources: set[str] | None = None
        self._pending: dict[str, FileState | None] = {}
        self._undo = _note_imports(self._note)
        self._matching = self._found()

    def stop(self) -> None:
        """Note no more imports."""
        self._undo()

    def _note(self, path: str) -> None:
        path = os.path.abspath(path)
        if not path.startswith(_PYTHON):
            self._read[path] = file_state(path)

    def look(self, *, failed: bool = False) -> list[str]:
        """The files that have changed, once they are the same as at the look before. Each change is given once. If the application could
        not be loaded (`failed`), a new module beside its modules counts too."""
        changed = dict(self._changes(failed))
        settled, self._pending = changed == self._pending, changed
        if not settled:
            return []
        for path, now in changed.items():
            for known in (self._read, self._known):
                if path in known:
                    known[path] = now
        if changed:
            self._matching, self._sources, self._pending = self._found(), None, {}
        return sorted(changed)

    @property
    def is_settling(self) -> bool:
        """Whether a change was seen that may go on: look again soon."""
        return bool(self._pending)

    @property
    def folders(self) -> set[str]:
        """The folders that hold the files, for a watcher of folders."""
        found = {os.path.dirname(path) for path in (*self._read, *self._known, *self._matching)}
        found.update(self._template_folders())
        for pattern in self._patterns:  # new files
            found.update(glob.iglob(os.path.dirname(os.path.abspath(pattern)), recursive=True))
        return {os.path.normpath(path) for path in found if os.path.isdir(path)}

    def _changes(self, failed: bool) -> Iterator[tuple[str, FileState | None]]:
        self._add_modules()
        for path, before in (*self._read.items(), *self._known.items()):
            now = file_state(path)
            if now != before:
                yield path, now
        found = self._found()
        for path in found.keys() | self._matching.keys():
            if found.get(path) != self._matching.get(path):
                yield path, found.get(path)
        if failed:
            sources = self._sources_beside()
            new = set() if self._sources is None else sources - self._sources
            if self._sources is None or not new:
                self._sources = sources
            yield from ((path, file_state(path)) for path in new)

    def _add_modules(self) -> None:
        """Modules that are no Python source, such as those in C, which no loader of sources has read."""
        for name, module in list(sys.modules.items()):
            path = getattr(module, "__file__", None)
            if name in self._before or not isinstance(path, str):
                continue
            path = os.path.abspath(path)
            if path not in self._read and path not in self._known and not path.startswith(_PYTHON):
                self._read[path] = file_state(path)

    def _found(self) -> dict[str, FileState | None]:
        paths = {os.path.abspath(path) for pattern in self._patterns for path in glob.iglob(pattern, recursive=True)}
        for folder in self._template_folders():
            for at, folders, names in os.walk(folder):
                folders[:] = [name for name in folders if name != "__pycache__"]
                paths.update(os.path.join(at, name) for name in names if not _is_temporary(name))
        return {path: file_state(path) for path in paths if os.path.isfile(path)}

    def _template_folders(self) -> Iterator[str]:
        places = {os.getcwd(), *(os.path.dirname(path) for path in self._read if not path.startswith(_INSTALLED))}
        yield from (path for path in (os.path.join(place, _TEMPLATES) for place in places) if os.path.isdir(path))
        yield from (os.path.abspath(path) for path in _folders_of_django() if os.path.isdir(path))

    def _sources_beside(self) -> set[str]:
        """The Python files in the folders of the project's modules, and where they are looked for first."""
        folders = {os.getcwd(), *(os.path.dirname(path) for path in self._read if not path.startswith(_INSTALLED))}
        folders |= {path for path in sys.path[:8] if not (path + os.sep).startswith((*_PYTHON, *_INSTALLED))}
        found: set[str] = set()
        for folder in folders:
            try:
                with os.scandir(folder) as entries:
                    names = [
                        entry.name for entry in entries if entry.name.endswith(".py") or (entry.is_dir() and entry.name.isidentifier())
                    ]
            except OSError:
                continue
            found.update(os.path.join(folder, name) for name in names)
        return {path for path in found if not path.endswith("__pycache__")}


def _is_temporary(name: str) -> bool:
    """Of an editor: a swap file, a backup, a file that is renamed when it is whole."""
    return name.startswith((".", "#")) or name.endswith(("~", ".swp", ".swx", ".tmp")) or name == "4913"


def _note_imports(note: Callable[[str], None]) -> Callable[[], None]:
    """Have `note` called with the path of each source before it is read or its compiled file is taken. Returns what ends that."""
    original = SourceFileLoader.path_stats

    def path_stats(self: Any, path: Any) -> Any:
        note(os.fspath(path))
        return original(self, path)

    SourceFileLoader.path_stats = path_stats  # type: ignore[method-assign]

    def undo() -> None:
        if SourceFileLoader.path_stats is path_stats:
            SourceFileLoader.path_stats = original  # type: ignore[method-assign]

    return undo


def _folders_of_django() -> Iterator[str]:
    """Where Django's settings say that templates are. Does not load Django."""
    conf = sys.modules.get("django.conf")
    settings = getattr(conf, "settings", None)
    if settings is not None and getattr(settings, "configured", False):
        for engine in getattr(settings, "TEMPLATES", ()):
            yield from map(os.fspath, engine.get("DIRS", ()) if isinstance(engine, dict) else ())
