"""What of a study can be compared: checked before it begins, and told where in the end there is nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.errors import listing, suggestion
from nasframe.recipe.overrides import verb_of
from nasframe.search.budgets import winners

if TYPE_CHECKING:
    from nasframe.plan import Plan


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
