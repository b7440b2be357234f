"""Networks whose layers have sizes of their own: the table of families, and resizing of layers.

This file needs torch and transformers only, because exported models carry a copy of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

LINEAR = (nn.Linear, Conv1D)
"""The modules that can be narrowed; a ``Conv1D`` is GPT-2's linear map, whose weight is ``(inputs, outputs)``."""


@dataclass(frozen=True)
class Map:
    """A linear map of a layer that gets narrower with the layer's heads or neurons.

    Args:
        path: the map's path from the layer.
        unit: what it gets narrower with, ``heads`` or ``ffn``.
        reads: whether its inputs come from the heads or neurons; otherwise its outputs go to them.
        blocks: how many maps are fused into this one, side by side: 3 for one map of queries, keys and values.
        grouped: whether it has one head for each group of query heads, as maps of keys and values may have.
        optional: whether some configurations have no such map.
        positions: whether it reads a table of positions, once for all examples, and not the tokens.
    """

    path: str
    unit: str
    reads: bool = False
    blocks: int = 1
    grouped: bool = False
    optional: bool = False
    positions: bool = False


@dataclass(frozen=True)
class FamilyRow:
    """The names that a model family gives to the parts that can be sliced.

    The unit that ``heads`` are removed in is one head or, if several query heads share a head of keys and values, a
    group of them.

    Args:
        layers: path of the layer list from the base model.
        attention: path of the module that splits into heads, from a layer.
        maps: the linear maps of a layer that get narrower, by short name.
        depth: configuration field of the number of layers.
        heads: configuration field of the number of query heads.
        ffn: configuration field of the number of neurons; if it is ``None`` there are four times the width.
        words: path of the word embedding from the base model; ``None`` if the network reads no words.
        head_size: the attention module's attribute that holds the columns of a head.
        head_size_field: configuration field that overrides the columns of a head, which are else width / heads.
        group: the attention module's attribute that holds the number of query heads in a group.
        group_field: configuration field of the number of groups.
        counts: attributes of the attention module that hold its number of heads, if it has any.
        columns: attributes of the attention module that hold the columns of all its heads, if it has any.
        after: paths of the modules that attention runs after the map out of the heads, from a layer.
        norms: paths of the normalisations that follow the sums of attention and of the FFN, from a layer; none if the
            layers normalise what they read (pre-norm).
        per_layer: configuration fields that list one entry for each layer.
        transposed: whether the maps' weights are ``(inputs, outputs)``, as those of a ``Conv1D``.
        causal: whether tokens attend only to those before them.
        keeps_first: whether the first layer differs from the others, so that it cannot be dropped.
        needs_layer: whether a network without layers does not run.
        needs_mask: whether the network looks for padding in ids that come without an attention mask.
        head_table: path of a table ``(rows, heads)`` that all layers share, from the base model; its columns are added
            to the scores of the heads.
        tokens: path of a parameter ``(1, tokens, width)`` from the base model, if all inputs have the same length.
        requires: configuration field → the values with which networks can be sliced.
    """

    layers: str
    attention: str
    maps: Mapping[str, Map]
    depth: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    ffn: str = "intermediate_size"
    words: str | None = "embeddings.word_embeddings"
    head_size: str = "attention_head_size"
    head_size_field: str = ""
    group: str = ""
    group_field: str = ""
    counts: Sequence[str] = ()
    columns: Sequence[str] = ()
    after: Sequence[str] = ()
    norms: Sequence[str] = ()
    per_layer: Sequence[str] = ()
    transposed: bool = False
    causal: bool = False
    keeps_first: bool = False
    needs_layer: bool = False
    needs_mask: bool = False
    head_table: str = ""
    tokens: str = ""
    requires: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def readers(self, unit: str) -> list[str]:
        """Return the paths of the maps out of the heads (``heads``) or the neurons (``ffn``)."""
        return [item.path for item in self.maps.values() if item.unit == unit and item.reads]

    def writers(self, unit: str) -> list[str]:
        """Return the paths of the maps into the heads (``heads``) or the neurons (``ffn``)."""
        return [item.path for item in self.maps.values() if item.unit == unit and not item.reads]

    @property
    def merge(self) -> str:
        """The path of the map out of the heads."""
        return self.readers("heads")[0]

    @property
    def shrink(self) -> str:
        """The path of the map out of the neurons."""
        return self.readers("ffn")[0]

    def sizes(self, config: Any) -> RowSizes:
        """Return the sizes that a configuration gives to all layers alike."""
        heads = getattr(config, self.heads)
        head_size = getattr(config, self.head_size_field, None) if self.head_size_field else None
        groups = getattr(config, self.group_field, None) if self.group_field else None
        neurons = getattr(config, self.ffn)
        return RowSizes(
            layers=getattr(config, self.depth),
            heads=heads,
            ffn=4 * config.hidden_size if neurons is None else int(neurons),
            head_size=head_size or config.hidden_size // heads,
            group=heads // (groups or heads),
        )

    def obstacle(self, config: Any) -> str:
        """Return the reason why a network of a configuration cannot be sliced, an empty text if it can."""
        for name, allowed in self.requires.items():
            value = getattr(config, name, allowed[0])
            if value not in allowed:
                return f"{name} is {value!r}. Expected {' or '.join(map(repr, allowed))}"
        return ""


