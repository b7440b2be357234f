"""The eleven kinds of plugin as Protocols, the no-op base of modifiers, and the members that each kind may add.

A plugin need not inherit from anything here: having the methods is enough. :data:`OPTIONAL` lists, for each kind, what
a plugin may have besides its methods; the framework uses an optional member if it is there. A factory's keyword
arguments, with their types, defaults and docstring, are the plugin's options in a recipe. Arguments with the names
below are not options: a factory gets them from the framework if its signature has them.

================  ==========================================================================
name              what
================  ==========================================================================
``domain``        samplers: the :class:`Domain` to propose from
``seed``          samplers, evaluators, tasks, transforms: an integer made from the run's seed and the stage
``costs``         samplers: a function from a list of archs to an array ``(archs, costs)`` of those counted
                  costs that the budgets, constraints and objectives name, or else of ``params``
``tables``        samplers: a function from the name of a cost to its :class:`~nasframe.records.CostTable`; ``None`` for
                  a cost that is not among the recipe's or is no sum over choices
``config``        spaces, tasks: the Hugging Face configuration of the network; before a run, spaces get an
                  :class:`~nasframe.outline.Outline` if they say ``sizes_suffice = True``; tasks get ``None`` if the
                  model has no ``skeleton``
``auto_class``    models, transforms: the name of the auto class of transformers whose networks have the head that the
                  task needs (:class:`TaskFactoryTraits`)
``tokenizer``     tasks: the tokenizer of the network
``base``          tasks, models, observers: the recipe's folder, against which a relative ``path`` is read
``space``         tasks: the space, in a recipe without a model
``saved_head``    tasks: the :class:`~nasframe.heads.Head` that the model's checkpoint brings, or ``None``; a task takes
                  over its order of classes (:func:`nasframe.heads.match`)
``probe_inputs``  estimators: a function that returns the inputs of the run's probe batch (name → tensor), on whose
                  shapes networks are counted and measured, or ``None`` while a recipe is checked without its data
``notify``        all: ``notify(place, text)``, for what the plugin decides by itself (see :mod:`nasframe.notices`)
================  ==========================================================================
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from nasframe.errors import UsageError, listing, suggestion
from nasframe.labels import are_independent
from nasframe.records import (
    Arch,
    Batch,
    CostFormat,
    CostTable,
    DataSummary,
    Drawing,
    Evaluation,
    Forward,
    LedgerEntry,
    MetricFormat,
    TrainOptions,
    Translation,
    Trial,
)

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from nasframe.heads import Head

T = TypeVar("T")


@runtime_checkable
class Domain(Protocol):
    """A set of architectures: draw one, change one, tell whether one belongs.

    These four methods are a whole domain. An architecture is a mapping with text as keys and anything as values that
    JSON has: one value for each knob, or the nodes of a graph of any size. Optional members let more samplers work
    with a domain and more commands use it; :data:`OPTIONAL` lists them.
    """

    def sample(self, rng: np.random.Generator) -> Arch:
        """Draw an architecture; every one has a chance."""
        ...

    def mutate(self, arch: Arch, rng: np.random.Generator) -> Arch:
        """Return a neighbour of ``arch`` inside the domain; ``arch`` is left untouched."""
        ...

    def contains(self, arch: Arch) -> bool:
        """Tell whether ``arch`` belongs to the domain."""
        ...

    def canonical(self, arch: Arch) -> Arch:
        """Return the one form that equal networks share: without knobs that have no effect, with nodes in one order."""
        ...


@runtime_checkable
class SearchSpace(Protocol):
    """What may vary, and how a choice becomes a network."""

    domain: Domain

    def supernet(self, net: nn.Module) -> nn.Module:
        """Turn the loaded network into the super-network; spaces that slice return it unchanged.

        Called once for a network, when a stage first uses the space: a training with or without a sampler, a search or
        an extraction, and before a run, when costs are counted. ``net`` is a copy that may be changed, and torch's
        generators are seeded, so that new weights are the same whenever it is called.
        """
        ...

    def view(self, net: nn.Module, arch: Arch) -> Forward:
        """Return the sub-network as a function that shares the weights of ``net`` and changes nothing."""
        ...

    def extract(self, net: nn.Module, arch: Arch) -> nn.Module:
        """Return the sub-network as a stand-alone model whose outputs equal the view's."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """Proposes architectures and learns from their scores."""

    def ask(self, n: int = 1, within: Domain | None = None) -> list[Arch]:
        """Propose up to ``n`` canonical architectures from ``within``.

        An empty list means that there is nothing left to propose, and so does an ``UnsatisfiableError``.
        """
        ...

    def tell(self, trials: Sequence[Trial]) -> None:
        """Hear what became of proposals; ``score`` is to be maximised.

        The architectures are copies that the sampler may keep, and lie in its domain. A score is finite, or ``None`` if
        the architecture was not evaluated or its evaluation failed.
        """
        ...


@runtime_checkable
class Trainer(Protocol):
    """Runs the training loop."""

    def fit(self, job: TrainJob) -> TrainResult:
        """Train ``job.net`` and say what came out and what it cost."""
        ...


@runtime_checkable
class Estimator(Protocol):
    """Says what an architecture, or a finished network, costs."""

    unit: str

    def estimate(self, space: SearchSpace | None, net: nn.Module, arch: Arch | None) -> float | None:
        """Return the cost of ``arch`` in ``net``, or of ``net`` as it stands if ``arch`` is ``None``.

        Searches, reports and deployments ask the same question: a model that was extracted is estimated with the space,
        the super-network and the architecture that it was extracted with.

        Returns:
            The cost, or ``None`` if it cannot be known; reports then show "–".
        """
        ...


class Step(Protocol):
    """One architecture's share of one optimiser step, as modifiers see it.

    Attributes:
        job: the stage.
        index: the optimiser step, from 0.
        total: optimiser steps in all.
        lr: the learning rate of this step.
        batch: this process's part of this micro-batch.
        arch: the sub-network; a modifier may lower it in ``on_batch``. ``None`` is the whole network.
        outputs: the network's output; ``None`` before the forward.
        optimizer: the loop's optimiser.
        passes: runs networks for the loop; what else a modifier computes is added to ``passes.ledger``.
        skipped: true in ``on_update`` if gradients were not finite and nothing was updated.
    """

    job: TrainJob
    index: int
    total: int
    lr: float
    batch: Batch
    arch: Arch | None
    optimizer: torch.optim.Optimizer
    passes: Any
    outputs: Any
    skipped: bool

    def forward(self, arch: Arch | None = None, batch: Batch | None = None, **inputs: Any) -> Any:
        """Run the network once more.

        Args:
            arch: another sub-network; default: this step's.
            batch: another batch; default: this step's.
            inputs: keyword inputs that are added to the batch's, or replace them.

        Returns:
            The Hugging Face model output, with the outputs that the stage's modifiers need.
        """
        ...

    def teacher(self, name: str = "teacher", arch: Arch | None = None) -> Any:
        """Run a saved network on this batch, in eval mode and without gradients, once a batch.

        Args:
            name: the name that it was saved under.
            arch: the sub-network of it to run; default: the whole one.

        Returns:
            The Hugging Face model output; with ``teacher_cache: run`` its logits only, unless a modifier needs more.

        Raises:
            UsageError: no network was saved under that name.
        """
        ...


