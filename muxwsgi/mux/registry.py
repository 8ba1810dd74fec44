"""The installed hijackers, and those of them that are served.

A package offers a hijacker by an entry point in the group `muxwsgi.hijack` that names a callable decorated
with `@hijack`. One entry point is one hijacker, and the name of the entry point is its name. So a hijacker can be
listed and switched off without an import.
"""

import traceback
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from muxwsgi.errors import OperatorError
from muxwsgi.installed import packages_naming
from muxwsgi.mux.hijack import Hijacker, check_name, hijacker_of
from muxwsgi.record import record
from muxwsgi.signals import StopRequested, may_be_ctrl_c

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["GROUP", "LoadError", "Registered", "discover", "select"]

GROUP = "muxwsgi.hijack"


@record()
class LoadError:
    """Why an installed hijacker cannot be used: one line, and the traceback of its import ("" where there is
    none).
    """

    line: str
    traceback: str


class Registered:
    """An installed hijacker. Its module is imported when `hijacker` or `error` is first asked for."""

    def __init__(self, entry_point: "EntryPoint") -> None:
        distribution = entry_point.dist
        self.name = entry_point.name
        self.target = entry_point.value
        self.package = distribution.name if distribution else "?"
        self.version = distribution.version if distribution else "?"
        self._entry_point = entry_point
        self._clash: str | None = None
        self._made: Hijacker | None = None

    def __repr__(self) -> str:
        return f"<Registered {self.name!r} of {self.package} {self.version}>"

    def clash_with(self, other: "Registered") -> None:
        """Note that `other`, of another package, has the same name: neither can be served."""
        self._clash = (
            f"two hijackers are named {self.name!r}: {self.target} from {self.package} {self.version} and "
            f"{other.target} from {other.package} {other.version}; uninstall one"
        )

    @property
    def module(self) -> str:
        """Full name of its module."""
        return self.target.partition(":")[0].strip()

    @cached_property
    def _loaded(self) -> Hijacker | LoadError:
        if self._clash is not None:
            return LoadError(self._clash, "")
        described = f"hijacker {self.name!r} ({self.target}, from {self.package} {self.version})"
        try:
            check_name(self.name)
            found = self._entry_point.load()
        except BaseException as error:  # what a plugin's import may raise includes SystemExit
            if isinstance(error, StopRequested) or may_be_ctrl_c(error):
                raise
            first_line = f"{type(error).__name__}: {error}".splitlines()[0].removesuffix(": ")
            return LoadError(f"{described} cannot be loaded: {first_line}", traceback.format_exc())
        hijacker = hijacker_of(found)
        if hijacker is None:
            return LoadError(f"{described} is not decorated with @hijack", "")
        return hijacker.named(self.name)

    @property
    def hijacker(self) -> Hijacker | None:
        """The hijacker, None where it cannot be loaded."""
        return self._loaded if isinstance(self._loaded, Hijacker) else None

    def made(self, options: Mapping[str, Any] | None = None, where: str = "") -> Hijacker:
        """The hijacker with its options, which the first call gives. It is made once. Raises `OperatorError`, also if it cannot be loaded.
        """
        if self._made is None:
            if self.error is not None:
                raise OperatorError(self.error.line)
            assert self.hijacker is not None
            self._made = self.hijacker.made(options or {}, where or f"hijacker {self.name!r}")
        return self._made

    @property
    def error(self) -> LoadError | None:
        """Why it cannot be loaded, None where it can."""
        return self._loaded if isinstance(self._loaded, LoadError) else None


def discover(found: "Iterable[EntryPoint] | None" = None) -> list[Registered]:
    """The hijackers that are installed, by name. Nothing is imported yet.

    Where two packages have one of the same name, that name has an `error`, which stops only a start that wants it. `found`
    are other entry points than the installed ones.
    """
    by_name: dict[str, Registered] = {}
    for entry_point in _installed() if found is None else found:
        registered = Registered(entry_point)
        earlier = by_name.setdefault(registered.name, registered)
        if earlier is registered:
            continue
        if (earlier.package, earlier.target) != (registered.package, registered.target):
            earlier.clash_with(registered)
    return [by_name[name] for name in sorted(by_name)]


def _installed() -> "Iterable[EntryPoint]":
    """The entry points of the group."""
    if not packages_naming(GROUP):
        return ()
    from importlib.metadata import entry_points

    return entry_points(group=GROUP)


def select(
    registered: Sequence[Registered], enable: Iterable[str] | None = None, disable: Iterable[str] = ()
) -> list[Registered]:
    """The hijackers of `registered` that are served, each of them loaded.

    `enable` has the names to serve; None means all, and `none` alone means no hijacker. `disable` has names to leave out.
    Raises `OperatorError` for an unknown name, and for a served hijacker that cannot be loaded. Others are not imported.
    """
    known = {plugin.name for plugin in registered}
    wanted = known if enable is None else set(enable)
    if "none" in wanted:
        if len(wanted) > 1:
            raise OperatorError("hijackers: 'none' cannot be combined with other names")
        wanted = set()
    unwanted = set(disable)
    for name in sorted((wanted | unwanted) - known):
        raise OperatorError(unknown_hijacker(name, known))
    chosen = [plugin for plugin in registered if plugin.name in wanted - unwanted]
    for plugin in chosen:
        if plugin.error is not None:
            raise OperatorError(f"{plugin.error.line} (leave it out with --no-hijack {plugin.name})")
    return chosen


def unknown_hijacker(name: str, known: Iterable[str]) -> str:
    """The message for a name that no installed hijacker has."""
    from difflib import get_close_matches  # messages alone need it

    known = sorted(known)
    near = get_close_matches(name, known, n=1)
    if near:
        hint = f"did you mean {near[0]!r}?"
    elif known:
        hint = f"installed: {', '.join(known)}"
    else:
        hint = "none is installed"
    return f"no hijacker is named {name!r}; {hint}"
