"""The plan that a checked recipe becomes, and what follows from a plan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nasframe import registry
from nasframe.declarations import (
    Budgets,
    KnownNames,
    Stage,
    budgeted_costs,
    budgets_of,
    declaration_of,
    known_before,
    matching,
)
from nasframe.interfaces import TransformTraits, traits_of


@dataclass(frozen=True)
class PlannedStage:
    """One stage, ready to run.

    Args:
        name: unique in the plan.
        verb: which function of ``nasframe.stages.verbs`` runs it.
        options: that function's keyword arguments, and ``from_``, ``space`` and ``task`` if the recipe gives them.
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
        model: ``{use: name, option: value}``, as the following four.
        teacher: the trained network to distil from, if any; the model itself if the recipe names no other.
        task: the task.
        space: the space, if any.
        sampler: the shared sampler, if any.
        estimators: every cost that the recipe can name, by name.
        constraints: cost → bounds, as written.
        budgets: the bounds of each winner, as written: by cost, or a list of bounds to meet together.
        objectives: what to maximise, or ``None`` for the task's primary metric.
        stages: in order.
        observers: those who hear what happens in the run; null entries are skipped.
    """

    recipe: dict[str, Any]
    name: str
    seed: int
    base: Path
    model: dict[str, Any]
    teacher: dict[str, Any] | None
    task: dict[str, Any]
    space: dict[str, Any] | None
    sampler: dict[str, Any] | None
    estimators: dict[str, dict[str, Any]]
    constraints: dict[str, Any]
    budgets: Budgets
    objectives: list[str] | None
    stages: list[PlannedStage]
    observers: list[Any] = field(default_factory=list)

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
    if not isinstance(modifier, Mapping):
        return False
    return isinstance(modifier.get("teacher"), str) and modifier.get("weight") != 0


def distils(stage: PlannedStage) -> bool:
    """Tell whether a training stage learns from a teacher, so that examples without labels are of use."""
    modifiers = stage.options.get("modifiers") or ()
    return stage.verb == "train" and any(asks_teacher(modifier) for modifier in modifiers)


def own_task(stage: PlannedStage) -> dict[str, Any] | None:
    """Return the task that a stage names for itself, with its options; ``None`` if it has the recipe's."""
    task: dict[str, Any] | None = stage.options.get("task")
    return task


def models_of_task(plan: Plan, stage: PlannedStage, names: Iterable[str]) -> list[str]:
    """Return those of some models that have the head which a stage's task needs, in their order.

    Args:
        plan: the plan.
        stage: one of its stages.
        names: the models that are there when it begins.
    """
    known = known_before(plan.recipe, stage.name)
    head = known.head_of_stage({"task": own_task(stage)})
    return [name for name in names if known.head_of_model(name) == head]


def needs_space(verb: str, options: Mapping[str, Any]) -> bool:
    """Tell whether a stage uses its space: a training of the whole network, for example, does not."""
    if verb == "train":
        return options.get("sampler") is not None or options.get("arch") is not None
    return verb in ("search", "extract")


def uses_supernet(verb: str, options: Mapping[str, Any]) -> bool:
    """Tell whether a stage works on the super-network of its space, if it has one.

    A training of the whole network does: a method may choose among its parts by gradients, without a sampler. With
    ``space: null`` a stage works on the network as it was loaded.
    """
    if "space" in options and options["space"] is None:
        return False
    if verb == "train":
        return options.get("models") is None
    return verb in ("search", "extract")


def saved_net(stage: PlannedStage) -> str | None:
    """Return the name under which a stage saves the network that the next one goes on with, if it does."""
    declaration = declaration_of(stage.verb)
    if not declaration.replaces_net:
        return None
    names = declaration.saves(Stage(stage.verb, stage.name, stage.options), KnownNames())
    return names[0] if names else None


