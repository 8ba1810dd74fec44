"""`flask mux`: as `flask run`, with muxwsgi. An entry point of the group `flask.commands`, so each `flask` command imports this module."""

import os
from typing import Any

import click

from muxwsgi.contrib.launch import become, joined_bind
from muxwsgi.errors import OperatorError

__all__ = ["application", "mux"]


@click.command("mux", short_help="Run a server with muxwsgi.", context_settings={"ignore_unknown_options": True})
@click.option("--host", "-h", default="127.0.0.1", metavar="ADDRESS", help="The address to listen on.  [127.0.0.1]")
@click.option("--port", "-p", default=5000, metavar="PORT", help="The port to listen on.  [5000]")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS OF MUXWSGI RUN]...")
@click.pass_context
def mux(context: click.Context, host: str, port: int, arguments: tuple[str, ...]) -> None:
    """Serve the application with muxwsgi. Options that are not listed here are those of `muxwsgi run`, such as --workers 4.

    With `flask --debug`, it reloads when a file changes, and shows errors in werkzeug's debugger (on this machine alone)."""
    from flask.cli import ScriptInfo
    from flask.helpers import get_debug_flag

    info = context.ensure_object(ScriptInfo)
    if info.create_app is not None:
        raise click.UsageError("this command makes its application by itself: name it, as in `muxwsgi run 'module:create_app()'`")
    bound = any(each.startswith(("-b", "--bind")) for each in arguments)
    given = [] if bound else ["--bind", f"{host}:{port}" if host.startswith("unix:") else joined_bind(host, port)]
    if get_debug_flag():
        given += [flag for flag in ("--reload", "--debug") if flag not in arguments]
    become("muxwsgi.contrib.flask:application()", [*given, *arguments], {"FLASK_APP": info.app_import_path} if info.app_import_path else {})


def application() -> Any:
    """The application that `flask` would run: that of FLASK_APP, or of wsgi.py or app.py in this folder. Raises `OperatorError`."""
    from flask.cli import NoAppException, ScriptInfo

    try:
        return ScriptInfo(app_import_path=os.environ.get("FLASK_APP") or None).load_app()
    except NoAppException as error:  # the rest of its message is a traceback, if the module fails
        line, _, detail = error.format_message().partition("\n")
        raise OperatorError(line, detail=detail.lstrip("\n")) from None
