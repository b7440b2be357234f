"""Whether the tasks of a study have the metric that it compares: asked of the tasks themselves, before any work."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nasframe import registry
from nasframe.errors import UsageError, listing, suggestion
from nasframe.measures import possible_metrics
from nasframe.records import MetricFormat, canonical_json
from nasframe_studies.file import Study, origin, task_name

if TYPE_CHECKING:
    from nasframe.plan import Plan

EXAMPLES = 16
"""Examples on which a task is evaluated to learn the names of its metrics."""


def check_metric(study: Study) -> None:
    """Make sure that every task has the metric that is compared; loads models and data unless options tell.

    If the study names no metric, each task's primary one is compared, which must then be the same in all arms.

    Raises:
        UsageError: a task lacks the metric, or arms have different primary metrics on one task.
    """
    metric = study.compare.metric
    if metric is None:
        _check_primary(study)
        return
    split = study.compare.split
    for plan in _distinct_tasks(study):
        with plan.file_plugins():
            metrics = _metrics(plan, metric, split)
        if metric not in metrics:
            raise UsageError(
                f"{study.source}: compare.metric: task {task_name(plan)!r} has no metric {metric!r} on {split!r}."
                f" Metrics: {listing(metrics)}.{suggestion(metric, metrics)}"
            )


def _distinct_tasks(study: Study) -> Collection[Plan]:
    """Return one plan for each model on each task: the metrics of all others with it are the same."""
    plans = {}
    for plan in study.plans.values():
        key = canonical_json(origin(plan))
        plans[key] = plan
    return plans.values()


@dataclass(frozen=True)
class _Variant:
    """A task with the options that some arms give it.

    Args:
        plan: one of theirs.
        arms: their names.
    """

    plan: Plan
    arms: list[str] = field(default_factory=list)


def _check_primary(study: Study) -> None:
    """Make sure that arms that give a task different options still have the same primary metric on it."""
    variants_of: dict[str, dict[str, _Variant]] = {}  # task → its options, as text → the variant
    for (arm, task), plan in study.plans.items():
        _, *of_task = origin(plan)  # without the model, which has no part in a task's primary metric
        options = canonical_json(of_task)
        variants = variants_of.setdefault(task or task_name(plan), {})
        variant = variants.setdefault(options, _Variant(plan))
        variant.arms.append(arm)
    for task, variants in variants_of.items():
        if len(variants) == 1:  # all arms have one task, and no data need be loaded to know its metric
            continue
        arms_of: dict[str, list[str]] = {}
        for variant in variants.values():
            metric = _primary(variant.plan)
            arms_of.setdefault(metric, []).extend(variant.arms)
        if len(arms_of) > 1:
            metrics = ", ".join(f"{metric} ({', '.join(arms)})" for metric, arms in arms_of.items())
            raise UsageError(
                f"{study.source}: compare.metric: {task}: the arms are scored by different metrics: {metrics}. Expected"
                " one metric for all, as in 'compare: {metric: NAME}'."
            )


def _primary(plan: Plan) -> str:
    """Return the primary metric of a plan's task."""
    from nasframe.stages.inputs import RunInputs

    with plan.file_plugins():
        return RunInputs(plan).task.primary


def _declared(plan: Plan) -> Mapping[str, MetricFormat]:
    """Return the metrics that follow from a task's options, the usual one first; empty if only its data tell."""
    if not plan.model:  # the metrics may be those of the space
        return {}
    factory = registry.find("task", plan.task["use"]).load()
    options = {name: value for name, value in plan.task.items() if name != "use"}
    return possible_metrics(factory, options) or {}


def _metrics(plan: Plan, metric: str, split: str) -> Collection[str]:
    """Return the metrics of a plan's task, measured on a few examples unless ``metric`` is its primary one."""
    declared = _declared(plan)
    if metric == next(iter(declared), None):  # every such task has it, so that neither data nor model are loaded
        return [metric]
    from nasframe.stages.inputs import RunInputs
    from nasframe.training.forward import forward_of

    inputs = RunInputs(plan)
    task = inputs.task
    # A task has its primary metric by contract. A space without a network has nothing that could be evaluated here.
    if metric == task.primary or inputs.model is None:
        return [metric]
    net = inputs.net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are about scores on so few examples, which nobody reads
        forward = forward_of(net.eval(), net, "fp32")
        return task.evaluate(forward, split, EXAMPLES).metrics
