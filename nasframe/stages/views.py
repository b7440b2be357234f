"""The check that a space's views are what they say: architectures that cost differently compute different things.

A view that forgets its architecture and returns the whole network gives every architecture the same score. Nothing else
would show that: a search on it ends, and its winner means nothing.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nasframe.search.domain import drawn

if TYPE_CHECKING:
    import torch
    from torch import nn

    from nasframe.records import Arch
    from nasframe.search.costs import CostFunction

DRAWS = 3
"""Random architectures that are compared, besides the smallest and the largest."""
EXAMPLES = 2
"""Examples of the probe batch that they are run on."""


def views_fault(space: Any, net: nn.Module, costs: CostFunction, inputs: Mapping[str, torch.Tensor]) -> str:
    """Say which architectures compute the same although they should not; nothing if there are none.

    Args:
        space: the space.
        net: its super-network.
        costs: architecture → its costs.
        inputs: a few examples.
    """
    archs = _distinct(drawn(space.domain, DRAWS))
    suspects = _suspicious(_same(space, net, archs, inputs), archs, costs)
    if suspects:
        # Fresh networks have constants in them that may hide a difference, as a head of zeros does.
        random_net = _randomised(net)
        suspects = _suspicious(_same(space, random_net, archs, inputs), archs, costs)
    if not suspects:
        return ""
    first, second = suspects[0]
    return (
        f"{dict(archs[first])} and {dict(archs[second])} are different architectures, but their views compute exactly "
        "the same, also with random weights. Expected a view that runs the sub-network; does 'view' return the whole "
        "network? If architectures of this space may agree, it says so: views_may_agree = True."
    )


def _distinct(archs: Sequence[Arch]) -> list[Arch]:
    distinct: list[Arch] = []
    for arch in archs:
        if arch not in distinct:
            distinct.append(arch)
    return distinct


Pairs = list[tuple[int, int]]
"""Positions of two architectures each."""


def _same(space: Any, net: nn.Module, archs: Sequence[Arch], inputs: Mapping[str, torch.Tensor]) -> Pairs:
    """Return the pairs of architectures whose views have exactly the same outputs."""
    import torch

    from nasframe.nn.outputs import compared

    device = next(net.parameters()).device
    on_device = {name: tensor.to(device) for name, tensor in inputs.items()}
    was_training = net.training
    net.eval()
    outputs = []
    try:
        with torch.no_grad():
            for arch in archs:
                outputs.append(compared(space.view(net, arch)(**on_device)))
    finally:
        net.train(was_training)
    pairs = []
    for first, second in itertools.combinations(range(len(archs)), 2):
        if _equal(outputs[first], outputs[second]):
            pairs.append((first, second))
    return pairs


def _equal(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    import torch

    if first.keys() != second.keys():
        return False
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def _suspicious(pairs: Pairs, archs: Sequence[Arch], costs: CostFunction) -> Pairs:
    """Return the pairs that differ in a cost, or all of them if every architecture computes the same."""
    count = len(archs)
    if count > 1 and len(pairs) == count * (count - 1) // 2:
        return pairs
    return [(first, second) for first, second in pairs if costs(archs[first]) != costs(archs[second])]


def _randomised(net: nn.Module) -> nn.Module:
    """Return a copy of a network with random weights."""
    import torch

    copied = copy.deepcopy(net)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in copied.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.1 * noise + 0.05)
    return copied
