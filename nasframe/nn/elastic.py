"""Encoders whose layers have sizes of their own: the table of families, and resizing of layers.

This file needs torch and transformers only, because exported models carry a copy of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

WORD_EMBEDDINGS = "embeddings.word_embeddings"  # from the base model, in every family


@dataclass(frozen=True)
class Family:
    """The names that a model family gives to the parts that can be sliced.

    Args:
        layers: path of the layer list from the base model.
        attention: path of the module that splits into heads, from a layer, as all paths below.
        projections: the three linear maps into the heads.
        merge: the linear map out of the heads.
        widen: the linear map into the neurons.
        shrink: the linear map out of the neurons.
        count: the attention module's attribute that holds its number of heads.
        depth: configuration field of the number of layers.
        heads: configuration field of the number of heads.
        ffn: configuration field of the number of neurons.
    """

    layers: str
    attention: str
    projections: tuple[str, str, str]
    merge: str
    widen: str
    shrink: str
    count: str
    depth: str
    heads: str
    ffn: str

    @property
    def slices(self) -> Iterator[tuple[str, str, int, str]]:
        """A stock layer's slice map: (linear map, tensor, dimension, ``heads`` or ``ffn``) of all that can narrow."""
        for path in self.projections:
            yield path, "weight", 0, "heads"
            yield path, "bias", 0, "heads"
        yield self.merge, "weight", 1, "heads"
        yield self.widen, "weight", 0, "ffn"
        yield self.widen, "bias", 0, "ffn"
        yield self.shrink, "weight", 1, "ffn"

    @property
    def maps(self) -> dict[str, str]:
        """The six linear maps of a layer: short name → path."""
        paths = (*self.projections, self.merge, self.widen, self.shrink)
        return dict(zip(("query", "key", "value", "merge", "widen", "shrink"), paths, strict=True))


_BERT = Family(
    layers="encoder.layer",
    attention="attention.self",
    projections=("attention.self.query", "attention.self.key", "attention.self.value"),
    merge="attention.output.dense",
    widen="intermediate.dense",
    shrink="output.dense",
    count="num_attention_heads",
    depth="num_hidden_layers",
    heads="num_attention_heads",
    ffn="intermediate_size",
)

FAMILIES: Mapping[str, Family] = {
    "bert": _BERT,
    "roberta": _BERT,
    "electra": _BERT,
    "distilbert": Family(
        layers="transformer.layer",
        attention="attention",
        projections=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        merge="attention.out_lin",
        widen="ffn.lin1",
        shrink="ffn.lin2",
        count="n_heads",
        depth="n_layers",
        heads="n_heads",
        ffn="hidden_dim",
    ),
}


def stock_class(net: nn.Module) -> Any:
    """Return the transformers class that a network is an instance of, also behind subclasses.

    Raises:
        TypeError: the network is of none of the known families.
    """
    for cls in type(net).__mro__:
        model_type = getattr(getattr(cls, "config_class", None), "model_type", None)
        if cls.__module__.startswith("transformers.models.") and model_type in FAMILIES:
            return cls
    raise TypeError(f"{type(net).__name__}: cannot be sliced. Expected a transformers model of: {', '.join(FAMILIES)}.")


def family_name(net: nn.Module) -> str:
    """Return the key of a network's row in ``FAMILIES``."""
    return stock_class(net).config_class.model_type


def family_of(net: nn.Module) -> Family:
    """Return a network's row in ``FAMILIES``."""
    return FAMILIES[family_name(net)]


def base_of(net: nn.Module) -> Any:
    """Return a network without its head."""
    return net.base_model


def layers_of(net: nn.Module) -> nn.ModuleList:
    """Return a network's encoder layers."""
    return base_of(net).get_submodule(family_of(net).layers)


