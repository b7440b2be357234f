"""Commands and files of plugins that ``NASFRAME_PLUGINS`` leaves out: an error says why one is not known."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command_name

from nasframe.errors import UsageError
from nasframe.plugin_loading import GROUP, VARIABLE, wanted_names
from nasframe.records import FileKind


class CommandGroup(TyperGroup):
    """The commands of ``nasframe``; a missing command is looked for among the plugins that are left out."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that is called.

        Raises:
            UsageError: a plugin that is left out brings it.
        """
        # This loads plugins that the user left out, but only for a command that would fail anyway.
        is_unknown = bool(args) and self.get_command(ctx, args[0]) is None
        if is_unknown:
            for entry in plugins_left_out():
                if args[0] in commands_of(entry):
                    raise UsageError(f"no command {args[0]!r}: the plugin {entry.name!r} brings it, {_but_left_out()}")
        return super().resolve_command(ctx, args)


def why_unread(source: str) -> str | None:
    """Say that a file belongs to a plugin that is left out; ``None`` if no such plugin knows it.

    Args:
        source: a file, or the name of a packaged recipe, that is no sound recipe.
    """
    for entry in plugins_left_out():
        kind = _kind_of(source, entry)
        if kind is not None:
            return f"{source} is {kind.name}: the plugin {entry.name!r} reads it, {_but_left_out()}"
    return None


def _but_left_out() -> str:
    setting = f"{VARIABLE}={os.environ[VARIABLE]}"
    return f"but {setting!r} leaves that plugin out. Expected its name in the list, or the variable unset."


def plugins_left_out() -> Iterator[metadata.EntryPoint]:
    """Yield the installed plugins that the environment variable does not list; none if it is not set."""
    wanted = wanted_names()
    if wanted is None:
        return
    for entry in metadata.entry_points(group=GROUP):
        if entry.name not in wanted:
            yield entry


def _kind_of(source: str, entry: metadata.EntryPoint) -> FileKind | None:
    """Return what a plugin says that a file is; ``None`` if it does not know, or cannot be loaded."""
    try:
        plugin = entry.load()
        if not hasattr(plugin, "file_kind"):
            return None
        kind: FileKind | None = plugin.file_kind(source)
    except (Exception, SystemExit):  # whatever is wrong with a plugin that is left out does not matter here
        return None
    return kind


def commands_of(entry: metadata.EntryPoint) -> set[str]:
    """Return the names of the commands that a plugin would add; none if it cannot be loaded."""
    app = typer.Typer()
    try:
        plugin = entry.load()
        if hasattr(plugin, "register_commands"):
            plugin.register_commands(app)
    except (Exception, SystemExit):  # whatever is wrong with a plugin that is left out does not matter here
        return set()
    names = set()
    for command in app.registered_commands:
        names.add(command.name or get_command_name(getattr(command.callback, "__name__", "")))
    for group in app.registered_groups:
        names.add(str(group.name))
    return names
