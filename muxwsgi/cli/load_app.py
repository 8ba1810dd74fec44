"""Loads an application, or a function that adds rules, from `module`, `module:attribute` or `module:factory(arguments)`."""

import ast
import importlib
import inspect
import os
import traceback
from collections.abc import Callable
from typing import Any

from muxwsgi.errors import OperatorError
from muxwsgi.signals import StopRequested, may_be_ctrl_c

__all__ = ["load_app", "load_module", "load_rules"]

#: The names that are tried, in this order, if only a module is given.
DEFAULT_NAMES = ("application", "app")


def load_app(spec: str, option: str = "app") -> Any:
    """The WSGI application. Raises `OperatorError`, which begins with `option`. If the module's code fails, its traceback is the
    error's `detail`."""
    where = f"{option} {spec!r}"
    app = _load(spec, where, DEFAULT_NAMES)
    if _is_asgi(app):
        raise OperatorError(
            f"{where}: it is an ASGI application, and WSGI is what is served: name the WSGI one (Django: PROJECT.wsgi), or wrap it, as "
            "in a2wsgi.ASGIMiddleware(app)"
        )
    if not _takes(app, "environ", "start_response") or _is_factory(app):
        hint = f"; a factory is called with parentheses: {_called(spec, app)}" if _takes(app) else ""
        raise OperatorError(f"{where}: it is not a WSGI application, which takes (environ, start_response){hint}")
    return app


def _called(spec: str, app: Any) -> str:
    return f"{spec}()" if ":" in spec else f"{spec}:{getattr(app, '__name__', 'NAME')}()"


def _is_asgi(app: Any) -> bool:
    """Whether `app` is a coroutine function, or an object that is called like one."""
    return inspect.iscoroutinefunction(app) or (not inspect.isclass(app) and inspect.iscoroutinefunction(type(app).__call__))


def _is_factory(app: Any) -> bool:
    """Whether `app` is a function or class that can be called without arguments, because a WSGI application needs two. A function that
    takes any arguments is not a factory, because it may wrap an application."""
    if not (inspect.isfunction(app) or inspect.isclass(app)) or not _takes(app):
        return False
    kinds = [parameter.kind for parameter in inspect.signature(app).parameters.values()]
    return inspect.Parameter.VAR_POSITIONAL not in kinds


def load_rules(spec: str) -> Callable[[Any], object]:
    """The function of `--rules`, which takes the proxy. Raises `OperatorError`, as `load_app` does."""
    rules = _load(spec, f"rules {spec!r}", ("add_rules",))
    if not _takes(rules, "proxy"):
        raise OperatorError(f"rules {spec!r}: it is not a function that takes the proxy and nothing else")

    def add(proxy: Any) -> None:
        _call(rules, [proxy], {}, f"rules {spec!r}", "it")

    return add


def _load(spec: str, where: str, default_names: tuple[str, ...]) -> Any:
    """The callable that `spec` names. Error messages begin with `where`."""
    module_name, _, expression = spec.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")) or module_name.endswith(".py"):
        raise OperatorError(f"{where}: a module is named with dots and without .py{_meant(module_name, expression)}")
    module = load_module(module_name, where)
    found = _evaluate(spec, where, module, expression) if expression else _default(spec, where, module, default_names)
    if not callable(found):
        raise OperatorError(f"{where}: it is a {type(found).__name__}, not a callable")
    return found


def load_module(name: str, where: str) -> Any:
    """Import a module. Raises `OperatorError`, which begins with `where`; if the module's code fails, its traceback is the `detail`."""
    try:
        return importlib.import_module(name)
    except OperatorError as error:
        raise OperatorError(f"{where}: {error}", detail=error.detail) from error
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise OperatorError(f"{where}: there is no module {error.name!r} (looked in sys.path; see --pythonpath)") from None
        raise OperatorError(f"{where}: importing {name!r} failed: {error}", detail=traceback.format_exc()) from error
    except BaseException as error:
        raise _failed(error, f"{where}: importing {name!r}") from None


def _meant(path: str, expression: str) -> str:
    """The end of an error message: a guess what the operator meant by a path."""
    attribute = f":{expression}" if expression else ""
    folder, _, name = os.path.normpath(path).removesuffix(".py").rpartition("/")
    if not name.isidentifier():
        return ""
    if all(part.isidentifier() for part in folder.split("/")):
        return f"; did you mean {folder.replace('/', '.')}.{name}{attribute}?"
    return f"; did you mean --pythonpath {folder or '/'} {name}{attribute}?" if folder else f"; did you mean {name}{attribute}?"


def _takes(function: Callable[..., Any], *arguments: str) -> bool:
    """Whether `function` can be called with these arguments; True if that is unknown."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def _call(function: Callable[..., Any], arguments: list[Any], keywords: dict[str, Any], where: str, what: str) -> Any:
    try:
        return function(*arguments, **keywords)
    except OperatorError as error:
        raise OperatorError(f"{where}: {error}", detail=error.detail) from error
    except BaseException as error:
        raise _failed(error, f"{where}: {what}") from None


def _failed(error: BaseException, what: str) -> BaseException:
    """The exception to raise for `error` of any class. A stop that the operator asked for is raised as it is."""
    if isinstance(error, StopRequested) or may_be_ctrl_c(error):
        return error
    if isinstance(error, SystemExit):  # the program has printed the reason, so a traceback is not needed
        at = traceback.extract_tb(error.__traceback__)[-1]
        return OperatorError(f"{what} ended the program: {_line(error)} ({at.filename}, line {at.lineno})")
    return OperatorError(f"{what} failed: {_line(error)}", detail="".join(traceback.format_exception(error)))


def _line(error: BaseException) -> str:
    if isinstance(error, SystemExit) and not isinstance(error.code, str):
        return f"sys.exit({'' if error.code is None else error.code})"
    text = " ".join(str(error).split())
    return text if isinstance(error, SystemExit) else f"{type(error).__name__}: {text}"


def _default(spec: str, where: str, module: Any, names: tuple[str, ...]) -> Any:
    for name in names:
        if hasattr(module, name):
            return getattr(module, name)
    has_not = f"neither `{names[0]}` nor `{names[1]}`" if len(names) == 2 else f"no `{names[0]}`"
    raise OperatorError(f"{where}: the module has {has_not}; name it, as in {spec}:NAME")


def _evaluate(spec: str, where: str, module: Any, expression: str) -> Any:
    """The value of a name with dots, or of a call of one with literal arguments. No other expressions are evaluated."""
    try:
        tree = ast.parse(expression, mode="eval").body
        arguments: list[Any] = []
        keywords: dict[str, Any] = {}
        call = isinstance(tree, ast.Call)
        if isinstance(tree, ast.Call):
            arguments = [ast.literal_eval(argument) for argument in tree.args]
            keywords = {keyword.arg: ast.literal_eval(keyword.value) for keyword in tree.keywords if keyword.arg}
            tree = tree.func
        names: list[str] = []
        while isinstance(tree, ast.Attribute):
            names.insert(0, tree.attr)
            tree = tree.value
        if not isinstance(tree, ast.Name):
            raise ValueError
        names.insert(0, tree.id)
    except (SyntaxError, ValueError):
        raise OperatorError(f"{where}: behind the colon stands a name, or a call with literal arguments") from None
    found = module
    for name in names:
        try:
            found = getattr(found, name)
        except AttributeError:
            raise OperatorError(f"{where}: {'.'.join(names)!r} is not in module {module.__name__!r}") from None
    return _call(found, arguments, keywords, where, "the factory") if call else found
