"""The cost of each gate, and how far gates have to sink for the rest to be within a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nasframe import registry
from nasframe.errors import UsageError
from nasframe.interfaces import AdditiveEstimator, TrainJob
from nasframe.nn.blueprint import blueprint
from nasframe.nn.gates import Gated
from nasframe.records import Arch


class AnySizes:
    """A space for estimators that count, whose architectures are sizes already."""

    def sizes(self, arch: Arch) -> Arch:
        """Return the architecture."""
        return arch


@dataclass(frozen=True)
class Costs:
    """A cost as a sum: a fixed part, and a part for each gate.

    Args:
        full: the whole network's.
        each: ``(gates,)``, all gates one after the other.
    """

    full: float
    each: torch.Tensor

    @property
    def fixed(self) -> float:
        """The cost of everything that has no gate."""
        return self.full - float(self.each.sum())


def costs(net: nn.Module, gates: Sequence[Gated], name: str, job: TrainJob) -> Costs:
    """Return the cost of every gate's head or neuron.

    Args:
        net: the network.
        gates: its gates.
        name: an estimator that counts, such as ``encoder_params`` or ``macs``, with the options that the recipe sets.
        job: the stage.

    Raises:
        UsageError: there is no such estimator, or its cost is not a sum over heads and neurons.
    """
    estimator: Any = job.estimators.get(name)
    if estimator is None:  # the recipe does not mention it
        estimator = registry.make("estimator", name)
    if not isinstance(estimator, AdditiveEstimator):
        raise UsageError(f"slimming.cost: {name!r} is not counted. Expected a counted cost, such as encoder_params.")
    space: Any = AnySizes()

    def count(arch: Arch) -> float:
        cost = estimator.estimate(space, net, arch)
        if cost is None:
            raise UsageError(f"slimming.cost: {name!r} cannot be counted on this network. Expected another cost.")
        return float(cost)

    whole = _full_sizes(net)
    full = count(whole)
    per_unit: list[float] = []  # the cost of one head or neuron, for each entry of gates
    # Differences of estimates, so that any estimator will do that follows sizes.
    for gated in gates:
        knob = f"{gated.unit}.{gated.layer}"
        one_less = whole | {knob: whole[knob] - 1}
        per_unit.append(full - count(one_less))  # (S7)
    # Costs of large networks pass 2^24, above which float32 cannot tell neighbouring integers apart.
    each = torch.tensor(per_unit, dtype=torch.float64)
    gate_counts = torch.tensor([len(gated.gamma) for gated in gates])
    counted = Costs(full, each.repeat_interleave(gate_counts))

    # Gates can be priced one by one only if costs add up: half of everything must cost half of the sum.
    halves = dict(whole)
    expected = counted.fixed
    for gated, cost in zip(gates, per_unit, strict=True):
        half = len(gated.gamma) // 2
        halves[f"{gated.unit}.{gated.layer}"] = half
        expected += cost * half
    if abs(count(halves) - expected) > 1e-6 * full:
        raise UsageError(f"slimming.cost: {name!r} is not a sum over heads and neurons. Expected one that is.")
    return counted


def _full_sizes(net: nn.Module) -> dict[str, Any]:
    """Return the architecture of all layers, heads and neurons."""
    layers = blueprint(net)["layers"]
    sizes: dict[str, Any] = {"layers": list(range(len(layers)))}
    for i, layer in enumerate(layers):
        for unit, number in layer.items():
            sizes[f"{unit}.{i}"] = number
    return sizes


def sinking(gamma: torch.Tensor, each: torch.Tensor, excess: float) -> torch.Tensor:
    """Return the depth: the smallest threshold that would remove gates worth ``excess`` or more.

    Args:
        gamma: ``(gates,)``.
        each: ``(gates,)``, the cost of each.
        excess: the cost that has to be removed.

    Returns:
        A scalar; 0 if the gates that are 0 already are worth that much.

    >>> sinking(torch.tensor([3.0, -1.0, 2.0]), torch.tensor([5.0, 1.0, 2.0]), excess=2.5)
    tensor(2.)
    """
    size, order = gamma.abs().sort()
    if excess <= 0:
        return torch.zeros_like(size[0])
    removed = each[order].cumsum(0)  # the cost removed by the threshold size[i]
    # As a tensor, without a branch on its value: on a GPU that would wait for the device in every step.
    needed = (removed < excess).sum().clamp(max=len(size) - 1)
    return size[needed]
