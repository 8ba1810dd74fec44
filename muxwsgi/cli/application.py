"""The application that is served: the one that the operator names, the ones mounted under prefixes, and files."""

from collections.abc import Iterable, Mapping
from typing import Any

from muxwsgi.cli.load_app import load_app
from muxwsgi.errors import OperatorError
from muxwsgi.server.proxy_application import ProxyApplication

__all__ = ["application"]


def application(spec: str, values: Mapping[str, Any]) -> Any:
    """The application `spec`, with what the options mount on it. Raises `OperatorError`."""
    app = load_app(spec)
    if isinstance(app, ProxyApplication):
        for option in ("mount", "static", "x_sendfile", "x_accel_redirect"):
            if values[option]:
                raise OperatorError(f"{option}: a proxy has no paths; let a rule mount the application")
        return app
    return _with_files(_mounted(app, values["mount"]), values)


def _mounted(app: Any, mounts: list[str]) -> Any:
    """`app` with the applications of `mounts` (PREFIX=APP) under their prefixes."""
    if not mounts:
        return app
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    pairs = _by_prefix("mount", mounts, "module:app")
    return DispatcherMiddleware(app, {prefix: load_app(spec, f"mount {prefix}:") for prefix, spec in pairs.items()})


def _with_files(app: Any, values: Mapping[str, Any]) -> Any:
    if values["x_sendfile"] or values["x_accel_redirect"]:
        from muxwsgi.http.static.handed_over import HandedOver

        app = HandedOver(app, values["x_sendfile"], _by_prefix("x_accel_redirect", values["x_accel_redirect"], "FOLDER"))
    if values["static"]:
        from muxwsgi.http.static.folder import StaticFiles, WithStaticFiles

        folders = _by_prefix("static", values["static"], "FOLDER")
        app = WithStaticFiles(app, {prefix: StaticFiles(folder, max_age=values["static_max_age"]) for prefix, folder in folders.items()})
    return app


def _by_prefix(option: str, texts: Iterable[str], what: str) -> dict[str, str]:
    """Texts such as `/prefix=what`, by their prefix without the slash at its end."""
    found: dict[str, str] = {}
    for text in texts:
        prefix, equals, value = text.partition("=")
        prefix = prefix.rstrip("/")
        if not equals or not value or not prefix.startswith("/") or "//" in prefix:
            raise OperatorError(f"{option} {text!r}: it is /prefix={what}")
        if prefix in found:
            raise OperatorError(f"{option} {text!r}: {prefix} is given twice")
        found[prefix] = value
    return found
