"""The text of `--help`, section by section, and the error for an unknown command."""

import os
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

import click

from muxwsgi.cli.option import Option
from muxwsgi.cli.options import OPTIONS, shown_default

__all__ = ["Commands", "SectionOption", "SectionedCommand"]


class SectionOption(click.Option):
    """An option of the table, with its section."""

    def __init__(self, *arguments: Any, section: str, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.section = section


class SectionedCommand(click.Command):
    """A command with options of the table. Its help has the sections of docs/configuration.md, in the same order.

    click's options are made when the command is used, because making those of all commands takes longer than reading the configuration.
    They have no defaults and no checks, because a default would hide the file and the environment. Help shows the command's `defaults`.
    """

    def __init__(self, *arguments: Any, table: Iterable[Option], defaults: Mapping[str, Any] | None = None, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._table: Iterable[Option] | None = table
        self._defaults = defaults or {}

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Called by click."""
        if self._table is not None:
            self.params += [_click_option(each, self._defaults.get(each.name, each.default)) for each in self._table]
            self._table = None
        return super().get_params(ctx)

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
        have = [f"`muxwsgi {each.name}`" for each in others if any(flag in parameter.opts for parameter in each.get_params(ctx))]
        if have:
            return f"{' and '.join(have)} {'have' if len(have) > 1 else 'has'} it"
        from muxwsgi.cli.gunicorn import hint

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


def _click_option(option: Option, default: Any) -> SectionOption:
    text = option.help
    if option.kind is not bool and default not in (None, [], ""):
        text += f"  [{shown_default(default)}]"
    arguments: dict[str, Any] = {"default": None, "help": text}
    if option.kind is bool:
        arguments |= {"is_flag": True}
    elif option.choices:
        arguments |= {"multiple": option.many, "type": click.Choice(option.choices)}
    else:
        arguments |= {"multiple": option.many, "type": str if option.kind is dict else option.kind, "metavar": option.metavar}
    if option.bare:
        arguments |= {"is_flag": False, "flag_value": option.bare}
    return SectionOption([*option.flags, option.flag, option.name], section=option.section, **arguments)


class Commands(click.Group):
    """The commands. An unknown command may be an application without `run` in front.

    elsewhere   commands that are imported when they are used, each with its module. It has an attribute of the same name, with `_` as `-`
    """

    def __init__(self, *arguments: Any, elsewhere: Mapping[str, str], **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._elsewhere = elsewhere

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Called by click."""
        return sorted([*super().list_commands(ctx), *self._elsewhere])

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Called by click."""
        if name in self._elsewhere:
            command: click.Command = getattr(import_module(self._elsewhere[name]), name.replace("-", "_"))
            return command
        return super().get_command(ctx, name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Called by click. Raises `UsageError`, with an explanation, for an unknown command."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(name, self.list_commands(ctx), n=1)
            if ":" in name or "." in name or "/" in name or os.path.exists(f"{name}.py"):
                hint = f"; did you mean `muxwsgi run {name}`?"
            else:
                hint = f"; did you mean {near[0]!r}?" if near else f" ({', '.join(self.list_commands(ctx))})"
            raise click.UsageError(f"there is no command {name!r}{hint}", ctx)
        return super().resolve_command(ctx, args)
