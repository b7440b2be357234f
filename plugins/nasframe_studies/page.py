"""The page of a comparison as data: sections of text, tables and figures, which templates write as HTML or Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nasframe_studies import tables
from nasframe_studies.conditions import notice_line
from nasframe_studies.records import Comparison, PairTable
from nasframe_studies.tables import NONE, ScoreRow

CAPTIONS = {
    "fronts": (
        "Score against cost",
        "Mean over seeds of each arm's models, budget by budget, with bootstrap intervals; points are set slightly"
        " apart where they would cover each other.",
    ),
    "differences": (
        "Paired differences",
        "Against the reference, seed by seed: t interval (thin) and bootstrap interval (thick). Filled: resolved after"
        " Holm's adjustment over {family}. At the right p after Holm and the number of pairs.",
    ),
    "anytime": (
        "Best so far",
        "The best score on the selection split so far, mean over seeds and its t interval, from where the last seed"
        " has begun to where the first has ended.",
    ),
    "ledger": (
        "What each arm cost",
        "Mean of its runs, padding included; stages from the cache count in full. Equal budget between arms means equal"
        " training MACs, students and teachers together.",
    ),
}
PILLS = {"higher": "teacher", "lower": "baseline", "reference": "winner"}
"""Verdict → the class of the page's style sheet that colours it."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, a small text below it, and the colour if it is a pill (``plain``: none)."""

    text: str
    aside: str = ""
    pill: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.aside})" if self.aside else self.text


@dataclass(frozen=True)
class Row:
    """A row of a table; a ``group`` is a heading above the rows that follow, and has one cell."""

    cells: Sequence[Cell]
    kind: Literal["", "group", "reference"] = ""


@dataclass(frozen=True)
class Grid:
    """A table.

    Args:
        heading: of the columns.
        rows: from the top.
        left: how many columns are text; the others are numbers.
        fold: the line that an HTML page hides the table behind, or ``""``.
        as_cards: whether each row becomes a card on a narrow screen.
    """

    heading: Sequence[str]
    rows: Sequence[Row]
    left: int = 1
    fold: str = ""
    as_cards: bool = False

    def texts(self) -> list[list[str]]:
        """Return the rows as text, a cell for each column."""
        rows = []
        for row in self.rows:
            texts = [str(cell) for cell in row.cells]
            if row.kind == "group":
                empty = [""] * (len(self.heading) - 1)
                texts = [f"**{texts[0]}**", *empty]
            rows.append(texts)
        return rows


