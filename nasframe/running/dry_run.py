"""What a run would do, without doing it: stages, reachable costs, and a time estimated from a few measured steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nasframe.declarations import Outcome, budget_texts, budgeted_costs, listed, outcomes
from nasframe.interfaces import MeasuredEstimator, Work, ends_of, reference_arch
from nasframe.plan import asks_teacher, limits_of
from nasframe.plugin_errors import naming_plugins
from nasframe.processes import device
from nasframe.recipe.resolve import ALWAYS
from nasframe.records import TrainOptions, canonical_json, plus, sequence_length
from nasframe.running.feasibility import Target, bounded_costs, targets
from nasframe.running.readiness import (
    check_lengths,
    check_spaces,
    check_views,
    notify_of_options,
    notify_of_sampled_bounds,
    steps_of,
    training_task,
)
from nasframe.search.constraints import parse_bounds
from nasframe.search.costs import cost_function, full_costs
from nasframe.seeds import generator
from nasframe.stages.inputs import RunInputs, plain_summary
from nasframe.training.macs import MacCounter

if TYPE_CHECKING:
    from torch import nn

    from nasframe.interfaces import Task
    from nasframe.plan import Plan, PlannedStage
    from nasframe.records import Arch, Batch, Forward

SAMPLES = 64
"""How many architectures are drawn; their mean stands for those that a sampler will propose."""
BATCH_SIZE = 32
TIMED_STEPS = 3
"""How many training steps are timed; their median counts."""
BATCHES_FOR_LENGTH = 50
"""How many batches are read to learn the mean length of an example."""
OVERHEAD = {"transform": 2.0, "extract": 1.0, "evaluate": 5.0, "export": 12.0}
"""Seconds that a stage takes besides its matrix products."""


@naming_plugins()
def dry_run(plan: Plan) -> dict[str, Any]:
    """Describe what a plan would do.

    Loads the model and the data, since sizes and speed come from them, and times a few training steps; writes nothing.

    Args:
        plan: the resolved recipe.

    Returns:
        ``stages`` (name, verb, what, seconds), ``costs`` (name → smallest, largest, full, unit), ``limits``
        (text, bound, reachable, nearest), ``data`` (a :class:`~nasframe.records.DataSummary`, JSON-plain, or ``None``),
        ``notices`` (place, text) and ``seconds`` in all, estimated for this machine.
    """
    with plan.file_plugins():
        return _described(plan)


def _described(plan: Plan) -> dict[str, Any]:
    inputs = RunInputs(plan)
    inputs.load()
    work = inputs.work
    check_spaces(inputs)
    check_lengths(inputs)
    notify_of_options(inputs)
    check_views(inputs)
    notify_of_sampled_bounds(inputs)
    costs = ranges(inputs)
    limits = list(limit_rows(inputs))
    seconds_per_example, share = 0.0, 1.0
    if work.net is not None:
        seconds_per_example = forward_seconds(inputs)
        share = mean_share(inputs)
    stages = describe_stages(inputs, seconds_per_example, share)
    return {
        "stages": stages,
        "costs": costs,
        "limits": limits,
        "data": plain_summary(work.task),
        "notices": [asdict(notice) for notice in inputs.notices],
        "seconds": sum(stage["seconds"] for stage in stages),
    }


# ---- costs and bounds


def ranges(inputs: RunInputs) -> dict[str, dict[str, Any]]:
    """Return the range of every bounded cost, over the ends of the domain and, of counted costs, over random draws."""
    space: Any = inputs.work.space
    if space is None:
        return {}
    domain = space.domain
    net = inputs.work.net
    if net is not None:
        net = inputs.supernet(space, None, net)
    rng = generator(inputs.plan.seed, "dry run")
    ends = ends_of(domain)
    draws = [domain.sample(rng) for _ in range(SAMPLES)]
    rows = {}
    for name in _costs_of_interest(inputs):
        estimator = inputs.estimators[name]
        cost = cost_function({name: estimator}, space, net)
        # A measurement takes seconds, so of measured costs only the ends are taken. Other costs also get draws: one
        # that is no sum over choices may be least or greatest in between.
        archs = ends or draws[:2]
        if not isinstance(estimator, MeasuredEstimator):
            archs = archs + draws
        costs_of_archs = [cost(arch) for arch in archs]
        values = [costs[name] for costs in costs_of_archs if name in costs]
        rows[name] = {
            "smallest": min(values, default=None),
            "largest": max(values, default=None),
            "full": full_costs({name: estimator}, space, net).get(name),
            "unit": estimator.unit,
        }
    return rows


def _costs_of_interest(inputs: RunInputs) -> list[str]:
    """Return the names of the costs that the recipe bounds anywhere, and of those that are always shown."""
    plan = inputs.plan
    names = {*plan.constraints, *budgeted_costs(plan.budgets)}
    for stage in plan.stages:
        if stage.verb == "search":  # which may have bounds of its own
            names.update(bounded_costs(plan, stage))
    names.update(name for name in ALWAYS if name in inputs.estimators)
    return sorted(names)


def limit_rows(inputs: RunInputs) -> Iterator[dict[str, Any]]:
    """Yield each bound of each search once, and whether it can be met; ``None`` if only the run will show that."""
    # Searches often share their bounds; the same bound in another part of the domain is another question.
    yielded: set[str] = set()
    target_of = {target.stage.name: target for target in targets(inputs)}
    for stage in inputs.plan.stages:
        if stage.verb != "search":
            continue
        within = stage.options.get("within")
        for texts in _bounds(inputs.plan, stage):
            key = canonical_json([texts, within])
            if key not in yielded:
                yielded.add(key)
                yield from _rows_of_bounds(texts, target_of.get(stage.name))


def _bounds(plan: Plan, stage: PlannedStage) -> Iterator[dict[str, Any]]:
    """Yield the bounds of a search as the recipe writes them, by cost; those of a joint budget together."""
    constraints, budgets = limits_of(plan, stage.options)
    for name, bounds in constraints.items():
        for bound in listed(bounds):
            yield {name: bound}
    yield from budget_texts(budgets)


def _rows_of_bounds(texts: dict[str, Any], target: Target | None) -> Iterator[dict[str, Any]]:
    """Yield a row for each of some bounds: what the architecture that comes nearest to all of them has."""
    known = {}
    if target is not None:
        known = {name: parse_bounds(text, target.full[name]) for name, text in texts.items() if name in target.full}
    values = target.nearest(known) if target is not None and known else {}
    for name, text in texts.items():
        row: dict[str, Any] = {"cost": name, "text": str(text), "reachable": None, "nearest": None}
        if name in known:
            value = values.get(name, math.nan)
            row["reachable"] = known[name].violation(value) == 0
            row["nearest"] = value
        yield row


# ---- time


@dataclass(frozen=True)
class _Whole:
    """The network whose time is estimated: the whole one, or a super-network at its largest architecture.

    Args:
        net: the network.
        arch: the architecture; ``None`` is the whole network.
        counter: counts its forward passes.
    """

    net: nn.Module
    arch: Arch | None
    counter: MacCounter


def _whole(inputs: RunInputs) -> _Whole:
    space = inputs.work.space
    net = inputs.work.net
    arch = None
    if space is not None:
        net = inputs.supernet(space, None, net)
        arch = reference_arch(space, net)
    return _Whole(net, arch, MacCounter(inputs.work.task, space, inputs.notices, "dry run"))


def forward_seconds(inputs: RunInputs) -> float:
    """Return the estimated seconds of one example's forward pass, from training steps that are timed here."""
    work = inputs.work
    whole = _whole(inputs)
    counter = whole.counter
    first_batch = next(iter(work.task.train_batches(0, 0, BATCH_SIZE)))
    seconds = _step_seconds(work, whole, first_batch)
    length = sequence_length(first_batch.inputs)
    in_batch = counter.macs(whole.net, whole.arch, len(first_batch), length)
    of_example = counter.macs(whole.net, whole.arch, 1, None if length is None else _mean_length(work))
    # A backward pass takes about two forward passes, so a step takes three.
    if not in_batch or of_example is None:  # nothing is counted: all examples take the same time
        return seconds / (3 * len(first_batch))
    # One batch may be longer or shorter than most, so the time is scaled to the mean length.
    return seconds / (3 * in_batch) * of_example