class FactorizedEmbedding(nn.Module):
    """A word embedding as the product of two smaller matrices, ``table @ project``.

    Args:
        words: vocabulary size.
        rank: inner width.
        width: outer width, which the rest of the network sees.
        padding_idx: a row of the table that gets no gradient.

    >>> FactorizedEmbedding(10, 2, 8)(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 8])
    """

    def __init__(self, words: int, rank: int, width: int, padding_idx: int | None = None) -> None:
        super().__init__()
        self.num_embeddings = words
        self.embedding_dim = width
        self.rank = rank
        self.table = nn.Embedding(words, rank, padding_idx=padding_idx)
        self.project = nn.Linear(rank, width, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embed token ids ``(batch, length)`` to ``(batch, length, width)``."""
        return self.project(self.table(ids))


class FactorizedLinear(nn.Module):
    """A linear map as the product of two smaller ones, ``expand(reduce(x))``.

    Args:
        in_features: width of the inputs.
        rank: inner width.
        out_features: width of the outputs.
        bias: whether the second map has a bias.

    >>> FactorizedLinear(8, 2, 4)(torch.zeros(3, 8)).shape
    torch.Size([3, 4])
    """

    def __init__(self, in_features: int, rank: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.rank = rank
        self.reduce = nn.Linear(in_features, rank, bias=False)
        self.expand = nn.Linear(rank, out_features, bias=bias)

    @property
    def in_features(self) -> int:
        """Width of the inputs."""
        return self.reduce.in_features

    @property
    def out_features(self) -> int:
        """Width of the outputs."""
        return self.expand.out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(…, in_features)`` to ``(…, out_features)``."""
        return self.expand(self.reduce(x))


def slices_of(family: Family, layer: nn.Module) -> Iterator[tuple[str, str, int, str]]:
    """Return the slice map of a given layer: a factorised map narrows in the factor that has the dimension."""
    for path, name, dim, unit in family.slices:
        if isinstance(layer.get_submodule(path), FactorizedLinear):
            factor = "reduce" if dim else "expand"
            path = f"{path}.{factor}"
        yield path, name, dim, unit


def no_heads(merge: nn.Module | None, hidden_states: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, ...]:
    """Attend without heads: the context is empty, so that only the bias of the map out of the heads is left."""
    batch, length = hidden_states.shape[:2]
    context = hidden_states[..., :0]
    if merge is not None:
        context = merge(context)
    return context, hidden_states.new_zeros(batch, 0, length, length)


def resize_layer(
    family: Family,
    layer: nn.Module,
    heads: int,
    ffn: int,
    take: Callable[[str, str, int, int], torch.Tensor | None],
) -> None:
    """Give one layer, in place, its own number of heads and neurons.

    Args:
        family: the layer's row in ``FAMILIES``.
        layer: the layer.
        heads: its heads, 0 or more.
        ffn: its neurons, 0 or more.
        take: returns the new tensor for (linear map, tensor, dimension, length along it).
    """
    attention: Any = layer.get_submodule(family.attention)
    length = {"heads": heads * attention.attention_head_size, "ffn": ffn}
    for path, name, dim, unit in slices_of(family, layer):
        linear: Any = layer.get_submodule(path)
        linear._parameters[name] = take(path, name, dim, length[unit])
        width = "in_features" if dim else "out_features"
        setattr(linear, width, length[unit])
    setattr(attention, family.count, heads)
    attention.all_head_size = length["heads"]
    if heads == 0:  # a view(..., -1, head_size) of an empty tensor would be ambiguous
        attention_merges = family.merge.startswith(f"{family.attention}.")
        merge = layer.get_submodule(family.merge) if attention_merges else None
        attention.forward = partial(no_heads, merge)


def resize(net: nn.Module, blueprint: Mapping[str, Any]) -> nn.Module:
    """Shrink a stock network, in place, to a blueprint's sizes; the first heads and neurons of each layer stay.

    Args:
        net: a network with as many layers as the blueprint, each at least as large.
        blueprint: see ``nasframe.nn.blueprint``; its ``layers``, ``factorized`` and ``embedding_rank`` are used.

    Returns:
        The same network.

    Raises:
        ValueError: the network has another number of layers, or a layer is smaller than asked for.
    """
    family = family_of(net)
    layers = layers_of(net)
    if len(layers) != len(blueprint["layers"]):
        raise ValueError(f"the network has {len(layers)} layers, the blueprint {len(blueprint['layers'])}.")
    for layer, sizes in zip(layers, blueprint["layers"], strict=True):
        _resize_stock_layer(family, layer, **sizes)
    for name, rank in (blueprint.get("factorized") or {}).items():
        linear: Any = layers.get_submodule(name)
        with linear.weight.device:
            product = FactorizedLinear(linear.in_features, rank, linear.out_features, linear.bias is not None)
        layers.set_submodule(name, product.to(linear.weight.dtype))
    inner = blueprint.get("embedding_rank")
    if inner:
        base = base_of(net)
        words = base.get_submodule(WORD_EMBEDDINGS)
        with words.weight.device:
            small = FactorizedEmbedding(words.num_embeddings, inner, words.embedding_dim, words.padding_idx)
        base.set_submodule(WORD_EMBEDDINGS, small.to(words.weight.dtype))
        base.config.tie_word_embeddings = False  # there is no single matrix left to tie an output layer to
    return net


def _resize_stock_layer(family: Family, layer: nn.Module, heads: int, ffn: int) -> None:
    def first(path: str, name: str, dim: int, length: int) -> torch.Tensor | None:
        tensor = getattr(layer.get_submodule(path), name)
        if tensor is None:
            return None
        if not 0 <= length <= tensor.shape[dim]:
            raise ValueError(f"{path}.{name}: {length} asked for along dimension {dim} of {tuple(tensor.shape)}.")
        kept = tensor.detach().narrow(dim, 0, length).clone()
        return nn.Parameter(kept, requires_grad=tensor.requires_grad)

    resize_layer(family, layer, heads, ffn, first)
