"""Importance scores of heads and neurons, from the weights alone or from the loss.

All scores read the same tensors, those that the slice map assigns to heads and neurons; they differ in the function of
weight and gradient that they sum over them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.nn.utils import parametrize

from nasframe.nn.elastic import Part, family_of, group_of, layers_of, slices_of
from nasframe.records import Batch

Scores = dict[str, dict[int, torch.Tensor]]
"""Unit (``heads``, ``ffn``) → layer → one score for each head or neuron.

If query heads share keys and values in groups, which stay or go together, there is one score for each group."""
Loss = Callable[[Any, Batch], torch.Tensor]
"""The mean loss of a network's outputs on a batch."""


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
    scores: Scores = {"heads": {}, "ffn": {}}
    for i, layer in enumerate(layers_of(net)):
        for part in slices_of(family_of(net), layer):
            tensor: Any = getattr(layer.get_submodule(part.path), part.name)
            if tensor is not None:  # maps may have no bias
                _add(scores, part.unit, i, part.sums(tensor.abs()))
    return scores


def _add(scores: Scores, unit: str, layer: int, values: torch.Tensor) -> None:
    """Add to the scores of a layer's heads or neurons, which start at 0."""
    layers = scores.setdefault(unit, {})
    layers[layer] = layers.get(layer, 0) + values


