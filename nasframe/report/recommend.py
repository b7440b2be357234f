"""The recommendation in plain words that opens the report of a run: which models to ship, and what they lose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from nasframe.measures import CORRELATIONS, LEAST_CORRELATION, sign_of
from nasframe.records import MetricFormat
from nasframe.report import tables
from nasframe.report.format import PLAIN_COST, cost_heading, in_column_order, titled
from nasframe.report.records import Measure, ModelRow, Recommendation, RunReport
from nasframe.report.roles import shipped


def recommendations(report: RunReport) -> list[Recommendation]:
    """Say of each model to ship what it costs and what it loses; models that are one network are named together."""
    chosen = []
    told: list[ModelRow] = []
    for model in shipped(report.models):
        if model.score is None:
            continue
        twin = next((other for other in told if _same_network(model, other)), None)
        if twin is not None:
            text = f"{model.name} is the same network as {twin.name}."
            chosen.append(Recommendation(model.name, model.budget, text))
            continue
        told.append(model)
        chosen.append(Recommendation(model.name, model.budget, _sentence(report, model)))
    doubt = teacher_doubt(report)
    if doubt and chosen:
        chosen[0] = replace(chosen[0], text=f"{chosen[0].text} {doubt}")
    return chosen


def teacher_doubt(report: RunReport) -> str:
    """Say that the teacher has not learned its labels; nothing if it has, or if the report cannot tell.

    Everything is compared with the teacher, so a network "as good as the teacher" may then be worth nothing.

    Args:
        report: of a run.
    """
    teacher = next((row for row in report.models if row.role == "teacher"), None)
    if teacher is None:
        return ""
    metrics = teacher.metrics.get(report.split, {})
    correlations = [name for name in CORRELATIONS if name in metrics]
    if correlations:
        name = max(correlations, key=lambda correlation: metrics[correlation])
        if metrics[name] > LEAST_CORRELATION:
            return ""
        score = f"{tables.metric(report.metric_format(name), metrics[name])} {titled(name, report.metric_format(name))}"
        return f"The teacher does no better than chance: {score} on {report.split}. {MEANINGLESS}"
    largest, label = _largest_class(report)
    if "accuracy" not in metrics or metrics["accuracy"] > largest:
        return ""
    form = report.metric_format("accuracy")
    return (
        f"The teacher does no better than chance: {tables.metric(form, metrics['accuracy'])} accuracy on "
        f"{report.split}, where {label!r} for every example has {tables.metric(form, largest)}. {MEANINGLESS}"
    )


MEANINGLESS = "So comparisons with it say little: train a better one first."


def _largest_class(report: RunReport) -> tuple[float, str]:
    """Return the share of the most frequent class on the report's split, and its name; 0 if it is not known."""
    summary = report.data.get("summary") or {}
    for split in summary.get("splits", ()):
        counts = split.get("classes")
        is_reported = split["name"] == report.split
        if is_reported and counts and sum(counts) and not summary.get("independent"):
            position = max(range(len(counts)), key=counts.__getitem__)
            return counts[position] / sum(counts), str(summary["labels"][position])
    return 0.0, ""


def _same_network(model: ModelRow, other: ModelRow) -> bool:
    """Tell whether two models are one network: one architecture, equal scores on every split."""
    return model.arch is not None and model.arch == other.arch and model.metrics == other.metrics


def _sentence(report: RunReport, model: ModelRow) -> str:
    """Write the recommendation of one model."""
    form = report.metric_format(report.metric)
    name = titled(report.metric, form)
    parts = [f"{opening(model.budget, model.name)}: {tables.metric(form, model.score)} {name} on {report.split}"]
    teacher = next((row for row in report.models if row.role == "teacher"), None)
    if teacher is not None and model.gain is not None:
        parts.append(against_teacher(form, model.gain, model.gain_interval))
    text = ", ".join(parts) + "."
    savings = saved(report, model, teacher)
    if savings:
        text += f" It has {savings}."
    if model.over_budget:
        text += f" It is over its budget by its final costs: {model.over_budget}."
    if model.gain_over_baseline is not None and sign_of(form) * model.gain_over_baseline < 0:
        gap = tables.difference(form, model.gain_over_baseline)
        text += f" The baseline of its budget scores better ({gap} for {model.name}), so consider that one."
    return text


