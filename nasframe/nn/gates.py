"""Gates: one number for each head and each neuron that scales its contribution; at 0 it contributes nothing.

A gate acts on a head's context or on a neuron's activation, before any bias. The linear map that reads them comes next,
so a gate is a factor of that map's columns: ``(W · diag γ) h = W (γ ∘ h)``. It is computed in this way, as a
parametrisation of ``W``: for long batches this is cheaper than scaling activations, later parametrisations (a
quantiser) see the product, and gates are folded by keeping the product as ``W``.
(S1) and (S8) are formulas in the README of the plugin package ``nasframe_slimming``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils import parametrize

from nasframe.errors import UsageError
from nasframe.nn.blueprint import blueprint
from nasframe.nn.elastic import family_of, layers_of, units_of
from nasframe.nn.groups import UNITS, zeros_last


class Gate(nn.Module):
    """A parametrisation that scales a matrix by blocks of columns.

    Args:
        count: number of gates; all are 1 at first.
        width: number of neighbouring columns that share a gate.

    >>> gate = Gate(count=2, width=2)
    >>> gate.gamma.data = torch.tensor([3.0, 0.0])
    >>> gate(torch.ones(1, 4)).tolist()
    [[3.0, 3.0, 0.0, 0.0]]
    """

    def __init__(self, count: int, width: int = 1) -> None:
        super().__init__()
        self.width = width
        self.gamma = nn.Parameter(torch.ones(count))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the scaled matrix ``(rows, count * width)``."""
        factors: torch.Tensor = self.gamma
        if self.width > 1:
            factors = factors.repeat_interleave(self.width)
        return weight * factors  # (S1)


class Gated(NamedTuple):
    """The gates of one layer's heads or neurons: where they are, their values, and the linear map that reads them."""

    unit: str
    layer: int
    gamma: nn.Parameter
    reader: nn.Linear


def add_gates(net: nn.Module, units: Collection[str] = UNITS) -> list[Gated]:
    """Give each head and each neuron a gate of 1, in place; the outputs stay the same.

    Args:
        net: a model of a family that can be sliced, of any sizes per layer.
        units: ``heads``, ``ffn`` or both. Query heads that share keys and values share a gate.

    Returns:
        The gates, by layer and unit; a layer without heads or neurons has none.

    Raises:
        UsageError: a linear map to be scaled is no longer one, or is parametrised already.

    >>> from nasframe.testing.toy import tiny_net
    >>> [(gates.unit, gates.layer, len(gates.gamma)) for gates in add_gates(tiny_net(layers=1))]
    [('heads', 0, 4), ('ffn', 0, 64)]
    """
    family = family_of(net)
    sizes = blueprint(net)
    readers = {"heads": family.merge, "ffn": family.shrink}
    gates = []
    for i, (layer, counts) in enumerate(zip(layers_of(net), sizes["layers"], strict=True)):
        for unit in UNITS:
            if unit not in units or not counts[unit]:
                continue
            path = readers[unit]
            reader: Any = layer.get_submodule(path)
            if not isinstance(reader, nn.Linear):
                raise UsageError(
                    f"layer {i}, {path}: a {type(reader).__name__} has no gates. Expected torch.nn.Linear."
                )
            if parametrize.is_parametrized(reader, "weight"):
                raise UsageError(
                    f"layer {i}, {path}: its weight is parametrised already, and gates would act behind that. Expected "
                    "gates first: a quantiser comes after them in the list of modifiers."
                )
            count = units_of(family, layer, **counts)[unit]
            gate = Gate(count, reader.in_features // count).to(reader.weight)
            parametrize.register_parametrization(reader, "weight", gate)
            gates.append(Gated(unit, i, gate.gamma, reader))
    return gates


def fold_gates(gates: Iterable[Gated]) -> None:
    """Replace matrices by their scaled values for good; this also ends every other parametrisation of them."""
    for gated in gates:
        if parametrize.is_parametrized(gated.reader, "weight"):
            parametrize.remove_parametrizations(gated.reader, "weight", leave_parametrized=True)


def compact(net: nn.Module, gates: Iterable[Gated]) -> dict[str, Any]:
    """Reorder heads and neurons so that those whose gate is not 0 come first; their order stays.

    Args:
        net: the network, its gates folded; its outputs stay the same.
        gates: the gates that it had.

    Returns:
        The architecture that keeps exactly these: ``layers`` (all), ``heads.i`` and ``ffn.i``.
    """
    zero: dict[str, dict[int, torch.Tensor]] = {unit: {} for unit in UNITS}
    for unit, layer, gamma, _ in gates:
        zero[unit][layer] = gamma.detach() == 0  # (S8)
    return zeros_last(net, zero)
