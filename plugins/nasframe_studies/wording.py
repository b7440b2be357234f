"""How the numbers and lists of a comparison are written, in tables and in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nasframe.records import MetricFormat
from nasframe.report.format import titled
from nasframe.report.tables import difference
from nasframe_studies.records import Difference

NONE = "–"
"""A number that is not known, or a cell without a value."""


def plural(noun: str, count: int) -> str:
    """Return a noun as it stands after a number.

    >>> plural("seed", 1), plural("seed", 5)
    ('seed', 'seeds')
    """
    return noun if count == 1 else f"{noun}s"


def grouped(values: Mapping[str, Iterable[str]]) -> str:
    """Write the distinct values of arms, each with the arms that have it.

    >>> grouped({"a": ["1"], "b": ["2"], "c": ["1", "2"]})
    '1 (a, c), 2 (b, c)'
    """
    arms: dict[str, list[str]] = {}
    for arm, of_arm in values.items():
        for value in of_arm:
            arms.setdefault(value, []).append(arm)
    parts = [f"{value} ({', '.join(names)})" for value, names in arms.items()]
    return ", ".join(parts)


def written(value: float | None, spec: str) -> str:
    """Write a number by a format specification, with a true minus sign.

    >>> written(-1.256, ".2f"), written(None, ".2f")
    ('−1.26', '–')
    """
    if value is None:
        return NONE
    return format(value, spec).replace("-", "−")


def directed(metric: str, form: MetricFormat) -> str:
    """Write a metric with the class that it is about, and say so if less of it is better.

    >>> directed("loss", MetricFormat(higher_is_better=False)), directed("f1", MetricFormat(positive="spam"))
    ('loss, less is better', 'f1 (spam)')
    """
    name = titled(metric, form)
    return name if form.higher_is_better else f"{name}, less is better"


def verdict(form: MetricFormat, pair: Difference) -> str:
    """Write a verdict; of a metric of which less is better, say whether the arm is better.

    >>> verdict(MetricFormat(higher_is_better=False), Difference(n=5, mean=-0.1, arm="a", verdict="lower"))
    'lower (better)'
    """
    standing = pair.standing(form)
    if form.higher_is_better or not standing:
        return pair.verdict
    return f"{pair.verdict} ({standing})"


def number(form: MetricFormat, value: float) -> str:
    """Write a score in a table: shares times 100, without a sign.

    >>> number(MetricFormat(percent=True), 0.9183), number(MetricFormat(), 0.52), number(MetricFormat(), 0.00412)
    ('91.8', '0.520', '0.00412')
    """
    if form.percent:
        return f"{100 * value:.1f}"
    # Three decimals of a small number would leave it one digit or none.
    if value != 0 and abs(value) < 0.1:
        return f"{value:#.3g}"
    return f"{value:.3f}"


def mean_and_sd(form: MetricFormat, mean: float, sd: float | None) -> str:
    """Write a mean with its standard deviation, if it has one.

    >>> mean_and_sd(MetricFormat(percent=True), 0.91, 0.012)
    '91.0 ± 1.2'
    """
    text = number(form, mean)
    if sd is None:
        return text
    return f"{text} ± {number(form, sd)}"


def bounds(form: MetricFormat, low: float | None, high: float | None) -> str:
    """Write the interval of a difference, shares in points.

    >>> bounds(MetricFormat(percent=True), -0.001, 0.025)
    '[−0.10, +2.50]'
    """
    if low is None or high is None:
        return NONE
    return f"[{difference(form, low, 2)}, {difference(form, high, 2)}]"


def interval(form: MetricFormat, value: float | None, low: float | None, high: float | None) -> str:
    """Write a difference with its interval, if it has one; shares in points.

    >>> interval(MetricFormat(percent=True), 0.012, -0.001, 0.025)
    '+1.20 [−0.10, +2.50]'
    """
    text = difference(form, value, 2)
    if low is None:
        return text
    return f"{text} {bounds(form, low, high)}"


def p_value(p: float | None) -> str:
    """Write a p-value, shortened if it is small.

    >>> p_value(0.03125), p_value(0.00002), p_value(0.04999), p_value(1.0), p_value(None)
    ('0.0312', '<0.001', '<0.05', '1', '–')
    """
    if p is None:
        return NONE
    if p < 0.001:
        return "<0.001"
    if p < 0.01:
        return f"{p:.2g}"
    text = f"{p:.3g}"
    if text == "0.05" and p < 0.05:  # rounding must not hide on which side of the level it is
        return "<0.05"
    return text


def p_is(p: float | None) -> str:
    """Write a p-value in a sentence.

    >>> p_is(0.25), p_is(0.0)
    ('p = 0.25', 'p < 0.001')
    """
    text = p_value(p)
    if text.startswith("<"):
        return f"p < {text[1:]}"
    return f"p = {text}"
