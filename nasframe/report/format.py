"""How the metrics of a report read: what the run's task told, kept in its store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from nasframe.records import MetricFormat

BESIDE = "beside."
"""Begins the columns of a study's table that hold what stands beside the compared metric."""
PLAIN = MetricFormat()
EARLIER = {name: MetricFormat(percent=True) for name in ("accuracy", "f1", "accuracy_f1", "macro_f1")}
EARLIER["accuracy_mismatched"] = MetricFormat(percent=True, companion=True, dev_only=True)
"""The shares among nasframe's own metrics, for runs from before a task told how its metrics read."""


def told(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return how each metric of a run reads, as its task told, or as it was understood when tasks did not tell.

    Args:
        data: what the run keeps of its data.
    """
    formats = data.get("metrics")
    return dict(formats) if formats is not None else {name: asdict(form) for name, form in EARLIER.items()}


def of_run(report: Mapping[str, Any], metric: str) -> MetricFormat:
    """Return how a metric of a run's report reads; a logged one may have its split and model before it.

    >>> of_run({"formats": {"accuracy": {"percent": True}}}, "best@50% select_accuracy").percent
    True
    >>> of_run({"formats": {"f1": {"percent": True}}}, "f1_loss").percent
    False
    """
    name = metric.rpartition(" ")[2]
    formats: Mapping[str, Mapping[str, Any]] = report["formats"]
    found = formats.get(name, formats.get(name.removeprefix("select_")))
    return PLAIN if found is None else MetricFormat(**found)


def of_study(report: Mapping[str, Any], task: str, metric: str) -> MetricFormat:
    """Return how a metric reads in a comparison's table.

    Args:
        report: the comparison.
        task: the task of the table; one that no run is of stands for all of them.
        metric: its name, or those of several tasks with commas between, whose mean is a share if any of them is.
    """
    known: Mapping[str, Mapping[str, Any]] = report.get("formats", {})
    chosen = [known[task]] if task in known else list(known.values())
    forms = []
    for name in metric.split(", "):
        own = [MetricFormat(**formats[name]) for formats in chosen if name in formats]
        forms += own or ([] if known else [EARLIER.get(name, PLAIN)])
    return merged(forms)


def merged(forms: Iterable[MetricFormat]) -> MetricFormat:
    """Return how numbers read that were averaged over several metrics, or over several runs.

    >>> merged([MetricFormat(percent=True, positive="a"), MetricFormat(positive="b")])
    MetricFormat(percent=True, higher_is_better=True, positive='a, b', companion=False, dev_only=False)
    """
    every = list(forms)
    classes = sorted({form.positive for form in every if form.positive is not None})
    return MetricFormat(
        percent=any(form.percent for form in every),
        higher_is_better=all(form.higher_is_better for form in every),
        positive=", ".join(classes) or None,
        companion=any(form.companion for form in every),
        dev_only=any(form.dev_only for form in every),
    )


def titled(metric: str, form: MetricFormat) -> str:
    """Name a metric in a table, with the class that it is about.

    >>> titled("f1", MetricFormat(positive="spam"))
    'f1 (spam)'
    """
    return metric if form.positive is None else f"{metric} ({form.positive})"
