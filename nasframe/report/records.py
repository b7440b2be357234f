"""A run's report as typed records: ``asdict`` of a :class:`RunReport` is the content of ``report.json``.

``docs/report.md`` describes the fields, which stand here in the order in which the file has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from nasframe.records import CostFormat, Drawing, MetricFormat
from nasframe.report.format import PLAIN_COST, metric_format

Role: TypeAlias = Literal["teacher", "winner", "model", "baseline"]
Confusion: TypeAlias = list[list[int]]
"""Examples by label (rows) and prediction (columns)."""


@dataclass(frozen=True)
class Measure:
    """A number with its 95 % interval over the examples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassRow:
    """A class, and how well a model and its teacher tell it; ``None`` stands for a quotient of zeros."""

    name: str
    examples: int
    precision: float | None
    recall: float | None
    f1: float | None
    teacher_precision: float | None
    teacher_recall: float | None
    teacher_f1: float | None


@dataclass(frozen=True)
class LabelCounts:
    """Examples by the answer to one label that holds or not by itself.

    Args:
        found: it holds and is predicted.
        missed: it holds and is not predicted.
        wrong: it is predicted and does not hold.
        left_out: it neither holds nor is predicted.
    """

    found: int
    missed: int
    wrong: int
    left_out: int


@dataclass(frozen=True)
class CutScores:
    """The metric on the texts that were cut and on the others, of a model and of its teacher."""

    cut: int
    examples: int
    on_cut: float | None
    on_others: float | None
    teacher_on_cut: float | None
    teacher_on_others: float | None


@dataclass(frozen=True)
class Disagreement:
    """An example on which a model and its teacher disagree; without a text only its number in the split is known."""

    id: int
    text: str
    cut: bool
    label: str
    model: str
    teacher: str
    confidence: float | None


@dataclass(frozen=True)
class ModelDetail:
    """A model to ship, compared with its teacher example by example.

    ``classes`` is empty for real values; the confusion matrices are, too, and if there are many classes. If several
    labels may hold for an example, ``label_counts`` and ``teacher_label_counts`` are there in their place.
    """

    model: str
    teacher: str
    examples: int
    only_model: int | None
    only_teacher: int | None
    p: float | None
    classes: Sequence[ClassRow]
    confusion: Confusion
    teacher_confusion: Confusion
    cut: CutScores | None
    disagreements: Sequence[Disagreement]
    label_counts: Sequence[LabelCounts] = ()
    teacher_label_counts: Sequence[LabelCounts] = ()


@dataclass(frozen=True)
class Recommendation:
    """A model to ship, and why, in plain words."""

    model: str
    budget: str | None
    text: str


@dataclass(frozen=True)
class LayerRow:
    """A layer of the full network, and what a model kept of it."""

    layer: int
    kept: bool
    heads: int
    ffn: int


@dataclass(frozen=True)
class FullSize:
    """The size of the full network: its layers, and the heads and neurons of its largest layer."""

    layers: int
    heads: int
    ffn: int


@dataclass(frozen=True)
class ModelRow:
    """A row of the table of models."""

    name: str
    stage: str
    path: str | None
    arch: Mapping[str, Any] | None
    blueprint: Mapping[str, Any] | None
    budget: str | None
    role: Role
    metrics: Mapping[str, Mapping[str, float]]
    costs: Mapping[str, Any]
    last_of_budget: bool
    score: float | None
    gain: float | None
    gain_over_baseline: float | None
    relative: Mapping[str, float]
    facts: Mapping[str, Any]
    stored: Mapping[str, Any] | None
    over_budget: str | None
    layers: Sequence[LayerRow]
    predictions: Sequence[str]
    interval: Measure | None = None
    gain_interval: Measure | None = None


@dataclass(frozen=True)
class Point:
    """An architecture that a search evaluated, with its last score.

    The score is an estimate if the evaluation was ``broken_off``, because the architecture could no longer win.
    """

    number: int
    arch_id: str
    score: float
    violation: float
    examples: int | None
    costs: Mapping[str, float | None]
    front: bool
    broken_off: bool = False


