"""Distillation of hidden states, layer by layer (FitNets, arXiv 1412.6550; TinyBERT, arXiv 1909.10351)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from nasframe.errors import UsageError
from nasframe.interfaces import Modifier, TrainJob
from nasframe.records import Arch, Natural, NonNegative

if TYPE_CHECKING:  # torch is imported when training begins, as nasframe_basics.loop explains
    import torch

    from nasframe.interfaces import Step

LayerMap = Literal["uniform", "skip", "last", "kept"]


class KDHidden(Modifier):
    """Learn from a teacher's hidden states: ``loss + weight · mean over layer pairs of their MSE`` on real tokens.

    Args:
        teacher: name of the saved teacher; it has the student's hidden size.
        layers: which teacher layer each student layer learns from. ``uniform`` spreads the teacher's layers evenly.
            ``skip`` leaves out every k-th of the teacher's states, which include the embeddings' output, as ROSITA does
            (arXiv 2103.11367; 12 to 8 layers: states 0, 1, 3, 4, 6, 7, 9, 10, 12). ``last`` pairs only the last layers.
            ``kept`` pairs each kept layer of a sub-network with the same layer of the teacher. A list gives the
            teacher's layer (from 0) for each student layer in order.
        embeddings: whether to pair the embeddings' outputs too.
        weight: factor of the term. At 0 the teacher is not run, and costs nothing.
    """

    reads_space = False
    needs = frozenset({"hidden_states"})

    def __init__(
        self,
        teacher: str = "teacher",
        layers: LayerMap | list[Natural] = "uniform",
        embeddings: bool = True,
        weight: NonNegative = 1.0,
    ) -> None:
        self.teacher = teacher
        self.layers = layers
        self.embeddings = embeddings
        self.weight = weight
        if not weight:
            self.needs = frozenset()

    def on_start(self, job: TrainJob) -> None:
        """Check, before any work, that the teacher exists and that the map fits it."""
        from nasframe.nn.rows import depth_of
        from nasframe.training.step import saved_model

        if not self.weight:
            return
        teacher_depth = depth_of(saved_model(job, self.teacher))
        if job.sampler is not None:  # the student's depth differs from step to step
            return
        if job.arch is not None and "layers" in job.arch:
            student_depth = len(job.arch["layers"])
        else:
            student_depth = depth_of(job.net)
        layer_pairs(self.layers, student_depth, teacher_depth, job.arch)

    def on_loss(self, step: Step, loss: torch.Tensor) -> torch.Tensor:
        """Return the loss with the layers' mean squared errors."""
        import torch

        from nasframe.nn.losses import masked_mse

        if not self.weight:
            return loss
        student = step.outputs.hidden_states
        teacher = step.teacher(self.teacher).hidden_states
        width = student[0].shape[-1]
        teacher_width = teacher[0].shape[-1]
        if width != teacher_width:
            sizes = f"{width} of the student, {teacher_width} of teacher {self.teacher!r}"
            raise UsageError(f"kd_hidden: the hidden sizes differ: {sizes}. Expected equal ones.")
        # Both lists begin with the embeddings' output.
        student_depth = len(student) - 1
        teacher_depth = len(teacher) - 1
        pairs = layer_pairs(self.layers, student_depth, teacher_depth, step.arch)
        if self.embeddings:
            pairs = [(0, 0), *pairs]
        if not pairs:  # a sub-network may keep no layer
            return loss
        mask = step.batch.inputs.get("attention_mask")
        errors = [masked_mse(student[i], teacher[j], mask) for i, j in pairs]
        mean_error = torch.stack(errors).mean()
        return loss + self.weight * mean_error


def layer_pairs(
    layers: LayerMap | Sequence[int], student: int, teacher: int, arch: Arch | None
) -> list[tuple[int, int]]:
    """Pair positions in the student's and the teacher's hidden states; the output of layer ``i`` is at ``i + 1``.

    Args:
        layers: see :class:`KDHidden`.
        student: the student's layers.
        teacher: the teacher's layers.
        arch: the sub-network, whose layers ``kept`` needs.

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
        return _uniform(student, teacher)
    if layers == "skip":
        return _skipping(student, teacher)
    if layers == "kept":
        # The teacher has all layers, the student those of the sub-network; a whole student is its own sub-network.
        layers = range(student) if arch is None else arch["layers"]
    return _listed(list(layers), student, teacher)


def _uniform(student: int, teacher: int) -> list[tuple[int, int]]:
    """Pair layer i of the student with layer i · L_T / L_S of the teacher, rounded."""
    pairs = []
    for i in range(1, student + 1):
        nearest = round(i * teacher / student)
        pairs.append((i, max(1, nearest)))  # 0 is no layer: a deeper student's first ones would get the embeddings
    return pairs


def _listed(layers: Sequence[int], student: int, teacher: int) -> list[tuple[int, int]]:
    """Pair the student's layers, in order, with the teacher's layers of a list.

    Raises:
        UsageError: they are not one layer of the teacher for each of the student.
    """
    are_inside = all(0 <= layer < teacher for layer in layers)
    if len(layers) != student or not are_inside:
        raise UsageError(
            f"kd_hidden.layers: {layers} for a student of {student} layers and a teacher of {teacher}. "
            f"Expected {student} numbers from 0 to {teacher - 1}."
        )
    return [(i + 1, layer + 1) for i, layer in enumerate(layers)]


def _skipping(student: int, teacher: int) -> list[tuple[int, int]]:
    """Pair with every k-th state if the depths divide, else leave out states i with (i + 1) mod (L_T / L_S) = 0."""
    if student and teacher % student == 0:
        step = teacher // student
        return [(i, i * step) for i in range(1, student + 1)]
    # Multiplied by L_S, so that the condition is one of integers: L_T / L_S need not be one.
    states = []
    for i in range(teacher + 1):
        if (i + 1) * student % teacher != 0:  # (R8)
            states.append(i)
    if len(states) != student + 1:
        raise UsageError(
            f"kd_hidden.layers: 'skip' has no map from {teacher} to {student} layers. Expected that one depth divides "
            "the other, or that their difference divides the teacher's; or a list, or 'uniform'."
        )
    return list(enumerate(states))[1:]  # without the embeddings
