"""The checks of a run between loading model and data and the first stage.

``nasframe check`` has reported what the recipe and the network's sizes show. Here the data are known too: how many
steps a training has, how many examples a search can score on. A stage that cannot work is refused; one that works, but
not as it seems to, is a notice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nasframe import registry
from nasframe.declarations import matching, names_at_start, outcomes, remark_on_random_start
from nasframe.errors import UsageError
from nasframe.interfaces import (
    MeasuredEstimator,
    SpaceTraits,
    distilled_task,
    is_estimated,
    member,
    size_of,
    traits_of,
)
from nasframe.plan import distils, needs_space, same_shape
from nasframe.recipe.preflight import length_refusals, misfits
from nasframe.recipe.supernets import makes_supernet
from nasframe.running.feasibility import (
    SAMPLED,
    bounded_costs,
    budgets_within,
    check_budgets,
    is_counted,
    net_of,
    region_of,
    searches,
    space_of,
)
from nasframe.search.budgets import Budget, shortfall
from nasframe.search.constraints import violation
from nasframe.search.costs import cost_function, full_costs
from nasframe.search.domain import domain_fault, drawn
from nasframe.stages.views import EXAMPLES, views_fault
from nasframe.training.macs import probe_inputs

if TYPE_CHECKING:
    from nasframe.interfaces import Task
    from nasframe.plan import PlannedStage
    from nasframe.records import TrainOptions
    from nasframe.stages.inputs import RunInputs

MEASURED = 2
"""How many architectures are measured, besides the smallest and the largest, to see if a cost can meet its bounds."""

Remark = tuple[str, str]
"""An option, and the text of a notice about it."""


def preflight(inputs: RunInputs) -> None:
    """Refuse what cannot work, and report what may surprise, as far as data and sizes show it before any work.

    Args:
        inputs: what the plan names; notices go to its ``notices``.

    Raises:
        UsageError: a stage does not fit its space.
        UnsatisfiableError: some budgets are out of reach.
    """
    # Bounds are looked for in domains, so these have to fit first. Sampling comes last because it may measure.
    check_spaces(inputs)
    check_lengths(inputs)
    notify_of_options(inputs)
    check_views(inputs)
    check_exports(inputs)
    check_budgets(inputs)
    notify_of_sampled_bounds(inputs)


def check_spaces(inputs: RunInputs) -> None:
    """Make sure that each stage whose network has the model's own shape fits its space.

    Raises:
        UsageError: some do not; names every one.
    """
    problems = []
    # Samplers are only made to see whether they fit, so their notices are not about the run.
    inject = {"seed": inputs.plan.seed, "costs": None, "notify": lambda place, text: None}
    for stage in same_shape(inputs.plan):
        if not needs_space(stage.verb, stage.options):
            continue
        space = space_of(inputs, stage)
        fault = domain_fault(space.domain)
        if fault:
            problems.append(f"stages.{stage.name}: space {registry.use_of(_space_use(inputs, stage))[0]!r}: {fault}")
            continue
        for place, text in misfits(inputs.plan, stage, space, inject):
            option = ".".join(map(str, place))
            problems.append(f"stages.{stage.name}.{option}: {text}")
    if problems:
        raise UsageError("\n".join(problems))


def check_lengths(inputs: RunInputs) -> None:
    """Make sure that each training has enough steps for its modifiers, now that the data say how many it has.

    Raises:
        UsageError: some have not; names every one.
    """
    plan = inputs.plan
    of_known_shape = {stage.name for stage in same_shape(plan)}
    problems = []
    for stage in plan.stages:
        if stage.verb != "train":
            continue
        sized = stage.name in of_known_shape and stage.options.get("models") is None
        options: TrainOptions = stage.options["options"]
        batches = len(training_task(stage, inputs.task_of(stage)).train_batches(0, 0, options.batch_size))
        for place, text in length_refusals(plan, stage, sized, steps_of(options, batches)):
            option = ".".join(map(str, place))
            problems.append(f"stages.{stage.name}.{option}: {text}")
    if problems:
        raise UsageError("\n".join(problems))


def steps_of(options: TrainOptions, batches: int) -> int:
    """Return the optimiser steps of a training, as the loop counts them.

    Args:
        options: how it trains.
        batches: the batches of an epoch.
    """
    return options.max_steps or max(1, round((options.epochs or 0) * batches))


def training_task(stage: PlannedStage, task: Task) -> Task:
    """Return a task as a training sees it: with the examples without labels, if it distils."""
    return distilled_task(task) if distils(stage) else task


def _space_use(inputs: RunInputs, stage: PlannedStage) -> Any:
    """Return the name and options of the space that a stage uses."""
    return stage.options.get("space") or inputs.plan.space


def check_views(inputs: RunInputs) -> None:
    """Make sure that the sub-networks of each space that is searched or sampled differ in what they compute.

    Raises:
        UsageError: architectures with different costs compute the same; names the stage.
    """
    if inputs.work.net is None:
        return
    from nasframe.nn.inputs import resized

    checked: list[Any] = []
    for stage in same_shape(inputs.plan):
        use = _space_use(inputs, stage)
        if not needs_space(stage.verb, stage.options) or use in checked:
            continue
        checked.append(use)
        space = space_of(inputs, stage)
        if traits_of(SpaceTraits, space).views_may_agree:
            continue
        net = net_of(inputs, stage, space)
        named = {"params", "macs", *bounded_costs(inputs.plan, stage)}
        estimators = {}
        for name in sorted(named & inputs.estimators.keys()):
            if is_estimated(inputs.estimators[name]):
                estimators[name] = inputs.estimators[name]
        probe = resized(probe_inputs(inputs.task_of(stage)), batch=EXAMPLES)
        fault = views_fault(space, net, cost_function(estimators, space, net), probe)
        if fault:
            raise UsageError(f"stages.{stage.name}: space {registry.use_of(use)[0]!r}: {fault}")


def check_exports(inputs: RunInputs) -> None:
    """Make sure that exporters can write models of spaces that make a super-network of their own.

    Such models are of another class than the recipe's network, which exporters were asked about by the check.

    Raises:
        UsageError: an exporter refuses; names the stage.
    """
    plan = inputs.plan
    if inputs.work.net is None:
        return
    of_known_shape = {stage.name for stage in same_shape(plan)}
    known = names_at_start(plan.recipe)
    extraction: PlannedStage | None = None
    for stage, outcome in zip(plan.stages, outcomes(plan.recipe), strict=True):
        if stage.verb == "extract":
            extraction = stage if stage.name in of_known_shape else None
        patterns = stage.options.get("models")
        writes_extracted = stage.verb == "export" and (not patterns or matching(known.extracted, patterns))
        if writes_extracted and extraction is not None:
            _check_export(inputs, stage, extraction)
        known = known.after(outcome)


def _check_export(inputs: RunInputs, stage: PlannedStage, extraction: PlannedStage) -> None:
    """Ask an exporter about a model as an extraction will make it."""
    plan = inputs.plan
    use = extraction.options.get("space") or plan.space
    if not use or not makes_supernet(use):
        return
    exporter = registry.make("exporter", stage.options.get("mode", "hetero"), {"base": plan.base})
    validate = member(exporter, "validate")
    if validate is None:
        return
    space = space_of(inputs, extraction)
    net = net_of(inputs, extraction, space)
    model = space.extract(net, drawn(space.domain, 1)[0])
    try:
        validate(model)
    except UsageError as error:
        raise UsageError(f"stages.{stage.name}.mode: {error}") from error


def notify_of_options(inputs: RunInputs) -> None:
    """Report the options of stages that mean something else than they seem to, with these data and this space."""
    for stage in inputs.plan.stages:
        remarks: Iterator[Remark] = iter(())
        if stage.verb == "train":
            remarks = remarks_on_training(inputs, stage)
        elif stage.verb == "search":
            remarks = remarks_on_search(inputs, stage)
        for option, text in remarks:
            inputs.notices(f"stages.{stage.name}.{option}", text)


def remarks_on_training(inputs: RunInputs, stage: PlannedStage) -> Iterator[Remark]:
    """Yield the options of a training that mean something else than they seem to with these data."""
    options: TrainOptions = stage.options["options"]
    task = training_task(stage, inputs.task_of(stage))
    examples = task.sizes["train"]
    batches = len(task.train_batches(0, 0, options.batch_size))
    if 0 < examples < options.batch_size:
        text = f"{options.batch_size}, but there are only {examples} training examples: one batch has them all."
        yield "batch_size", text
    if options.max_steps is None and options.epochs is not None and options.epochs * batches < 0.5:
        yield "epochs", f"{options.epochs:g} of {batches} batches is less than half a step. It trains for one step."
    steps = steps_of(options, batches)
    warmup = math.ceil(options.warmup_ratio * steps)
    if 1 < steps <= warmup:
        text = f"All {steps} steps are warm-up: the learning rate reaches its peak in the last one."
        yield "warmup_ratio", text
    yield from _remarks_on_evaluations(options, steps, batches)


def _remarks_on_evaluations(options: TrainOptions, steps: int, batches: int) -> Iterator[Remark]:
    """Yield remarks on the times at which a training is evaluated, and on stopping it early.

    Args:
        options: how it trains.
        steps: optimiser steps in all.
        batches: those of one epoch.
    """
    if options.eval_every is not None and options.eval_every > steps:
        text = f"{options.eval_every} is more than the {steps} steps. There is one evaluation, at the end."
        yield "eval_every", text
    if options.early_stop is None:
        return
    every = options.eval_every or batches
    evaluations = math.ceil(steps / every)
    if evaluations <= options.early_stop:
        text = (
            f"It waits for {options.early_stop} evaluations without a gain, but there are only {evaluations} "
            f"(one every {every} steps). It never stops the training early."
        )
        yield "early_stop", text


def remarks_on_search(inputs: RunInputs, stage: PlannedStage) -> Iterator[Remark]:
    """Yield the options of a search that mean something else than they seem to, with these data and this space."""
    trials = stage.options.get("trials", 100)
    examples = stage.options.get("examples")
    finalists = stage.options.get("finalists", 10)
    available = inputs.task_of(stage).sizes.get("select")
    if examples is not None and available is not None and examples > available:
        text = f"{examples}, but select has {available}. All of them are used, and finalists are not scored again."
        yield "examples", text
    elif examples is not None and finalists > trials:
        yield "finalists", f"{finalists}, but there are only {trials} trials. All of them are finalists."
    sampler = stage.options.get("sampler", "random")
    remark = None if sampler == "shared" else remark_on_random_start(sampler, trials)
    if remark is not None:
        yield "sampler", remark
    if stage not in list(searches(inputs.plan)):
        return  # a transform may still change the domain
    region = region_of(space_of(inputs, stage), stage)
    count = size_of(region)
    if count < trials:
        text = f"{trials}, but there are only {count} architectures. The search ends when they are evaluated."
        yield "trials", text


def notify_of_sampled_bounds(inputs: RunInputs) -> None:
    """Report bounds that no sampled architecture meets, for costs that are no sum over choices.

    That is no proof: a measured cost varies, and one that depends on weights changes in training. The search decides.
    """
    if inputs.work.net is None:
        return
    for stage in searches(inputs.plan):
        space = space_of(inputs, stage)
        net = net_of(inputs, stage, space)
        estimators: dict[str, Any] = {}
        for name in bounded_costs(inputs.plan, stage):
            if not is_counted(inputs.estimators[name], space, net):
                estimators[name] = inputs.estimators[name]
        if not estimators:
            continue
        full = full_costs(estimators, space, net)
        # Each draw of a measured cost takes seconds.
        is_measured = any(isinstance(estimator, MeasuredEstimator) for estimator in estimators.values())
        archs = drawn(region_of(space, stage), MEASURED if is_measured else SAMPLED)
        costs = cost_function(estimators, space, net)
        costs_of_archs = [costs(arch) for arch in archs]
        for budget in budgets_within(inputs.plan, stage, full):
            text = unmet(budget, costs_of_archs)
            if text:
                inputs.notices(f"stages.{stage.name}", text)


def unmet(budget: Budget, costs_of_archs: Sequence[Mapping[str, float]]) -> str:
    """Say that no sampled architecture meets a budget, and which comes nearest; return nothing if one does."""
    excesses = [violation(costs, budget.bounds) for costs in costs_of_archs]
    least = min(excesses)
    if least == 0:
        return ""
    nearest = costs_of_archs[excesses.index(least)]
    return (
        f"{budget.name}: none of the {len(costs_of_archs)} sampled architectures has {budget}; the nearest has "
        f"{shortfall(budget, nearest)}. The search will fail unless training changes that."
    )
