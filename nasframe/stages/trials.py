"""The trials of a search stage: how architectures are scored, what scoring costs, and how trials are stored."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any

from nasframe.interfaces import TrainJob
from nasframe.records import LedgerEntry, ModifierRef, TrainerRef, TrainOptions, plus
from nasframe.training.forward import forward_of
from nasframe.training.macs import MacCounter

if TYPE_CHECKING:
    from torch import nn

    from nasframe.interfaces import TrainResult, Work
    from nasframe.records import Arch, Evaluation, Forward, Trial
    from nasframe.stages.session import StageSession


@dataclass
class Tally:
    """What evaluations cost so far.

    Args:
        evaluations: how many there were.
        examples: how many examples they used, all together.
        tokens: token positions that went through networks, padding included.
        macs: forward MACs.
        backward_macs: of the candidates that were trained before they were scored.
    """

    evaluations: int = 0
    examples: int = 0
    tokens: int = 0
    macs: float | None = 0.0
    backward_macs: float | None = 0.0

    def add(self, result: Evaluation, macs: float | None) -> None:
        """Count one evaluation; ``macs`` is ``None`` if they cannot be counted."""
        self.evaluations += 1
        self.examples += result.examples
        self.tokens += result.tokens
        self.macs = plus(self.macs, macs)

    def add_training(self, entries: Iterable[LedgerEntry]) -> None:
        """Count the training of a candidate, which is a part of its evaluation."""
        for entry in entries:
            self.examples += entry.examples
            self.tokens += entry.tokens
            self.macs = plus(self.macs, entry.forward_macs)
            self.backward_macs = plus(self.backward_macs, entry.backward_macs)

    def ledger_entry(self, seconds: float) -> LedgerEntry:
        """Return the tally as an entry of the ledger."""
        return LedgerEntry(
            role="evaluation",
            examples=self.examples,
            tokens=self.tokens,
            forward_macs=self.macs,
            backward_macs=self.backward_macs,
            evaluations=self.evaluations,
            seconds=seconds,
        )


def stored_tally(stage: StageSession) -> Tally:
    """Return the tally of a search, with what it did before it was interrupted."""
    return Tally(**stage.store.get(f"tally {stage.name}", {}))


def store_trial(stage: StageSession, number: int, trial: Trial, seconds: float, tally: Tally) -> None:
    """Store a trial together with the tally up to it, then tell observers."""
    # In one transaction: a search that is resumed then counts neither too few evaluations nor one of them twice.
    with stage.store.transaction():
        stage.store.add_trial(stage.name, number, trial, seconds)
        stage.store.put(f"tally {stage.name}", asdict(tally))
    stage.session.observers.trial_finished(stage.name, number, trial)


@dataclass(frozen=True)
class Candidate:
    """A network, or a sub-network, as a function whose cost can be counted.

    Args:
        forward: computes its outputs.
        macs: counts the multiply-adds of an evaluation of it; ``None`` if they cannot be counted.
    """

    forward: Forward
    macs: Callable[[Evaluation], float | None]


def mac_counter(stage: StageSession, work: Work) -> MacCounter:
    """Return what counts a stage's forward passes for the ledger."""
    return MacCounter(work.task, work.space, stage.notify, f"stages.{stage.name}")


@dataclass(frozen=True)
class FitPlugins:
    """What trains a candidate before it is scored, besides the options of the training.

    Args:
        modifiers: act inside the training loop, in this order; null entries are skipped. Each candidate gets new ones.
        trainer: runs the training loop.
    """

    modifiers: Sequence[ModifierRef] = ()
    trainer: TrainerRef = "loop"


def split_fit(fit: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the option ``fit`` of a search into training options and those of :class:`FitPlugins`.

    >>> split_fit({"epochs": 1, "modifiers": []})
    ({'epochs': 1}, {'modifiers': []})
    """
    names = {field.name for field in fields(FitPlugins)}
    training = {name: value for name, value in fit.items() if name not in names}
    plugins = {name: value for name, value in fit.items() if name in names}
    return training, plugins


class Evaluator:
    """Scores architectures on the ``select`` split, and counts what that costs.

    Args:
        stage: the search.
        work: whose network and space are searched.
        fit: training options, modifiers and trainer, if a copy of each candidate is trained before it is scored.
        precision: of the forward passes.
    """

    def __init__(self, stage: StageSession, work: Work, fit: Mapping[str, Any] | None, precision: str) -> None:
        self.stage = stage
        self.work = work
        self.fit = fit
        self.precision = precision
        self.tally = stored_tally(stage)
        self.counter = mac_counter(stage, work)

    def __call__(self, arch: Arch, examples: int | None) -> Mapping[str, float]:
        """Return the metrics of an architecture, on ``examples`` examples or on all of the split."""
        candidate = self.candidate(arch, self.tally)
        result = self.work.task.evaluate(candidate.forward, "select", examples)
        self.tally.add(result, candidate.macs(result))
        return result.metrics

    def candidate(self, arch: Arch, tally: Tally) -> Candidate:
        """Return an architecture as it is scored.

        Args:
            arch: the architecture.
            tally: counts its training, if it is trained before.
        """
        space: Any = self.work.space
        net = self.work.net if self.fit is None else self._fitted(arch, tally)
        forward = forward_of(space.view(net, arch), self.work.net, self.precision)
        # Counted on the network itself: that of a fitted copy costs the same, and would be counted again each time.
        return Candidate(forward, partial(self.counter.evaluation, self.work.net, arch))

    def _fitted(self, arch: Arch, tally: Tally) -> nn.Module:
        """Return a copy of the super-network trained at one architecture alone, so that it is scored at its best."""
        assert self.fit is not None
        training, plugins = split_fit(self.fit)
        chosen = FitPlugins(**plugins)
        # New ones for each candidate, so that no state goes from one training to the next.
        modifiers = [self.stage.make("modifier", use) for use in chosen.modifiers if use is not None]
        job = TrainJob(
            net=copy.deepcopy(self.work.net),  # every candidate starts from the same weights
            task=self.work.task,
            tokenizer=self.work.tokenizer,
            options=TrainOptions(**training),
            seed=self.stage.seed,
            stage=f"{self.stage.name}/fit",  # its own streams: the order of its batches is the same for every candidate
            space=self.work.space,
            arch=arch,
            modifiers=modifiers,
            models=self.work.models,
            estimators=self.stage.estimators,
        )
        result: TrainResult = self.stage.make("trainer", chosen.trainer).fit(job)
        tally.add_training(result.ledger)
        return result.net.eval()
