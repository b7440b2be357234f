"""Adds the verbs of plugins to the command line, so that each name means one thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import typer
from typer.main import get_command_name, get_group, solve_typer_info_defaults

from nasframe import registry
from nasframe.errors import UsageError
from nasframe.plugin_errors import described
from nasframe.registry import Failure, Implementation


def add_commands(app: typer.Typer) -> None:
    """Add the verbs of installed plugins to the command line.

    Each plugin adds its verbs to an application of its own first, so that a hook that raises leaves nothing behind. A
    verb of nasframe is not replaced, and one that two plugins add only says so when it is used. ``nasframe plugins``
    lists all three as failures.
    """
    core = _verbs_of(app).keys()
    # All claims are gathered before a verb is added: the order of plugins must not decide who gets a name.
    claims: dict[str, list[tuple[_Verb, Implementation]]] = {}
    for implementation in registry.implementations("register_commands"):
        try:
            verbs = _verbs_of_plugin(implementation)
        except (Exception, SystemExit) as error:
            text = str(error) if isinstance(error, UsageError) else described(error)
            _fail(implementation, f"register_commands: {text}")
            continue
        for name, verb in verbs.items():
            if name in core:
                _fail(implementation, f"register_commands: {name!r} is a command of nasframe; give it another name")
            else:
                claims.setdefault(name, []).append((verb, implementation))
    for name, claimants in claims.items():
        verb, first = claimants[0]
        if len(claimants) == 1:
            verb.add_to(app)
            continue
        # Neither of them: which one a user means cannot be known.
        text = registry.clash("command", name, [implementation.source for _, implementation in claimants])
        _fail(first, text)
        _add_refusal(app, name, text)


def _fail(implementation: Implementation, cause: str) -> None:
    failure = Failure(implementation.plugin, implementation.source, cause)
    registry.plugins().failures.append(failure)


@dataclass(frozen=True)
class _Verb:
    """A command, or a group of commands, as typer keeps it."""

    command: Any = None
    group: Any = None

    def add_to(self, app: typer.Typer) -> None:
        """Add it to an application."""
        if self.command is not None:
            app.registered_commands.append(self.command)
        else:
            app.registered_groups.append(self.group)


def _verbs_of(app: typer.Typer) -> dict[str, _Verb]:
    """Return the commands and groups of an application by the names that a user types."""
    verbs = {}
    for command in app.registered_commands:
        name = command.name or get_command_name(command.callback.__name__)  # type: ignore[union-attr]
        verbs[name] = _Verb(command=command)
    for group in app.registered_groups:
        verbs[str(solve_typer_info_defaults(group).name)] = _Verb(group=group)
    return verbs


def _verbs_of_plugin(implementation: Implementation) -> dict[str, _Verb]:
    """Let a plugin add its verbs to an application of its own.

    Raises:
        UsageError: it sets the callback, which is nasframe's.
    """
    app = typer.Typer()
    implementation.call(app=app)
    if app.registered_callback is not None:
        raise UsageError("the callback of the application is nasframe's own. Expected app.command() or app.add_typer()")
    get_group(app)  # raises here, and not at the user's next command, if types of arguments do not resolve
    return _verbs_of(app)


def _add_refusal(app: typer.Typer, name: str, text: str) -> None:
    """Add a hidden verb that only says why it cannot be used."""

    def refuse() -> None:
        raise UsageError(text)

    # Whatever arguments it is called with, the answer is this text, not a complaint about them.
    settings = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command(name, hidden=True, context_settings=settings)(refuse)
