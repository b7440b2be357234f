"""How much each head and each neuron matters, from the weights alone or from the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

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


def taylor(
    net: nn.Module,
    batches: Iterable[Batch],
    loss: Callable[[Any, Batch], torch.Tensor],
    neurons: Literal["out", "both"] = "out",
) -> Scores:
    """Score each head and neuron by how much the loss would change without it, to first order.

    A mask of ones on the heads' contexts, or on the neurons' activations, has the gradient
    ``sum of W * dL/dW`` over the columns of the output map that read the head or neuron. Its absolute value is
    taken for each batch and averaged over the batches (Michel et al., arXiv 1905.10650, eq. 3; DynaBERT,
    arXiv 2004.04037, §2.1). The network runs in eval mode; its gradients and mode are left as they were.

    Args:
        net: the network.
        batches: the data.
        loss: the loss of the network's outputs on a batch.
        neurons: ``out`` reads a neuron's outgoing weights only; ``both`` adds the absolute value of the same sum over
            its incoming weights and bias, as DynaBERT's published code does.

    Returns:
        ``{"heads": {layer: (heads,)}, "ffn": {layer: (neurons,)}}``, larger is more important.

    Raises:
        ValueError: there are no batches.
    """
    family, layers, head_size = family_of(net), layers_of(net), blueprint(net)["head_size"]
    sides: list[Any] = [(family.merge, "weight", 1, "heads"), (family.shrink, "weight", 1, "ffn")]
    sides += [(family.widen, "weight", 0, "ffn"), (family.widen, "bias", 0, "ffn")] * (neurons == "both")
    owners: list[Any] = [
        (i, layer.get_submodule(path), *side) for i, layer in enumerate(layers) for path, *side in sides
    ]
    scores: Scores = {"heads": {}, "ffn": {}}
    count, training, frozen = 0, net.training, [p for p in net.parameters() if not p.requires_grad]
    net.eval()
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        for batch in batches:
            count += 1
            with torch.enable_grad(), parametrize.cached():
                weights = [getattr(owner, name) for _, owner, name, _, _ in owners]
                value = loss(net(**batch.inputs), batch)
                gradients = torch.autograd.grad(value, weights, allow_unused=True)
            effects: dict[Any, Any] = {}  # a map's weight and bias count together
            for (i, owner, _, dim, unit), weight, gradient in zip(owners, weights, gradients, strict=True):
                product = weight.detach() * (0 if gradient is None else gradient)
                effect = product.movedim(dim, 0).flatten(1).sum(1) if product.ndim > 1 else product
                effects[unit, i, owner] = effects.get((unit, i, owner), 0) + effect
            for (unit, i, _), effect in effects.items():
                effect = effect.view(-1, head_size).sum(1) if unit == "heads" else effect
                scores[unit][i] = scores[unit].get(i, 0) + effect.abs()
    finally:
        net.train(training)
        for parameter in frozen:
            parameter.requires_grad_(False)
    if not count:
        raise ValueError("batches: there are none. Expected at least one.")
    return {unit: {i: values / count for i, values in of_layer.items()} for unit, of_layer in scores.items()}
