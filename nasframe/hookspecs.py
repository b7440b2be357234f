"""Every way to extend nasframe, on one page: eleven kinds, commands, files and facts of your own, three observers.

A plugin package exposes functions with these names, decorated with ``nasframe.hookimpl``, in the module that its
``nasframe`` entry point names. Registering a string ``"module:Object"`` keeps start-up fast: it is imported when used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

if TYPE_CHECKING:
    import typer
    from torch import nn

    from nasframe.errors import Problem
    from nasframe.records import FileKind, Trial

PLUGIN_API = 2
"""The version of everything that plugins rely on: hooks, interfaces, records. A plugin's module says with an attribute
of this name which one it was made for; without it, it is taken for the current one. See docs/hooks.md."""

OLDEST_PLUGIN_API = 1
"""The earliest version whose plugins still load."""

hookspec = pluggy.HookspecMarker("nasframe")
hookimpl = pluggy.HookimplMarker("nasframe")


class Register(Protocol):
    """``register(name, "module:Factory")``; the factory's keyword arguments are the plugin's options.

    ``example`` holds options to try the plugin with, where some are required, or names, as ``"module:Contract"``, the
    subclass of its kind's contract (``nasframe.testing``) that prepares what it needs.
    """

    def __call__(self, name: str, factory: Any, example: Mapping[str, Any] | str | None = None) -> None:  # noqa: D102
        ...


@hookspec
def register_spaces(register: Register) -> None:
    """Register search spaces: what may vary, and how a choice becomes a network."""


@hookspec
def register_samplers(register: Register) -> None:
    """Register samplers: propose architectures and learn from their scores."""


@hookspec
def register_trainers(register: Register) -> None:
    """Register trainers: run the training loop."""


@hookspec
def register_estimators(register: Register) -> None:
    """Register estimators: what an architecture, or a finished network, costs."""


@hookspec
def register_evaluators(register: Register) -> None:
    """Register evaluators: what a trial of a search is scored by."""


@hookspec
def register_modifiers(register: Register) -> None:
    """Register modifiers: act inside the loop, at six named moments."""


@hookspec
def register_transforms(register: Register) -> None:
    """Register transforms: act between stages, work in, work out."""


@hookspec
def register_tasks(register: Register) -> None:
    """Register tasks: batches, loss, metrics."""


@hookspec
def register_models(register: Register) -> None:
    """Register models: a net and its tokenizer from a name."""


@hookspec
def register_exporters(register: Register) -> None:
    """Register exporters: write models for other runtimes, and say how to load them."""


@hookspec
def register_families(register: Register) -> None:
    """Register families: how a kind of network is described, built again and, if it can be, sliced."""


@hookspec
def register_commands(app: typer.Typer) -> None:
    """Add verbs to the command line: ``app.command()(function)``, or ``app.add_typer(others, name="...")``."""


@hookspec(firstresult=True)
def check_file(source: str, overrides: Sequence[str]) -> Sequence[Problem] | None:
    """Return every problem of a file of this plugin's own format, ``None`` if it is no such file."""


@hookspec
def model_facts(net: nn.Module) -> Mapping[str, Any] | None:
    """Return facts about a network for reports and model cards, name → JSON-plain value; ``None`` if there are none."""


@hookspec(firstresult=True)
def file_kind(source: str) -> FileKind | None:
    """Say what a file of this plugin's own format is and which command runs it, ``None`` if it is no such file."""


@hookspec
def run_started(directory: Path, recipe: Mapping[str, Any]) -> None:
    """Observe that a run begins or is resumed in ``directory`` with the resolved ``recipe``."""


@hookspec
def trial_finished(directory: Path, stage: str, number: int, trial: Trial) -> None:
    """Observe a trial of a search, in order, after it is stored."""


@hookspec
def stage_finished(directory: Path, stage: str, seconds: float) -> None:
    """Observe that a stage's result is stored."""
