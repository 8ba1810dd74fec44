"""The command line. Importing it imports no gevent, because the commands that serve fork before a worker imports it."""

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from muxwsgi import __version__
from muxwsgi.build import described
from muxwsgi.cli.ending import discard_output, flush_output, say
from muxwsgi.cli.help import Commands, SectionedCommand
from muxwsgi.cli.options import ALL, OPTIONS, collect
from muxwsgi.cli.proxy_options import PROXY_OPTIONS
from muxwsgi.errors import OperatorError
from muxwsgi.signals import Signals
from muxwsgi.uncollected import uncollected

if TYPE_CHECKING:
    from muxwsgi.cli.preloading import Loaded
    from muxwsgi.cli.workers import Role

__all__ = ["main"]

#: Defaults of `muxwsgi proxy` that differ from `muxwsgi run`. The proxy sends no Server field.
_PROXY_DEFAULTS = {"bind": ["127.0.0.1:8080"], "server_header": ""}

#: The return value of a command that has served, in a worker.
_SERVED = object()

#: Commands that share nothing with those that serve.
_ELSEWHERE = {name: f"muxwsgi.cli.{name.replace('-', '_')}" for name in ("ca", "replay", "ctl", "top", "new-hijacker")}


@click.group(cls=Commands, elsewhere=_ELSEWHERE, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(f"{__version__} ({described()})", prog_name="muxwsgi")
def cli() -> None:
    """One port, every protocol, any WSGI app."""


_config = click.option(
    "-c",
    "--config",
    metavar="FILE",
    help="Read options from this file: TOML, or Python (FILE.py, python:MODULE). "
    "Default for an application: ./muxwsgi.conf.py or ./gunicorn.conf.py.",
)
_check_config = click.option("--check-config", is_flag=True, help="Serve nothing, as `muxwsgi check`.")
_print_config = click.option("--print-config", is_flag=True, help="Print the value of each option and where it comes from, and check.")


def _taken_signals() -> Signals:
    signals = Signals()
    signals.take()
    return signals


@cli.command(cls=SectionedCommand, table=OPTIONS, short_help="Serve a WSGI application.")
@click.argument("app", required=False)
@_print_config
@_check_config
@_config
def run(app: str | None, config: str | None, check_config: bool, print_config: bool, **flags: Any) -> object:
    """Serve the WSGI application APP, which is module:attribute or module:factory(); without APP the one that wsgi_app names."""
    if check_config or print_config:
        _look(app, _of_application(flags, config), printing=print_config)
        return None
    signals = _taken_signals()

    def read() -> dict[str, Any]:
        values = _of_application(flags, config)
        values["wsgi_app"] = app or values["wsgi_app"]
        if values["wsgi_app"] is None:
            raise OperatorError("name the application, as in `muxwsgi run module:app` (or by wsgi_app in the file)")
        return values

    def preload(values: dict[str, Any]) -> "Loaded":
        with uncollected():
            from muxwsgi.cli.run import preload
        return preload(values, signals)

    def serve(role: "Role", loaded: "Loaded | None") -> None:
        with uncollected():
            from muxwsgi.cli.run import serve
        serve(role, signals, loaded)

    return _served(read, signals, serve, preload)


def _served(
    read: Callable[[], dict[str, Any]],
    signals: Signals,
    serve: "Callable[[Role, Loaded | None], None]",
    preload: "Callable[[dict[str, Any]], Loaded]",
) -> object:
    """The result of a command that serves: an exit status, or `_SERVED` in a worker that has served."""
    with uncollected():
        from muxwsgi.cli.workers import serve_in_workers
    status = serve_in_workers(read, signals, serve, preload)
    return _SERVED if status is None else status


@cli.command(cls=SectionedCommand, table=(*PROXY_OPTIONS, *OPTIONS), defaults=_PROXY_DEFAULTS, short_help="Serve the forward proxy.")
@_print_config
@_check_config
@_config
def proxy(config: str | None, check_config: bool, print_config: bool, **flags: Any) -> object:
    """Serve the forward proxy, for HTTP, SOCKS and clients that are redirected to it. It listens on 127.0.0.1:8080 by default."""
    if check_config or print_config:
        _look(None, _of_proxy(flags, config), printing=print_config, of_proxy=True)
        return None
    signals = _taken_signals()

    pseudonym = os.urandom(8).hex()  # of all workers, also of those after a reload

    def read() -> dict[str, Any]:
        return _of_proxy(flags, config)

    def serve(role: "Role", loaded: "Loaded | None") -> None:
        with uncollected():
            from muxwsgi.cli.proxy import serve
        serve(role, signals, pseudonym)

    return _served(read, signals, serve, _no_application)


def _no_application(values: dict[str, Any]) -> "Loaded":
    raise OperatorError("preload_app: `muxwsgi proxy` loads no application; --preload-module shares the modules of its rules")


@cli.command(cls=SectionedCommand, table=ALL, short_help="Say what would be served, or what is wrong.")
@click.argument("app", required=False)
@click.option("--proxy", "of_proxy", is_flag=True, help="What `muxwsgi proxy` would serve, with the options below that are its own.")
@_print_config
@_config
def check(app: str | None, of_proxy: bool, config: str | None, print_config: bool, **flags: Any) -> None:
    """Say what would be served, or what is wrong, without serving it: options, certificates, hijackers and, if named, the application.

    With --proxy, the same of the forward proxy: its CA, passwords, block lists and rules too.
    """
    if of_proxy and app is not None:
        raise click.UsageError("give either an APP or --proxy")
    given = [option.flag for option in PROXY_OPTIONS if flags[option.name] not in (None, ())]
    if given and not of_proxy:
        raise click.UsageError(f"{given[0]} needs --proxy")
    values = _of_proxy(flags, config) if of_proxy else _of_application(flags, config)
    _look(app, values, printing=print_config, of_proxy=of_proxy)


def _of_application(flags: Mapping[str, Any], config: str | None) -> dict[str, Any]:
    """The values of options for an application, which may have a configuration file in its folder."""
    return collect(flags, config, proxy=False, find_file=True)


def _of_proxy(flags: Mapping[str, Any], config: str | None) -> dict[str, Any]:
    """The values of options for `muxwsgi proxy`. Raises `OperatorError` for one that it has not."""
    values = collect(flags, config, defaults=_PROXY_DEFAULTS)
    for name, why in (("mount", "a proxy has no paths; let a rule mount the application (--rules)"),
                      ("wsgi_app", "`muxwsgi proxy` serves no application; `muxwsgi run` does")):
        if values[name]:
            raise OperatorError(f"{name}: {why}")
    if values["preload_app"]:
        _no_application(values)
    return values


def _look(app: str | None, values: Mapping[str, Any], *, printing: bool, of_proxy: bool = False) -> None:
    """Print what would be served; with `printing` the configuration before it. Raises `OperatorError`."""
    from muxwsgi.cli import look
    from muxwsgi.cli.print_config import printed

    if printing:
        click.echo("\n".join(printed(values, ALL if of_proxy else OPTIONS)))
    else:
        for remark in values["remarks"]:
            click.echo(f"muxwsgi: warning: {remark}", err=True)
    if of_proxy:
        look.check_proxy(values)
    else:
        look.check(app or values["wsgi_app"], values)


@cli.command(cls=SectionedCommand, table=OPTIONS, short_help="Say which route would get given first bytes, and why.")
@click.argument("file", required=False, type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--hex", "hex_text", metavar="TEXT", help="The bytes in hexadecimal, instead of a file.")
@_config
def explain(file: str | None, hex_text: str | None, config: str | None, **flags: Any) -> None:
    """Say what every route makes of the first bytes in FILE (- for standard input), and which one would get the connection."""
    if (file is None) == (hex_text is None):
        raise click.UsageError("give either a FILE (- for standard input) or --hex")
    if hex_text is not None:
        try:
            data = bytes.fromhex(hex_text)
        except ValueError:
            raise OperatorError(f"--hex: {hex_text!r} is not hexadecimal") from None
    else:
        try:
            with click.open_file(str(file), "rb") as stream:
                data = stream.read()
        except OSError as error:
            raise OperatorError(f"{file}: {error.strerror}") from error
    from muxwsgi.cli.look import explain as explain_bytes

    explain_bytes(data, collect(flags, config))


@cli.command(cls=SectionedCommand, table=OPTIONS, short_help="List the installed hijackers.")
@_config
def hijackers(config: str | None, **flags: Any) -> None:
    """List the installed hijackers: what they match, where they come from, whether they are served, why one cannot be loaded."""
    from muxwsgi.cli.look import list_hijackers

    list_hijackers(collect(flags, config))


@cli.command(cls=SectionedCommand, table=OPTIONS, short_help="List the routes of each bind.")
@_config
def routes(config: str | None, **flags: Any) -> None:
    """List the routes of each bind in the order that they are asked: what they match, on which condition, and where they lead."""
    from muxwsgi.cli.look import list_routes

    list_routes(collect(flags, config))


def main() -> int | None:
    """Run the command that `sys.argv` names. Returns the exit status. It returns None in a worker that has served, and then the process
    waits for the application's threads and processes. An operator's fault is one line on standard error and exit status 2."""
    try:
        result = cli.main(standalone_mode=False, prog_name="muxwsgi")
        if result is _SERVED:
            return None
        if isinstance(result, int):
            return result
        flush_output()
        return 0
    except click.exceptions.Abort:
        return 130
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.ClickException as error:
        say(error.format_message())
        return 2
    except OperatorError as error:
        say(str(error), error.detail)
        discard_output()
        return 2
    except BrokenPipeError:  # the reader of our output has closed the pipe
        discard_output()
        return 1