def taylor(
    net: nn.Module,
    batches: Iterable[Batch],
    loss: Loss,
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
        neurons: ``out`` reads only a neuron's outgoing weights; ``both`` adds the absolute value of the same sum over
            its incoming weights and bias, as DynaBERT's published code does.

    Returns:
        ``{"heads": {layer: (heads,)}, "ffn": {layer: (neurons,)}}``, larger is more important.

    Raises:
        ValueError: there are no batches.
    """
    return _mean(_effects(net, batches, loss, neurons, torch.abs))


def fisher(net: nn.Module, batches: Iterable[Batch], loss: Loss) -> Scores:
    """Score each head and neuron by the diagonal of the empirical Fisher information of its mask.

    That is the mean over the batches of the mask's squared gradient, with the masks of :func:`taylor`. To second
    order, it is the increase of the loss without the head or neuron (Kwon et al., arXiv 2204.09656, eq. 6). With one
    example in each batch it is the Fisher information; with more, an approximation by their sums.

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


def accumulated(net: nn.Module, batches: Iterable[Batch], loss: Loss) -> Scores:
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
    sums = Accumulated(net)
    with _evaluated(net):
        for batch in batches:
            with torch.enable_grad(), parametrize.cached():
                value = loss(net(**batch.inputs), batch)
                gradients = torch.autograd.grad(value, sums.weights(), allow_unused=True)
                sums.add(gradients)
        return sums.scores()


class Accumulated:
    """Sums of absolute gradients, step by step, and ROSITA's scores from them (arXiv 2103.11367, §3.2).

    A weight's importance is ``|w| · mean |∂L/∂w|``: to first order, the change of the loss without it. A head's is the
    sum over the columns of the attention's output matrix that read it; a neuron's over its row of the matrix into the
    neurons and its column of the one out of them. Biases do not count. If such a map is factorised, the factor that
    holds the head's or neuron's rows or columns is read.

    Args:
        net: the network; the caller computes its gradients.

    >>> from nasframe.testing.toy import tiny_net
    >>> sums = Accumulated(net := tiny_net())
    >>> sums.add([torch.ones_like(weight) for weight in sums.weights()])
    >>> weight = net.bert.encoder.layer[0].attention.output.dense.weight.detach()
    >>> torch.allclose(sums.scores()["heads"][0], weight.abs().sum(0).view(4, 8).sum(1))
    True
    """

    def __init__(self, net: nn.Module) -> None:
        family = family_of(net)
        maps = (*family.readers("heads"), *family.writers("ffn"), *family.readers("ffn"))
        self.entries = _tensors_read(net, {(path, "weight") for path in maps})
        self.sums = [torch.zeros_like(weight) for weight in self.weights()]
        self.steps = 0

    def weights(self) -> list[torch.Tensor]:
        """Return the tensors whose gradients :meth:`add` expects, in this order."""
        return [entry.linear.weight for entry in self.entries]

    @torch.no_grad()
    def add(self, gradients: Iterable[torch.Tensor | None]) -> None:
        """Add one step's gradients; ``None`` is zero."""
        # One fused operation over all tensors: this runs after every training step.
        present = []
        for total, gradient in zip(self.sums, gradients, strict=True):
            if gradient is not None:
                present.append((total, gradient))
        if present:
            totals, present_gradients = zip(*present, strict=True)
            torch._foreach_add_(totals, torch._foreach_abs(present_gradients))  # (R1)
        self.steps += 1

    def reset(self) -> None:
        """Set the sums to zero."""
        torch._foreach_zero_(self.sums)
        self.steps = 0

    @torch.no_grad()
    def scores(self) -> Scores:
        """Return ``{"heads": {layer: (heads,)}, "ffn": {layer: (neurons,)}}``.

        Raises:
            ValueError: nothing was added.
        """
        if not self.steps:
            raise ValueError("no gradients were added. Expected those of at least one step.")
        scores: Scores = {"heads": {}, "ffn": {}}
        for entry, total in zip(self.entries, self.sums, strict=True):
            summed = entry.linear.weight.abs() * total
            units = entry.part.sums(summed) / self.steps  # (R2)
            _add(scores, entry.part.unit, entry.layer, units)
        return scores


class StepEffects:
    """Effects of heads and neurons on the loss, gathered from the gradients of a training with sub-networks.

    The effect of a head or neuron in one step is that of :func:`taylor`: ``|Σ W · ∂L/∂W|`` over the weights that read
    it. Its score is the mean over the steps whose sub-networks have it, so that the first ones of a layer, which every
    sub-network has, gain nothing from being trained more often.

    Args:
        net: the network; the caller computes its gradients.

    >>> from nasframe.testing.toy import tiny_net
    >>> effects = StepEffects(net := tiny_net())
    >>> for weight in effects.weights():
    ...     weight.grad = torch.ones_like(weight)
    >>> effects.add(effects.of_step({"ffn.0": 2}))
    >>> (effects.scores()["ffn"][0] > 0).sum().item()  # no step had other neurons of this layer
    2
    """

    def __init__(self, net: nn.Module) -> None:
        family = family_of(net)
        self.entries = _tensors_read(net, {(family.merge, "weight"), (family.shrink, "weight")})
        self.sums: list[torch.Tensor] = []
        self.uses: list[torch.Tensor] = []
        for entry in self.entries:
            weight = entry.linear.weight
            zeros = torch.zeros(weight.shape[entry.part.dim] // entry.part.length(1), device=weight.device)
            self.sums.append(zeros)
            self.uses.append(zeros.clone())

    def weights(self) -> list[torch.Tensor]:
        """Return the tensors whose gradients are read."""
        return [entry.linear.weight for entry in self.entries]

    @torch.no_grad()
    def of_step(self, used: Mapping[str, int]) -> list[torch.Tensor]:
        """Return the effects in one step, from the gradients as they stand.

        Args:
            used: ``heads.i`` and ``ffn.i``: how many heads and neurons of layer ``i`` the step used, the first ones.
                Layers that are left out were not used.

        Returns:
            For each of :meth:`weights` the effects of the heads or neurons that were used.
        """
        effects = []
        for entry in self.entries:
            count = used.get(f"{entry.part.unit}.{entry.layer}", 0) // entry.group
            weight = entry.linear.weight
            if not count or weight.grad is None:
                effects.append(weight.new_zeros(0))
                continue
            sums = entry.part.sums(weight * weight.grad)
            effects.append(sums[:count].abs())
        return effects

    def add(self, effects: Sequence[torch.Tensor]) -> None:
        """Add the effects that :meth:`of_step` returned."""
        for total, uses, effect in zip(self.sums, self.uses, effects, strict=True):
            total[: len(effect)] += effect
            uses[: len(effect)] += 1

    def scores(self) -> Scores:
        """Return ``{"heads": {layer: (heads,)}, "ffn": {layer: (neurons,)}}``; 0 for what no step used."""
        scores: Scores = {"heads": {}, "ffn": {}}
        for entry, total, uses in zip(self.entries, self.sums, self.uses, strict=True):
            _add(scores, entry.part.unit, entry.layer, total / uses.clamp(min=1))
        return scores


def ranked(scores: Scores) -> dict[str, dict[int, torch.Tensor]]:
    """Return orders for ``nasframe.nn.rewire`` that put the most important head and neuron of each layer first.

    Equal ones keep their order, so that the result does not depend on the machine.

    >>> ranked({"ffn": {0: torch.tensor([1.0, 3.0, 2.0])}})["ffn"][0].tolist()
    [1, 2, 0]
    """
    orders: dict[str, dict[int, torch.Tensor]] = {}
    for unit, layers in scores.items():
        orders[unit] = {}
        for layer, values in layers.items():
            orders[unit][layer] = values.argsort(descending=True, stable=True)
    return orders


@contextmanager
def _evaluated(net: nn.Module) -> Iterator[None]:
    """Let a network run in eval mode with gradients for all its parameters; restore it after the block."""
    training = net.training
    # Frozen parameters matter as much as others, but autograd gives gradients only for those that require them.
    frozen = [parameter for parameter in net.parameters() if not parameter.requires_grad]
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
    loss: Loss,
    neurons: str,
    of: Callable[[torch.Tensor], torch.Tensor],
) -> Iterator[Scores]:
    """Yield for each batch a function of the gradients of the masks on contexts and activations.

    No mask is ever built: its gradient is the sum of W · ∂L/∂W over the weights that read the masked value.
    """
    family = family_of(net)
    read = {(path, "weight") for path in (*family.readers("heads"), *family.readers("ffn"))}
    if neurons == "both":
        for path in family.writers("ffn"):
            read |= {(path, "weight"), (path, "bias")}
    entries = _tensors_read(net, read)
    with _evaluated(net):
        for batch in batches:
            # Cached, so that the network uses the very tensors whose gradients are asked for.
            with torch.enable_grad(), parametrize.cached():
                weights = [getattr(entry.linear, entry.part.name) for entry in entries]
                value = loss(net(**batch.inputs), batch)
                gradients = torch.autograd.grad(value, weights, allow_unused=True)
            scores: Scores = {"heads": {}, "ffn": {}}
            for (unit, layer, _), effect in _mask_gradients(entries, weights, gradients).items():
                _add(scores, unit, layer, of(effect))
            yield scores


def _mask_gradients(
    entries: Sequence[_Read], weights: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor | None]
) -> dict[tuple[str, int, nn.Module], torch.Tensor]:
    """Return Σ W · ∂L/∂W for each head or neuron, by unit, layer and linear map.

    A map's weight and bias count together, because one mask stands before both.
    """
    sums: dict[tuple[str, int, nn.Module], Any] = {}
    for entry, weight, gradient in zip(entries, weights, gradients, strict=True):
        if gradient is None:
            gradient = torch.zeros_like(weight)
        key = (entry.part.unit, entry.layer, entry.linear)
        products = weight.detach() * gradient
        sums[key] = sums.get(key, 0) + entry.part.sums(products)
    return sums


