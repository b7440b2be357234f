"""The tables of a comparison as cells of text, the same on every page, in every file and on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nasframe.records import MetricFormat
from nasframe.report import tables as report_tables
from nasframe.report.format import cost_heading, in_column_order
from nasframe.report.tables import human
from nasframe_studies.evidence import axis_column
from nasframe_studies.processors import UNLIKE_PAIRS, has_unlike_pairs, marked_seed
from nasframe_studies.records import ArmScores, Comparison, Difference, ExamplePair, PairTable, Standing, TeacherScores
from nasframe_studies.wording import (
    NONE,
    bounds,
    directed,
    interval,
    mean_and_sd,
    number,
    p_value,
    plural,
    verdict,
    written,
)

TEACHER = "teacher"
"""The column of an overview that has the scores of the full networks."""
OVER = " †"
"""The mark at the score of a model that is over its budget in some run."""
ARROWS = {"higher": " ↑", "lower": " ↓"}

COLUMNS = {
    "arm": "arm",
    "n": "seeds",
    "score": "mean ± sd",
    "interval": "95 % bootstrap",
    "rank": "rank",
    "cost": "cost",
    "difference": "difference [95 % t]",
    "bootstrap": "[95 % bootstrap]",
    "p": "p (t)",
    "holm": "after Holm",
    "wilcoxon": "Wilcoxon p (least)",
    "effect": "d_z",
    "verdict": "verdict",
    "more": "more seeds",
}
"""The columns of a table of scores, as :class:`ScoreRow` names them, and their headings."""
LEDGER = (
    "arm", "runs", "student", "teacher", "training", "training + search", "of the reference's", "all evaluation",
    "evaluations", "time",
)  # fmt: skip
FRONTS = ("task", "front", "arm", "hypervolume", "difference [95 % t]", "after Holm")
PAIRS = ("task", "model", "arm", "seeds", "McNemar p, by seed", "below 0.05", "difference by seed [95 % bootstrap]")


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """One arm's row in a table of scores, as text.

    Args:
        arm: its name.
        n: its seeds, and its pairs if these are fewer.
        score: mean and standard deviation, and those of the metrics next to the compared one.
        interval: of the mean, by bootstrap.
        rank: mean rank.
        cost: mean cost.
        difference: from the reference, with Student's interval.
        bootstrap: interval of the difference, by bootstrap.
        p: of the paired t test.
        holm: the same after Holm's adjustment.
        p_wilcoxon: of Wilcoxon's test.
        smallest_p: the smallest that it can be.
        effect: d_z.
        verdict: the conclusion.
        standing: what the conclusion means for the arm.
        more: how many more seeds an open difference needs.
    """

    arm: str
    n: str
    score: str
    interval: str
    rank: str
    cost: str
    difference: str = NONE
    bootstrap: str = NONE
    p: str = NONE
    holm: str = NONE
    p_wilcoxon: str = NONE
    smallest_p: str = NONE
    effect: str = NONE
    verdict: str
    standing: Standing = ""
    more: str = NONE

    @property
    def wilcoxon(self) -> str:
        """Wilcoxon's p with the smallest that it can be."""
        if self.p_wilcoxon == NONE:
            return NONE
        return f"{self.p_wilcoxon} (≥ {self.smallest_p})"

    def cells(self, names: Sequence[str]) -> list[str]:
        """Return the cells of some of :data:`COLUMNS`."""
        return [getattr(self, name) for name in names]


# ---- captions


def overview_caption(comparison: Comparison) -> str:
    """Describe the overview, and the comparisons that Holm's adjustment was made over."""
    text = "Mean ± standard deviation over seeds; teacher: the full network that an arm begins with."
    tests = family(comparison, comparison.tables)
    if tests:  # without any no arrow is shown
        text += f" ↑ ↓: higher or lower than the reference, resolved after Holm's adjustment over {tests}."
        if comparison.family == "task" and len(comparison.tables_by_task()) > 1:
            text += " Each task is adjusted by itself: of several tasks one may show an arrow by chance more often than"
            text += f" at {comparison.alpha:g}. To adjust over the whole page: --family page."
    minimised = _minimised(comparison)
    if minimised:
        text += f" Less is better of {', '.join(minimised)}."
    if any(table.over_budget for table in comparison.tables):
        text += " †: over budget by its final costs in some run."
    return text


