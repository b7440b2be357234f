"""How metrics are written: as the run's task declares it, or as earlier versions understood their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from nasframe.records import MetricFormat

BESIDE = "beside."
"""Begins the columns of a study's table that hold companions of the compared metric."""
PLAIN = MetricFormat()
EARLIER = {name: MetricFormat(percent=True) for name in ("accuracy", "f1", "accuracy_f1", "macro_f1")}
EARLIER["accuracy_mismatched"] = MetricFormat(percent=True, companion=True, dev_only=True)
"""The shares among nasframe's own metrics, for runs that are older than the formats of tasks."""


def told(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return metric → its format as plain data; a run from before tasks declared formats gets :data:`EARLIER`.

    Args:
        data: the fact ``data`` of the run.
    """
    formats = data.get("metrics")
    if formats is not None:
        return dict(formats)
    return {name: asdict(form) for name, form in EARLIER.items()}


def metric_format(formats: Mapping[str, Mapping[str, Any]], metric: str) -> MetricFormat:
    """Return how a metric reads; one without a format is a plain number.

    Args:
        formats: metric → its format as plain data.
        metric: its name; a logged one may have its split and model before it.

    >>> formats = {"accuracy": {"percent": True}, "f1": {"percent": True}}
    >>> metric_format(formats, "best@50% select_accuracy").percent, metric_format(formats, "f1_loss").percent
    (True, False)
    """
    name = metric.rpartition(" ")[2]
    fields = formats.get(name)
    if fields is None:
        fields = formats.get(name.removeprefix("select_"))
    return PLAIN if fields is None else MetricFormat(**fields)


def of_run(report: Mapping[str, Any], metric: str) -> MetricFormat:
    """Return how a metric reads; see :func:`metric_format`.

    Args:
        report: the content of ``report.json``, or any mapping with its ``formats``.
        metric: its name.
    """
    return metric_format(report["formats"], metric)


def of_study(report: Mapping[str, Any], task: str, metric: str) -> MetricFormat:
    """Return how a metric reads in a comparison's table.

    Args:
        report: the comparison.
        task: the task of the table; the name of a group of tasks stands for all tasks.
        metric: its name, or several with commas between them; their mean is a share if any of them is.
    """
    by_task: Mapping[str, Mapping[str, Any]] = report.get("formats", {})
    chosen = [by_task[task]] if task in by_task else list(by_task.values())
    forms = []
    for name in metric.split(", "):
        for formats in chosen:
            if name in formats:
                forms.append(MetricFormat(**formats[name]))
        if not by_task:
            forms.append(EARLIER.get(name, PLAIN))
    return merged(forms)


def merged(forms: Iterable[MetricFormat]) -> MetricFormat:
    """Return how the mean over several metrics, or over several runs, reads.

    >>> form = merged([MetricFormat(percent=True, positive="a"), MetricFormat(positive="b")])
    >>> form.percent, form.positive
    (True, 'a, b')
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
    """Return the name of a metric in a table, with the class that it is about.

    >>> titled("f1", MetricFormat(positive="spam"))
    'f1 (spam)'
    """
    return metric if form.positive is None else f"{metric} ({form.positive})"
