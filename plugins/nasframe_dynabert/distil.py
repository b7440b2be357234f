"""Distillation to every width and depth at once (Hou et al., NeurIPS 2020, arXiv 2004.04037, §2.2 and §2.3).

The method is this loss and five stages of a recipe: fine-tune the teacher; ``rewire`` it by Taylor scores; train all
widths; from that network, which is also the new teacher, train all widths and depths; optionally, fine-tune them all on
labels. Each training step runs all sub-networks on one batch: sampler ``grid`` with ``cycle: true``, and
``archs_per_step`` equal to the number of its points. The labels of formulas are our own, since we do not know the
paper's equation numbers; README.md lists them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from nasframe.errors import UsageError
from nasframe.interfaces import Modifier, TrainJob, output_kind
from nasframe.records import Arch, NonNegative

if TYPE_CHECKING:  # torch is imported when training begins, as nasframe_basics.loop explains
    import torch

    from nasframe.interfaces import Step


class DynaBERT(Modifier):
    """Learn from a teacher alone, instead of the labels: ``λ1 · ℓ_pred + λ2 · (ℓ_emb + ℓ_hidn)``.

    ``ℓ_pred`` is the soft cross-entropy of the logits y with the teacher's (label by label if several may hold at
    once; 0 in a regression, as in the published code). ``ℓ_emb`` is the mean squared error of the embeddings' outputs
    E, on real tokens; ``ℓ_hidn`` is the sum of those of the layers' outputs H. The input of each kept layer of the
    student is compared with the input of the same layer of the teacher, and the student's last output with the
    teacher's last.

    Args:
        teacher: name of the saved teacher, a network of the student's full size.
        lambda1: λ1; published: 1.
        lambda2: λ2; published: 0.1 for widths alone, then 1 for widths and depths.
        width: the teacher's width: ``same`` as the sub-network's, at full depth, as in the paper; or ``full``, as in
            the published code, which also suits a teacher that was never trained at other widths.
        embeddings: whether to include ``ℓ_emb``.

    Raises:
        UsageError: no term is left to learn from, as the labels do not count.
    """

    reads_space = False
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
        self.teacher = teacher
        self.lambda1 = lambda1
        self.lambda2 = lambda2
        self.width = width
        self.embeddings = embeddings

    def on_start(self, job: TrainJob) -> None:
        """Check that the teacher exists, and that there is a loss, before any work."""
        from nasframe.training.step import saved_model

        if output_kind(job.task) == "numbers" and self.lambda2 == 0:
            raise UsageError(
                f"dynabert: stage {job.stage!r} learns nothing: lambda1 has no term in a regression, and lambda2 is 0."
            )
        saved_model(job, self.teacher)

    def on_loss(self, step: Step, loss: torch.Tensor) -> torch.Tensor:
        """Return the distillation loss of this step's sub-network; the labels' loss is dropped."""
        import torch
        from torch.nn import functional

        from nasframe.nn.losses import masked_mse, soft_cross_entropy
        from nasframe.nn.outputs import logits_of

        student = step.outputs
        teacher = step.teacher(self.teacher, self.teacher_arch(step))
        y = logits_of(student, "dynabert")
        y_teacher = logits_of(teacher, f"dynabert: teacher {self.teacher!r}")
        h, h_teacher = student.hidden_states, teacher.hidden_states
        depth = len(h) - 1  # the first state is the embeddings' output
        teacher_depth = len(h_teacher) - 1
        kept = list(range(depth)) if step.arch is None else list(step.arch["layers"])
        has_layers = not kept or kept[-1] < teacher_depth
        same_size = h[0].shape[-1] == h_teacher[0].shape[-1]
        if not (same_size and has_layers):
            raise UsageError(f"dynabert: teacher {self.teacher!r} does not have the student's layers and hidden size.")

        l_pred = torch.zeros(())  # in a regression it stays 0, as in the published code
        kind = output_kind(step.job.task)
        if kind == "classes":
            l_pred = soft_cross_entropy(y, y_teacher)  # (D1)
        elif kind == "independent":
            # The same for labels that each are a yes or no: the cross-entropy with the teacher's probabilities
            l_pred = functional.binary_cross_entropy_with_logits(y.float(), y_teacher.detach().float().sigmoid())
        pairs = matched_states(kept, teacher_depth)
        if not self.embeddings:  # without the teacher's state 0, which is the output of its embeddings
            pairs = [(i, j) for i, j in pairs if j > 0]
        mask = step.batch.inputs.get("attention_mask")
        errors = [masked_mse(h[i], h_teacher[j], mask) for i, j in pairs]  # (D2)
        return self.lambda1 * l_pred + self.lambda2 * torch.stack(errors).sum()  # (D3)

    def teacher_arch(self, step: Step) -> Arch | None:
        """Return the teacher's sub-network from which this one learns; ``None`` is the full network."""
        from nasframe.nn.rows import depth_of

        if self.width == "full" or step.arch is None:
            return None
        depth = depth_of(step.job.models[self.teacher])
        return full_depth(step.arch, depth)  # (D5)


def matched_states(kept: list[int], depth: int) -> list[tuple[int, int]]:
    """Return pairs of positions in the student's and the teacher's hidden states; 0 is the embeddings' output E.

    Args:
        kept: the layers of a teacher of ``depth`` layers that the student keeps.
        depth: the teacher's layers.

    >>> matched_states([0, 2, 4], 6)
    [(0, 0), (1, 2), (2, 4), (3, 6)]
    """
    # State i is the input of the kept layer at position i; the last state is the last layer's output.
    return list(enumerate([*kept, depth]))  # (D4)


def full_depth(arch: Arch, depth: int) -> dict[str, Any]:
    """Return an architecture's widths at full depth.

    DynaBERT has one width for all layers. If widths differ, a layer that is not kept is as wide as the nearest kept one
    before it, or as the first kept one if there is none before it.

    >>> full_depth({"layers": [0, 2], "heads.0": 1, "heads.2": 2, "ffn.0": 8, "ffn.2": 4}, 3)
    {'layers': [0, 1, 2], 'heads.0': 1, 'ffn.0': 8, 'heads.1': 1, 'ffn.1': 8, 'heads.2': 2, 'ffn.2': 4}
    """
    kept = arch["layers"]
    full: dict[str, Any] = {"layers": list(range(depth))}
    for i in range(depth):
        before = [layer for layer in kept if layer <= i]
        nearest = max(before, default=kept[0])
        for unit in ("heads", "ffn"):
            full[f"{unit}.{i}"] = arch[f"{unit}.{nearest}"]
    return full
