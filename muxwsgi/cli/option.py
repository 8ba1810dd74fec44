"""`Option`: one setting in the tables of options."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from muxwsgi.errors import OperatorError
from muxwsgi.record import record
from muxwsgi.setting import settings_of

__all__ = ["PREFIX", "Option", "by_section", "option", "options_of"]

PREFIX = "MUXWSGI_"


@record(kw_only=True)
class Option:
    """One setting. `name` is its key in the file; the flag is `--name` with dashes, the variable MUXWSGI_NAME.

    kind        int, float, str, bool (a flag without a value), or dict (a table in the file, JSON elsewhere)
    many        a list: a repeatable flag, an array in the file, separated by spaces in the variable
    flags       further spellings of the flag
    short       makes a table of a text that is no JSON
    bare        the value of a flag that stands without one; "" if it needs one
    """

    name: str
    kind: type
    default: Any
    help: str
    section: str
    many: bool = False
    flags: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    metavar: str = ""
    bare: str = ""
    short: Callable[[str], dict[str, Any]] | None = None

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()

    def read(self, value: Any, where: str) -> Any:
        """`value` of a file or a variable, converted to the type of the option."""
        if self.many:
            values = value.split() if isinstance(value, str) else value
            if not isinstance(values, list):
                raise OperatorError(f"{where}: {value!r} is not a list")
            return [self._read_one(each, where) for each in values]
        return self._read_one(value, where)

    def _read_one(self, value: Any, where: str) -> Any:
        if self.kind is bool:
            known = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
            if isinstance(value, bool):
                return value
            if isinstance(value, str) and value.lower() in known:
                return known[value.lower()]
            raise OperatorError(f"{where}: {value!r} is not true or false")
        if self.kind is dict:
            return _table(value, where, self.short)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise OperatorError(f"{where}: {value!r} is not {_KIND_NAMES[self.kind]}")
        try:
            read = self.kind(value)
        except ValueError:
            raise OperatorError(f"{where}: {value!r} is not {_KIND_NAMES[self.kind]}") from None
        if isinstance(read, str) and "\0" in read:  # no file, user or host has one in its name
            raise OperatorError(f"{where}: {value!r} has a NUL character")
        if self.kind is int and isinstance(value, float):
            raise OperatorError(f"{where}: {value!r} is not a whole number")
        if self.choices and read not in self.choices:
            raise OperatorError(f"{where}: {value!r} is not {', '.join(self.choices[:-1])} or {self.choices[-1]}")
        return read


def _table(value: Any, where: str, short: Callable[[str], dict[str, Any]] | None) -> dict[str, Any]:
    if isinstance(value, str) and short is not None and not value.lstrip().startswith("{"):
        try:
            return short(value)
        except OperatorError as error:
            raise OperatorError(f"{where}: {error}") from None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise OperatorError(f"{where}: {error}") from None
    if not isinstance(value, dict):
        raise OperatorError(f"{where}: {value!r} is not a table")
    return value


_KIND_NAMES = {int: "a whole number", float: "a number", str: "a text"}


def option(name: str, kind: type, default: Any, section: str, help: str, **more: Any) -> Option:
    """A row of a table."""
    return Option(name=name, kind=kind, default=default, section=section, help=help, **more)


def options_of(owner: type) -> list[Option]:
    """The options of a settings class: its fields that have a section."""
    options = []
    for name, (known, default) in settings_of(owner).items():
        if known.section:
            many = isinstance(default, tuple)
            options.append(
                Option(
                    name=known.option or name,
                    kind=str if many or default is None else type(default),
                    default=list(default) if many else default,
                    help=known.help,
                    section=known.section,
                    many=many,
                    flags=known.flags,
                    choices=known.choices,
                    metavar=known.unit,
                )
            )
    return options


def by_section(sections: Sequence[str], options: Iterable[Option]) -> tuple[Option, ...]:
    """The options in the order of their sections, each name once."""
    unique = {each.name: each for each in options}
    return tuple(sorted(unique.values(), key=lambda each: sections.index(each.section)))
