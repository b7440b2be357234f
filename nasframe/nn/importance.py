"""How much each head and each neuron matters, from the weights alone or from the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.nn.utils import parametrize

from nasframe.nn.blueprint import blueprint
from nasframe.nn.elastic import family_of, layers_of, slices_of
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
        for path, name, dim, unit in slices_of(family, layer):
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
    return _mean(_effects(net, batches, loss, neurons, torch.abs))


def fisher(net: nn.Module, batches: Iterable[Batch], loss: Callable[[Any, Batch], torch.Tensor]) -> Scores:
    """Score each head and neuron by the diagonal of the empirical Fisher information of its mask.

    That is the mean over the batches of the mask's squared gradient, with the masks of :func:`taylor`: to second
    order, what the loss would rise by without it (Kwon et al., arXiv 2204.09656, eq. 6). It is the Fisher information
    of single examples where a batch holds one, an approximation by their sums otherwise.

    Args:
        net: the network; it is left as it was.
        batches: the data.
        loss: the loss of the network's outputs on a batch.

    Returns:
        ``{"heads": {layer: (heads,)}, "ffn": {layer: (neurons,)}}``, larger is more important.

    Raises:
        ValueError: there are no batches.
    """
    return _mean(_effects(net, batches, loss, "out", torch.square))


def accumulated(net: nn.Module, batches: Iterable[Batch], loss: Callable[[Any, Batch], torch.Tensor]) -> Scores:
    """Score each head and neuron by ``Σ |w| · mean over batches of |∂L/∂w|`` over its weights, as ROSITA does.

    Args:
        net: the network; it is left as it was.
        batches: the data.
        loss: the loss of the network's outputs on a batch.

    Returns:
        See :class:`Accumulated`.

    Raises:
        ValueError: there are no batches.
    """
    found = Accumulated(net)
    with _evaluated(net):
        for batch in batches:
            with torch.enable_grad(), parametrize.cached():
                value = loss(net(**batch.inputs), batch)
                found.add(torch.autograd.grad(value, found.weights(), allow_unused=True))
        return found.scores()


class Scored(NamedTuple):
    """One tensor that a score reads: its layer and unit, the linear map, and the dimension along which units lie."""

    layer: int
    unit: str
    linear: Any
    dim: int


class Accumulated:
    """Sums of absolute gradients, step by step, and ROSITA's scores from them (arXiv 2103.11367, §3.2).

    A weight's importance is ``|w| · mean |∂L/∂w|``: to first order, the change of the loss without it. A head's is the
    sum over the columns of the attention's output matrix that read it; a neuron's over its row of the matrix into the
    neurons and its column of the one out of them. Biases do not count. Where such a map is factorised, the factor that
    holds the head's or neuron's rows or columns is read.

    Args:
        net: the network; its gradients are read by whoever calls.

    >>> from nasframe.testing.toy import tiny_net
    >>> sums = Accumulated(net := tiny_net())
    >>> sums.add([torch.ones_like(weight) for weight in sums.weights()])
    >>> weight = net.bert.encoder.layer[0].attention.output.dense.weight.detach()
    >>> torch.allclose(sums.scores()["heads"][0], weight.abs().sum(0).view(4, 8).sum(1))
    True
    """

    def __init__(self, net: nn.Module) -> None:
        family, self.head_size = family_of(net), blueprint(net)["head_size"]
        read = {family.merge, family.widen, family.shrink}
        self.owners = [
            Scored(i, unit, layer.get_submodule(path), dim)
            for i, layer in enumerate(layers_of(net))
            for (path, name, dim, unit), (stock, *_) in zip(slices_of(family, layer), family.slices, strict=True)
            if name == "weight" and stock in read
        ]
        self.sums = [torch.zeros_like(weight) for weight in self.weights()]
        self.steps = 0

    def weights(self) -> list[torch.Tensor]:
        """Return the tensors whose gradients are wanted, in the order of the sums."""
        return [owner.linear.weight for owner in self.owners]

    @torch.no_grad()
    def add(self, gradients: Iterable[torch.Tensor | None]) -> None:
        """Add one step's gradients; ``None`` is zero."""
        pairs = [(total, g) for total, g in zip(self.sums, gradients, strict=True) if g is not None]
        if pairs:
            torch._foreach_add_([total for total, _ in pairs], torch._foreach_abs([g for _, g in pairs]))
        self.steps += 1

    def reset(self) -> None:
        """Forget the sums."""
        torch._foreach_zero_(self.sums)
        self.steps = 0

    @torch.no_grad()
    def scores(self) -> Scores:
        """Return ``{"heads": {layer: (heads,)}, "ffn": {layer: (neurons,)}}``.

        Raises:
            ValueError: nothing was added.
        """
        if not self.steps:
            raise ValueError("no gradients were added. Expected at least one step's.")
        scores: Scores = {"heads": {}, "ffn": {}}
        for (layer, unit, linear, dim), total in zip(self.owners, self.sums, strict=True):
            rows = (linear.weight.abs() * total).sum(1 - dim) / self.steps
            rows = rows.view(-1, self.head_size).sum(1) if unit == "heads" else rows
            scores[unit][layer] = scores[unit].get(layer, 0) + rows
        return scores