@dataclass(frozen=True)
class ChoiceRow:
    """How a search chose a winner: by which rule, among how many candidates, and the same in words."""

    winner: str
    rule: str
    within: int
    standard_error: float | None
    text: str


@dataclass(frozen=True)
class SearchRow:
    """What one search stage evaluated and found.

    ``full`` has the costs that the percentages of its bounds refer to, by name. ``broken_off`` counts the evaluations
    that ended early.
    """

    stage: str
    aim: str | None
    costs: Sequence[str]
    split: str
    states: Mapping[str, int]
    best_score: float | None
    run_seconds: float
    points: Sequence[Point]
    winners: Sequence[str]
    choices: Sequence[ChoiceRow]
    full: Mapping[str, float] = field(default_factory=dict)
    broken_off: int = 0


@dataclass(frozen=True)
class LedgerRow:
    """What one stage cost for one role; MACs are ``None`` if a pass could not be counted."""

    stage: str
    role: str
    steps: int
    examples: int
    tokens: int
    forward_macs: float | None
    backward_macs: float | None
    evaluations: int
    run_seconds: float


@dataclass(frozen=True)
class LedgerTotal:
    """Sums over the ledger; methods have equal budgets if their ``training_and_search_macs`` are equal.

    ``search_macs`` are those of the search stages. Evaluations in other stages only report, so they are in
    ``evaluation_macs`` alone. A sum is ``None`` if a part of it could not be counted.
    """

    training_macs: float | None
    evaluation_macs: float | None
    search_macs: float | None
    training_and_search_macs: float | None
    tokens: int
    evaluations: int


@dataclass(frozen=True)
class StageRow:
    """A stage; ``cached`` names the run that made its result if it came from the cache."""

    name: str
    verb: str
    state: str
    run_seconds: float
    cached: str | None


@dataclass(frozen=True)
class TrialRow:
    """A trial of a search or of a training stage."""

    stage: str
    number: int
    arch_id: str
    arch: Mapping[str, Any]
    state: str
    score: float | None
    objectives: Sequence[float]
    metrics: Mapping[str, float]
    costs: Mapping[str, float]
    violation: float
    origin: str
    examples: int | None
    trial_seconds: float | None


@dataclass(frozen=True)
class RunReport:
    """All that a report shows of a run.

    ``drawings`` has the architectures that are graphs, by the names of winners and models.
    """

    format_version: int
    name: str
    description: str
    seed: int | None
    finished: bool
    metric: str
    formats: Mapping[str, Mapping[str, Any]]
    cost_formats: Mapping[str, CostFormat]
    split: str
    full: FullSize
    models: Sequence[ModelRow]
    removal_errors: Mapping[str, float]
    searches: Sequence[SearchRow]
    curves: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]
    ledger: Sequence[LedgerRow]
    ledger_total: LedgerTotal
    stages: Sequence[StageRow]
    notices: Sequence[Mapping[str, str]]
    run_seconds: float
    command: Sequence[str] | None
    data: Mapping[str, Any]
    failure: Mapping[str, Any] | None
    environment: Mapping[str, Any]
    environments: Sequence[Mapping[str, Any]]
    recipe: str
    trials: Sequence[TrialRow]
    recommendations: Sequence[Recommendation] = field(default_factory=list)
    details: Sequence[ModelDetail] = field(default_factory=list)
    drawings: Mapping[str, Drawing] = field(default_factory=dict)

    def metric_format(self, metric: str) -> MetricFormat:
        """Return how a metric reads; a logged one may have its split and model before its name."""
        return metric_format(self.formats, metric)

    def cost_format(self, cost: str) -> CostFormat:
        """Return how a cost reads; one without a format is a plain number."""
        return self.cost_formats.get(cost, PLAIN_COST)