def _step_seconds(work: Work, whole: _Whole, first_batch: Batch) -> float:
    """Return the median time of a training step on a batch: the first step also allocates memory."""
    from nasframe.nn.timing import seconds_of
    from nasframe.training.optim import autocast

    forward: Forward = whole.net
    if whole.arch is not None and work.space is not None:
        forward = work.space.view(whole.net, whole.arch)
    batch = first_batch.to(device())

    def step() -> None:
        with autocast("auto", device()):
            outputs = forward(**batch.inputs)
            loss = work.task.loss(outputs, batch)
        loss.backward()

    seconds = [seconds_of(step, device()) for _ in range(TIMED_STEPS)]
    whole.net.zero_grad()
    return sorted(seconds)[(TIMED_STEPS - 1) // 2]


def _mean_length(work: Work) -> int:
    """Return the mean length of a training example, padding included."""
    batches = list(itertools.islice(work.task.train_batches(0, 0, BATCH_SIZE), BATCHES_FOR_LENGTH))
    tokens = sum(batch.tokens for batch in batches)
    examples = sum(len(batch) for batch in batches)
    return max(1, round(tokens / examples))


def mean_share(inputs: RunInputs) -> float:
    """Return the mean forward MACs of random sub-networks, as a share of the whole network's; 1 if it is unknown."""
    space = inputs.work.space
    if space is None:
        return 1.0
    whole = _whole(inputs)
    rng = generator(0, "dry run")
    total: float | None = 0.0
    for _ in range(SAMPLES):
        arch = space.domain.sample(rng)
        total = plus(total, whole.counter.macs(whole.net, arch, 1))
    of_whole = whole.counter.macs(whole.net, whole.arch, 1)
    if not of_whole or total is None:
        return 1.0
    return total / SAMPLES / of_whole


def describe_stages(
    inputs: RunInputs, seconds_per_example: float, share: float, plan: Plan | None = None
) -> list[dict[str, Any]]:
    """Describe what each stage would do, and how long it would take.

    Args:
        inputs: what a plan names.
        seconds_per_example: time of one example's forward pass through the whole network.
        share: the part of that time that a sampled sub-network takes on average.
        plan: another plan for the same model and task, whose stages are meant.

    Returns:
        Of each stage ``name``, ``verb``, ``what`` and ``seconds``.
    """
    rows = []
    plan = plan or inputs.plan
    for stage, outcome in zip(plan.stages, outcomes(plan.recipe), strict=True):
        rows.append(describe(stage, outcome, inputs.task_of(stage), seconds_per_example, share))
    return rows


def describe(
    stage: PlannedStage, outcome: Outcome, task: Task, seconds_per_example: float, share: float
) -> dict[str, Any]:
    """Return what one stage would do, in words, and its estimated seconds.

    Args:
        stage: the stage.
        outcome: what it leaves behind.
        task: its own task, or else the recipe's.
        seconds_per_example: time of one example's forward pass through the whole network.
        share: the part of that time that a sampled sub-network takes on average.
    """
    # Other verbs compute few matrix products, so a constant for each will do.
    what = stage.verb
    seconds = OVERHEAD.get(stage.verb, 0.0)
    if stage.verb == "train":
        passes, what = _training(stage, task, share)
        seconds = passes * seconds_per_example
    elif stage.verb == "search":
        passes, what = _search(stage, task)
        seconds = passes * seconds_per_example * share
    elif stage.verb in ("evaluate", "load"):
        splits = []
        share_of_models = 1.0 if stage.verb == "load" else share  # a teacher is a whole network
        for split, models in outcome.measures.items():
            examples = task.sizes[split]
            seconds += len(models) * examples * seconds_per_example * share_of_models
            splits.append(f"{split} ({examples} examples)")
        act = "load the teacher, evaluate" if stage.verb == "load" else "evaluate"
        what = f"{act} on {' and '.join(splits)}"
    return {"name": stage.name, "verb": stage.verb, "what": what, "seconds": seconds}


def _training(stage: PlannedStage, task: Task, share: float) -> tuple[float, str]:
    """Return how many forward passes of one example a training is worth, and what it does, in words.

    A step of a sub-network is worth three passes, and each teacher one more.
    """
    options: TrainOptions = stage.options["options"]
    size = options.batch_size
    batches = len(training_task(stage, task).train_batches(0, 0, size))
    steps = steps_of(options, batches)
    what = f"train, {steps} steps of {size}"
    passes = 3.0
    if stage.options.get("sampler") is not None:
        passes *= share * options.archs_per_step
        what += ", sub-networks"
    passes += sum(asks_teacher(modifier) for modifier in stage.options.get("modifiers", ()))
    return steps * size * passes, what


def _search(stage: PlannedStage, task: Task) -> tuple[float, str]:
    """Return how many forward passes of one example a search makes, and what it does, in words."""
    available = task.sizes["select"]
    trials = stage.options.get("trials", 100)
    subset = stage.options.get("examples")
    examples = min(subset or available, available)
    finalists = stage.options.get("finalists", 10)
    passes = trials * examples
    if subset:  # then the best trials are scored again on all examples
        passes += finalists * available
    if stage.options.get("winner") == "agreement":  # the finalists and the teacher are compared on all examples
        passes += (finalists + 1) * available
    return passes, f"search, {trials} trials on {examples} examples"
