"""Exact costs of sub-networks without building them.

The slice map (``nasframe.nn.elastic.slices_of``) lists the rows and columns that each head and neuron owns. From it
follows the cost that each layer, head and neuron adds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.initialization import no_init_weights

from nasframe.errors import UsageError
from nasframe.nn.additive import RANK, Additive, LayerCost
from nasframe.nn.blueprint import blueprint, build
from nasframe.nn.elastic import FamilyRow, base_of, family_of, layers_of, slices_of, words_of
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

    A layer of BERT with ``a`` attention columns (heads x head size) and ``f`` neurons, at width ``d`` and length ``S``,
    has ``4 S d a + 2 S² a + 2 S d f`` (projections, scores and their application, feed-forward); a map that is a
    product of rank ``r`` has ``S r (d + a)`` or ``S r (d + f)``. Other families have more or fewer projections, which
    their slice map lists. The parts outside the layers are counted by running the network without layers and without
    weights.

    Args:
        net: the network.
        batch: number of sequences.
        length: tokens in each, padding included; images always have as many as their size gives.
        count: ``matmul`` counts matrix products, as torch's FlopCounterMode does (whose FLOPs are twice this; it
            overlooks the fused attention kernel of CPUs, which eager attention or the meta device avoid).
            ``torchprofile`` adds what the counter behind YOCO-BERT's figures (arXiv 2106.02435) adds: ``S d`` for
            each normalisation, and ``S``.

    >>> from nasframe.testing.toy import tiny_net
    >>> net = tiny_net()
    >>> macs(net, batch=2, length=5).of({"layers": []})  # pooler and classifier
    2176.0
    """
    family = family_of(net)
    sizes = blueprint(net)
    width = base_of(net).config.hidden_size
    tokens = tokens_of(net, length)
    # torchprofile counts an addition for each normalised number.
    norm = batch * tokens if count == "torchprofile" else 0
    costs = []
    for layer in layers_of(net):
        fixed, group_products, neuron = _products(layer, family)
        # The scores and their application, 2 S² of each column, belong to the heads, but are products of no weights.
        columns = sizes["head_size"] * sizes.get("group", 1)
        group = batch * (tokens * group_products + 2 * tokens**2 * columns)
        group += _position_products(layer, family, batch * tokens)
        always = 2.0 * norm * width + batch * tokens * fixed  # a layer has two normalisations
        costs.append(LayerCost(always, group, batch * tokens * neuron))
    base = _outside(net, batch, length)
    if norm:
        base += norm * (_embedding_width(net) + 1)
    rank = sizes[RANK]
    rank_column = 0.0
    if rank:
        rank_column = batch * tokens * words_of(net).project.out_features
    return Additive(sizes["layers"], base, costs, (rank, rank_column), sizes.get("group", 1))


def tokens_of(net: nn.Module, length: int) -> int:
    """Return the number of tokens that a network's layers see: of an image always as many, of a text its length.

    >>> from nasframe.testing.toy import tiny_net
    >>> tokens_of(tiny_net("bert"), 7), tokens_of(tiny_net("vit"), 7)
    (7, 17)
    """
    path = family_of(net).tokens
    if not path:
        return length
    return attrgetter(path)(base_of(net)).shape[1]


def _embedding_width(net: nn.Module) -> int:
    """Return the width of the normalisation in the embeddings, which torchprofile counts.

    Raises:
        UsageError: the network has normalisations in other places, for which the count was not defined.
    """
    embeddings = getattr(base_of(net), "embeddings", None)
    norm = getattr(embeddings, "LayerNorm", None)
    if not isinstance(norm, nn.LayerNorm):
        raise UsageError(
            f"count: torchprofile counts the normalisations of BERT, which a {type(net).__name__} does not have. "
            "Expected matmul."
        )
    return norm.normalized_shape[0]


def _products(layer: nn.Module, family: FamilyRow) -> tuple[int, int, int]:
    """Return a token's multiply-adds in a layer's linear maps: always, for each unit of heads, for each neuron."""
    products = {"fixed": 0, "heads": 0, "ffn": 0}
    for part in slices_of(family, layer):
        if part.name != "weight" or family.maps[part.map].positions:
            continue
        factor: Any = layer.get_submodule(part.path)
        # A unit owns whole rows or columns.
        products[part.unit] += factor.weight.shape[1 - part.dim] * part.length(1)
        stock_path = family.maps[part.map].path
        if part.path != stock_path:
            # A product of two maps: one factor narrows, and was counted above; the other one is always whole.
            product: Any = layer.get_submodule(stock_path)
            outer = product.in_features if part.outputs else product.out_features
            products["fixed"] += product.rank * outer
    return products["fixed"], products["heads"], products["ffn"]


def _position_products(layer: nn.Module, family: FamilyRow, tokens: int) -> int:
    """Return a head's multiply-adds for relative positions in a forward of ``tokens`` tokens of all examples.

    In DeBERTa-v2 (He et al., arXiv 2006.03654, eq. 4), a table of positions goes through the maps of queries and keys,
    or through maps of its own, once for all examples; the queries of all tokens are multiplied with its keys
    (``c2p``), and their keys with its queries (``p2c``).
    """
    attention: Any = layer.get_submodule(family.attention)
    if not getattr(attention, "relative_attention", False):
        return 0
    rows = 2 * attention.pos_ebd_size
    projections = 0
    for part in slices_of(family, layer):
        is_used = part.map in ("query", "key") if attention.share_att_key else family.maps[part.map].positions
        if is_used and part.name == "weight":
            weight: Any = layer.get_submodule(part.path).weight
            projections += rows * weight.shape[1 - part.dim] * part.length(1)
    kinds = {"c2p", "p2c"} & set(attention.pos_att_type)
    return projections + len(kinds) * tokens * rows * getattr(attention, family.head_size)


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
    return macs(net, batch, length).of(arch)


