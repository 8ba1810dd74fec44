"""Changes of a module at the time of its import. Most applications use neither `asyncio` nor `multiprocessing`, and importing both at each
start would take longer than muxwsgi's own modules do."""

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["when_imported"]

Action = Callable[[], object]


def when_imported(name: str, action: Action) -> None:
    """Call `action` now if the module `name` is imported already, and otherwise right after its import, before the importer gets it.

    Of several actions for one name the last one counts. If the import fails, `action` waits for the next one."""
    if name in sys.modules:
        action()
        return
    _waiting[name] = action
    if not any(isinstance(each, _Finder) for each in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


_waiting: dict[str, Action] = {}


class _Finder:
    """Finds only modules that an action waits for. What they are, the other finders say."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in _waiting:
            return None
        for finder in sys.meta_path:
            spec = None if isinstance(finder, _Finder) else finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    acting: Any = _ActingLoader(spec.loader)  # no subclass of Loader, because importlib.abc imports much
                    spec.loader = acting
                return spec
        return None


class _ActingLoader:
    """Loads as `loader` does, and calls the action then. The module keeps `loader` as its own."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        action = _waiting.pop(module.__name__, None)
        if action is not None:
            action()

    def __getattr__(self, name: str) -> Any:  # of a spec that was looked for without an import, as by runpy and pkgutil
        return getattr(self._loader, name)
