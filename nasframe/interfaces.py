"""The eight kinds of plugin as Protocols, and the no-op base of the one kind that has many optional moments.

A plugin need not inherit from anything here: having the methods is enough. Its factory's keyword arguments, with
their types, defaults and docstring, are its options in a recipe. Arguments with the names below are not options;
they are injected where a factory's signature has them:

==============  ==========================================================================
name            what
==============  ==========================================================================
``domain``      samplers: the :class:`Domain` to propose from
``seed``        samplers, tasks, transforms: an integer made from the run's seed and the stage
``costs``       samplers: a function from a list of archs to an array ``(archs, costs)`` of those counted
                costs that the budgets, constraints and objectives name, or else of ``params``
``config``      spaces: the Hugging Face configuration of the network; before a run, an
                :class:`~nasframe.outline.Outline` if the space says ``sizes_suffice = True``
``tokenizer``   tasks: the tokenizer of the network
``base``        tasks, models: the recipe's folder, against which a relative ``path`` is read
``space``       tasks: the space, in a recipe without a model
``saved_head``  tasks: the :class:`~nasframe.heads.Head` that the model's checkpoint brings, or ``None``; a task takes
                over its order of classes (:func:`nasframe.heads.match`)
``notify``      all: ``notify(place, text)``, for what the plugin decides by itself (see :mod:`nasframe.notices`)
==============  ==========================================================================
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from nasframe.records import Arch, Batch, CostTable, Evaluation, Forward, LedgerEntry, TrainOptions, Trial

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn


@runtime_checkable
class Domain(Protocol):
    """A set of architectures: draw one, change one, tell whether one belongs."""

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
        """Return the one form that equal networks share: knobs that have no effect are left out."""
        ...


@runtime_checkable
class SearchSpace(Protocol):
    """What may vary, and how a choice becomes a network.

    A space whose factory says ``needs_net = False`` stands in a recipe without a model: ``net`` is then ``None``, its
    ``estimators`` (name → estimator) are the costs, and ``view`` returns what the task understands.
    """

    domain: Domain

    def supernet(self, net: nn.Module) -> nn.Module:
        """Turn the loaded network into the one to train; spaces that slice return it unchanged."""
        ...

    def view(self, net: nn.Module, arch: Arch) -> Forward:
        """Return the sub-network as a function that shares the weights of ``net`` and changes nothing."""
        ...

    def extract(self, net: nn.Module, arch: Arch) -> nn.Module:
        """Return the sub-network as a stand-alone model whose outputs equal the view's."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """Proposes architectures and learns from their scores.

    ``start(stage, total)`` may be there too, or ``start(stage, total, origin)``: a stage of so many steps (``origin``
    is ``"train"``) or trials (``"search"``) begins.
    """

    def ask(self, n: int = 1, within: Domain | None = None) -> list[Arch]:
        """Propose up to ``n`` canonical architectures from ``within``; an empty list means exhausted."""
        ...

    def tell(self, trials: Sequence[Trial]) -> None:
        """Hear what became of proposals; ``score`` is to be maximised."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state, the random generator's included, as JSON-plain values and arrays."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where ``state_dict`` was taken."""
        ...


def start_sampler(sampler: Sampler, stage: str, total: int, origin: Literal["train", "search"]) -> None:
    """Tell a sampler that a stage begins, if it wants to hear it, and for what, if its ``start`` takes ``origin``."""
    if start := getattr(sampler, "start", None):
        start(stage, total, **({"origin": origin} if "origin" in inspect.signature(start).parameters else {}))


def sizes_of(space: Any, arch: Arch | None) -> Arch | None:
    """Return the sizes (layers, heads, neurons) that an architecture of a space means, if the space can say."""
    return arch if arch is None or not hasattr(space, "sizes") else space.sizes(arch)


def files_of(plugin: Any) -> list[Path]:
    """Return the files and folders that a model or a task declares, those that are there."""
    declare = getattr(plugin, "files", None)
    if declare is None:
        return []
    return [Path(place) for place in declare() if Path(place).exists()]


@runtime_checkable
class Trainer(Protocol):
    """Runs the training loop.

    A class attribute ``answers = False`` promises that an architecture can only come from a stage's modifiers, so that
    a later stage which waits for another one is refused before the run.
    """

    def fit(self, job: TrainJob) -> TrainResult:
        """Train ``job.net`` and say what came out and what it cost."""
        ...


@runtime_checkable
class Estimator(Protocol):
    """Says what an architecture, or a finished network, costs. ``table(space, net)`` may give an additive cost."""

    unit: str

    def estimate(self, space: SearchSpace | None, net: nn.Module, arch: Arch | None) -> float:
        """Return the cost of ``arch`` in ``net``, or of ``net`` as it stands where ``arch`` is ``None``."""
        ...


class AdditiveEstimator(Estimator, Protocol):
    """An estimator whose cost is a sum over the choices made."""

    def table(self, space: SearchSpace, net: nn.Module) -> CostTable:
        """Return the cost of every choice; their sum over an architecture equals ``estimate``."""
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
        """Run the network once more, by default with this step's architecture and batch."""
        ...

    def teacher(self, name: str = "teacher", arch: Arch | None = None) -> Any:
        """Run a saved network on this batch, in eval mode and without gradients, once a batch."""
        ...