def opening(budget: str | None, model: str, place: str = "") -> str:
    """Write how every recommendation begins, of a run, a study or a compression.

    Args:
        budget: the budget; ``None`` if there is none.
        model: what to ship.
        place: what else the recommendation is for, as `` on mrpc``.

    >>> opening("50%", "best@50% of hspg", " on mrpc")
    'For 50% on mrpc, ship best@50% of hspg'
    """
    return f"For {budget}{place}, ship {model}" if budget else f"Ship {model}"


def against_teacher(form: MetricFormat, gain: float, interval: Measure | None, over: str = "") -> str:
    """Write how a model's score compares with its teacher's, with its interval.

    Args:
        form: how the metric reads.
        gain: the score minus the teacher's.
        interval: of the gain; ``None`` if it is not known.
        over: what the interval is over, as ``over seeds``; default: over the examples.

    >>> against_teacher(MetricFormat(percent=True), -0.012, Measure(-0.012, -0.021, -0.003))
    '1.2 points below the teacher (95 % interval −2.1 to −0.3)'
    >>> against_teacher(MetricFormat(percent=True), -0.002, Measure(-0.002, -0.011, 0.007))
    '0.2 points below the teacher (95 % interval −1.1 to +0.7, which includes no difference)'
    >>> against_teacher(MetricFormat(), 0.0, None)
    "the same as the teacher's"
    """
    text = beside_teacher(form, gain)
    if interval is None:
        return text
    kind = f"interval {over}" if over else "interval"
    ends = f"95 % {kind} {tables.difference(form, interval.low)} to {tables.difference(form, interval.high)}"
    if interval.low <= 0 <= interval.high and gain != 0:
        ends += ", which includes no difference"
    return f"{text} ({ends})"


def beside_teacher(form: MetricFormat, gain: float) -> str:
    """Write on which side of its teacher's a score lies, and how far; of a metric to minimise, what that means.

    >>> beside_teacher(MetricFormat(percent=True), 0.004)
    '0.4 points above the teacher'
    >>> beside_teacher(MetricFormat(higher_is_better=False), 0.52)
    '0.520 worse than the teacher'
    """
    if gain == 0:
        return "the same as the teacher's"
    size = tables.difference(form, abs(gain)).removeprefix("+")
    if form.percent:
        size += " points"
    if form.higher_is_better:
        return f"{size} below the teacher" if gain < 0 else f"{size} above the teacher"
    # "Above" would sound like praise.
    return f"{size} better than the teacher" if gain < 0 else f"{size} worse than the teacher"


def saved(report: RunReport, model: ModelRow, teacher: ModelRow | None) -> str:
    """Name the costs that reports show first as shares of the teacher's; measured ones in their unit."""
    if teacher is None:
        return ""
    parts = []
    for cost in in_column_order(model.relative):
        form = report.cost_formats.get(cost, PLAIN_COST)
        if not form.highlight and cost != "size":
            continue
        share = tables.share(model, cost)
        heading = form.highlight or cost_heading(cost, form)
        own = tables.cost(form, cost, _plain(model.costs, cost))
        full = tables.cost(form, cost, _plain(teacher.costs, cost))
        detail = f" ({own} instead of {full})" if form.unit in ("ms", "bytes") else ""
        parts.append(f"{share} of the teacher's {heading}{detail}")
    if len(parts) > 1:
        return f"{', '.join(parts[:-1])} and {parts[-1]}"
    return "".join(parts)


def _plain(costs: Mapping[str, float | None], cost: str) -> dict[str, float | None]:
    """Return one cost without what describes its measurement."""
    return {cost: costs.get(cost)}