class Modifier:
    """Acts inside the training loop, at six moments; the base does nothing at any of them.

    Attributes:
        needs: which outputs the loop must ask the network for (``hidden_states``, ``attentions``).
        elementwise: whether its state belongs to single weights, so that no other modifier may reorder heads or
            neurons in the stage.
        returns_arch: whether ``on_finish`` returns an architecture, which only one modifier of a stage may do.
        keeps_zeros: whether single weights that it makes zero have to stay zero, which an average with earlier weights
            would undo.
        reads_space: false promises that it does not read ``job.space`` or its tables when the whole network is trained.
            Such a stage does not depend on a space that keeps the network, so that recipes with different spaces share
            it in the cache.
    """

    needs: frozenset[str] = frozenset()
    elementwise: bool = False
    returns_arch: bool = False
    keeps_zeros: bool = False
    reads_space: bool = True

    def claims(self, net: nn.Module) -> list[nn.Parameter]:
        """Name the parameters that this modifier optimises itself, so that the loop's optimiser leaves them."""
        return []

    def on_start(self, job: TrainJob) -> None:
        """Before the optimiser is built: prepare, mask, parametrise."""

    def on_batch(self, step: Step) -> None:
        """Before an architecture's forward: may lower ``step.arch``."""

    def on_loss(self, step: Step, loss: torch.Tensor) -> torch.Tensor:
        """Fold a function of *outputs* into the loss; modifiers fold in recipe order."""
        return loss

    def on_gradients(self, step: Step) -> None:
        """After all backward passes, before clipping: penalties on weights add their gradient here."""

    def on_update(self, step: Step) -> None:
        """After the optimiser's step: project, shrink, count."""

    def on_finish(self, job: TrainJob) -> Arch | None:
        """After the loop, in reverse order: unwind, and return the architecture if ``returns_arch`` is true."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return what a resume needs, as JSON-plain values and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""


@runtime_checkable
class Transform(Protocol):
    """Acts between stages: work in, work out."""

    def __call__(self, work: Work) -> Work:
        """Return the changed work, and leave the work it was given unchanged."""
        ...


class Batches(Protocol):
    """One epoch of training batches, in order."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> Batch: ...

    def __iter__(self) -> Iterator[Batch]: ...


