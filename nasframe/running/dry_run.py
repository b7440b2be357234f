"""What a run would do, without doing it: stages, reachable costs, and a time estimated from a few measured steps."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nasframe.declarations import Outcome, listed, outcomes
from nasframe.interfaces import MeasuredEstimator, Work, ends_of, sizes_of
from nasframe.plan import asks_teacher, limits_of
from nasframe.plugin_errors import naming_plugins
from nasframe.processes import device
from nasframe.recipe.resolve import ALWAYS
from nasframe.records import TrainOptions, canonical_json
from nasframe.running.feasibility import Target, bounded_costs, targets
from nasframe.running.readiness import check_spaces, notify_of_options, notify_of_sampled_bounds
from nasframe.search.budgets import nearest
from nasframe.search.constraints import Screen, parse_bounds
from nasframe.search.costs import cost_function
from nasframe.seeds import generator
from nasframe.stages.inputs import RunInputs, plain_summary

if TYPE_CHECKING:
    from nasframe.plan import Plan, PlannedStage

SAMPLES = 64
"""How many architectures are drawn; their mean stands for those that a sampler will propose."""
BATCH_SIZE = 32
TIMED_STEPS = 6
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
    work = inputs.work
    check_spaces(inputs)
    notify_of_options(inputs)
    notify_of_sampled_bounds(inputs)
    costs = ranges(inputs)
    limits = list(limit_rows(inputs))
    seconds_per_example, share = 0.0, 1.0
    if work.net is not None:
        seconds_per_example = forward_seconds(work)
        share = mean_share(work)
    stages = describe_stages(plan, work, seconds_per_example, share)
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
        values = [cost(arch)[name] for arch in archs]
        rows[name] = {
            "smallest": min(values),
            "largest": max(values),
            "full": estimator.estimate(space, net, None),
            "unit": estimator.unit,
        }
    return rows


def _costs_of_interest(inputs: RunInputs) -> list[str]:
    """Return the names of the costs that the recipe bounds anywhere, and of those that are always shown."""
    plan = inputs.plan
    names = {*plan.constraints, *plan.budgets}
    for stage in plan.stages:
        if stage.verb == "search":  # which may have bounds of its own
            names.update(bounded_costs(plan, stage))
    names.update(name for name in ALWAYS if name in inputs.estimators)
    return sorted(names)


def limit_rows(inputs: RunInputs) -> Iterator[dict[str, Any]]:
    """Yield each bound of each search once, and whether it can be met; ``None`` if only the run will show that."""
    # Searches often share their bounds; the same bound in another part of the domain is another question.
    yielded: set[tuple[str, str, str]] = set()
    target_of = {target.stage.name: target for target in targets(inputs)}
    for stage in inputs.plan.stages:
        if stage.verb != "search":
            continue
        within = canonical_json(stage.options.get("within"))
        for name, bound in _bounds(inputs.plan, stage):
            key = (name, str(bound), within)
            if key not in yielded:
                yielded.add(key)
                yield _limit_row(name, bound, target_of.get(stage.name))


def _bounds(plan: Plan, stage: PlannedStage) -> Iterator[tuple[str, Any]]:
    """Yield each bound of a search: the cost, and the bound as the recipe writes it."""
    for limits in limits_of(plan, stage.options):
        for name, bounds in limits.items():
            for bound in listed(bounds):
                yield name, bound


def _limit_row(name: str, bound: Any, target: Target | None) -> dict[str, Any]:
    row: dict[str, Any] = {"cost": name, "text": str(bound), "reachable": None, "nearest": None}
    if target is not None and name in target.full:
        bounds = parse_bounds(bound, target.full[name])
        screen = Screen({name: bounds}, target.costs)
        value = nearest(target.region, screen)[name]
        row["reachable"] = bounds.violation(value) == 0
        row["nearest"] = value
    return row


# ---- time


def forward_seconds(work: Work) -> float:
    """Return the estimated seconds of one example's forward pass, from training steps that are timed here."""
    from nasframe.nn.count import forward_macs
    from nasframe.training.optim import autocast

    first_batch = next(iter(work.task.train_batches(0, 0, BATCH_SIZE)))
    batch = first_batch.to(device())
    seconds = []
    for _ in range(TIMED_STEPS):
        began = time.perf_counter()
        with autocast("auto", device()):
            outputs = work.net(**batch.inputs)
            loss = work.task.loss(outputs, batch)
        loss.backward()
        seconds.append(time.perf_counter() - began)
    work.net.zero_grad()
    # The median, because the first step also allocates memory.
    median = sorted(seconds)[(TIMED_STEPS - 1) // 2]
    # A backward pass takes about two forward passes, so a step takes three.
    macs_of_step = 3 * forward_macs(work.net, None, *batch.inputs["input_ids"].shape)
    macs_per_second = macs_of_step / median
    # One batch may be longer or shorter than most, so the time is scaled to the mean length.
    return forward_macs(work.net, None, 1, _mean_length(work)) / macs_per_second


def _mean_length(work: Work) -> int:
    """Return the mean length of a training example, padding included."""
    batches = list(itertools.islice(work.task.train_batches(0, 0, BATCH_SIZE), BATCHES_FOR_LENGTH))
    tokens = sum(batch.tokens for batch in batches)
    examples = sum(len(batch) for batch in batches)
    return max(1, round(tokens / examples))


def mean_share(work: Work) -> float:
    """Return the mean forward MACs of random sub-networks, as a share of the whole network's."""
    from nasframe.nn.count import forward_macs

    if work.space is None:
        return 1.0
    length = 32  # any will do: the share hardly depends on it
    rng = generator(0, "dry run")
    total = 0.0
    for _ in range(SAMPLES):
        arch = work.space.domain.sample(rng)
        total += forward_macs(work.net, sizes_of(work.space, arch), 1, length)
    return total / SAMPLES / forward_macs(work.net, None, 1, length)


def describe_stages(plan: Plan, work: Work, seconds_per_example: float, share: float) -> list[dict[str, Any]]:
    """Describe what each stage would do, and how long it would take.

    Args:
        plan: the resolved recipe.
        work: what its first stage starts from.
        seconds_per_example: time of one example's forward pass through the whole network.
        share: the part of that time that a sampled sub-network takes on average.

    Returns:
        Of each stage ``name``, ``verb``, ``what`` and ``seconds``.
    """
    rows = []
    for stage, outcome in zip(plan.stages, outcomes(plan.recipe), strict=True):
        rows.append(describe(stage, outcome, work, seconds_per_example, share))
    return rows


def describe(
    stage: PlannedStage, outcome: Outcome, work: Work, seconds_per_example: float, share: float
) -> dict[str, Any]:
    """Return what one stage would do, in words, and its estimated seconds."""
    # Other verbs compute few matrix products, so a constant for each will do.
    what = stage.verb
    seconds = OVERHEAD.get(stage.verb, 0.0)
    if stage.verb == "train":
        passes, what = _training(stage, work, share)
        seconds = passes * seconds_per_example
    elif stage.verb == "search":
        passes, what = _search(stage, work)
        seconds = passes * seconds_per_example * share
    elif stage.verb == "evaluate":
        for split, models in outcome.measures.items():
            examples = work.task.sizes[split]
            seconds += len(models) * examples * seconds_per_example * share
            what = f"evaluate on {split} ({examples} examples)"
    return {"name": stage.name, "verb": stage.verb, "what": what, "seconds": seconds}


def _training(stage: PlannedStage, work: Work, share: float) -> tuple[float, str]:
    """Return how many forward passes of one example a training is worth, and what it does, in words.

    A step of a sub-network is worth three passes, and each teacher one more.
    """
    options: TrainOptions = stage.options["options"]
    size = options.batch_size
    batches = len(work.task.train_batches(0, 0, size))
    steps = options.max_steps or max(1, round((options.epochs or 1) * batches))
    what = f"train, {steps} steps of {size}"
    passes = 3.0
    if stage.options.get("sampler") is not None:
        passes *= share * options.archs_per_step
        what += ", sub-networks"
    passes += sum(asks_teacher(modifier) for modifier in stage.options.get("modifiers", ()))
    return steps * size * passes, what


def _search(stage: PlannedStage, work: Work) -> tuple[float, str]:
    """Return how many forward passes of one example a search makes, and what it does, in words."""
    available = work.task.sizes["select"]
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