class Modifier:
    """Acts inside the training loop, at six moments; the base does nothing at any of them.

    Attributes:
        needs: which outputs the loop must ask the network for (``hidden_states``, ``attentions``).
        by_entry: whether it keeps what belongs to single weights, so that no other may reorder heads or neurons.
        answers: whether ``on_finish`` answers with an architecture, which one modifier of a stage may.
    """

    needs: frozenset[str] = frozenset()
    by_entry: bool = False
    answers: bool = False

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
        """After the loop, in reverse order: unwind; where it ``answers``, with an architecture."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return what a resume needs, as JSON-plain values and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""


@runtime_checkable
class Transform(Protocol):
    """Acts between stages: work in, work out.

    A class attribute ``reshapes = False`` promises that costs stay what they were, so that a budget which nobody can
    meet is told before the run begins; without it the costs of what follows are taken to be unknown. A method
    ``on_plan(net)``, given a copy of the network without values, may refuse sizes before any work.
    """

    def __call__(self, work: Work) -> Work:
        """Return the changed work; what it was given stays as it was."""
        ...


class Batches(Protocol):
    """One epoch of training batches, in order."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> Batch: ...

    def __iter__(self) -> Iterator[Batch]: ...


@runtime_checkable
class Task(Protocol):
    """Brings data, loss and metrics. Splits: ``train``, ``select`` (carved out of train), ``dev``.

    An attribute ``summary``, a :class:`nasframe.records.DataSummary`, may be there too: what happened to the data on
    the way to the splits. A run shows it before training, ``--dry-run`` and reports show it too.

    An attribute ``metrics`` (name → :class:`~nasframe.records.MetricFormat`) may say how each metric reads; without it
    reports write plain numbers. A factory may tell which metrics there are, see :mod:`nasframe.measures`.

    ``files()`` may be there too, as a model's: the data files that other code than Python opens.

    Attributes:
        primary: the metric that a search maximises.
        labels: the class names in index order, or ``None`` for regression.
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


@runtime_checkable
class Model(Protocol):
    """A network and its tokenizer from a name.

    ``files() -> Sequence[Path]`` may be there too: the files and folders that the two are read from. A run remembers
    their content, so that it is not resumed, and no stage comes from the cache, after one of them has changed. Files
    that Python opens are found without it; those that native code opens (safetensors, tokenizers) are not.

    ``head() -> Head | None`` may be there too: the :class:`~nasframe.heads.Head` that the checkpoint brings.

    ``outline() -> Outline | None`` may be there too: the :class:`~nasframe.outline.Outline` of a model whose files are
    known to fit, so that ``nasframe check`` need not make its network.
    """

    def tokenizer(self) -> Any:
        """Load the tokenizer."""
        ...

    def load(self, labels: Sequence[str] | None, seed: int, random: bool = False) -> nn.Module:
        """Load the network with a head for these labels (``None``: one output, regression).

        ``seed`` draws the head, and every weight where ``random`` is true.
        """
        ...


@dataclass
class TrainJob:
    """All that a trainer needs for one training stage.

    Args:
        net: the network to train, in place.
        task: where batches, loss and metrics come from.
        tokenizer: the network's tokenizer.
        options: see :class:`TrainOptions`.
        seed: the run's seed; named streams are made from it (``nasframe.seeds``).
        stage: the stage's name, which names the streams.
        space: what may vary; ``None`` trains the network as it stands.
        sampler: who proposes sub-networks; ``None`` trains ``arch``, or the whole network.
        within: the part of the domain this stage may use.
        arch: the one sub-network to train where no sampler is given.
        modifiers: what acts inside the loop, in recipe order.
        models: saved networks by name; teachers are found here.
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


@dataclass(frozen=True)
class TrainResult:
    """What a trainer gives back: the network, the architecture a modifier read out of it (or ``None``), the costs."""

    net: nn.Module
    arch: Arch | None
    ledger: Sequence[LedgerEntry]


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
        vocabulary: where a transform cut the vocabulary down, the ids that the kept tokens have in the model's own
            tokenizer, in their new order; ``tokenizer`` is then the smaller one.
    """

    net: nn.Module
    tokenizer: Any
    task: Task
    space: SearchSpace | None = None
    archs: Mapping[str, Arch] = field(default_factory=dict)
    models: Mapping[str, nn.Module] = field(default_factory=dict)
    vocabulary: Sequence[int] | None = None
