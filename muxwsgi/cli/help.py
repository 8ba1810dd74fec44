"""The text of `--help`, section by section, and the error for an unknown command."""

import os
from difflib import get_close_matches
from typing import Any

import click

from muxwsgi.cli.gunicorn import hint
from muxwsgi.cli.options import OPTIONS

__all__ = ["Commands", "SectionOption", "SectionedCommand"]


class SectionOption(click.Option):
    """An option of the table, with its section."""

    def __init__(self, *arguments: Any, section: str, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.section = section


class SectionedCommand(click.Command):
    """A command whose help has the sections of docs/configuration.md, in the same order."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Called by click. Raises `UsageError` for an unknown option. It names the command that has the option, or the option that replaces
        it."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            hint = self._where(ctx, error.option_name)
            if hint is None:
                raise
            raise click.UsageError(f"`{ctx.command_path}` has no option {error.option_name}; {hint}", ctx)

    def _where(self, ctx: click.Context, flag: str) -> str | None:
        group = ctx.parent.command if ctx.parent is not None else None
        others = [each for each in group.commands.values() if isinstance(each, SectionedCommand)] if isinstance(group, click.Group) else []
        have = [f"`muxwsgi {each.name}`" for each in others if any(flag in parameter.opts for parameter in each.params)]
        if have:
            return f"{' and '.join(have)} {'have' if len(have) > 1 else 'has'} it"
        return hint(flag, OPTIONS)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Called by click."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                section = parameter.section if isinstance(parameter, SectionOption) else "Options"
                sections.setdefault(section, []).append(record)
        for section, records in sections.items():
            with formatter.section(section):
                formatter.write_dl(records)


class Commands(click.Group):
    """The commands. An unknown command may be an application without `run` in front."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Called by click. Raises `UsageError`, with an explanation, for an unknown command."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            near = get_close_matches(name, self.list_commands(ctx), n=1)
            if ":" in name or "." in name or "/" in name or os.path.exists(f"{name}.py"):
                hint = f"; did you mean `muxwsgi run {name}`?"
            else:
                hint = f"; did you mean {near[0]!r}?" if near else f" ({', '.join(self.list_commands(ctx))})"
            raise click.UsageError(f"there is no command {name!r}{hint}", ctx)
        return super().resolve_command(ctx, args)
