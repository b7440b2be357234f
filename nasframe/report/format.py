"""How metrics and costs are written: as task and estimators declare it, or as earlier versions understood their names.

A run keeps what they declare, so a report of it needs none of its plugins.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from nasframe.declarations import COSTS
from nasframe.records import CostFormat, MetricFormat

BESIDE = "beside."
"""Begins the columns of a study's table that hold companions of the compared metric."""
PLAIN = MetricFormat()
EARLIER = {
    "accuracy": MetricFormat(percent=True),
    "f1": MetricFormat(percent=True),
    "accuracy_f1": MetricFormat(percent=True),
    "macro_f1": MetricFormat(percent=True),
    "accuracy_mismatched": MetricFormat(percent=True, companion=True, dev_only=True),
    "loss": MetricFormat(higher_is_better=False),
}
"""Those of nasframe's own metrics that are no plain numbers to maximise, for runs older than the formats of tasks."""
PLAIN_COST = CostFormat()
EARLIER_COSTS = {
    "params": CostFormat("parameters", "params"),
    "backbone_params": CostFormat("parameters", "backbone"),
    "encoder_params": CostFormat("parameters", "encoder", highlight="encoder parameters"),
    "macs": CostFormat("MACs", "MACs", highlight="MACs"),
    "size": CostFormat("bytes", "size"),
    "latency": CostFormat("ms", "latency", highlight="latency"),
}
"""Nasframe's own costs, for runs that are older than the formats of estimators."""
ABOUT_MEASUREMENTS = ("spread", "cached")
"""What follows a measured cost's name in the entries next to it that describe its measurement, and are no costs."""

# ---- metrics


def metric_formats(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return metric → its format as plain data; a run from before tasks declared formats gets :data:`EARLIER`.

    Args:
        data: the fact ``data`` of the run.
    """
    formats = data.get("metrics")
    if formats is not None:
        return dict(formats)
    return {name: asdict(form) for name, form in EARLIER.items()}


def with_search_metrics(data: Mapping[str, Any], results: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the fact ``data`` of a run, with the formats of metrics that evaluators of its searches measured besides.

    Args:
        data: the fact.
        results: what the run's stages reported about themselves.

    >>> with_search_metrics({"primary": "f1", "metrics": {}}, [{"metrics": {"snip": {"percent": False}}}, {}])
    {'primary': 'f1', 'metrics': {'snip': {'percent': False}}}
    """
    besides: dict[str, Any] = {}
    for result in results:
        besides |= result.get("metrics") or {}
    if not besides:
        return data
    return {**data, "metrics": besides | metric_formats(data)}


def metric_format(formats: Mapping[str, Mapping[str, Any]], metric: str) -> MetricFormat:
    """Return how a metric reads; one without a format is a plain number.

    Args:
        formats: metric → its format as plain data.
        metric: its name; a logged one may have its split and model before it.

    >>> formats = {"accuracy": {"percent": True}, "f1": {"percent": True}}
    >>> metric_format(formats, "best@50% select_accuracy").percent, metric_format(formats, "f1_loss").percent
    (True, False)
    """
    _, _, name = metric.rpartition(" ")
    fields = formats.get(name)
    if fields is None:
        fields = formats.get(name.removeprefix("select_"))
    if fields is None:
        return PLAIN
    return MetricFormat(**fields)


def merged(forms: Iterable[MetricFormat]) -> MetricFormat:
    """Return how the mean over several metrics, or over several runs, reads.

    >>> form = merged([MetricFormat(percent=True, positive="a"), MetricFormat(positive="b")])
    >>> form.percent, form.positive
    (True, 'a, b')
    """
    whole = PLAIN
    classes = set()
    for form in forms:
        if form.positive is not None:
            classes.add(form.positive)
        whole = MetricFormat(
            percent=whole.percent or form.percent,
            higher_is_better=whole.higher_is_better and form.higher_is_better,
            companion=whole.companion or form.companion,
            dev_only=whole.dev_only or form.dev_only,
        )
    # Tasks may have different positive classes; a table over several of them names all.
    return replace(whole, positive=", ".join(sorted(classes)) or None)


def titled(metric: str, form: MetricFormat) -> str:
    """Return the name of a metric in a table, with the class that it is about.

    >>> titled("f1", MetricFormat(positive="spam"))
    'f1 (spam)'
    """
    if form.positive is None:
        return metric
    return f"{metric} ({form.positive})"


# ---- costs


def cost_formats(recorded: Mapping[str, Mapping[str, Any]] | None) -> dict[str, CostFormat]:
    """Return cost → its format; a run from before estimators declared formats gets :data:`EARLIER_COSTS`.

    Args:
        recorded: the fact ``costs`` of the run.
    """
    if recorded is None:
        return dict(EARLIER_COSTS)
    return {name: CostFormat(**fields) for name, fields in recorded.items()}


def cost_heading(name: str, form: CostFormat) -> str:
    """Return the heading of a cost's column.

    >>> cost_heading("encoder_params", CostFormat(heading="encoder")), cost_heading("peak_memory", CostFormat("bytes"))
    ('encoder', 'peak memory')
    """
    return form.heading or name.replace("_", " ")


def following_unit(form: CostFormat) -> str:
    """Return the unit to write after a cost's number, with a space before it; empty if the heading says it.

    >>> [following_unit(form) for form in (CostFormat("mJ"), CostFormat("MACs", "MACs"), CostFormat("ms", "latency"))]
    [' mJ', '', ' ms']
    """
    if not form.unit:
        return ""
    if form.heading and form.unit != "ms":
        return ""
    return f" {form.unit}"


def in_column_order(costs: Iterable[str]) -> list[str]:
    """Sort costs as tables have them: nasframe's usual ones first, in their order, then the others by name.

    >>> in_column_order(["size", "energy", "params", "bits"])
    ['params', 'size', 'bits', 'energy']
    """
    names = set(costs)
    usual = [name for name in COSTS if name in names]
    return [*usual, *sorted(names.difference(usual))]


def is_about_measurement(name: str, costs: Collection[str]) -> bool:
    """Tell whether an entry next to a model's costs describes a measurement: its spread, or that it was taken earlier.

    >>> is_about_measurement("latency_spread", ["latency"]), is_about_measurement("latency_of_8", ["latency"])
    (True, False)
    """
    measured, _, what = name.rpartition("_")
    return what in ABOUT_MEASUREMENTS and measured in costs
