"""The adversary: a discriminator between teacher and student, trained in turns with the student (arXiv 2008.11062).

The labels of formulas are our own, since we do not know the paper's equation numbers; README.md lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from nasframe.errors import UsageError
from nasframe.interfaces import Modifier, Step, TrainJob
from nasframe.records import Positive, ShareBelowOne, Size
from nasframe.training.step import saved_model


class Adversary(Modifier):
    """Train the student so that a small discriminator θ cannot tell its last [CLS] states from the teacher's.

    This is the min–max part of GAN Slimming, with least squares (LSGAN, arXiv 1611.04076) as published. The student's
    loss gains ``weight · (D(student) − 1)²``; after the student's step, θ takes a step on
    ``½ ((D(teacher) − 1)² + D(student)²)``. θ is a multi-layer perceptron with its own Adam. It lasts for the whole
    stage, including the steps in which ``slimming`` fine-tunes, and is then discarded.

    Args:
        teacher: name of the saved teacher.
        weight: η, the weight of the student's term.
        width: θ's hidden units.
        learning_rate: θ's learning rate.
        beta1: β₁ of θ's Adam; published: 0.5.
    """

    reads_space = False
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
        self.teacher = teacher
        self.weight = weight
        self.width = width
        self.learning_rate = learning_rate
        self.beta1 = beta1
        self.theta: Any = None
        self.pairs: list[tuple[torch.Tensor, torch.Tensor]] = []  # states of student and teacher, by micro-batch

    def on_start(self, job: TrainJob) -> None:
        """Check that the teacher exists and fits; create θ."""
        teacher: Any = saved_model(job, self.teacher)
        net: Any = job.net
        size = net.config.hidden_size
        teacher_size = teacher.config.hidden_size
        if size != teacher_size:
            raise UsageError(
                f"adversary: hidden sizes differ: {size} of the student, {teacher_size} of {self.teacher!r}."
            )
        self.create(size, next(net.parameters()).device)

    def create(self, size: int, device: torch.device) -> None:
        """Create θ and its optimiser for states of this size."""
        layers = [nn.Linear(size, self.width), nn.LeakyReLU(0.2), nn.Linear(self.width, 1)]
        self.theta = nn.Sequential(*layers).to(device)
        betas = (self.beta1, 0.999)
        self.adam = torch.optim.Adam(self.theta.parameters(), lr=self.learning_rate, betas=betas)

    def on_loss(self, step: Step, loss: torch.Tensor) -> torch.Tensor:
        """Add the student's term to its loss."""
        student = _last_cls(step.outputs)
        teacher = _last_cls(step.teacher(self.teacher))
        self.pairs.append((student.detach(), teacher))  # for θ's turn, after the student's step
        # With constants in place of its parameters, θ gets no gradient in the student's turn.
        constants = {name: parameter.detach() for name, parameter in self.theta.named_parameters()}
        score = functional_call(self.theta, constants, student)
        return loss + self.weight * (score - 1).square().mean()  # (S9)

    def on_update(self, step: Step) -> None:
        """Take θ's step, on the states that it just saw."""
        student = torch.cat([state for state, _ in self.pairs])
        teacher = torch.cat([state for _, state in self.pairs])
        self.pairs.clear()
        if step.skipped:  # the student's states may be infinite, and would ruin Adam's moments
            return
        teacher_loss = (self.theta(teacher) - 1).square().mean()
        student_loss = self.theta(student).square().mean()
        loss = (teacher_loss + student_loss) / 2  # (S10)
        self.adam.zero_grad()
        loss.backward()
        # Each process has seen a part of the batch; with averaged gradients θ stays the same in all of them.
        for parameter in self.theta.parameters():
            step.job.reduce(parameter.grad)
        self.adam.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of θ and of its optimiser."""
        return {"theta": self.theta.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that :meth:`state_dict` returned."""
        if self.theta is None:  # a state may be loaded before on_start; it has θ's size
            first = state["theta"]["0.weight"]
            self.create(first.shape[1], first.device)
        self.theta.load_state_dict(state["theta"])
        self.adam.load_state_dict(state["adam"])


def _last_cls(outputs: Any) -> torch.Tensor:
    """Return the [CLS] states of the last layer, ``(batch, width)``."""
    last = outputs.hidden_states[-1]
    return last[:, 0].float()
