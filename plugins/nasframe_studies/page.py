"""Lays a comparison out as a page: which sections it has, and what stands in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nasframe.report.sections import Cell, Grid, Page, Picture, Remark, Row, Section, plain_grid, plain_rows
from nasframe_studies import tables
from nasframe_studies.conditions import notice_line
from nasframe_studies.recommend import lines
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
PILLS = {"better": "teacher", "worse": "baseline", "reference": "winner"}
"""What a verdict means → the class of the page's style sheet that colours it."""
SCORE_COLUMNS = ("arm", "mean ± sd", "difference", "p after Holm", "Wilcoxon p", "d_z", "rank", "cost", "verdict")


def page(comparison: Comparison, figures: Mapping[str, Any], source: str = "", details: Sequence[Section] = ()) -> Page:
    """Lay a comparison out.

    Args:
        comparison: what is shown.
        figures: name → content of a :class:`nasframe.report.sections.Picture`.
        source: the study's settings, as text.
        details: the sections on the recommended models.
    """
    remarks = [Remark(note, tone="warn") for note in comparison.notes]
    budgets_differ = comparison.equal_macs.equal is False
    remarks.append(Remark(comparison.equal_macs.text, tone="warn" if budgets_differ else ""))
    return Page(
        kind="nasframe study",
        title=comparison.name,
        summary=_summary(comparison),
        remarks=remarks,
        sections=list(_sections(comparison, figures, source, details)),
        lead=lines(comparison.shipped),
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
    if kind == "anytime" and _is_negative(comparison, task):
        text += " Of a metric of which less is better, the negative is drawn."
    tests = tables.family(comparison, comparison.tables) or "no comparison"
    return title, text.format(family=tests)


def _is_negative(comparison: Comparison, task: str) -> bool:
    """Tell whether some curves of a task are of the negative of their metric."""
    return any(curves.metric.startswith("-") for curves in comparison.anytime if curves.task == task)


def _summary(comparison: Comparison) -> str:
    parts = []
    if comparison.description:
        parts.append(comparison.description)
    arms = len(comparison.arms)
    seeds = len(comparison.seeds)
    parts += [f"{arms} {plural('arm', arms)}", ", ".join(comparison.tasks), f"{seeds} {plural('seed', seeds)}"]
    parts.append(f"against {comparison.against}")
    return " · ".join(parts)


def _sections(
    comparison: Comparison, figures: Mapping[str, Any], source: str, details: Sequence[Section]
) -> Iterator[Section]:
    """Yield the sections in order; those without content are left out."""
    pictures = {name: _picture(name, content, comparison) for name, content in figures.items()}
    against_cost = [picture for name, picture in pictures.items() if name.startswith("fronts")]
    if against_cost:
        yield Section(pictures=against_cost)
    notices = [notice_line(notice, comparison.arms) for notice in comparison.notices]
    if notices:
        yield Section("Decided by the runs without being asked", lines=notices)
    if comparison.findings:
        yield Section("Found", lines=comparison.findings)
    if comparison.limits:
        yield Section("What cannot be concluded", lines=comparison.limits)
    heading, *overview = tables.overview(comparison)
    scores = plain_grid(heading, overview, left=2, kind="dense")
    yield Section("Scores", tables.overview_caption(comparison), grids=[scores])
    yield from details
    yield from _differences(comparison)
    costs = tables.costs(comparison)
    if costs:
        heading, *rows = costs
        grids = _by_task(heading, rows, left=3)
        yield Section("Costs of the models", tables.costs_caption(comparison), grids=grids)
    others = [picture for name, picture in pictures.items() if not name.startswith("fronts")]
    if others:
        yield Section(pictures=others)
    if comparison.fronts:
        yield Section(
            "Fronts",
            "Hypervolume from the worst score and the worst cost of any arm."
            f" {tables.adjusted(comparison, comparison.fronts)}",
            grids=_by_task(tables.FRONTS, tables.fronts(comparison), left=3),
        )
    if comparison.examples:
        pairs = tables.examples(comparison)
        count = f"{len(pairs)} {plural('row', len(pairs))}"
        grid = Grid(tables.PAIRS, plain_rows(pairs), left=4, kind="dense", fold=count)
        yield Section(
            "Example by example",
            f"Two finished models each, at equal task, budget and seed, against {comparison.against}: exact McNemar and"
            " paired bootstrap over the examples. The noise of training is not in these numbers: they compare models,"
            " not methods, and these p-values are adjusted for nothing.",
            grids=[grid],
        )
    yield Section(
        "Cost ledger",
        "Multiply-accumulates of an arm's run, mean; training is student and teacher together, search is what search"
        " stages evaluated, and evaluations that only report are in neither."
        f" {comparison.equal_macs.text}",
        grids=[plain_grid(tables.LEDGER, tables.ledger(comparison), kind="dense")],
    )
    if comparison.missing:
        yield Section("Failed and missing runs", grids=[_missing(comparison.missing)])
    if source:
        yield Section("Settings", source=source, folded=True)


def _by_task(heading: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[Grid]:
    """Make one table of the first task, or of the mean, and a folded one of the others."""
    tasks = [row[0] for row in rows]
    count = tasks.count(tasks[0])  # the rows of a task stand together
    grids = [plain_grid(heading, rows[:count], left, kind="dense")]
    if count < len(rows):
        others = plain_rows(rows[count:])
        grids.append(Grid(heading, others, left, kind="dense", fold="Task by task"))
    return grids


def _missing(runs: Sequence[MissingRun]) -> Grid:
    rows = []
    for run in runs:
        rows.append([run.arm, run.task, str(run.seed), run.why, run.run])
    return plain_grid(["arm", "task", "seed", "what", "where"], rows, left=5, kind="dense")


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
        laid.append(Row([Cell(table.model, aside=covered)], kind="group", spans=True))
        for row in tables.rows(comparison, table):
            cells = _score_cells(row)
            kind = "reference" if row.arm == comparison.against else ""
            laid.append(Row([cells[name] for name in heading], kind))
    return Grid(heading, laid, kind="models dense")


def _score_cells(row: ScoreRow) -> dict[str, Cell]:
    """Return the cells of a row of scores by the names of :data:`SCORE_COLUMNS`."""
    seeds = "1 seed" if row.n == "1" else f"{row.n} seeds"
    more = _aside(row.more, "about 1 more seed" if row.more == "1" else "about {} more seeds")
    return {
        "arm": Cell(row.arm, aside=seeds),
        "mean ± sd": Cell(row.score, aside=_aside(row.interval)),
        "difference": Cell(row.difference, aside=_aside(row.bootstrap)),
        "p after Holm": Cell(row.holm, aside=_aside(row.p, "{} alone")),
        "Wilcoxon p": Cell(row.p_wilcoxon, aside=_aside(row.smallest_p, "least {}")),
        "d_z": Cell(row.effect),
        "rank": Cell(row.rank),
        "cost": Cell(row.cost),
        "verdict": Cell(row.verdict, pill=PILLS.get(row.standing, "plain"), aside=more),
    }


def _aside(text: str, pattern: str = "{}") -> str:
    """Write the small text below a cell; empty if there is no value."""
    if text == NONE:
        return ""
    return pattern.format(text)