class _Read(NamedTuple):
    """One tensor that a score reads.

    Attributes:
        layer: the layer.
        linear: the linear map that has the tensor.
        part: where the heads or neurons lie in it.
        group: query heads that are scored together, because they share keys and values; 1 for neurons.
    """

    layer: int
    linear: Any
    part: Part
    group: int


def _tensors_read(net: nn.Module, wanted: Collection[tuple[str, str]]) -> list[_Read]:
    """List the tensors of a network that are wanted, by (path of the stock map, tensor name), layer by layer."""
    family = family_of(net)
    entries = []
    for i, layer in enumerate(layers_of(net)):
        # Wanted are stock maps. If one is a product of two maps, its part is in the factor that has heads or neurons.
        for part in slices_of(family, layer):
            linear: Any = layer.get_submodule(part.path)
            stock_path = family.maps[part.map].path
            if (stock_path, part.name) in wanted and getattr(linear, part.name) is not None:
                group = group_of(family, layer) if part.unit == "heads" else 1
                entries.append(_Read(i, linear, part, group))
    return entries


def _mean(batches: Iterable[Scores]) -> Scores:
    """Average scores over batches.

    Raises:
        ValueError: there are none.
    """
    sums: Scores = {}
    count = 0
    for scores in batches:
        count += 1
        for unit, layers in scores.items():
            for layer, values in layers.items():
                _add(sums, unit, layer, values)
    if not count:
        raise ValueError("batches: there are none. Expected at least one.")
    means: Scores = {}
    for unit, layers in sums.items():
        means[unit] = {layer: values / count for layer, values in layers.items()}
    return means
