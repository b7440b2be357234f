"""Every way to extend nasframe, on one page: kinds of plugins, commands, files and facts of your own, what a run tells.

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
    from nasframe.records import FileKind, RunInfo, StoredModel, Trial

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
def register_observers(register: Register) -> None:
    """Register observers: hear what happens in the runs whose recipes ask for them."""


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


# What follows observes runs: a plugin that implements one of these hears every run. The objects that
# `register_observers` registers have methods of the same names, and hear the runs whose recipes name them.


@hookspec
def run_started(directory: Path, recipe: Mapping[str, Any], run: RunInfo, resumed: bool) -> None:
    """Observe that a run begins in ``directory`` with the resolved ``recipe``, or goes on there if ``resumed``."""


@hookspec
def stage_started(run: RunInfo, stage: str, verb: str, resumed: bool) -> None:
    """Observe that a stage begins, or goes on if ``resumed``; ``verb`` is ``train``, ``search`` …"""


@hookspec
def metrics_logged(run: RunInfo, stage: str, step: int, values: Mapping[str, float]) -> None:
    """Observe what a training measured at an optimiser step, by name; a value may be infinite or not a number."""


@hookspec
def trial_finished(directory: Path, stage: str, number: int, trial: Trial, run: RunInfo) -> None:
    """Observe a trial of a search, in order, after it is stored."""


@hookspec
def model_stored(run: RunInfo, name: str, record: StoredModel) -> None:
    """Observe, at the end of a stage, that it made, measured or wrote a model."""


@hookspec
def stage_finished(directory: Path, stage: str, seconds: float, run: RunInfo, cached: bool) -> None:
    """Observe that a stage's result is stored; ``cached`` if it came from the cache."""


@hookspec
def run_finished(run: RunInfo, error: BaseException | None) -> None:
    """Observe that a run ends: with all stages done, or with the error or the interrupt that ended it."""