@runtime_checkable
class Task(Protocol):
    """Brings data, loss and metrics. Splits: ``train``, ``select`` (carved out of train), ``dev``.

    Attributes:
        primary: the metric that a search maximises, or minimises if its format says that less is better.
        labels: the class names in index order; :class:`~nasframe.labels.IndependentLabels` if several may hold for one
            example; ``None`` for regression and for next-token prediction.
        fingerprint: hash of the data: same data, same string, wherever the files lie.
        sizes: split → number of examples.
    """

    primary: str
    labels: Sequence[str] | None
    fingerprint: str
    sizes: Mapping[str, int]

    def train_batches(self, seed: int, epoch: int, batch_size: int) -> Batches:
        """Return one epoch's batches, the same for the same arguments."""
        ...

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Return the mean loss of a batch."""
        ...

    def evaluate(self, forward: Forward, split: str, examples: int | None = None) -> Evaluation:
        """Measure a network on a split, or on a fixed subset of ``examples`` examples of it."""
        ...


@dataclass(frozen=True)
class Rival:
    """A trial that a candidate has to beat.

    Args:
        trial: it has the best score under one of the budgets that the candidate meets, on all examples of the search.
            If the best are scored again, on more examples or with costs measured again, it is the last of those.
        tolerance: how far below the rival's score a candidate may stay and still win; above 0 if the option ``winner``
            chooses among all scores within the standard error of the best.
    """

    trial: Trial
    tolerance: float = 0.0


@dataclass(frozen=True)
class Candidate:
    """An architecture, or a saved network, as an evaluator measures it.

    Args:
        arch: the architecture; ``None`` for a whole network.
        forward: computes its outputs in the precision of the search, from keyword inputs on any device. If the search
            has ``fit``, the network was trained before.
        model: returns it as a stand-alone network in eval mode, which may be changed.
        macs: counts the multiply-adds of a measurement; ``None`` if they cannot be counted.
        rivals: what it has to beat: one trial for each budget that it meets. Empty if it may be the first to meet one.
        measured: the trials of the search that were measured to the end before it, the oldest first.
    """

    arch: Arch | None
    forward: Forward
    model: Callable[[], nn.Module]
    macs: Callable[[Evaluation], float | None] = lambda result: None
    rivals: Sequence[Rival] = ()
    measured: Sequence[Trial] = ()


@dataclass(frozen=True)
class SearchJob:
    """Everything that an evaluator needs for one search.

    Args:
        objectives: what the search maximises; the first is the score.
        seed: the run's seed; named streams are made from it (``nasframe.seeds``).
        stage: the stage's name, which names the streams.
        net: the super-network; ``None`` before the search, and if the space has no network.
        task: a :class:`Task`, which refuses to read ``dev``; ``None`` while a recipe is checked.
        space: the :class:`SearchSpace`; ``None`` before the search.
        estimators: costs by name.
        candidate: architecture → candidate without rivals, for what has to be measured once more.
        saved: name → a network that an earlier stage saved, as a candidate.
        count: adds a further measurement, of a teacher for example, to the ledger; those that ``evaluate`` returns are
            added anyway.
    """

    objectives: Sequence[str]
    seed: int
    stage: str
    net: nn.Module | None = None
    task: Any = None
    space: Any = None
    estimators: Mapping[str, Estimator] = field(default_factory=dict)
    candidate: Callable[[Arch], Candidate] | None = None
    saved: Callable[[str], Candidate] | None = None
    count: Callable[[Candidate, Evaluation], None] = lambda candidate, result: None


@runtime_checkable
class Evaluator(Protocol):
    """Says what a trial of a search is scored by, and measures it, on the split ``select`` or without any."""

    def metrics(self, primary: str, of_task: Mapping[str, MetricFormat]) -> Mapping[str, MetricFormat]:
        """Return the metrics of its evaluations and how they read; a search maximises the first unless told otherwise.

        Called before a run, and again with the metrics that the loaded task declares.

        Args:
            primary: the task's primary metric.
            of_task: the metrics that the task measures; some of them are on ``dev`` alone.

        Raises:
            UsageError: the task does not measure what the evaluator needs.
        """
        ...

    def start(self, job: SearchJob) -> None:
        """Begin a search. What takes time is better done when a candidate needs it."""
        ...

    def evaluate(self, candidate: Candidate, examples: int | None) -> Evaluation:
        """Measure a candidate.

        Args:
            candidate: the architecture.
            examples: the size of the fixed subset of ``select`` to measure on; ``None`` for all of it.

        Returns:
            The metrics, with the number of examples and tokens that went through the network. If the candidate can no
            longer win against its ``rivals``, the evaluator may stop early and return estimates, with ``broken_off``.
        """
        ...


@runtime_checkable
class Model(Protocol):
    """A network and its tokenizer from a name."""

    def tokenizer(self) -> Any:
        """Load the tokenizer; ``None`` if the network reads no texts."""
        ...

    def load(self, labels: Sequence[str] | None, seed: int, random: bool = False) -> nn.Module:
        """Load the network with a head for these labels (``None``: one output, regression).

        ``seed`` draws the head, and every weight if ``random`` is true.
        """
        ...


@dataclass(frozen=True)
class ExportContent:
    """What belongs to a model besides its network; the framework writes tokenizer, card and ``arch.json`` itself.

    Args:
        name: the model's name, such as ``best@50%``.
        tokenizer: its tokenizer, or ``None``.
        arch: the architecture that it was extracted at, or ``None``.
        inputs: the run's probe inputs, name → tensor on the CPU, for formats that are traced.
    """

    name: str
    tokenizer: Any
    arch: Arch | None
    inputs: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Loading:
    """How a written model is loaded, by people and by the fresh process that verifies it.

    Args:
        code: a Python file that does not need nasframe. It defines ``load(directory, **arguments)``, which returns a
            function from keyword inputs to outputs: a tensor, a mapping, a sequence, or an object with tensors as
            attributes. Arrays of numpy count as tensors.
        arguments: JSON-plain arguments of ``load``.
        snippet: lines of Python that load the model from ``"path/to/this/directory"``, for the model card.
        remarks: paragraphs on the format, for the model card.
    """

    code: Path
    arguments: Mapping[str, Any] = field(default_factory=dict)
    snippet: str = ""
    remarks: str = ""


@runtime_checkable
class Exporter(Protocol):
    """Writes models for somebody else's runtime, and says how to load them again.

    The framework verifies each written directory: a fresh process that cannot import nasframe loads it as
    :class:`Loading` says, and its outputs on the run's probe inputs are compared with the network's.
    """

    def write(self, model: nn.Module, directory: Path, content: ExportContent) -> Loading:
        """Write the files of a model into ``directory``, which exists; called once for each model.

        Raises:
            UsageError: the format cannot express this network.
        """
        ...


@runtime_checkable
class Family(Protocol):
    """What the framework has to know of a kind of network: how it is described, and built again.

    Runs keep, copy, resume and report networks by their family. No recipe names families: a network's family is the
    one that matches it; one of a plugin package or file goes before nasframe's own.
    """

    def matches(self, net: nn.Module) -> bool:
        """Tell whether a network is of this family; it is asked of every network, so it only looks at the type."""
        ...

    def describe(self, net: nn.Module) -> dict[str, Any]:
        """Return all that :meth:`build` needs besides the weights, JSON-plain.

        ``family`` and ``model`` are two names that reports and model cards write.
        """
        ...

    def build(self, description: Mapping[str, Any], device: str) -> nn.Module:
        """Return a network with the same tensors as the one described, with any values.

        Args:
            description: from :meth:`describe`, after JSON.
            device: ``cpu``, or ``meta`` for shapes alone.
        """
        ...

    def sources(self, net: nn.Module) -> Sequence[Path]:
        """Return the Python files that an export of the network carries; none if transformers has its class."""
        ...


@runtime_checkable
class SliceableFamily(Family, Protocol):
    """A family of networks that sub-networks are slices of.

    Attributes:
        rows: ``model_type`` of a transformers configuration → :class:`nasframe.nn.elastic.FamilyRow`. Spaces of slices,
            exact counts, importance, pruning and exports work with every network that has a row.
    """

    rows: Mapping[str, Any]


@runtime_checkable
class ExampleFamily(Protocol):
    """A family that brings a small network of its own, for ``nasframe plugins check``."""

    def example(self) -> tuple[nn.Module, Mapping[str, torch.Tensor]]:
        """Return a small network, the same each time, and inputs of at least two examples by name."""
        ...


@dataclass
class TrainJob:
    """Everything that a trainer needs for one training stage.

    Args:
        net: the network to train, in place.
        task: where batches, loss and metrics come from.
        tokenizer: the network's tokenizer.
        options: see :class:`TrainOptions`.
        seed: the run's seed; named streams are made from it (``nasframe.seeds``).
        stage: the stage's name, which names the streams.
        space: what may vary, and of which ``net`` is the super-network; ``None`` if the recipe has no space, and for
            stand-alone models.
        sampler: proposes sub-networks; ``None`` trains ``arch``, or the whole network.
        within: the part of the domain this stage may use.
        arch: the one sub-network to train if there is no sampler.
        modifiers: the stage's modifiers, in recipe order.
        models: saved networks by name, the teachers among them.
        estimators: costs by name, for modifiers that follow a budget.
        log: called as ``log(step, {name: value})``.
        checkpoint: keeps the loop's state over a crash (``load() -> state | None``, ``save(state)``).
        progress: called as ``progress(done, total, note)`` after each step.
        total: optimiser steps in all; set by the trainer before ``on_start``.
        reduce: averages a tensor over the processes in place; set by the trainer.
    """

    net: nn.Module
    task: Task
    tokenizer: Any
    options: TrainOptions
    seed: int
    stage: str
    space: SearchSpace | None = None
    sampler: Sampler | None = None
    within: Any = None
    arch: Arch | None = None
    modifiers: Sequence[Modifier] = ()
    models: Mapping[str, nn.Module] = field(default_factory=dict)
    estimators: Mapping[str, Estimator] = field(default_factory=dict)
    log: Callable[[int, Mapping[str, float]], None] = lambda step, values: None
    checkpoint: Any = None
    progress: Callable[[int, int, str], None] = lambda done, total, note: None
    total: int = 0
    reduce: Callable[[Any], Any] = lambda tensor: tensor

    def table(self, cost: str) -> CostTable:
        """Return the additive table of a cost: what each choice of the space costs in ``net``.

        Modifiers make a loss term of it, for example with :func:`nasframe.nn.expected.expected_cost`.

        Args:
            cost: the name of one of ``estimators``.

        Raises:
            UsageError: the stage has no such cost, the stage has no space, or the cost is no sum over the space's
                choices.

        >>> from nasframe_basics.estimators import params
        >>> from nasframe.testing.toy import ToySpace, tiny_net
        >>> from nasframe.testing.trainers import toy_job
        >>> job = toy_job(net=tiny_net(), space=ToySpace(), estimators={"params": params()})
        >>> job.table("params").choices["heads.0"]
        [1048.0, 2096.0, 4192.0]
        """
        if cost not in self.estimators:
            costs = listing(self.estimators)
            hint = suggestion(cost, self.estimators)
            raise UsageError(
                f"stage {self.stage!r} has no cost {cost!r}. There are: {costs}. Expected it in 'estimators:'.{hint}"
            )
        if self.space is None:
            raise UsageError(f"stage {self.stage!r} has no space, so {cost!r} has no table. Expected a 'space:'.")
        table = cost_table(self.estimators[cost], self.space, self.net)
        if table is None:
            raise UsageError(
                f"{cost!r} is no sum over the choices of {type(self.space).__name__}, so it has no table. Expected an "
                "additive cost, such as params or macs."
            )
        return table


@dataclass(frozen=True)
class TrainResult:
    """The trained network, the architecture that a modifier returned (or ``None``), and what training cost."""

    net: nn.Module
    arch: Arch | None
    ledger: Sequence[LedgerEntry]


@dataclass(frozen=True)
class Origin:
    """The space that a network belongs to, and for an extracted model where in that space it was found.

    Args:
        space: the space.
        use: its name and options, as a resolved recipe writes them.
        net: the super-network that the model was extracted from; ``None`` for a super-network itself.
        arch: the architecture that it was extracted at; ``None`` for a super-network.
    """

    space: SearchSpace
    use: Mapping[str, Any]
    net: nn.Module | None = None
    arch: Arch | None = None


@dataclass(frozen=True)
class Work:
    """What one stage passes to the next.

    Args:
        net: the current network: what the next stage trains, searches or slices.
        tokenizer: its tokenizer.
        task: the task.
        space: the search space, or ``None``.
        archs: name → architecture found or given, ``best@50%`` for the winner under a budget.
        models: name → stand-alone or saved network: ``teacher``, ``best@50%`` …
        vocabulary: if a transform cut the vocabulary down, the ids that the kept tokens have in the model's own
            tokenizer, in their new order; ``tokenizer`` is then the smaller one.
        origins: name of a model → where it comes from. Models that were trained as they are have none, and a model
            loses its own when its tensors change their shapes. :data:`CURRENT` names ``net``, which has one if its
            space made it into a super-network.
    """

    net: nn.Module
    tokenizer: Any
    task: Task
    space: SearchSpace | None = None
    archs: Mapping[str, Arch] = field(default_factory=dict)
    models: Mapping[str, nn.Module] = field(default_factory=dict)
    vocabulary: Sequence[int] | None = None
    origins: Mapping[str, Origin] = field(default_factory=dict)


CURRENT = ""
"""The name of the current network among models."""


# ---- optional members of domains


@runtime_checkable
class KnobDomain(Protocol):
    """A domain with a list of values for each knob; additive costs and tables of architectures need it."""

    @property
    def knobs(self) -> Mapping[str, Sequence[Any]]:
        """Knob → its values, from small to large."""
        ...


@runtime_checkable
class ConditionalDomain(Protocol):
    """A domain of knobs of which some have an effect at certain values of another knob only."""

    @property
    def rules(self) -> Mapping[str, tuple[str, Sequence[Any]]]:
        """Conditional knob → the knob that it depends on, and the values of that one at which it has an effect."""
        ...


@runtime_checkable
class CountableDomain(Protocol):
    """A domain that knows how many architectures it has; searches stop when all of them were evaluated."""

    @property
    def size(self) -> float:
        """The number of architectures."""
        ...


@runtime_checkable
class EnumerableDomain(Protocol):
    """A domain that can list its architectures, so that the sampler ``grid`` and small searches cover it."""

    def enumerate(self) -> Iterator[Arch]:
        """Yield every architecture once, in a fixed order."""
        ...


@runtime_checkable
class BoundedDomain(Protocol):
    """A domain with a smallest and a largest architecture, which show the range of every cost before a run begins."""

    def smallest(self) -> Arch:
        """Return the architecture that costs least."""
        ...

    def largest(self) -> Arch:
        """Return the architecture that costs most."""
        ...


@runtime_checkable
class CrossableDomain(Protocol):
    """A domain that can mix two architectures, which the sampler ``evolution`` uses."""

    def crossover(self, a: Arch, b: Arch, rng: np.random.Generator) -> Arch:
        """Return a child of two architectures, inside the domain."""
        ...


@runtime_checkable
class RestrictableDomain(Protocol):
    """A domain that can restrict itself; others are restricted by rejecting draws, and do not support ``within``."""

    def restrict(self, only: Mapping[str, Any] | None = None, keep: Callable[[Arch], bool] | None = None) -> Domain:
        """Return the part of the domain that has these knob values and meets the condition ``keep``."""
        ...


@runtime_checkable
class JoinableDomain(Protocol):
    """A domain that can treat several knobs as one dimension, as the option ``join`` of samplers requires."""

    def joined(self, groups: str | Mapping[str, Sequence[str]]) -> Domain:
        """Return the same domain with groups of knobs as single dimensions."""
        ...


@runtime_checkable
class EncodedDomain(Protocol):
    """A domain whose architectures are positions on a grid, for samplers that learn a distribution or a model."""

    @property
    def dims(self) -> Mapping[str, Sequence[str]]:
        """Dimension → the knobs that it stands for."""
        ...

    @property
    def shape(self) -> Sequence[int]:
        """The number of values of each dimension."""
        ...

    def encode(self, arch: Arch) -> np.ndarray:
        """Return the position of each dimension's value, 0 if the dimension is inactive."""
        ...

    def decode(self, indices: Iterable[int]) -> Arch:
        """Return the architecture at a position."""
        ...

    def active(self, arch: Arch) -> np.ndarray:
        """Return ``(dimensions,)`` booleans: which dimensions have an effect in ``arch``."""
        ...

    def conditions(self) -> Sequence[tuple[int, np.ndarray] | None]:
        """Return for each dimension the one that it depends on and at which positions; ``None`` if it depends on none.

        A dimension has an effect only if the one that it depends on has one.
        """
        ...


