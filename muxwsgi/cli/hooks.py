"""Hooks: functions of a Python configuration file that are called when something happens, with gunicorn's names and arguments.

What happens when a hook raises an exception is decided for each by what depends on it. A hook that prepares a start stops it; one that only
observes is reported, with its traceback, and nothing else changes. No hook ends a master that serves.
"""

import importlib
import inspect
import logging
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from muxwsgi.errors import OperatorError
from muxwsgi.record import record
from muxwsgi.signals import StopRequested, may_be_ctrl_c

__all__ = ["HOOKS", "Hooks", "markdown", "read_hook"]

log = logging.getLogger("muxwsgi.error")


@record()
class Hook:
    """One hook.

    arguments   as in gunicorn
    when        it is called
    raises      what follows when it raises
    fewer       how many arguments it may have instead
    """

    arguments: tuple[str, ...]
    when: str
    raises: str
    fewer: tuple[int, ...] = ()


_REPORTED = "it is reported"
_NO_START = "nothing is served, exit status 2"
_NO_WORKER = "this worker is not started: at the start nothing is served, and in a reload the old workers go on"

HOOKS = {
    "on_starting": Hook(("server",), "in the master, before the sockets are opened", _NO_START),
    "when_ready": Hook(("server",), "in the master, when the sockets are open and before the first worker starts", _NO_START),
    "pre_fork": Hook(("server", "worker"), "in the master, before a worker starts", _NO_WORKER),
    "post_fork": Hook(("server", "worker"), "in the worker, after it was patched and before it loads the application", _NO_WORKER),
    "post_worker_init": Hook(("worker",), "in the worker, after it has loaded the application", _NO_WORKER),
    "worker_int": Hook(("worker",), "in the worker, when it gets SIGINT or SIGQUIT", _REPORTED),
    "worker_abort": Hook(("worker",), "in the worker, when it gets SIGABRT: before one is killed whose event loop is blocked", _REPORTED),
    "pre_request": Hook(("worker", "req"), "in the worker, before the application is called", "the request is answered with 500"),
    "post_request": Hook(("worker", "req", "environ", "resp"), "in the worker, after the response", _REPORTED, (3, 2)),
    "worker_exit": Hook(("server", "worker"), "in the worker, before its process ends", _REPORTED),
    "child_exit": Hook(("server", "worker"), "in the master, after the process of a worker has ended, however it has ended", _REPORTED),
    "nworkers_changed": Hook(
        ("server", "new", "old"), "in the master, when the number of workers changes; `old` is None at the start", _REPORTED
    ),
    "pre_exec": Hook(("server",), "in the master, after SIGUSR2, before the new master is started", "no new master is started"),
    "on_reload": Hook(("server",), "in the master, after the configuration was read again", "the reload fails, and the old workers go on"),
    "on_exit": Hook(("server",), "in the master, after its last worker has ended", _REPORTED),
}


def read_hook(name: str, value: Any, where: str) -> Callable[..., Any]:
    """The hook `name` that a file gives: a function, or the name of one as in `package.module.function`. Raises `OperatorError`."""
    if isinstance(value, str):
        module, _, attribute = value.rpartition(".")
        try:
            value = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise OperatorError(f"{where}: {error}") from error
    hook = HOOKS[name]
    if not callable(value):
        raise OperatorError(f"{where}: {value!r} is not a function that takes ({', '.join(hook.arguments)})")
    for count in (len(hook.arguments), *hook.fewer):
        if _takes(value, count):
            return value if count == len(hook.arguments) else _with_fewer(value, count)
    raise OperatorError(f"{where}: the function does not take ({', '.join(hook.arguments)})")


def _with_fewer(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    return lambda *arguments: function(*arguments[:count])


def _takes(function: Callable[..., Any], count: int) -> bool:
    try:
        inspect.signature(function).bind(*[None] * count)
    except ValueError:  # a function in C does not say what it takes
        return True
    except TypeError:
        return False
    return True


class Hooks:
    """The hooks of one configuration file."""

    def __init__(self, hooks: Mapping[str, Callable[..., Any]] | None = None) -> None:
        self._hooks = dict(hooks or {})

    def __contains__(self, name: str) -> bool:
        return name in self._hooks

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hooks) and self._hooks == other._hooks

    @property
    def names(self) -> list[str]:
        """Of those that the file has."""
        return list(self._hooks)

    def get(self, name: str) -> Callable[..., Any] | None:
        """The function, None if the file has none."""
        return self._hooks.get(name)

    def require(self, name: str, *arguments: Any) -> None:
        """Call the hook, if there is one. What it raises becomes an `OperatorError` with the traceback."""
        hook = self._hooks.get(name)
        if hook is None:
            return
        try:
            hook(*arguments)
        except BaseException as error:
            raise _fault(name, error) from None

    def tell(self, name: str, *arguments: Any) -> None:
        """Call the hook, if there is one. What it raises is reported, with the traceback."""
        hook = self._hooks.get(name)
        if hook is None:
            return
        try:
            hook(*arguments)
        except BaseException as error:
            if isinstance(error, StopRequested) or may_be_ctrl_c(error):
                raise
            log.exception("the hook %s failed", name)


def _fault(name: str, error: BaseException) -> BaseException:
    if isinstance(error, StopRequested) or may_be_ctrl_c(error):
        return error
    text = " ".join(str(error).split())
    return OperatorError(
        f"the hook {name} failed: {type(error).__name__}" + (f": {text}" if text else ""), detail="".join(traceback.format_exception(error))
    )


def markdown() -> str:
    """The table of docs/hooks.md."""
    lines = ["| hook | when it is called | if it raises |", "|---|---|---|"]
    lines += [f"| `{name}({', '.join(hook.arguments)})` | {hook.when} | {hook.raises} |" for name, hook in HOOKS.items()]
    return "\n".join(lines) + "\n"