def same_shape(plan: Plan) -> Iterator[PlannedStage]:
    """Yield the stages that start from a network of the model's own shape, as no transform changed it."""
    is_same = True  # of the current network
    saved_nets = {"pretrained": True, "random": True}
    for stage in plan.stages:
        start = stage.options.get("from_")
        if start is not None:
            is_same = saved_nets.get(start, False)  # an extracted model has a shape of its own
        if is_same:
            yield stage
        if stage.verb == "load":
            is_same = plan.teacher == plan.model
        if stage.verb == "transform":
            factory = registry.find("transform", stage.options["use"]["use"]).load()
            is_same = is_same and not traits_of(TransformTraits, factory).reshapes
        saved = saved_net(stage)
        if saved is not None:
            saved_nets[saved] = is_same  # a later `from` may go back to it, whatever comes in between


def searched_net(plan: Plan, stage: PlannedStage) -> str | None:
    """Name the network that a search runs on: what a stage saved it as, ``pretrained`` or ``random``.

    Args:
        plan: the plan.
        stage: one of its searches.

    Returns:
        The name; ``None`` if no stage saved it, or if something else was saved under its name later.
    """
    name: str | None = "pretrained"
    for earlier in plan.stages[: _position(plan, stage)]:
        name = _net_after(earlier, earlier.options.get("from_") or name)
    name = stage.options.get("from_") or name
    return None if changes_later(plan, stage, name) else name


def changes_later(plan: Plan, stage: PlannedStage, name: str | None) -> bool:
    """Tell whether something else is saved under a network's name after a stage than at it."""
    later_stages = plan.stages[_position(plan, stage) + 1 :]
    return any(_changes_net(later, name) for later in later_stages)


def _position(plan: Plan, stage: PlannedStage) -> int:
    # By identity: equal stages may stand at several positions.
    return next(number for number, other in enumerate(plan.stages) if other is stage)


def _net_after(stage: PlannedStage, start: str | None) -> str | None:
    """Return the name of the network that a stage leaves to the next; ``None`` if it is saved under no name."""
    if stage.verb == "train" and stage.options.get("models") is not None:
        # The models change under their names, while the network that the stage started from stays as it is.
        return None if _changes_net(stage, start) else start
    return saved_net(stage) if declaration_of(stage.verb).replaces_net else start


def _changes_net(stage: PlannedStage, name: str | None) -> bool:
    """Tell whether something else is saved under a network's name after a stage than before it."""
    if name is None:
        return False
    models = stage.options.get("models") if stage.verb == "train" else None
    if models is not None:
        return bool(matching([name], models))
    return saved_net(stage) == name


NET = ".net"
"""Ending of the name under which a search keeps its network; no other network may have it."""


def kept_net(stage: PlannedStage) -> str:
    """Return the name under which a search keeps its network for a deployment, if :func:`keeps_net` holds."""
    return f"{stage.name}{NET}"


def keeps_net(plan: Plan, stage: PlannedStage) -> bool:
    """Tell whether a search keeps its network, for a deployment: the last one does, if no stage saved it."""
    searches = [other for other in plan.stages if other.verb == "search"]
    return stage is searches[-1] and searched_net(plan, stage) is None


def limits_of(plan: Plan, options: Mapping[str, Any]) -> tuple[dict[str, Any], Budgets]:
    """Return the constraints and the budgets of a search stage.

    Its own constraints are added to the recipe's, or replace them for the same cost; its own budgets replace them all.
    """
    constraints = {**plan.constraints, **(options.get("constraints") or {})}
    return constraints, budgets_of(options, plan.budgets)


def aimed_costs(plan: Plan) -> list[str]:
    """Name the costs that a recipe as a whole bounds or minimises: samplers outside of searches get these."""
    aims = [name.removeprefix("-") for name in plan.objectives or () if name.startswith("-")]
    aimed = {name for name in aims if name in plan.estimators}
    return sorted({*plan.constraints, *budgeted_costs(plan.budgets), *aimed})
