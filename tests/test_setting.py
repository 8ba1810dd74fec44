"""A setting says all there is to say of itself once: its default, its bounds, its option."""

from dataclasses import dataclass

import pytest

from muxwsgi.cli.option import options_of
from muxwsgi.cli.options import ALL
from muxwsgi.errors import OperatorError
from muxwsgi.proxy.settings import ProxySettings
from muxwsgi.setting import check, from_options, setting, settings_of, shared
from muxwsgi.settings import HTTPSettings, MuxSettings, ServerSettings, TLSSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Tea:
    """As a settings class is written."""

    minutes: float = setting(3.0, "Minutes that it draws.", section="Tea", unit="MINUTES", above=0)
    cups: int = setting(2, "Cups of it.", section="Tea", option="tea_cups", at_least=1)
    kind: str | None = setting(None, "Which one.", section="Tea", choices=("green", "black"))
    mixed: tuple[str, ...] = setting((), "What goes into it.", section="Tea")
    secret: int = setting(7, "Nobody sets this from outside.")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Breakfast:
    """Shares one."""

    minutes: float = shared(Tea, "minutes")


def test_options_come_from_the_fields() -> None:
    options = {each.name: each for each in options_of(Tea)}
    assert list(options) == ["minutes", "tea_cups", "kind", "mixed"]
    assert (options["minutes"].kind, options["minutes"].default, options["minutes"].metavar) == (float, 3.0, "MINUTES")
    assert options["tea_cups"].flag == "--tea-cups" and options["tea_cups"].read("4", "here") == 4
    assert options["mixed"].many and options["mixed"].default == []
    with pytest.raises(OperatorError, match="is not green or black"):
        options["kind"].read("red", "here")


@pytest.mark.parametrize(
    ("wrong", "why"),
    [({"minutes": 0}, "minutes: 0 is not more than 0"), ({"cups": 0}, "cups: 0 is less than 1"), ({"kind": "red"}, "kind: 'red' is not green or black"), ({"minutes": float("nan")}, "minutes: nan is not more than 0")],
)
def test_a_value_out_of_its_bounds_names_the_setting(wrong: dict[str, float], why: str) -> None:
    with pytest.raises(OperatorError, match=why):
        Tea(**wrong)  # type: ignore[arg-type]


def test_values_of_options_become_settings_again() -> None:
    tea = from_options(Tea, {"minutes": 4.0, "tea_cups": 3, "kind": "green", "mixed": ["mint"]}, secret=8)
    assert tea == Tea(minutes=4.0, cups=3, kind="green", mixed=("mint",), secret=8)


def test_an_option_without_a_value_is_false_by_default() -> None:
    """Its flag can only make it true."""
    assert [option.name for option in ALL if option.kind is bool and not option.many and option.default is not False] == []


def test_a_shared_setting_has_one_default_and_one_option() -> None:
    assert Breakfast().minutes == Tea().minutes
    assert [each.name for each in options_of(Breakfast)] == ["minutes"]


def test_each_default_of_a_setting_is_that_of_its_option() -> None:
    defaults = {each.name: each.default for each in ALL}
    for owner in (HTTPSettings, MuxSettings, ServerSettings, TLSSettings, ProxySettings):
        for name, (known, default) in settings_of(owner).items():
            if known.section:
                assert defaults[known.option or name] == (list(default) if isinstance(default, tuple) else default), name
