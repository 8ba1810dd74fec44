"""Where values of options come from: a TOML file, the environment. `python_source` reads Python files. Each is read against the table of
options.

A fault is an `OperatorError` that names the source and the place. For an unknown name it suggests the most similar one. A setting of
gunicorn's that means nothing here is not a fault: what to say about it is a remark.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from muxwsgi.cli.option import PREFIX, Option
from muxwsgi.errors import OperatorError

__all__ = ["DEFAULT_FILES", "Found", "Table", "default_file", "from_environ", "from_toml"]

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


def from_toml(path: str, table: Table) -> Found:
    """The values of a TOML file. Raises `OperatorError`."""
    import tomllib

    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        contents = tomllib.loads(text)
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        kind = "" if path.endswith(".toml") else " (it is read as TOML; the name of a Python file ends in .py)"
        raise OperatorError(f"{path}: {error}{kind}") from error
    found = Found()
    for key, value in contents.items():
        if key == "hijack" and isinstance(value, dict):
            key = "hijack_options"
        option = table.by_name.get(key.replace("-", "_"))
        if option is None:
            raise OperatorError(f"{path}: {_unknown(key, table.by_name)}")
        found.values[option.name] = table.read(option, value, path, key)
    return found


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
    from difflib import get_close_matches

    from muxwsgi.cli.gunicorn import SETTINGS, option_for

    theirs = SETTINGS.get(name)
    option = None if theirs is None else option_for(theirs, known.values())
    if option is not None:
        return f"there is no option {name!r}; here it is {option.name!r}"
    near = get_close_matches(name, list(known), n=1)
    return f"there is no option {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
