"""The figures of a comparison: fronts, paired differences, curves of the best so far, what the arms cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nasframe.report import plots
from nasframe.report.format import of_study, titled
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
from nasframe_studies.findings import p_is
from nasframe_studies.tables import cost_name, views

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^vPXh"
WIDE = 10.4


def figures(report: Mapping[str, Any]) -> dict[str, Figure]:
    """Draw every figure that a comparison has data for.

    Args:
        report: what :func:`nasframe_studies.compare.analyse` returned.

    Returns:
        Name → figure: ``fronts``, ``ledger``, ``differences``, ``anytime-TASK``.
    """
    drawn = {}
    if report["cost"] and len(report["models"]) > 1:
        drawn["fronts"] = fronts(report)
    if any(row["training_macs"] for row in report["ledger"]):
        drawn["ledger"] = ledger(report)
    if any(table["comparisons"] for table in report["tables"]):
        drawn["differences"] = differences(report)
    for task in dict.fromkeys(row["task"] for row in report["anytime"]):
        drawn[f"anytime-{task}"] = anytime(report, task)
    return drawn


def look(report: Mapping[str, Any], arm: str) -> dict[str, Any]:
    """Return colour, marker and line of an arm in every figure: where colours begin anew the others differ."""
    again, place = divmod(report["arms"].index(arm), len(SERIES))
    marker = MARKERS[(place + again) % len(MARKERS)]
    return {"color": SERIES[place], "marker": marker, "ls": ("-", "--", ":", "-.")[again % 4]}


def fronts(report: Mapping[str, Any]) -> Figure:
    """Draw each arm's mean score, with its bootstrap interval, against the mean cost of its models."""
    shown = views(report)
    figure, grid = panels(WIDTH, 0.45 + 2.75 * len(shown), len(shown))
    absolute = report["cost"] in report["absolute"]
    cost = report["cost"] if absolute else f"{report['cost']}_relative"
    for axes, (task, tables) in zip(grid, shown.items(), strict=True):
        _title(axes, task, len(shown))
        places = [row["costs"][cost] for table in tables for row in table["arms"] if cost in row["costs"]]
        step = 0.008 * (max(places) - min(places)) if places else 0.0  # so that intervals do not cover each other
        for number, arm in enumerate(report["arms"]):
            rows = [row for table in tables for row in table["arms"] if row["arm"] == arm and cost in row["costs"]]
            rows.sort(key=lambda row: row["costs"][cost])
            if rows:
                aside = step * (number - (len(report["arms"]) - 1) / 2)
                _front(axes, rows, [row["costs"][cost] + aside for row in rows], look(report, arm), arm)
        axes.xaxis.set_major_formatter(count_ticks if absolute else lambda value, _: f"{100 * value:g} %")
        form = of_study(report, task, tables[0]["metric"])
        axes.yaxis.set_major_formatter(metric_ticks(form))
        axes.set_ylabel(f"{report['split']} {titled(tables[0]['metric'], form)}")
    grid[-1].set_xlabel(cost_name(report))
    legend(figure, *figure.axes, names=report["arms"])
    return figure


def _front(
    axes: Axes, rows: Sequence[Mapping[str, Any]], x: Sequence[float], style: Mapping[str, Any], arm: str
) -> None:
    y = [row["mean"] for row in rows]
    axes.plot(x, y, **style, ms=5, lw=1.2, alpha=0.9, label=arm, markeredgecolor=PAPER, mew=0.6)
    for place, row in zip(x, rows, strict=True):
        if row["low"] is not None:
            axes.plot([place, place], [row["low"], row["high"]], color=style["color"], lw=1.1, alpha=0.75)


def differences(report: Mapping[str, Any]) -> Figure:
    """Draw every paired difference with its t interval (thin) and bootstrap interval (thick).

    A filled marker: resolved after Holm's adjustment.
    """
    shown = {task: tables for task, tables in views(report).items() if any(table["comparisons"] for table in tables)}
    heights = [sum(len(table["comparisons"]) + 1 for table in tables) for tables in shown.values()]
    height = 0.8 + sum(0.215 * rows + 0.45 for rows in heights)
    figure, grid = panels(WIDTH, height, len(shown), height_ratios=heights)
    for axes, (task, tables) in zip(grid, shown.items(), strict=True):
        _title(axes, task, len(shown))
        _forest(axes, report, tables)
        if task == list(shown)[-1] or len({table["metric"] for part in shown.values() for table in part}) > 1:
            form = of_study(report, task, tables[0]["metric"])
            unit = ", points" if form.percent else ""
            axes.set_xlabel(
                f"{report['split']} {titled(tables[0]['metric'], form)} less that of {report['against']}{unit}"
            )
    return figure


