"""Whether the arms of a study measure what is to be compared."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import TYPE_CHECKING

from nasframe.errors import UsageError, listing, suggestion
from nasframe.measures import formats_of
from nasframe.records import canonical_json

if TYPE_CHECKING:
    from nasframe.plan import Plan
    from nasframe_studies.file import Study


def check_metric(study: Study) -> None:
    """Make sure, before any work, that every task has the metric that is compared; loads models and data.

    Without a metric, each task's primary one is compared, which must then be the same in all arms.

    Raises:
        UsageError: a task lacks the metric, or arms have different primary metrics on one task.
    """
    metric, split = study.compare["metric"], study.compare["split"]
    if metric is None:
        _check_primary(study)
    distinct = {}
    for plan in study.plans.values():
        key = canonical_json([plan.model, plan.task, str(plan.base), plan.recipe.get("plugins", [])])
        distinct[key] = plan
    for plan in distinct.values() if metric is not None else ():
        with plan.file_plugins():
            known = _metrics(plan, metric, split)
        if metric not in known:
            raise UsageError(
                f"{study.source}: compare.metric: task {plan.task.get('name') or plan.task['use']!r} has no metric"
                f" {metric!r} on {split!r}. Metrics: {listing(known)}.{suggestion(metric, known)}"
            )


def _check_primary(study: Study) -> None:
    """Make sure that arms whose options of a task differ still have the same primary metric on it."""
    from nasframe.stages.inputs import RunInputs

    arms: dict[str, dict[str, tuple[Plan, list[str]]]] = {}
    for (arm, task), plan in study.plans.items():
        options = canonical_json([plan.task, str(plan.base), plan.recipe.get("plugins", [])])
        name = task or str(plan.task.get("name") or plan.task["use"])
        arms.setdefault(name, {}).setdefault(options, (plan, []))[1].append(arm)
    for task, variants in arms.items():
        if len(variants) < 2:
            continue
        metrics: dict[str, list[str]] = {}
        for plan, own in variants.values():
            with plan.file_plugins():
                primary = RunInputs(plan).task.primary
            metrics.setdefault(primary, []).extend(own)
        if len(metrics) > 1:
            scored = ", ".join(f"{name} ({', '.join(own)})" for name, own in metrics.items())
            raise UsageError(
                f"{study.source}: compare.metric: {task}: the arms are scored by different metrics: {scored}. Expected"
                " one metric for all, as in 'compare: {metric: NAME}'."
            )


def _metrics(plan: Plan, metric: str, split: str) -> Collection[str]:
    """Name the metrics of a plan's task, from a glance at some examples unless the wanted one is its primary."""
    from nasframe.stages.inputs import RunInputs
    from nasframe.training.forward import forward_of

    inputs = RunInputs(plan)
    task = inputs.task
    form = formats_of(task).get(metric)
    if form is not None and not form.higher_is_better:
        raise UsageError(f"compare.metric: less is better of {metric!r}. Expected a score to maximise.")
    if metric == task.primary or inputs.model is None:
        return [metric]
    net = inputs.net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about numbers of so few examples, which nobody reads
        return task.evaluate(forward_of(net.eval(), net, "fp32"), split, GLANCE).metrics


GLANCE = 16  # examples, of which a task tells what its metrics are called
