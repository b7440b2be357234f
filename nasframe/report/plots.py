"""The figures of a report, drawn with matplotlib's objects so that no global state is touched."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.records import MetricFormat
from nasframe.report.format import of_run, titled
from nasframe.report.tables import aim, duration, human, metric, short
from nasframe.store import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1b2430"  # text and axes; becomes the page's text colour where a figure stands inside a page
PAPER = "#fefdfc"  # likewise for the page's background
BLUE, ORANGE, GREY, GREEN = "#3b76e1", "#e08a2c", "#8c97a8", "#2a9d78"
SERIES = (BLUE, ORANGE, GREEN, "#b2457c", "#7d5bd0", GREY, "#5a8b1f", "#8a5b3a")  # arms, samplers: any number of equals
ROLES = {
    "winner": (BLUE, "*", 150.0),
    "baseline": (ORANGE, "X", 60.0),
    "teacher": (GREEN, "D", 48.0),
    "model": (GREY, "s", 48.0),
}
WIDTH = 5.2


def figures(report: Mapping[str, Any]) -> dict[str, Figure]:
    """Draw every figure that the report has data for.

    Args:
        report: what :func:`nasframe.report.page.build` returned.

    Returns:
        Name → figure: ``pareto`` (``pareto-STAGE`` for further searches, ``-COST`` for further costs),
        ``layers``, ``curves``, ``ledger``.
    """
    drawn = {}
    for search in report["searches"]:
        for axis in search["costs"] if search["points"] else ():
            words = ["pareto", search["stage"], *([axis] if len(search["costs"]) > 1 else [])]
            drawn["-".join(words) if "pareto" in drawn else "pareto"] = pareto(report, search, axis)
    if _shapes(report):
        drawn["layers"] = layers(report)
    if any(_shown(curves) for curves in report["curves"].values()):
        drawn["curves"] = curves(report)
    if any(row["forward_macs"] for row in report["ledger"]):
        drawn["ledger"] = ledger(report)
    return drawn


def save(figure: Figure, path: Path, title: str) -> str:
    """Write a figure as ``path``.png and ``path``.svg, on white.

    Returns:
        The same as an ``<svg>`` element without a background, whose ink follows the text colour of the page it is in.
    """
    import html

    figure.savefig(path.with_name(path.name + ".png"), facecolor="white", dpi=200)
    figure.set_layout_engine("none")  # laid out once: the others are the same figure
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    head, tag, drawing = re.split(r"(<svg [^>]*>)", buffer.getvalue(), maxsplit=1)
    behind = '\n <rect width="100%" height="100%" fill="white"/>'
    write_text(path.with_name(path.name + ".svg"), head + tag + behind + drawing)
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = drawing.replace(INK, "currentColor").replace(PAPER, "var(--card)")
    return tag.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1) + drawing


def pareto(report: Mapping[str, Any], search: Mapping[str, Any], axis: str) -> Figure:
    """Draw every trial of a search, its front, and the finished models at their measured scores.

    Args:
        report: the report.
        search: one of its searches.
        axis: the cost to draw against.
    """
    figure, axes = _axes(WIDTH, 3.9)
    name = aim(report, search)
    form = of_run(report, name.removeprefix("-"))
    dots = [(p["costs"][axis], p["score"], p["front"]) for p in search["points"] if p["costs"][axis] is not None]
    front = sorted((x, y) for x, y, best in dots if best)
    stairs = [(x, max(y for other, y in front if other <= x)) for x, _ in front]
    plain = [(x, y) for x, y, best in dots if not best]
    axes.scatter(*_xy(plain), s=14, color=GREY, alpha=0.55, linewidths=0, label=f"trials ({search['split']})")
    axes.step(*_xy(stairs), where="post", color=BLUE, lw=1.3, alpha=0.7)
    axes.scatter(*_xy(front), s=20, color=BLUE, alpha=0.85, linewidths=0, label="trials on the front")
    for role, (color, marker, area) in ROLES.items():
        models = [model for model in report["models"] if model["role"] == role]
        places = [place for model in models for place in _place(report, model, axis, name)]
        if places:
            x, y = zip(*places, strict=True)
            text = f"{role}{'s' if len(places) > 1 else ''} ({report['split']})"
            axes.scatter(
                x, y, s=area, color=color, marker=marker, edgecolors=PAPER, linewidths=0.8, zorder=4, label=text
            )
    axes.xaxis.set_major_formatter(count_ticks)
    axes.yaxis.set_major_formatter(metric_ticks(form))
    axes.set_xlabel(axis.replace("_", " "))
    axes.set_ylabel(titled(name, form))
    legend(figure, axes)
    return figure


def _place(report: Mapping[str, Any], model: Mapping[str, Any], axis: str, aim: str) -> Iterator[tuple[float, float]]:
    """Yield where a model lies by its cost and by what the search aimed at, if both were measured."""
    score = model["metrics"].get(report["split"], {}).get(aim.removeprefix("-"))
    if score is not None and axis in model["costs"]:
        yield model["costs"][axis], -score if aim.startswith("-") else score


def layers(report: Mapping[str, Any]) -> Figure:
    """Draw heads and neurons of each layer against the full network's, a panel for each shape that models have."""
    shapes, full = _shapes(report), report["full"]
    columns = min(3, len(shapes))
    rows = -(-len(shapes) // columns)
    figure = blank(WIDTH, rows * (0.85 + 0.235 * full["layers"]) + 0.35)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel().tolist()
    for position, (names, shape) in enumerate(shapes):
        _layer_panel(grid[position], _listed(names, 72 // columns), shape, full, first=position % columns == 0)
    for axes in grid[len(shapes) :]:
        axes.set_visible(False)
    return figure


def _listed(names: Sequence[str], length: int) -> str:
    """Name as many as fit, and count the others.

    >>> _listed(["half-raw", "half", "half-svd"], 20), _listed(["half", "tuned"], 20)
    ('half-raw and 2 more', 'half, tuned')
    """
    for left in range(len(names)):
        text = ", ".join(names[: len(names) - left]) + (f" and {left} more" if left else "")
        if len(text) <= length:
            return text
    return short(text, length)


def _shapes(report: Mapping[str, Any]) -> list[tuple[list[str], Sequence[Mapping[str, Any]]]]:
    """Group the models that lack something of the full network by what they kept: winners, or where none are all."""
    full = report.get("full") or {}
    whole = {"kept": True, "heads": full.get("heads"), "ffn": full.get("ffn")}
    models = [
        model for model in report["models"]
        if model["role"] != "teacher" and any(row | whole != row for row in model["layers"] or ())
    ]  # fmt: skip
    shapes: list[tuple[list[str], Sequence[Mapping[str, Any]]]] = []
    for model in [model for model in models if model["role"] == "winner"] or models:
        names = next((names for names, shape in shapes if shape == model["layers"]), None)
        if names is None:
            shapes.append(([model["name"]], model["layers"]))
        else:
            names.append(model["name"])
    return shapes


def _layer_panel(
    axes: Axes, title: str, shape: Sequence[Mapping[str, Any]], full: Mapping[str, int], first: bool
) -> None:
    bare(axes)
    axes.set_title(title, fontsize=9, color=INK)
    for row in shape:
        y, kept = row["layer"], row["kept"]
        for side, key, color in ((-1, "heads", BLUE), (1, "ffn", ORANGE)):
            part = row[key] / full[key] if full[key] else 0.0
            left = side * 0.04
            axes.barh(y, side, left=left, height=0.72, facecolor=GREY, alpha=0.16 if kept else 0.05, linewidth=0)
            axes.barh(y, side * part, left=left, height=0.72, color=color, alpha=0.85, linewidth=0)
            if kept:
                ink = INK if part < 0.45 else "white"
                near = side * (max(part, 0.0) + 0.1) if part < 0.45 else side * (part - 0.05)
                align = ("left" if side > 0 else "right") if part < 0.45 else ("right" if side > 0 else "left")
                axes.text(near, y, f"{row[key]}", ha=align, va="center", fontsize=6.5, color=ink)
        if not kept:
            axes.text(0, y, "dropped", ha="center", va="center", fontsize=6.5, color=GREY)
    axes.set_xlim(-1.1, 1.1)
    axes.set_ylim(-0.6, full["layers"] - 0.4)
    axes.set_xticks([-0.54, 0.54], ["heads", "ffn"], fontsize=8)
    axes.set_yticks(range(full["layers"]), [str(i) for i in range(full["layers"])], fontsize=7)
    axes.tick_params(length=0, colors=INK)
    if first:
        axes.set_ylabel("layer", fontsize=8)


def curves(report: Mapping[str, Any]) -> Figure:
    """Draw what each training stage logged, losses and measured metrics apart, in the order of the stages."""
    drawn = []
    for stage, found in report["curves"].items():
        losses = {name: points for name, points in _shown(found).items() if "loss" in name}
        others = {name: points for name, points in _shown(found).items() if "loss" not in name}
        drawn += [(f"{stage}: {what}", group) for what, group in (("loss", losses), ("metrics", others)) if group]
    columns = min(2, len(drawn))
    rows = -(-len(drawn) // columns)
    figure = blank(WIDTH, 1.55 * rows + 0.3)
    grid = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes in grid[len(drawn) :]:
        axes.set_visible(False)
    for axes, (heading, group) in zip(grid, drawn, strict=False):
        bare(axes, spines=("left", "bottom"))
        axes.set_title(short(heading, 34), fontsize=8.5, loc="left", color=INK)
        axes.tick_params(labelsize=7, colors=INK)
        axes.xaxis.set_major_locator(whole_ticks(6))
        for color, (name, points) in zip((BLUE, ORANGE, GREEN, GREY) * len(group), group.items(), strict=False):
            _curve(axes, points, color, name)
        if len(group) > 1 or heading.endswith("metrics"):
            axes.legend(fontsize=6.5, frameon=False, labelcolor=INK, loc="best")
        forms = [of_run(report, name) for name in group]
        if all(form.percent for form in forms):
            axes.yaxis.set_major_formatter(metric_ticks(forms[0]))
    return figure


def _curve(axes: Axes, points: Sequence[Sequence[float]], color: str, name: str) -> None:
    steps, values = [p[0] for p in points], [p[1] for p in points]
    if len(points) < 20:
        axes.plot(steps, values, color=color, lw=1.3, marker="o", ms=3, label=name)
        return
    smooth, mean, weight = [], 0.0, 0.0
    for value in values:  # exponential mean, unbiased at its start
        mean, weight = 0.8 * mean + 0.2 * value, 0.8 * weight + 0.2
        smooth.append(mean / weight)
    axes.plot(steps, values, color=color, lw=0.7, alpha=0.3)
    axes.plot(steps, smooth, color=color, lw=1.4, label=name)


def ledger(report: Mapping[str, Any]) -> Figure:
    """Draw where the multiply-accumulates of the run went, by stage and role."""
    stages = list(dict.fromkeys(row["stage"] for row in report["ledger"] if row["forward_macs"]))
    figure, axes = _axes(WIDTH, 0.9 + 0.34 * len(stages))
    widths: dict[str, list[float]] = {}
    for row in report["ledger"]:
        if row["stage"] in stages:
            of_role = widths.setdefault(row["role"], [0.0] * len(stages))
            of_role[stages.index(row["stage"])] += row["forward_macs"] + row["backward_macs"]
    totals = [sum(column) for column in zip(*widths.values(), strict=True)]
    seconds = [max(row["run_seconds"] for row in report["ledger"] if row["stage"] == stage) for stage in stages]
    stacked(axes, stages, widths, totals, seconds)
    axes.set_xlabel("multiply-accumulates, forward and backward")
    legend(figure, axes)
    return figure


def stacked(
    axes: Axes, names: Sequence[str], widths: Mapping[str, Sequence[float]], totals: Sequence[float],
    seconds: Sequence[float],
) -> None:  # fmt: skip
    """Draw a bar of multiply-accumulates for each name, a part for each role, with its sum and its time behind it.

    Args:
        axes: where.
        names: of the bars, from the top.
        widths: role → one number a bar.
        totals: what is written behind each bar, at its end.
        seconds: the same.
    """
    starts = [0.0] * len(names)
    for role, parts in widths.items():
        color = {"student": BLUE, "teacher": GREEN, "evaluation": ORANGE}.get(role, GREY)
        axes.barh(range(len(names)), parts, left=starts, color=color, height=0.65, label=role)
        starts = [start + part for start, part in zip(starts, parts, strict=True)]
    for y, (total, taken) in enumerate(zip(totals, seconds, strict=True)):
        axes.text(total, y, f"  {human(total)} · {duration(taken)}", va="center", fontsize=7, color=INK)
    axes.set_xlim(0, 1.42 * max(totals))
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(count_ticks)
    axes.xaxis.set_major_locator(whole_ticks(4))
    axes.grid(False, axis="y")


def _shown(found: Mapping[str, Any]) -> dict[str, Any]:
    """The curves worth drawing: losses, and what was measured on a split."""
    names = [name for name in found if "loss" in name or name.rpartition(" ")[2].startswith("select_")]
    return {name: found[name] for name in names if len(found[name]) > 1}


def blank(width: float, height: float) -> Figure:
    """Make an empty figure, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def panels(width: float, height: float, count: int, columns: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """Make a figure of so many axes with a grid, row by row in so many columns."""
    figure = blank(width, height)
    every = figure.subplots(-(-count // columns), columns, squeeze=False, **options).ravel().tolist()
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
    """Take away the paper and all spines but those named."""
    axes.patch.set_alpha(0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in spines)
        spine.set_color(GREY)
    axes.xaxis.label.set(color=INK, fontsize=8.5)
    axes.yaxis.label.set(color=INK, fontsize=8.5)


def legend(figure: Figure, *every: Axes, names: Sequence[str] | None = None) -> None:
    """Set one legend of several axes below the figure, in the order of ``names``, each once."""
    handles: dict[str, Any] = {}
    for axes in every:
        for handle, text in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(text, handle)
    shown = [name for name in names or handles if name in handles]
    texts = [short(name, 60) for name in shown]
    column = 0.55 + 0.065 * max(map(len, texts), default=1)  # inches: what is drawn and the gap, then the letters
    columns = max(1, min(len(texts), int(figure.get_figwidth() / column)))
    figure.legend(
        [handles[name] for name in shown], texts, loc="outside lower center", fontsize=7.5, ncols=columns,
        frameon=False, labelcolor=INK,
    )  # fmt: skip


def _xy(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def metric_ticks(form: MetricFormat) -> Callable[[float, float], str]:
    """Return how an axis writes values of a metric."""
    if form.percent:
        return lambda value, _: f"{100 * value:g} %"
    return lambda value, _: metric(form, value)


def count_ticks(value: float, _: float) -> str:
    """Write counts on an axis."""
    text = human(value)
    number, unit = (text[:-1], text[-1]) if text[-1].isalpha() else (text, "")
    return f"{float(number):g}{unit}"


def whole_ticks(count: int) -> Any:
    """Return a locator of at most so many whole numbers."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(count, integer=True)
