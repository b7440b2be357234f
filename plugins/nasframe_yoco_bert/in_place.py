"""Distillation from the largest sub-network of the same step (Yu and Huang 2019, arXiv 1903.05134)."""

from __future__ import annotations

from typing import Any

import torch

from nasframe.errors import UsageError
from nasframe.interfaces import Modifier, Step, TrainJob, output_kind
from nasframe.nn.losses import matching
from nasframe.nn.outputs import logits_of
from nasframe.records import Arch, Positive, Share


class InPlaceKD(Modifier):
    """Let the largest sub-network of each step teach the others of that step, without an extra forward pass.

    The others learn ``(1 − weight) · loss + weight · T² · KL(largest ‖ other)``: label by label if several may hold at
    once, and the squared difference in regression. The largest must come first, as it does from the sampler
    ``sandwich`` with ``archs_per_step: 3``.

    Args:
        temperature: T, which makes both distributions softer.
        weight: share of the distillation term, 0 to 1. At 0 nothing is taught, and the order does not matter.
    """

    reads_space = False

    def __init__(self, temperature: Positive = 1.0, weight: Share = 0.5) -> None:
        self.temperature, self.weight = temperature, weight

    def on_start(self, job: TrainJob) -> None:
        """Look up the largest sub-network.

        Raises:
            UsageError: the stage trains no sub-networks.
        """
        domain: Any = job.within
        if domain is None and job.space is not None:
            domain = job.space.domain
        if job.sampler is None or not hasattr(domain, "largest"):
            raise UsageError(f"stage {job.stage!r}: kd_in_place needs a sampler of sub-networks, as 'sandwich'.")
        self.largest: Arch = domain.largest()
        self.batch: Any = None  # the one that the largest has seen, and its logits on it
        self.logits: torch.Tensor

    def on_loss(self, step: Step, loss: torch.Tensor) -> torch.Tensor:
        """Keep the logits of the largest, and mix the distance to them into the loss of the others.

        Raises:
            UsageError: the largest did not come first.
        """
        if not self.weight:
            return loss
        if step.arch == self.largest:
            self.batch = step.batch
            self.logits = logits_of(step.outputs, "kd_in_place").detach()
            return loss
        if self.batch is not step.batch:
            raise UsageError(
                f"stage {step.job.stage!r}: kd_in_place got {dict(step.arch or {})} before the largest sub-network. "
                "Expected the largest first in every step, as 'sampler: sandwich' with archs_per_step: 3 proposes it."
            )
        logits = logits_of(step.outputs, "kd_in_place")
        term = matching(output_kind(step.job.task), logits, self.logits, self.temperature)
        return (1 - self.weight) * loss + self.weight * term
