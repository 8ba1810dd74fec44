"""`setting`: a field of a settings class, with its default, help, unit and bounds in one place.

Its default, its unit, its bounds, its help, and the option by which an operator gives it. The settings classes check themselves with
`check`; the command line makes its flags, variables, file keys and documentation from `settings_of`. A new option is one such field.
"""

from collections.abc import Mapping
from dataclasses import MISSING, field, fields
from typing import Any, TypeVar

from muxwsgi.errors import OperatorError
from muxwsgi.record import record

__all__ = ["Setting", "check", "from_options", "read_options", "setting", "settings_of", "shared"]

Settings = TypeVar("Settings")

_KEY = "muxwsgi.setting"


@record(kw_only=True)
class Setting:
    """What is known of one field.

    help        one sentence or two, with what happens at a limit
    section     of the option's in docs/configuration.md; "" if no option gives it
    option      its name there; "" for the field's own
    unit        what its values are: SECONDS, BYTES, N, FILE ...
    flags       further spellings of the flag
    choices     the only values; None is also one if it is the default
    at_least    the smallest value
    above       what a value has to be more than
    """

    help: str
    section: str = ""
    option: str = ""
    unit: str = ""
    flags: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    at_least: float | None = None
    above: float | None = None


def setting(default: Any, help: str, *, section: str = "", **more: Any) -> Any:
    """A dataclass field with a `Setting`, whose attributes are `more`."""
    return field(default=default, metadata={_KEY: Setting(help=help, section=section, **more)})


def shared(owner: type, name: str) -> Any:
    """A field that is the field `name` of another settings class: the same default, the same option."""
    original = owner.__dataclass_fields__[name]  # type: ignore[attr-defined]
    return field(default=original.default, metadata=original.metadata)


def settings_of(owner: Any) -> dict[str, tuple[Setting, Any]]:
    """The settings of a class or an instance, with their defaults, by the names of the fields, in their order."""
    return {each.name: (each.metadata[_KEY], each.default) for each in fields(owner) if _KEY in each.metadata}


def from_options(owner: type[Settings], values: Mapping[str, Any], **more: Any) -> Settings:
    """An instance made of options' values, by the options' names, and of what has no option. Raises `OperatorError`."""
    for name, (known, _) in settings_of(owner).items():
        if known.section and name not in more:
            value = values[known.option or name]
            more[name] = tuple(value) if isinstance(value, list) else value
    return owner(**more)


def check(instance: Any) -> None:
    """Hold each value to its bounds and choices. Raises `OperatorError`, which names the setting."""
    for name, (known, default) in settings_of(instance).items():
        value = getattr(instance, name)
        if known.choices and value not in known.choices and not (value is None and default is None):
            raise OperatorError(f"{name}: {value!r} is not {', '.join(known.choices[:-1])} or {known.choices[-1]}")
        if known.at_least is not None and not value >= known.at_least:
            raise OperatorError(f"{name}: {value} is less than {known.at_least:g}")
        if known.above is not None and not value > known.above:
            raise OperatorError(f"{name}: {value} is not more than {known.above:g}")


#: Units of sizes, as in `64M`.
_SIZES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def read_options(owner: type[Settings], values: Mapping[str, Any], where: str) -> Settings:
    """An instance of the dataclass `owner` with `values` of a configuration.

    The type of an option is that of its default: bool, int, float, str or a tuple of texts; without a default it is a text. An int may be
    a size, as in `64M`. Fields that are a `setting` are held to its bounds and choices. Raises `OperatorError`, which begins with `where`.
    """
    known = {each.name: each for each in fields(owner)}  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in known:
            raise OperatorError(f"{where}: there is no option {key!r}; there are {', '.join(known) or 'none'}")
        given[name] = _read(value, known[name].default, f"{where}: {key}")
    missing = [name for name, each in known.items() if name not in given and each.default is MISSING and each.default_factory is MISSING]
    if missing:
        raise OperatorError(f"{where}: the option {missing[0]!r} is missing")
    try:
        made = owner(**given)
        check(made)
    except OperatorError as error:
        raise OperatorError(f"{where}: {error}") from None
    return made


def _read(value: Any, default: Any, place: str) -> Any:
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise OperatorError(f"{place}: {value!r} is not true or false")
        return value
    if isinstance(default, int | float):
        if isinstance(default, int) and isinstance(value, str) and value[-1:] in _SIZES and value[:-1].isdecimal():
            return int(value[:-1]) * _SIZES[value[-1]]
        if isinstance(value, bool) or not isinstance(value, int | float) or (isinstance(default, int) and isinstance(value, float)):
            wanted = "a whole number, or a size as in 64M" if isinstance(default, int) else "a number"
            raise OperatorError(f"{place}: {value!r} is not {wanted}")
        return value
    if isinstance(default, tuple):
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise OperatorError(f"{place}: {value!r} is not a list of texts")
        return tuple(value)
    if not isinstance(value, str):
        raise OperatorError(f"{place}: {value!r} is not a text")
    return value