@runtime_checkable
class FeaturedDomain(Protocol):
    """A domain that describes each architecture by the same numbers, for predictors and distances.

    Tables of a domain without knobs use them to find the rows nearest to an architecture.
    """

    def features(self, arch: Arch) -> Sequence[float]:
        """Return numbers, as many for every architecture and equal for equal ones."""
        ...


@runtime_checkable
class DrawableDomain(Protocol):
    """A domain whose architectures are graphs that a report draws, such as networks of freely connected operations."""

    def drawing(self, arch: Arch) -> Drawing:
        """Return the nodes and edges of an architecture."""
        ...


@runtime_checkable
class GradedCondition(Protocol):
    """A condition on architectures that says how far one is from acceptable; domains walk downhill on it."""

    def __call__(self, arch: Arch) -> bool:
        """Tell whether an architecture is acceptable."""
        ...

    def violation(self, arch: Arch) -> float:
        """Return how far an architecture is from acceptable, 0 if it is."""
        ...


def size_of(domain: Any) -> float:
    """Return the number of architectures in a domain, infinity if it does not know."""
    size: float = getattr(domain, "size", math.inf)
    return size


def ends_of(domain: Any) -> list[Arch]:
    """Return a domain's smallest and largest architecture, or an empty list if it has no ends."""
    if not isinstance(domain, BoundedDomain):
        return []
    return [domain.smallest(), domain.largest()]


# ---- optional members of spaces


@dataclass(frozen=True)
class SpaceTraits:
    """What a space says about itself in class attributes.

    Args:
        needs_net: false for a space whose recipe has no model. Its methods then get ``None`` as ``net``, its attribute
            ``estimators`` (name → estimator) holds the costs, and ``view`` returns an object that the task understands.
        additive: false for a space whose choices have no costs of their own, because ``sizes`` computes the widths from
            all choices together. Its architectures are then counted one by one.
        keeps_net: true promises that ``supernet`` returns the very network that it is given, as in spaces of slices. No
            copy is then made, and stages that train the whole network do not depend on the space, so that recipes with
            different spaces share them in the cache.
        views_may_agree: true for a space with architectures that compute the same, although they differ in cost. A run
            is otherwise refused if two of them do, because then ``view`` probably returns the whole network.
    """

    needs_net: bool = True
    additive: bool = True
    keeps_net: bool = False
    views_may_agree: bool = False


