"""A command group whose commands are imported when they are run: listing them, as ``--help`` does, imports none of them.

Contract: a :class:`Row` says where a command is and, in the words of the command itself, what it does; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group


@dataclass(frozen=True, slots=True)
class Row:
    """One command or group of commands.

    Attributes:
        name: As it is typed.
        where: ``module:attribute``; a function is a command, a ``typer.Typer`` a group.
        help: One sentence or two: the function's docstring, or the help of the group.
        panel: The heading that it stands under in ``perdure --help``.

    """

    name: str
    where: str
    help: str
    panel: str

    def load(self) -> TyperCommand | TyperGroup:
        """Import the command."""
        module, attribute = self.where.split(":")
        target = getattr(import_module(module), attribute)
        if isinstance(target, typer.Typer):
            group = get_group(target)
            group.name = self.name
            return group
        single = typer.Typer(add_completion=False)
        single.command(self.name)(target)
        return cast("TyperCommand", get_command(single))

    def listed(self) -> TyperCommand:
        """What stands for the command in a list: its name and help, and nothing that could run."""
        return TyperCommand(self.name, help=self.help, rich_help_panel=self.panel)


def group_of(rows: tuple[Row, ...]) -> type[TyperGroup]:
    """The class of a group that has these commands."""
    by_name = {row.name: row for row in rows}

    class LazyGroup(TyperGroup):
        def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
            del ctx
            return list(by_name)

        def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
            del ctx
            row = by_name.get(cmd_name)
            return None if row is None else row.listed()

        def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]
            self.commands = {
                row.name: row.listed() for row in rows
            }  # a misspelt name is answered with a near one of these
            name, command, rest = super().resolve_command(ctx, args)
            return name, command and by_name[command.name or ""].load(), rest

    return LazyGroup
