"""The adversary: a discriminator between teacher and student, trained in turns with the student (arXiv 2008.11062)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from nasframe.errors import UsageError
from nasframe.interfaces import Modifier
from nasframe.step import Step, saved_model
from nasframe.types import Positive, ShareBelowOne, Size, TrainJob


class Adversary(Modifier):
    """Make the student's last [CLS] states look like the teacher's to a small discriminator θ that learns to tell them.

    The min–max part of GAN Slimming, with least squares (LSGAN, arXiv 1611.04076) as published: the student's loss
    gets ``weight · (D(student) − 1)²``; after its step θ makes one of its own on
    ``½ ((D(teacher) − 1)² + D(student)²)``. θ is a multi-layer perceptron with an Adam of its own; it is kept for
    the whole stage, so also when ``slimming`` fine-tunes at its end, and then thrown away.

    Args:
        teacher: the name the teacher was saved as.
        weight: η, of the student's term.
        width: θ's hidden units.
        learning_rate: θ's.
        beta1: of θ's Adam; published: 0.5.
    """

    needs = frozenset({"hidden_states"})

    def __init__(
        self,
        teacher: str = "teacher",
        weight: Positive = 0.1,
        width: Size = 128,
        learning_rate: Positive = 1e-4,
        beta1: ShareBelowOne = 0.5,
    ) -> None:
        if not 0 <= beta1 < 1:
            raise UsageError(f"adversary.beta1: {beta1}. Expected 0 or more, and less than 1.")
        self.teacher, self.weight, self.width = teacher, weight, width
        self.learning_rate, self.beta1 = learning_rate, beta1
        self.theta: Any = None
        self.pairs: list[tuple[torch.Tensor, torch.Tensor]] = []

    def on_start(self, job: TrainJob) -> None:
        """Check that the teacher exists and fits; draw θ."""
        teacher: Any = saved_model(job, self.teacher)
        net: Any = job.net
        size, its = net.config.hidden_size, teacher.config.hidden_size
        if size != its:
            raise UsageError(f"adversary: hidden sizes differ: {size} of the student, {its} of {self.teacher!r}.")
        self.draw(size, next(net.parameters()).device)

    def draw(self, size: int, device: torch.device) -> None:
        """Make θ for states of this size."""
        layers = [nn.Linear(size, self.width), nn.LeakyReLU(0.2), nn.Linear(self.width, 1)]
        self.theta = nn.Sequential(*layers).to(device)
        self.adam = torch.optim.Adam(self.theta.parameters(), lr=self.learning_rate, betas=(self.beta1, 0.999))

    def on_loss(self, step: Step, loss: torch.Tensor) -> torch.Tensor:
        """Add what the student loses when θ finds it out."""
        student = step.outputs.hidden_states[-1][:, 0].float()
        teacher = step.teacher(self.teacher).hidden_states[-1][:, 0].float()
        self.pairs.append((student.detach(), teacher))
        fixed = {name: parameter.detach() for name, parameter in self.theta.named_parameters()}
        return loss + self.weight * (functional_call(self.theta, fixed, student) - 1).square().mean()

    def on_update(self, step: Step) -> None:
        """θ's turn, on what it just saw."""
        student, teacher = (torch.cat(states) for states in zip(*self.pairs, strict=True))
        self.pairs.clear()
        if step.skipped:
            return
        loss = ((self.theta(teacher) - 1).square().mean() + self.theta(student).square().mean()) / 2
        self.adam.zero_grad()
        loss.backward()
        for parameter in self.theta.parameters():
            step.job.reduce(parameter.grad)
        self.adam.step()

    def state_dict(self) -> dict[str, Any]:
        """Return θ and its optimiser."""
        return {"theta": self.theta.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with these."""
        if self.theta is None:
            first = state["theta"]["0.weight"]
            self.draw(first.shape[1], first.device)
        self.theta.load_state_dict(state["theta"])
        self.adam.load_state_dict(state["adam"])
