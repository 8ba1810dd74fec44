"""`manage.py runmux [ADDRESS] [OPTIONS]`: as `runserver`, with muxwsgi. Options that are not Django's are those of `muxwsgi run`."""

import sys
from collections.abc import Sequence
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, handle_default_options

from muxwsgi.contrib.launch import become

__all__ = ["Command"]

_SERVING = "muxwsgi.contrib.django.serving"


class Command(BaseCommand):  # type: ignore[misc]
    """The command."""

    help = "Serves this project with muxwsgi. With DEBUG it reloads when a file changes, and serves static files, as runserver does."
    requires_system_checks: Sequence[str] = ()

    def add_arguments(self, parser: Any) -> None:
        """Django's."""
        parser.usage = f"{parser.prog} [ADDRESS] [options]"
        parser.epilog = "ADDRESS is PORT, ADDRESS:PORT or unix:PATH. All other options are those of `muxwsgi run`, such as --workers 4."
        parser.add_argument("--noreload", action="store_false", dest="reload", help="Do not reload when a file changes.")
        parser.add_argument("--nostatic", action="store_false", dest="static", help="Do not serve static files.")

    def run_from_argv(self, argv: list[str]) -> None:
        """Django's. It would refuse options that it does not know."""
        parser = self.create_parser(argv[0], argv[1], allow_abbrev=False)
        given = argv[2:]
        address = given.pop(0) if given and not given[0].startswith("-") else None
        known, others = parser.parse_known_args(given)
        handle_default_options(known)
        try:
            self.execute(address=address, muxwsgi=others, **vars(known))
        except CommandError as error:
            self.stderr.write(f"{error.__class__.__name__}: {error}")
            sys.exit(error.returncode)

    def handle(self, *args: Any, **options: Any) -> None:
        """Django's. Does not return."""
        if not settings.DEBUG and not settings.ALLOWED_HOSTS:
            raise CommandError("You must set settings.ALLOWED_HOSTS if DEBUG is False.")
        if not options.get("skip_checks"):
            self.check(display_num_errors=True)
        self.check_migrations()
        address = options.get("address") or (args[0] if args else None)
        others = list(options.get("muxwsgi") or ())
        arguments = [] if address is None else ["--bind", bind_of(str(address))]
        folders = [sys.path[0], *([options["pythonpath"]] if options.get("pythonpath") else [])]
        arguments += [text for folder in folders if folder for text in ("--pythonpath", folder)]
        if settings.DEBUG and options.get("reload", True) and "--reload" not in others:
            arguments.append("--reload")
        static = settings.DEBUG and options.get("static", True) and apps.is_installed("django.contrib.staticfiles")
        become(f"{_SERVING}:{'with_static_files' if static else 'application'}()", [*arguments, *others])


def bind_of(address: str) -> str:
    """The bind for an address as `runserver` takes it: a port, or an address and a port, where 0 is every address of IPv4."""
    if address.isascii() and address.isdigit():
        return f"127.0.0.1:{address}"
    host, colon, port = address.rpartition(":")
    return f"0.0.0.0:{port}" if host == "0" and colon else address