@runtime_checkable
class SizedSpace(Protocol):
    """A space of sub-networks, whose parameters and operations are counted without building them."""

    def sizes(self, arch: Arch) -> Arch:
        """Return the kept layers, heads and neurons; called when a cost counts an architecture."""
        ...


@runtime_checkable
class WritableSpace(Protocol):
    """A space that accepts more in a recipe than its domain's own architectures."""

    def arch(self, sizes: Arch) -> Arch:
        """Return the architecture that a recipe's sizes mean; ``domain.canonical`` does it otherwise."""
        ...


@runtime_checkable
class FormatSpace(Protocol):
    """A space whose architectures assign a storage format to each weight matrix."""

    def formats(self, net: nn.Module, arch: Arch) -> Mapping[str, Any]:
        """Return matrix → :class:`~nasframe.nn.formats.Format`; called when the cost ``bits`` counts."""
        ...


@dataclass(frozen=True)
class Piece:
    """A part of networks that is counted or measured by itself.

    Args:
        module: the part, with or without values.
        inputs: from the inputs of a batch (name → tensor) to the arguments of the module's forward, on the batch's
            device; ``None`` for a part that only has parameters.
        part: of the network: its ``encoder``, its ``embedding`` or its ``head``.
    """

    module: nn.Module
    inputs: Callable[[Mapping[str, torch.Tensor]], Sequence[Any]] | None
    part: Literal["encoder", "embedding", "head"] = "encoder"


@runtime_checkable
class PiecewiseSpace(Protocol):
    """A space whose networks are made of pieces, so that every additive cost of them is a sum over pieces.

    ``params``, ``size`` and ``macs`` count each piece once, and the table of all architectures follows from that.
    """

    def pieces(self, net: nn.Module) -> Mapping[str, Piece]:
        """Return all pieces that networks of the space are made of, by name."""
        ...

    def priced(self, prices: Mapping[str, float]) -> CostTable:
        """Return the cost of every choice.

        Args:
            prices: name of a piece → its cost, of all pieces.
        """
        ...


def sizes_of(space: Any, arch: Arch | None) -> Arch | None:
    """Return the sizes (layers, heads, neurons) of an architecture, or the architecture if the space has no sizes."""
    if arch is None or not isinstance(space, SizedSpace):
        return arch
    return space.sizes(arch)


def written_arch(space: SearchSpace, sizes: Arch) -> dict[str, Any]:
    """Return the architecture that sizes in a recipe mean.

    Raises:
        UsageError: the space or its domain does not have these sizes.
    """
    if isinstance(space, WritableSpace):
        return dict(space.arch(sizes))
    return dict(space.domain.canonical(sizes))


# ---- optional members of samplers


@dataclass(frozen=True)
class SamplerTraits:
    """What a sampler says about itself in attributes.

    Args:
        from_tables: true for a sampler that computes its proposals from additive tables alone, so that its first one is
            its best. A deployment of a search with such a sampler asks it again for a new budget, for one architecture.
        penalty: how a search with ``violation: {penalise: ...}`` lowers a negative score: ``monotone`` lowers it
            further; ``published`` multiplies it by the factor of YOCO-BERT, which raises it.
        needs: optional members of domains without which it cannot work, such as ``("knobs", "encode")``; the class
            says it. A recipe whose space has another domain is then refused by ``nasframe check``.
        keeps_state: false if its ``state_dict`` does not hold everything, because a sampler inside it has none. It is
            then brought back to where it was by repeating its calls, as a sampler without ``state_dict`` is.
        random_start: the option that says how many of its first proposals are random. Users are told if a search has
            no more evaluations than that.
    """

    penalty: Literal["monotone", "published"] = "monotone"
    needs: tuple[str, ...] = ()
    keeps_state: bool = True
    from_tables: bool = False
    random_start: str = ""


@runtime_checkable
class StatefulSampler(Protocol):
    """A sampler that can store its state, so that a run goes on from there without repeating its calls."""

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state, the random generator's included, as JSON-plain values and arrays."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where ``state_dict`` was taken."""
        ...


def keeps_state(sampler: Any) -> bool:
    """Tell whether a sampler's ``state_dict`` holds everything that its next proposals depend on."""
    return isinstance(sampler, StatefulSampler) and traits_of(SamplerTraits, sampler).keeps_state


@runtime_checkable
class StartedSampler(Protocol):
    """A sampler that is called when a stage begins, so that it can forget scores of other stages."""

    def start(self, stage: str, total: int, origin: Literal["train", "search"]) -> None:
        """Begin a stage of ``total`` steps (``origin="train"``) or trials (``"search"``).

        The third argument may be left out: ``start(stage, total)``.
        """
        ...


def start_sampler(sampler: Sampler, stage: str, total: int, origin: Literal["train", "search"]) -> None:
    """Tell a sampler that a stage begins, if it has ``start``; ``origin`` is passed if ``start`` takes it."""
    if not isinstance(sampler, StartedSampler):
        return
    if "origin" in inspect.signature(sampler.start).parameters:
        sampler.start(stage, total, origin=origin)
    else:
        sampler.start(stage, total)  # type: ignore[call-arg]


# ---- optional members of trainers


@dataclass(frozen=True)
class TrainerTraits:
    """What a trainer says about itself in class attributes.

    Args:
        returns_arch: false promises that architectures only come from a stage's modifiers. A recipe is then rejected if
            a later stage needs an architecture from the trainer.
        takes_modifiers: false for a loop that does without the task's loss, so that neither modifiers nor a sampler
            have a place in it. A recipe is rejected if a stage has both such a trainer and one of these.
    """

    returns_arch: bool = True
    takes_modifiers: bool = True


@runtime_checkable
class PlannedTrainer(Protocol):
    """A trainer that checks its stage before any work."""

    def validate(self, job: TrainJob) -> None:
        """Raise ``UsageError`` for a stage that cannot work; ``job`` is as for :class:`PlannedModifier`."""
        ...


# ---- optional members of estimators


@dataclass(frozen=True)
class EstimatorTraits:
    """What an estimator says about itself in attributes, besides its ``unit``.

    A run records these, so that its reports need no plugin. Heading and highlight apply only under the cost's own name.
    If a recipe renames the cost (``latency_of_8: {use: latency, batch: 8}``), reports show the new name.

    Args:
        heading: the heading of its column, which says what the numbers are. Without one, tables show the cost's name
            and write the unit after each number. The units ``ms`` and ``bytes`` are always written.
        highlight: the cost's name in a sentence, such as ``encoder parameters``. A report shows this cost above all
            tables, and even a narrow terminal shows it.
        higher_is_better: true if more is better, as for throughput. Such a cost is an objective without ``-``, and
            fronts prefer its larger values.
        reads_weights: true if the cost depends on the values of weights, or is measured on a finished model. Such a
            model is then estimated by itself, ``estimate(None, model, None)``, because training has changed its
            weights, and before a run bounds of the cost are not refused.
        learned: true if the cost is predicted from measurements, which take a loaded network. It is then not asked for
            before a run, and its bounds are not refused there.
    """

    heading: str = ""
    highlight: str = ""
    higher_is_better: bool = False
    reads_weights: bool = False
    learned: bool = False


