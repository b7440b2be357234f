"""The tables of a comparison as cells of text, the same on every page, in every file and on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nasframe.records import MetricFormat
from nasframe.report import tables
from nasframe.report.format import titled
from nasframe.report.tables import human
from nasframe_studies.evidence import axis_column
from nasframe_studies.findings import interval, p_value, t_interval
from nasframe_studies.records import ArmScores, Comparison, Difference, ExamplePair, PairTable, TeacherScores

NONE = "–"
"""A cell without a value."""
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
LEDGER = ("arm", "runs", "student", "teacher", "training", "of the reference's", "evaluation", "evaluations", "time")
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
    more: str = NONE

    @property
    def wilcoxon(self) -> str:
        """Wilcoxon's p with the smallest that it can be."""
        return NONE if self.p_wilcoxon == NONE else f"{self.p_wilcoxon} (≥ {self.smallest_p})"

    def cells(self, names: Sequence[str]) -> list[str]:
        """Return the cells of some of :data:`COLUMNS`."""
        return [getattr(self, name) for name in names]


# ---- captions


def overview_caption(comparison: Comparison) -> str:
    """Describe the overview, and the comparisons that Holm's adjustment was made over."""
    tested = [table for table in comparison.tables if table.family]
    text = "Mean ± standard deviation over seeds; teacher: the full network that an arm begins with."
    if tested:
        text += " ↑ ↓: higher or lower than the reference, resolved after Holm's adjustment"
        text += f" over {family(comparison, tested)}."
        if comparison.family == "task" and len(comparison.tables_by_task()) > 1:
            text += " Each task is adjusted by itself: of several tasks one may show an arrow by chance more often than"
            text += f" at {comparison.alpha:g}. To adjust over the whole page: --family page."
    if any(row.over_budget for table in comparison.tables for row in table.arms):
        text += " †: over budget by its final costs in some run."
    return text


def family(comparison: Comparison, tested: Sequence[PairTable]) -> str:
    """Name the family of comparisons that Holm's adjustment of some tables counts, as ``these 4 comparisons``."""
    sizes = sorted({table.family for table in tested})
    smallest, largest = sizes[0], sizes[-1]
    count = f"{largest}" if smallest == largest else f"{smallest} to {largest}"
    noun = "comparison" if largest == 1 else "comparisons"
    if comparison.family == "page":
        return f"all {count} {noun} of this page" if largest > 1 else "this page's one comparison"
    if len({table.task for table in tested}) > 1:
        return f"each task's {count} {noun}"
    return f"these {count} {noun}" if largest > 1 else "this one comparison"


def adjusted(comparison: Comparison, shown: Sequence[PairTable]) -> str:
    """Name in a sentence the comparisons that Holm's adjustment of some tables was made over; empty without tests."""
    tested = [table for table in shown if table.family]
    return f"Holm over {family(comparison, tested)}." if tested else ""


def costs_caption(comparison: Comparison) -> str:
    """Describe the table of costs."""
    absolute = [_cost_heading(cost) for cost in comparison.absolute]
    text = "Means over an arm's runs, as shares of the teacher's costs."
    if absolute:
        text += f" In absolute numbers, since the arms' full networks differ in them: {', '.join(absolute)}."
    return text


def _cost_heading(cost: str) -> str:
    return tables.COSTS.get(cost, cost.replace("_", " "))


def cost_name(comparison: Comparison) -> str:
    """Name the cost that a comparison is drawn against, and its unit, as ``encoder params, absolute``."""
    if comparison.cost is None:
        return "no cost"
    unit = "absolute" if comparison.cost in comparison.absolute else "share of the teacher's"
    return f"{comparison.cost.replace('_', ' ')}, {unit}"


def about(comparison: Comparison, view: Sequence[PairTable]) -> str:
    """Describe the tables of one task."""
    first = view[0]
    compared = any(table.comparisons for table in view)
    against = f", against {comparison.against}" if compared else ""
    text = f"{comparison.name}: {comparison.split} {metric(comparison, first, ' × 100')} ({first.task}){against}"
    holm = adjusted(comparison, view).removesuffix(".")
    return f"{text}. {holm}" if holm else text


