"""ADMM for n:m sparsity while the network is fine-tuned (NxMiFormer, arXiv 2206.15014; NxMTransformer, 2110.15766).

Minimise ``f(W) + g(Z)`` subject to ``W = Z``, where ``g`` is 0 on the set S of matrices that obey the pattern and
infinite elsewhere. With the scaled dual U the augmented Lagrangian is ``f(W) + g(Z) + ρ/2 ‖W − Z + U‖² − ρ/2 ‖U‖²``:

    W: gradient steps on f(W) + ρ/2 ‖W − Z + U‖²  (1)
    Z = P_S(W + U)                                 (2)
    U = U + τ (W − Z)                              (3)

f is what the rest of the stage makes it: with ``fake_quant`` before it, the loss of the rounded weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from nasframe.errors import RunError, UsageError
from nasframe.interfaces import Modifier
from nasframe.nn.formats import encoder_matrices, formats_of, note, raw_weight
from nasframe.nn.patterns import Pattern, largest, parse_pattern, project, require_divisible, violations
from nasframe.nn.selection import last_weights
from nasframe.step import Step
from nasframe.types import Count, Positive, Share, TrainJob

Tensors = dict[str, torch.Tensor]


class ADMM(Modifier):
    """Train the encoder's matrices towards n:m sparsity; at the end of the stage every group obeys the pattern.

    Most of the stage the weights are dense and drawn to the pattern; then they are projected, the zeros are frozen, and
    the rest of the stage tunes what is left. With ``tune: 1`` that is one-shot magnitude pruning. The result's
    blueprint records the pattern of each matrix. With an ``arch`` of the space ``nm_bits`` each matrix has the pattern
    that the architecture gives it.

    Args:
        pattern: n:m, at most n of m consecutive weights along the input stay.
        rho: ρ, the penalty's weight.
        growth: ρ grows over the dense phase to so many times itself, geometrically; 1 keeps it.
        dual: τ, the length of the dual's step. 1 is ADMM's own; where the weights move little between two updates, a
            smaller one keeps the duals from overturning which weights stay; 0 is the plain penalty method.
        every: optimiser steps between two updates of Z and U.
        tune: share of the stage that trains with frozen zeros.
        remainder: a row whose last group is not whole is refused, or the group counts as filled up with zeros.

    Raises:
        UsageError: no such pattern, or m does not divide a matrix's inputs, or ``keep: best`` would bring back weights
            from before the projection.
    """

    by_entry = True

    def __init__(
        self,
        pattern: str = "2:4",
        rho: Positive = 1e-3,
        growth: Positive = 1.0,
        dual: Share = 1.0,
        every: Count = 10,
        tune: Share = 0.4,
        remainder: Literal["refuse", "pad"] = "refuse",
    ) -> None:
        if not (rho > 0 and growth > 0 and 0 <= dual <= 1 and every >= 1 and 0 <= tune <= 1):
            raise UsageError("admm: expected rho > 0, growth > 0, 0 <= dual <= 1, every >= 1 and 0 <= tune <= 1.")
        self.pattern = parse_pattern(pattern)
        self.rho, self.growth, self.dual, self.every, self.tune = rho, growth, dual, every, tune
        self.remainder = remainder
        self.matrices: dict[str, tuple[nn.Linear, Pattern]] = {}
        self.Z: Tensors = {}
        self.U: Tensors = {}
        self.target: Tensors = {}  # Z − U
        self.mask: Tensors = {}  # 1 for what stays, 0 for the rest: there is one once W was projected

    def on_start(self, job: TrainJob) -> None:
        """Find the matrices and their patterns; Z = P(W), U = 0."""
        forms = formats_of(job)
        for name, module in encoder_matrices(job.net):
            pattern = forms[name].pattern if forms is not None else self.pattern
            if self.remainder == "refuse":
                require_divisible(f"admm: {name}", module.in_features, pattern)
            if not pattern.dense:
                self.matrices[name] = (module, pattern)
        if self.tune < 1:
            last_weights(job, "admm")
        self.dense_steps = job.total - round(self.tune * job.total)
        self.W = {name: raw_weight(module) for name, (module, _) in self.matrices.items()}
        if self.dense_steps == 0:
            self.freeze()
        else:
            self.Z = self.projected({name: w.detach() for name, w in self.W.items()})
            self.U = {name: torch.zeros_like(z) for name, z in self.Z.items()}
            self.aim()

    def on_plan(self, job: TrainJob) -> None:
        """Refuse what ``on_start`` refuses, patterns that do not divide the inputs included."""
        if job.net is not None:
            self.on_start(job)
        elif self.tune < 1:
            last_weights(job, "admm")

    def on_batch(self, step: Step) -> None:
        """Train the weights themselves: an assignment of formats names no sub-network."""
        if formats_of(step.job) is not None:
            step.arch = None

    def on_gradients(self, step: Step) -> None:
        """Add the gradient of the penalty, eq. (1); once there is a mask, leave the zeros none."""
        rho = self.rho * self.growth ** (step.index / max(self.dense_steps, 1))
        for name, w in self.W.items():
            if w.grad is None:
                continue
            if self.mask:
                w.grad.mul_(self.mask[name])
            else:  # at one matrix after the other, while it is in the caches
                w.grad.add_(w.detach(), alpha=rho).sub_(self.target[name], alpha=rho)

    @torch.no_grad()
    def on_update(self, step: Step) -> None:
        """Update Z and U every so many steps, eqs. (2) and (3); at the end of the dense phase W = P(W)."""
        if self.mask:
            torch._foreach_mul_(list(self.W.values()), list(self.mask.values()))
        elif step.index + 1 >= self.dense_steps:
            self.freeze()
        elif (step.index + 1) % self.every == 0 and self.W:
            self.Z = self.projected({name: w + self.U[name] for name, w in self.W.items()})
            for name, w in self.W.items():
                self.U[name].add_(w - self.Z[name], alpha=self.dual)
            self.aim()
            step.job.log(step.index + 1, {"admm_residual": self.residual()})

    def on_finish(self, job: TrainJob) -> None:
        """Make sure of the pattern, group by group, and note it in the network's record.

        Raises:
            RunError: a group has too many weights, which would be a defect.
        """
        if not self.mask:
            self.freeze()
        for name, (module, pattern) in self.matrices.items():
            with torch.no_grad():
                self.W[name].mul_(self.mask[name])
            if broken := violations(module.weight, pattern):
                raise RunError(f"admm: {name}: {broken} groups of {pattern.m} hold more than {pattern.n} weights.")
            note(job.net, name, n=pattern.n, m=pattern.m)

    @torch.no_grad()
    def freeze(self) -> None:
        """Project the weights themselves, W = P(W), and keep which of them stay."""
        for name, (_, pattern) in self.matrices.items():
            self.mask[name] = largest(self.W[name], pattern).to(self.W[name].dtype)  # as the weights: faster than bool
            self.W[name].mul_(self.mask[name])
        self.Z, self.U, self.target = {}, {}, {}

    def projected(self, tensors: Tensors) -> Tensors:
        """Project each tensor on its own pattern."""
        return {name: project(tensor, self.matrices[name][1]) for name, tensor in tensors.items()}

    def aim(self) -> None:
        """Keep ``Z − U``, where the penalty draws the weights until the next update."""
        self.target = {name: z - self.U[name] for name, z in self.Z.items()}

    def residual(self) -> float:
        """Return ``‖W − Z‖ / ‖W‖`` over all matrices: 0 where the weights obey the patterns."""
        apart = torch._foreach_norm([w.detach() - self.Z[name] for name, w in self.W.items()])
        whole = torch._foreach_norm([w.detach() for w in self.W.values()])
        return float(torch.stack(apart).norm() / torch.stack(whole).norm())

    def state_dict(self) -> dict[str, Any]:
        """Return Z and U, or the mask."""
        return {"Z": self.Z, "U": self.U, "mask": self.mask}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        where = {name: w.device for name, w in self.W.items()} if self.matrices else {}
        moved = lambda part: {n: t.to(where[n]) if n in where else t for n, t in state[part].items()}  # noqa: E731
        self.Z, self.U, self.mask = moved("Z"), moved("U"), moved("mask")
        self.aim()
