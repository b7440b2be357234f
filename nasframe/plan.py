"""The plan that a checked recipe becomes, and what follows from a plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from nasframe import registry
from nasframe.interfaces import TransformTraits, traits_of


@dataclass(frozen=True)
class PlannedStage:
    """One stage, ready to run.

    Args:
        name: unique in the plan.
        verb: which function of ``nasframe.stages.verbs`` runs it.
        options: that function's keyword arguments, and ``from_`` and ``space`` where given.
    """

    name: str
    verb: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """A recipe that can run.

    Args:
        recipe: the resolved recipe: complete, JSON-plain, and re-runnable as it is.
        name: the run's name.
        seed: the run's seed.
        base: the folder against which relative paths are read.
        model: ``{use: name, option: value}``, as the following three.
        task: the task.
        space: the space, if any.
        sampler: the shared sampler, if any.
        estimators: every cost that the recipe can name, by name.
        constraints: cost → bounds, as written.
        budgets: cost → bounds of each winner, as written.
        objectives: what to maximise, or ``None`` for the task's primary metric.
        stages: in order.
    """

    recipe: dict[str, Any]
    name: str
    seed: int
    base: Path
    model: dict[str, Any]
    task: dict[str, Any]
    space: dict[str, Any] | None
    sampler: dict[str, Any] | None
    estimators: dict[str, dict[str, Any]]
    constraints: dict[str, Any]
    budgets: dict[str, Any]
    objectives: list[str] | None
    stages: list[PlannedStage]

    def file_plugins(self) -> AbstractContextManager[None]:
        """Let the one-file plugins of this recipe be found inside the block, and those of no other recipe.

        >>> import nasframe as nf
        >>> plan = nf.resolve(nf.load_recipe("quickstart"))
        >>> with plan.file_plugins():
        ...     plan.task["use"]
        'package_docs'
        """
        return registry.file_plugins(self.recipe.get("plugins", ()))


def asks_teacher(modifier: Any) -> bool:
    """Tell whether a modifier, as a resolved recipe writes it, runs a teacher: one of weight 0 does not."""
    return isinstance(modifier, Mapping) and isinstance(modifier.get("teacher"), str) and modifier.get("weight") != 0


def same_shape(plan: Plan) -> Iterator[PlannedStage]:
    """Yield the stages that start from a network of the model's own shape, as no transform changed it."""
    same, current = {"pretrained": True, "random": True}, True
    for stage in plan.stages:
        start, saved = stage.options.get("from_"), stage.options.get("save_as")
        current = current if start is None else same.get(start, False)
        if current:
            yield stage
        if stage.verb == "transform":
            factory = registry.find("transform", stage.options["use"]["use"]).load()
            current = current and not traits_of(TransformTraits, factory).reshapes
        if saved and stage.verb in ("train", "transform"):
            same[saved] = current


def searched_net(plan: Plan, stage: PlannedStage) -> str | None:
    """Name the network that a search runs on: what a stage saved it as, ``pretrained`` or ``random``.

    Args:
        plan: the plan.
        stage: one of its searches.

    Returns:
        The name; ``None`` where no stage saved it, or something else was saved under its name later.
    """
    current, found, reached = "pretrained", None, False
    for other in plan.stages:
        options = other.options
        current, saved = options.get("from_") or current, options.get("save_as")
        if other is stage:
            found, reached = current or None, True
        if other.verb == "train" and (patterns := options.get("models")) is not None:
            if any(fnmatch(current, pattern) for pattern in patterns):
                current = ""  # the saved one goes on changing, ours does not
            if found and any(fnmatch(found, pattern) for pattern in patterns):
                found = None
        elif other.verb in ("train", "transform"):
            current = saved or ""
            found = None if reached and found == saved else found
    return found


def keeps_net(plan: Plan, stage: PlannedStage) -> bool:
    """Tell whether a search keeps its network, for a deployment: the last one does, if no stage saved it."""
    last = [other for other in plan.stages if other.verb == "search"][-1]
    return stage is last and searched_net(plan, stage) is None


def limits_of(plan: Plan, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the constraints and the budgets of a search stage: the recipe's, and its own over or instead of them."""
    budgets = options.get("budgets")
    constraints = {**plan.constraints, **(options.get("constraints") or {})}
    return constraints, dict(plan.budgets if budgets is None else budgets)


def aimed_costs(plan: Plan) -> list[str]:
    """Name the costs that a recipe as a whole bounds or aims at: those that samplers outside a search learn of."""
    aims = (name[1:] for name in plan.objectives or () if name.startswith("-") and name[1:] in plan.estimators)
    return sorted({*plan.constraints, *plan.budgets, *aims})
