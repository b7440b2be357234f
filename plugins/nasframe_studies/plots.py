"""The figures of a comparison: fronts, paired differences, curves of the best so far, what the arms cost."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from nasframe.report import plots
from nasframe.report.format import titled
from nasframe.report.plots import (
    GREY,
    INK,
    PAPER,
    SERIES,
    WIDTH,
    count_ticks,
    legend,
    metric_ticks,
    panels,
    whole_ticks,
)
from nasframe.report.tables import short
from nasframe_studies.evidence import axis_column
from nasframe_studies.records import AnytimeCurves, ArmScores, Comparison, Difference, PairTable
from nasframe_studies.run_facts import TRAINING
from nasframe_studies.tables import cost_name
from nasframe_studies.wording import directed, p_is

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^vPXh"
LINES = ("-", "--", ":", "-.")
WIDE = 10.4
APART = 0.008
"""The share of the axis by which arms of equal cost are set apart, so that intervals do not cover each other."""


class Look(NamedTuple):
    """Colour, marker and line of an arm in every figure."""

    color: str
    marker: str
    line: str


def look(arms: Sequence[str], arm: str) -> Look:
    """Return the look of an arm: when the colours are used up, they repeat with other markers and lines."""
    number = arms.index(arm)
    rounds, place = divmod(number, len(SERIES))
    # Moved by one marker a round, so that arms of one colour differ in their markers too, not in their lines alone.
    marker = (place + rounds) % len(MARKERS)
    line = rounds % len(LINES)
    return Look(SERIES[place], MARKERS[marker], LINES[line])


def figures(comparison: Comparison) -> dict[str, Figure]:
    """Draw every figure that a comparison has data for.

    Returns:
        Name → figure: ``fronts``, ``ledger``, ``differences``, ``anytime-TASK``.
    """
    drawn = {}
    # With one model an arm has one point, which is no front.
    has_fronts = comparison.cost is not None and len(comparison.models) > 1
    if has_fronts:
        drawn["fronts"] = fronts(comparison)
    training_macs = [row.training_macs for row in comparison.ledger]
    if any(training_macs):
        drawn["ledger"] = ledger(comparison)
    if _compared_tables(comparison):
        drawn["differences"] = differences(comparison)
    # One figure a task, with all its curves
    tasks = dict.fromkeys(curves.task for curves in comparison.anytime)
    for task in tasks:
        drawn[f"anytime-{task}"] = anytime(comparison, task)
    return drawn


def _compared_tables(comparison: Comparison) -> dict[str, list[PairTable]]:
    """Return the tables of the tasks on which some arm is compared with the reference."""
    views = {}
    for task, tables in comparison.tables_by_task().items():
        compared = [table for table in tables if table.comparisons]
        if compared:
            views[task] = tables
    return views


def _title(axes: Axes, task: str, views: int) -> None:
    if views > 1:
        axes.set_title(task, fontsize=9, loc="left", color=INK)


# ---- score against cost


def fronts(comparison: Comparison) -> Figure:
    """Draw each arm's mean score, with its bootstrap interval, against the mean cost of its models.

    Raises:
        ValueError: the comparison has no cost to draw against.
    """
    if comparison.cost is None:
        raise ValueError("no cost to draw against")
    views = comparison.tables_by_task()
    cost = axis_column(comparison.cost, comparison.absolute)
    # Shares of different full networks would put models of equal size at different places.
    cost_ticks = count_ticks if comparison.cost in comparison.absolute else _percent
    height = 0.45 + 2.75 * len(views)
    figure, grid = panels(WIDTH, height, len(views))
    for axes, (task, tables) in zip(grid, views.items(), strict=True):
        _title(axes, task, len(views))
        _fronts_of_task(axes, comparison, tables, cost)
        axes.xaxis.set_major_formatter(cost_ticks)
        form = comparison.format_of(task, tables[0].metric)
        axes.yaxis.set_major_formatter(metric_ticks(form))
        axes.set_ylabel(f"{comparison.split} {directed(tables[0].metric, form)}")
    grid[-1].set_xlabel(cost_name(comparison))
    legend(figure, *figure.axes, names=comparison.arms)
    return figure


def _percent(value: float, _: float) -> str:
    return f"{100 * value:g} %"


def _fronts_of_task(axes: Axes, comparison: Comparison, tables: Sequence[PairTable], cost: str) -> None:
    rows_of: dict[str, list[ArmScores]] = {arm: [] for arm in comparison.arms}
    costs = []
    for table in tables:
        for row in table.arms:
            if cost in row.costs:
                rows_of[row.arm].append(row)
                costs.append(row.costs[cost])
    if not costs:
        return
    step = APART * (max(costs) - min(costs))
    middle = (len(comparison.arms) - 1) / 2  # arms move to both sides, so that on average they stand at their costs
    for number, (arm, rows) in enumerate(rows_of.items()):
        if not rows:
            continue
        rows.sort(key=lambda row: row.costs[cost])
        shift = step * (number - middle)
        places = [row.costs[cost] + shift for row in rows]
        _front(axes, rows, places, look(comparison.arms, arm))


def _front(axes: Axes, rows: Sequence[ArmScores], x: Sequence[float], style: Look) -> None:
    """Draw one arm's models from the smallest to the largest."""
    means = [row.mean for row in rows]
    axes.plot(
        x,
        means,
        color=style.color,
        marker=style.marker,
        ls=style.line,
        ms=5,
        lw=1.2,
        alpha=0.9,
        label=rows[0].arm,
        markeredgecolor=PAPER,
        mew=0.6,
    )
    for place, row in zip(x, rows, strict=True):
        if row.low is not None and row.high is not None:
            axes.plot([place, place], [row.low, row.high], color=style.color, lw=1.1, alpha=0.75)


