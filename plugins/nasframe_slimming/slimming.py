"""Slimming: gates under a proximal L1 penalty, in one loop with distillation and quantisation (arXiv 2008.11062).

    min over W, γ of   L(q(W), γ)  +  ρ Σ c_g |γ_g|        subject to   Σ c_g [γ_g ≠ 0] ≤ B

L is the loss of the stage's other modifiers, such as distillation (with an adversary, it is the min–max form of the
paper); q is their quantiser. The penalty never enters a gradient. Instead, after each step of W,

    m ← μ m + ∂L/∂γ                      (S2)  momentum SGD
    γ ← γ − α m / c                      (S3)  each gate has a rate of its own, so that all sink equally fast
    γ ← sign γ · max(|γ| − α ρ, 0)       (S4)  the proximal step at the current rate; c cancels against 1 / c

and ρ follows the budget B by dual ascent, (S5) and (S6). Gates that are exactly 0 at the end define the structure. The
labels are our own, since we do not know the paper's equation numbers; README.md lists them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from nasframe.errors import UsageError
from nasframe.interfaces import Modifier, Step, TrainJob
from nasframe.nn.gates import UNITS, Gated, add_gates, compact, fold_gates
from nasframe.nn.prox import soft_threshold
from nasframe.records import Arch, NonNegative, Percent, Positive, ShareBelowOne, TrainOptions
from nasframe.training.equivalence import without_zeros
from nasframe.training.optim import learning_rate
from nasframe.training.selection import free_to_reorder, whole_network
from nasframe.units import share
from nasframe_slimming.budget import costs, sinking

POINTS = 100  # of the logged curves of ρ and of the cost
FARTHEST = 0.05  # that a gradient moves a gate in one step: a few neurons of huge activations would diverge otherwise


class Slimming(Modifier):
    """Put a gate on each head and each FFN neuron, push gates to 0 in training, and remove the units whose gate is 0.

    For the joint loop, list ``kd`` and ``fake_quant`` after it in the same stage; null in the place of a modifier
    switches it off. The stage returns the architecture that ``extract`` cuts out. In the returned network the gates are
    folded, and kept heads and neurons come first, so that cutting changes nothing.

    Args:
        target: the share of ``cost`` to keep, such as ``50%``; ρ then follows by dual ascent, and the budget is met at
            the end. ``null`` keeps ``rho`` fixed, as published; the size is then not controlled.
        cost: the cost that is bounded and that weighs the penalty: a counted one, such as ``encoder_params`` or
            ``macs``.
        weights: c_g: the ``cost`` of the gate's head or neuron, or ``equal`` for all, as published.
        units: which units get gates.
        rho: ρ at the start of dual ascent; by default, a gate that no gradient holds reaches 0 in time.
        learning_rate: the gates' peak rate α; it follows the stage's schedule.
        momentum: μ of the gates.
        dual_rate: rate of dual ascent, in 1 / (the time to prune); 0 keeps ρ fixed.
        tune: the share of the steps, at the end, in which ρ is 0 and the structure is fixed.
    """

    reads_space = False
    returns_arch = True

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
        self.share = None
        if target is not None:
            self.share = share("slimming.target", target)
        if target is None and rho is None:
            raise UsageError("slimming: neither target nor rho: nothing would be pruned. Expected one of them.")
        if not units or not set(units) <= set(UNITS):
            raise UsageError(f"slimming.units: {list(units)}. Expected heads, ffn or both.")
        for name, value in (("momentum", momentum), ("tune", tune)):
            if not 0 <= value < 1:
                raise UsageError(f"slimming.{name}: {value}. Expected 0 or more, and less than 1.")
        if dual_rate < 0:
            raise UsageError(f"slimming.dual_rate: {dual_rate}. Expected 0 or more.")
        self.target = target
        self.cost = cost
        self.weights = weights
        self.units = units
        self.initial_rho = rho
        self.alpha = learning_rate
        self.mu = momentum
        self.omega = dual_rate
        self.tune = tune
        self.gates: list[Gated] = []
        self.state: dict[str, torch.Tensor] = {}

    def on_start(self, job: TrainJob) -> None:
        """Gate the network, count the cost of each gate, and check that the budget can be met at all."""
        whole_network(job, "slimming")
        free_to_reorder(job, "slimming")
        self.gates = add_gates(job.net, self.units)
        if not self.gates:
            raise UsageError(f"stage {job.stage!r}: the network has no {' or '.join(self.units)} to put gates on.")
        counted = costs(job.net, self.gates, self.cost, job)
        self.full = counted.full
        self.excess = 0.0  # the cost to be removed
        if self.share is not None:
            self.excess = (1 - self.share) * counted.full
        if self.excess > counted.full - counted.fixed:
            least = f"{counted.fixed / counted.full:.1%}"
            raise UsageError(
                f"slimming.target: {self.target} of {self.cost} is out of reach: the parts without gates are {least}. "
                f"Expected more than {least}."
            )

        gamma = torch.cat([gates.gamma for gates in self.gates]).detach()
        self.each = counted.each.to(gamma)
        if self.weights == "cost":
            self.c = self.each / self.each.sum()
        else:
            self.c = torch.full_like(gamma, 1 / len(gamma))

        self.steps = max(1, round((1 - self.tune) * job.total))  # in which gates are pressed
        # Gates start at 1 and sink by α ρ a step: with this ρ, one that no gradient holds reaches 0 at
        # the last of these steps.
        rho = self.initial_rho
        if rho is None:
            rates = [self.rate(job.options, step, job.total) for step in range(self.steps)]
            rho = 1 / sum(rates)
        self.start = torch.tensor(rho).to(gamma)
        self.state = {"m": torch.zeros_like(gamma), "rho": self.start.clone(), "kept": torch.ones_like(gamma)}

    def validate(self, job: TrainJob) -> None:
        """Raise the errors of ``on_start`` before any work, if the network is known."""
        if job.net is None:
            whole_network(job, "slimming")
        else:
            self.on_start(job)

    def claims(self, net: nn.Module) -> list[nn.Parameter]:
        """Return the gates, so that the stage's optimiser leaves them alone."""
        return [gates.gamma for gates in self.gates]

    @torch.no_grad()
    def on_update(self, step: Step) -> None:
        """Step the gates: momentum SGD, then the proximal step at the current rate, then ρ."""
        if step.skipped:
            return
        gammas: list[Any] = self.claims(step.job.net)
        gamma = torch.cat(gammas)
        gradients = []
        for gate in gammas:
            gradient = gate.grad
            if gradient is None:
                gradient = torch.zeros_like(gate)
            gradients.append(gradient)
        mean_gradient = step.job.reduce(torch.cat(gradients))  # over all processes
        alpha = self.rate(step.job.options, step.index, step.total)
        m = self.state["m"].mul_(self.mu).add_(mean_gradient)  # (S2)
        gamma -= (alpha * m / self.c).clamp(-FARTHEST, FARTHEST)  # (S3)
        if step.index < self.steps:  # afterwards the structure is fixed, and the gates only learn
            threshold = self.threshold(gamma, alpha, step.index)
            gamma = soft_threshold(gamma, threshold)  # (S4)
            if step.index == self.steps - 1:
                self.state["kept"] = (gamma != 0).to(gamma)
        gamma *= self.state["kept"]  # a removed gate must not come back in the last steps
        parts = gamma.split(list(map(len, gammas)))
        torch._foreach_copy_(gammas, list(parts))
        is_last = step.index == step.total - 1
        log_every = max(1, step.total // POINTS)
        if is_last or step.index % log_every == 0:
            removed = float(self.each[gamma == 0].sum())
            kept = 1 - removed / self.full
            step.job.log(step.index + 1, {"rho": float(self.state["rho"]), f"{self.cost} kept": kept})

    def threshold(self, gamma: torch.Tensor, alpha: float, step: int) -> torch.Tensor:
        """Return the threshold of a proximal step, and update ρ.

        It is α ρ, but never more than the budget needs. The last step's is exactly that, so that the budget is met.
        """
        threshold = alpha * self.penalty(gamma, step)
        if self.share is None:
            return threshold
        needed = sinking(gamma, self.each, self.excess)
        if step == self.steps - 1:
            return needed
        return torch.minimum(threshold, needed)

    def on_finish(self, job: TrainJob) -> Arch:
        """Fold the gates, move what they keep to the front, and return its sizes; the logits must not change."""

        def remove_gates() -> dict[str, Any]:
            fold_gates(self.gates)
            return compact(job.net, self.gates)

        return without_zeros(job, remove_gates)

    def state_dict(self) -> dict[str, Any]:
        """Return momentum, ρ and, once it is decided, the structure; the gates themselves belong to the network."""
        return {"state": self.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that :meth:`state_dict` returned."""
        self.state = {name: tensor.clone() for name, tensor in state["state"].items()}

    def rate(self, options: TrainOptions, step: int, total: int) -> float:
        """Return α at a step, on the stage's schedule."""
        scheduled = learning_rate(options, step, total)
        return self.alpha * scheduled / options.learning_rate

    def penalty(self, gamma: torch.Tensor, step: int) -> torch.Tensor:
        """Return this step's ρ, and take a step of dual ascent.

        The constraint's violation is measured by depth: the threshold at which the gates would meet the budget. It
        should fall from 1 to 0 on a straight line; e is how far it lags behind. The cost of the gates that are not 0
        would be no use: it does not change until the first gates are 0, then everything changes at once, and ρ
        overshoots. The method of multipliers adds the quadratic penalty's term to the multiplier; their ratio here
        makes the two critically damped.
        """
        if self.share is None or self.omega == 0:  # as published
            return self.state["rho"]
        planned = 1 - (step + 1) / self.steps
        e = sinking(gamma, self.each, self.excess) - planned
        ascent = self.omega**2 / self.steps * self.start * e
        rho = self.state["rho"].add_(ascent).clamp_(min=0)  # (S5)
        return (rho + 2 * self.omega * self.start * e).clamp(min=0)  # (S6)
