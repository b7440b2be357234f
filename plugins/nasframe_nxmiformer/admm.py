"""ADMM for n:m sparsity while the network is fine-tuned (NxMiFormer, arXiv 2206.15014; NxMTransformer, 2110.15766).

Minimise ``f(W) + g(Z)`` subject to ``W = Z``, where ``g`` is 0 on the set S of matrices that obey the pattern and
infinite elsewhere. With the scaled dual U the augmented Lagrangian is ``f(W) + g(Z) + ρ/2 ‖W − Z + U‖² − ρ/2 ‖U‖²``:

    W: gradient steps on f(W) + ρ/2 ‖W − Z + U‖²  (N1)
    Z = P_S(W + U)                                 (N2)
    U = U + τ (W − Z)                              (N3)

f is the loss of the rest of the stage; with ``fake_quant`` before this modifier, that of the rounded weights. Only the
abstracts of the papers were available, so the labels are our own; README.md lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from nasframe.errors import RunError, UsageError
from nasframe.interfaces import Modifier, Step, TrainJob
from nasframe.nn.formats import encoder_matrices, formats_of, note, raw_weight
from nasframe.nn.patterns import Pattern, largest, parse_pattern, project, require_divisible, violations
from nasframe.records import Count, Positive, Share
from nasframe.training.selection import last_weights

Tensors = dict[str, torch.Tensor]
"""Name of a matrix → a tensor of its shape."""


class Matrix(NamedTuple):
    """A matrix that becomes sparse, and its pattern."""

    module: nn.Linear
    pattern: Pattern


class ADMM(Modifier):
    """Train the encoder's matrices towards n:m sparsity; at the end of the stage every group obeys the pattern.

    First, in the dense phase, a penalty draws the weights to the pattern. Then they are projected, the zeros are
    frozen, and the rest of the stage tunes the remaining weights. With ``tune: 1`` there is no dense phase, which is
    one-shot magnitude pruning. The result's blueprint records the pattern of each matrix. With an ``arch`` of the space
    ``nm_bits`` each matrix has the pattern that the architecture gives it.

    Args:
        pattern: n:m; at most n of m consecutive weights along the input stay.
        rho: ρ, the penalty's weight.
        growth: the factor by which ρ grows, geometrically, over the dense phase; 1 keeps it constant.
        dual: τ, the step length of the dual variable. 1 is standard ADMM. Use less if weights move little between two
            updates, which makes the choice of the remaining weights more stable. 0 is the plain penalty method.
        every: optimiser steps between two updates of Z and U.
        tune: share of the stage that trains with frozen zeros.
        remainder: ``refuse`` (reject) rows whose last group is incomplete, or ``pad`` that group with zeros.

    Raises:
        UsageError: there is no such pattern, or m does not divide a matrix's inputs, or ``keep: best`` would bring back
            weights from before the projection.
    """

    reads_space = False
    elementwise = True
    keeps_zeros = True

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
        self.rho = rho
        self.growth = growth
        self.dual = dual
        self.every = every
        self.tune = tune
        self.remainder = remainder
        self.matrices: dict[str, Matrix] = {}
        self.W: dict[str, nn.Parameter] = {}
        self.Z: Tensors = {}
        self.U: Tensors = {}
        self.target: Tensors = {}  # Z − U
        self.mask: Tensors = {}  # 1 for weights that stay, 0 for the others; empty until W is projected

    def on_start(self, job: TrainJob) -> None:
        """Find the matrices and their patterns; Z = P(W), U = 0."""
        formats = formats_of(job.space, job.net, job.arch)
        for name, module in encoder_matrices(job.net):
            pattern = self.pattern if formats is None else formats[name].pattern
            if self.remainder == "refuse":
                require_divisible(f"admm: {name}", module.in_features, pattern)
            if not pattern.dense:
                self.matrices[name] = Matrix(module, pattern)
        if self.tune < 1:
            last_weights(job, "admm")
        self.dense_steps = job.total - round(self.tune * job.total)
        self.W = {}
        self.Z = {}
        self.U = {}
        for name, matrix in self.matrices.items():
            # The weights that are trained: behind a quantiser, module.weight is a rounded copy.
            self.W[name] = raw_weight(matrix.module)
        if self.dense_steps == 0:
            self.freeze()
            return
        for name, w in self.W.items():
            self.Z[name] = self.projected(name, w.detach())
            self.U[name] = torch.zeros_like(w)
        self.aim()

    def validate(self, job: TrainJob) -> None:
        """Raise the errors of ``on_start`` before any work, if the network is known."""
        if job.net is not None:
            self.on_start(job)
        elif self.tune < 1:
            last_weights(job, "admm")

    def on_batch(self, step: Step) -> None:
        """Train the weights themselves, because an assignment of formats is not a sub-network."""
        if formats_of(step.job.space, step.job.net, step.job.arch) is not None:
            step.arch = None

    def on_gradients(self, step: Step) -> None:
        """Add the gradient of the penalty; after the projection, clear the gradients of the zeros."""
        progress = step.index / max(self.dense_steps, 1)
        rho = self.rho * self.growth**progress
        for name, w in self.W.items():
            if w.grad is None:
                continue
            if self.mask:
                w.grad.mul_(self.mask[name])
            else:
                # In place, matrix by matrix: the second operation finds the matrix in the processor's cache.
                w.grad.add_(w.detach(), alpha=rho).sub_(self.target[name], alpha=rho)  # (N1)

    @torch.no_grad()
    def on_update(self, step: Step) -> None:
        """Update Z and U at every ``every``-th step; at the end of the dense phase, project W."""
        steps_done = step.index + 1
        if self.mask:
            # The gradients of zeros were cleared, but weight decay and momentum may still have moved them.
            torch._foreach_mul_(list(self.W.values()), list(self.mask.values()))
        elif steps_done >= self.dense_steps:
            self.freeze()
        elif steps_done % self.every == 0 and self.W:
            for name, w in self.W.items():
                u = self.U[name]
                z = self.projected(name, w + u)  # (N2)
                u.add_(w - z, alpha=self.dual)  # (N3)
                self.Z[name] = z
            self.aim()
            step.job.log(steps_done, {"admm_residual": self.residual()})

    def on_finish(self, job: TrainJob) -> None:
        """Check the pattern of every group, and write it into the network's record.

        Raises:
            RunError: a group has too many weights, which would be a bug.
        """
        if not self.mask:
            self.freeze()
        for name, (module, pattern) in self.matrices.items():
            with torch.no_grad():
                self.W[name].mul_(self.mask[name])  # the last step may have moved the zeros
            broken = violations(module.weight, pattern)
            if broken:
                raise RunError(f"admm: {name}: {broken} groups of {pattern.m} hold more than {pattern.n} weights.")
            note(job.net, name, n=pattern.n, m=pattern.m)

    @torch.no_grad()
    def freeze(self) -> None:
        """Project the weights themselves, W = P_S(W), and keep the mask of those that stay."""
        for name, (_, pattern) in self.matrices.items():
            w = self.W[name]
            stays = largest(w, pattern)  # (N4)
            self.mask[name] = stays.to(w.dtype)  # a mask of the weights' type is faster than a boolean one
            w.mul_(self.mask[name])
        self.Z = {}
        self.U = {}
        self.target = {}

    def projected(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Project a tensor on the pattern of a matrix."""
        return project(tensor, self.matrices[name].pattern)

    def aim(self) -> None:
        """Store ``Z − U``, to which the penalty draws the weights until the next update."""
        self.target = {name: z - self.U[name] for name, z in self.Z.items()}

    def residual(self) -> float:
        """Return ``‖W − Z‖ / ‖W‖`` over all matrices; it is 0 if the weights obey the patterns."""
        weights = [w.detach() for w in self.W.values()]
        differences = [w.detach() - self.Z[name] for name, w in self.W.items()]
        distance = torch.stack(torch._foreach_norm(differences)).norm()
        length = torch.stack(torch._foreach_norm(weights)).norm()
        return float(distance / length)

    def state_dict(self) -> dict[str, Any]:
        """Return Z and U, or the mask."""
        return {"Z": self.Z, "U": self.U, "mask": self.mask}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that :meth:`state_dict` returned."""
        self.Z = self._beside_weights(state["Z"])
        self.U = self._beside_weights(state["U"])
        self.mask = self._beside_weights(state["mask"])
        self.aim()

    def _beside_weights(self, tensors: Tensors) -> Tensors:
        """Move tensors to the devices of their matrices; a state may be loaded before these are known."""
        moved = {}
        for name, tensor in tensors.items():
            w = self.W.get(name, tensor)
            moved[name] = tensor.to(w.device)
        return moved