def _stored(net: nn.Module, part: Part, each: NumberCost) -> Additive:
    """Return the sum over all stored numbers of ``each(tensor)``, the cost of one number of a tensor."""
    base_net = base_of(net)
    sizes = blueprint(net)
    costs = []
    for layer in layers_of(net):
        costs.append(_stored_layer(net, layer, each))

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
        for _, _, tensor in _tensors(words_of(net)):
            if id(tensor) in outside:
                column += tensor.shape[0] * each(tensor)
    return Additive(sizes["layers"], base, costs, (sizes[RANK], column), sizes.get("group", 1))


def _stored_layer(net: nn.Module, layer: nn.Module, each: NumberCost) -> LayerCost:
    """Return the costs of a layer's numbers: always, for each unit of heads, for each neuron."""
    narrow = {(part.path, part.name): part for part in slices_of(family_of(net), layer)}
    cost = {"fixed": 0.0, "heads": 0.0, "ffn": 0.0}
    for path, name, tensor in _tensors(layer):
        part = narrow.get((path, name))
        if part is None:
            cost["fixed"] += tensor.numel() * each(tensor)
            continue
        # A unit owns whole rows or columns: one number for each position along the other dimensions.
        others = list(tensor.shape)
        del others[part.dim]
        cost[part.unit] += math.prod(others) * part.length(1) * each(tensor)
    return LayerCost(cost["fixed"], cost["heads"], cost["ffn"])


def _tensors(net: nn.Module, without: Collection[int] = ()) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Yield the path, name and tensor of each weight, but for modules whose ids are in ``without``."""
    for path, module, name in weights(net):
        if id(module) not in without:
            yield path, name, getattr(module, name)


class _Outside(NamedTuple):
    """The MACs outside the layers, ``once + example * B + token * S + both * B * S`` of B examples of S tokens."""

    once: float
    example: float
    token: float
    both: float

    def of(self, batch: int, length: int) -> float:
        """Return the MACs of a batch."""
        return self.once + self.example * batch + self.token * length + self.both * batch * length


# By all that the count depends on, and not by network: pipelines have many networks with the same outside.
_OUTSIDE: dict[str, _Outside] = {}


def _outside(net: nn.Module, batch: int, length: int) -> float:
    """Return the MACs of a batch outside the layers."""
    config = base_of(net).config
    settings = config.to_dict()
    nothing = [{"heads": 0, "ffn": 0}] if family_of(net).needs_layer else []
    empty_sizes = blueprint(net) | {"layers": nothing, "factorized": {}, "head_order": {}}
    for mapping in (settings, empty_sizes):
        mapping.pop("quantised", None)  # it changes no count, but differs between the networks of a search
    key = f"{settings} {empty_sizes}"
    if key not in _OUTSIDE:
        try:
            _OUTSIDE[key] = _counted(build(config, empty_sizes), "meta")
        except RuntimeError:  # a head that looks at values, which tensors on the meta device do not have
            with no_init_weights():
                _OUTSIDE[key] = _counted(build(config, empty_sizes, "cpu"), "cpu")
    return _OUTSIDE[key].of(batch, length)


def _counted(empty: nn.Module, device: str) -> _Outside:
    """Count the MACs of a network without layers by running it on a device."""

    def products(batch: int, length: int) -> float:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            empty(**zero_inputs(empty, batch, length, device))
        return counter.get_total_flops() / 2  # a multiply-add is two FLOPs

    # Without attention the count is linear in the examples and in their length, so two of each determine it.
    two_twos = products(2, 2)
    two_threes = products(2, 3)
    three_twos = products(3, 2)
    both = products(3, 3) - two_threes - three_twos + two_twos
    token = two_threes - two_twos - 2 * both
    example = three_twos - two_twos - 2 * both
    once = two_twos - 2 * example - 2 * token - 4 * both
    return _Outside(once, example, token, both)


def zero_inputs(net: nn.Module, batch: int, length: int, device: str) -> dict[str, torch.Tensor]:
    """Return inputs of a network that can be sliced, all zeros: token ids, or images.

    Args:
        net: the network.
        batch: number of examples.
        length: tokens in each, if they are texts.
        device: where they are; on ``meta`` they have no values.
    """
    config = base_of(net).config
    family = family_of(net)
    if family.words is None:
        height, width = base_of(net).embeddings.patch_embeddings.image_size
        return {"pixel_values": torch.zeros(batch, config.num_channels, height, width, device=device)}
    ids = torch.zeros(batch, length, dtype=torch.long, device=device)
    if type(net).__name__.endswith("ForMultipleChoice"):
        ids = ids[:, None]  # (examples, choices, tokens), and each choice is an example of its own to the layers
    if family.needs_mask:
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {"input_ids": ids}
