"""The page of a comparison as data: sections of text, tables and figures, which templates write as HTML or Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nasframe_studies import tables
from nasframe_studies.conditions import notice_line
from nasframe_studies.records import Comparison, MissingRun, PairTable
from nasframe_studies.tables import ScoreRow
from nasframe_studies.wording import NONE, plural

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
        " MACs of training (students and teachers) and search together.",
    ),
}
PILLS = {"higher": "teacher", "lower": "baseline", "reference": "winner"}
"""Verdict → the class of the page's style sheet that colours it."""
SCORE_COLUMNS = ("arm", "mean ± sd", "difference", "p after Holm", "Wilcoxon p", "d_z", "rank", "cost", "verdict")

RowKind = Literal["", "group", "reference"]


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, a small text below it, and the colour if it is a pill (``plain``: none)."""

    text: str
    aside: str = ""
    pill: str = ""

    def __str__(self) -> str:
        if not self.aside:
            return self.text
        return f"{self.text} ({self.aside})"


@dataclass(frozen=True)
class Row:
    """A row of a table; a ``group`` is a heading above the rows that follow, and has one cell."""

    cells: Sequence[Cell]
    kind: RowKind = ""


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
    if task:
        title += f": {task}"
    tests = tables.family(comparison, comparison.tables) or "no comparison"
    return title, text.format(family=tests)


def _summary(comparison: Comparison) -> str:
    parts = []
    if comparison.description:
        parts.append(comparison.description)
    arms = len(comparison.arms)
    seeds = len(comparison.seeds)
    parts += [f"{arms} {plural('arm', arms)}", ", ".join(comparison.tasks), f"{seeds} {plural('seed', seeds)}"]
    parts.append(f"against {comparison.against}")
    return " · ".join(parts)


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
    pictures = [_picture(name, content, comparison) for name, content in figures.items()]
    if pictures:
        yield Section(pictures=pictures)
    if comparison.fronts:
        yield Section(
            "Fronts",
            "Hypervolume above the lowest score and the highest cost of any arm."
            f" {tables.adjusted(comparison, comparison.fronts)}",
            grids=_by_task(tables.FRONTS, tables.fronts(comparison), left=3),
        )
    if comparison.examples:
        pairs = tables.examples(comparison)
        fold = f"{len(pairs)} {plural('row', len(pairs))}"
        yield Section(
            "Example by example",
            f"Two finished models each, at equal task, budget and seed, against {comparison.against}: exact McNemar and"
            " paired bootstrap over the examples. The noise of training is not in these numbers: they compare models,"
            " not methods, and these p-values are adjusted for nothing.",
            grids=[Grid(tables.PAIRS, _plain_rows(pairs), 4, fold=fold)],
        )
    yield Section(
        "Cost ledger",
        "Multiply-accumulates of an arm's run, mean; training is student and teacher together, search is what search"
        " stages evaluated, and evaluations that only report are in neither."
        f" {comparison.equal_macs.text}",
        grids=[Grid(tables.LEDGER, _plain_rows(tables.ledger(comparison)))],
    )
    if comparison.missing:
        yield Section("Failed and missing runs", grids=[_missing(comparison.missing)])
    if source:
        yield Section("Settings", source=source, folded=True)


def _plain_rows(rows: Sequence[Sequence[str]]) -> list[Row]:
    plain = []
    for row in rows:
        plain.append(Row([Cell(text) for text in row]))
    return plain


def _by_task(heading: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[Grid]:
    """Make one table of the first task, or of the mean, and a folded one of the others."""
    tasks = [row[0] for row in rows]
    count = tasks.count(tasks[0])  # the rows of a task stand together
    grids = [Grid(heading, _plain_rows(rows[:count]), left)]
    if count < len(rows):
        grids.append(Grid(heading, _plain_rows(rows[count:]), left, fold="Task by task"))
    return grids


def _missing(runs: Sequence[MissingRun]) -> Grid:
    rows = []
    for run in runs:
        rows.append([run.arm, run.task, str(run.seed), run.why, run.run])
    return Grid(["arm", "task", "seed", "what", "where"], _plain_rows(rows), 5)


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
    pairs = "Pairs are seeds"
    if len(table.tasks) > 1:
        pairs += ", tasks averaged within a seed"
    metric = tables.metric(comparison, table)
    return f"{comparison.split} {metric}. {pairs}; intervals are of 95 %, Student's first, then by bootstrap."


def _score_grid(comparison: Comparison, view: Sequence[PairTable]) -> Grid:
    """Lay the tables of one task out as one, with a heading for each model."""
    heading = list(SCORE_COLUMNS)
    if comparison.cost is None:
        heading.remove("cost")
    laid = []
    for table in view:
        covered = ""
        if 1 < len(table.tasks) < len(comparison.tasks):
            covered = ", ".join(table.tasks)
        laid.append(Row([Cell(table.model, covered)], "group"))
        for row in tables.rows(comparison, table):
            cells = _score_cells(row)
            kind: RowKind = "reference" if row.arm == comparison.against else ""
            laid.append(Row([cells[name] for name in heading], kind))
    return Grid(heading, laid, as_cards=True)


def _score_cells(row: ScoreRow) -> dict[str, Cell]:
    """Return the cells of a row of scores by the names of :data:`SCORE_COLUMNS`."""
    more = _aside(row.more, "about 1 more seed" if row.more == "1" else "about {} more seeds")
    return {
        "arm": Cell(row.arm, "1 seed" if row.n == "1" else f"{row.n} seeds"),
        "mean ± sd": Cell(row.score, _aside(row.interval)),
        "difference": Cell(row.difference, _aside(row.bootstrap)),
        "p after Holm": Cell(row.holm, _aside(row.p, "{} alone")),
        "Wilcoxon p": Cell(row.p_wilcoxon, _aside(row.smallest_p, "least {}")),
        "d_z": Cell(row.effect),
        "rank": Cell(row.rank),
        "cost": Cell(row.cost),
        "verdict": Cell(row.verdict, more, PILLS.get(row.verdict, "plain")),
    }


def _aside(text: str, pattern: str = "{}") -> str:
    """Write the small text below a cell; empty if there is no value."""
    if text == NONE:
        return ""
    return pattern.format(text)
