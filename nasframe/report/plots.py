"""The figures of a report, drawn with matplotlib's objects so that no global state is touched.

Studies and benchmarks use the parts below "axes and texts", so that all figures look alike.
"""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from nasframe.records import CostFormat, MetricFormat, plus
from nasframe.report.format import following_unit, titled
from nasframe.report.records import FullSize, LayerRow, ModelRow, RunReport, SearchRow
from nasframe.report.roles import shown_role
from nasframe.report.tables import aim, duration, human, metric, short
from nasframe.store import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points: TypeAlias = Sequence[Sequence[float]]
"""A curve: pairs of a step and a value."""

INK = "#1b2430"  # text and axes; inside of a page it becomes the page's text colour
PAPER = "#fefdfc"  # likewise for the page's background
BLUE, ORANGE, GREY, GREEN = "#3b76e1", "#e08a2c", "#8c97a8", "#2a9d78"
SERIES = (BLUE, ORANGE, GREEN, "#b2457c", "#7d5bd0", GREY, "#5a8b1f", "#8a5b3a")  # arms, samplers: any number of equals
ROLES = {
    "winner": (BLUE, "*", 150.0),
    "baseline": (ORANGE, "X", 60.0),
    "teacher": (GREEN, "D", 48.0),
    "model": (GREY, "s", 48.0),
}
LEDGER_COLORS = {"student": BLUE, "teacher": GREEN, "evaluation": ORANGE}
USUAL_COSTS = ("encoder_params", "macs", "params", "size", "latency")
"""The costs to draw finished models against if no budget names one: the first that all have."""
WIDTH = 5.2
"""Inches across of every figure."""


def figures(report: RunReport) -> dict[str, Figure]:
    """Draw every figure that the report has data for.

    Returns:
        Name → figure: ``models``, ``pareto`` (``pareto-STAGE`` for further searches, ``-COST`` for further costs),
        ``layers``, ``curves``, ``ledger``.
    """
    drawn: dict[str, Figure] = {}
    cost = _model_cost(report)
    if cost is not None:
        drawn["models"] = models(report, cost)
    for search in report.searches:
        if not search.points:
            continue
        for cost in search.costs:
            name = "pareto"  # of the first search that has points
            if name in drawn:
                name = f"pareto-{search.stage}"
                if len(search.costs) > 1:
                    name += f"-{cost}"
            drawn[name] = pareto(report, search, cost)
    if _shapes(report):
        drawn["layers"] = layers(report)
    if _curve_panels(report):
        drawn["curves"] = curves(report)
    if any(row.forward_macs for row in report.ledger):
        drawn["ledger"] = ledger(report)
    return drawn


def save(figure: Figure, path: Path, title: str) -> str:
    """Write a figure as ``path``.png and ``path``.svg, on white.

    Returns:
        The same as an ``<svg>`` element without a background. Its ink is the text colour of the page around it.
    """
    import html

    figure.savefig(path.with_name(path.name + ".png"), facecolor="white", dpi=200)
    figure.set_layout_engine("none")  # it is laid out by now; the SVG must be the same figure
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    head, tag, drawing = re.split(r"(<svg [^>]*>)", buffer.getvalue(), maxsplit=1)
    background = '\n <rect width="100%" height="100%" fill="white"/>'
    write_text(path.with_name(path.name + ".svg"), head + tag + background + drawing)
    # In a page the drawing follows the page's colours, which may be dark.
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = drawing.replace(INK, "currentColor").replace(PAPER, "var(--card)")
    labelled = f'<svg role="img" aria-label="{html.escape(title)}" '
    return tag.replace("<svg ", labelled, 1) + drawing


# ---- score against cost


def _model_cost(report: RunReport) -> str | None:
    """Choose the cost to draw the finished models against; ``None`` without two models that have intervals."""
    measured = [model for model in report.models if model.interval is not None]
    if len(measured) < 2:
        return None
    bounded = [cost for search in report.searches for cost in search.costs]
    for cost in [*bounded, *USUAL_COSTS]:
        if all(model.costs.get(cost) is not None for model in measured):
            return cost
    return None