def _forest(axes: Axes, report: Mapping[str, Any], tables: Sequence[Mapping[str, Any]]) -> None:
    names: list[str] = []
    for table in tables:
        scale = 100 if of_study(report, table["task"], table["metric"]).percent else 1
        axes.axhline(len(names) - 0.5, color=GREY, lw=0.5, alpha=0.5)
        axes.annotate(
            table["model"], (0, len(names)), xycoords=("axes fraction", "data"), xytext=(3, 0), va="center",
            textcoords="offset points", fontsize=7.5, fontweight="bold", color=INK,
        )  # fmt: skip
        names.append("")
        for row in table["comparisons"]:
            style = look(report, row["arm"])
            color, marker = style["color"], style["marker"]
            y, resolved = len(names), row["verdict"] in ("higher", "lower")
            for low, high, width in (("t_low", "t_high", 1.0), ("low", "high", 3.2)):
                if row[low] is not None:
                    axes.plot([scale * row[low], scale * row[high]], [y, y], color=color, lw=width, alpha=0.7)
            axes.plot(
                scale * row["mean"], y, marker=marker, color=color, ms=5.5, mew=1.2, ls="",
                markerfacecolor=color if resolved else PAPER,
            )  # fmt: skip
            note = f"{p_is(row['p_t_holm'])}, n {row['n']}" if row["p_t"] is not None else f"n {row['n']}"
            axes.annotate(
                note, (1, y), xycoords=("axes fraction", "data"), xytext=(4, 0), va="center",
                textcoords="offset points", fontsize=6.5, color=INK,
            )  # fmt: skip
            names.append(row["arm"])
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_yticks(range(len(names)), [short(name, 22) for name in names], fontsize=7.5)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(False, axis="y")


def anytime(report: Mapping[str, Any], task: str) -> Figure:
    """Draw the best score so far of one task: a row of axes each budget, a column each measure of effort."""
    rows = [row for row in report["anytime"] if row["task"] == task]
    models, efforts = (list(dict.fromkeys(row[key] for row in rows)) for key in ("model", "axis"))
    figure, grid = panels(WIDE, 0.5 + 2.1 * len(models), len(models) * len(efforts), len(efforts))
    places = {(m, e): grid[i * len(efforts) + j] for i, m in enumerate(models) for j, e in enumerate(efforts)}
    for key, axes in places.items():
        axes.set_visible(key in {(row["model"], row["axis"]) for row in rows})
    for row in rows:
        axes = places[row["model"], row["axis"]]
        for arm, curve in row["arms"].items():
            if curve["x"]:
                style = look(report, arm)
                color, line = style["color"], style["ls"]
                axes.step(curve["x"], curve["mean"], where="post", color=color, ls=line, lw=1.4, label=arm)
                if curve["low"][0] is not None:
                    axes.fill_between(
                        curve["x"], curve["low"], curve["high"], step="post", color=color, alpha=0.14, lw=0
                    )
        means = [y for curve in row["arms"].values() for y in curve["mean"]]
        room = 0.35 * (max(means) - min(means)) or 0.01
        axes.set_ylim(min(means) - room, max(means) + room)  # intervals of two seeds would hide the curves
        axes.set_title(
            "training" if row["model"] == "training" else f"best at {row['model']}", fontsize=8.5, loc="left", color=INK
        )
        axes.set_xlabel(row["title"])
        axes.xaxis.set_major_formatter(count_ticks)
        axes.xaxis.set_major_locator(whole_ticks(5))
        axes.yaxis.set_major_formatter(metric_ticks(of_study(report, row["task"], row["metric"].removeprefix("-"))))
        axes.tick_params(labelsize=7.5)
    legend(figure, *figure.axes, names=report["arms"])
    return figure


def ledger(report: Mapping[str, Any]) -> Figure:
    """Draw the mean multiply-accumulates of each arm's runs by role."""
    rows = report["ledger"]
    figure, (axes,) = panels(WIDTH, 0.95 + 0.36 * len(rows), 1)
    widths = {role: [row[f"{role}_macs"] or 0.0 for row in rows] for role in ("student", "teacher", "evaluation")}
    widths = {role: parts for role, parts in widths.items() if any(parts)}
    sums = [sum(parts[y] for parts in widths.values()) or row["training_macs"] for y, row in enumerate(rows)]
    seconds = [(row["run_seconds"] or 0) + (row["cached_seconds"] or 0) for row in rows]
    plots.stacked(axes, [short(row["arm"], 24) for row in rows], widths, sums, seconds)
    axes.set_xlabel("multiply-accumulates a run, forward and backward")
    legend(figure, axes)
    return figure


def _title(axes: Axes, task: str, views: int) -> None:
    if views > 1:
        axes.set_title(task, fontsize=9, loc="left", color=INK)
