"""Where values of options come from: a TOML file, a Python file, the environment. Each is read against the table of options.

A fault is an `OperatorError` that names the source and the place. For an unknown name it suggests the most similar one. A setting of
gunicorn's that means nothing here is not a fault: what to say about it is a remark.
"""

import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from muxwsgi.cli.gunicorn import SETTINGS, hint_for, option_for
from muxwsgi.cli.hooks import HOOKS, read_hook
from muxwsgi.cli.option import PREFIX, Option
from muxwsgi.cli.python_file import PythonFile, is_python_file, run_python_file
from muxwsgi.errors import OperatorError

__all__ = ["DEFAULT_FILES", "Found", "Table", "default_file", "from_environ", "from_file"]

#: The files that are read from the working folder, the first that exists, if no other file is named.
DEFAULT_FILES = ("muxwsgi.conf.py", "gunicorn.conf.py")

#: Variables with our prefix that are not options: the file itself, and a switch of the build.
NOT_OPTIONS = frozenset({"MUXWSGI_CONFIG", "MUXWSGI_PURE", "MUXWSGI_UPGRADE"})


@dataclass(slots=True)
class Found:
    """What one source says.

    values      by the options' names
    remarks     what the operator should know, a line each
    hooks       by gunicorn's names
    """

    values: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    hooks: dict[str, Callable[..., Any]] = field(default_factory=dict)


class Table:
    """The options that a source may give. `of_proxy` are those among them that another command has, `muxwsgi proxy`."""

    def __init__(self, options: Iterable[Option], of_proxy: Iterable[Option]) -> None:
        self.by_name = {each.name: each for each in options}
        self.by_variable = {each.variable: each for each in self.by_name.values()}
        self._of_proxy = {each.name for each in of_proxy}

    def is_allowed(self, option: Option) -> bool:
        """Whether this command has the option."""
        return option.name not in self._of_proxy

    def read(self, option: Option, value: Any, where: str, place: str) -> Any:
        """`value`, read from `place` in the source `where`. Raises `OperatorError`."""
        if not self.is_allowed(option):
            raise OperatorError(
                f"{where}: {option.name} is an option of `muxwsgi proxy` and `muxwsgi check --proxy` alone; in Python it is said to Proxy()"
            )
        return option.read(value, f"{where}: {place}")


def default_file() -> str | None:
    """The file that is read if no other one is named."""
    return next((name for name in DEFAULT_FILES if os.path.exists(name)), None)


def from_file(path: str, table: Table) -> Found:
    """The values of a TOML file, or of a Python file: `PATH.py`, `file:PATH` or `python:MODULE`."""
    return _from_python(run_python_file(path), table) if is_python_file(path) else _from_toml(path, table)


def _from_toml(path: str, table: Table) -> Found:
    try:
        text = Path(path).read_text(encoding="utf-8")
        contents = tomllib.loads(text)
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        kind = "" if path.endswith(".toml") else " (it is read as TOML; the name of a Python file ends in .py)"
        raise OperatorError(f"{path}: {error}{kind}") from error
    found = Found()
    for key, value in contents.items():
        option = table.by_name.get(key.replace("-", "_"))
        if option is None:
            raise OperatorError(f"{path}: {_unknown(key, table.by_name)}")
        found.values[option.name] = table.read(option, value, path, key)
    return found


def _from_python(file: PythonFile, table: Table) -> Found:
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


def from_environ(environ: Mapping[str, str], table: Table) -> Found:
    """The values of the variables MUXWSGI_NAME."""
    found = Found()
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable in NOT_OPTIONS or not value:
            continue
        known = table.by_variable.get(variable)
        if known is not None:
            found.values[known.name] = table.read(known, value, "environment", variable)
        elif not _OF_SERVICES.fullmatch(f"{variable}={value}"):
            raise OperatorError(f"environment: {_unknown(variable, table.by_variable)}")
    if environ.get("GUNICORN_CMD_ARGS"):
        found.remarks.append("environment: GUNICORN_CMD_ARGS is not read: give each option as a variable, as MUXWSGI_BIND")
    return found


#: Variables that Kubernetes sets in every container for each service whose name begins with `muxwsgi`, and Docker sets for linked
#: containers: MUXWSGI_SERVICE_HOST, MUXWSGI_API_SERVICE_PORT_HTTP, MUXWSGI_PORT=tcp://..., MUXWSGI_PORT_8000_TCP_ADDR.
_OF_SERVICES = re.compile(
    r"MUXWSGI_(\w+_)?(SERVICE_HOST=.*|SERVICE_PORT(_\w+)?=\d+|PORT=\w+://.*|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?=.*)", re.S
)


def _unknown(name: str, known: Mapping[str, Option]) -> str:
    """What to say about a name in a source in which every name is an option's."""
    theirs = SETTINGS.get(name)
    option = None if theirs is None else option_for(theirs, known.values())
    if option is not None:
        return f"there is no option {name!r}; here it is {option.name!r}"
    near = get_close_matches(name, list(known), n=1)
    return f"there is no option {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