def _minimised(comparison: Comparison) -> list[str]:
    """Return the compared metrics of which less is better."""
    names: dict[str, None] = {}
    for table in comparison.tables:
        form = comparison.format_of(table.task, table.metric)
        if not form.higher_is_better:
            names |= dict.fromkeys(table.metric.split(", "))  # a mean of tasks may be of several
    return list(names)


def family(comparison: Comparison, tables: Sequence[PairTable]) -> str:
    """Name the family of comparisons that Holm's adjustment of some tables counts, as ``these 4 comparisons``.

    Tables without tests do not count; the name is empty if all are.
    """
    sizes = set()
    tasks = set()
    for table in tables:
        if table.family:  # else no test could be made in it, as with a single seed
            sizes.add(table.family)
            tasks.add(table.task)
    if not sizes:
        return ""
    smallest = min(sizes)
    largest = max(sizes)
    whole_page = comparison.family == "page"
    if largest == 1 and whole_page:
        return "this page's one comparison"
    if largest == 1 and len(tasks) == 1:
        return "this one comparison"
    count = f"{largest}"
    if smallest < largest:  # tasks need not have the same arms and models
        count = f"{smallest} to {largest}"
    counted = f"{count} {plural('comparison', largest)}"
    if whole_page:
        return f"all {counted} of this page"
    if len(tasks) > 1:
        return f"each task's {counted}"
    return f"these {counted}"


def adjusted(comparison: Comparison, tables: Sequence[PairTable]) -> str:
    """Name in a sentence the comparisons that Holm's adjustment of some tables was made over; empty without tests."""
    tests = family(comparison, tables)
    if not tests:
        return ""
    return f"Holm over {tests}."


def costs_caption(comparison: Comparison) -> str:
    """Describe the table of costs."""
    text = "Means over an arm's runs, as shares of the teacher's costs."
    if comparison.absolute:
        absolute = ", ".join(_cost_headings(comparison, comparison.absolute))
        text += f" In absolute numbers, since the arms' full networks differ in them: {absolute}."
    return text


def _cost_headings(comparison: Comparison, costs: Sequence[str]) -> list[str]:
    return [cost_heading(cost, comparison.cost_format(cost)) for cost in costs]


def cost_name(comparison: Comparison) -> str:
    """Name the cost that a comparison is drawn against, and its unit, as ``encoder params, absolute``.

    Raises:
        ValueError: there is none.
    """
    if comparison.cost is None:
        raise ValueError("the comparison has no cost to draw against")
    name = comparison.cost.replace("_", " ")
    if comparison.cost in comparison.absolute:
        return f"{name}, absolute"
    return f"{name}, share of the teacher's"


def about(comparison: Comparison, view: Sequence[PairTable]) -> str:
    """Describe the tables of one task."""
    first = view[0]
    text = f"{comparison.name}: {comparison.split} {metric(comparison, first, ' × 100')} ({first.task})"
    if any(table.comparisons for table in view):
        text += f", against {comparison.against}"
    tests = family(comparison, view)
    if tests:
        text += f". Holm over {tests}"
    if any(has_unlike_pairs(comparison, table, pair) for table in view for pair in table.comparisons):
        text += f".{UNLIKE_PAIRS}: arm and reference were made on different kinds of processor at some seed"
    return text


def metric(comparison: Comparison, table: PairTable, unit: str = ", × 100") -> str:
    """Name a table's metric, with the class that it is about, its direction, and ``unit`` if it is a share."""
    form = comparison.format_of(table.task, table.metric)
    name = directed(table.metric, form)
    if form.percent:
        name += unit
    return name


