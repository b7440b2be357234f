"""What each gate costs, and how far gates have to sink until what is left is within a budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from nasframe import registry
from nasframe.errors import UsageError
from nasframe.interfaces import Estimator
from nasframe.nn.blueprint import blueprint
from nasframe.nn.gates import Gated
from nasframe.types import Arch, TrainJob


class AnySizes:
    """A space in which an architecture says its sizes by itself, for estimators that count."""

    def sizes(self, arch: Arch) -> Arch:
        """Return the architecture."""
        return arch


class Costs(NamedTuple):
    """A cost as a sum: what stays, and what each gate adds.

    Args:
        full: the whole network's.
        each: ``(gates,)``, in the order of the gates one after the other.
    """

    full: float
    each: torch.Tensor

    @property
    def fixed(self) -> float:
        """The cost of what has no gate."""
        return self.full - float(self.each.sum())


def costs(net: nn.Module, gates: Sequence[Gated], name: str, job: TrainJob) -> Costs:
    """Count what every gate's head or neuron costs.

    Args:
        net: the network.
        gates: its gates.
        name: an estimator that counts, such as ``encoder_params`` or ``macs``; the recipe's options of it are used.
        job: the stage.

    Raises:
        UsageError: there is no such estimator, or its cost is not a sum over heads and neurons.
    """
    estimator: Estimator = job.estimators[name] if name in job.estimators else registry.make("estimator", name)
    space: Any = AnySizes()

    def count(arch: Arch) -> float:
        return estimator.estimate(space, net, arch)

    if not hasattr(estimator, "table"):
        raise UsageError(f"slimming.cost: {name!r} is not counted. Expected a counted cost, such as encoder_params.")
    layers = blueprint(net)["layers"]
    sizes = {f"{unit}.{i}": n for i, layer in enumerate(layers) for unit, n in layer.items()}
    whole = {"layers": list(range(len(layers))), **sizes}
    full, each = count(whole), []
    for unit, layer, gamma, _ in gates:
        knob = f"{unit}.{layer}"
        each.append(torch.full((len(gamma),), full - count(whole | {knob: sizes[knob] - 1}), dtype=torch.float64))
    found = Costs(full, torch.cat(each))
    halves = whole | {f"{g.unit}.{g.layer}": len(g.gamma) // 2 for g in gates}
    expected = found.fixed + sum(float(c[0]) * (len(c) // 2) for c in each)
    if abs(count(halves) - expected) > 1e-6 * full:
        raise UsageError(f"slimming.cost: {name!r} is not a sum over heads and neurons. Expected one that is.")
    return found


def sinking(gamma: torch.Tensor, each: torch.Tensor, excess: float) -> torch.Tensor:
    """Return the least threshold below which, or at which, gates worth ``excess`` or more lie.

    Args:
        gamma: ``(gates,)``.
        each: ``(gates,)``, what each costs.
        excess: how much has to go.

    Returns:
        A scalar, 0 where the gates that are 0 are worth that already.

    >>> sinking(torch.tensor([3.0, -1.0, 2.0]), torch.tensor([5.0, 1.0, 2.0]), excess=2.5)
    tensor(2.)
    """
    size, order = gamma.abs().sort()
    gone = each[order].cumsum(0)
    return size[(gone < excess).sum().clamp(max=len(size) - 1)] * (excess > 0)
