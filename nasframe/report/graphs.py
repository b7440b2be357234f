"""Drawings of architectures that are graphs: rows of boxes with lines from each to those that read it.

Boxes stand in rows, each below all that it reads. A line over several rows gets a place of its own in each of them, so
that it passes between the boxes; rows are then sorted by where their neighbours stand, which avoids most crossings
(Sugiyama, Tagawa, Toda: Methods for visual understanding of hierarchical system structures, 1981).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from nasframe.records import Drawing
from nasframe.report.plots import BLUE, GREY, INK, PAPER, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROUNDS = 8
"""How often the rows are sorted."""
ROW_HEIGHT = 0.5
"""Inches from one row to the next."""
COLUMNS = 2
"""Drawings side by side."""
WIDTH = 5.2
"""Inches across of the figure."""
LETTER = 0.075
"""Inches across of a letter in a box."""
LONGEST = 18
"""Letters of a label; the rest is left out."""

Place: TypeAlias = tuple[float, float]
"""Columns from the middle, rows from the top."""


@dataclass(frozen=True)
class Layout:
    """Where a drawing's parts stand.

    Args:
        boxes: node → its place.
        lines: for each edge the places that it passes, from box to box.
        rows: how many there are.
        width: boxes of the widest row.
    """

    boxes: Mapping[str, Place]
    lines: Sequence[Sequence[Place]]
    rows: int
    width: int


def layout(drawing: Drawing) -> Layout:
    """Find places for the nodes and edges of a drawing.

    Raises:
        ValueError: its edges lead in a circle.

    >>> made = layout(Drawing({"a": "in", "b": "conv", "c": "out"}, [("a", "b"), ("b", "c"), ("a", "c")]))
    >>> made.boxes["a"], made.boxes["b"], len(made.lines[2])
    ((0.0, 0.0), (-0.5, 1.0), 3)
    """
    depths = drawing.depths()
    if depths is None:
        raise ValueError("the edges of a drawing lead in a circle")
    rows: list[list[str]] = [[] for _ in range(max(depths.values(), default=0) + 1)]
    for node, depth in depths.items():
        rows[depth].append(node)
    ways = []  # for each edge its ends and the stand-ins between
    links: list[tuple[str, str]] = []  # of neighbouring rows
    for number, (source, target) in enumerate(drawing.edges):
        way = [source]
        for depth in range(depths[source] + 1, depths[target]):
            stand_in = f"{number} in row {depth} of {source} to {target}"
            rows[depth].append(stand_in)
            way.append(stand_in)
        way.append(target)
        ways.append(way)
        links += itertools.pairwise(way)
    _sort(rows, links)
    places = {}
    for depth, row in enumerate(rows):
        for column, node in enumerate(row):
            places[node] = (column - (len(row) - 1) / 2, float(depth))
    boxes = {node: places[node] for node in drawing.nodes}
    lines = [[places[stop] for stop in way] for way in ways]
    return Layout(boxes, lines, len(rows), max(map(len, rows)))


def _sort(rows: list[list[str]], links: Sequence[tuple[str, str]]) -> None:
    """Sort each row by the mean place of its nodes' neighbours, downwards and upwards in turn."""
    above: dict[str, list[str]] = {}
    below: dict[str, list[str]] = {}
    for source, target in links:
        above.setdefault(target, []).append(source)
        below.setdefault(source, []).append(target)
    for number in range(ROUNDS):
        neighbours = above if number % 2 == 0 else below
        order = rows if number % 2 == 0 else rows[::-1]
        place: dict[str, float] = {}
        for row in order:
            own = {node: column - (len(row) - 1) / 2 for column, node in enumerate(row)}
            means = {}
            for node in row:
                known = [place[other] for other in neighbours.get(node, ()) if other in place]
                means[node] = sum(known) / len(known) if known else own[node]
            row.sort(key=lambda node, means=means: means[node])  # type: ignore[misc]
            place.update({node: column - (len(row) - 1) / 2 for column, node in enumerate(row)})


def graphs(drawings: Mapping[str, Drawing]) -> Figure:
    """Draw architectures beside and below each other, each under its name.

    Args:
        drawings: name → drawing; equal ones share a panel.
    """
    names: dict[str, list[str]] = {}  # of equal drawings, by the first of them
    for name, drawing in drawings.items():
        first = next((other for other in names if drawings[other] == drawing), name)
        names.setdefault(first, []).append(name)
    layouts = {name: layout(drawings[name]) for name in names}
    columns = min(COLUMNS, len(layouts))
    if any(made.width > 3 for made in layouts.values()):  # boxes need their width
        columns = 1
    lines = -(-len(layouts) // columns)
    most_rows = max(made.rows for made in layouts.values())
    figure, grid = panels(WIDTH, lines * (ROW_HEIGHT * most_rows + 0.4), len(layouts), columns)
    for axes, (name, made) in zip(grid, layouts.items(), strict=True):
        _draw(axes, ", ".join(names[name]), drawings[name], made, WIDTH / columns)
    return figure


def _draw(axes: Axes, name: str, drawing: Drawing, made: Layout, inches: float) -> None:
    """Draw one architecture."""
    axes.set_title(name, fontsize=8, color=INK, loc="left")
    axes.set_axis_off()
    # Rows of the same width everywhere, so that boxes of one figure are of one size.
    half = max(made.width / 2, 1.0)
    axes.set_xlim(-half, half)
    axes.set_ylim(made.rows - 0.5, -0.5)
    fits = max(4, int(inches / (2 * half) / LETTER) - 1)
    for line in made.lines:
        xs = [x for x, _ in line]
        ys = [y for _, y in line]
        axes.plot(xs, ys, color=GREY, linewidth=1.0, zorder=1, solid_joinstyle="round")
        _arrow(axes, line)
    for node, (x, y) in made.boxes.items():
        text = _short(drawing.nodes[node], min(fits, LONGEST))
        box = {"boxstyle": "round,pad=0.35", "facecolor": PAPER, "edgecolor": BLUE, "linewidth": 1.0}
        axes.text(x, y, text, ha="center", va="center", fontsize=7, color=INK, bbox=box, zorder=3)


def _arrow(axes: Axes, line: Sequence[Place]) -> None:
    """Draw an arrow's head in the middle of a line's last piece, where no box hides it."""
    (x0, y0), (x1, y1) = line[-2:]
    middle = (x0 + x1) / 2, (y0 + y1) / 2
    tip = (0.45 * x0 + 0.55 * x1, 0.45 * y0 + 0.55 * y1)
    style = {"arrowstyle": "-|>", "color": GREY, "linewidth": 1.0, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=tip, xytext=middle, arrowprops=style, zorder=2)


def _short(text: str, most: int) -> str:
    """Return a label that fits into its box.

    >>> _short("depthwise convolution", 10)
    'depthwise…'
    """
    if len(text) <= most:
        return text
    return text[: most - 1].rstrip() + "…"