@runtime_checkable
class AdditiveEstimator(Estimator, Protocol):
    """An estimator whose cost is a sum over the choices made, so that many architectures are counted at once."""

    def table(self, space: SearchSpace, net: nn.Module) -> CostTable | None:
        """Return the cost of every choice, or ``None`` if this space has none.

        The choices' costs add up to ``estimate``.
        """
        ...


@runtime_checkable
class MeasuredEstimator(Estimator, Protocol):
    """An estimator that measures, so that its cost is not the same each time."""

    def measure(self, space: Any, net: nn.Module, arch: Arch | None = None, again: bool = False) -> Mapping[str, Any]:
        """Return ``median`` and ``spread`` of a measurement, and ``how`` it was made.

        ``again`` measures even if the same network was measured before.
        """
        ...


@runtime_checkable
class StatefulEstimator(Protocol):
    """An estimator that learns, and so has a state: what it has measured, from which its predictions follow.

    A run keeps the state with each stage's result. A resumed run, a stage from the cache and a deployment restore it,
    so that all of them, and the reports, have the numbers that the search went by.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return what was learned so far, JSON-plain; empty if nothing was."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what was learned, besides what is known already."""
        ...


@runtime_checkable
class PlannedEstimator(Protocol):
    """An estimator that checks the recipe's network before any work."""

    def validate(self, net: nn.Module) -> None:
        """Raise ``UsageError`` for a network (without values, on the meta device) that it cannot count or measure."""
        ...


def is_estimated(estimator: Any) -> bool:
    """Tell whether a cost follows from an architecture alone: it is not measured, learned or read from weights.

    Only such a cost is known before a run.
    """
    traits = traits_of(EstimatorTraits, estimator)
    return not (traits.reads_weights or traits.learned or isinstance(estimator, MeasuredEstimator))


def cost_format(estimator: Estimator, renamed: bool = False) -> CostFormat:
    """Return how the cost of an estimator reads.

    Args:
        estimator: the cost's.
        renamed: whether the recipe gave the cost a name of its own. The estimator's names are then left out: several
            costs may share the estimator, and each needs another heading.
    """
    traits = traits_of(EstimatorTraits, estimator)
    unit = getattr(estimator, "unit", "")  # the contract asks for it, but a run does without
    if renamed:
        return CostFormat(unit, higher_is_better=traits.higher_is_better)
    return CostFormat(unit, traits.heading, traits.highlight, traits.higher_is_better)


def reference_arch(space: Any, net: Any) -> Arch | None:
    """Return the architecture whose cost percentages refer to: the largest one of a super-network.

    Returns:
        The architecture; ``None`` for the network as it stands. That is the largest one if sub-networks are slices of
        it, and stands for it if the domain does not know its ends.
    """
    slices_net = isinstance(space, SizedSpace | FormatSpace)
    if space is None or net is None or slices_net or not isinstance(space.domain, BoundedDomain):
        return None
    return space.domain.largest()


def cost_table(estimator: Any, space: Any, net: nn.Module) -> CostTable | None:
    """Return the additive table of a cost, or ``None`` if the cost has none for this space."""
    if not isinstance(estimator, AdditiveEstimator):
        return None
    return estimator.table(space, net)


# ---- optional members of evaluators


@dataclass(frozen=True)
class EvaluatorTraits:
    """What an evaluator says about itself in class attributes.

    Args:
        reads_select: false if it measures nothing on ``select``. A search that gives ``examples`` is then refused,
            because their number would have no effect.
        needs_net: true if it cannot do with a space that looks up its scores and has no network.
    """

    reads_select: bool = True
    needs_net: bool = False


@runtime_checkable
class PlannedEvaluator(Protocol):
    """An evaluator that checks its search before any work."""

    def validate(self, job: SearchJob) -> None:
        """Raise ``UsageError`` for a search that cannot work.

        Called when a recipe is checked, with ``job.task`` and ``job.net`` being ``None``; and before the first stage of
        a run, with the task. ``candidate`` and ``saved`` are ``None`` both times.
        """
        ...


# ---- optional members of modifiers


@runtime_checkable
class PlannedModifier(Protocol):
    """A modifier that checks its stage before any work."""

    def validate(self, job: TrainJob) -> None:
        """Raise ``UsageError`` for a stage that cannot work.

        ``job.net`` is a copy without values on the meta device, or ``None`` if an earlier stage decides on its sizes.
        There are no data, teachers or found architectures yet.
        """
        ...


@runtime_checkable
class LengthCheckingModifier(Protocol):
    """A modifier that needs a number of steps, and checks before any work that its stage has them."""

    def validate_length(self, job: TrainJob) -> None:
        """Raise ``UsageError`` if ``job.total`` steps are too few.

        ``nasframe check`` asks it if the recipe says ``max_steps``, and a run before its first stage, when the data say
        how many steps the epochs have. The job is otherwise that of ``validate``.
        """
        ...


# ---- optional members of transforms


@dataclass(frozen=True)
class TransformTraits:
    """What a transform says about itself in class attributes.

    Args:
        reshapes: false promises that all sizes, and so all costs, stay the same: budgets after the transform are then
            checked before the run begins.
        keeps_function: true promises that the outputs stay the same, which the conformance kit checks.
        gives_head: true for a transform that gives networks the head that the stage's task needs: those that its option
            ``models`` names, or else the current one. They may have had another task's before.
    """

    reshapes: bool = True
    keeps_function: bool = False
    gives_head: bool = False


@runtime_checkable
class PlannedTransform(Protocol):
    """A transform that checks the network before any work."""

    def validate(self, net: nn.Module) -> None:
        """Raise ``UsageError`` for a network (without values, on the meta device) whose sizes do not fit."""
        ...


# ---- optional members of tasks and models


@dataclass(frozen=True)
class TaskTraits:
    """What a task says about itself in attributes.

    Args:
        summary: the :class:`~nasframe.records.DataSummary`: rows read, repeats, classes and lengths of each split. A
            run shows it before training, and so do ``--dry-run`` and reports.
        metrics: metric → :class:`~nasframe.records.MetricFormat`: how it is written, and which direction is better.
            Without it, reports write plain numbers.
        categorical: whether the last dimension of ``logits`` holds the logits of classes, so that distillation
            compares distributions; default: true if ``labels`` names classes of which one is true. A language model's
            classes are the tokens, which ``labels`` does not name.
        texts_per_example: how many texts an example has, 2 for pairs. A teacher that tells the texts of a pair apart
            can teach a model that does not only if there is one.
    """

    summary: DataSummary | None = None
    metrics: Mapping[str, MetricFormat] | None = None
    categorical: bool | None = None
    texts_per_example: int | None = None


