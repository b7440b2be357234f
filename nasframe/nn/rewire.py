"""Reorder heads and neurons without changing what a network computes, so that the ones to keep come first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from nasframe.nn.blueprint import blueprint
from nasframe.nn.elastic import FamilyRow, family_of, head_order, layers_of, set_head_order, slices_of, units_of

Orders = Mapping[str, Mapping[int, Sequence[int] | torch.Tensor]]
"""Unit (``heads``, ``ffn``) → layer → present positions in their new order."""


def rewire(
    net: nn.Module,
    order: Orders,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Permute the heads and the neurons of a network in place; its outputs stay the same.

    Args:
        net: the network.
        order: ``{"heads": {layer: order}, "ffn": {layer: order}}``; an order lists present positions, the one that is
            to come first at the front. Layers that are left out stay unchanged. Query heads that share keys and
            values move together: the order then lists groups.
        optimizer: an optimiser whose state of the permuted parameters (momenta of AdamW, SGD and the like) is permuted
            with them.

    Raises:
        ValueError: an order is not a permutation, or a tensor to be permuted is parametrised.

    >>> from nasframe.testing.toy import tiny_inputs, tiny_net
    >>> net = tiny_net()
    >>> before = net(**tiny_inputs()).logits
    >>> rewire(net, {"heads": {0: [2, 0, 3, 1]}})
    >>> torch.allclose(before, net(**tiny_inputs()).logits, atol=1e-6)
    True
    """
    permutations = _permutations(net, order)
    family = family_of(net)
    if family.head_table:
        for i, listed in order.get("heads", {}).items():
            _reorder_columns(family, layers_of(net)[i], torch.as_tensor(listed).tolist())
    with torch.no_grad():
        for parameter, dim, index in permutations:
            for tensor in _with_state(parameter, optimizer):
                permuted = tensor.index_select(dim, index.to(tensor.device))
                tensor.copy_(permuted)


def _reorder_columns(family: FamilyRow, layer: nn.Module, order: Sequence[int]) -> None:
    """Let heads that move take their columns of the table that all layers share along."""
    columns = head_order(family, layer) or range(len(order))
    set_head_order(family, layer, [columns[position] for position in order])


class _Permutation(NamedTuple):
    """A parameter, and the new order of its entries along one dimension."""

    parameter: nn.Parameter
    dim: int
    order: torch.Tensor


def _permutations(net: nn.Module, order: Orders) -> list[_Permutation]:
    """Return everything that has to move.

    All of it is checked before anything moves, so that an error leaves the network unchanged.
    """
    family = family_of(net)
    sizes = blueprint(net)
    layers = layers_of(net)
    permutations = []
    for unit, orders in order.items():
        for i, listed in orders.items():
            count = units_of(family, layers[i], **sizes["layers"][i])[unit]
            index = torch.as_tensor(listed).cpu().long()
            if not torch.equal(index.sort().values, torch.arange(count)):
                raise ValueError(f"{unit}.{i}: the order is not a permutation of {count} positions.")
            # Every tensor with a dimension of heads or neurons must move, or the outputs would change.
            for part in slices_of(family, layers[i]):
                linear: Any = layers[i].get_submodule(part.path)
                if part.unit != unit or getattr(linear, part.name) is None:
                    continue
                if part.name not in linear._parameters:
                    raise ValueError(f"layer {i}, {part.path}.{part.name}: a parametrised tensor cannot be permuted.")
                entries = part.entries(index, count)  # a head has several neighbouring ones
                permutations.append(_Permutation(linear._parameters[part.name], part.dim, entries))
    return permutations


def _with_state(parameter: nn.Parameter, optimizer: torch.optim.Optimizer | None) -> list[torch.Tensor]:
    """Return a parameter with its gradient and those tensors of an optimiser's state that have its shape."""
    tensors: list[torch.Tensor] = [parameter]
    if parameter.grad is not None:
        tensors.append(parameter.grad)
    if optimizer is None:
        return tensors
    state = optimizer.state.get(parameter, {})
    for value in state.values():
        if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
            tensors.append(value)
    return tensors
