"""The records of a comparison: the content of ``study.json``, and the source of its tables, figures and pages.

:func:`nasframe_studies.compare.analyse` makes a :class:`Comparison`; :func:`as_json` and :func:`from_json` write and
read it, and :func:`schema` describes the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pydantic

from nasframe.errors import UsageError
from nasframe.options import arguments_doc, summary
from nasframe.records import CostFormat, MetricFormat
from nasframe.report.format import EARLIER, EARLIER_COSTS, PLAIN, PLAIN_COST, merged
from nasframe_studies.stats import Paired, Summary

FORMAT_VERSION = 3
"""Of ``study.json``: grows when a field changes its meaning or goes away."""
OTHER_EXAMPLES = "other examples or labels"
"""The note of a pair of models whose stored predictions are of different examples."""
Verdict = Literal["", "higher", "lower", "not after Holm", "not resolved", "no spread", "one seed"]
"""The conclusion from a paired t test after Holm's adjustment; empty before it."""

Standing = Literal["", "better", "worse", "reference"]
"""What a verdict means for an arm, which follows the direction of the metric; empty if nothing is resolved."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The scores of one arm in a metric shown next to the compared one.

    Args:
        mean: over seeds.
        sd: standard deviation of the seeds, or ``None`` with one seed.
    """

    mean: float
    sd: float | None


@dataclass(frozen=True, kw_only=True)
class ArmScores(Summary):
    """One arm in a table of scores.

    Args:
        arm: its name.
        rank: mean rank over the seeds that all arms of the table have, 1 the best.
        scores: seed → score.
        costs: means over the arm's runs; ``<cost>_relative`` are shares of the teacher's.
        over_budget: the seeds at which the model is over its budget by its final costs.
        beside: metric → spread, for the metrics shown next to the compared one.
    """

    arm: str
    rank: float | None
    scores: Mapping[str, float]
    costs: Mapping[str, float]
    over_budget: Sequence[int]
    beside: Mapping[str, Spread] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Difference(Paired):
    """One arm compared with the reference in a table of scores.

    Args:
        arm: its name.
        seeds: the seeds that both sides have.
        left_out: the seeds that only one side has.
        same_as: the model under which the same networks are compared already, on both sides; it is the same test.
        p_t_holm: ``p_t`` after Holm's adjustment over the family of the table.
        verdict: the conclusion from ``p_t_holm``; ``""`` before the adjustment.
        more_seeds: how many seeds are needed in addition to find a difference of this size.
    """

    arm: str
    seeds: Sequence[int] = ()
    left_out: Sequence[int] = ()
    same_as: str | None = None
    p_t_holm: float | None = None
    verdict: Verdict = ""
    more_seeds: int | None = None

    @property
    def resolved(self) -> bool:
        """Whether the arm is better or worse than the reference after Holm's adjustment."""
        return self.verdict in ("higher", "lower")

    def standing(self, form: MetricFormat) -> Standing:
        """Return what a resolved difference means for the arm.

        Args:
            form: how the metric reads, since less of it may be better.

        >>> Difference(n=5, mean=-0.1, arm="a", verdict="lower").standing(MetricFormat(higher_is_better=False))
        'better'
        """
        if not self.resolved:
            return ""
        is_better = (self.verdict == "higher") == form.higher_is_better
        return "better" if is_better else "worse"


@dataclass(frozen=True, kw_only=True)
class PairTable:
    """The scores of one model on one task, or on the mean of tasks: each arm, and its difference from the reference.

    Args:
        task: the task, or ``mean of tasks``.
        tasks: the tasks that it covers.
        model: the budget, group or name under which models are compared.
        metric: of the scores; several with commas between if the tasks differ in it.
        arms: one entry an arm.
        ranked_seeds: the seeds that all arms have, over which ranks are averaged.
        comparisons: one entry for each arm that shares seeds with the reference.
        family: how many comparisons Holm's adjustment counts together.
    """

    task: str
    tasks: Sequence[str]
    model: str
    metric: str
    arms: Sequence[ArmScores]
    ranked_seeds: Sequence[int]
    comparisons: Sequence[Difference]
    family: int = 0

    @property
    def over_budget(self) -> bool:
        """Whether a model of the table is over its budget in some run."""
        return any(row.over_budget for row in self.arms)

    @property
    def scored(self) -> list[str]:
        """The arms that have scores."""
        return [row.arm for row in self.arms]

    def difference_of(self, arm: str) -> Difference | None:
        """Return an arm's difference from the reference, if they are compared."""
        for difference in self.comparisons:
            if difference.arm == arm:
                return difference
        return None


