"""The search by gradients: operations and depth are drawn, and their logits α learn from every draw.

The labels are our own, since we do not know all of the paper's equation numbers; README.md lists them. In each step

    y = softmax((log softmax(α) + G) / τ),  G ~ Gumbel(0, 1)          (A5)
    ŷ = one_hot(argmax y) + y − stop(y)                               (A6)

The forward pass sees the one-hot vector, and gradients reach α through y. Both the nine edges, whose α all cells share,
and the depth K are drawn so. With K(ŷ) = Σ k ŷ_k the loss is

    (1 − γ) Σ_k ŷ_k CE_k + γ Σ_k ŷ_k KD_k + β L_E
    L_E = K(ŷ) / K_max · 1/9 Σ_edges Σ_o ŷ_o cost(o)                  (A8)

The loop's loss is CE at the drawn depth. This modifier adds the gradient of the depth, and that of L_E after the
backward pass; ``probe_kd`` after it adds the middle term. The loop's optimiser updates weights, and Adam here updates
α, on the same batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from nasframe.errors import UsageError
from nasframe.interfaces import Modifier, Step, TrainJob
from nasframe.notices import Notify, say
from nasframe.records import Arch, Count, NonNegative, Percent, Positive, Share, ShareBelowOne
from nasframe.seeds import stream_seed
from nasframe.training.optim import clip
from nasframe.training.step import saved_model
from nasframe.units import share
from nasframe_adabert.costs import OperationCosts, estimator_of, operation_costs, relative_costs
from nasframe_adabert.derive import derived
from nasframe_adabert.network import EDGES, histogram
from nasframe_adabert.probes import ProbeKD
from nasframe_adabert.space import built
from nasframe_adabert.supernet import AdaBertSupernet, Sampled, depth_gradient

POINTS = 100
"""Points of the logged curves."""
HERE = "differentiable"


class Differentiable(Modifier):
    """Learn the operations and the depth of the space ``adabert_cells`` by gradients, together with the weights.

    The stage returns the architecture that α has come to prefer: for each node the two most probable edges with their
    best operations, and the most probable depth. ``extract`` cuts it out with its trained weights.

    α of the depth learns from the task's loss, the expected cost and ``probe_kd``. Terms of other modifiers, such as
    ``kd``, teach weights and operations.

    Args:
        efficiency: β, the weight of the expected cost in the loss. 0 leaves it out.
        prices: the costs whose sum an operation is priced at, each relative to the dearest operation; ``published`` are
            the numbers of the published code.
        learning_rate: α's learning rate.
        weight_decay: of α, added to its gradient.
        max_grad_norm: α's gradient is scaled down to this norm; 0 leaves it as it is.
        temperature: τ at the beginning.
        final_temperature: τ after ``decay``, towards which it falls exponentially.
        decay: the share of the steps after which τ stays.
        staircase: τ changes every so many steps.
        warmup: the share of the steps, at the beginning, in which only weights learn, while operations are drawn
            evenly. It keeps α from preferring operations without weights just because they need no training.
        target: the share of ``bound``'s cost in the network ``of`` that the derived network may have, such as ``50%``;
            the most probable network within it is taken. By default there is no limit.
        bound: the cost that ``target`` limits.
        of: the saved network whose cost is 100 %.
    """

    returns_arch = True

    def __init__(
        self,
        efficiency: NonNegative = 4.0,
        prices: Sequence[str] | str = ("params", "macs"),
        learning_rate: Positive = 1e-4,
        weight_decay: NonNegative = 1e-3,
        max_grad_norm: NonNegative = 5.0,
        temperature: Positive = 1.0,
        final_temperature: Positive = 0.2,
        decay: Share = 0.9,
        staircase: Count = 100,
        warmup: ShareBelowOne = 0.0,
        target: Percent | None = None,
        bound: str = "encoder_params",
        of: str = "teacher",
        notify: Notify = say,
    ) -> None:
        if isinstance(prices, str) and prices != "published":
            prices = [prices]
        if not prices:
            raise UsageError(f"{HERE}.prices: none. Expected names of costs, or efficiency: 0.")
        if final_temperature > temperature:
            raise UsageError(
                f"{HERE}.final_temperature: {final_temperature} is above temperature, {temperature}. Expected less."
            )
        self.beta = efficiency
        self.prices = prices
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.max_grad_norm = max_grad_norm
        self.annealing = Annealing(temperature, final_temperature, decay, staircase)
        self.warmup = warmup
        self.share = None if target is None else share(f"{HERE}.target", target)
        self.bound = bound
        self.of = of
        self.notify = notify
        self.charges = torch.zeros(0)  # (operations,)
        self.budget: tuple[OperationCosts, float] | None = None
        self.noise: Noise | None = None
        self.noise_step = -1  # the step that the noise was drawn for
        self.adam: torch.optim.Adam | None = None
        self.state: Mapping[str, Any] | None = None  # of Adam, if it was loaded before Adam was made

    def validate(self, job: TrainJob) -> None:
        """Check the stage before any work.

        Raises:
            UsageError: it has no such super-network, trains a part of it, or has ``probe_kd`` before this modifier.
        """
        if job.net is not None:
            supernet_of(job)
        if job.sampler is not None or job.arch is not None:
            raise UsageError(f"{HERE}: it draws operations itself. Expected neither 'sampler' nor 'arch'.")
        before = list(job.modifiers)[: list(job.modifiers).index(self)]
        if any(isinstance(modifier, ProbeKD) for modifier in before):
            raise UsageError(
                f"{HERE}: it stands behind probe_kd, which would then not weigh the depth's gradient by 1 − γ. "
                f"Expected {HERE} before probe_kd."
            )

    def on_start(self, job: TrainJob) -> None:
        """Price the operations, and make α's optimiser."""
        self.validate(job)
        net = supernet_of(job)
        if self.beta:
            self.charges = relative_costs(job, self.prices, f"{HERE}.prices").to(net.alpha.device)
        if self.share is not None:
            self.budget = self._budget(job, self.share)
        self.adam = torch.optim.Adam(self.claims(net), lr=self.learning_rate, weight_decay=self.weight_decay)
        if self.state is not None:
            self.adam.load_state_dict(dict(self.state))

    def _budget(self, job: TrainJob, part: float) -> tuple[OperationCosts, float]:
        """Return what operations cost, and how much the derived network may.

        Raises:
            UsageError: not even the cheapest network of the space is within it.
        """
        owner = f"{HERE}.bound"
        costs = operation_costs(job, self.bound, owner)
        full = estimator_of(job, self.bound, owner).estimate(None, saved_model(job, self.of), None)
        if full is None:
            raise UsageError(f"{owner}: {self.bound!r} of {self.of!r} is not known. Expected another cost.")
        limit = part * full
        if _derived(supernet_of(job), (costs, limit)) is None:
            least = float(costs.fixed.min())
            raise UsageError(
                f"{HERE}.target: {part:.0%} of {self.of!r} are {limit:,.0f} of {self.bound}, but the cheapest network "
                f"has {least:,.0f}. Expected a larger target, or a space with fewer or narrower cells."
            )
        return costs, limit

    def claims(self, net: nn.Module) -> list[nn.Parameter]:
        """Return α of the operations and of the depth."""
        assert isinstance(net, AdaBertSupernet)
        return [net.alpha, net.alpha_depth]

    def on_batch(self, step: Step) -> None:
        """Draw operations and depth; all micro-batches of a step, and all processes, get the same."""
        net = supernet_of(step.job)
        if self.noise_step != step.index:
            self.noise_step = step.index
            seed = stream_seed(step.job.seed, "gumbel", step.job.stage, step.index)
            self.noise = Noise.drawn(net, seed)
            temperature = self.annealing.temperature(step.index, step.total)
            self._log(step, net, temperature)
        net.sampled = self.sample(net, step)

    def sample(self, net: AdaBertSupernet, step: Step) -> Sampled:
        """Return the step's operations and depth as a function of α."""
        assert self.noise is not None
        temperature = self.annealing.temperature(step.index, step.total)
        operations = straight_through(net.alpha, self.noise.operations, temperature)
        depth = straight_through(net.alpha_depth, self.noise.depth, temperature)
        return Sampled(operations, net.over_all_depths(depth))

    def on_loss(self, step: Step, loss: torch.Tensor) -> torch.Tensor:
        """Return the loss with the gradient of the depth: its value is the same."""
        outputs = step.outputs
        losses = []
        for logits in outputs.depth_logits.detach().unbind(1):
            losses.append(step.job.task.loss(type(outputs)(logits), step.batch))
        # Σ ŷ_k CE_k has the value of CE at the drawn depth, and so the gradient in the weights; what it adds to that is
        # CE_k as the gradient of ŷ_k.
        return loss + depth_gradient(outputs.depth, torch.stack(losses))  # (A7)

    def on_gradients(self, step: Step) -> None:
        """Add the gradient of β L_E to α."""
        net = supernet_of(step.job)
        if self.beta:
            # The draw's graph was freed by the backward pass of the loss, so it is made again from the same noise.
            sampled = self.sample(net, step)
            (self.beta * expected_cost(sampled, self.charges)).backward()

    def on_update(self, step: Step) -> None:
        """Let Adam update α, unless the step was skipped or the warm-up is not over."""
        net = supernet_of(step.job)
        net.sampled = None
        if step.skipped or step.index < self.warmup * step.total:
            return
        parameters = self.claims(net)
        for parameter in parameters:
            if parameter.grad is not None:
                step.job.reduce(parameter.grad)
        norm = clip(parameters, self.max_grad_norm)
        if norm < float("inf"):  # neither infinite nor NaN
            assert self.adam is not None
            self.adam.step()

    def on_finish(self, job: TrainJob) -> Arch:
        """Return the derived architecture, and report its operations."""
        net = supernet_of(job)
        net.sampled = None
        arch = _derived(net, self.budget)
        assert arch is not None  # there is one within the budget: it was checked at the start
        for text in findings(arch):
            self.notify(f"stages.{job.stage}", text)
        return arch

    def state_dict(self) -> dict[str, Any]:
        """Return the state of Adam; the noise follows from the step."""
        return {"adam": None if self.adam is None else self.adam.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that :meth:`state_dict` returned."""
        self.state = state["adam"]
        if self.adam is not None and self.state is not None:
            self.adam.load_state_dict(dict(self.state))

    def _log(self, step: Step, net: AdaBertSupernet, temperature: float) -> None:
        """Log τ, the expected depth, and how many of the nine edges each operation is expected on."""
        interval = max(1, step.total // POINTS)
        if step.index % interval and step.index + 1 < step.total:
            return
        with torch.no_grad():
            expected = functional.softmax(net.alpha, dim=1).sum(0)
            depths = torch.arange(net.fewest, net.most + 1, device=net.alpha.device)
            depth = (functional.softmax(net.alpha_depth, dim=0) * depths).sum()
        values = {"temperature": temperature, "expected_cells": float(depth)}
        for name, edges in zip(net.names, expected.tolist(), strict=True):
            values[f"edges_{name}"] = edges
        step.job.log(step.index, values)


# ---- the draw


@dataclass(frozen=True)
class Annealing:
    """The temperature τ of a search: an exponential fall in stairs.

    Args:
        first: τ at the beginning.
        last: τ from the end of the fall on.
        decay: the share of the steps that the fall takes.
        staircase: τ changes every so many steps.
    """

    first: float
    last: float
    decay: float
    staircase: int

    def temperature(self, step: int, total: int) -> float:
        """Return τ at a step, counted from 0.

        >>> annealing = Annealing(1.0, 0.25, decay=0.5, staircase=1)
        >>> [annealing.temperature(step, 8) for step in (0, 2, 4, 7)]
        [1.0, 0.5, 0.25, 0.25]
        """
        fall = self.decay * total
        if step >= fall:
            return self.last
        stair = step - step % self.staircase
        return float(self.first * (self.last / self.first) ** (stair / fall))


@dataclass(frozen=True)
class Noise:
    """Gumbel noise of one step.

    Args:
        operations: ``(edges, operations)``.
        depth: ``(depths,)``.
    """

    operations: torch.Tensor
    depth: torch.Tensor

    @classmethod
    def drawn(cls, net: AdaBertSupernet, seed: int) -> Noise:
        """Draw the noise for a network's α."""
        generator = torch.Generator().manual_seed(seed % 2**63)
        return cls(
            gumbel(net.alpha.shape, generator).to(net.alpha.device),
            gumbel(net.alpha_depth.shape, generator).to(net.alpha.device),
        )


def gumbel(shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Draw from the standard Gumbel distribution, which is −log of a draw from the exponential one."""
    exponential = torch.empty(tuple(shape)).exponential_(generator=generator)
    return -exponential.clamp(min=torch.finfo(torch.float32).tiny).log()


def relaxed(alpha: torch.Tensor, noise: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the relaxed draw y, whose last dimension sums to 1."""
    log_p = functional.log_softmax(alpha, dim=-1)
    return functional.softmax((log_p + noise) / temperature, dim=-1)  # (A5)


def straight_through(alpha: torch.Tensor, noise: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the one-hot draw ŷ, with the gradient of the relaxed one."""
    y = relaxed(alpha, noise, temperature)
    hard = functional.one_hot(y.argmax(-1), y.shape[-1]).to(y.dtype)
    return hard + (y - y.detach())  # (A6)


# ---- the loss


def expected_cost(sampled: Sampled, charges: torch.Tensor) -> torch.Tensor:
    """Return L_E of a draw.

    Args:
        sampled: operations and depth.
        charges: ``(operations,)`` the cost of each operation.

    >>> operations = functional.one_hot(torch.tensor([1] * 9), 2).float()
    >>> float(expected_cost(Sampled(operations, torch.tensor([0.0, 1.0, 0.0])), torch.tensor([0.0, 3.0])))
    1.5
    """
    most = len(sampled.depth) - 1
    depths = torch.arange(most + 1, device=sampled.depth.device, dtype=sampled.depth.dtype)
    cells = (sampled.depth * depths).sum()
    of_edges = (sampled.operations * charges).sum()
    return cells / most * of_edges / len(EDGES)  # (A8)


# ---- the result


def findings(arch: Arch) -> list[str]:
    """Say which operations a derived network has, and warn of one that is hardly a network.

    >>> findings({"cells": 0})[1]
    'It has no cells: its classifier reads the mean of the embeddings. A smaller efficiency, or fewest: 1, avoids that.'
    """
    cells, nodes = built(arch)
    counts = histogram(nodes)
    shown = ", ".join(f"{name} × {count}" for name, count in counts.items())
    noun = "cell" if cells == 1 else "cells"
    texts = [f"Derived {cells} {noun}" + (f" of {shown}." if shown else ".")]
    if cells == 0:
        texts.append(
            "It has no cells: its classifier reads the mean of the embeddings. A smaller efficiency, or fewest: 1, "
            "avoids that."
        )
    elif len(counts) == 1:
        (name,) = counts
        texts.append(
            f"The search has collapsed: all six edges are {name}. A warm-up, more steps, or a smaller efficiency may "
            "help."
        )
    return texts


def supernet_of(job: TrainJob) -> AdaBertSupernet:
    """Return a stage's super-network.

    Raises:
        UsageError: the stage trains another network.
    """
    if not isinstance(job.net, AdaBertSupernet):
        raise UsageError(
            f"{HERE}: stage {job.stage!r} trains {type(job.net).__name__}. Expected the super-network of the space "
            "adabert_cells."
        )
    return job.net


def _derived(net: AdaBertSupernet, budget: tuple[OperationCosts, float] | None) -> dict[str, Any] | None:
    """Return the most probable architecture of a super-network, within a budget if there is one."""
    alpha = net.alpha.detach().double().cpu().numpy()
    alpha_depth = net.alpha_depth.detach().double().cpu().numpy()
    costs, limit = budget or (None, None)
    return derived(alpha, alpha_depth, net.names, net.fewest, costs=costs, bound=limit)
