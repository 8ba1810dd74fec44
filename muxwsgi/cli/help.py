"""What `--help` shows, section by section, and what is said to a command that does not exist."""

import os
from difflib import get_close_matches
from typing import Any

import click

__all__ = ["Commands", "SectionOption", "SectionedCommand"]


class SectionOption(click.Option):
    """An option of the table, which knows its section."""

    def __init__(self, *arguments: Any, section: str, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.section = section


class SectionedCommand(click.Command):
    """Its help has the sections of docs/configuration.md, in the same order."""

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
    """The commands. One that does not exist may be an application without `run` in front."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Called by click. Raises `UsageError`, in words, for a command that does not exist."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            near = get_close_matches(name, self.list_commands(ctx), n=1)
            if ":" in name or "." in name or "/" in name or os.path.exists(f"{name}.py"):
                hint = f"; did you mean `muxwsgi run {name}`?"
            else:
                hint = f"; did you mean {near[0]!r}?" if near else f" ({', '.join(self.list_commands(ctx))})"
            raise click.UsageError(f"there is no command {name!r}{hint}", ctx)
        return super().resolve_command(ctx, args)
