"""Exact costs of sub-networks without building them.

The slice map (``nasframe.nn.elastic.slices_of``) lists the rows and columns that each head and neuron owns. From it
follows the cost that each layer, head and neuron adds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nasframe.nn.additive import RANK, Additive, LayerCost
from nasframe.nn.blueprint import blueprint, build
from nasframe.nn.custom import Described
from nasframe.nn.elastic import WORD_EMBEDDINGS, Family, base_of, family_of, layers_of, slices_of
from nasframe.nn.slices import weights
from nasframe.records import Arch

Part = Literal["all", "backbone", "encoder"]
NumberCost = Callable[[torch.Tensor], int]
"""A tensor → the cost of each number that is stored in it."""


def params(net: nn.Module, part: Part = "all") -> Additive:
    """Return the count of parameters: every weight that would be saved, tied ones once.

    Args:
        net: the network; parametrised tensors count as they act.
        part: ``all``, ``backbone`` (without the task head; a pooler belongs to the backbone), or ``encoder``
            (the layers only).

    >>> from nasframe.testing.toy import tiny_net
    >>> net = tiny_net()
    >>> params(net).of() == sum(p.numel() for p in net.parameters())
    True
    """
    return _stored(net, part, lambda tensor: 1)


def size(net: nn.Module) -> Additive:
    """Return the bytes of all parameters in their present types, tied ones once, without a file's header."""
    return _stored(net, "all", torch.Tensor.element_size)


def macs(
    net: nn.Module, batch: int = 1, length: int = 128, count: Literal["matmul", "torchprofile"] = "matmul"
) -> Additive:
    """Return the count of multiply-adds of one forward.

    A layer of ``a`` attention columns (heads x head size) and ``f`` neurons, at width ``d`` and length ``S``, has
    ``4 S d a + 2 S² a + 2 S d f`` (projections, scores and their application, feed-forward); a map that is a product of
    rank ``r`` has ``S r (d + a)`` or ``S r (d + f)``. The parts outside the layers are counted by running the network
    without layers and without weights.

    Args:
        net: the network.
        batch: number of sequences.
        length: tokens in each, padding included.
        count: ``matmul`` counts matrix products, as torch's FlopCounterMode does (whose FLOPs are twice this; it
            overlooks the fused attention kernel of CPUs, which eager attention or the meta device avoid).
            ``torchprofile`` adds what the counter behind YOCO-BERT's figures (arXiv 2106.02435) adds: ``S d`` for
            each normalisation, and ``S``.

    >>> from nasframe.testing.toy import tiny_net
    >>> net = tiny_net()
    >>> macs(net, batch=2, length=5).of({"layers": []})  # pooler and classifier
    2176.0
    """
    if isinstance(net, Described):
        return Additive([], net.forward_macs(batch), [])
    base_net = base_of(net)
    sizes = blueprint(net)
    width = base_net.config.hidden_size
    tokens = batch * length
    # torchprofile counts an addition for each normalised number.
    norm = tokens if count == "torchprofile" else 0
    costs = []
    for layer in layers_of(net):
        fixed, column, neuron = _products(layer, family_of(net))
        # The scores and their application, 2 S² a, belong to the heads, though they are products of no weights.
        head = sizes["head_size"] * (column * length + 2 * length**2)
        always = 2.0 * norm * width + tokens * fixed  # a layer has two normalisations
        costs.append(LayerCost(always, batch * head, tokens * neuron))
    once, per_token = _outside(net)
    embedding_width = base_net.embeddings.LayerNorm.normalized_shape[0]
    base = batch * (once + per_token * length) + norm * (embedding_width + 1)
    rank = sizes[RANK]
    rank_column = 0.0
    if rank:
        words: Any = base_net.get_submodule(WORD_EMBEDDINGS)
        rank_column = tokens * words.project.out_features
    return Additive(sizes["layers"], base, costs, (rank, rank_column))


def _products(layer: nn.Module, family: Family) -> tuple[int, int, int]:
    """Return a token's multiply-adds in a layer's linear maps: always, for each attention column, for each neuron."""
    products = {"fixed": 0, "heads": 0, "ffn": 0}
    entries = zip(slices_of(family, layer), family.slices, strict=True)
    for (path, name, dim, unit), (stock_path, *_) in entries:
        if name != "weight":
            continue
        factor: Any = layer.get_submodule(path)
        products[unit] += factor.weight.shape[1 - dim]
        if path != stock_path:
            # A product of two maps: one factor narrows, and was counted above; the other one is always whole.
            product: Any = layer.get_submodule(stock_path)
            outer = product.out_features if dim else product.in_features
            products["fixed"] += product.rank * outer
    return products["fixed"], products["heads"], products["ffn"]


