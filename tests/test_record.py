"""A record is used as a frozen dataclass is, and its class is made without compiling anything."""

import builtins
import copy
import dataclasses
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from typing import Any

import pytest

from muxwsgi.record import record


@record()
class Point:
    """A point."""

    x: int
    y: int = 2
    names: tuple[str, ...] = ()
    note: str = field(default="", compare=False, repr=False)
    tags: dict[str, int] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Like:
    """The same as a dataclass."""

    x: int
    y: int = 2
    names: tuple[str, ...] = ()
    note: str = field(default="", compare=False, repr=False)
    tags: dict[str, int] = field(default_factory=dict, compare=False)


@record(kw_only=True)
class Checked:
    """One that checks itself, and computes a field."""

    at_least: int = 1
    twice: int = field(init=False)

    def __post_init__(self) -> None:
        if self.at_least < 1:
            raise ValueError("less than 1")
        object.__setattr__(self, "twice", 2 * self.at_least)

    def __repr__(self) -> str:
        return "checked"


def test_a_record_is_a_dataclass() -> None:
    assert dataclasses.is_dataclass(Point)
    assert [each.name for each in fields(Point)] == [each.name for each in fields(Like)]
    assert dataclasses.asdict(Point(1)) == dataclasses.asdict(Like(1))
    assert replace(Point(1, note="n"), y=5) == Point(1, 5)
    assert replace(Point(1, note="n"), y=5).note == "n"
    match Point(1, 7):
        case Point(x, y):
            assert (x, y) == (1, 7)


@pytest.mark.parametrize("given", [((1,), {}), ((1, 3), {"note": "n"}), ((), {"x": 1, "names": ("a",)}), ((1, 2, ("b",), "n", {"t": 1}), {})])
def test_it_takes_and_shows_what_a_dataclass_does(given: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
    values, named = given
    made, like = Point(*values, **named), Like(*values, **named)
    assert repr(made) == repr(like).replace("Like", "Point")
    assert hash(made) == hash(like)
    assert made.note == like.note
    assert made == Point(*values, **named) != like
    assert made.tags is not Point(1).tags


@pytest.mark.parametrize("given", [((), {}), ((1,), {"x": 1}), ((1,), {"z": 1}), ((1, 2, (), "", {}, 6), {})])
def test_it_refuses_what_a_dataclass_refuses(given: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
    values, named = given
    for owner in (Point, Like):
        with pytest.raises(TypeError):
            owner(*values, **named)
    with pytest.raises(TypeError):
        Checked(2)  # type: ignore[misc]


def test_it_cannot_be_changed() -> None:
    made = Point(1)
    with pytest.raises(FrozenInstanceError):
        made.x = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del made.x
    assert not hasattr(made, "__dict__")


def test_it_checks_itself_and_keeps_its_own_methods() -> None:
    assert Checked(at_least=3).twice == 6
    assert repr(Checked()) == "checked"
    with pytest.raises(ValueError, match="less than 1"):
        Checked(at_least=0)
    with pytest.raises(ValueError, match="less than 1"):
        replace(Checked(), at_least=0)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_it_can_be_copied(duplicate: Any) -> None:
    made = Point(1, names=("a",), note="n", tags={"t": 1})
    assert duplicate(made) == made
    assert (duplicate(made).note, duplicate(made).tags) == ("n", {"t": 1})


def test_no_method_of_it_is_compiled_when_the_class_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr(builtins, "exec", refuse)

    @record(kw_only=True)
    class Late:
        """Made while nothing can be compiled."""

        x: int = 1

    assert Late(x=2) != Late()
    with pytest.raises(AssertionError, match="compiled"):
        dataclass(frozen=True)(type("Compiled", (), {"__annotations__": {"x": int}}))
