"""What a run would do, without doing it: stages, reachable costs, and a time estimated from one measured step."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

from nasframe import registry
from nasframe.costs import cost_function
from nasframe.processes import device
from nasframe.scoring import parse_bounds
from nasframe.streams import generator, stream_seed
from nasframe.types import TrainOptions, Work

if TYPE_CHECKING:
    from nasframe.resolve import Plan, PlannedStage

SAMPLES = 64  # architectures whose mean stands for what a sampler will propose
OVERHEAD = {"transform": 2.0, "extract": 1.0, "evaluate": 5.0, "export": 12.0}  # seconds besides matrix products


def dry_run(plan: Plan) -> dict[str, Any]:
    """Describe what a plan would do.

    Loads the model and the data, since sizes and speed come from them, and times a few training steps; writes nothing.

    Args:
        plan: the resolved recipe.

    Returns:
        ``stages`` (name, verb, what, seconds), ``costs`` (name → smallest, largest, full, unit), ``limits``
        (text, bound, reachable, nearest) and ``seconds`` in all, estimated for this machine.
    """
    model = registry.make("model", plan.model, {"base": plan.base})
    inject = {"tokenizer": model.tokenizer(), "seed": stream_seed(plan.seed, "split"), "base": plan.base}
    task = registry.make("task", plan.task, inject)
    net = model.load(task.labels, stream_seed(plan.seed, "init")).to(device())
    space = registry.make("space", plan.space, {"config": net.config}) if plan.space else None
    work = Work(net, inject["tokenizer"], task, space)
    costs, limits = reachable(plan, work) if space else ({}, [])
    example, share = forward_seconds(work), mean_share(work)
    stages = [describe(stage, work, example, share) for stage in plan.stages]
    return {"stages": stages, "costs": costs, "limits": limits, "seconds": sum(row["seconds"] for row in stages)}


def reachable(plan: Plan, work: Work) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Find the range of every bounded cost, and whether each bound leaves anything."""
    texts = [(name, text) for name, text in plan.constraints.items()]
    texts += [(name, t) for name, ts in plan.budgets.items() for t in (ts if isinstance(ts, list | tuple) else [ts])]
    names = sorted({name for name, _ in texts} | {"params", "macs"})
    estimators = {name: registry.make("estimator", plan.estimators.get(name, name)) for name in names}
    space: Any = work.space
    cost, domain = cost_function(estimators, space, work.net), space.domain
    rng = generator(plan.seed, "dry run")
    ends = [domain.smallest(), domain.largest()] if hasattr(domain, "smallest") else []
    found = [cost(arch) for arch in [*ends, *(domain.sample(rng) for _ in range(SAMPLES))]]
    full = {name: estimators[name].estimate(work.space, work.net, None) for name in names}
    costs = {
        name: {
            "smallest": min(row[name] for row in found), "largest": max(row[name] for row in found),
            "full": full[name], "unit": estimators[name].unit,
        }
        for name in names
    }  # fmt: skip
    limits = []
    for name, text in texts:
        bounds = parse_bounds(text, full[name])
        values = sorted((row[name] for row in found), key=bounds.violation)
        met = bounds.violation(values[0]) == 0 or None  # None: no sample met it, which proves nothing
        limits.append({"cost": name, "text": str(text), "reachable": met, "nearest": values[0]})
        smallest, largest = costs[name]["smallest"], costs[name]["largest"]
        if bounds.violation(smallest) and bounds.violation(largest) and not (smallest < bounds.low <= largest):
            limits[-1]["reachable"] = False
    return costs, limits


def forward_seconds(work: Work) -> float:
    """Estimate the seconds of one example's forward: a third of its share of a training step here."""
    from nasframe.nn.count import forward_macs
    from nasframe.nn.optim import autocast

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
    drawn = [forward_macs(work.net, work.space.domain.sample(rng), 1, length) for _ in range(SAMPLES)]
    return sum(drawn) / len(drawn) / forward_macs(work.net, None, 1, length)


def describe(stage: PlannedStage, work: Work, example: float, share: float) -> dict[str, Any]:
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
        split = options.get("split", "dev")
        seconds += 7 * work.task.sizes[split] * example * share
        what = f"evaluate on {split} ({work.task.sizes[split]} examples)"
    return {"name": stage.name, "verb": stage.verb, "what": what, "seconds": seconds}


def train_time(options: Any, work: Work, example: float, share: float) -> tuple[float, str]:
    """Estimate a training stage: three forwards' worth a sub-network, one more for each teacher."""
    how: TrainOptions = options["options"]
    batch = how.batch_size
    steps = how.max_steps or max(1, round((how.epochs or 1) * len(work.task.train_batches(0, 0, batch))))
    sampled = options.get("sampler") is not None
    passes = 3 * (share * how.archs_per_step if sampled else 1.0)
    passes += sum(1 for ref in options.get("modifiers", ()) if isinstance(ref, dict) and "teacher" in ref)
    return steps * batch * example * passes, f"train, {steps} steps of {batch}" + (", sub-networks" if sampled else "")
