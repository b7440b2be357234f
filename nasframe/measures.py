"""The metrics of a task: before a run, as far as its options tell, and in a run, from its data.

``nasframe check`` and ``plugins show`` ask the task's factory (``measures(options, space)``); a run asks the task
itself (``metrics``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from nasframe.errors import listing, suggestion
from nasframe.interfaces import Evaluator, MeasuringTaskFactory, Task, TaskTraits, traits_of
from nasframe.records import CostFormat, ErrorKind, MetricFormat

Measures = Callable[[Mapping[str, Any], Any], Mapping[str, MetricFormat] | None]
Factory = TypeVar("Factory", bound=Callable[..., Any])
CORRELATIONS = ("mcc", "pearson", "spearman")
"""Metrics that are near 0 for guesses, however the labels are distributed."""
LEAST_CORRELATION = 0.1
"""What a network that has learned its labels reaches at least."""


def measures(metrics: Measures) -> Callable[[Factory], Factory]:
    """Return a decorator that adds the metrics of its tasks to a factory.

    Args:
        metrics: (options, the recipe's space if it has no network) → metrics by name, the primary one first; without
            options, the metrics under any options; ``None`` if only the data tell.
    """

    def mark(factory: Factory) -> Factory:
        vars(factory)["measures"] = metrics
        return factory

    return mark


def possible_metrics(factory: Any, options: Mapping[str, Any], space: Any = None) -> Mapping[str, MetricFormat] | None:
    """Return the metrics that a task with these options may have, ``None`` if its factory does not know."""
    if not isinstance(factory, MeasuringTaskFactory):
        return None
    return factory.measures(options, space)


def described(metrics: Mapping[str, MetricFormat]) -> str:
    """Return metrics in one line, with remarks on those that are not plain numbers to maximise.

    >>> described({"accuracy": MetricFormat(percent=True), "loss": MetricFormat(higher_is_better=False)})
    'accuracy (per cent), loss (less is better)'
    """
    parts = []
    for name, form in metrics.items():
        remarks = []
        if form.percent:
            remarks.append("per cent")
        if not form.higher_is_better:
            remarks.append("less is better")
        if form.dev_only:
            remarks.append("dev only")
        parts.append(f"{name} ({', '.join(remarks)})" if remarks else name)
    return ", ".join(parts)


def formats_of(task: Task) -> dict[str, MetricFormat]:
    """Return the formats of a task's metrics, empty if it has none."""
    return dict(traits_of(TaskTraits, task).metrics or {})


PRIMARY = "primary"
"""The objective that stands for the first metric of a search's evaluator: the task's primary one, as a rule."""


@dataclass(frozen=True)
class SearchMetrics:
    """What the trials of a search are measured by.

    Args:
        formats: the evaluator's metrics and how they read, the first one first.
    """

    formats: Mapping[str, MetricFormat]

    @property
    def default(self) -> str:
        """The objective of a search that names none: the first metric, after ``-`` if less of it is better."""
        return objective_in(self.formats, next(iter(self.formats)))

    def named(self, objectives: Sequence[str]) -> list[str]:
        """Return objectives with the name of the first metric in place of ``primary``.

        >>> SearchMetrics({"loss": MetricFormat(higher_is_better=False)}).named(["primary", "-macs"])
        ['-loss', '-macs']
        """
        return [self.default if name == PRIMARY else name for name in objectives]

    def error_kind(self, objective: str) -> ErrorKind:
        """Return how the standard error of an objective is computed; a cost has no sampling error."""
        form = self.formats.get(objective.removeprefix("-"))
        return "unknown" if form is None else form.error_kind

    def besides(self, task: Task) -> dict[str, Any]:
        """Return the metrics that the task does not measure, JSON-plain: name → how it reads."""
        of_task = {task.primary, *formats_of(task)}
        return {name: asdict(form) for name, form in self.formats.items() if name not in of_task}


def search_metrics(evaluator: Evaluator, task: Task) -> SearchMetrics:
    """Return what a search with an evaluator measures of its trials.

    Raises:
        UsageError: the task does not measure what the evaluator needs.
    """
    return SearchMetrics(evaluator.metrics(task.primary, formats_of(task)))


def objective_of(task: Task) -> str:
    """Return the objective of a search that names none: the primary metric, after ``-`` if less of it is better.

    >>> from nasframe.testing.toy import ToyTask
    >>> objective_of(ToyTask())
    'accuracy'
    """
    return objective_in(formats_of(task), task.primary)


def objective_in(formats: Mapping[str, MetricFormat], metric: str) -> str:
    """Return a metric as an objective: after ``-`` if its format says that less is better."""
    form = formats.get(metric)
    return metric if form is None or form.higher_is_better else f"-{metric}"


def sign_of(form: MetricFormat | CostFormat) -> float:
    """Return the factor that makes the values of a metric or a cost numbers to maximise.

    >>> sign_of(MetricFormat()), sign_of(MetricFormat(higher_is_better=False)), sign_of(CostFormat())
    (1.0, -1.0, -1.0)
    """
    return 1.0 if form.higher_is_better else -1.0


def score_of(task: Task, metrics: Mapping[str, float]) -> float:
    """Return the number to maximise: the primary metric's value, negated if less of it is better."""
    value = metrics[task.primary]
    return -value if objective_of(task).startswith("-") else value


def objective_fault(
    objective: str, metrics: Mapping[str, MetricFormat], costs: Iterable[str], higher_is_better: bool = False
) -> str:
    """Return the reason why a search cannot have an objective, or an empty text.

    Args:
        objective: a metric, or a cost after ``-``.
        metrics: those of the task.
        costs: names of costs.
        higher_is_better: whether the objective is a cost of which more is better.

    >>> objective_fault("loss", {"loss": MetricFormat(higher_is_better=False)}, {"macs"})
    "a search would look for the largest 'loss', but less of it is better. Expected '-loss'."
    """
    name = objective.removeprefix("-")
    is_minimised = objective.startswith("-")
    known = set(costs)
    if name in metrics:  # a metric wins over a cost of the same name, as in a search
        form = metrics[name]
        if form.dev_only:
            return f"{name!r} is measured on dev alone, and searches look at select."
        return _direction_fault(name, "it", is_minimised, form.higher_is_better)
    if name in known:
        return _direction_fault(name, "a cost", is_minimised, higher_is_better)
    usable = {metric for metric, form in metrics.items() if not form.dev_only}
    hint = suggestion(name, usable | known)
    return f"unknown metric or cost {name!r}. Metrics: {listing(usable)}; costs: {listing(known)}.{hint}"


def _direction_fault(name: str, noun: str, is_minimised: bool, higher_is_better: bool) -> str:
    """Return the reason why a search would look in the wrong direction, or an empty text."""
    if is_minimised and higher_is_better:
        return f"a search would look for the smallest {name!r}, but more of it is better. Expected {name!r}."
    if not is_minimised and not higher_is_better:
        return f"a search would look for the largest {name!r}, but less of {noun} is better. Expected '-{name}'."
    return ""


def loss_fault(metrics: Mapping[str, MetricFormat]) -> str:
    """Return the reason why a search cannot choose its winner by the loss, or an empty text.

    >>> loss_fault({"accuracy": MetricFormat(percent=True)})
    "chooses by the metric 'loss', which the task does not measure on select. It measures: accuracy."
    """
    form = metrics.get("loss")
    if form is not None and not form.dev_only and not form.higher_is_better:
        return ""
    usable = [name for name, metric_format in metrics.items() if not metric_format.dev_only]
    return f"chooses by the metric 'loss', which the task does not measure on select. It measures: {listing(usable)}."