def metric(comparison: Comparison, table: PairTable, unit: str = ", × 100") -> str:
    """Name a table's metric, with the class that it is about, and with ``unit`` if it is a share."""
    form = comparison.format_of(table.task, table.metric)
    name = titled(table.metric, form)
    return f"{name}{unit}" if form.percent else name


# ---- rows


def rows(comparison: Comparison, table: PairTable) -> list[ScoreRow]:
    """Write the rows of a table of scores as text."""
    return [_row(comparison, table, row) for row in table.arms]


def _row(comparison: Comparison, table: PairTable, row: ArmScores) -> ScoreRow:
    form = comparison.format_of(table.task, table.metric)
    score = _spread(comparison, table.task, table.metric, row)
    described = ScoreRow(
        arm=row.arm,
        n=str(row.n),
        score=f"{score}{OVER}" if row.over_budget else score,
        interval=_bounds(form, row),
        rank=NONE if row.rank is None else f"{row.rank:.2g}",
        cost=_cost(comparison, comparison.cost, row),
        verdict="reference" if row.arm == comparison.against else "not paired",
    )
    pair = table.difference_of(row.arm)
    return described if pair is None else _with_difference(described, form, pair)


def _bounds(form: MetricFormat, row: ArmScores) -> str:
    if row.low is None or row.high is None:
        return NONE
    return f"[{number(form, row.low)}, {number(form, row.high)}]"


def _with_difference(row: ScoreRow, form: MetricFormat, pair: Difference) -> ScoreRow:
    """Add an arm's difference from the reference to its row."""
    bootstrap = NONE if pair.low is None else interval(form, pair.mean, pair.low, pair.high).partition(" ")[2]
    effect = NONE if pair.d_z is None else f"{pair.d_z:.2f}".replace("-", "−")
    tested = pair.n > 1
    return replace(
        row,
        n=row.n if row.n == str(pair.n) else f"{row.n} ({pair.n} pairs)",
        difference=t_interval(form, pair),
        bootstrap=bootstrap,
        p=p_value(pair.p_t),
        holm=p_value(pair.p_t_holm),
        p_wilcoxon=p_value(pair.p_wilcoxon) if tested else NONE,
        smallest_p=p_value(pair.smallest_p) if tested else NONE,
        effect=effect,
        verdict=pair.verdict,
        more=human(pair.more_seeds or None) if pair.verdict == "not resolved" else NONE,
    )


def _cost(comparison: Comparison, name: str | None, row: ArmScores) -> str:
    """Write a cost of an arm's models: its share of the teacher's, or the absolute number if teachers differ."""
    if name is None:
        return NONE
    value = row.costs.get(axis_column(name, comparison.absolute))
    if value is None:
        return NONE
    return tables.cost(name, {name: value}) if name in comparison.absolute else f"{100 * value:.0f} %"


def number(form: MetricFormat, value: float) -> str:
    """Write a score in a table: shares times 100, without a sign.

    >>> number(MetricFormat(percent=True), 0.9183), number(MetricFormat(), 0.52), number(MetricFormat(), 0.00412)
    ('91.8', '0.520', '0.00412')
    """
    if form.percent:
        return f"{100 * value:.1f}"
    return f"{value:.3f}" if abs(value) >= 0.1 or not value else f"{value:#.3g}"


def _spread(comparison: Comparison, task: str, compared: str, row: ArmScores | TeacherScores) -> str:
    """Write an arm's mean and standard deviation, and those of the metrics next to the compared one."""
    texts = [_mean_and_sd(comparison.format_of(task, compared), row.mean, row.sd)]
    for name, spread in row.beside.items():
        form = comparison.format_of(task, name)
        texts.append(f"{name} {_mean_and_sd(form, spread.mean, spread.sd)}")
    return ", ".join(texts)


def _mean_and_sd(form: MetricFormat, mean: float, sd: float | None) -> str:
    text = number(form, mean)
    return text if sd is None else f"{text} ± {number(form, sd)}"


# ---- whole tables, the heading first


