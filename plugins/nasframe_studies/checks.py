"""Checks that a study's recipes will measure what it compares; they load no models and no data."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

from nasframe.declarations import matching, measured_models
from nasframe.errors import listing, suggestion

if TYPE_CHECKING:
    from nasframe.plan import Plan


def comparison_problems(
    plans: Mapping[tuple[str, str], Plan], split: str, patterns: Sequence[Any]
) -> Iterator[tuple[int | None, str]]:
    """Yield what in ``compare`` no run can satisfy.

    Args:
        plans: (arm, task) → the plan; the task is ``""`` if there are none.
        split: the split that is compared.
        patterns: patterns of the models that are compared.

    Yields:
        The number of a pattern that fits no model, or ``None`` for the split; and the problem.
    """
    models_of = {place: measured_models(plan.recipe) for place, plan in plans.items()}
    # A split must be evaluated in every arm on every task: a run without it would have no row in the table.
    lacking = []
    other_splits: set[str] = set()
    for (arm, task), models in models_of.items():
        if split not in models:
            lacking.append(f"{arm} on {task}" if task else arm)
            other_splits.update(models)
    if lacking:
        text = f"no stage evaluates {split!r} in {listing(lacking)}."
        text += f" Expected one, as in 'evaluate: {{split: {split}}}'."
        if other_splits:
            text += f" Evaluated splits: {listing(other_splits)}."
        yield None, text
        return
    # A pattern need fit a model of one arm only: arms may reach one size by models of different names.
    names: set[str] = set()
    for models in models_of.values():
        names |= models[split]
    if not names:  # no plan could be resolved, which is reported by itself
        return
    for number, pattern in enumerate(patterns):
        if not matching(names, [pattern]):
            hint = suggestion(str(pattern), names)
            yield number, f"no model {str(pattern)!r} on {split!r}. Models: {listing(names)}.{hint}"


def group_problems(groups: Mapping[str, Sequence[str]], tasks: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield, by group, patterns that fit no task, and tasks that are in another group already.

    >>> list(group_problems({"half": ["*-50%"], "all": ["sst2*"]}, ["sst2-50%"]))
    [('all', "task 'sst2-50%' is in 'half' already. Expected each task in one group.")]
    """
    group_of: dict[str, str] = {}
    for group, patterns in groups.items():
        for pattern in patterns:
            matches = [task for task in tasks if fnmatch(task, pattern)]
            if not matches:
                yield group, f"no task {pattern!r}. Tasks: {listing(tasks)}.{suggestion(pattern, tasks)}"
            for task in matches:
                # Two patterns of one group may fit a task; a second group would compare its models twice.
                other = group_of.setdefault(task, group)
                if other != group:
                    yield group, f"task {task!r} is in {other!r} already. Expected each task in one group."
