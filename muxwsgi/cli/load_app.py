"""Finding the application that an operator names: `module`, `module:attribute` or `module:factory(arguments)`."""

import ast
import importlib
import traceback
from typing import Any

from muxwsgi.errors import OperatorError

__all__ = ["load_app", "mounted"]

#: Looked for, in this order, where only a module is named.
DEFAULT_NAMES = ("application", "app")


def load_app(spec: str) -> Any:
    """The WSGI application. Raises `OperatorError`; where the module's own code fails, its traceback is printed first."""
    module_name, _, expression = spec.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise OperatorError(f"app {spec!r}: there is no module {error.name!r} (looked in sys.path; see --pythonpath)") from None
        traceback.print_exc()
        raise OperatorError(f"app {spec!r}: importing {module_name!r} failed: {error}") from error
    except BaseException as error:  # SystemExit too: nothing is served that did not load
        if isinstance(error, KeyboardInterrupt):
            raise
        traceback.print_exc()
        raise OperatorError(f"app {spec!r}: importing {module_name!r} failed: {type(error).__name__}: {error}") from error
    app = _evaluate(spec, module, expression) if expression else _default(spec, module)
    if not callable(app):
        raise OperatorError(f"app {spec!r}: it is a {type(app).__name__}, not a callable")
    return app


def _default(spec: str, module: Any) -> Any:
    for name in DEFAULT_NAMES:
        if hasattr(module, name):
            return getattr(module, name)
    raise OperatorError(f"app {spec!r}: the module has neither `application` nor `app`; name it, as in {spec}:NAME")


def _evaluate(spec: str, module: Any, expression: str) -> Any:
    """A name with dots, or a call of one with literal arguments; nothing else is evaluated."""
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
        raise OperatorError(f"app {spec!r}: behind the colon stands a name, or a call with literal arguments") from None
    found = module
    for name in names:
        try:
            found = getattr(found, name)
        except AttributeError:
            raise OperatorError(f"app {spec!r}: {'.'.join(names)!r} is not in module {module.__name__!r}") from None
    if not call:
        return found
    try:
        return found(*arguments, **keywords)
    except Exception as error:
        traceback.print_exc()
        raise OperatorError(f"app {spec!r}: the factory failed: {type(error).__name__}: {error}") from error


def mounted(app: Any, mounts: list[str]) -> Any:
    """`app` with the applications of `mounts` (PREFIX=APP) under their prefixes."""
    if not mounts:
        return app
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    applications = {}
    for mount in mounts:
        prefix, equals, spec = mount.partition("=")
        if not equals or not prefix.startswith("/") or prefix.rstrip("/") == "":
            raise OperatorError(f"mount {mount!r}: it is /prefix=module:app")
        if prefix.rstrip("/") in applications:
            raise OperatorError(f"mount {mount!r}: there is an application at that prefix already")
        applications[prefix.rstrip("/")] = load_app(spec)
    return DispatcherMiddleware(app, applications)
