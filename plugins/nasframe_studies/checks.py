"""What of a study can be compared: checked before it begins, and told where in the end there is nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.declarations import matching, measured_models
from nasframe.errors import listing, suggestion

if TYPE_CHECKING:
    from nasframe.plan import Plan


def faults(
    plans: Mapping[tuple[str, str], Plan], split: str, patterns: Sequence[Any]
) -> Iterator[tuple[int | None, str]]:
    """Say what in ``compare`` no run can satisfy: the split (``None``), or patterns of models, by number."""
    found = {place: measured_models(plan.recipe) for place, plan in plans.items()}
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
        if known and not matching(known, [pattern]):
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
        if not matching(names, [pattern]):
            parts.append(f"No model {pattern!r}. Models: {listing(names)}.{suggestion(pattern, names)}")
    place = directory if directory.name else "RUN…"
    return " ".join([*parts, f"To compare something else: nasframe compare {place} --metric … --split … --models …"])
