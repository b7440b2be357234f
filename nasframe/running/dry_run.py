"""What a run would do, without doing it: stages, reachable costs, and a time estimated from one measured step."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nasframe.declarations import Outcome, listed, outcomes
from nasframe.interfaces import Work, sizes_of
from nasframe.plan import asks_teacher, limits_of
from nasframe.plugin_errors import naming_plugins
from nasframe.processes import device
from nasframe.recipe.resolve import ALWAYS
from nasframe.records import TrainOptions, canonical_json
from nasframe.running.feasibility import targets
from nasframe.running.readiness import check_spaces, tell_of_sampled_bounds, tell_of_stages
from nasframe.search.budgets import nearest
from nasframe.search.constraints import Screen, parse_bounds
from nasframe.search.costs import cost_function
from nasframe.seeds import generator
from nasframe.stages.inputs import Material, plain_summary

if TYPE_CHECKING:
    from nasframe.plan import Plan, PlannedStage

SAMPLES = 64  # architectures whose mean stands for what a sampler will propose
OVERHEAD = {"transform": 2.0, "extract": 1.0, "evaluate": 5.0, "export": 12.0}  # seconds besides matrix products


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
    parts = Material(plan)
    work = parts.work
    check_spaces(parts)
    tell_of_stages(parts)
    tell_of_sampled_bounds(parts)
    costs, limits = ranges(parts), list(limit_rows(parts))
    example, share = (forward_seconds(work), mean_share(work)) if work.net is not None else (0.0, 1.0)
    stages = describe_stages(plan, work, example, share)
    return {
        "stages": stages,
        "costs": costs,
        "limits": limits,
        "data": plain_summary(work.task),
        "notices": [asdict(notice) for notice in parts.notices],
        "seconds": sum(row["seconds"] for row in stages),
    }


def ranges(parts: Material) -> dict[str, dict[str, Any]]:
    """Find the range of every bounded cost: of the ends of the domain, and of draws where a cost is counted."""
    plan, work = parts.plan, parts.work
    space: Any = work.space
    if space is None:
        return {}
    bounded = [name for stage in plan.stages if stage.verb == "search" for name in bounded_costs(plan, stage)]
    names = sorted({*plan.constraints, *plan.budgets, *bounded, *(n for n in ALWAYS if n in parts.estimators)})
    domain, rng = space.domain, generator(plan.seed, "dry run")
    ends = [domain.smallest(), domain.largest()] if hasattr(domain, "smallest") else []
    drawn = [domain.sample(rng) for _ in range(SAMPLES)]
    found = {}
    for name in names:
        estimator = parts.estimators[name]
        cost = cost_function({name: estimator}, space, work.net)
        values = [cost(arch)[name] for arch in ends or drawn[:2]]
        if not hasattr(estimator, "measure"):
            values += [cost(arch)[name] for arch in drawn]
        full = estimator.estimate(space, work.net, None)
        found[name] = {"smallest": min(values), "largest": max(values), "full": full, "unit": estimator.unit}
    return found


def bounded_costs(plan: Plan, stage: PlannedStage) -> list[str]:
    """Name the costs that a search stage bounds."""
    limits, budgets = limits_of(plan, stage.options)
    return [*limits, *budgets]


def limit_rows(parts: Material) -> Iterator[dict[str, Any]]:
    """Say of each bound of each search whether anything meets it; ``None`` where that shows in the run only."""
    told: set[tuple[str, str, str]] = set()
    known = {target.stage.name: target for target in targets(parts)}
    for stage in (stage for stage in parts.plan.stages if stage.verb == "search"):
        limits, budgets = limits_of(parts.plan, stage.options)
        target = known.get(stage.name)
        pairs = [(cost, text) for texts in (limits, budgets) for cost in texts for text in listed(texts[cost])]
        for name, text in pairs:
            key = (name, str(text), canonical_json(stage.options.get("within")))
            if key in told:
                continue
            told.add(key)
            row: dict[str, Any] = {"cost": name, "text": str(text), "reachable": None, "nearest": None}
            if target is not None and name in target.full:
                screen = Screen({name: parse_bounds(text, target.full[name])}, target.costs)
                values = nearest(target.region, screen)[name]
                row |= {"reachable": screen.bounds[name].violation(values) == 0, "nearest": values}
            yield row


def forward_seconds(work: Work) -> float:
    """Estimate the seconds of one example's forward: a third of its share of a training step here."""
    from nasframe.nn.count import forward_macs
    from nasframe.training.optim import autocast

    batch = next(iter(work.task.train_batches(0, 0, 32)))
    batch, seconds = batch.to(device()), []
    for _ in range(6):
        began = time.perf_counter()
        with autocast("auto", device()):
            loss = work.task.loss(work.net(**batch.inputs), batch)
        loss.backward()
        seconds.append(time.perf_counter() - began)
    work.net.zero_grad()
    rate = 3 * forward_macs(work.net, None, *batch.inputs["input_ids"].shape) / sorted(seconds)[2]
    some = list(itertools.islice(work.task.train_batches(0, 0, 32), 50))
    length = max(1, round(sum(batch.tokens for batch in some) / sum(map(len, some))))
    return forward_macs(work.net, None, 1, length) / rate