# ---- paired differences


def differences(comparison: Comparison) -> Figure:
    """Draw every paired difference with its t interval (thin) and bootstrap interval (thick).

    A filled marker: resolved after Holm's adjustment.
    """
    views = _compared_tables(comparison)
    metrics = {tables[0].metric for tables in views.values()}
    # Axes as high as their lines, so that lines are equally far apart on all tasks.
    lines = []
    for tables in views.values():
        comparisons = sum(len(table.comparisons) for table in tables)
        lines.append(comparisons + len(tables))  # and a line for each model's name
    height = 0.8 + 0.215 * sum(lines) + 0.45 * len(views)
    figure, grid = panels(WIDTH, height, len(views), height_ratios=lines)
    for axes, (task, tables) in zip(grid, views.items(), strict=True):
        _title(axes, task, len(views))
        _forest(axes, comparison, tables)
        if axes is grid[-1] or len(metrics) > 1:  # one label below all is enough if they share their metric
            form = comparison.format_of(task, tables[0].metric)
            label = f"{comparison.split} {titled(tables[0].metric, form)} less that of {comparison.against}"
            if form.percent:
                label += ", points"
            if not form.higher_is_better:
                label += " (negative is better)"
            axes.set_xlabel(label)
    return figure


def _forest(axes: Axes, comparison: Comparison, tables: Sequence[PairTable]) -> None:
    """Draw the differences of one task, a line each, below the names of their models."""
    names: list[str] = []
    for table in tables:
        form = comparison.format_of(table.task, table.metric)
        scale = 100 if form.percent else 1
        axes.axhline(len(names) - 0.5, color=GREY, lw=0.5, alpha=0.5)
        _note(axes, table.model, x=0, y=len(names), offset=3, fontsize=7.5, fontweight="bold")
        names.append("")
        for row in table.comparisons:
            _difference(axes, row, len(names), scale, look(comparison.arms, row.arm))
            names.append(row.arm)
    axes.axvline(0, color=INK, lw=0.8)
    labels = [short(name, 22) for name in names]
    axes.set_yticks(range(len(labels)), labels, fontsize=7.5)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(labels) - 0.4, -0.6)  # downwards, to read like the table
    axes.grid(False, axis="y")


def _difference(axes: Axes, row: Difference, y: int, scale: float, style: Look) -> None:
    for low, high, width in ((row.t_low, row.t_high, 1.0), (row.low, row.high, 3.2)):
        if low is not None and high is not None:
            ends = [scale * low, scale * high]
            axes.plot(ends, [y, y], color=style.color, lw=width, alpha=0.7)
    # Filled or hollow rather than by colour, which says already which arm it is.
    fill = style.color if row.resolved else PAPER
    axes.plot(
        scale * row.mean,
        y,
        marker=style.marker,
        color=style.color,
        ms=5.5,
        mew=1.2,
        ls="",
        markerfacecolor=fill,
    )
    note = f"n {row.n}"
    if row.p_t is not None:
        note = f"{p_is(row.p_t_holm)}, {note}"
    _note(axes, note, x=1, y=y, offset=4, fontsize=6.5)