def overview(comparison: Comparison) -> list[list[str]]:
    """Lay all scores out as one table, its heading first: arms by models, mean ± sd, next to the arms' teachers.

    An arrow marks a difference from the reference that is resolved after Holm's adjustment, and its direction.
    """
    teacher = ["teacher"] if comparison.teachers else []
    laid = [["task", "arm", *teacher, *comparison.models]]
    for task, view in comparison.tables_by_task().items():
        scores: dict[str, dict[str, str]] = {}
        for table in view:
            for row in rows(comparison, table):
                score = f"{row.score}{ARROWS.get(row.verdict, '')}"
                scores.setdefault(row.arm, {})[table.model] = score
        for arm in comparison.arms:
            if arm in scores:
                cells = [scores[arm].get(model, NONE) for model in comparison.models]
                teachers = [_teacher(comparison, task, view[0].metric, arm)] if teacher else []
                laid.append([task, arm, *teachers, *cells])
    return laid


def _teacher(comparison: Comparison, task: str, compared: str, arm: str) -> str:
    scores = comparison.teacher_of(task, arm)
    return NONE if scores is None else _spread(comparison, task, compared, scores)


def costs(comparison: Comparison) -> list[list[str]]:
    """Lay out what the models cost, the heading first: means over an arm's runs, as :func:`costs_caption` says."""
    names = _shown_costs(comparison)
    if not names:
        return []
    laid = [["task", "model", "arm", *map(_cost_heading, names)]]
    for table in comparison.tables:
        for row in table.arms:
            cells = [_cost(comparison, name, row) for name in names]
            laid.append([table.task, table.model, row.arm, *cells])
    return laid


def _shown_costs(comparison: Comparison) -> list[str]:
    """Return the costs of which some arm has what is shown: the share of the teacher's, or the absolute number."""
    columns: set[str] = set()
    for table in comparison.tables:
        for row in table.arms:
            columns |= row.costs.keys()
    present = {name.removesuffix("_relative") for name in columns if name.endswith("_relative")}
    present |= {name for name in comparison.absolute if name in columns}
    first = [name for name in tables.COSTS if name in present]
    return [*first, *sorted(present - tables.COSTS.keys())]


def ledger(comparison: Comparison) -> list[list[str]]:
    """Lay the ledger out, without its heading: MACs by role, mean of an arm's runs."""
    laid = []
    for row in comparison.ledger:
        ratio = NONE if row.ratio is None else f"{row.ratio:.3f}"
        macs = [human(value) for value in (row.student_macs, row.teacher_macs, row.training_macs)]
        evaluation = [human(row.evaluation_macs), human(row.evaluations)]
        laid.append([row.arm, str(row.runs), *macs, ratio, *evaluation, tables.duration(row.seconds)])
    return laid


def fronts(comparison: Comparison) -> list[list[str]]:
    """Lay hypervolumes out, without their heading."""
    laid = []
    for table in comparison.fronts:
        absolute = any(name in comparison.absolute for name in table.cost.split(", "))
        unit = ", absolute" if absolute else ""
        head = [table.task, f"{table.model}, {table.cost}{unit}"]
        for row in rows(comparison, table):
            laid.append([*head, *row.cells(["arm", "score", "difference", "holm"])])
    return laid


def examples(comparison: Comparison) -> list[list[str]]:
    """Lay the comparisons by example out, without their heading: a row for each task, model and arm, with all seeds."""
    groups: dict[tuple[str, str, str], list[ExamplePair]] = {}
    for pair in comparison.examples:
        groups.setdefault((pair.task, pair.model, pair.arm), []).append(pair)
    laid = []
    for key, pairs in groups.items():
        form = comparison.format_of(pairs[0].task, pairs[0].metric)
        seeds = ", ".join(str(pair.seed) for pair in pairs)
        p_values = ", ".join(pair.note or p_value(pair.p) for pair in pairs)
        tested = [pair.p for pair in pairs if pair.p is not None]
        below = [p for p in tested if p < comparison.alpha]
        differences = [interval(form, pair.difference, pair.low, pair.high) for pair in pairs]
        laid.append([*key, seeds, p_values, f"{len(below)} of {len(tested)}", "; ".join(differences)])
    return laid
