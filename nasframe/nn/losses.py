"""Losses that compare a student with its teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from nasframe.records import IGNORED

if TYPE_CHECKING:
    from nasframe.interfaces import OutputKind


def distillation(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Return ``T² · KL(softmax(teacher / T) ‖ softmax(student / T))``, the mean over the batch.

    The factor gives gradients the same size at every temperature (Hinton et al., arXiv 1503.02531, §2.1).

    Args:
        student: logits ``(batch, classes)``, or ``(batch, length, classes)`` of which every position counts alike.
        teacher: logits of the same shape; they get no gradient.
        temperature: how soft both distributions are made.

    Returns:
        A scalar in float32, 0 if both agree.

    >>> logits = torch.tensor([[1.0, 2.0]])
    >>> float(distillation(logits, logits, temperature=5.0))
    0.0
    """
    log_p = functional.log_softmax(student.float() / temperature, dim=-1).flatten(0, -2)
    log_q = functional.log_softmax(teacher.detach().float() / temperature, dim=-1).flatten(0, -2)
    divergence = functional.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


def counted(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the logits at the positions that count, if labels leave some out; else all of them.

    Args:
        logits: ``(batch, length, classes)``, or of any other shape for tasks without a label for each token.
        labels: the batch's; :data:`nasframe.records.IGNORED` marks a token that does not count.

    Returns:
        ``(positions, classes)``, or the logits as they are.

    >>> counted(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[-100, 1]]))
    tensor([[3., 4.]])
    """
    if labels.shape != logits.shape[:-1] or labels.dtype.is_floating_point:
        return logits
    is_counted = labels != IGNORED
    return logits if bool(is_counted.all()) else logits[is_counted]


def soft_cross_entropy(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Return ``−Σ softmax(teacher / T) · log softmax(student / T)``, the mean over the batch.

    Its gradient is that of :func:`distillation` without the factor ``T²``.

    Args:
        student: logits ``(batch, classes)``.
        teacher: logits of the same shape; they get no gradient.
        temperature: how soft both distributions are made.

    Returns:
        A scalar in float32, the teacher's entropy if both agree.
    """
    q = functional.softmax(teacher.detach().float() / temperature, dim=-1)
    log_p = functional.log_softmax(student.float() / temperature, dim=-1)
    entropies = -(q * log_p).sum(-1)
    return entropies.mean()


def independent_distillation(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Return ``T² · KL(Bernoulli(σ(teacher / T)) ‖ Bernoulli(σ(student / T)))``, the mean over batch and outputs.

    It is :func:`distillation` for outputs that each say yes or no: a label's two logits are its own and 0.

    Args:
        student: logits ``(batch, outputs)``.
        teacher: logits of the same shape; they get no gradient.
        temperature: how soft all distributions are made.

    Returns:
        A scalar in float32, 0 if both agree.

    >>> logits = torch.tensor([[1.0, -2.0]])
    >>> float(independent_distillation(logits, logits, temperature=5.0))
    0.0
    """
    divergences = bernoulli_divergences(student.float() / temperature, teacher.detach().float() / temperature)
    return temperature**2 * divergences.mean()


def bernoulli_divergences(ours: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Return ``KL(Bernoulli(σ(expected)) ‖ Bernoulli(σ(ours)))`` of logits, element by element."""
    q = torch.sigmoid(expected)
    of_yes = functional.logsigmoid(expected) - functional.logsigmoid(ours)
    of_no = functional.logsigmoid(-expected) - functional.logsigmoid(-ours)
    return q * of_yes + (1 - q) * of_no


def matching(kind: OutputKind, student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Return how far a student's outputs are from its teacher's, as a loss that suits what the outputs are.

    Args:
        kind: of the task's outputs, see :func:`nasframe.interfaces.output_kind`: classes are compared by
            :func:`distillation`, independent labels by :func:`independent_distillation`, numbers by their mean squared
            difference.
        student: ``(batch, outputs)``.
        teacher: the same shape; it gets no gradient.
        temperature: how soft distributions are made; numbers have none.

    >>> float(matching("numbers", torch.tensor([[1.0]]), torch.tensor([[3.0]])))
    4.0
    """
    if kind == "numbers":  # one output, whose softmax would always be 1
        return functional.mse_loss(student.float(), teacher.detach().float())
    if kind == "independent":
        return independent_distillation(student, teacher, temperature)
    return distillation(student, teacher, temperature)


def masked_mse(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Return the mean squared error over real positions.

    Args:
        student: ``(batch, length, width)``.
        teacher: the same shape; it gets no gradient.
        mask: ``(batch, length)``, 0 for padding; ``None`` counts all positions.

    Returns:
        A scalar in float32.

    >>> states = torch.tensor([[[1.0], [9.0]]])
    >>> float(masked_mse(states, torch.zeros(1, 2, 1), mask=torch.tensor([[1, 0]])))
    1.0
    """
    difference = student.float() - teacher.detach().float()
    errors = difference.square().mean(-1)
    if mask is None:
        return errors.mean()
    real = mask.to(errors.dtype)
    return (errors * real).sum() / real.sum().clamp(min=1)
