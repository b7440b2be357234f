"""Distillation of logits (Hinton et al., arXiv 1503.02531)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nasframe.interfaces import Modifier, TrainJob, output_kind
from nasframe.records import Positive, Share

if TYPE_CHECKING:  # torch is imported when training begins, as nasframe_basics.loop explains
    import torch

    from nasframe.interfaces import Step


class KD(Modifier):
    """Learn from a teacher's logits: ``(1 − weight) · loss + weight · T² · KL(teacher ‖ student)``.

    In regression the second term is the mean squared difference of the outputs. If several labels may hold at once it
    is ``T²`` times the mean divergence of the labels, each of which is a yes or no. If each token has a label, the
    tokens whose labels count are compared: in a masked language model, the masked ones.

    Args:
        teacher: name of the saved teacher.
        temperature: T, by which both networks' logits are divided; higher is softer.
        weight: share of the teacher's term, 0 to 1. At 0 the teacher is not run, and costs nothing.
    """

    reads_space = False

    def __init__(self, teacher: str = "teacher", temperature: Positive = 1.0, weight: Share = 0.5) -> None:
        self.teacher = teacher
        self.temperature = temperature
        self.weight = weight

    def on_start(self, job: TrainJob) -> None:
        """Check, before any work, that the teacher exists."""
        from nasframe.training.step import saved_model

        if self.weight:
            saved_model(job, self.teacher)

    def on_loss(self, step: Step, loss: torch.Tensor) -> torch.Tensor:
        """Return the loss with the teacher's term."""
        from nasframe.nn.losses import counted, matching
        from nasframe.nn.outputs import logits_of

        if not self.weight:
            return loss
        student = logits_of(step.outputs, "kd")
        teacher = logits_of(step.teacher(self.teacher), f"kd: teacher {self.teacher!r}")
        labels = step.batch.labels  # of a masked language model, only the masked tokens count
        ours, expected = counted(student, labels), counted(teacher, labels)
        term = matching(output_kind(step.job.task), ours, expected, self.temperature)
        return (1 - self.weight) * loss + self.weight * term  # (N8): (1 − λ) NLL + λ KL(teacher ‖ student)