# ---- rows


def rows(comparison: Comparison, table: PairTable) -> list[ScoreRow]:
    """Write the rows of a table of scores as text."""
    return [_row(comparison, table, row) for row in table.arms]


def _row(comparison: Comparison, table: PairTable, row: ArmScores) -> ScoreRow:
    form = comparison.format_of(table.task, table.metric)
    score = _spread(comparison, table.task, table.metric, row)
    if row.over_budget:
        score += OVER
    ends = NONE  # fewer than three seeds have no bootstrap interval
    if row.low is not None and row.high is not None:
        ends = f"[{number(form, row.low)}, {number(form, row.high)}]"
    described = ScoreRow(
        arm=row.arm,
        n=str(row.n),
        score=score,
        interval=ends,
        rank=written(row.rank, ".2g"),
        cost=_cost(comparison, comparison.cost, row),
        verdict="not paired",
    )
    pair = table.difference_of(row.arm)
    if pair is not None:
        compared = _with_difference(described, form, pair)
        if has_unlike_pairs(comparison, table, pair):
            compared = replace(compared, difference=compared.difference + UNLIKE_PAIRS)
        return compared
    if row.arm == comparison.against:
        return replace(described, verdict="reference", standing="reference")
    return described


def _with_difference(row: ScoreRow, form: MetricFormat, pair: Difference) -> ScoreRow:
    """Add an arm's difference from the reference to its row."""
    pairs = str(pair.n)
    # Pairs may be fewer than the arm's seeds: the reference may lack some.
    compared = replace(
        row,
        n=row.n if row.n == pairs else f"{row.n} ({pairs} pairs)",
        difference=interval(form, pair.mean, pair.t_low, pair.t_high),
        bootstrap=bounds(form, pair.low, pair.high),
        p=p_value(pair.p_t),
        holm=p_value(pair.p_t_holm),
        effect=written(pair.d_z, ".2f"),
        verdict=verdict(form, pair),
        standing=pair.standing(form),
    )
    if pair.n > 1:  # of one difference Wilcoxon's p is always 1
        compared = replace(compared, p_wilcoxon=p_value(pair.p_wilcoxon), smallest_p=p_value(pair.smallest_p))
    if pair.verdict == "not resolved" and pair.more_seeds:
        compared = replace(compared, more=human(pair.more_seeds))
    return compared


def _cost(comparison: Comparison, name: str | None, row: ArmScores) -> str:
    """Write a cost of an arm's models: its share of the teacher's, or the absolute number if teachers differ."""
    if name is None:
        return NONE
    value = row.costs.get(axis_column(name, comparison.absolute))
    if value is None:  # not measured, or a share of a teacher that the arm does not have
        return NONE
    if name in comparison.absolute:
        return report_tables.cost(comparison.cost_format(name), name, {name: value})
    return f"{100 * value:.0f} %"


def _spread(comparison: Comparison, task: str, compared: str, row: ArmScores | TeacherScores) -> str:
    """Write an arm's mean and standard deviation, and those of the metrics next to the compared one."""
    texts = [mean_and_sd(comparison.format_of(task, compared), row.mean, row.sd)]
    for name, spread in row.beside.items():
        form = comparison.format_of(task, name)
        texts.append(f"{name} {mean_and_sd(form, spread.mean, spread.sd)}")
    return ", ".join(texts)


# ---- whole tables


