"""Modifier ``ema``: an exponential moving average of the weights in place of the last ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nasframe.errors import UsageError
from nasframe.interfaces import Modifier, TrainJob, member
from nasframe.records import ShareBelowOne

if TYPE_CHECKING:  # torch is imported when training begins, as nasframe_basics.loop explains
    import torch

    from nasframe.interfaces import Step


class EMA(Modifier):
    """End the stage with an exponential moving average of its weights (Polyak & Juditsky 1992; arXiv 1703.01780).

    After each step ``average = d · average + (1 − d) · weights``, with ``d = min(decay, (1 + t) / (10 + t))`` and
    ``t`` the number of steps averaged so far, so that the first weights are soon forgotten. Every trained weight is
    averaged in every step, also those that no sub-network of the step used. Skipped steps do not count.

    Measurements during the stage see the average, and ``keep: best`` keeps one: between two steps it is in the network.
    The average takes as much memory as the trained weights, and as much room in each checkpoint. With measurements
    all weights are copied twice a step, otherwise only at the end.

    Write it after other modifiers that change weights or parametrise them, as ``fake_quant`` does; what is then
    averaged are the weights before rounding. Stages that prune are refused: an average with earlier weights would undo
    that.

    Args:
        decay: the largest share of the average that a step keeps, below 1.
        start: share of the stage's steps before averaging begins.

    Raises:
        UsageError: on use, if another modifier of the stage prunes, or changes weights after this one.
    """

    reads_space = False
    elementwise = True

    def __init__(self, decay: ShareBelowOne = 0.999, start: ShareBelowOne = 0.0) -> None:
        self.decay = decay
        self.start = start
        self.steps = 0  # averaged so far
        self.other: dict[str, torch.Tensor] = {}  # the average or, while it is in the network, the trained weights
        self.is_in_network = False
        self.names: set[str] = set()  # of the trained weights, when the stage began
        self.versions: dict[str, int] = {}  # of the network's weights, when the average was put there

    def validate(self, job: TrainJob) -> None:
        """Refuse stages with modifiers that prune."""
        for modifier in job.modifiers:
            prunes = member(modifier, "returns_arch", False) or member(modifier, "keeps_zeros", False)
            if prunes:
                raise UsageError(
                    f"ema: stage {job.stage!r}: {type(modifier).__name__.lower()} prunes while it trains, and an "
                    "average with earlier weights would undo that. Expected ema in a stage of its own."
                )

    def on_start(self, job: TrainJob) -> None:
        """Check the stage."""
        self.validate(job)
        self.names = set(trained_weights(job))

    def on_batch(self, step: Step) -> None:
        """Before the first forward pass of a step, put the trained weights back."""
        if self.is_in_network:
            self._require_unchanged(step.job)
            self._swap(step.job)

    def on_update(self, step: Step) -> None:
        """Average, and leave the average in the network if the stage measures."""
        if step.index < int(self.start * step.total):
            return
        if not step.skipped:
            self._average(step.job)
        if self.other and measures(step.job):
            self._swap(step.job)
            self.versions = {name: weight._version for name, weight in trained_weights(step.job).items()}

    def on_finish(self, job: TrainJob) -> None:
        """Leave the average in the network; with ``keep: best`` the best one is there already."""
        if self.other and not self.is_in_network:
            self._swap(job)
        self.other = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the average, or the trained weights if the average is in the network."""
        return {"steps": self.steps, "is_in_network": self.is_in_network, "other": self.other}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on averaging; the network's own state brings the other half of the weights."""
        self.steps = state["steps"]
        self.is_in_network = state["is_in_network"]
        self.other = dict(state["other"])
        self.versions = {}

    def _average(self, job: TrainJob) -> None:
        """Take the network's weights into the average."""
        import torch

        weights = trained_weights(job)
        if weights.keys() != self.names:
            raise self._refusal(job, "parametrises or replaces weights")
        if not self.other:  # the average begins with the weights of its first step
            self.other = {name: weight.detach().clone() for name, weight in weights.items()}
        else:
            decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
            with torch.no_grad():
                for name, weight in weights.items():
                    average = self.other[name] = self.other[name].to(weight.device)
                    average.lerp_(weight, 1 - decay)
        self.steps += 1

    def _swap(self, job: TrainJob) -> None:
        """Exchange the network's weights with the other ones; in place, because views hold slices of them."""
        import torch

        with torch.no_grad():
            for name, weight in trained_weights(job).items():
                before = weight.detach().clone()
                weight.copy_(self.other[name])
                self.other[name] = before
        self.is_in_network = not self.is_in_network

    def _require_unchanged(self, job: TrainJob) -> None:
        """Refuse a modifier that changed the average in the network: its change of the trained weights is lost."""
        weights = trained_weights(job)
        if any(weights[name]._version != version for name, version in self.versions.items()):
            raise self._refusal(job, "changes weights")

    def _refusal(self, job: TrainJob, what: str) -> UsageError:
        return UsageError(f"ema: stage {job.stage!r}: a modifier after ema {what}. Expected ema after it in the list.")


def measures(job: TrainJob) -> bool:
    """Tell whether a stage is measured while it trains."""
    options = job.options
    return options.eval_every is not None or options.keep == "best" or options.early_stop is not None


def trained_weights(job: TrainJob) -> dict[str, torch.Tensor]:
    """Return the weights of a stage's network that are trained, by name."""
    weights: dict[str, torch.Tensor] = {}
    for name, parameter in job.net.named_parameters():
        if parameter.requires_grad:
            weights[name] = parameter
    return weights
