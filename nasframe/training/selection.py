"""Evaluation on ``select`` during training: which weights to keep, when to stop, and who must not use either."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.utils.parametrize import is_parametrized

from nasframe.errors import RunError, UsageError
from nasframe.interfaces import TrainJob, ends_of, member
from nasframe.nn.elastic import family_of, layers_of
from nasframe.records import Arch


def measured_archs(job: TrainJob) -> Sequence[Arch | None]:
    """Return the networks that stand for a stage: the whole one, ``arch``, or a sampler's smallest and largest."""
    if job.sampler is None:
        return [job.arch]
    domain = job.within
    if domain is None and job.space is not None:
        domain = job.space.domain
    # The scores of all others lie roughly between those of the two ends (Yu & Huang 2019, universally slimmable nets).
    return ends_of(domain) or [job.arch]


def mean_metrics(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average metrics over networks.

    >>> mean_metrics([{"accuracy": 0.5}, {"accuracy": 1.0}])
    {'accuracy': 0.75}
    """
    means = {}
    for name in rows[0]:
        means[name] = sum(row[name] for row in rows) / len(rows)
    return means


class Selection:
    """Follows the score of one stage; scores of different sub-networks are not compared.

    Args:
        job: the stage; ``eval_every``, ``keep`` and ``early_stop`` are read.
        epoch: steps in an epoch, the interval of evaluations if ``eval_every`` is not given.
    """

    def __init__(self, job: TrainJob, epoch: int) -> None:
        self.job = job
        self.every = job.options.eval_every
        needs_scores = job.options.keep == "best" or job.options.early_stop is not None
        if self.every is None and needs_scores:
            self.every = epoch
        self.best: float | None = None
        self.stale = 0
        self.weights: dict[str, torch.Tensor] = {}
        self.measured: Sequence[Arch | None] | None = None

    def due(self, step: int, last: bool) -> bool:
        """Tell whether to evaluate after this step; the last one is evaluated if any is."""
        if self.every is None:
            return False
        return last or step % self.every == 0

    def add(self, score: float) -> bool:
        """Take a new score, keep the weights of the best one, and tell whether training should stop."""
        archs = [arch and dict(arch) for arch in measured_archs(self.job)]
        if self.measured != archs:
            # A modifier lowered the stage's architecture: the best score so far is another network's.
            self.measured = archs
            self.best = None
            self.weights = {}
        options = self.job.options
        is_better = math.isfinite(score) and (self.best is None or score > self.best)
        if is_better:
            self.best = score
            self.stale = 0
            if options.keep == "best":  # copies, because training goes on in place
                state = self.job.net.state_dict()
                self.weights = {name: tensor.clone() for name, tensor in state.items()}
        else:
            self.stale += 1
        return options.early_stop is not None and self.stale >= options.early_stop

    def finish(self) -> None:
        """Put the best weights back, if they were kept.

        Raises:
            RunError: no evaluation gave a finite score, so there are no best weights.
        """
        if self.job.options.keep == "best" and not self.weights:
            raise RunError(
                f"stage {self.job.stage!r}: keep: best: no evaluation on select gave a finite "
                f"{self.job.task.primary}. Expected one at least."
            )
        if self.weights:
            self.job.net.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """Return the best score, its weights, the evaluations since, and what was measured."""
        return {"best": self.best, "stale": self.stale, "weights": self.weights, "measured": self.measured}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.best = state["best"]
        self.stale = state["stale"]
        self.weights = dict(state["weights"])
        self.measured = state["measured"]


def whole_network(job: TrainJob, name: str) -> None:
    """Refuse stages that train sub-networks or may keep earlier weights, for a modifier that shrinks one network.

    Args:
        job: the stage.
        name: the modifier's name, for the error.

    Raises:
        UsageError: the stage has a sampler or an architecture, or may keep earlier weights (:func:`last_weights`).
    """
    if job.sampler is not None or job.arch is not None:
        raise UsageError(f"{name}: stage {job.stage!r} trains sub-networks. Expected no 'sampler' and no 'arch'.")
    last_weights(job, name)


def last_weights(job: TrainJob, name: str) -> None:
    """Refuse stages that may end with weights of an earlier step, for a modifier that finishes in the last step.

    Raises:
        UsageError: the stage has ``keep: best`` or ``early_stop``.
    """
    option = ""
    if job.options.keep == "best":
        option = "keep: best"
    elif job.options.early_stop is not None:
        option = "early_stop"
    if option:
        raise UsageError(
            f"{name}: stage {job.stage!r} has {option} and may end with the weights of an earlier step, before {name} "
            "was done. Expected keep: last, and no early_stop; the stage that follows may use both."
        )


def free_to_reorder(job: TrainJob, name: str, within: bool = False) -> None:
    """Refuse stages in which heads and neurons cannot be reordered, for a modifier that does so.

    Args:
        job: the stage.
        name: the modifier.
        within: whether it reorders while the stage trains, and not only at its end.

    Raises:
        UsageError: another modifier has state that belongs to single weights, which would not move with them, or the
            layers are parametrised, or the order would be lost when the stage is resumed.
    """
    start = f"{name}: stage {job.stage!r}: heads and neurons are reordered in place, which"
    for other in job.modifiers:
        if member(other, "elementwise", False):
            raise UsageError(
                f"{start} {type(other).__name__.lower()}, whose state belongs to single weights, would not follow. "
                "Expected it in a later stage."
            )
    if any(is_parametrized(module) for module in layers_of(job.net).modules()):
        raise UsageError(
            f"{start} a parametrised layer does not allow. Expected no modifier that parametrises weights before it; "
            "quantise in a later stage."
        )
    if within and family_of(job.net).head_table:
        # The order is kept with a network's sizes, which checkpoints of a stage do not have.
        raise UsageError(
            f"{start} a {type(job.net).__name__} allows only between stages, because its layers share a table with a "
            "column for each head. Expected transform: rewire before this stage."
        )
