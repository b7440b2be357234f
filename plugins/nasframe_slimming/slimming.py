"""Slimming: gates under a proximal L1 penalty, in one loop with distillation and quantisation (arXiv 2008.11062).

    min over W, γ of   L(q(W), γ)  +  ρ Σ c_g |γ_g|        subject to   Σ c_g [γ_g ≠ 0] ≤ B

L is the loss that the other modifiers of the stage make, distillation for one (and an adversary, which makes it the
min–max form of the paper); q their quantiser. The penalty never enters a gradient: after each step of W,

    m ← μ m + ∂L/∂γ             momentum SGD
    γ ← γ − α m / c             each gate at a rate of its own, so that all sink equally fast; no farther than 0.05
    γ ← sign γ · max(|γ| − α ρ, 0)       the proximal step at the current rate; c cancels against 1 / c

and ρ follows the budget B by dual ascent. Gates that are exactly 0 at the end are the structure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from nasframe.errors import UsageError
from nasframe.interfaces import Modifier
from nasframe.nn.exact import without_zeros
from nasframe.nn.gates import UNITS, Gated, add_gates, compact, fold_gates
from nasframe.nn.optim import learning_rate
from nasframe.nn.prox import soft_threshold
from nasframe.nn.selection import free_to_reorder, whole_network
from nasframe.step import Step
from nasframe.types import Arch, NonNegative, Percent, Positive, ShareBelowOne, TrainJob, TrainOptions
from nasframe.units import share
from nasframe_slimming.budget import costs, sinking

POINTS = 100  # of the curves of ρ and of the cost
FARTHEST = 0.05  # a gate moves for its gradient in one step: a few neurons of huge activations would diverge


class Slimming(Modifier):
    """Put a gate on each head and each FFN neuron, press the gates to 0 while training, and cut what is exactly 0.

    Compose it with ``kd`` and ``fake_quant`` behind it in the same stage for the joint loop; each can be switched off
    by writing null in its place. The stage answers with the architecture that ``extract`` cuts out; the network comes
    back with its gates folded and what is kept in front, so that cutting changes nothing.

    Args:
        target: the share of ``cost`` to keep, as in ``50%``; ρ then follows by dual ascent, and the budget is met at
            the end. Null keeps ``rho`` fixed, as published, and takes what comes.
        cost: what is bounded, and what weighs the penalty: a counted cost, ``encoder_params`` or ``macs`` for two.
        weights: c_g is what the gate's head or neuron ``cost``s, or ``equal`` for all, as published.
        units: what gets gates.
        rho: ρ, where dual ascent starts; default: what lets a gate that no gradient holds sink to 0 in time.
        learning_rate: the gates' peak rate α; it follows the stage's schedule.
        momentum: μ of the gates.
        dual_rate: of dual ascent, in 1 / (the time to prune); 0 leaves ρ as it starts.
        tune: the share of the steps at the end in which ρ is 0 and the structure stays.
    """

    answers = True

    def __init__(
        self,
        target: Percent | None = "50%",
        cost: str = "encoder_params",
        weights: Literal["cost", "equal"] = "cost",
        units: Sequence[Literal["heads", "ffn"]] = ("heads", "ffn"),
        rho: Positive | None = None,
        learning_rate: Positive = 1e-3,
        momentum: ShareBelowOne = 0.5,
        dual_rate: NonNegative = 10.0,
        tune: ShareBelowOne = 0.2,
    ) -> None:
        self.share = None if target is None else share("slimming.target", target)
        if target is None and rho is None:
            raise UsageError("slimming: neither target nor rho: nothing would be pruned. Expected one of them.")
        if not units or not set(units) <= set(UNITS):
            raise UsageError(f"slimming.units: {list(units)}. Expected heads, ffn or both.")
        for name, value in (("momentum", momentum), ("tune", tune)):
            if not 0 <= value < 1:
                raise UsageError(f"slimming.{name}: {value}. Expected 0 or more, and less than 1.")
        if dual_rate < 0:
            raise UsageError(f"slimming.dual_rate: {dual_rate}. Expected 0 or more.")
        self.target, self.cost, self.weights, self.units, self.rho0 = target, cost, weights, units, rho
        self.alpha, self.mu, self.omega, self.tune = learning_rate, momentum, dual_rate, tune
        self.gates: list[Gated] = []
        self.state: dict[str, torch.Tensor] = {}

    def on_start(self, job: TrainJob) -> None:
        """Gate the network, count what each gate costs, and see whether the budget can be met at all."""
        whole_network(job, "slimming")
        free_to_reorder(job, "slimming")
        self.gates = add_gates(job.net, self.units)
        if not self.gates:
            raise UsageError(f"stage {job.stage!r}: the network has no {' or '.join(self.units)} to put gates on.")
        counted = costs(job.net, self.gates, self.cost, job)
        self.excess = 0.0 if self.share is None else (1 - self.share) * counted.full  # has to go, Σ c_g [γ_g ≠ 0] > B
        if self.excess > counted.full - counted.fixed:
            least = f"{counted.fixed / counted.full:.1%}"
            raise UsageError(
                f"slimming.target: {self.target} of {self.cost} is out of reach: what has no gate is {least}. Expected "
                f"more than {least}."
            )
        self.steps = max(1, round((1 - self.tune) * job.total))  # in which gates are pressed
        start = self.rho0 or 1 / sum(self.rate(job.options, t, job.total) for t in range(self.steps))
        gamma = torch.cat([gates.gamma for gates in self.gates]).detach()
        self.each = counted.each.to(gamma)
        self.full = counted.full
        self.c = self.each / self.each.sum() if self.weights == "cost" else torch.full_like(gamma, 1 / len(gamma))
        self.start = torch.tensor(start).to(gamma)
        self.state = {"m": torch.zeros_like(gamma), "rho": self.start.clone(), "kept": torch.ones_like(gamma)}

    def on_plan(self, job: TrainJob) -> None:
        """Refuse what ``on_start`` refuses, a target out of reach included."""
        if job.net is None:
            whole_network(job, "slimming")
        else:
            self.on_start(job)

    def claims(self, net: nn.Module) -> list[nn.Parameter]:
        """Name the gates."""
        return [gates.gamma for gates in self.gates]

    @torch.no_grad()
    def on_update(self, step: Step) -> None:
        """Step the gates: momentum SGD, then the proximal step at the current rate, then ρ."""
        if step.skipped:
            return
        gammas: list[Any] = self.claims(step.job.net)
        gamma = torch.cat(gammas)
        gradient = torch.cat([torch.zeros_like(g) if g.grad is None else g.grad for g in gammas])
        m = self.state["m"].mul_(self.mu).add_(step.job.reduce(gradient))
        alpha = self.rate(step.job.options, step.index, step.total)
        gamma -= (alpha * m / self.c).clamp(-FARTHEST, FARTHEST)
        if step.index < self.steps:
            threshold, most = alpha * self.price(gamma, step.index), sinking(gamma, self.each, self.excess)
            last = step.index == self.steps - 1
            if self.share is not None:  # never below the budget; at last down to it, the step solved for
                threshold = most if last else torch.minimum(threshold, most)
            gamma = soft_threshold(gamma, threshold)
            if last:
                self.state["kept"] = (gamma != 0).to(gamma)
        gamma *= self.state["kept"]
        torch._foreach_copy_(gammas, list(gamma.split([len(g) for g in gammas])))
        if step.index % max(1, step.total // POINTS) == 0 or step.index == step.total - 1:
            left = 1 - float(self.each[gamma == 0].sum()) / self.full
            step.job.log(step.index + 1, {"rho": float(self.state["rho"]), f"{self.cost} kept": left})

    def on_finish(self, job: TrainJob) -> Arch:
        """Fold the gates, bring what they keep to the front, and answer with its sizes; the logits are to stay."""

        def remove() -> dict[str, Any]:
            fold_gates(self.gates)
            return compact(job.net, self.gates)

        return without_zeros(job, remove)

    def state_dict(self) -> dict[str, Any]:
        """Return momentum, ρ and, once it is settled, the structure; the gates themselves are the network's."""
        return {"state": self.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with these."""
        self.state = {name: tensor.clone() for name, tensor in state["state"].items()}

    def rate(self, options: TrainOptions, step: int, total: int) -> float:
        """Return α at a step, on the stage's schedule."""
        return self.alpha * learning_rate(options, step, total) / options.learning_rate

    def price(self, gamma: torch.Tensor, step: int) -> torch.Tensor:
        """Return this step's ρ, and ascend.

        How much the budget is missed by is told by depth, not by count: by the threshold at which the gates would meet
        it. That is to fall from 1 to 0 on a straight line; e is how far it lags behind. (A count says nothing until
        the first gates are 0, and then everything: with it ρ overshoots.) To the multiplier comes the quadratic
        penalty's term, in the ratio that damps the two critically: the method of multipliers.
        """
        if self.share is None or self.omega == 0:
            return self.state["rho"]
        e = sinking(gamma, self.each, self.excess) - (1 - (step + 1) / self.steps)
        rho = self.state["rho"].add_(self.omega**2 / self.steps * self.start * e).clamp_(min=0)
        return (rho + 2 * self.omega * self.start * e).clamp(min=0)
