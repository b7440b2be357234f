"""The keys at the top level of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nasframe.recipe.loading import FORMAT
from nasframe.records import Count, ObserverRef, Seed


@dataclass(frozen=True)
class TopLevel:
    """The keys of a recipe, in the order of a resolved one.

    Args:
        nasframe: version of the recipe format.
        name: names the run's directory; default: the file's name.
        description: what the recipe is for.
        plugins: one-file plugins to load; paths start from the recipe's folder.
        seed: the seed from which all random streams are derived.
        model: the network and its tokenizer.
        teacher: a trained network to distil from as it stands, in place of the stage that trains one; without a model
            of its own the recipe compresses it.
        task: data, loss and metrics.
        space: what may vary, and how a choice becomes a network.
        sampler: the shared sampler, which stages use as ``sampler: shared``.
        trainer: runs the training loop of every stage that does not name another one.
        estimators: costs with options of their own, by the name that bounds and objectives use.
        constraints: bounds that every winner of a search must meet.
        budgets: bounds that each get their own winner: by cost, or a list of mappings of bounds to meet together.
        objectives: what searches maximise, with ``-`` before costs and losses; ``primary``, the default, is the task's
            primary metric.
        observers: who hears what happens in the run, such as a tracker of experiments; null entries are skipped.
        stages: what to do, in order.
        set: overrides by dotted path, which also reach into the stages of an extended recipe.
        switches: named sets of overrides, turned on by ``NAME=true``.
    """

    nasframe: Count = FORMAT
    name: str | None = None
    description: str = ""
    plugins: list[str] = field(default_factory=list)
    seed: Seed = 0
    model: Any = None
    teacher: Any = None
    task: Any = None
    space: Any = None
    sampler: Any = None
    trainer: Any = None
    estimators: Mapping[str, Any] = field(default_factory=dict)
    constraints: Mapping[str, Any] = field(default_factory=dict)
    budgets: Mapping[str, Any] | list[Mapping[str, Any]] = field(default_factory=dict)
    objectives: list[str] | None = None
    observers: list[ObserverRef] = field(default_factory=list)
    stages: list[Any] = field(default_factory=list)
    set: Mapping[str, Any] = field(default_factory=dict)
    switches: Mapping[str, Any] = field(default_factory=dict)


PLUGIN_KEYS: Mapping[str, str] = {
    "model": "model",
    "teacher": "model",
    "task": "task",
    "space": "space",
    "sampler": "sampler",
    "trainer": "trainer",
}
"""Keys that name a plugin → its kind."""
