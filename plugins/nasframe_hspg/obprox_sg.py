"""OBProx-SG: orthant based proximal stochastic gradient (Chen et al., arXiv 2004.03639 and 2011.04868).

``min f(x) + λ ‖x‖₁`` over the weights of the encoder's matrices, element by element. The optimiser of the stage,
whatever it is, makes its step on f first. With a target λ is what it has to be for as many zeros as there should be by
then: α λ is the next zero's distance from the border of its orthant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from nasframe.errors import UsageError
from nasframe.interfaces import Step, TrainJob
from nasframe.nn.elastic import layers_of, stock_class
from nasframe.nn.groups import tensor_of
from nasframe.nn.prox import soft_threshold, stay_in_orthant_
from nasframe.records import NonNegative
from nasframe.training.selection import whole_network
from nasframe.units import share
from nasframe_hspg.stage import GroupModifier, Share, to_log

SAMPLE = 2**20  # weights that tell λ well enough on the way; at the target all of them are asked


class OBProxSG(GroupModifier):
    """Make single weights exactly zero: proximal steps find which, orthant steps keep them and add more.

    Shapes stay what they are, and so do the costs of dense matrix products; the share of zeros is logged as
    ``element_sparsity`` and counted by the estimator ``encoder_nonzeros``. Embeddings, norms, biases and the head are
    never penalised.

    Args:
        penalty: λ; not used where there is a target.
        prox: N_P, the share of the steps that each proximal phase takes.
        orthant: N_O, the share of the steps that each orthant phase takes before the next proximal one. Default: one
            orthant phase to the end, the variant called *plus*; published without it: 2.5 % each (5 of 200 epochs).
        eps: in an orthant step a weight of less than this becomes zero.
        target: the share of the penalised weights that is to stay. Each step's λ then follows from it: zeros grow
            evenly in number until there are enough, and from there on λ is 0 and only zeros stay in their orthant.
        until: by when the target is reached, a share of the steps.

    Raises:
        UsageError: a share, eps or λ out of range.
    """

    name = "obprox_sg"
    returns_arch = False

    def __init__(
        self,
        penalty: NonNegative = 1e-4,
        prox: Share = "10%",
        orthant: Share | None = None,
        eps: NonNegative = 0.0,
        target: Share | None = None,
        until: Share = "80%",
    ) -> None:
        super().__init__(None)
        if penalty < 0 or eps < 0:
            raise UsageError("obprox_sg: expected penalty >= 0 and eps >= 0.")
        self.penalty, self.eps = penalty, eps
        self.prox = share("prox", prox, ends=True)
        self.orthant = None if orthant is None else share("orthant", orthant)
        self.target = None if target is None else share("target", target)
        self.until = share("until", until, ends=True)

    def on_start(self, job: TrainJob) -> None:
        """Find the matrices."""
        whole_network(job, self.name)
        self.names = list(matrices(job.net))
        self.signs: list[torch.Tensor] = []

    def on_plan(self, job: TrainJob) -> None:
        """Refuse stages that this does not go with."""
        whole_network(job, self.name)

    def in_orthant_phase(self, step: Step) -> bool:
        """Tell which phase a step belongs to: N_P proximal ones, then N_O (or all others) within an orthant."""
        prox, done = round(self.prox * step.total), step.index
        if self.target is not None and self.progress(step) > 1:
            return True  # what is zero stays zero
        if self.orthant is not None:
            done %= max(prox + round(self.orthant * step.total), 1)
        return done >= prox

    def on_gradients(self, step: Step) -> None:
        """Keep ζ, the signs of x_k, where the step is to stay in its orthant."""
        self.tensors = [tensor_of(step.job.net, name) for name in self.names]
        if self.in_orthant_phase(step):
            self.signs = self.signs or [torch.empty_like(tensor) for tensor in self.tensors]
            for sign, tensor in zip(self.signs, self.tensors, strict=True):
                torch.sign(tensor.detach(), out=sign)

    @torch.no_grad()
    def on_update(self, step: Step) -> None:
        """x ← soft(v, α λ), or v = x' − α λ ζ projected onto the orthant of ζ, with x' what the optimiser made of x."""
        if step.skipped:
            return
        orthant, by, eps = self.in_orthant_phase(step), step.lr * self.penalty, self.eps
        if self.target is not None:
            nearest = self.nearest(step, self.signs if orthant else None)
            by = max(nearest - (eps if orthant else 0), 0.0)
            eps = nearest - by  # below 0 where the step alone takes more out of their orthants than should be zero
        if orthant:
            for tensor, sign in zip(self.tensors, self.signs, strict=True):
                stay_in_orthant_(tensor, sign, by, eps)
        else:
            for tensor in self.tensors:
                tensor.copy_(soft_threshold(tensor, by))
        if to_log(step):
            step.job.log(step.index + 1, {"element_sparsity": sparsity(self.tensors)})

    def progress(self, step: Step) -> float:
        """Return how far this step is on the way to the target: 1 with the step that reaches it."""
        return (step.index + 1) / max(round(self.until * step.total), 1)

    def nearest(self, step: Step, signs: list[torch.Tensor] | None) -> float:
        """Return how far the last weight that should be zero by now is from leaving its orthant; -∞ if all of them are.

        Args:
            step: the step.
            signs: ζ; default: those of the weights.
        """
        assert self.target is not None
        part, total = min(self.progress(step), 1.0), sum(tensor.numel() for tensor in self.tensors)
        goal = round((1 - self.target) * total)
        if part == 1 and sum(int((tensor == 0).sum()) for tensor in self.tensors) >= goal:
            return -torch.inf
        stride = 1 if part == 1 else total // SAMPLE | 1  # odd, to fall on all columns
        found = torch.cat([tensor.flatten()[::stride] for tensor in self.tensors])
        if signs is None:
            distance = found.abs()
        else:
            sign = torch.cat([sign.flatten()[::stride] for sign in signs])
            distance = torch.where(sign == 0, -torch.inf, found * sign)
        number = round(part * goal * len(distance) / total)
        return float(distance.kthvalue(number).values) if number else -torch.inf

    def on_finish(self, job: TrainJob) -> None:  # type: ignore[override]
        """Log how many weights are zero; the architecture is what it was."""
        job.log(job.total, {"element_sparsity": sparsity([tensor_of(job.net, name) for name in self.names])})

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: phases follow from the step, and zeros are seen from the weights."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""


def matrices(net: nn.Module) -> list[str]:
    """Name the weights to be penalised: the encoder's matrices, or all filters and matrices of any other network."""
    try:
        stock_class(net)
        inside: nn.Module = layers_of(net)
    except TypeError:
        inside = net
    kinds, mine = (nn.Linear, nn.Conv2d), {id(module) for module in inside.modules()}
    return [
        f"{name}.weight" for name, module in net.named_modules() if isinstance(module, kinds) and id(module) in mine
    ]


def sparsity(tensors: list[torch.Tensor]) -> float:
    """Return the share of zeros."""
    zeros = sum(int((tensor == 0).sum()) for tensor in tensors)
    return zeros / max(sum(tensor.numel() for tensor in tensors), 1)
