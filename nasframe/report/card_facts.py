"""What the card of a run's model says: values, costs, the loss against the teacher, and what they do not show."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nasframe.report import tables
from nasframe.report.format import cost_heading, titled
from nasframe.report.recommend import against_teacher
from nasframe.report.records import ModelRow, RunReport


def card_facts(report: RunReport, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the facts for the cards of some models, as :func:`nasframe.export.files.card_text` takes them.

    Args:
        report: the run's.
        names: of the models.
    """
    rows = {model.name: model for model in report.models}
    return {name: _of_model(report, rows[name]) for name in names if name in rows}


def _of_model(report: RunReport, model: ModelRow) -> dict[str, Any]:
    teacher = next((row for row in report.models if row.role == "teacher" and row is not model), None)
    facts: dict[str, Any] = {
        "title": model.name,
        "split": report.split,
        "metrics": model.metrics.get(report.split, {}),
        "over_budget": model.over_budget or "",
        "costs": _cost_rows(report, model),
        "limits": _limits(report, model),
    }
    if teacher is not None:
        facts["teacher"] = teacher.metrics.get(report.split, {})
    loss = loss_against_teacher(report, model)
    if loss:
        facts["loss"] = loss
    return facts


def loss_against_teacher(report: RunReport, model: ModelRow) -> str:
    """Say in a sentence what a model loses against its teacher, with the interval; empty without a teacher."""
    if model.gain is None or model.role == "teacher":
        return ""
    form = report.metric_format(report.metric)
    name = titled(report.metric, form)
    text = f"Its {name} is {against_teacher(form, model.gain, model.gain_interval)}"
    if model.gain_interval is not None:
        text += "; paired bootstrap over the examples"
    return f"{text}."


def _cost_rows(report: RunReport, model: ModelRow) -> list[list[str]]:
    rows = []
    for cost in tables.summary_columns(report):
        if model.costs.get(cost) is None:
            continue
        form = report.cost_format(cost)
        name = (
            cost.replace("_", " ") if form.unit in ("parameters", "MACs", "bytes", "ms") else cost_heading(cost, form)
        )
        rows.append([name, tables.cost(form, cost, model.costs), tables.share(model, cost) or "–"])
    return rows


def _limits(report: RunReport, model: ModelRow) -> list[str]:
    """Say what the numbers of a model do not show."""
    limits = []
    examples = (report.data.get("sizes") or {}).get(report.split)
    if examples:
        limits.append(f"Measured on {examples:,} examples of the data named above; nothing is said about other data.")
    if report.seed is not None:
        limits.append("One training with one seed: the noise of training is not in the interval.")
    split = _summary_of(report)
    if split is not None and split.get("cut"):
        summary = report.data["summary"]
        limits.append(f"{100 * split['cut']:.1f} % of the texts were cut at {summary['max_length']} tokens.")
    for cost in model.costs:
        if f"{cost}_spread" in model.costs:
            limits.append(f"Its {cost.replace('_', ' ')} was measured on one machine, and differs on others.")
    return limits


def _summary_of(report: RunReport) -> dict[str, Any] | None:
    """Return the summary of the report's split, if the task has one."""
    summary = report.data.get("summary") or {}
    for split in summary.get("splits", ()):
        if split["name"] == report.split:
            found: dict[str, Any] = split
            return found
    return None
