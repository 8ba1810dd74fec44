"""The values and hooks of a configuration file in Python, by our names and gunicorn's. Only who has such a file needs this module."""

import os
from collections.abc import Mapping
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from muxwsgi.cli.gunicorn import SETTINGS, hint_for, option_for
from muxwsgi.cli.hooks import HOOKS, read_hook
from muxwsgi.cli.option import Option
from muxwsgi.cli.python_file import is_python_file, run_python_file
from muxwsgi.cli.sources import Found, Table
from muxwsgi.errors import OperatorError

__all__ = ["from_python", "is_python_file"]


def from_python(path: str, table: Table) -> Found:
    """The values of a Python file: `PATH.py`, `file:PATH` or `python:MODULE`. Runs it. Raises `OperatorError`."""
    file = run_python_file(path)
    by_name = table.by_name
    found = Found(remarks=list(file.remarks))
    for name, value in file.values.items():
        if isinstance(value, ModuleType) or value is None:  # None is the default, as in gunicorn
            continue
        if name in HOOKS:
            found.hooks[name] = read_hook(name, value, f"{file.path}: {name}")
            continue
        theirs = SETTINGS.get(name)
        option = by_name.get(name) or (option_for(theirs, by_name.values()) if theirs is not None else None)
        if option is not None:
            if not table.is_allowed(option) and name not in (file.unread or ()):
                continue  # the file uses it as a part of values, and the name is an option of another command by chance
            value = theirs.read(value) if theirs is not None and theirs.read is not None else value
            found.values[option.name] = table.read(option, _plain(value, option), file.path, name)
        elif theirs is not None and value and value not in theirs.harmless:
            found.remarks.append(f"{file.path}: {name} of gunicorn has no effect: {hint_for(theirs)}")
    for name, line in (file.unread or {}).items():
        if name not in by_name and name not in SETTINGS:
            _say_unknown(f"{file.path}, line {line}", name, by_name, found)
    return found


def _plain(value: Any, option: Option) -> Any:
    """A value of a Python file, in the types of a TOML file."""
    if option.many:
        items = list(value) if isinstance(value, (tuple, list, set, frozenset)) else [value]
        return [os.fspath(each) if isinstance(each, os.PathLike) else each for each in items]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _say_unknown(where: str, name: str, by_name: Mapping[str, Option], found: Found) -> None:
    """A name that is assigned and never read is an error if it looks like a misspelt option, and a remark otherwise."""
    near = _near(name, by_name)
    if near is not None and _is_misspelt(name, near):
        raise OperatorError(f"{where}: there is no option {name!r}; did you mean {near!r}?")
    found.remarks.append(
        f"{where}: there is no option {name!r}, and the file does not use the name" + (f"; did you mean {near!r}?" if near else "")
    )


def _near(name: str, by_name: Mapping[str, Option]) -> str | None:
    return next(iter(get_close_matches(name.lower(), [*by_name, *SETTINGS], n=1)), None)


def _is_misspelt(name: str, meant: str) -> bool:
    """Whether `name` differs from `meant` in at most two letters, or one if it is short."""
    most = 1 if len(meant) < 5 else 2
    row = list(range(len(meant) + 1))  # of the table of edit distances
    for at, letter in enumerate(name.lower(), 1):
        before, row = row, [at]
        for to, other in enumerate(meant, 1):
            row.append(min(before[to] + 1, row[to - 1] + 1, before[to - 1] + (letter != other)))
    return row[-1] <= most