def forward_macs(net: nn.Module, arch: Arch | None, batch: int, length: int) -> float:
    """Return the multiply-adds of a forward through a sub-network, or the whole network if ``arch`` is ``None``.

    Args:
        net: the network.
        arch: the sub-network's sizes.
        batch: number of sequences.
        length: tokens in each, padding included.

    >>> from nasframe.testing.toy import tiny_net
    >>> forward_macs(tiny_net(layers=1), {"heads.0": 0}, 1, 2)
    9280.0
    """
    return batch * macs(net, 1, length).of(arch)


def _stored(net: nn.Module, part: Part, each: NumberCost) -> Additive:
    """Return the sum over all stored numbers of ``each(tensor)``, the cost of one number of a tensor."""
    if isinstance(net, Described):
        total = 0.0
        for parameter in net.counted().parameters():
            total += parameter.numel() * each(parameter)
        return Additive([], total, [])
    base_net = base_of(net)
    sizes = blueprint(net)
    costs = []
    for layer in layers_of(net):
        costs.append(_stored_layer(net, layer, sizes["head_size"], each))

    # The tensors outside the layers, tied ones once. The part "encoder" has none.
    inside = set(map(id, layers_of(net).modules()))
    rest = {"all": net, "backbone": base_net}.get(part)
    outside: dict[int, torch.Tensor] = {}
    if rest is not None:
        for _, _, tensor in _tensors(rest, inside):
            outside[id(tensor)] = tensor
    base = 0.0
    for tensor in outside.values():
        base += tensor.numel() * each(tensor)

    column = 0.0
    if sizes[RANK]:
        # The factors' first dimensions are words and embedding width: a column has one number of each row.
        words = base_net.get_submodule(WORD_EMBEDDINGS)
        for _, _, tensor in _tensors(words):
            if id(tensor) in outside:
                column += tensor.shape[0] * each(tensor)
    return Additive(sizes["layers"], base, costs, (sizes[RANK], column))


def _stored_layer(net: nn.Module, layer: nn.Module, head_size: int, each: NumberCost) -> LayerCost:
    """Return the costs of a layer's numbers: always, for each head, for each neuron."""
    narrow: dict[tuple[str, str], tuple[int | None, str]] = {}
    for path, name, dim, unit in slices_of(family_of(net), layer):
        narrow[path, name] = (dim, unit)
    rows = {"fixed": 1, "heads": head_size, "ffn": 1}  # rows or columns of a tensor that a unit owns
    cost = {"fixed": 0.0, "heads": 0.0, "ffn": 0.0}
    for path, name, tensor in _tensors(layer):
        narrow_dim, owner = narrow.get((path, name), (None, "fixed"))
        # A unit owns whole rows or columns: one number for each position along the other dimensions.
        others = list(tensor.shape)
        if narrow_dim is not None:
            del others[narrow_dim]
        numbers = math.prod(others) * rows[owner]
        cost[owner] += numbers * each(tensor)
    return LayerCost(cost["fixed"], cost["heads"], cost["ffn"])


def _tensors(net: nn.Module, without: Collection[int] = ()) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Yield the path, name and tensor of each weight, but for modules whose ids are in ``without``."""
    for path, module, name in weights(net):
        if id(module) not in without:
            yield path, name, getattr(module, name)


# By all that the count depends on, and not by network: pipelines have many networks with the same outside.
_OUTSIDE: dict[str, tuple[float, float]] = {}


def _outside(net: nn.Module) -> tuple[float, float]:
    """Return the MACs outside the layers for one sequence: those that it always takes, and those for each token."""
    config = base_of(net).config
    settings = config.to_dict()
    empty_sizes = blueprint(net) | {"layers": [], "factorized": {}}
    for mapping in (settings, empty_sizes):
        mapping.pop("quantised", None)  # it changes no count, but differs between the networks of a search
    key = f"{settings} {empty_sizes}"
    if key not in _OUTSIDE:
        # Without attention the count is linear in the length, so two lengths determine it.
        empty = build(config, empty_sizes)
        at_two = _counted(empty, 2)
        at_three = _counted(empty, 3)
        per_token = at_three - at_two
        _OUTSIDE[key] = (at_two - 2 * per_token, per_token)
    return _OUTSIDE[key]


def _counted(net: nn.Module, length: int) -> float:
    """Return the MACs of one sequence, counted by running a network on the meta device."""
    tokens = torch.zeros(1, length, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        net(input_ids=tokens)
    return counter.get_total_flops() / 2  # a multiply-add is two FLOPs