def models(report: RunReport, cost: str) -> Figure:
    """Draw the finished models with the intervals of their scores, each with its name.

    Args:
        report: the report.
        cost: the cost to draw against.
    """
    figure, axes = _axes(WIDTH, 3.9)
    form = report.metric_format(report.metric)
    shown = []
    for model in report.models:
        if model.interval is not None:
            shown.append((float(model.costs[cost]), model.interval, model))
    shown.sort(key=lambda entry: (entry[0], entry[1].value))
    span = max(x for x, _, _ in shown) or 1.0
    roles: set[str] = set()
    last_x, height = -span, 0
    for x, interval, model in shown:
        role = shown_role(report.models, model)
        color, marker, area = ROLES[role]
        below, above = interval.value - interval.low, interval.high - interval.value
        axes.errorbar(x, interval.value, yerr=[[below], [above]], color=color, lw=1.1, capsize=2.5, zorder=3)
        label = ""
        if role not in roles:
            label = role if role == "teacher" else f"{role}s"
        axes.scatter([x], [interval.value], s=area, color=color, marker=marker, edgecolors=PAPER, zorder=4, label=label)
        roles.add(role)
        # Models of nearly one cost would have their names on top of each other.
        height = height + 1 if x - last_x < 0.12 * span else 0
        last_x = x
        place = (x, interval.low)
        axes.annotate(
            short(model.name, 22), place, (3, -9 - 9 * height), textcoords="offset points", fontsize=6.5, color=INK
        )
    axes.margins(x=0.14, y=0.16)
    axes.xaxis.set_major_formatter(count_ticks)
    axes.yaxis.set_major_formatter(metric_ticks(form))
    axes.set_xlabel(cost_label(cost, report.cost_format(cost)))
    axes.set_ylabel(f"{report.split} {titled(report.metric, form)}")
    legend(figure, axes)
    return figure


def pareto(report: RunReport, search: SearchRow, cost: str) -> Figure:
    """Draw every trial of a search, its front, and the finished models at their measured scores.

    Args:
        report: the report.
        search: one of its searches.
        cost: the cost to draw against.
    """
    figure, axes = _axes(WIDTH, 3.9)
    name = aim(report, search)
    form = report.metric_format(name.removeprefix("-"))
    cost_form = report.cost_format(cost)
    _draw_trials(axes, search, cost, cost_form)
    for role, (color, marker, area) in ROLES.items():
        places = _places(report, role, cost, name)
        if not places:
            continue
        label = role if len(places) == 1 else f"{role}s"
        axes.scatter(
            *_xy(places),
            s=area,
            color=color,
            marker=marker,
            edgecolors=PAPER,
            linewidths=0.8,
            zorder=4,  # above the trials
            label=f"{label} ({report.split})",
        )
    axes.xaxis.set_major_formatter(count_ticks)
    axes.yaxis.set_major_formatter(metric_ticks(form))
    axes.set_xlabel(cost_label(cost, cost_form))
    axes.set_ylabel(titled(name, form))
    legend(figure, axes)
    return figure


def _draw_trials(axes: Axes, search: SearchRow, cost: str, form: CostFormat) -> None:
    """Draw the trials, those on the front in colour, and the stairs of the best score up to each cost."""
    others: list[tuple[float, float]] = []
    front: list[tuple[float, float]] = []
    for point in search.points:
        x = point.costs[cost]
        if x is None:
            continue
        if point.front:
            front.append((x, point.score))
        else:
            others.append((x, point.score))
    front.sort(reverse=form.higher_is_better)  # the stairs begin at the best cost
    stairs = []
    best = -math.inf  # with several costs a point of the front may lie below an earlier one
    for x, score in front:
        best = max(best, score)
        stairs.append((x, best))
    axes.scatter(*_xy(others), s=14, color=GREY, alpha=0.55, linewidths=0, label=f"trials ({search.split})")
    axes.step(*_xy(stairs), where="post", color=BLUE, lw=1.3, alpha=0.7)
    axes.scatter(*_xy(front), s=20, color=BLUE, alpha=0.85, linewidths=0, label="trials on the front")


def _places(report: RunReport, role: str, cost: str, aim: str) -> list[tuple[float, float]]:
    """Return the cost and the score of each model of a role for which both were measured.

    Args:
        report: the report.
        role: the role.
        cost: the cost.
        aim: what the search aimed at. A metric to minimise begins with ``-``, and is drawn upside down, as its trials.
    """
    sign = -1 if aim.startswith("-") else 1
    places = []
    for model in report.models:
        measured = model.metrics.get(report.split, {})
        score = measured.get(aim.removeprefix("-"))
        if model.role == role and score is not None and cost in model.costs:
            places.append((model.costs[cost], sign * score))
    return places


