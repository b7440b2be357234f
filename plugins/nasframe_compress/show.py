"""Recommendations in words and tables, for a terminal."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.report.tables import cost, difference, metric
from nasframe_compress.recommend import Candidate, Gap, MethodResult, Recommendation
from nasframe_compress.request import budget_text

if TYPE_CHECKING:
    from rich.table import Table

    from nasframe.report.records import RunReport

SHOWN = ("encoder_params", "macs", "latency")
"""Costs in the table, besides those of the budget."""
HEADINGS = {
    "params": "parameters",
    "encoder_params": "encoder's parameters",
    "macs": "multiply-adds",
    "latency": "latency",
    "encoder_bits": "encoder's bits",
}
"""Costs in sentences."""


def table(recommendation: Recommendation, report: RunReport) -> Table:
    """Return what each method reached for a budget, the best first.

    Args:
        recommendation: of the budget.
        report: of one of the runs, which knows how metric and costs read.
    """
    from rich import box
    from rich.table import Table

    form = report.metric_format(recommendation.metric)
    costs = list(dict.fromkeys([*recommendation.budget, *SHOWN]))
    shown = [name for name in costs if any(name in result.best.costs for result in recommendation.results)]
    title = f"Budget {budget_text(recommendation.budget)}: {recommendation.metric} on dev"
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    made.add_column("method", overflow="fold")
    for heading in ("score", "- teacher", "95 %", *shown):
        made.add_column(heading, justify="right", overflow="fold")
    for result in recommendation.results:
        made.add_row(*_cells(result, shown, form, report))
    return made


def _cells(result: MethodResult, shown: list[str], form: Any, report: RunReport) -> list[str]:
    """Return a row of the table."""
    best = result.best
    mean = best.score if len(result.candidates) == 1 else best.teacher + result.gap.mean
    interval = ""
    if not math.isnan(result.gap.low):
        interval = f"{difference(form, result.gap.low)} to {difference(form, result.gap.high)}"
    name = result.method if result.keeps_budget else f"{result.method} (over budget)"
    cells = [name, metric(form, mean), difference(form, result.gap.mean), interval]
    for cost_name in shown:
        cells.append(cost(report.cost_format(cost_name), cost_name, best.costs))
    return cells


def sentences(recommendation: Recommendation, report: RunReport) -> list[str]:
    """Say in plain words which network to ship for a budget.

    Args:
        recommendation: of the budget.
        report: of one of the runs, which knows how metric and costs read.
    """
    budget = budget_text(recommendation.budget)
    ship = recommendation.ship
    if ship is None:
        reasons = [f"{result.method}: {result.best.over}" for result in recommendation.results]
        return [f"{budget}: no network keeps this budget ({'; '.join(reasons) or 'no run is finished'})."]
    form = report.metric_format(recommendation.metric)
    best = ship.best
    lines = [
        f"{budget}: ship {best.model} of {ship.method}. It has {metric(form, best.score)} {recommendation.metric} on "
        f"dev, the teacher {metric(form, best.teacher)}: {gap_text(ship.gap, form)}."
    ]
    saved = _saved(best, report)
    if saved:
        lines.append(f"  It needs {saved}.")
    return lines


def gap_text(gap: Gap, form: Any) -> str:
    """Write a gap with its interval and what it is about."""
    text = difference(form, gap.mean)
    if math.isnan(gap.low):
        return text
    noun = "seeds" if gap.how == "seeds" else "examples"
    test = "" if math.isnan(gap.p) else f", paired t test p = {gap.p:.2g}"
    return f"{text} [{difference(form, gap.low)}, {difference(form, gap.high)}], 95 % over {gap.n} {noun}{test}"


def _saved(best: Candidate, report: RunReport) -> str:
    """Say what a network needs of what the teacher needs."""
    parts = []
    for name in ("params", "encoder_params", "macs", "latency", "encoder_bits"):
        share = best.shares.get(name)
        if share is not None:
            parts.append(f"{share:.0%} of the {HEADINGS[name]}")
    return ", ".join(parts)


def load_lines(folder: Path) -> list[str]:
    """Return the lines of Python that load an exported network."""
    return [
        "from transformers import pipeline",
        f'pipeline("text-classification", "{folder}", trust_remote_code=True)',
    ]