OutputKind: TypeAlias = Literal["classes", "independent", "numbers"]
"""What a task's outputs are: the logits of classes of which one is true, logits of a yes or no each, or numbers."""


def output_kind(task: Task) -> OutputKind:
    """Return what a task's outputs are, so that two networks' outputs are compared as what they are."""
    categorical = traits_of(TaskTraits, task).categorical
    if categorical is not None:
        return "classes" if categorical else "numbers"
    if task.labels is None:
        return "numbers"
    return "independent" if are_independent(task.labels) else "classes"


def is_categorical(task: Task) -> bool:
    """Tell whether a task's outputs are the logits of classes of which one is true, see :func:`output_kind`."""
    return output_kind(task) == "classes"


@runtime_checkable
class UnlabelledSource(Protocol):
    """A task that may have training examples without labels, which only distillation can use."""

    def with_unlabelled(self) -> Task:
        """Return the task with these examples in its training batches; they add nothing to its ``loss``.

        Their ids differ from those of all labelled examples, which keep theirs.
        """
        ...


def distilled_task(task: Task) -> Task:
    """Return the task of a stage that distils: with the examples that have no labels, if the task has some."""
    return task.with_unlabelled() if isinstance(task, UnlabelledSource) else task


@runtime_checkable
class PartialTask(Protocol):
    """A task that measures a split part by part, so that evaluators can stop when they know enough."""

    def order(self, split: str) -> Sequence[int]:
        """Return the positions of a split's examples in the order of ``evaluate(examples=n)``, which takes the first n.

        Any first part is a fair sample of the split.
        """
        ...

    def evaluate_at(self, forward: Forward, split: str, ids: Sequence[int]) -> Evaluation:
        """Measure a network on the examples at some positions; one row of predictions for each, in their order."""
        ...

    def metrics_of(self, columns: Mapping[str, Sequence[Any]]) -> Mapping[str, float]:
        """Return the metrics of rows of predictions that :meth:`evaluate_at` gave, put together or parts of them.

        Those of all rows of a split are the metrics that ``evaluate`` returns, up to rounding. If the task has classes,
        the column ``label`` holds the true ones, ``prediction`` the predicted ones and ``loss`` each row's loss.
        """
        ...


@runtime_checkable
class TextSource(Protocol):
    """A task that gives its training texts, so that a model can make its tokenizer from them."""

    def training_texts(self) -> Iterable[str]:
        """Yield the training texts; called on a task that was made without a tokenizer."""
        ...


@runtime_checkable
class ReadableTask(Protocol):
    """A task whose examples a person can read, so that reports show some of those that models get wrong."""

    def readable(self, split: str, ids: Sequence[int]) -> list[str]:
        """Return examples of a split as texts, by their positions in it."""
        ...

    def cut_examples(self, split: str) -> Sequence[int] | None:
        """Return the positions of the examples of which a network reads a part only; ``None`` if that is not known."""
        ...


@runtime_checkable
class FileBacked(Protocol):
    """A model or task that lists the files that native code (safetensors, tokenizers, Parquet) reads for it.

    Files that Python opens are found without it.
    """

    def files(self) -> Sequence[Path]:
        """Return the files and folders.

        After one of them has changed, a run is not resumed and no stage comes from the cache.
        """
        ...


@dataclass(frozen=True)
class TaskFactoryTraits:
    """What a task's factory says about itself in attributes.

    Args:
        auto_class: the auto class of transformers whose networks have the head that the task needs. Models get it by
            the name ``auto_class``.
        unlabelled: the option, if there is one, that names examples without labels. A recipe that gives it has to have
            a stage that distils.
    """

    auto_class: str = "AutoModelForSequenceClassification"
    unlabelled: str = ""


@runtime_checkable
class PlannedTaskFactory(Protocol):
    """A task's factory that checks options against the recipe's model before any work."""

    def validate(self, options: Mapping[str, Any], tokenizer: Any) -> None:
        """Raise ``UsageError`` for options that do not fit the model's tokenizer."""
        ...


@runtime_checkable
class FileCheckingTaskFactory(Protocol):
    """A task's factory that checks options against the files they name."""

    def on_files(self, options: Mapping[str, Any], base: Path) -> Iterable[tuple[str, str]]:
        """Yield options and their faults, found in the headers of files; relative paths start at ``base``."""
        ...


@runtime_checkable
class MeasuringTaskFactory(Protocol):
    """A task's factory that knows which metrics its tasks measure, see :mod:`nasframe.measures`."""

    def measures(self, options: Mapping[str, Any], space: Any) -> Mapping[str, MetricFormat] | None:
        """Return the metrics that follow from the options, or ``None`` if they depend on the data.

        ``nasframe check`` rejects other metrics, and ``nasframe plugins show`` lists these.
        """
        ...


@dataclass(frozen=True)
class ModelTraits:
    """What a model says about itself in attributes.

    Args:
        hub_id: its name on the Hugging Face hub, if it is published there; the cards of exported models name it.
    """

    hub_id: str | None = None


@runtime_checkable
class RetaskableNetwork(Protocol):
    """A network of one's own that can have the head of another task, which the transform ``new_head`` gives it."""

    def for_task(self, auto_class: str, labels: Sequence[str] | None) -> nn.Module:
        """Return a network with a copy of this one's body and a new head.

        Args:
            auto_class: the auto class of transformers whose networks have the head, as a task's factory names it.
            labels: the task's classes; ``None`` for regression and for tasks that predict tokens.

        Raises:
            UsageError: it cannot have such a head.
        """
        ...


@runtime_checkable
class ImageTask(Protocol):
    """A task whose images can be prepared by a class of transformers as it prepares them itself."""

    def image_processor(self) -> Mapping[str, Any]:
        """Return the content of ``preprocessor_config.json``, which is written beside each model."""
        ...


@runtime_checkable
class HeadedModel(Protocol):
    """A model whose checkpoint may have a classification head."""

    def head(self) -> Head | None:
        """Return the checkpoint's :class:`~nasframe.heads.Head`, ``None`` if there is none."""
        ...


@runtime_checkable
class CheckpointModel(Protocol):
    """A model that can tell whether its checkpoint brings every weight, which a recipe's ``teacher`` has to."""

    def untrained(self, labels: Sequence[str] | None = None, *, local: bool = False) -> str:
        """Return why some weights of the network would be drawn; an empty text if the checkpoint brings them all.

        Args:
            labels: the task's classes in the order of the outputs; ``None`` is one output, for regression.
            local: judge only files that are at hand, and whatever the classes are: when a recipe is checked.
        """
        ...


@runtime_checkable
class SkeletonModel(Protocol):
    """A model that gives its network without values, for everything that is checked before a run begins."""

    def skeleton(self) -> nn.Module | None:
        """Return the network on the meta device, or ``None`` if that needs a download."""
        ...


@runtime_checkable
class OutlinedModel(Protocol):
    """A model that knows the sizes of its network without building it, so that ``nasframe check`` needs no torch."""

    def outline(self) -> Any:
        """Return the :class:`~nasframe.outline.Outline` of a network whose files are known to fit, or ``None``."""
        ...