def overview(comparison: Comparison) -> list[list[str]]:
    """Lay all scores out as one table, its heading first: arms by models, mean ± sd, next to the arms' teachers.

    An arrow marks a difference from the reference that is resolved after Holm's adjustment, and its direction.
    """
    columns = list(comparison.models)
    if comparison.teachers:
        columns.insert(0, TEACHER)
    laid = [["task", "arm", *columns]]
    for task, view in comparison.tables_by_task().items():
        scores: dict[str, dict[str, str]] = {}  # arm → column → cell
        for table in view:
            for row in rows(comparison, table):
                pair = table.difference_of(row.arm)
                arrow = ARROWS.get(pair.verdict, "") if pair else ""
                scores.setdefault(row.arm, {})[table.model] = f"{row.score}{arrow}"
        for arm in comparison.arms:
            if arm not in scores:  # no run of it on this task has any
                continue
            cells = scores[arm]
            teacher = comparison.teacher_of(task, arm)
            if teacher is not None:
                cells[TEACHER] = _spread(comparison, task, view[0].metric, teacher)
            shown = [cells.get(column, NONE) for column in columns]
            laid.append([task, arm, *shown])
    return laid


def costs(comparison: Comparison) -> list[list[str]]:
    """Lay out what the models cost, the heading first: means over an arm's runs, as :func:`costs_caption` says."""
    names = _shown_costs(comparison)
    if not names:
        return []
    laid = [["task", "model", "arm", *_cost_headings(comparison, names)]]
    for table in comparison.tables:
        for row in table.arms:
            cells = [_cost(comparison, name, row) for name in names]
            laid.append([table.task, table.model, row.arm, *cells])
    return laid


def _shown_costs(comparison: Comparison) -> list[str]:
    """Return the costs of which some arm has what is shown: the share of the teacher's, or the absolute number."""
    present = set()
    for table in comparison.tables:
        for row in table.arms:
            for name in row.costs:
                if name.endswith("_relative"):
                    present.add(name.removesuffix("_relative"))
                elif name in comparison.absolute:
                    present.add(name)
    return in_column_order(present)


def ledger(comparison: Comparison) -> list[list[str]]:
    """Lay the ledger out by the columns of :data:`LEDGER`: MACs by role, mean of an arm's runs."""
    laid = []
    for row in comparison.ledger:
        laid.append(
            [
                row.arm,
                str(row.runs),
                human(row.student_macs),
                human(row.teacher_macs),
                human(row.training_macs),
                human(row.training_and_search_macs),
                written(row.ratio, ".3f"),
                human(row.evaluation_macs),
                human(row.evaluations),
                report_tables.duration(row.seconds),
            ]
        )
    return laid


def fronts(comparison: Comparison) -> list[list[str]]:
    """Lay hypervolumes out by the columns of :data:`FRONTS`."""
    laid = []
    for table in comparison.fronts:
        kind = f"{table.model}, {table.cost}"
        costs_of_front = table.cost.split(", ")
        if any(cost in comparison.absolute for cost in costs_of_front):
            kind += ", absolute"
        for row in rows(comparison, table):
            laid.append([table.task, kind, *row.cells(["arm", "score", "difference", "holm"])])
    return laid


def examples(comparison: Comparison) -> list[list[str]]:
    """Lay the comparisons by example out by the columns of :data:`PAIRS`: a row for each task, model and arm."""
    # A row for all seeds of an arm, since a study may have hundreds of pairs.
    groups: dict[tuple[str, str, str], list[ExamplePair]] = {}
    for pair in comparison.examples:
        groups.setdefault((pair.task, pair.model, pair.arm), []).append(pair)
    laid = []
    for key, pairs in groups.items():
        form = comparison.format_of(pairs[0].task, pairs[0].metric)
        seeds = []
        p_values = []
        differences = []
        for pair in pairs:
            seeds.append(marked_seed(comparison, pair.task, pair.seed))
            p_values.append(pair.note or p_value(pair.p))
            differences.append(interval(form, pair.difference, pair.low, pair.high))
        # McNemar's test needs predictions that are right or wrong: real-valued ones have no p.
        tested = [pair.p for pair in pairs if pair.p is not None]
        below = sum(p < comparison.alpha for p in tested)
        count = f"{below} of {len(tested)}"
        laid.append([*key, ", ".join(seeds), ", ".join(p_values), count, "; ".join(differences)])
    return laid
