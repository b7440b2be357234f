"""Distillation of hidden states, layer by layer (FitNets, arXiv 1412.6550; TinyBERT, arXiv 1909.10351)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from nasframe.errors import UsageError
from nasframe.interfaces import Modifier, Step, TrainJob
from nasframe.nn.elastic import layers_of
from nasframe.nn.losses import masked_mse
from nasframe.records import Arch, Natural, NonNegative
from nasframe.training.step import saved_model

LayerMap = Literal["uniform", "skip", "last", "kept"]


class KDHidden(Modifier):
    """Learn from a teacher's hidden states: ``loss + weight · mean over layer pairs of their MSE`` on real tokens.

    Args:
        teacher: the name the teacher was saved as; it has the student's hidden size.
        layers: which teacher layer each student layer learns from. ``uniform`` spreads the teacher's layers evenly,
            ``skip`` passes over every few of the teacher's states, the embedding's among them, as ROSITA does (arXiv
            2103.11367; 12 to 8 layers: states 0, 1, 3, 4, 6, 7, 9, 10, 12), ``last`` pairs the last layers only,
            ``kept`` pairs each kept layer of a sub-network with the teacher's layer of the same position, a list names
            the teacher's layer (from 0) for each student layer in order.
        embeddings: pair the embeddings' outputs too.
        weight: factor of the term. At 0 there is no teacher: it is not run, and costs nothing.
    """

    needs = frozenset({"hidden_states"})

    def __init__(
        self,
        teacher: str = "teacher",
        layers: LayerMap | list[Natural] = "uniform",
        embeddings: bool = True,
        weight: NonNegative = 1.0,
    ) -> None:
        self.teacher, self.layers, self.embeddings, self.weight = teacher, layers, embeddings, weight
        if not weight:
            self.needs = frozenset()

    def on_start(self, job: TrainJob) -> None:
        """Check that the teacher exists, and that the map fits it, before any work."""
        if not self.weight:
            return
        teacher = len(layers_of(saved_model(job, self.teacher)))
        if job.sampler is None:
            student = len((job.arch or {}).get("layers", layers_of(job.net)))
            layer_pairs(self.layers, student, teacher, job.arch)

    def on_loss(self, step: Step, loss: torch.Tensor) -> torch.Tensor:
        """Add the layers' mean squared errors."""
        if not self.weight:
            return loss
        student, teacher = step.outputs.hidden_states, step.teacher(self.teacher).hidden_states
        if student[0].shape[-1] != teacher[0].shape[-1]:
            sizes = f"{student[0].shape[-1]} of the student, {teacher[0].shape[-1]} of teacher {self.teacher!r}"
            raise UsageError(f"kd_hidden: the hidden sizes differ: {sizes}. Expected equal ones.")
        pairs = layer_pairs(self.layers, len(student) - 1, len(teacher) - 1, step.arch)
        if self.embeddings:
            pairs = [(0, 0), *pairs]
        mask = step.batch.inputs.get("attention_mask")
        terms = [masked_mse(student[mine], teacher[its], mask) for mine, its in pairs]
        return loss + self.weight * torch.stack(terms).mean() if terms else loss


def layer_pairs(
    layers: LayerMap | Sequence[int], student: int, teacher: int, arch: Arch | None
) -> list[tuple[int, int]]:
    """Pair positions in two tuples of hidden states, in which layer ``i`` stands at ``i + 1``.

    Args:
        layers: see :class:`KDHidden`.
        student: the student's layers.
        teacher: the teacher's layers.
        arch: the sub-network, read for ``kept``.

    Raises:
        UsageError: the map does not fit the two networks.

    >>> layer_pairs("uniform", 3, 6, None)
    [(1, 2), (2, 4), (3, 6)]
    >>> layer_pairs("kept", 2, 6, {"layers": [0, 3]})
    [(1, 1), (2, 4)]
    >>> layer_pairs("skip", 4, 6, None)
    [(1, 1), (2, 3), (3, 4), (4, 6)]
    """
    if layers == "last":
        return [(student, teacher)] if student else []
    if layers == "uniform":
        return [(i, max(1, round(i * teacher / student))) for i in range(1, student + 1)]
    if layers == "skip":
        return _skipping(student, teacher)
    if layers == "kept":
        layers = range(student) if arch is None else arch["layers"]
    chosen = [int(layer) for layer in layers]
    if len(chosen) != student or not all(0 <= layer < teacher for layer in chosen):
        raise UsageError(
            f"kd_hidden.layers: {chosen} for a student of {student} layers and a teacher of {teacher}. "
            f"Expected {student} numbers from 0 to {teacher - 1}."
        )
    return [(mine + 1, its + 1) for mine, its in enumerate(chosen)]


def _skipping(student: int, teacher: int) -> list[tuple[int, int]]:
    """Pair with every k-th state where the depths divide, else drop states i with (i + 1) mod (L_T / L_S) = 0."""
    if student and teacher % student == 0:
        return [(i, i * (teacher // student)) for i in range(1, student + 1)]
    states = [i for i in range(teacher + 1) if (i + 1) * student % teacher]  # (R8)
    if len(states) != student + 1:
        raise UsageError(
            f"kd_hidden.layers: 'skip' has no map from {teacher} to {student} layers. Expected depths of which one "
            "divides the other, or whose difference divides the teacher's; or a list, or 'uniform'."
        )
    return list(enumerate(states))[1:]