class RowSizes(NamedTuple):
    """The sizes that a configuration gives to all layers alike.

    Attributes:
        layers: the number of layers.
        heads: query heads of each.
        ffn: neurons of each.
        head_size: columns of a head.
        group: query heads that share one head of keys and values; 1 if each has its own.
    """

    layers: int
    heads: int
    ffn: int
    head_size: int
    group: int


class Part(NamedTuple):
    """A tensor of a layer that gets narrower, and which of its entries each unit owns.

    Along the dimension ``dim`` lie ``blocks`` runs, one behind the other; in each of them every unit has ``width``
    neighbouring entries, in the order of the units.

    Attributes:
        map: the short name of the linear map that it belongs to.
        path: the module that holds the tensor, from the layer; of a map that is a product of two, a factor.
        name: the tensor's name in it, ``weight`` or ``bias``.
        dim: the dimension that gets narrower.
        unit: ``heads`` or ``ffn``.
        width: neighbouring entries of a unit.
        blocks: runs of units.
        outputs: whether the entries are outputs of the module; otherwise they are inputs.
    """

    map: str
    path: str
    name: str
    dim: int
    unit: str
    width: int
    blocks: int
    outputs: bool

    def length(self, units: int) -> int:
        """Return the tensor's length along the dimension with a number of units."""
        return self.blocks * units * self.width

    def first(self, tensor: torch.Tensor, units: int) -> torch.Tensor:
        """Return the entries of the first units; a view of the tensor if it has one block, otherwise a copy."""
        if self.blocks == 1:
            return tensor.narrow(self.dim, 0, units * self.width)
        return self.runs(tensor, units).flatten(self.dim, self.dim + 1)

    def runs(self, tensor: torch.Tensor, units: int) -> torch.Tensor:
        """Return the entries of the first units as a view with one more dimension, of the blocks, before ``dim``."""
        per_block = tensor.shape[self.dim] // self.blocks
        blocks = tensor.unflatten(self.dim, (self.blocks, per_block))
        return blocks.narrow(self.dim + 1, 0, units * self.width)

    def entries(self, units: torch.Tensor, total: int) -> torch.Tensor:
        """Return the positions along the dimension of some units, in the order given, among ``total`` units."""
        starts = torch.arange(self.blocks)[:, None, None] * (total * self.width)
        inside = torch.arange(self.width)
        return (starts + units[:, None] * self.width + inside).flatten()

    def sums(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of each unit's entries, ``(units,)``."""
        entries = tensor.movedim(self.dim, 0)
        units = entries.shape[0] // (self.blocks * self.width)
        others = entries.shape[1:].numel()
        return entries.reshape(self.blocks, units, self.width * others).sum((0, 2))


def _six_maps(query: str, key: str, value: str, merge: str, widen: str, shrink: str) -> dict[str, Map]:
    """Return the maps of a layer that has queries, keys and values for each head, and an FFN without a gate."""
    return {
        "query": Map(query, "heads"),
        "key": Map(key, "heads"),
        "value": Map(value, "heads"),
        "merge": Map(merge, "heads", reads=True),
        "widen": Map(widen, "ffn"),
        "shrink": Map(shrink, "ffn", reads=True),
    }


def _bert(attention: str = "attention.self", **names: Any) -> FamilyRow:
    """Return the row of a family whose layers have BERT's names."""
    maps = _six_maps(
        query=f"{attention}.query",
        key=f"{attention}.key",
        value=f"{attention}.value",
        merge="attention.output.dense",
        widen="intermediate.dense",
        shrink="output.dense",
    )
    return FamilyRow(
        layers="encoder.layer",
        attention=attention,
        maps=maps,
        counts=("num_attention_heads",),
        columns=("all_head_size",),
        norms=("attention.output.LayerNorm", "output.LayerNorm"),
        requires={"add_cross_attention": (False,)},
        **names,
    )


_DISTILBERT = FamilyRow(
    layers="transformer.layer",
    attention="attention",
    maps=_six_maps(
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        merge="attention.out_lin",
        widen="ffn.lin1",
        shrink="ffn.lin2",
    ),
    depth="n_layers",
    heads="n_heads",
    ffn="hidden_dim",
    counts=("n_heads",),
    columns=("all_head_size",),
    norms=("sa_layer_norm", "output_layer_norm"),
)

_LLAMA = FamilyRow(
    layers="layers",
    attention="self_attn",
    maps={
        "query": Map("self_attn.q_proj", "heads"),
        "key": Map("self_attn.k_proj", "heads", grouped=True),
        "value": Map("self_attn.v_proj", "heads", grouped=True),
        "merge": Map("self_attn.o_proj", "heads", reads=True),
        "gate": Map("mlp.gate_proj", "ffn"),
        "widen": Map("mlp.up_proj", "ffn"),
        "shrink": Map("mlp.down_proj", "ffn", reads=True),
    },
    words="embed_tokens",
    head_size="head_dim",
    head_size_field="head_dim",
    group="num_key_value_groups",
    group_field="num_key_value_heads",
    per_layer=("layer_types",),
    causal=True,
)

_VIT = FamilyRow(
    layers="layers",
    attention="attention",
    maps=_six_maps(
        query="attention.q_proj",
        key="attention.k_proj",
        value="attention.v_proj",
        merge="attention.o_proj",
        widen="mlp.fc1",
        shrink="mlp.fc2",
    ),
    words=None,
    head_size="head_dim",
    head_size_field="head_dim",
    counts=("num_attention_heads",),
    tokens="embeddings.position_embeddings",
)

_GPT2 = FamilyRow(
    layers="h",
    attention="attn",
    maps={
        "query_key_value": Map("attn.c_attn", "heads", blocks=3),
        "merge": Map("attn.c_proj", "heads", reads=True),
        "widen": Map("mlp.c_fc", "ffn"),
        "shrink": Map("mlp.c_proj", "ffn", reads=True),
    },
    ffn="n_inner",
    words="wte",
    head_size="head_dim",
    counts=("num_heads",),
    columns=("split_size",),
    after=("attn.resid_dropout",),
    transposed=True,
    causal=True,
    needs_mask=True,
    requires={"add_cross_attention": (False,), "scale_attn_by_inverse_layer_idx": (False,)},
)

_MPNET = FamilyRow(
    layers="encoder.layer",
    attention="attention.attn",
    maps=_six_maps(
        query="attention.attn.q",
        key="attention.attn.k",
        value="attention.attn.v",
        merge="attention.attn.o",
        widen="intermediate.dense",
        shrink="output.dense",
    ),
    counts=("num_attention_heads",),
    columns=("all_head_size",),
    norms=("attention.LayerNorm", "output.LayerNorm"),
    head_table="encoder.relative_attention_bias",
)

_DEBERTA_V2 = FamilyRow(
    layers="encoder.layer",
    attention="attention.self",
    maps={
        "query": Map("attention.self.query_proj", "heads"),
        "key": Map("attention.self.key_proj", "heads"),
        "value": Map("attention.self.value_proj", "heads"),
        "position_key": Map("attention.self.pos_key_proj", "heads", optional=True, positions=True),
        "position_query": Map("attention.self.pos_query_proj", "heads", optional=True, positions=True),
        "merge": Map("attention.output.dense", "heads", reads=True),
        "widen": Map("intermediate.dense", "ffn"),
        "shrink": Map("output.dense", "ffn", reads=True),
    },
    head_size_field="attention_head_size",
    counts=("num_attention_heads",),
    columns=("all_head_size",),
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    needs_layer=True,
    needs_mask=True,
    requires={"conv_kernel_size": (0,)},
)

_MODERNBERT = FamilyRow(
    layers="layers",
    attention="attn",
    maps={
        "query_key_value": Map("attn.Wqkv", "heads", blocks=3),
        "merge": Map("attn.Wo", "heads", reads=True),
        "widen": Map("mlp.Wi", "ffn", blocks=2),
        "shrink": Map("mlp.Wo", "ffn", reads=True),
    },
    words="embeddings.tok_embeddings",
    head_size="head_dim",
    after=("attn.out_drop",),
    per_layer=("layer_types",),
    keeps_first=True,
)

FAMILIES: dict[str, FamilyRow] = {
    "bert": _bert(),
    "roberta": _bert(),
    "xlm-roberta": _bert(),
    "camembert": _bert(),
    "ernie": _bert(),
    "data2vec-text": _bert(),
    "electra": _bert(),
    "distilbert": _DISTILBERT,
    "mpnet": _MPNET,
    "deberta-v2": _DEBERTA_V2,
    "modernbert": _MODERNBERT,
    "vit": _VIT,
    "deit": _VIT,
    "gpt2": _GPT2,
    "llama": _LLAMA,
    "qwen2": _LLAMA,
}
"""The table of families that can be sliced, by the ``model_type`` of their configuration."""

ROW_SOURCES: list[Callable[[], Mapping[str, FamilyRow]]] = []
"""Functions that return further rows; ``nasframe.nn.rows`` adds one for the families of plugins."""


def row_of(model_type: str | None) -> FamilyRow | None:
    """Return the row of a type of model, ``None`` if there is none."""
    if not model_type:
        return None
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    for further_rows in ROW_SOURCES:
        row = further_rows().get(model_type)
        if row is not None:
            return row
    return None


def stock_class(net: nn.Module) -> Any:
    """Return the transformers class that a network is an instance of, also behind subclasses.

    Raises:
        TypeError: the network is of none of the known families, or of a form that cannot be sliced.
    """
    for cls in type(net).__mro__:
        model_type = getattr(getattr(cls, "config_class", None), "model_type", None)
        if not cls.__module__.startswith("transformers.models."):
            continue
        row = row_of(model_type)
        if row is not None:
            obstacle = row.obstacle(net.config)
            if obstacle:
                raise TypeError(f"{type(net).__name__}: cannot be sliced: {obstacle}.")
            return cls
    raise TypeError(f"{type(net).__name__}: cannot be sliced. Expected a transformers model of: {', '.join(FAMILIES)}.")


def family_name(net: nn.Module) -> str:
    """Return the key of a network's row in ``FAMILIES``."""
    return stock_class(net).config_class.model_type


def family_of(net: nn.Module) -> FamilyRow:
    """Return a network's row of the table."""
    row = row_of(family_name(net))
    assert row is not None  # or stock_class would have refused the network
    return row


def base_of(net: nn.Module) -> Any:
    """Return a network without its head."""
    return net.base_model


def layers_of(net: nn.Module) -> nn.ModuleList:
    """Return the layers of a network that can be sliced."""
    return base_of(net).get_submodule(family_of(net).layers)


def words_of(net: nn.Module) -> Any:
    """Return a network's word embedding, ``None`` if it reads no words."""
    path = family_of(net).words
    if path is None:
        return None
    return base_of(net).get_submodule(path)


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


def slices_of(family: FamilyRow, layer: nn.Module) -> Iterator[Part]:
    """Return the slice map of a layer: all its tensors that get narrower.

    A map that is a product of two narrows in the factor that has the dimension.
    """
    attention: Any = layer.get_submodule(family.attention)
    head_size = getattr(attention, family.head_size)
    group = group_of(family, layer)
    for short_name in maps_of(family, layer):
        item = family.maps[short_name]
        path = item.path
        width = 1
        if item.unit == "heads":
            width = head_size if item.grouped else group * head_size
        module: Any = layer.get_submodule(path)
        if isinstance(module, FactorizedLinear):
            factor = "reduce" if item.reads else "expand"
            path = f"{path}.{factor}"
            module = getattr(module, factor)
        is_transposed = isinstance(module, Conv1D)
        dim = 1 if item.reads != is_transposed else 0
        outputs = not item.reads
        yield Part(short_name, path, "weight", dim, item.unit, width, item.blocks, outputs)
        if outputs:  # the bias of a map out of heads or neurons is whole
            yield Part(short_name, path, "bias", 0, item.unit, width, item.blocks, outputs)


def maps_of(family: FamilyRow, layer: nn.Module) -> list[str]:
    """Return the short names of the maps that a layer has: all but those that its configuration leaves out."""
    present = []
    for short_name, item in family.maps.items():
        if not item.optional or _has(layer, item.path):
            present.append(short_name)
    return present


def group_of(family: FamilyRow, layer: nn.Module) -> int:
    """Return how many query heads of a layer share one head of keys and values, 1 if each has its own."""
    if not family.group:
        return 1
    return getattr(layer.get_submodule(family.attention), family.group)


def units_of(family: FamilyRow, layer: nn.Module, heads: int, ffn: int) -> dict[str, int]:
    """Return the numbers of units that make up a number of query heads and a number of neurons."""
    return {"heads": heads // group_of(family, layer), "ffn": ffn}


def layer_sizes(family: FamilyRow, layer: nn.Module) -> dict[str, int]:
    """Return the numbers of query heads and of neurons of a layer, read from its modules."""
    attention: Any = layer.get_submodule(family.attention)
    if family.counts:
        heads = getattr(attention, family.counts[0])
    else:
        merge: Any = layer.get_submodule(family.merge)
        heads = inputs_of(merge) // getattr(attention, family.head_size)
    writer = next(item for item in family.maps.values() if item.unit == "ffn" and not item.reads)
    widen: Any = layer.get_submodule(writer.path)
    return {"heads": heads, "ffn": outputs_of(widen) // writer.blocks}


def head_order(family: FamilyRow, layer: nn.Module) -> list[int] | None:
    """Return which columns of the table of heads a layer's heads read; ``None`` if these are the first ones, in order.

    All layers share the table, so that its columns cannot be reordered with the heads of one layer.
    """
    if not family.head_table:
        return None
    attention: Any = layer.get_submodule(family.attention)
    return getattr(attention, "head_order", None)


def set_head_order(family: FamilyRow, layer: nn.Module, order: Sequence[int] | None) -> None:
    """Let the heads of a layer, in place, read columns of the table of heads in an order of their own.

    Args:
        family: the layer's row in ``FAMILIES``.
        layer: the layer.
        order: a column for each head; ``None`` for the first ones, in order.
    """
    attention: Any = layer.get_submodule(family.attention)
    heads = layer_sizes(family, layer)["heads"]
    columns = list(range(heads)) if order is None else [int(column) for column in order]
    if columns == list(range(heads)):
        attention.__dict__.pop("head_order", None)
    else:
        attention.head_order = columns
    if heads:
        attention.forward = partial(with_own_columns, attention, columns)


def with_own_columns(
    attention: Any,
    columns: Sequence[int],
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **options: Any,
) -> Any:
    """Attend with some columns of a bias that has one column for each head of the full network.

    Args:
        attention: the attention module.
        columns: a column for each head.
        hidden_states: ``(batch, length, width)``.
        attention_mask: as the module takes it.
        position_bias: ``(batch, columns, length, length)``.
        options: as the module takes them.
    """
    if position_bias is not None:
        position_bias = position_bias[:, list(columns)]
    return type(attention).forward(attention, hidden_states, attention_mask, position_bias, **options)


def inputs_of(linear: Any) -> int:
    """Return the width of a linear map's inputs."""
    return linear.nx if isinstance(linear, Conv1D) else linear.in_features


def outputs_of(linear: Any) -> int:
    """Return the width of a linear map's outputs."""
    return linear.nf if isinstance(linear, Conv1D) else linear.out_features


def _has(layer: nn.Module, path: str) -> bool:
    """Tell whether a layer has a module at a path."""
    try:
        layer.get_submodule(path)
    except AttributeError:
        return False
    return True


def no_heads(
    after: Sequence[nn.Module],
    index: int | None,
    hidden_states: torch.Tensor,
    *_: Any,
    past_key_values: Any = None,
    **__: Any,
) -> tuple[torch.Tensor, ...]:
    """Attend without heads: the context is empty, so that only the bias of the map out of the heads is left.

    Args:
        after: what the attention module runs on its context: the map out of the heads, and dropout.
        index: the layer's place in a cache of keys and values.
        hidden_states: ``(batch, length, width)``.
        past_key_values: a cache of keys and values.
    """
    batch, length = hidden_states.shape[:2]
    if past_key_values is not None and index is not None:
        # The model asks its first layer's entry how many tokens it has seen, so there has to be one.
        seen = hidden_states.new_zeros(batch, 1, length, 1)
        past_key_values.update(seen, seen, index)
    context = hidden_states[..., :0]
    for module in after:
        context = module(context)
    return context, hidden_states.new_zeros(batch, 0, length, length)


def no_inputs(linear: Any, x: torch.Tensor) -> torch.Tensor:
    """Run a ``Conv1D`` without inputs; its own ``view(-1, 0)`` would be ambiguous."""
    rows = x.shape[:-1].numel()
    product = torch.addmm(linear.bias, x.reshape(rows, 0), linear.weight)
    return product.view(*x.shape[:-1], linear.nf)


def resize_layer(
    family: FamilyRow,
    layer: nn.Module,
    heads: int,
    ffn: int,
    take: Callable[[Part, int], torch.Tensor | None],
) -> None:
    """Give one layer, in place, its own number of heads and neurons.

    Args:
        family: the layer's row in ``FAMILIES``.
        layer: the layer.
        heads: its query heads, 0 or more, whole groups of them.
        ffn: its neurons, 0 or more.
        take: returns the new tensor for a part and the number of units that stay.
    """
    attention: Any = layer.get_submodule(family.attention)
    units = units_of(family, layer, heads, ffn)
    for part in list(slices_of(family, layer)):
        linear: Any = layer.get_submodule(part.path)
        count = units[part.unit]
        linear._parameters[part.name] = take(part, count)
        if isinstance(linear, Conv1D):
            width = "nf" if part.outputs else "nx"
        else:
            width = "out_features" if part.outputs else "in_features"
        setattr(linear, width, part.length(count))
        if isinstance(linear, Conv1D) and not linear.nx:
            linear.__dict__["forward"] = partial(no_inputs, linear)
    for name in family.counts:
        setattr(attention, name, heads)
    for name in family.columns:
        setattr(attention, name, heads * getattr(attention, family.head_size))
    order = head_order(family, layer)
    if family.head_table:
        set_head_order(family, layer, None if order is None else order[:heads])
    if heads == 0:
        _without_heads(family, layer)


def set_index(family: FamilyRow, layer: nn.Module, index: int) -> None:
    """Tell a layer's attention, in place, at which place of the network the layer is, if it has to know."""
    attention: Any = layer.get_submodule(family.attention)
    attention.layer_idx = index
    if not layer_sizes(family, layer)["heads"]:
        _without_heads(family, layer)


def _without_heads(family: FamilyRow, layer: nn.Module) -> None:
    """Replace the forward of an attention without heads; a ``view(..., -1, head_size)`` would be ambiguous."""
    attention: Any = layer.get_submodule(family.attention)
    after = []
    if family.merge.startswith(f"{family.attention}."):  # otherwise another module runs it
        after = [layer.get_submodule(path) for path in (family.merge, *family.after)]
    attention.forward = partial(no_heads, after, getattr(attention, "layer_idx", None))


def resize(net: nn.Module, blueprint: Mapping[str, Any]) -> nn.Module:
    """Shrink a stock network, in place, to a blueprint's sizes; the first heads and neurons of each layer stay.

    Args:
        net: a network with as many layers as the blueprint, each at least as large.
        blueprint: see ``nasframe.nn.blueprint``; its ``layers``, ``head_order``, ``factorized`` and ``embedding_rank``
            are used.

    Returns:
        The same network.

    Raises:
        ValueError: the network has another number of layers, a layer is smaller than asked for, or the heads are not
            whole groups.
    """
    family = family_of(net)
    layers = layers_of(net)
    if len(layers) != len(blueprint["layers"]):
        raise ValueError(f"the network has {len(layers)} layers, the blueprint {len(blueprint['layers'])}.")
    for layer, sizes in zip(layers, blueprint["layers"], strict=True):
        _resize_stock_layer(family, layer, **sizes)
    for name, order in (blueprint.get("head_order") or {}).items():
        position, _, _ = name.partition(".")
        set_head_order(family, layers[int(position)], order)
    for name, rank in (blueprint.get("factorized") or {}).items():
        linear: Any = layers.get_submodule(name)
        if isinstance(linear, FactorizedLinear):  # the network was resized before, as the base of one with a head
            continue
        with linear.weight.device:
            product = FactorizedLinear(inputs_of(linear), rank, outputs_of(linear), linear.bias is not None)
        layers.set_submodule(name, product.to(linear.weight.dtype))
    inner = blueprint.get("embedding_rank")
    words = words_of(net)
    if inner and not isinstance(words, FactorizedEmbedding):
        base = base_of(net)
        with words.weight.device:
            small = FactorizedEmbedding(words.num_embeddings, inner, words.embedding_dim, words.padding_idx)
        base.set_submodule(family.words, small.to(words.weight.dtype))
        base.config.tie_word_embeddings = False  # there is no single matrix left to tie an output layer to
    return net


def _resize_stock_layer(family: FamilyRow, layer: nn.Module, heads: int, ffn: int) -> None:
    group = group_of(family, layer)
    if heads % group:
        raise ValueError(f"heads: {heads} is not a multiple of {group}, the query heads that share keys and values.")

    def first(part: Part, units: int) -> torch.Tensor | None:
        tensor = getattr(layer.get_submodule(part.path), part.name)
        if tensor is None:
            return None
        length = part.length(units)
        if not 0 <= length <= tensor.shape[part.dim]:
            place = f"{part.path}.{part.name}"
            raise ValueError(f"{place}: {length} asked for along dimension {part.dim} of {tuple(tensor.shape)}.")
        kept = part.first(tensor.detach(), units).clone()
        return nn.Parameter(kept, requires_grad=tensor.requires_grad)

    resize_layer(family, layer, heads, ffn, first)