@dataclass(frozen=True, kw_only=True)
class FrontTable(PairTable):
    """Hypervolumes of fronts as scores; ``model`` is the kind of front.

    Args:
        cost: the costs of the front, with commas between.
        references: task → the point that the volume is measured from, score first, as numbers to maximise.
    """

    cost: str
    references: Mapping[str, Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class TeacherScores:
    """The scores of the full networks that an arm's runs begin with.

    Args:
        task: the task, or ``mean of tasks``.
        arm: the arm.
        n: how many seeds.
        mean: over seeds.
        sd: standard deviation of the seeds, or ``None`` with one seed.
        beside: metric → spread, for the metrics shown next to the compared one.
    """

    task: str
    arm: str
    n: int
    mean: float
    sd: float | None
    beside: Mapping[str, Spread] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One arm's best score so far, averaged over seeds.

    Args:
        x: the effort.
        mean: the score, one entry for each of ``x``.
        low: lower end of Student's interval; ``None`` with one seed.
        high: its upper end.
        n: how many seeds.
    """

    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float | None]
    high: Sequence[float | None]
    n: int


@dataclass(frozen=True, kw_only=True)
class AnytimeCurves:
    """The curves of all arms for one task, budget and measure of effort.

    Args:
        task: the task.
        metric: of the curves; after ``-`` if less of it is better, and the curves are of its negative.
        model: the budget, or ``training`` for what training stages measured.
        axis: ``evaluations``, ``macs`` or ``seconds``.
        title: of the axis.
        arms: arm → curve.
    """

    task: str
    metric: str
    model: str
    axis: str
    title: str
    arms: Mapping[str, Curve]


@dataclass(frozen=True, kw_only=True)
class ExampleScores:
    """Two finished models compared example by example.

    Args:
        n: how many examples both predicted.
        only_arm: how many only the arm's model has right.
        only_reference: how many only the reference's model has right.
        p: of McNemar's test; ``None`` for real-valued predictions.
        difference: of the metric.
        low: lower end of its bootstrap interval over the examples.
        high: its upper end.
        note: why the models cannot be compared, or ``None``.
    """

    n: int = 0
    only_arm: int | None = None
    only_reference: int | None = None
    p: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class ExamplePair(ExampleScores):
    """An arm's model and the reference's, of equal task, budget and seed, compared example by example.

    Args:
        task: the task.
        model: the budget, group or name.
        seed: of both.
        arm: whose model is compared with the reference's.
        metric: of the difference.
    """

    task: str
    model: str
    seed: int
    arm: str
    metric: str


@dataclass(frozen=True, kw_only=True)
class LedgerRow:
    """What an arm's runs cost, on average.

    Args:
        arm: its name.
        runs: how many.
        student_macs: multiply-accumulates of students.
        teacher_macs: of teachers, and of networks that augment data.
        evaluation_macs: of evaluations.
        training_macs: of students and teachers together.
        training_and_search_macs: of training and of the searches' evaluations.
        evaluations: how many sub-networks the searches evaluated.
        run_seconds: spent in the runs.
        cached_seconds: spent elsewhere on stages that came from the cache.
        ratio: MACs of training and search over the reference's, on the tasks and seeds that both have runs of.
        ratios: task → the same on the task.
    """

    arm: str
    runs: int
    student_macs: float | None
    teacher_macs: float | None
    evaluation_macs: float | None
    training_macs: float | None
    training_and_search_macs: float | None
    evaluations: float | None
    run_seconds: float | None
    cached_seconds: float | None
    ratio: float | None
    ratios: Mapping[str, float | None]

    @property
    def seconds(self) -> float:
        """The time of a run with its cached stages."""
        return (self.run_seconds or 0) + (self.cached_seconds or 0)


@dataclass(frozen=True, kw_only=True)
class EqualMacs:
    """Whether the arms trained and searched for as many multiply-accumulates as the reference.

    Args:
        tolerance: the largest relative deviation that counts as equal.
        equal: the answer; ``None`` if no two runs can be compared.
        ratios: arm → task → MACs of training and search over the reference's.
        text: the answer as a sentence.
    """

    tolerance: float
    equal: bool | None
    ratios: Mapping[str, Mapping[str, float]]
    text: str


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """A model that a comparison recommends to ship.

    Args:
        task: the task.
        budget: the budget, group or name of the model.
        arm: the arm with the best mean on ``select``.
        seed: of its runs the one that scored best on ``select``.
        run: the run's directory.
        model: the model's name in it.
        text: the recommendation in plain words.
        chosen_on: the split whose scores decided between the arms: ``select``, or the compared one if some arm has no
            scores on ``select``; empty if only one arm could be chosen.
        runner_up: the arm that comes second; ``None`` if there is no other within the budget.
        p_holm: of the paired t test against it, after Holm's adjustment for all arms that could be chosen.
    """

    task: str
    budget: str
    arm: str
    seed: int
    run: str
    model: str
    text: str
    chosen_on: str = ""
    runner_up: str | None = None
    p_holm: float | None = None


@dataclass(frozen=True, kw_only=True)
class MissingRun:
    """A run without results.

    Args:
        arm: of the run.
        task: of the run.
        seed: of the run.
        run: its directory.
        why: the reason, in a line.
        error: the whole error, or ``None``.
    """

    arm: str
    task: str
    seed: int
    run: str
    why: str
    error: str | None


@dataclass(frozen=True, kw_only=True)
class Notice:
    """A decision that runs made by themselves.

    Args:
        place: the part of nasframe that made it.
        text: the decision.
        arms: whose runs.
    """

    place: str
    text: str
    arms: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class SeedProcessors:
    """The kinds of processor that the runs of one task and seed were made on.

    Args:
        task: of the runs.
        seed: of the runs.
        arms: arm → the marks of its kinds; several if the run went on elsewhere.
        unlike: whether the kinds differ, so that pairs of this seed are not like for like.
    """

    task: str
    seed: int
    arms: Mapping[str, Sequence[str]]
    unlike: bool

    @property
    def marks(self) -> list[str]:
        """The marks of all kinds, each once."""
        return sorted(set().union(*self.arms.values()))


@dataclass(frozen=True, kw_only=True)
class Processors:
    """The kinds of processor that the runs of a comparison were made on; empty if there is only one.

    Args:
        kinds: mark, a letter → the kind.
        seeds: one entry for each task and seed.
    """

    kinds: Mapping[str, str] = field(default_factory=dict)
    seeds: Sequence[SeedProcessors] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The arms of a study compared with its reference.

    Args:
        format_version: of ``study.json``.
        name: the study's.
        description: the study's.
        metric: of the scores; ``mean of …`` if tasks differ in it.
        split: whose examples the scores are of.
        against: the reference.
        arms: in order.
        tasks: in order.
        seeds: in order.
        models: the budgets, groups or names of models, in order.
        cost: the cost that fronts are drawn against.
        absolute: the costs that are compared in absolute numbers, since the arms' full networks differ in them.
        confidence: of the intervals.
        alpha: level of the tests.
        power: of the seeds needed.
        resamples: of the bootstraps.
        formats: task → metric → how it reads.
        tables: one for each task and model.
        teachers: the full networks that the arms begin with.
        fronts: hypervolumes, one for each kind of front and task.
        anytime: curves of the best score so far.
        examples: pairs of models, example by example.
        ledger: what the arms cost.
        family: what Holm's adjustment counts together, ``task`` or ``page``.
        missing: the runs without results.
        notices: what the runs decided by themselves.
        notes: warnings.
        equal_macs: whether the arms' training and search cost as much as the reference's.
        processors: the kinds of processor that the runs were made on; empty if there is only one.
        findings: the resolved differences, as sentences.
        limits: what cannot be concluded, as sentences.
        cost_formats: cost → how it reads.
        shipped: the models that are recommended, one for each task and budget.
    """

    format_version: int = FORMAT_VERSION
    name: str
    description: str
    metric: str
    split: str
    against: str
    arms: Sequence[str]
    tasks: Sequence[str]
    seeds: Sequence[int]
    models: Sequence[str]
    cost: str | None
    absolute: Sequence[str]
    confidence: float
    alpha: float
    power: float
    resamples: int
    formats: Mapping[str, Mapping[str, MetricFormat]]
    tables: Sequence[PairTable]
    teachers: Sequence[TeacherScores]
    fronts: Sequence[FrontTable]
    anytime: Sequence[AnytimeCurves]
    examples: Sequence[ExamplePair]
    ledger: Sequence[LedgerRow]
    family: str
    missing: Sequence[MissingRun]
    notices: Sequence[Notice]
    notes: Sequence[str]
    equal_macs: EqualMacs
    processors: Processors = field(default_factory=Processors)
    findings: Sequence[str] = ()
    limits: Sequence[str] = ()
    cost_formats: Mapping[str, CostFormat] = field(default_factory=dict)
    shipped: Sequence[Shipped] = ()

    def cost_format(self, cost: str) -> CostFormat:
        """Return how a cost reads; one without a format is a plain number."""
        # Without any, the runs are gone, or the record is from before estimators told how their costs read.
        formats = self.cost_formats or EARLIER_COSTS
        return formats.get(cost, PLAIN_COST)

    def format_of(self, task: str, metric: str) -> MetricFormat:
        """Return how a metric reads in a table.

        Args:
            task: the task of the table; ``mean of tasks`` stands for all of them.
            metric: its name, or several with commas between, whose mean is a share if any of them is.
        """
        return format_in(self.formats, task, metric)

    def tables_by_task(self) -> dict[str, list[PairTable]]:
        """Group the tables of scores by task, the mean of tasks first."""
        by_task: dict[str, list[PairTable]] = {}
        for table in self.tables:
            by_task.setdefault(table.task, []).append(table)
        return by_task

    def teacher_of(self, task: str, arm: str) -> TeacherScores | None:
        """Return the scores of an arm's teachers on a task, if it has any."""
        for scores in self.teachers:
            if scores.task == task and scores.arm == arm:
                return scores
        return None


def format_in(formats: Mapping[str, Mapping[str, MetricFormat]], task: str, metric: str) -> MetricFormat:
    """Return how a metric reads on a task; the arguments are those of :meth:`Comparison.format_of`.

    Args:
        formats: task → metric → how it reads.
        task: the task, or ``mean of tasks``.
        metric: its name, or several with commas between.
    """
    names = metric.split(", ")
    if not formats:  # the runs are gone, or from before tasks told how their metrics read
        return merged([EARLIER.get(name, PLAIN) for name in names])
    of_tasks = list(formats.values())
    if task in formats:
        of_tasks = [formats[task]]
    # A mean over tasks may be of several metrics, and each task has some of them only.
    forms = []
    for name in names:
        forms += [of_task[name] for of_task in of_tasks if name in of_task]
    return merged(forms)


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """Return the JSON-plain content of ``study.json``."""
    return asdict(comparison, dict_factory=_without_empty_beside)


def _without_empty_beside(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Make a mapping of a record's fields; ``beside`` is left out if it is empty, as in most tables."""
    fields = dict(pairs)
    if "beside" in fields and not fields["beside"]:
        del fields["beside"]
    return fields


def as_json(comparison: Comparison) -> str:
    """Write a comparison as JSON; there are no NaN in it."""
    # NaN is no JSON; scores that are no finite numbers were left out of the comparison.
    return json.dumps(as_dict(comparison), indent=1, allow_nan=False) + "\n"


def from_json(text: str) -> Comparison:
    """Read a comparison from the content of a ``study.json``.

    Raises:
        UsageError: the file is of another version.
    """
    # First of all: a file of another version would show as a list of wrong fields.
    version = json.loads(text).get("format_version")
    if version != FORMAT_VERSION:
        raise UsageError(
            f"study.json: format version {version!r} cannot be read. Expected {FORMAT_VERSION}; 'nasframe compare"
            " STUDYDIR --out DIR' writes it again from the runs."
        )
    return pydantic.TypeAdapter(Comparison).validate_json(text)


def schema() -> dict[str, Any]:
    """Return the JSON Schema of ``study.json``, draft 2020-12.

    >>> schema()["properties"]["against"]
    {'type': 'string', 'description': 'the reference.'}
    """
    # Of what is written, where fields with defaults are always there.
    root = pydantic.TypeAdapter(Comparison).json_schema(mode="serialization")
    definitions = root.pop("$defs")
    records = {}
    for name, entry in definitions.items():
        records[name] = _described(globals()[name], entry)  # pydantic names them after the classes of this module
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return draft | _described(Comparison, root) | {"$defs": records}


def _described(record: type, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the schema of a record: its fields' descriptions, and which fields are always written."""
    docs: dict[str, str] = {}
    for base in reversed(record.__mro__):  # a record has the fields of those that it extends
        docs |= arguments_doc(base)
    properties = {}
    for name, value in entry["properties"].items():
        shape = dict(value)
        # pydantic's titles repeat the names, and a default matters to a writer only.
        shape.pop("title", None)
        shape.pop("default", None)
        shape["description"] = docs[name]
        properties[name] = shape
    return {
        "title": record.__name__,
        "description": summary(record),
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name != "beside"],
        "additionalProperties": False,
    }
