"""How much each head and each neuron matters, from the weights alone or from the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from nasframe.nn.blueprint import blueprint
from nasframe.nn.elastic import family_of, layers_of
from nasframe.types import Batch

Scores = dict[str, dict[int, torch.Tensor]]


@torch.no_grad()
def magnitude(net: nn.Module) -> Scores:
    """Score each head and neuron by the sum of the absolute values of all its weights.

    Args:
        net: the network.

    Returns:
        ``{"heads": {layer: (heads,)}, "ffn": {layer: (neurons,)}}``, larger is more important.

    >>> from nasframe.testing.toy import tiny_net
    >>> magnitude(tiny_net())["heads"][0].shape
    torch.Size([4])
    """
    family, head_size = family_of(net), blueprint(net)["head_size"]
    scores: Scores = {"heads": {}, "ffn": {}}
    for i, layer in enumerate(layers_of(net)):
        for path, name, dim, unit in family.slices:
            tensor: Any = getattr(layer.get_submodule(path), name)
            if tensor is not None:
                rows = tensor.abs().movedim(dim, 0).flatten(1).sum(1) if tensor.ndim > 1 else tensor.abs()
                scores[unit][i] = scores[unit].get(i, 0) + rows
        scores["heads"][i] = scores["heads"][i].view(-1, head_size).sum(1)
    return scores


def taylor(net: nn.Module, batches: Iterable[Batch], loss: Callable[[Any, Batch], torch.Tensor]) -> Scores:
    """Score each head and neuron by how much the loss would change without it, to first order.

    A mask of ones on the heads' contexts, or on the neurons' activations, has the gradient
    ``sum of W * dL/dW`` over the columns of the output map that read the head or neuron. Its absolute value is
    taken for each batch and averaged over the batches (Michel et al., arXiv 1905.10650, eq. 3; DynaBERT,
    arXiv 2004.04037, §2.1). The network runs in eval mode; its gradients and mode are left as they were.

    Args:
        net: the network.
        batches: the data.
        loss: the loss of the network's outputs on a batch.

    Returns:
        ``{"heads": {layer: (heads,)}, "ffn": {layer: (neurons,)}}``, larger is more important.

    Raises:
        ValueError: there are no batches.
    """
    family, head_size, layers = family_of(net), blueprint(net)["head_size"], layers_of(net)
    maps: list[Any] = [layer.get_submodule(path) for layer in layers for path in (family.merge, family.shrink)]
    sums = [torch.zeros(linear.in_features, device=linear.weight.device) for linear in maps]
    for i in range(len(layers)):
        sums[2 * i] = sums[2 * i].view(-1, head_size).sum(1)
    count, training, frozen = 0, net.training, [p for p in net.parameters() if not p.requires_grad]
    net.eval()
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        for batch in batches:
            count += 1
            with torch.enable_grad(), parametrize.cached():
                weights = [linear.weight for linear in maps]
                value = loss(net(**batch.inputs), batch)
                gradients = torch.autograd.grad(value, weights, allow_unused=True)
            for k, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
                mask = (weight.detach() * (0 if gradient is None else gradient)).sum(0)
                sums[k] += (mask.view(-1, head_size).sum(1) if k % 2 == 0 else mask).abs()
    finally:
        net.train(training)
        for parameter in frozen:
            parameter.requires_grad_(False)
    if not count:
        raise ValueError("batches: there are none. Expected at least one.")
    return {
        "heads": {i: sums[2 * i] / count for i in range(len(layers))},
        "ffn": {i: sums[2 * i + 1] / count for i in range(len(layers))},
    }
