"""`setting`: a field of a settings class, with its default, help, unit and bounds in one place.

Its default, its unit, its bounds, its help, and the option by which an operator gives it. The settings classes check themselves with
`check`; the command line makes its flags, variables, file keys and documentation from `settings_of`. A new option is one such field.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from muxwsgi.errors import OperatorError

__all__ = ["Setting", "check", "from_options", "setting", "settings_of", "shared"]

Settings = TypeVar("Settings")

_KEY = "muxwsgi.setting"


@dataclass(frozen=True, kw_only=True, slots=True)
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