def mean_share(work: Work) -> float:
    """Return the forward MACs of a drawn sub-network, as a share of the whole network's."""
    from nasframe.nn.count import forward_macs

    if work.space is None:
        return 1.0
    rng, length = generator(0, "dry run"), 32
    archs = (sizes_of(work.space, work.space.domain.sample(rng)) for _ in range(SAMPLES))
    drawn = [forward_macs(work.net, arch, 1, length) for arch in archs]
    return sum(drawn) / len(drawn) / forward_macs(work.net, None, 1, length)


def describe_stages(plan: Plan, work: Work, example: float, share: float) -> list[dict[str, Any]]:
    """Describe what each stage would do, and how long it would take.

    Args:
        plan: the resolved recipe.
        work: what its first stage starts from.
        example: seconds that one example's forward takes.
        share: forward MACs of a drawn sub-network, as a share of the whole network's.

    Returns:
        Of each stage ``name``, ``verb``, ``what`` and ``seconds``.
    """
    rows = []
    for stage, outcome in zip(plan.stages, outcomes(plan.recipe), strict=True):
        rows.append(describe(stage, outcome, work, example, share))
    return rows


def describe(stage: PlannedStage, outcome: Outcome, work: Work, example: float, share: float) -> dict[str, Any]:
    """Say what one stage would do and how long it would take."""
    options, what, seconds = stage.options, stage.verb, OVERHEAD.get(stage.verb, 0.0)
    if stage.verb == "train":
        seconds, what = train_time(options, work, example, share)
    elif stage.verb == "search":
        trials = options.get("trials", 100)
        examples = min(options.get("examples") or work.task.sizes["select"], work.task.sizes["select"])
        final = options.get("finalists", 10) * work.task.sizes["select"] if options.get("examples") else 0
        seconds = (trials * examples + final) * example * share
        what = f"search, {trials} trials on {examples} examples"
    elif stage.verb == "evaluate":
        for split, models in outcome.measures.items():
            seconds += len(models) * work.task.sizes[split] * example * share
            what = f"evaluate on {split} ({work.task.sizes[split]} examples)"
    return {"name": stage.name, "verb": stage.verb, "what": what, "seconds": seconds}


def train_time(options: Any, work: Work, example: float, share: float) -> tuple[float, str]:
    """Estimate a training stage: three forwards' worth a sub-network, one more for each teacher."""
    how: TrainOptions = options["options"]
    batch = how.batch_size
    steps = how.max_steps or max(1, round((how.epochs or 1) * len(work.task.train_batches(0, 0, batch))))
    sampled = options.get("sampler") is not None
    passes = 3 * (share * how.archs_per_step if sampled else 1.0)
    passes += sum(asks_teacher(ref) for ref in options.get("modifiers", ()))
    return steps * batch * example * passes, f"train, {steps} steps of {batch}" + (", sub-networks" if sampled else "")
