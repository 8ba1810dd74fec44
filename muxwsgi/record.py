"""`record`: a frozen dataclass whose methods are written once, for all records.

`dataclasses` writes seven methods for each class, as text that is compiled at each import. That was an eighth of the time in which a server
starts, because there are some fifty such classes. The methods here take longer to call. So classes whose instances are made for each
connection or exchange are dataclasses, and all else that is made at the start is a record.
"""

from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field, fields
from operator import attrgetter
from typing import Any, TypeVar, cast, dataclass_transform

__all__ = ["record"]

Owner = TypeVar("Owner")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(*, kw_only: bool = False) -> Callable[[type[Owner]], type[Owner]]:
    """As `dataclass(frozen=True, slots=True, kw_only=kw_only)`. `fields`, `replace` and `is_dataclass` take it for one."""

    def made(owner: type[Owner]) -> type[Owner]:
        result: Any = dataclass(init=False, repr=False, eq=False, slots=True, kw_only=kw_only)(owner)
        own = fields(result)
        compared = _values_of([each.name for each in own if each.compare])
        methods: dict[str, Callable[..., Any]] = {
            "__init__": _init(own, hasattr(result, "__post_init__")),
            "__repr__": _repr([each.name for each in own if each.repr]),
            "__eq__": lambda self, other: compared(self) == compared(other) if other.__class__ is self.__class__ else NotImplemented,
            "__hash__": lambda self: hash(compared(self)),
            "__setattr__": _refuse,
            "__delattr__": _refuse,
            "__setstate__": _set_state,
        }
        for name, method in methods.items():
            if name not in vars(owner):
                setattr(result, name, method)
        return cast(type[Owner], result)

    return made


def _init(own: tuple["Field[Any]", ...], checks: bool) -> Callable[..., None]:
    """`__init__` for the fields `own`; with `checks` it calls `__post_init__`."""
    positional = [each.name for each in own if each.init and not each.kw_only]
    plan = [(each.name, each.default, each.default_factory) for each in own if each.init]
    put = object.__setattr__

    def init(self: Any, *values: Any, **given: Any) -> None:
        kind = type(self).__name__
        if values:
            if len(values) > len(positional):
                raise TypeError(f"{kind}() takes {len(positional)} positional arguments but {len(values)} were given")
            for name, value in zip(positional, values, strict=False):
                if name in given:
                    raise TypeError(f"{kind}() got multiple values for argument {name!r}")
                given[name] = value
        for name, default, factory in plan:
            if name in given:
                default = given.pop(name)
            elif default is MISSING:
                if factory is MISSING:
                    raise TypeError(f"{kind}() is missing the argument {name!r}")
                default = factory()
            put(self, name, default)
        if given:
            raise TypeError(f"{kind}() got an unexpected keyword argument {next(iter(given))!r}")
        if checks:
            self.__post_init__()

    return init


def _values_of(names: list[str]) -> Callable[[Any], Any]:
    """A function from an instance to its values of `names`."""
    return attrgetter(*names) if names else lambda instance: ()


def _repr(names: list[str]) -> Callable[[Any], str]:
    def shown(self: Any) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    return shown


def _refuse(self: Any, name: str, value: Any = None) -> None:
    raise FrozenInstanceError(f"cannot change field {name!r}")


def _set_state(self: Any, state: tuple[None, dict[str, Any]]) -> None:
    """For `copy` and `pickle`, which set attributes."""
    for name, value in state[1].items():
        object.__setattr__(self, name, value)