def ranked(scores: Scores) -> dict[str, dict[int, torch.Tensor]]:
    """Return the orders that put the most important head and neuron of each layer first, for ``nasframe.nn.rewire``.

    >>> ranked({"ffn": {0: torch.tensor([1.0, 3.0, 2.0])}})["ffn"][0].tolist()
    [1, 2, 0]
    """
    return {
        unit: {layer: values.argsort(descending=True, stable=True) for layer, values in layers.items()}
        for unit, layers in scores.items()
    }


@contextmanager
def _evaluated(net: nn.Module) -> Iterator[None]:
    """Let a network run in eval mode with gradients for all its parameters; leave it as it was."""
    training, frozen = net.training, [p for p in net.parameters() if not p.requires_grad]
    net.eval()
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield
    finally:
        net.train(training)
        for parameter in frozen:
            parameter.requires_grad_(False)


def _effects(
    net: nn.Module,
    batches: Iterable[Batch],
    loss: Callable[[Any, Batch], torch.Tensor],
    neurons: str,
    of: Callable[[torch.Tensor], torch.Tensor],
) -> Iterator[Scores]:
    """Yield, batch by batch, a function of the gradients of the masks on contexts and activations."""
    family, layers, head_size = family_of(net), layers_of(net), blueprint(net)["head_size"]
    wanted = {(family.merge, "weight"), (family.shrink, "weight")}
    wanted |= {(family.widen, "weight"), (family.widen, "bias")} if neurons == "both" else set()
    owners: list[Any] = [
        (i, layer.get_submodule(path), name, dim, unit)
        for i, layer in enumerate(layers)
        for (path, name, dim, unit), (stock, *_) in zip(slices_of(family, layer), family.slices, strict=True)
        if (stock, name) in wanted
    ]
    with _evaluated(net):
        for batch in batches:
            with torch.enable_grad(), parametrize.cached():
                weights = [getattr(owner, name) for _, owner, name, _, _ in owners]
                value = loss(net(**batch.inputs), batch)
                gradients = torch.autograd.grad(value, weights, allow_unused=True)
            effects: dict[Any, Any] = {}  # a map's weight and bias count together
            for (i, owner, _, dim, unit), weight, gradient in zip(owners, weights, gradients, strict=True):
                product = weight.detach() * (0 if gradient is None else gradient)
                effect = product.movedim(dim, 0).flatten(1).sum(1) if product.ndim > 1 else product
                effects[unit, i, owner] = effects.get((unit, i, owner), 0) + effect
            scores: Scores = {"heads": {}, "ffn": {}}
            for (unit, i, _), effect in effects.items():
                effect = effect.view(-1, head_size).sum(1) if unit == "heads" else effect
                scores[unit][i] = scores[unit].get(i, 0) + of(effect)
            yield scores


def _mean(found: Iterable[Scores]) -> Scores:
    """Average scores over batches.

    Raises:
        ValueError: there are none.
    """
    total: Scores = {}
    count = 0
    for scores in found:
        count += 1
        for unit, layers in scores.items():
            known = total.setdefault(unit, {})
            for layer, values in layers.items():
                known[layer] = known.get(layer, 0) + values
    if not count:
        raise ValueError("batches: there are none. Expected at least one.")
    return {unit: {i: values / count for i, values in of_layer.items()} for unit, of_layer in total.items()}