@dataclass(frozen=True)
class Picture:
    """A figure; ``content`` is an ``<svg>`` element in HTML, a file's path in Markdown."""

    title: str
    caption: str
    content: Any
    wide: bool


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        title: its heading.
        text: a paragraph.
        lines: a list.
        grids: tables.
        pictures: figures.
        source: a text to show as it is.
        folded: whether an HTML page hides it behind its title.
    """

    title: str = ""
    text: str = ""
    lines: Sequence[str] = ()
    grids: Sequence[Grid] = ()
    pictures: Sequence[Picture] = ()
    source: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Page:
    """The page of a comparison.

    Args:
        title: the study's name.
        summary: what was compared, in a line.
        warnings: what a reader must know first.
        budget: whether arms had equal budgets.
        unequal: whether they had not, so that ``budget`` is a warning.
        sections: in order.
    """

    title: str
    summary: str
    warnings: Sequence[str]
    budget: str
    unequal: bool
    sections: Sequence[Section]


def page(comparison: Comparison, figures: Mapping[str, Any], source: str = "") -> Page:
    """Lay a comparison out.

    Args:
        comparison: what is shown.
        figures: name → content of a :class:`Picture`.
        source: the study's settings, as text.
    """
    return Page(
        title=comparison.name,
        summary=_summary(comparison),
        warnings=comparison.notes,
        budget=comparison.equal_macs.text,
        unequal=comparison.equal_macs.equal is False,
        sections=list(_sections(comparison, figures, source)),
    )


def caption(name: str, comparison: Comparison) -> tuple[str, str]:
    """Return the title of a figure and the text below it.

    Args:
        name: as :func:`nasframe_studies.plots.figures` names it.
        comparison: what it shows.
    """
    kind, _, task = name.partition("-")
    title, text = CAPTIONS[kind]
    tested = [table for table in comparison.tables if table.family]
    family = tables.family(comparison, tested) if tested else "no comparison"
    return (f"{title}: {task}" if task else title), text.format(family=family)


def _summary(comparison: Comparison) -> str:
    parts = [
        comparison.description,
        _counted(len(comparison.arms), "arm"),
        ", ".join(comparison.tasks),
        _counted(len(comparison.seeds), "seed"),
        f"against {comparison.against}",
    ]
    return " · ".join(part for part in parts if part)


def _counted(count: int | str, noun: str) -> str:
    """Write a number of things.

    >>> _counted(1, "seed"), _counted("12", "seed")
    ('1 seed', '12 seeds')
    """
    return f"{count} {noun}" if str(count) == "1" else f"{count} {noun}s"


def _sections(comparison: Comparison, figures: Mapping[str, Any], source: str) -> Iterator[Section]:
    """Yield the sections in order; those without content are left out."""
    notices = [notice_line(notice, comparison.arms) for notice in comparison.notices]
    if notices:
        yield Section("Decided by the runs without being asked", lines=notices)
    if comparison.findings:
        yield Section("Found", lines=comparison.findings)
    if comparison.limits:
        yield Section("What cannot be concluded", lines=comparison.limits)
    heading, *overview = tables.overview(comparison)
    yield Section("Scores", tables.overview_caption(comparison), grids=[Grid(heading, _plain_rows(overview), 2)])
    yield from _differences(comparison)
    costs = tables.costs(comparison)
    if costs:
        grids = _by_task(costs[0], costs[1:], left=3)
        yield Section("Costs of the models", tables.costs_caption(comparison), grids=grids)
    if figures:
        yield Section(pictures=[_picture(name, content, comparison) for name, content in figures.items()])
    if comparison.fronts:
        yield Section(
            "Fronts",
            "Hypervolume above the lowest score and the highest cost of any arm."
            f" {tables.adjusted(comparison, comparison.fronts)}",
            grids=_by_task(tables.FRONTS, tables.fronts(comparison), left=3),
        )
    if comparison.examples:
        pairs = tables.examples(comparison)
        yield Section(
            "Example by example",
            f"Two finished models each, at equal task, budget and seed, against {comparison.against}: exact McNemar and"
            " paired bootstrap over the examples. The noise of training is not in these numbers: they compare models,"
            " not methods, and these p-values are adjusted for nothing.",
            grids=[Grid(tables.PAIRS, _plain_rows(pairs), 4, fold=_counted(len(pairs), "row"))],
        )
    yield Section(
        "Cost ledger",
        "Multiply-accumulates of an arm's run, mean; training is student and teacher together."
        f" {comparison.equal_macs.text}",
        grids=[Grid(tables.LEDGER, _plain_rows(tables.ledger(comparison)))],
    )
    if comparison.missing:
        missing = [[run.arm, run.task, str(run.seed), run.why, run.run] for run in comparison.missing]
        grid = Grid(["arm", "task", "seed", "what", "where"], _plain_rows(missing), 5)
        yield Section("Failed and missing runs", grids=[grid])
    if source:
        yield Section("Settings", source=source, folded=True)


def _plain_rows(rows: Sequence[Sequence[str]]) -> list[Row]:
    plain = []
    for row in rows:
        plain.append(Row([Cell(text) for text in row]))
    return plain


def _by_task(heading: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[Grid]:
    """Make one table of the first task, or of the mean, and a folded one of the others."""
    first = [row for row in rows if row[0] == rows[0][0]]
    others = [row for row in rows if row[0] != rows[0][0]]
    grids = [Grid(heading, _plain_rows(first), left)]
    if others:
        grids.append(Grid(heading, _plain_rows(others), left, fold="Task by task"))
    return grids


def _picture(name: str, content: Any, comparison: Comparison) -> Picture:
    title, text = caption(name, comparison)
    return Picture(title, text, content, wide=name.startswith("anytime"))


# ---- differences


def _differences(comparison: Comparison) -> Iterator[Section]:
    """Yield a section for each task, of which only the first is open."""
    for number, (task, view) in enumerate(comparison.tables_by_task().items()):
        text = tables.adjusted(comparison, view)
        if number == 0:
            text = f"{_difference_caption(comparison, view[0])} {text}".strip()
            if comparison.cost:
                text += f" Cost: {tables.cost_name(comparison)}."
        yield Section(f"Differences: {task}", text, grids=[_score_grid(comparison, view)], folded=number > 0)


def _difference_caption(comparison: Comparison, table: PairTable) -> str:
    averaged = ", tasks averaged within a seed" if len(table.tasks) > 1 else ""
    return (
        f"{comparison.split} {tables.metric(comparison, table)}. Pairs are seeds{averaged}; intervals are of 95 %,"
        " Student's first, then by bootstrap."
    )


def _score_grid(comparison: Comparison, view: Sequence[PairTable]) -> Grid:
    """Lay the tables of one task out as one, with a heading for each model."""
    heading = ["arm", "mean ± sd", "difference", "p after Holm", "Wilcoxon p", "d_z", "rank", "cost", "verdict"]
    place_of_cost = heading.index("cost")
    laid = []
    for table in view:
        covers_some = 1 < len(table.tasks) < len(comparison.tasks)
        laid.append(Row([Cell(table.model, ", ".join(table.tasks) if covers_some else "")], "group"))
        for row in tables.rows(comparison, table):
            cells = _score_cells(row)
            if comparison.cost is None:
                del cells[place_of_cost]
            laid.append(Row(cells, "reference" if row.arm == comparison.against else ""))
    if comparison.cost is None:
        del heading[place_of_cost]
    return Grid(heading, laid, as_cards=True)


def _score_cells(row: ScoreRow) -> list[Cell]:
    more = "" if row.more == NONE else f"about {_counted(row.more, 'more seed')}"
    return [
        Cell(row.arm, _counted(row.n, "seed")),
        Cell(row.score, _unless_none(row.interval)),
        Cell(row.difference, _unless_none(row.bootstrap)),
        Cell(row.holm, _unless_none(row.p, "{} alone")),
        Cell(row.p_wilcoxon, _unless_none(row.smallest_p, "least {}")),
        Cell(row.effect),
        Cell(row.rank),
        Cell(row.cost),
        Cell(row.verdict, more, PILLS.get(row.verdict, "plain")),
    ]


def _unless_none(text: str, pattern: str = "{}") -> str:
    return "" if text == NONE else pattern.format(text)