def _note(axes: Axes, text: str, x: float, y: float, offset: float, **font: Any) -> None:
    """Write a text at a share of the axes' width and a line, moved by some points."""
    axes.annotate(
        text,
        (x, y),
        xycoords=("axes fraction", "data"),
        xytext=(offset, 0),
        textcoords="offset points",
        va="center",
        color=INK,
        **font,
    )


# ---- curves and ledger


def anytime(comparison: Comparison, task: str) -> Figure:
    """Draw the best score so far of one task: a row of axes for each budget, a column for each measure of effort."""
    charts = {}
    for curves in comparison.anytime:
        if curves.task == task:
            charts[curves.model, curves.axis] = curves
    models = list(dict.fromkeys(model for model, _ in charts))
    efforts = list(dict.fromkeys(effort for _, effort in charts))
    height = 0.5 + 2.1 * len(models)
    figure, grid = panels(WIDE, height, len(models) * len(efforts), len(efforts))
    for axes, place in zip(grid, itertools.product(models, efforts), strict=True):
        chart = charts.get(place)
        if chart is None:  # not every budget has a curve for every effort
            axes.set_visible(False)
            continue
        _curves(axes, comparison, chart)
    legend(figure, *figure.axes, names=comparison.arms)
    return figure


def _curves(axes: Axes, comparison: Comparison, chart: AnytimeCurves) -> None:
    means: list[float] = []
    for arm, curve in chart.arms.items():
        if not curve.x:  # no stretch of the effort that all its seeds have
            continue
        means += curve.mean
        style = look(comparison.arms, arm)
        axes.step(curve.x, curve.mean, where="post", color=style.color, ls=style.line, lw=1.4, label=arm)
        low = [bound for bound in curve.low if bound is not None]
        high = [bound for bound in curve.high if bound is not None]
        if low:  # one seed has no interval
            axes.fill_between(curve.x, low, high, step="post", color=style.color, alpha=0.14, lw=0)
    # By the curves alone: intervals of two seeds are so wide that they would make all curves flat.
    lowest, highest = min(means), max(means)
    room = 0.35 * (highest - lowest) or 0.01
    axes.set_ylim(lowest - room, highest + room)
    title = TRAINING if chart.model == TRAINING else f"best at {chart.model}"
    if chart.metric.startswith("-"):
        title += f", {chart.metric.replace('-', '−', 1)}"
    axes.set_title(title, fontsize=8.5, loc="left", color=INK)
    axes.set_xlabel(chart.title)
    axes.xaxis.set_major_formatter(count_ticks)
    axes.xaxis.set_major_locator(whole_ticks(5))
    form = comparison.format_of(chart.task, chart.metric.removeprefix("-"))
    axes.yaxis.set_major_formatter(metric_ticks(form))
    axes.tick_params(labelsize=7.5)


def ledger(comparison: Comparison) -> Figure:
    """Draw the mean multiply-accumulates of each arm's runs by role."""
    rows = comparison.ledger
    figure, (axes,) = panels(WIDTH, 0.95 + 0.36 * len(rows), 1)
    widths: dict[str, list[float]] = {"student": [], "teacher": [], "evaluation": []}
    totals = []
    for row in rows:
        student = row.student_macs or 0.0
        teacher = row.teacher_macs or 0.0
        evaluation = row.evaluation_macs or 0.0
        widths["student"].append(student)
        widths["teacher"].append(teacher)
        widths["evaluation"].append(evaluation)
        # Runs whose directories are gone have no roles, but the study's table still has their total.
        totals.append(student + teacher + evaluation or row.training_macs or 0.0)
    shown = {role: macs for role, macs in widths.items() if any(macs)}
    names = [short(row.arm, 24) for row in rows]
    seconds = [row.seconds for row in rows]
    plots.stacked(axes, names, shown, totals, seconds)
    axes.set_xlabel("multiply-accumulates a run, forward and backward")
    legend(figure, axes)
    return figure
