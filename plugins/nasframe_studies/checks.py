"""What of a study can be compared: checked before it begins, and told where in the end there is nothing."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.errors import UsageError, listing, suggestion
from nasframe.measures import formats_of
from nasframe.recipe.overrides import verb_of
from nasframe.records import canonical_json
from nasframe.search.budgets import winners

if TYPE_CHECKING:
    from nasframe.plan import Plan
    from nasframe_studies.file import Study

GLANCE = 16  # examples, of which a task tells what its metrics are called


def measured(plan: Plan) -> dict[str, set[str]]:
    """Name the models that a plan's stages evaluate, by split: all that may be there, found architectures included."""
    archs: set[str] = set()
    models: set[str] = set()
    found: dict[str, set[str]] = {}
    for stage in plan.recipe["stages"]:
        verb, options = verb_of(stage)
        saved, chosen = options.get("save_as"), options.get("archs")
        if verb == "search":
            archs.update(winners(str(saved), options.get("budgets") or plan.budgets))
        elif verb == "train":
            archs.add(saved or options["name"])
        if verb in ("train", "transform") and saved:
            models.add(saved)
        if verb in ("extract", "transform") and isinstance(chosen, Mapping):
            archs.update(chosen)
        if verb == "extract":
            models.update(_matching(archs, chosen))
        if verb == "evaluate":
            names = _matching(models or {options["name"]}, options.get("models"))
            found.setdefault(options["split"], set()).update(names)
    return found


def _matching(names: set[str], patterns: Any) -> set[str]:
    return {name for name in names if patterns is None or any(fnmatch(name, str(pattern)) for pattern in patterns)}


def faults(
    plans: Mapping[tuple[str, str], Plan], split: str, patterns: Sequence[Any]
) -> Iterator[tuple[int | None, str]]:
    """Say what in ``compare`` no run can satisfy: the split (``None``), or patterns of models, by number."""
    found = {place: measured(plan) for place, plan in plans.items()}
    lacking = {f"{arm} on {task}" if task else arm: names for (arm, task), names in found.items() if split not in names}
    if lacking:
        others = {other for names in lacking.values() for other in names}
        hint = f" Evaluated is {listing(others)}." if others else ""
        text = (
            f"no stage evaluates {split!r} in {listing(lacking)}. Expected one, as in 'evaluate: {{split: {split}}}'."
        )
        yield None, f"{text}{hint}"
        return
    known = {name for names in found.values() for name in names[split]}
    for number, pattern in enumerate(patterns):
        if known and not _matching(known, [pattern]):
            text = f"no model {str(pattern)!r} on {split!r}. Models: {listing(known)}."
            yield number, text + suggestion(str(pattern), known)


def group_faults(groups: Mapping[str, Sequence[str]], tasks: Collection[str]) -> Iterator[tuple[str, str]]:
    """Say by group which patterns fit no task, and which tasks another group has already.

    >>> list(group_faults({"half": ["*-50%"], "all": ["sst2*"]}, ["sst2-50%"]))
    [('all', "task 'sst2-50%' is in 'half' already. Expected one group a task.")]
    """
    taken: dict[str, str] = {}
    for group, patterns in groups.items():
        for pattern in patterns:
            fits = [task for task in tasks if fnmatch(task, pattern)]
            if not fits:
                yield group, f"no task {pattern!r}. Tasks: {listing(tasks)}.{suggestion(pattern, tasks)}"
            for task in fits:
                if (other := taken.setdefault(task, group)) != group:
                    yield group, f"task {task!r} is in {other!r} already. Expected one group a task."


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
    from nasframe.stages.inputs import Material

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
                primary = Material(plan).task.primary
            metrics.setdefault(primary, []).extend(own)
        if len(metrics) > 1:
            scored = ", ".join(f"{name} ({', '.join(own)})" for name, own in metrics.items())
            raise UsageError(
                f"{study.source}: compare.metric: {task}: the arms are scored by different metrics: {scored}. Expected"
                " one metric for all, as in 'compare: {metric: NAME}'."
            )


def _metrics(plan: Plan, metric: str, split: str) -> Collection[str]:
    """Name the metrics of a plan's task, from a glance at some examples unless the wanted one is its primary."""
    from nasframe.stages.inputs import Material
    from nasframe.training.optim import forward_of

    parts = Material(plan)
    task = parts.task
    form = formats_of(task).get(metric)
    if form is not None and not form.higher_is_better:
        raise UsageError(f"compare.metric: less is better of {metric!r}. Expected a score to maximise.")
    if metric == task.primary or parts.model is None:
        return [metric]
    net = parts.net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about numbers of so few examples, which nobody reads
        return task.evaluate(forward_of(net.eval(), net, "fp32"), split, GLANCE).metrics


def why_nothing(directory: Path, runs: Sequence[Mapping[str, Any]], compare: Mapping[str, Any]) -> str:
    """Say of runs that leave nothing to compare what they measured, beside what was wanted.

    Args:
        directory: what ``runs`` are read from.
        runs: as in ``study.yaml``: ``run`` is where each is.
        compare: ``metric``, ``split`` and ``models``, as wanted.
    """
    from nasframe.report.read import finished, gather

    ended = [directory / run["run"] for run in runs if finished(directory / run["run"])]
    if not ended:
        return "nothing to compare: no run is finished."
    models = [model for run in ended for model in gather(run)["models"]]
    metric, split, patterns = compare.get("metric"), compare.get("split", "dev"), compare.get("models") or []
    metrics = {name for model in models for name in model["metrics"].get(split, {})}
    names = {model["name"] for model in models if split in model["metrics"]}
    parts = [f"nothing to compare on {split!r}."]
    if not names:
        parts.append(f"The scores are on {listing({where for model in models for where in model['metrics']})}.")
    if metric is not None and metric not in metrics:
        parts.append(f"No metric {metric!r}. Metrics: {listing(metrics)}.{suggestion(metric, metrics)}")
    for pattern in patterns:
        if not _matching(names, [pattern]):
            parts.append(f"No model {pattern!r}. Models: {listing(names)}.{suggestion(pattern, names)}")
    place = directory if directory.name else "RUN…"
    return " ".join([*parts, f"To compare something else: nasframe compare {place} --metric … --split … --models …"])
