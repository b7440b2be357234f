"""What was compared, in tables and in words, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nasframe.report.format import titled
from nasframe.report.tables import cost, difference, ends, metric
from nasframe_compress.recommend import BudgetResult, MethodResult
from nasframe_compress.request import budget_text

if TYPE_CHECKING:
    from rich.table import Table

    from nasframe.report.records import RunReport

SHOWN = ("encoder_params", "macs", "latency")
"""Costs in the table, besides those of the budget."""


NARROW = 80
"""On fewer columns of a terminal only the budget's own costs are shown, so that no number is broken."""


def table(compared: BudgetResult, report: RunReport, width: int) -> Table:
    """Return what each method reached for a budget, the best first.

    Args:
        compared: of the budget.
        report: of one of the runs, which knows how metric and costs read.
        width: columns of the terminal.
    """
    from rich import box
    from rich.table import Table

    form = report.metric_format(compared.metric)
    costs = []
    shown = SHOWN if width >= NARROW else ()
    for name in dict.fromkeys([*compared.budget, *shown]):
        if any(name in result.best.row.costs for result in compared.results):
            costs.append(name)
    title = f"Budget {budget_text(compared.budget)}: {titled(compared.metric, form)} on dev"
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    made.add_column("method", overflow="fold")
    for heading in ("score", "- teacher", *(name.replace("_", " ") for name in costs)):
        made.add_column(heading, justify="right", overflow="fold")
    for result in compared.results:
        made.add_row(*_cells(result, costs, form, report))
    return made


def _cells(result: MethodResult, costs: list[str], form: Any, report: RunReport) -> list[str]:
    """Return a row of the table."""
    name = result.method if result.keeps_budget else f"{result.method} (over budget)"
    gain = difference(form, result.gain)
    if result.interval is not None:
        gain += f" [{ends(form, result.interval)}]"
    cells = [name, metric(form, result.score), gain]
    for cost_name in costs:
        cells.append(cost(report.cost_format(cost_name), cost_name, result.best.row.costs))
    return cells
