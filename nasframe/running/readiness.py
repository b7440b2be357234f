"""What a run checks once its model and data are loaded, before the first stage.

``nasframe check`` has said what the recipe and the network's sizes show. Here the data are known too: how many steps a
training has, how many examples a search can score on. What cannot work is refused; what works otherwise than it seems
to is told.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from nasframe.errors import UsageError
from nasframe.plan import limits_of, same_shape
from nasframe.recipe.preflight import misfits, needs_space
from nasframe.running.feasibility import check_budgets, is_counted, searches
from nasframe.search.budgets import Goal, known_goals, shortfall
from nasframe.search.constraints import violation
from nasframe.search.costs import cost_function

if TYPE_CHECKING:
    from nasframe.plan import PlannedStage
    from nasframe.records import TrainOptions
    from nasframe.stages.inputs import Material

ESTIMATED, MEASURED = 64, 2
"""Architectures drawn, beside the smallest and the largest, to see whether a cost without a table can meet a bound."""


def preflight(parts: Material) -> None:
    """Refuse or tell, before any work, what data and sizes show.

    Args:
        parts: what the plan names; notices go to its ``notices``.

    Raises:
        UsageError: a stage does not fit its space.
        UnsatisfiableError: some budgets are out of reach.
    """
    check_spaces(parts)
    tell_of_stages(parts)
    check_budgets(parts)
    tell_of_sampled_bounds(parts)


def tell_of_stages(parts: Material) -> None:
    """Pass on what the sizes of the data, and of the space, make of the stages' options."""
    for stage in parts.plan.stages:
        tell = tell_of_training if stage.verb == "train" else tell_of_search
        if stage.verb in ("train", "search"):
            for option, text in tell(parts, stage):
                parts.notices(f"stages.{stage.name}.{option}", text)


def check_spaces(parts: Material) -> None:
    """Make sure that each stage fits its space, where its network has the model's own shape.

    Raises:
        UsageError: some do not; every one is named.
    """
    problems = []
    inject = {"seed": parts.plan.seed, "costs": None, "notify": lambda place, text: None}
    for stage in same_shape(parts.plan):
        if not needs_space(stage):
            continue
        for place, text in misfits(parts.plan, stage, space_of(parts, stage), inject):
            problems.append(f"stages.{stage.name}.{'.'.join(map(str, place))}: {text}")
    if problems:
        raise UsageError("\n".join(problems))


def space_of(parts: Material, stage: PlannedStage) -> Any:
    """Return the space of a stage on the model's own network."""
    net = parts.work.net
    return parts.work.space if net is None else parts.space(net, stage.options.get("space"))


def tell_of_training(parts: Material, stage: PlannedStage) -> Iterator[tuple[str, str]]:
    """Say what a training's options come to on these data.

    Yields:
        The option and the text of a notice.
    """
    how: TrainOptions = stage.options["options"]
    examples = parts.task.sizes["train"]
    epoch = len(parts.task.train_batches(0, 0, how.batch_size))
    if 0 < examples < how.batch_size:
        yield (
            "batch_size",
            f"{how.batch_size}, but there are only {examples} training examples: one batch has them all.",
        )
    if how.max_steps is None and how.epochs is not None and how.epochs * epoch < 0.5:
        yield "epochs", f"{how.epochs:g} of {epoch} batches is less than half a step. One step is made."
    steps = how.max_steps or max(1, round((how.epochs or 0) * epoch))
    warmup = math.ceil(how.warmup_ratio * steps)
    if 1 < steps <= warmup:
        text = f"All {steps} steps are warm-up: the learning rate reaches its peak in the last one."
        yield "warmup_ratio", text
    if how.eval_every is not None and how.eval_every > steps:
        yield "eval_every", f"{how.eval_every} is more than the {steps} steps. There is one evaluation, at the end."
    if how.early_stop is not None:
        every = how.eval_every or epoch
        evaluations = math.ceil(steps / every)
        if evaluations <= how.early_stop:
            count = (
                f"{how.early_stop} evaluations without a gain, but there are only {evaluations} (one in {every} steps)"
            )
            yield "early_stop", f"It waits for {count}. It never stops the training early."


def tell_of_search(parts: Material, stage: PlannedStage) -> Iterator[tuple[str, str]]:
    """Say what a search's options come to on these data and in this space.

    Yields:
        The option and the text of a notice.
    """
    options = stage.options
    trials, examples, finalists = options.get("trials", 100), options.get("examples"), options.get("finalists", 10)
    size = parts.task.sizes.get("select")
    if examples is not None and size is not None and examples > size:
        yield (
            "examples",
            f"{examples}, but select has {size}. All of them are used, and finalists are not scored again.",
        )
    elif examples is not None and finalists > trials:
        yield "finalists", f"{finalists}, but there are only {trials} trials. All of them are finalists."
    if stage not in list(searches(parts.plan)):
        return
    domain = space_of(parts, stage).domain
    within = options.get("within")
    region = domain.restrict(within) if within else domain
    count = getattr(region, "size", math.inf)
    if count < trials:
        yield "trials", f"{trials}, but there are only {count} architectures. The search ends when they are evaluated."


def tell_of_sampled_bounds(parts: Material) -> None:
    """Sample costs that are no sum over choices, and tell of bounds that no sampled architecture meets.

    That is no proof: a measured cost varies, and one that depends on weights changes in training. The search decides.
    """
    for stage in searches(parts.plan):
        limits, budgets = limits_of(parts.plan, stage.options)
        net, space = parts.work.net, space_of(parts, stage)
        if net is None:
            continue
        sampled = {
            n: parts.estimators[n] for n in {**limits, **budgets} if not is_counted(parts.estimators[n], space, net)
        }
        if not sampled:
            continue
        full = {name: estimator.estimate(space, net, None) for name, estimator in sampled.items()}
        wanted = known_goals(stage.options.get("save_as", "best"), limits, budgets, full)
        measured = any(hasattr(estimator, "measure") for estimator in sampled.values())
        within = stage.options.get("within")
        region = space.domain.restrict(within) if within else space.domain
        costs = cost_function(sampled, space, net)
        found = [costs(arch) for arch in drawn(region, MEASURED if measured else ESTIMATED)]
        for goal in wanted:
            text = unmet(goal, found)
            if text:
                parts.notices(f"stages.{stage.name}", text)


def drawn(region: Any, count: int) -> list[Any]:
    """Return the ends of a domain and some random architectures of it."""
    rng = np.random.default_rng(0)
    ends = [getattr(region, end)() for end in ("smallest", "largest") if hasattr(region, end)]
    return [*ends, *(region.sample(rng) for _ in range(count))]


def unmet(goal: Goal, found: list[dict[str, float]]) -> str:
    """Say that no sampled architecture meets a goal, and what comes nearest; nothing if one does."""
    excesses = [violation(costs, goal.bounds) for costs in found]
    if min(excesses) == 0:
        return ""
    nearest = found[excesses.index(min(excesses))]
    return (
        f"{goal.name}: none of {len(found)} architectures that were sampled has {goal}; the nearest has "
        f"{shortfall(goal, nearest)}. The search will fail unless training changes that."
    )
