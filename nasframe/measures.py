"""Which metrics a task measures, as far as its options alone say: what ``check`` and ``plugins show`` go by.

A task's factory may have a function ``measures(options, space)``; a task itself may have ``metrics``, the same by what
it found in its data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from nasframe.errors import listing, suggestion
from nasframe.interfaces import MeasuringTaskFactory, Task, TaskTraits, traits_of
from nasframe.records import MetricFormat

Measures = Callable[[Mapping[str, Any], Any], Mapping[str, MetricFormat] | None]
Factory = TypeVar("Factory", bound=Callable[..., Any])


def measures(metrics: Measures) -> Callable[[Factory], Factory]:
    """Tell of a task's factory which metrics its tasks may have.

    Args:
        metrics: (options, the recipe's space if it has no network) → metrics by name, the primary one first; without
            options all that some options give. ``None`` if only the data say.
    """

    def mark(factory: Factory) -> Factory:
        vars(factory)["measures"] = metrics
        return factory

    return mark


def possible_metrics(factory: Any, options: Mapping[str, Any], space: Any = None) -> Mapping[str, MetricFormat] | None:
    """Return the metrics that a task with these options may have; ``None`` if its factory does not tell."""
    if not isinstance(factory, MeasuringTaskFactory):
        return None
    return factory.measures(options, space)


def described(metrics: Mapping[str, MetricFormat]) -> str:
    """List metrics in one line, with what is particular about each.

    >>> described({"accuracy": MetricFormat(percent=True), "loss": MetricFormat(higher_is_better=False)})
    'accuracy (per cent), loss (less is better)'
    """
    parts = []
    for name, form in metrics.items():
        remarks = ["per cent"] if form.percent else []
        remarks += [] if form.higher_is_better else ["less is better"]
        remarks += ["dev only"] if form.dev_only else []
        parts.append(f"{name} ({', '.join(remarks)})" if remarks else name)
    return ", ".join(parts)


def formats_of(task: Task) -> dict[str, MetricFormat]:
    """Return how a task's metrics read; empty if it does not tell."""
    return dict(traits_of(TaskTraits, task).metrics or {})


def objective_fault(objective: str, metrics: Mapping[str, MetricFormat], costs: Iterable[str]) -> str:
    """Say why a search cannot go for an objective, or nothing.

    Args:
        objective: a metric, or a cost after ``-``.
        metrics: those of the task.
        costs: names of costs.

    >>> objective_fault("loss", {"loss": MetricFormat(higher_is_better=False)}, {"macs"})
    "a search would look for the largest 'loss', but less of it is better. Expected '-loss'."
    """
    name = objective.removeprefix("-")
    known = set(costs)
    if name in known and name not in metrics:
        if objective.startswith("-"):
            return ""
        return f"a search would look for the largest {name!r}, but less of a cost is better. Expected '-{name}'."
    if name not in metrics:
        there = {name for name, form in metrics.items() if not form.dev_only}
        hint = suggestion(name, there | known)
        return f"unknown metric or cost {name!r}. Metrics: {listing(there)}; costs: {listing(known)}.{hint}"
    form = metrics[name]
    if form.dev_only:
        return f"{name!r} is measured on dev alone, and searches look at select."
    if objective.startswith("-") and form.higher_is_better:
        return f"a search would look for the smallest {name!r}, but more of it is better. Expected {name!r}."
    if not objective.startswith("-") and not form.higher_is_better:
        return f"a search would look for the largest {name!r}, but less of it is better. Expected '-{name}'."
    return ""
