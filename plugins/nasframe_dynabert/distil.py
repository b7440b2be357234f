"""Distillation to every width and depth at once (Hou et al., NeurIPS 2020, arXiv 2004.04037, §2.2 and §2.3).

The method is this loss and five stages of a recipe: fine-tune the teacher; ``rewire`` it by Taylor scores; train all
widths; from that network, which is also the new teacher, train all widths and depths; fine-tune them all on labels
(optional). Each training step runs all sub-networks on one batch: sampler ``grid`` with ``cycle: true``, and as many
``archs_per_step`` as it has points.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from nasframe.errors import UsageError
from nasframe.interfaces import Modifier
from nasframe.nn.elastic import layers_of
from nasframe.nn.losses import masked_mse, soft_cross_entropy
from nasframe.step import Step, saved_model
from nasframe.types import Arch, NonNegative, TrainJob


class DynaBERT(Modifier):
    """Learn from a teacher alone, in place of the labels: ``λ1 · ℓ_pred + λ2 · (ℓ_emb + ℓ_hidn)``.

    ``ℓ_pred`` is the cross-entropy of the teacher's classes, softmax of its logits y (0 in a regression, as in the
    published code); ``ℓ_emb`` the mean squared error of the embeddings' outputs E; ``ℓ_hidn`` the sum of those of the
    layers' outputs H, on real tokens: what enters a kept layer of the student is compared with what enters the same
    layer of the teacher, and the student's last output with the teacher's last.

    Args:
        teacher: the name the teacher was saved as: a network of the student's own sizes.
        lambda1: λ1; published: 1.
        lambda2: λ2; published: 0.1 for widths alone, then 1 for widths and depths.
        width: which of the teacher's widths a sub-network learns from: its ``same``, at full depth, as the paper has
            it, or the ``full`` network, as the published code has it, and as a teacher needs that was never trained
            at other widths.
        embeddings: whether ``ℓ_emb`` counts.

    Raises:
        UsageError: no term is left to learn from, as the labels do not count.
    """

    needs = frozenset({"hidden_states"})

    def __init__(
        self,
        teacher: str = "teacher",
        lambda1: NonNegative = 1.0,
        lambda2: NonNegative = 0.1,
        width: Literal["same", "full"] = "full",
        embeddings: bool = True,
    ) -> None:
        if lambda1 == lambda2 == 0:
            raise UsageError("dynabert: lambda1 and lambda2 are both 0, and labels do not count. Expected one above 0.")
        self.teacher, self.lambda1, self.lambda2 = teacher, lambda1, lambda2
        self.width, self.embeddings = width, embeddings

    def on_start(self, job: TrainJob) -> None:
        """Check that the teacher exists, and that there is a loss, before any work."""
        if job.task.labels is None and self.lambda2 == 0:
            raise UsageError(
                f"dynabert: stage {job.stage!r} learns nothing: lambda1 has no term in a regression, and lambda2 is 0."
            )
        saved_model(job, self.teacher)

    def on_loss(self, step: Step, loss: torch.Tensor) -> torch.Tensor:
        """Return the distillation loss of this step's sub-network; the labels' loss is dropped."""
        depth = len(step.outputs.hidden_states) - 1
        kept = list(range(depth)) if step.arch is None else list(step.arch["layers"])
        student, teacher = step.outputs, step.teacher(self.teacher, self.teacher_arch(step))
        y, y_teacher, h, h_teacher = student.logits, teacher.logits, student.hidden_states, teacher.hidden_states
        if h[0].shape[-1] != h_teacher[0].shape[-1] or kept[-1:] > [len(h_teacher) - 2]:
            raise UsageError(f"dynabert: teacher {self.teacher!r} does not have the student's layers and hidden size.")

        l_pred = torch.zeros(()) if step.job.task.labels is None else soft_cross_entropy(y, y_teacher)
        mask = step.batch.inputs.get("attention_mask")
        pairs = matched_states(kept, len(h_teacher) - 1)
        mse = [masked_mse(h[i], h_teacher[j], mask) for i, j in pairs if j > 0 or self.embeddings]
        return self.lambda1 * l_pred + self.lambda2 * torch.stack(mse).sum()

    def teacher_arch(self, step: Step) -> Arch | None:
        """Return which sub-network of the teacher teaches this one; ``None`` is all of it."""
        if self.width == "full" or step.arch is None:
            return None
        return full_depth(step.arch, len(layers_of(step.job.models[self.teacher])))


def matched_states(kept: list[int], depth: int) -> list[tuple[int, int]]:
    """Pair positions in two tuples of hidden states, in which 0 is the embeddings' output E.

    Args:
        kept: the layers of a teacher of ``depth`` layers that the student keeps.
        depth: the teacher's layers.

    >>> matched_states([0, 2, 4], 6)
    [(0, 0), (1, 2), (2, 4), (3, 6)]
    """
    return list(enumerate([*kept, depth]))


def full_depth(arch: Arch, depth: int) -> dict[str, Any]:
    """Return an architecture's widths at full depth.

    DynaBERT's widths are one number for all layers; otherwise a layer that is not kept is as wide as the nearest
    kept one before it, or as the first.

    >>> full_depth({"layers": [0, 2], "heads.0": 1, "heads.2": 2, "ffn.0": 8, "ffn.2": 4}, 3)
    {'layers': [0, 1, 2], 'heads.0': 1, 'ffn.0': 8, 'heads.1': 1, 'ffn.1': 8, 'heads.2': 2, 'ffn.2': 4}
    """
    kept = arch["layers"]
    near = [max((k for k in kept if k <= i), default=kept[0]) for i in range(depth)]
    widths = {f"{unit}.{i}": arch[f"{unit}.{k}"] for i, k in enumerate(near) for unit in ("heads", "ffn")}
    return {"layers": list(range(depth)), **widths}
