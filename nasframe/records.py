"""The plain records that the parts of nasframe pass to each other, and the types of options.

This file and ``interfaces.py`` describe the whole framework; everything else is functions between these records.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from annotated_types import Ge, Gt, Le, Lt, Predicate, doc

from nasframe.units import MOST, is_percent, is_portion, is_share

if TYPE_CHECKING:
    import torch


Arch: TypeAlias = Mapping[str, Any]
"""An architecture: a JSON-plain mapping from knob to value, in the canonical form its domain gives it."""

Forward: TypeAlias = Callable[..., Any]
"""A network as a function: keyword inputs (``input_ids``, ``attention_mask`` …) to a Hugging Face model output."""

Count: TypeAlias = Annotated[int, Ge(1), Le(MOST)]
"""A number of trials, steps, epochs between evaluations …"""
Natural: TypeAlias = Annotated[int, Ge(0), Le(MOST)]
"""A number of things that may be 0."""
Size: TypeAlias = Annotated[int, Ge(1), Le(10**6)]
"""A size in memory: examples in a batch, tokens in a text, units in a layer."""
MaxLength: TypeAlias = Annotated[int, Ge(3), Le(10**6)]
"""Tokens after which texts are cut: at least two special tokens and one of the text."""
MOST_SEED = 10**18
Seed: TypeAlias = Annotated[int, Ge(0), Le(MOST_SEED)]
"""A seed of random streams."""
Positive: TypeAlias = Annotated[float, Gt(0), Le(MOST)]
"""A factor, rate or duration above 0."""
NonNegative: TypeAlias = Annotated[float, Ge(0), Le(MOST)]
"""A factor, rate or duration; 0 usually switches something off."""
Share: TypeAlias = Annotated[float, Ge(0), Le(1)]
"""A part of a whole, from nothing to all of it."""
ShareBelowOne: TypeAlias = Annotated[float, Ge(0), Lt(1)]
"""A part of a whole, but not all of it."""
Label: TypeAlias = str | bool | Annotated[int, Ge(-(10**18)), Le(10**18)] | Annotated[float, Ge(-1e18), Le(1e18)]
"""A class as a recipe writes it: labels in data may be words, numbers or truth values."""
Percent: TypeAlias = Annotated[str, Predicate(is_percent), doc("a share from 0% to 100%")]
"""A part of a whole, as text."""
ShareText: TypeAlias = Annotated[str | float, Predicate(is_share), doc("a share from 0% to 100%")]
"""A part of a whole, as text or from 0 to 1."""
Portion: TypeAlias = Annotated[str | float, Predicate(is_portion), doc("a share such as '10%', or a number")]
"""Some of a number of things: a share, or their number."""

TrialState: TypeAlias = Literal["done", "repeat", "screened", "failed"]
ErrorKind: TypeAlias = Literal["share", "correlation", "unknown"]
"""How the standard error of a metric follows from its value and the number of examples."""


@dataclass(frozen=True)
class Ref:
    """Marks an option that names a plugin, as in ``inner: Annotated[Any, Ref("sampler")]``."""

    kind: str


SamplerRef: TypeAlias = Annotated[Any, Ref("sampler")]
TrainerRef: TypeAlias = Annotated[Any, Ref("trainer")]
ModifierRef: TypeAlias = Annotated[Any, Ref("modifier")]
SpaceRef: TypeAlias = Annotated[Any, Ref("space")]
ExporterRef: TypeAlias = Annotated[Any, Ref("exporter")]
EvaluatorRef: TypeAlias = Annotated[Any, Ref("evaluator")]
EstimatorRef: TypeAlias = Annotated[Any, Ref("estimator")]
ObserverRef: TypeAlias = Annotated[Any, Ref("observer")]


def canonical_json(value: Any) -> str:
    """Return a JSON-plain value as text, the same for equal values (sorted keys, no spaces).

    >>> canonical_json({"b": 1, "a": [1, 2]})
    '{"a":[1,2],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def arch_id(arch: Arch) -> str:
    """Return the hash of an architecture's canonical form, 16 hexadecimal digits.

    >>> arch_id({"heads.0": 4, "layers": [0]}) == arch_id({"layers": [0], "heads.0": 4})
    True
    """
    return hashlib.sha256(canonical_json(arch).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Trial:
    """One answer to a sampler's proposal.

    Args:
        arch: the architecture, canonical.
        score: the number to maximise; ``None`` if the architecture was not evaluated.
        objectives: the numbers to maximise, if the search has several objectives.
        metrics: the task's metrics, by name.
        costs: the estimators' costs, by name, each in its estimator's unit.
        violation: sum of the relative excesses over the constraints; 0 is feasible.
        state: ``done`` (evaluated), ``repeat`` (answered from the archive), ``screened`` (breaks a
            constraint, not evaluated) or ``failed`` (evaluation raised or gave a number that is not finite).
        origin: ``train`` (score is a negative training loss) or ``search``.
        examples: the number of examples behind the score; ``None`` means the whole split. An evaluator that broke off
            leaves fewer than the search asked for; the score is then an estimate, and the trial cannot win.

    >>> Trial(arch={"layers": [0, 1]}, score=0.9).state
    'done'
    """

    arch: Arch
    score: float | None
    objectives: tuple[float, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    violation: float = 0.0
    state: TrialState = "done"
    origin: Literal["train", "search"] = "search"
    examples: int | None = None


@dataclass(frozen=True)
class PairCosts:
    """What two knobs cost together, beyond what each costs by itself: a map between two widths, for example.

    The values of each knob fall into kinds, and the cost depends on the two kinds alone.

    Args:
        first: a knob.
        second: another knob.
        kinds: of each value of the first knob its kind, from 0, and of each value of the second, in the order of
            ``domain.knobs``.
        costs: ``costs[i][j]`` for kind ``i`` of the first knob and kind ``j`` of the second.
    """

    first: str
    second: str
    kinds: tuple[Sequence[int], Sequence[int]]
    costs: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Drawing:
    """An architecture as a graph, for reports.

    Args:
        nodes: node → the text in its box.
        edges: pairs of nodes, from the one whose output is read to the one that reads it.

    Raises:
        ValueError: an edge from or to a node that is not there.

    >>> Drawing({"x": "input", "0": "conv 3"}, [("x", "0")]).edges
    [('x', '0')]
    """

    nodes: Mapping[str, str]
    edges: Sequence[tuple[str, str]]

    def __post_init__(self) -> None:
        for source, target in self.edges:
            for node in (source, target):
                if node not in self.nodes:
                    raise ValueError(f"an edge names the node {node!r}. There are: {', '.join(self.nodes)}.")

    def depths(self) -> dict[str, int] | None:
        """Return node → the most edges on a way to it; ``None`` if edges lead in a circle.

        >>> Drawing({"a": "", "b": "", "c": ""}, [("a", "b"), ("b", "c"), ("a", "c")]).depths()
        {'a': 0, 'b': 1, 'c': 2}
        """
        depths = dict.fromkeys(self.nodes, 0)
        # Longest ways of n nodes have at most n - 1 edges, so that nothing moves in the n-th round.
        for _ in self.nodes:
            moved = False
            for source, target in self.edges:
                if depths[target] <= depths[source]:
                    depths[target] = depths[source] + 1
                    moved = True
            if not moved:
                return depths
        return None


@dataclass(frozen=True)
class CostTable:
    """An additive cost: ``base`` plus one entry for each knob that is present in the canonical architecture.

    Args:
        base: the cost of the parts that never change.
        choices: knob → cost of each of its values, in the order of ``domain.knobs[knob]``. A value whose cost is not
            known has NaN.
        pairs: costs of two knobs together, which are added if both knobs are present.
    """

    base: float
    choices: Mapping[str, Sequence[float]]
    pairs: Sequence[PairCosts] = ()


def sequence_length(inputs: Mapping[str, torch.Tensor]) -> int | None:
    """Return the length of the sequences of tokens among a network's inputs, or ``None`` if there are none.

    Args:
        inputs: keyword inputs. Whole numbers in the shape ``(batch, length)`` are sequences of tokens.

    >>> import torch
    >>> sequence_length({"words": torch.ones(2, 7, dtype=torch.long)}), sequence_length({"pixels": torch.ones(2, 7)})
    (7, None)
    """
    for tensor in inputs.values():
        if is_sequence(tensor):
            return int(tensor.shape[1])
    return None


def is_sequence(tensor: torch.Tensor) -> bool:
    """Tell whether an input holds sequences of tokens, ``(batch, length)``: ids, masks or types of tokens."""
    # By name, because this file is read without torch. Bytes and floats of two dimensions are rows of features.
    return tensor.ndim == 2 and str(tensor.dtype) in ("torch.int64", "torch.int32")


IGNORED = -100
"""The label of a token that does not count, as torch's losses have it: no loss, metric or distillation regards it."""


@dataclass(frozen=True)
class Batch:
    """A mini-batch of one task.

    Args:
        inputs: the network's keyword inputs, whatever its task names them; the first dimension of each is the batch.
        labels: ``(batch,)`` class indices, or floats for regression; ``(batch, length)`` if each token has one, with
            :data:`IGNORED` for tokens that do not count; ``(batch, labels)``, 0 or 1, if several labels may hold for
            an example.
        ids: ``(batch,)`` positions of the examples in their split, stable over epochs and runs.
    """

    inputs: Mapping[str, torch.Tensor]
    labels: torch.Tensor
    ids: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def tokens(self) -> int:
        """Token positions in the batch, padding included; an example that is no sequence of tokens counts as one."""
        return len(self) * (sequence_length(self.inputs) or 1)

    def to(self, device: Any) -> Batch:
        """Return a copy of the batch on a device."""
        inputs = {name: tensor.to(device) for name, tensor in self.inputs.items()}
        return Batch(inputs, self.labels.to(device), self.ids.to(device))

    def part(self, rank: int, count: int) -> Batch:
        """Return one process's share of the batch: every ``count``-th example, starting at ``rank``."""
        inputs = {name: tensor[rank::count] for name, tensor in self.inputs.items()}
        return Batch(inputs, self.labels[rank::count], self.ids[rank::count])


@dataclass(frozen=True)
class Evaluation:
    """A task's measurement of a network on a split.

    Args:
        metrics: name → value, the task's ``primary`` among them.
        predictions: column → list, one entry an example (``id``, ``label``, ``prediction`` and the like).
        examples: the number of examples used.
        tokens: token positions that went through the network, padding included.
        broken_off: whether an evaluator stopped early, because the architecture can no longer win. The metrics are then
            estimates, and ``examples`` is less than was asked for.
        backward: whether gradients were computed, too; the ledger counts a backward pass as two forward passes.
    """

    metrics: Mapping[str, float]
    predictions: Mapping[str, Sequence[Any]]
    examples: int
    tokens: int
    broken_off: bool = False
    backward: bool = False


@dataclass(frozen=True)
class FileKind:
    """A kind of file that a plugin reads, and that is not a recipe.

    Args:
        name: with its article, as in ``a study``.
        command: the command that runs such a file, as in ``ablate``.
    """

    name: str
    command: str


@dataclass(frozen=True)
class Translation:
    """Options of an earlier version, written as today's.

    Args:
        options: the options by the names and values of today.
        advice: sentences on what to write instead; each becomes a ``DeprecationWarning``.
        faults: option as it was written → why it cannot be translated. Such an option is not in ``options``.
        former: option of today → the old name that it was written by.
    """

    options: Mapping[str, Any]
    advice: Sequence[str] = ()
    faults: Mapping[str, str] = field(default_factory=dict)
    former: Mapping[str, str] = field(default_factory=dict)

    def as_written(self, place: Sequence[Any]) -> tuple[Any, ...]:
        """Return a place in the options of today as a place in those that were written."""
        name, *inside = place
        return (self.former.get(name, name), *inside)


@dataclass(frozen=True)
class MetricFormat:
    """How to read a metric, since its name does not say it.

    Args:
        percent: whether it is a share, to be written times 100.
        higher_is_better: whether searches maximise it.
        positive: the class that it is about, if it is about one, as ``f1`` is; every table names the class.
        companion: whether every table shows it next to the primary metric.
        dev_only: whether it is measured on ``dev`` alone, so that no search can use it.
        standard_error: how its standard error is computed: as that of a ``share`` of the examples, of a
            ``correlation``, or ``unknown``; default: as that of a share if it is one (``percent``), else unknown.
    """

    percent: bool = False
    higher_is_better: bool = True
    positive: str | None = None
    companion: bool = False
    dev_only: bool = False
    standard_error: ErrorKind | None = None

    @property
    def error_kind(self) -> ErrorKind:
        """How its standard error is computed.

        >>> MetricFormat(percent=True).error_kind, MetricFormat().error_kind
        ('share', 'unknown')
        """
        if self.standard_error is not None:
            return self.standard_error
        return "share" if self.percent else "unknown"


@dataclass(frozen=True)
class CostFormat:
    """How to read a cost, since its name does not say it.

    Args:
        unit: what its numbers count or measure.
        heading: the heading of its column, which says what the numbers are. If it is empty, the column is headed by the
            cost's name, and the unit follows each number.
        highlight: the cost's name in a sentence, if it is one of the costs that reports show first; else empty.
        higher_is_better: whether more of it is better.
    """

    unit: str = ""
    heading: str = ""
    highlight: str = ""
    higher_is_better: bool = False


@dataclass(frozen=True)
class TrainOptions:
    """The options that every training stage has, whatever its trainer.

    Args:
        epochs: passes over the training data; a fraction is allowed. Give this or ``max_steps``.
        max_steps: optimiser steps.
        batch_size: examples in each optimiser step, over all processes and micro-batches.
        learning_rate: the peak learning rate.
        warmup_ratio: share of the steps in which the learning rate rises to its peak.
        schedule: the shape of the learning rate after the warm-up.
        weight_decay: decoupled weight decay; biases and normalisation have none.
        optimizer: ``adamw`` or ``sgd`` (momentum 0.9).
        max_grad_norm: gradients with a larger norm are scaled down to it; 0 switches this off.
        accumulate: number of micro-batches into which each step is split, to save memory.
        precision: ``auto`` is bfloat16 autocast if the device computes it natively.
        eval_every: steps between evaluations on ``select``; default: one evaluation an epoch, if any is needed.
        keep: which weights to keep: the ``last``, or the ``best`` on ``select``.
        early_stop: training ends after this many evaluations without a gain.
        archs_per_step: number of sub-networks whose gradients are accumulated for one step.
        teacher_cache: ``step`` computes a teacher's logits once for each batch, ``run`` stores and reuses them.
        teacher_states: the format in which teachers' hidden states are stored for each example, with
            ``teacher_cache: run`` and if a modifier needs them. All layers are stored, and real tokens only. Above
            1 GiB they go to a temporary file in the run directory. Half precision takes 2 · (layers + 1) · width bytes
            a token, 5.4 kB for MiniLM-L6: 10,000 sentences of 12 tokens take 0.6 GiB. A resume runs the teacher again
            to get the same states. Default: hidden states are computed for each batch.
        checkpoint_every: seconds between checkpoints; a resume starts from the last one.
    """

    epochs: Positive | None = None
    max_steps: Count | None = None
    batch_size: Size = 32
    learning_rate: Positive = 5e-5
    warmup_ratio: Share = 0.1
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    weight_decay: NonNegative = 0.01
    optimizer: Literal["adamw", "sgd"] = "adamw"
    max_grad_norm: NonNegative = 1.0
    accumulate: Count = 1
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    eval_every: Count | None = None
    keep: Literal["last", "best"] = "last"
    early_stop: Count | None = None
    archs_per_step: Count = 1
    teacher_cache: Literal["step", "run"] = "step"
    teacher_states: Literal["fp32", "bf16", "fp16"] | None = None
    checkpoint_every: NonNegative = 30.0


@dataclass(frozen=True)
class LedgerEntry:
    """The cost of one stage for one role, on which comparisons at equal budgets are based.

    ``role`` is ``student``, ``teacher`` or ``evaluation``. MACs count the matrix products of the sub-networks that
    were run, padding included. A backward pass counts as two forward passes. MACs are ``None`` if some pass of the role
    could not be counted.
    """

    role: str
    steps: int = 0
    examples: int = 0
    tokens: int = 0
    forward_macs: float | None = 0.0
    backward_macs: float | None = 0.0
    evaluations: int = 0
    seconds: float = 0.0


def plus(first: float | None, second: float | None) -> float | None:
    """Add two amounts of which either may be unknown.

    >>> plus(1, 2), plus(1, None)
    (3, None)
    """
    if first is None or second is None:
        return None
    return first + second


def summed(entries: Iterable[LedgerEntry]) -> list[LedgerEntry]:
    """Add ledger entries up, one for each role; a sum with an unknown part is unknown.

    >>> summed([LedgerEntry("student", steps=1), LedgerEntry("student", steps=2)])[0].steps
    3
    >>> summed([LedgerEntry("student", forward_macs=5.0), LedgerEntry("student", forward_macs=None)])[0].forward_macs
    """
    totals: dict[str, LedgerEntry] = {}
    for entry in entries:
        total = totals.get(entry.role, LedgerEntry(entry.role))
        pairs = zip(astuple(total)[1:], astuple(entry)[1:], strict=True)  # all fields but the role
        sums: list[Any] = [plus(first, second) for first, second in pairs]
        totals[entry.role] = LedgerEntry(entry.role, *sums)
    return list(totals.values())


@dataclass(frozen=True)
class DataSource:
    """The rows of one file, or of one split of a hub data set.

    Args:
        split: the split that it became, or that splits were carved out of: ``train`` or ``dev``.
        name: the file.
        rows: rows that became examples.
        left_out: rows that did not, because they are broken in the published file.
    """

    split: str
    name: str
    rows: int
    left_out: int = 0


@dataclass(frozen=True)
class SplitSummary:
    """One split of a task's data in numbers.

    Args:
        name: of the split.
        rows: its examples.
        texts: its distinct texts, or pairs of texts.
        near: texts that differ from an earlier one only in case, spaces, punctuation or Unicode form; ``None`` if that
            was not counted, because there are too many rows.
        in_train: rows whose text is in ``train``, too; ``None`` for ``train`` itself.
        near_train: other rows with a near copy of their text in ``train``; ``None`` for ``train`` itself, and if near
            copies were not counted.
        conflicting: rows whose text has another label in another row, of this or another split.
        classes: rows of each class, in the order of the summary's ``labels``; ``None`` for regression.
        longest: tokens of the longest text, before it is cut; ``None`` if there is no tokenizer.
        cut: share of the texts that ``max_length`` cuts.
        measured: texts that were tokenised for these two; less than ``rows`` if ``cut`` is an estimate.
        blocks: examples that the texts were packed into; ``None`` if each row is an example.
        tokens: tokens of all texts together, if they were packed.
        without_label: rows for which no label holds, if a row may have several; else ``None``.
    """

    name: str
    rows: int
    texts: int
    near: int | None
    in_train: int | None
    near_train: int | None
    conflicting: int
    classes: Sequence[int] | None
    longest: int | None = None
    cut: float | None = None
    measured: int = 0
    blocks: int | None = None
    tokens: int | None = None
    without_label: int | None = None


@dataclass(frozen=True)
class DataSummary:
    """The way from a user's data to a task's splits, in numbers; ``asdict`` makes it JSON-plain.

    Args:
        sources: the files; empty if the task reads none.
        splits: the task's splits.
        labels: the class names in index order, or ``None`` for regression.
        unused: rows that were read and are in no split, because the recipe limits the training examples.
        max_length: tokens at which a text is cut; of packed texts the length of a block.
        noun: what a row holds: ``text``, ``image`` or ``document``.
        independent: whether several of the labels may hold for one row.
    """

    sources: Sequence[DataSource]
    splits: Sequence[SplitSummary]
    labels: Sequence[str] | None
    unused: int = 0
    max_length: int | None = None
    noun: str = "text"
    independent: bool = False


@dataclass(frozen=True)
class RunInfo:
    """What observers know about the run that they observe.

    Args:
        directory: the run directory.
        recipe: the resolved recipe, JSON-plain, with the run's seed.
        name: the run's name, as the recipe gives it.
        stages: the names of the run's stages, in order.

    >>> run = RunInfo(Path("runs/first"), {"seed": 0}, "first", ("teacher", "search"))
    >>> run.stages.index("search")
    1
    """

    directory: Path
    recipe: Mapping[str, Any]
    name: str
    stages: tuple[str, ...] = ()


@dataclass(frozen=True)
class StoredModel:
    """What a run keeps of one of its models.

    Args:
        stage: the stage that made it.
        directory: where its files lie; ``None`` if no stage has written it yet.
        arch: the architecture that it was extracted with; ``None`` for any other network.
        budget: the budget that its name ends with, as in ``best@50%``, if any.
        metrics: split → metric → value, as far as it was evaluated.
        costs: cost → value, as far as they were measured.

    >>> StoredModel("search", None, {"layers": 6}, "50%", {"dev": {"accuracy": 0.9}}, {}).metrics["dev"]
    {'accuracy': 0.9}
    """

    stage: str
    directory: Path | None
    arch: Arch | None
    budget: str | None
    metrics: Mapping[str, Mapping[str, float]]
    costs: Mapping[str, float]
