"""Which models of a run to ship, and the recommendation in plain words that opens its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nasframe.records import MetricFormat
from nasframe.report import tables
from nasframe.report.format import PLAIN_COST, cost_heading, in_column_order, titled
from nasframe.report.records import Measure, ModelRow, Recommendation, Role, RunReport

PRECEDENCE: tuple[Role, ...] = ("model", "winner", "baseline")
"""Of several models under one budget the first of these is shipped: one trained on from a winner before the winner."""


def shipped(models: Sequence[ModelRow]) -> list[ModelRow]:
    """Return the models of a run that are worth shipping, in the order of the table.

    Under each budget that is the model that was made of the winner, else the winner, else what was written out. A run
    without budgets ships its winners, or else all models but the teacher.

    Args:
        models: all rows of the table.
    """
    names = set()
    by_budget: dict[str, list[ModelRow]] = {}
    for model in models:
        if model.budget and model.role != "teacher":
            by_budget.setdefault(model.budget, []).append(model)
    for candidates in by_budget.values():
        for role in PRECEDENCE:
            of_role = [model.name for model in candidates if model.role == role]
            if of_role:
                names.add(of_role[-1])  # the last one: a model may be trained on more than once
                break
    names |= {model.name for model in models if model.role == "winner" and not model.budget}
    if not names:
        names = {model.name for model in models if model.role == "model"}
    return [model for model in models if model.name in names]


def shown_role(models: Sequence[ModelRow], model: ModelRow) -> Role:
    """Return the role that a page shows: a model that was written out is a baseline only beside what it is one for."""
    if model.role != "baseline":
        return model.role
    for other in models:
        if other.budget == model.budget and other.role in ("winner", "model"):
            return "baseline"
    return "model"


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
    return chosen


def _same_network(model: ModelRow, other: ModelRow) -> bool:
    """Tell whether two models are one network: one architecture, equal scores on every split."""
    return model.arch is not None and model.arch == other.arch and model.metrics == other.metrics


def _sentence(report: RunReport, model: ModelRow) -> str:
    """Write the recommendation of one model."""
    form = report.metric_format(report.metric)
    name = titled(report.metric, form)
    start = f"Ship {model.name}"
    if model.budget:
        start = f"For the budget {model.budget}, ship {model.name}"
    parts = [f"{start}: {tables.metric(form, model.score)} {name} on {report.split}"]
    teacher = next((row for row in report.models if row.role == "teacher"), None)
    if teacher is not None and model.gain is not None:
        parts.append(against_teacher(form, model.gain, model.gain_interval))
    text = ", ".join(parts) + "."
    savings = saved(report, model, teacher)
    if savings:
        text += f" It has {savings}."
    if model.over_budget:
        text += f" It is over its budget by its final costs: {model.over_budget}."
    if model.gain_over_baseline is not None and model.gain_over_baseline < 0:
        gap = tables.difference(form, model.gain_over_baseline)
        text += f" The baseline of its budget scores higher ({gap} for {model.name}), so consider that one."
    return text


def against_teacher(form: MetricFormat, gain: float, interval: Measure | None) -> str:
    """Write how a model's score compares with its teacher's, with its interval.

    >>> against_teacher(MetricFormat(percent=True), -0.012, Measure(-0.012, -0.021, -0.003))
    '1.2 points below the teacher (95 % interval −2.1 to −0.3)'
    >>> against_teacher(MetricFormat(percent=True), -0.002, Measure(-0.002, -0.011, 0.007))
    '0.2 points below the teacher (95 % interval −1.1 to +0.7, which includes no difference)'
    >>> against_teacher(MetricFormat(), 0.0, None)
    "the same as the teacher's"
    """
    size = tables.difference(form, abs(gain)).removeprefix("+")
    unit = f"{size} points" if form.percent else size
    if gain == 0:
        text = "the same as the teacher's"
    elif gain < 0:
        text = f"{unit} below the teacher"
    else:
        text = f"{unit} above the teacher"
    if interval is None:
        return text
    ends = f"95 % interval {tables.difference(form, interval.low)} to {tables.difference(form, interval.high)}"
    if interval.low <= 0 <= interval.high and gain != 0:
        ends += ", which includes no difference"
    return f"{text} ({ends})"


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
