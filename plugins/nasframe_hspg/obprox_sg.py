"""OBProx-SG: orthant based proximal stochastic gradient (Chen et al., arXiv 2004.03639 and 2011.04868).

``min f(x) + λ ‖x‖₁`` over the weights of the encoder's matrices, element by element. The optimiser of the stage,
whichever it is, makes its step on f first. With a target each step's λ follows from how many zeros there should be by
then: α λ is the distance of the next zero from the border of its orthant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from nasframe.errors import UsageError
from nasframe.interfaces import Step, TrainJob
from nasframe.nn.elastic import LINEAR, layers_of, stock_class
from nasframe.nn.groups import tensor_of
from nasframe.nn.prox import soft_threshold, stay_in_orthant_
from nasframe.records import NonNegative
from nasframe.training.selection import whole_network
from nasframe.units import share
from nasframe_hspg.stage import GroupModifier, Share, to_log

SAMPLE = 2**20  # weights from which λ is estimated on the way; at the target all of them count


class OBProxSG(GroupModifier):
    """Make single weights exactly zero: proximal steps find them, orthant steps keep them and add more.

    Shapes stay as they are, and so do the costs of dense matrix products; the share of zeros is logged as
    ``element_sparsity`` and counted by the estimator ``encoder_nonzeros``. Embeddings, norms, biases and the head are
    never penalised.

    Args:
        penalty: λ; not used with a target.
        prox: N_P, the share of the steps that each proximal phase takes.
        orthant: N_O, the share of the steps that each orthant phase takes before the next proximal one. Default: one
            orthant phase to the end, the variant called *plus*; published without it: 2.5 % each (5 of 200 epochs).
        eps: in an orthant step, a weight below this becomes zero.
        target: the share of the penalised weights that stays. Each step's λ then follows from it: the number of zeros
            grows evenly until there are enough; from then on λ is 0, zeros stay zero, and other signs are free.
        ramp_end: the share of the steps after which the target is reached.

    Raises:
        UsageError: a share, eps or λ out of range.
    """

    reads_space = False
    name = "obprox_sg"
    returns_arch = False
    keeps_zeros = True
    former_names: ClassVar[Mapping[str, str]] = {"until": "ramp_end"}

    def __init__(
        self,
        penalty: NonNegative = 1e-4,
        prox: Share = "10%",
        orthant: Share | None = None,
        eps: NonNegative = 0.0,
        target: Share | None = None,
        ramp_end: Share = "80%",
    ) -> None:
        super().__init__(None)
        if penalty < 0 or eps < 0:
            raise UsageError("obprox_sg: expected penalty >= 0 and eps >= 0.")
        self.penalty = penalty
        self.eps = eps
        self.prox = share("prox", prox, ends=True)
        self.orthant = None if orthant is None else share("orthant", orthant)
        self.target = None if target is None else share("target", target)
        self.ramp_end = share("ramp_end", ramp_end, ends=True)

    def on_start(self, job: TrainJob) -> None:
        """Find the matrices."""
        whole_network(job, self.name)
        self.names = list(matrices(job.net))
        self.signs: list[torch.Tensor] = []  # ζ, while the optimiser makes its step

    def validate(self, job: TrainJob) -> None:
        """Refuse stages that this does not go with."""
        whole_network(job, self.name)

    def in_orthant_phase(self, step: Step) -> bool:
        """Whether a step stays in its orthant: N_P steps are proximal, then N_O, or all others, are not."""
        if self.target is not None and self.progress(step) > 1:
            return True  # the target is reached: zeros stay zero
        prox = round(self.prox * step.total)
        step_in_cycle = step.index
        if self.orthant is not None:
            cycle = prox + round(self.orthant * step.total)
            step_in_cycle %= max(cycle, 1)  # (H20)
        return step_in_cycle >= prox

    def on_gradients(self, step: Step) -> None:
        """Keep ζ, the signs of x, if the step is to stay in its orthant."""
        self.tensors = [tensor_of(step.job.net, name) for name in self.names]
        if self.in_orthant_phase(step):
            self.signs = self.signs or [torch.empty_like(tensor) for tensor in self.tensors]
            for sign, tensor in zip(self.signs, self.tensors, strict=True):
                torch.sign(tensor.detach(), out=sign)

    @torch.no_grad()
    def on_update(self, step: Step) -> None:
        """x ← soft(x', α λ), or x' − α λ ζ projected onto the orthant of ζ."""
        if step.skipped:
            return
        in_orthant = self.in_orthant_phase(step)
        by = step.lr * self.penalty
        eps = self.eps
        if self.target is not None:
            nearest = self.nearest(step, self.signs if in_orthant else None)
            # In an orthant step eps takes out weights as well, so the pull may be shorter by it.
            margin = eps if in_orthant else 0
            by = max(nearest - margin, 0.0)
            eps = nearest - by  # below 0 if the step alone takes more weights out of their orthants than are due
        if in_orthant:
            for tensor, sign in zip(self.tensors, self.signs, strict=True):
                stay_in_orthant_(tensor, sign, by, eps)
        else:
            for tensor in self.tensors:
                tensor.copy_(soft_threshold(tensor, by))
        if to_log(step):
            step.job.log(step.index + 1, {"element_sparsity": sparsity(self.tensors)})

    def progress(self, step: Step) -> float:
        """Return how far the way to the target is done after this step: 1 at the step that reaches it."""
        steps = round(self.ramp_end * step.total)
        return (step.index + 1) / max(steps, 1)

    def nearest(self, step: Step, signs: list[torch.Tensor] | None) -> float:
        """Return how far the last weight that should be zero by now is from leaving its orthant.

        Args:
            step: the step.
            signs: ζ; default: those of the weights.

        Returns:
            That distance, or -∞ if no more weights have to become zero.
        """
        assert isinstance(self.target, float)
        part = min(self.progress(step), 1.0)
        total = sum(tensor.numel() for tensor in self.tensors)
        goal = round((1 - self.target) * total)
        if part == 1 and zeros_in(self.tensors) >= goal:
            return -torch.inf
        # On the way a sample will do. Its stride is odd, so that it falls on all columns of the matrices.
        stride = 1 if part == 1 else total // SAMPLE | 1
        weights = every(self.tensors, stride)
        if signs is None:
            distance = weights.abs()
        else:
            sign = every(signs, stride)
            distance = torch.where(sign == 0, -torch.inf, weights * sign)  # zeros have left already
        number = round(part * goal * len(distance) / total)
        if number == 0:
            return -torch.inf
        return float(distance.kthvalue(number).values)  # (H21)

    def on_finish(self, job: TrainJob) -> None:  # type: ignore[override]
        """Log how many weights are zero; the architecture stays as it is."""
        tensors = [tensor_of(job.net, name) for name in self.names]
        job.log(job.total, {"element_sparsity": sparsity(tensors)})

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: phases follow from the step, and the weights show their zeros."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that ``state_dict`` returned."""


def matrices(net: nn.Module) -> list[str]:
    """Return the names of penalised weights: the encoder's matrices, or all filters and matrices of other networks."""
    try:
        stock_class(net)
        penalised: nn.Module = layers_of(net)
    except TypeError:  # not an encoder of transformers
        penalised = net
    inside = {id(module) for module in penalised.modules()}
    names = []
    for name, module in net.named_modules():
        has_matrix = isinstance(module, (*LINEAR, nn.Conv2d))
        if has_matrix and id(module) in inside:
            names.append(f"{name}.weight")
    return names


def every(tensors: list[torch.Tensor], stride: int) -> torch.Tensor:
    """Return each tensor's first entry and every ``stride``-th one after it, in one row."""
    return torch.cat([tensor.flatten()[::stride] for tensor in tensors])


def sparsity(tensors: list[torch.Tensor]) -> float:
    """Return the share of zeros."""
    total = sum(tensor.numel() for tensor in tensors)
    return zeros_in(tensors) / max(total, 1)


def zeros_in(tensors: list[torch.Tensor]) -> int:
    """Return how many entries are zero."""
    return sum(int((tensor == 0).sum()) for tensor in tensors)