@runtime_checkable
class LocalTokenizerModel(Protocol):
    """A model that gives its tokenizer without a download."""

    def local_tokenizer(self) -> Any:
        """Return the tokenizer, or ``None`` if it is not on this machine."""
        ...


@runtime_checkable
class TokenizerMaker(Protocol):
    """A model without a tokenizer of its own, which makes one from the task's training texts.

    Before that, ``tokenizer()`` returns what is known: a tokenizer with the final ``model_max_length`` and special
    tokens.
    """

    def makes_tokenizer(self) -> bool:
        """Tell whether the tokenizer is made from texts, with the model's options."""
        ...

    def make_tokenizer(self, texts: Iterable[str]) -> Any:
        """Return the tokenizer made from texts; the same texts in the same order give the same tokenizer."""
        ...


@runtime_checkable
class PlannedModel(Protocol):
    """A model that checks its own files before any work."""

    def validate(self) -> None:
        """Raise ``UsageError`` if the checkpoint is on this machine and cannot be loaded."""
        ...


# ---- optional members of exporters


@dataclass(frozen=True)
class ExporterTraits:
    """What an exporter says about itself in attributes.

    Args:
        tolerance: how far the outputs of a written model may differ, relative to the largest of them (to 1 if all are
            smaller). A format with less precision than float32 needs more.
    """

    tolerance: float = 1e-5


@runtime_checkable
class PlannedExporter(Protocol):
    """An exporter that checks networks before any work, and before any file is written."""

    def validate(self, net: nn.Module) -> None:
        """Raise ``UsageError`` for a network that the format cannot express.

        Called with the recipe's network, without values on the meta device, before a run; and with each model before
        it is written.
        """
        ...


def files_of(plugin: Any) -> list[Path]:
    """Return the files and folders that a model or a task names, those that exist."""
    if not isinstance(plugin, FileBacked):
        return []
    paths = [Path(place) for place in plugin.files()]
    return [path for path in paths if path.exists()]


# ---- optional members of all factories


@dataclass(frozen=True)
class FactoryTraits:
    """What a factory says about itself in attributes, which subclasses do not inherit.

    Args:
        sizes_suffice: true for an estimator, task, space or exporter that needs only sizes before a run. If the model
            has an outline, it then gets the :class:`~nasframe.outline.Outline` in place of the network, its
            configuration or the tokenizer; see :func:`nasframe.outline.sizes_suffice`.
    """

    sizes_suffice: bool = False


@runtime_checkable
class FaultFinder(Protocol):
    """A factory with rules about its options that types cannot express, such as options that exclude each other."""

    def faults(self, options: Mapping[str, Any]) -> Iterable[tuple[tuple[Any, ...], str]]:
        """Yield the place of each faulty option, such as ``("rate",)``, and the fault."""
        ...


@runtime_checkable
class OptionTranslator(Protocol):
    """A factory that had other options in earlier versions. Recipes are translated before anything checks them."""

    def translate_options(self, options: Mapping[str, Any]) -> Translation:
        """Return current options, with advice on old ones; :func:`nasframe.options.renamed` does it for names.

        Current options must come back unchanged, because options may be translated more than once.
        """
        ...


OPTIONAL: dict[str, tuple[type, ...]] = {
    "domain": (
        KnobDomain,
        ConditionalDomain,
        CountableDomain,
        EnumerableDomain,
        BoundedDomain,
        CrossableDomain,
        RestrictableDomain,
        JoinableDomain,
        EncodedDomain,
        FeaturedDomain,
        DrawableDomain,
    ),
    "space": (SpaceTraits, SizedSpace, WritableSpace, FormatSpace, PiecewiseSpace),
    "sampler": (SamplerTraits, StatefulSampler, StartedSampler),
    "trainer": (TrainerTraits, PlannedTrainer),
    "estimator": (EstimatorTraits, AdditiveEstimator, MeasuredEstimator, StatefulEstimator, PlannedEstimator),
    "evaluator": (EvaluatorTraits, PlannedEvaluator),
    "modifier": (PlannedModifier, LengthCheckingModifier),
    "transform": (TransformTraits, PlannedTransform),
    "task": (TaskTraits, ReadableTask, PartialTask, TextSource, UnlabelledSource, ImageTask, FileBacked),
    "task's factory": (TaskFactoryTraits, PlannedTaskFactory, FileCheckingTaskFactory, MeasuringTaskFactory),
    "model": (
        ModelTraits,
        HeadedModel,
        CheckpointModel,
        SkeletonModel,
        OutlinedModel,
        LocalTokenizerModel,
        TokenizerMaker,
        PlannedModel,
        FileBacked,
    ),
    "exporter": (ExporterTraits, PlannedExporter),
    "family": (SliceableFamily, ExampleFamily),
    "every factory": (FactoryTraits, FaultFinder, OptionTranslator),
}
"""Kind → the Protocols and records of its optional members; the tables in docs/hooks.md are made from it."""

RENAMED = {"returns_arch": "answers", "elementwise": "by_entry", "validate": "on_plan"}
"""Optional members that had another name: new → old."""
LAST_RELEASE_WITH_OLD_NAMES = "0.3"


def member(plugin: Any, name: str, default: Any = None) -> Any:
    """Return an optional member of a plugin or of its factory.

    A member of :data:`RENAMED` is read under its old name, too, with a ``DeprecationWarning``. If a plugin has both,
    the name that its more derived class has wins, so that the defaults of :class:`Modifier` hide no old name.

    Args:
        plugin: the plugin or its factory.
        name: the member's name today.
        default: returned if the plugin has no such member.

    >>> class Sparse(Modifier):
    ...     returns_arch = True
    >>> member(Sparse(), "returns_arch"), member(Sparse, "reshapes", True)
    (True, True)
    """
    old = RENAMED.get(name)
    if old is None or not hasattr(plugin, old) or _depth(plugin, name) <= _depth(plugin, old):
        return getattr(plugin, name, default)
    owner = plugin.__qualname__ if hasattr(plugin, "__qualname__") else type(plugin).__qualname__
    warnings.warn(
        f"{owner}: {old!r} is called {name!r} now. The old name is read until nasframe {LAST_RELEASE_WITH_OLD_NAMES}.",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(plugin, old)


def _depth(plugin: Any, name: str) -> float:
    """Return how far from a plugin a member is defined: 0 on itself, 1 on its class …; infinity if nowhere."""
    classes = plugin.__mro__ if isinstance(plugin, type) else type(plugin).__mro__
    for depth, owner in enumerate((plugin, *classes)):
        if name in getattr(owner, "__dict__", {}):
            return depth
    return math.inf


def traits_of(record: type[T], plugin: Any) -> T:
    """Return a plugin's class attributes as a record, with defaults for those that it does not have.

    Args:
        record: :class:`SpaceTraits`, :class:`TransformTraits` …
        plugin: the plugin or its factory.

    >>> traits_of(TransformTraits, type("Sort", (), {"reshapes": False}))
    TransformTraits(reshapes=False, keeps_function=False, gives_head=False)
    """
    values = {}
    for trait in dataclasses.fields(record):  # type: ignore[arg-type]
        values[trait.name] = member(plugin, trait.name, trait.default)
    return record(**values)
