"""Gates: one number for each head and each neuron, by which its contribution is scaled; at 0 it contributes nothing.

A gate stands behind a head's context, or behind a neuron's activation, and no bias comes after it. The linear map that
reads them is all that comes next, so a gate is a factor of that map's columns: ``(W · diag γ) h = W (γ ∘ h)``. That is
how it is computed, as a parametrisation of ``W``: for long batches it is cheaper than scaling the activations, other
parametrisations that follow (a quantiser) see the product, and folding the gates is to keep the product for ``W``.
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
from nasframe.nn.elastic import family_of, layers_of
from nasframe.nn.groups import UNITS, zeros_last


class Gate(nn.Module):
    """A parametrisation that scales a matrix by blocks of columns.

    Args:
        count: gates; all are 1 at first.
        width: neighbouring columns that share one.

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
        return weight * (self.gamma if self.width == 1 else self.gamma.repeat_interleave(self.width))  # (S1)


class Gated(NamedTuple):
    """The gates of one layer's heads or neurons: where they are, their values, and the linear map that reads them."""

    unit: str
    layer: int
    gamma: nn.Parameter
    reader: nn.Linear


def add_gates(net: nn.Module, units: Collection[str] = UNITS) -> list[Gated]:
    """Put a gate of 1 behind each head and each neuron, in place; the outputs stay the same.

    Args:
        net: a BERT, RoBERTa, ELECTRA or DistilBERT model, of any sizes per layer.
        units: ``heads``, ``ffn`` or both.

    Returns:
        The gates, by layer and unit; a layer without heads or neurons has none.

    Raises:
        UsageError: a linear map that would be scaled is another module by now, or is parametrised already.

    >>> from nasframe.testing.toy import tiny_net
    >>> [(gates.unit, gates.layer, len(gates.gamma)) for gates in add_gates(tiny_net(layers=1))]
    [('heads', 0, 4), ('ffn', 0, 64)]
    """
    family, sizes = family_of(net), blueprint(net)
    readers = {"heads": (family.merge, sizes["head_size"]), "ffn": (family.shrink, 1)}
    found = []
    for i, (layer, counts) in enumerate(zip(layers_of(net), sizes["layers"], strict=True)):
        for unit in (unit for unit in UNITS if unit in units and counts[unit]):
            path, width = readers[unit]
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
            gate = Gate(counts[unit], width).to(reader.weight)
            parametrize.register_parametrization(reader, "weight", gate)
            found.append(Gated(unit, i, gate.gamma, reader))
    return found


def fold_gates(gates: Iterable[Gated]) -> None:
    """Put the scaled matrix in the place of the matrix, for good, and every other parametrisation of it along."""
    for gated in gates:
        if parametrize.is_parametrized(gated.reader, "weight"):
            parametrize.remove_parametrizations(gated.reader, "weight", leave_parametrized=True)


def compact(net: nn.Module, gates: Iterable[Gated]) -> dict[str, Any]:
    """Reorder heads and neurons so that those whose gate is not 0 come first, in the order they had.

    Args:
        net: the network, its gates folded; its outputs stay the same.
        gates: what the gates were.

    Returns:
        The architecture that keeps exactly these: ``layers`` (all), ``heads.i`` and ``ffn.i``.
    """
    zero: dict[str, dict[int, torch.Tensor]] = {unit: {} for unit in UNITS}
    for unit, layer, gamma, _ in gates:
        zero[unit][layer] = gamma.detach() == 0  # (S8)
    return zeros_last(net, zero)