# ---- what is kept


def layers(report: RunReport) -> Figure:
    """Draw heads and neurons of each layer against the full network's, a panel for each shape that models have."""
    shapes = _shapes(report)
    columns = min(3, len(shapes))
    rows = -(-len(shapes) // columns)  # rounded up
    figure = blank(WIDTH, rows * (0.85 + 0.235 * report.full.layers) + 0.35)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel().tolist()
    for position, (names, shape) in enumerate(shapes):
        axes = grid[position]
        _layer_panel(axes, _listed(names, 72 // columns), shape, report.full)
        if position % columns == 0:
            axes.set_ylabel("layer", fontsize=8)
    for axes in grid[len(shapes) :]:
        axes.set_visible(False)
    return figure


def _listed(names: Sequence[str], length: int) -> str:
    """Name as many as fit, and count the others.

    >>> _listed(["half-raw", "half", "half-svd"], 20), _listed(["half", "tuned"], 20)
    ('half-raw and 2 more', 'half, tuned')
    """
    for others in range(len(names)):
        text = ", ".join(names[: len(names) - others])
        if others:
            text += f" and {others} more"
        if len(text) <= length:
            return text
    return short(text, length)  # even the first name does not fit


def _shapes(report: RunReport) -> list[tuple[list[str], Sequence[LayerRow]]]:
    """Group the models that lack parts of the full network by their shape: the winners, or all if there are none."""
    smaller = []
    for model in report.models:
        if model.role != "teacher" and not _is_whole(model, report.full):
            smaller.append(model)
    winners = [model for model in smaller if model.role == "winner"]
    # Shapes are lists, which no dictionary takes as keys; there are few of them.
    shapes: list[tuple[list[str], Sequence[LayerRow]]] = []
    for model in winners or smaller:
        for names, shape in shapes:
            if shape == model.layers:
                names.append(model.name)
                break
        else:
            shapes.append(([model.name], model.layers))
    return shapes


def _is_whole(model: ModelRow, full: FullSize) -> bool:
    return all(row.kept and row.heads == full.heads and row.ffn == full.ffn for row in model.layers)


def _layer_panel(axes: Axes, title: str, shape: Sequence[LayerRow], full: FullSize) -> None:
    """Draw bars from the middle, heads to the left and neurons to the right, over pale ones of the full network."""
    bare(axes)
    axes.set_title(title, fontsize=9, color=INK)
    for row in shape:
        _layer_bar(axes, row, row.heads, full.heads, BLUE, side=-1)
        _layer_bar(axes, row, row.ffn, full.ffn, ORANGE, side=1)
        if not row.kept:
            axes.text(0, row.layer, "dropped", ha="center", va="center", fontsize=6.5, color=GREY)
    axes.set_xlim(-1.1, 1.1)
    axes.set_ylim(-0.6, full.layers - 0.4)
    axes.set_xticks([-0.54, 0.54], ["heads", "ffn"], fontsize=8)
    names = [str(layer) for layer in range(full.layers)]
    axes.set_yticks(range(full.layers), names, fontsize=7)
    axes.tick_params(length=0, colors=INK)


def _layer_bar(axes: Axes, row: LayerRow, count: int, most: int, color: str, side: int) -> None:
    """Draw one bar of a layer.

    Args:
        axes: where it is drawn.
        row: the layer.
        count: its heads or neurons.
        most: those of the full network.
        color: of the bar.
        side: −1 to the left, 1 to the right.
    """
    part = 0.0
    if most:
        part = count / most
    left = side * 0.04  # the gap in the middle
    pale = 0.16 if row.kept else 0.05
    axes.barh(row.layer, side, left=left, height=0.72, facecolor=GREY, alpha=pale, linewidth=0)
    axes.barh(row.layer, side * part, left=left, height=0.72, color=color, alpha=0.85, linewidth=0)
    if not row.kept:
        return
    if part < 0.45:  # the number does not fit into the bar: it stands behind its end
        x, color, inward = side * (part + 0.1), INK, False
    else:
        x, color, inward = side * (part - 0.05), "white", True
    align = "left" if (side > 0) != inward else "right"
    axes.text(x, row.layer, f"{count}", ha=align, va="center", fontsize=6.5, color=color)


# ---- training


def curves(report: RunReport) -> Figure:
    """Draw what each training stage logged, losses and measured metrics apart, in the order of the stages."""
    drawn = _curve_panels(report)
    columns = min(2, len(drawn))
    rows = -(-len(drawn) // columns)  # rounded up
    figure = blank(WIDTH, 1.55 * rows + 0.3)
    grid = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes in grid[len(drawn) :]:
        axes.set_visible(False)
    for axes, (heading, group) in zip(grid, drawn, strict=False):
        _curve_panel(axes, heading, group)
        forms = [report.metric_format(name) for name in group]
        if all(form.percent for form in forms):  # one axis has one kind of ticks
            axes.yaxis.set_major_formatter(metric_ticks(forms[0]))
    return figure


def _curve_panels(report: RunReport) -> list[tuple[str, dict[str, Points]]]:
    """List the panels of the curves, each with its heading: of each stage its losses and its metrics."""
    drawn = []
    for stage, logged in report.curves.items():
        losses, metrics = {}, {}
        for name, points in logged.items():
            if len(points) < 2:  # no curve
                continue
            if "loss" in name:
                losses[name] = points
            elif name.rpartition(" ")[2].startswith("select_"):  # measured on a split
                metrics[name] = points
        if losses:
            drawn.append((f"{stage}: loss", losses))
        if metrics:
            drawn.append((f"{stage}: metrics", metrics))
    return drawn


def _curve_panel(axes: Axes, heading: str, group: Mapping[str, Points]) -> None:
    bare(axes, spines=("left", "bottom"))
    axes.set_title(short(heading, 34), fontsize=8.5, loc="left", color=INK)
    axes.tick_params(labelsize=7, colors=INK)
    axes.xaxis.set_major_locator(whole_ticks(6))
    colors = itertools.cycle((BLUE, ORANGE, GREEN, GREY))
    for (name, points), color in zip(group.items(), colors, strict=False):
        _curve(axes, points, color, name)
    if len(group) > 1 or heading.endswith("metrics"):
        axes.legend(fontsize=6.5, frameon=False, labelcolor=INK, loc="best")


def _curve(axes: Axes, points: Points, color: str, name: str) -> None:
    """Draw a curve: a short one with its points, a long one pale, with its exponential mean over it."""
    steps = [point[0] for point in points]
    values = [point[1] for point in points]
    if len(points) < 20:
        axes.plot(steps, values, color=color, lw=1.3, marker="o", ms=3, label=name)
        return
    smooth = []
    mean = 0.0
    weight = 0.0
    for value in values:
        mean = 0.8 * mean + 0.2 * value
        weight = 0.8 * weight + 0.2
        smooth.append(mean / weight)  # without the division, the start would be drawn towards zero
    axes.plot(steps, values, color=color, lw=0.7, alpha=0.3)
    axes.plot(steps, smooth, color=color, lw=1.4, label=name)


# ---- compute


def ledger(report: RunReport) -> Figure:
    """Draw the multiply-accumulates of the run by stage and role."""
    stages = list(dict.fromkeys(row.stage for row in report.ledger if row.forward_macs))
    figure, axes = _axes(WIDTH, 0.9 + 0.34 * len(stages))
    widths: dict[str, list[float]] = {}
    totals = [0.0] * len(stages)
    seconds = [0.0] * len(stages)
    for row in report.ledger:
        if row.stage in stages:
            position = stages.index(row.stage)
            macs = plus(row.forward_macs, row.backward_macs) or 0.0  # nothing is drawn of what was not counted
            of_role = widths.setdefault(row.role, [0.0] * len(stages))
            of_role[position] += macs
            totals[position] += macs
            seconds[position] += row.run_seconds  # roles take turns: their times do not overlap
    stacked(axes, stages, widths, totals, seconds)
    axes.set_xlabel("multiply-accumulates, forward and backward")
    legend(figure, axes)
    return figure


def stacked(
    axes: Axes,
    names: Sequence[str],
    widths: Mapping[str, Sequence[float]],
    totals: Sequence[float],
    seconds: Sequence[float],
) -> None:
    """Draw a bar of multiply-accumulates for each name, with a part for each role; its sum and its time follow it.

    Args:
        axes: where the bars are drawn.
        names: of the bars, from the top.
        widths: role → one number a bar.
        totals: the sum of each bar.
        seconds: the time of each bar.
    """
    starts = [0.0] * len(names)
    for role, parts in widths.items():
        color = LEDGER_COLORS.get(role, GREY)
        axes.barh(range(len(names)), parts, left=starts, color=color, height=0.65, label=role)
        starts = [start + part for start, part in zip(starts, parts, strict=True)]
    for y, (total, taken) in enumerate(zip(totals, seconds, strict=True)):
        axes.text(total, y, f"  {human(total)} · {duration(taken)}", va="center", fontsize=7, color=INK)
    axes.set_xlim(0, 1.42 * max(totals))  # with room for the text behind the longest bar
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(count_ticks)
    axes.xaxis.set_major_locator(whole_ticks(4))
    axes.grid(False, axis="y")


# ---- axes and texts


def blank(width: float, height: float) -> Figure:
    """Return an empty figure; sizes are in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def panels(width: float, height: float, count: int, columns: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure and its axes with grids, row by row.

    Args:
        width: in inches.
        height: in inches.
        count: how many axes.
        columns: how many side by side.
        options: for :meth:`matplotlib.figure.Figure.subplots`.
    """
    figure = blank(width, height)
    rows = -(-count // columns)  # rounded up
    every = figure.subplots(rows, columns, squeeze=False, **options).ravel().tolist()
    grid = every[:count]
    for axes in every[count:]:
        axes.set_visible(False)
    for axes in grid:
        bare(axes, spines=("left", "bottom"))
        axes.grid(color=GREY, alpha=0.22, lw=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8, colors=INK)
    return figure, grid


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure, grid = panels(width, height, 1)
    return figure, grid[0]


def bare(axes: Axes, spines: Sequence[str] = ()) -> None:
    """Remove the background and all spines except those named."""
    axes.patch.set_alpha(0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in spines)
        spine.set_color(GREY)
    axes.xaxis.label.set(color=INK, fontsize=8.5)
    axes.yaxis.label.set(color=INK, fontsize=8.5)


def legend(figure: Figure, *every: Axes, names: Sequence[str] | None = None) -> None:
    """Add one legend of several axes below the figure, in the order of ``names``, each once."""
    handles: dict[str, Any] = {}
    for axes in every:
        for handle, text in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(text, handle)
    shown = [name for name in names or handles if name in handles]
    texts = [short(name, 60) for name in shown]
    lengths = [len(text) for text in texts]
    longest = max(lengths, default=1)
    column = 0.55 + 0.065 * longest  # inches: the handle and the gap, then the letters
    columns = max(1, min(len(texts), int(figure.get_figwidth() / column)))
    figure.legend(
        [handles[name] for name in shown],
        texts,
        loc="outside lower center",
        fontsize=7.5,
        ncols=columns,
        frameon=False,
        labelcolor=INK,
    )


def _xy(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Split points into their coordinates, as matplotlib takes them; ``zip`` would fail without points."""
    return [x for x, _ in points], [y for _, y in points]


def metric_ticks(form: MetricFormat) -> Callable[[float, float], str]:
    """Return a function that writes values of a metric on an axis."""
    if form.percent:
        return lambda value, _: f"{100 * value:g} %"
    return lambda value, _: metric(form, value)


def cost_label(name: str, form: CostFormat) -> str:
    """Name a cost below an axis, with its unit if tables write it after the numbers.

    >>> cost_label("encoder_params", CostFormat("parameters", "encoder")), cost_label("energy", CostFormat("mJ"))
    ('encoder params', 'energy, mJ')
    """
    label = name.replace("_", " ")
    unit = following_unit(form).strip()
    if unit:
        label += f", {unit}"
    return label


def count_ticks(value: float, _: float) -> str:
    """Write counts on an axis.

    >>> count_ticks(1_500_000, 0), count_ticks(20, 0)
    ('1.5M', '20')
    """
    text = human(value)
    if text[-1].isalpha():
        return f"{float(text[:-1]):g}{text[-1]}"
    return f"{float(text):g}"


def whole_ticks(count: int) -> Any:
    """Return a locator of whole numbers, at most ``count`` of them."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(count, integer=True)
