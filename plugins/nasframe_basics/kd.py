"""Distillation of logits (Hinton et al., arXiv 1503.02531)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nasframe.interfaces import Modifier, TrainJob
from nasframe.records import Positive, Share

if TYPE_CHECKING:  # torch is imported when training begins, as nasframe_basics.loop explains
    import torch

    from nasframe.interfaces import Step


class KD(Modifier):
    """Learn from a teacher's logits: ``(1 − weight) · loss + weight · T² · KL(teacher ‖ student)``.

    In regression the second term is the mean squared difference of the outputs.

    Args:
        teacher: the name the teacher was saved as.
        temperature: T, how soft both distributions are made.
        weight: share of the teacher's term, 0 to 1. At 0 there is no teacher: it is not run, and costs nothing.
    """

    def __init__(self, teacher: str = "teacher", temperature: Positive = 1.0, weight: Share = 0.5) -> None:
        self.teacher, self.temperature, self.weight = teacher, temperature, weight

    def on_start(self, job: TrainJob) -> None:
        """Check that the teacher exists before any work."""
        from nasframe.training.step import saved_model

        if self.weight:
            saved_model(job, self.teacher)

    def on_loss(self, step: Step, loss: torch.Tensor) -> torch.Tensor:
        """Mix the teacher's term in."""
        from torch.nn import functional

        from nasframe.nn.losses import distillation

        if not self.weight:
            return loss
        student, teacher = step.outputs.logits, step.teacher(self.teacher).logits
        if step.job.task.labels is None:
            term = functional.mse_loss(student.float(), teacher.float())
        else:
            term = distillation(student, teacher, self.temperature)
        return (1 - self.weight) * loss + self.weight * term
