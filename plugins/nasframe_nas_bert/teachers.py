"""The parts of a teacher that a library of chains takes over: its sizes, its head, and weights to begin with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nasframe.errors import UsageError, listing
from nasframe_nas_bert.networks import (
    NOTHING,
    Attention,
    ChainLibrary,
    Embedding,
    FeedForward,
    LinearMap,
    SubLayer,
    key_of,
)


@dataclass(frozen=True)
class Layout:
    """Where the modules of a kind of network are; ``""`` stands for one that it does not have.

    Args:
        words: the embedding of words.
        positions: the embedding of positions.
        types: the embedding of token types.
        norm: the normalisation behind the embeddings.
        layers: the list of layers.
        attention: in a layer, the maps to queries, keys and values, and the map out of the heads.
        attention_norm: the normalisation behind attention.
        ffn: the maps to the neurons and from them.
        ffn_norm: the normalisation behind them.
        tokens: map, normalisation and decoder of the head that predicts tokens.
        classes: the two maps of the head for classes.
        activation: between these two.
        counts_from_pad: see :class:`Embedding`.
    """

    words: str
    positions: str
    types: str
    norm: str
    layers: str
    attention: tuple[str, str, str, str]
    attention_norm: str
    ffn: tuple[str, str]
    ffn_norm: str
    tokens: tuple[str, str, str]
    classes: tuple[str, str]
    activation: str = "tanh"
    counts_from_pad: bool = False


def _like_bert(prefix: str, tokens: tuple[str, str, str], classes: tuple[str, str], **more: Any) -> Layout:
    """Return the layout of a network whose layers are called as BERT's."""
    embeddings = f"{prefix}.embeddings"
    inner = "attention.self"
    return Layout(
        words=f"{embeddings}.word_embeddings",
        positions=f"{embeddings}.position_embeddings",
        types=f"{embeddings}.token_type_embeddings",
        norm=f"{embeddings}.LayerNorm",
        layers=f"{prefix}.encoder.layer",
        attention=(f"{inner}.query", f"{inner}.key", f"{inner}.value", "attention.output.dense"),
        attention_norm="attention.output.LayerNorm",
        ffn=("intermediate.dense", "output.dense"),
        ffn_norm="output.LayerNorm",
        tokens=tokens,
        classes=classes,
        **more,
    )


_ROBERTA = _like_bert(
    "roberta",
    ("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder"),
    ("classifier.dense", "classifier.out_proj"),
    counts_from_pad=True,
)
LAYOUTS = {
    "bert": _like_bert(
        "bert",
        ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.decoder"),
        ("bert.pooler.dense", "classifier"),
    ),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": _like_bert(
        "electra",
        ("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head"),
        ("classifier.dense", "classifier.out_proj"),
        activation="gelu",
    ),
    "distilbert": Layout(
        words="distilbert.embeddings.word_embeddings",
        positions="distilbert.embeddings.position_embeddings",
        types="",
        norm="distilbert.embeddings.LayerNorm",
        layers="distilbert.transformer.layer",
        attention=("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
        attention_norm="sa_layer_norm",
        ffn=("ffn.lin1", "ffn.lin2"),
        ffn_norm="output_layer_norm",
        tokens=("vocab_transform", "vocab_layer_norm", "vocab_projector"),
        classes=("pre_classifier", "classifier"),
        activation="relu",
    ),
}
"""``model_type`` of transformers → where its modules are."""


def layout_of(config: Any) -> Layout:
    """Return the layout of a network's kind.

    Raises:
        UsageError: chains cannot be made of such a network.
    """
    kind = getattr(config, "model_type", None)
    if kind not in LAYOUTS:
        raise UsageError(
            f"operator_chains: made of an encoder of one of these kinds: {listing(LAYOUTS)}. The network is {kind!r}."
        )
    embedding = getattr(config, "embedding_size", None)
    if embedding is not None and embedding != width_of(config):
        raise UsageError(
            f"operator_chains: the network projects its embeddings from {embedding} to {width_of(config)}. Expected "
            "embeddings as wide as the layers."
        )
    return LAYOUTS[kind]


def width_of(config: Any) -> int:
    """Return the width of a network's states."""
    return int(getattr(config, "hidden_size", None) or config.dim)


def layers_of(config: Any) -> int:
    """Return the number of a network's layers."""
    return int(getattr(config, "num_hidden_layers", None) or config.n_layers)


def heads_of(config: Any) -> int:
    """Return the number of heads of a layer."""
    return int(getattr(config, "num_attention_heads", None) or config.n_heads)


def neurons_of(config: Any) -> int:
    """Return the number of neurons of a layer's feed-forward maps."""
    return int(getattr(config, "intermediate_size", None) or config.hidden_dim)


def words_of(config: Any) -> dict[str, Any]:
    """Return what an embedding's description has to say of a network's words."""
    layout = layout_of(config)
    return {
        "vocabulary": config.vocab_size,
        "positions": config.max_position_embeddings,
        "types": getattr(config, "type_vocab_size", 0) if layout.types else 0,
        "pad": config.pad_token_id or 0,
        "counts_from_pad": layout.counts_from_pad,
    }


def head_of(net: nn.Module, config: Any) -> dict[str, Any]:
    """Return the description of a network's head, as :func:`nasframe_nas_bert.networks.make_head` reads it.

    Raises:
        UsageError: it has none that predicts tokens or classes.
    """
    layout = layout_of(config)
    width = width_of(config)
    if has(net, layout.tokens[2]):
        return {"kind": "tokens", "width": width, "size": width}
    if has(net, layout.classes[1]):
        labels = net.get_submodule(layout.classes[1]).out_features
        return {"kind": "classes", "width": width, "labels": labels, "activation": layout.activation}
    raise UsageError(
        f"operator_chains: {type(net).__name__} has no head that is known. Expected one for tokens (task masked_lm) or "
        "for classes."
    )


def has(net: nn.Module, path: str) -> bool:
    """Tell whether a network has a module."""
    try:
        net.get_submodule(path)
    except AttributeError:
        return False
    return True


@torch.no_grad()
def copy_head(library: ChainLibrary, teacher: nn.Module, config: Any) -> None:
    """Give a library the teacher's head."""
    layout = layout_of(config)
    head: Any = library.head
    if library.arguments["head"]["kind"] == "tokens":
        own = (head.dense, head.norm, head.decoder)
        for module, path in zip(own, layout.tokens, strict=True):
            copy_values(module, teacher.get_submodule(path))
        return
    for module, path in zip((head.dense, head.output), layout.classes, strict=True):
        copy_values(module, teacher.get_submodule(path))


@torch.no_grad()
def copy_embeddings(library: ChainLibrary, teacher: nn.Module, config: Any) -> None:
    """Begin embeddings with the teacher's: of its own size they are the teacher's, smaller ones its main directions.

    A smaller table has the coordinates of the teacher's words in the directions of their largest variance, and its map
    back to the teacher's width begins with these directions.
    """
    layout = layout_of(config)
    words = matrix(teacher, layout.words)
    positions = matrix(teacher, layout.positions)
    types = matrix(teacher, layout.types) if layout.types else None
    norm = teacher.get_submodule(layout.norm)
    directions: torch.Tensor | None = None
    for size, embedding in library.embeddings.items():
        assert isinstance(embedding, Embedding)
        tables = [(embedding.words, words), (embedding.position_embeddings, positions)]
        if embedding.types is not None and types is not None:
            tables.append((embedding.types, types))
        if int(size) == library.width:
            for own, values in tables:
                own.weight.copy_(values)
            copy_values(embedding.norm, norm)
            continue
        if words.is_meta:  # only shapes are wanted
            continue
        if directions is None:
            directions = main_directions(words)
        kept = directions[:, : int(size)]
        for own, values in tables:
            own.weight.copy_(values @ kept)
        map_back: Any = library.embedding_maps[size]
        map_back.weight.copy_(kept)
        map_back.bias.zero_()


def matrix(net: nn.Module, path: str) -> torch.Tensor:
    """Return the weight of one of a network's modules."""
    module: Any = net.get_submodule(path)
    weight: torch.Tensor = module.weight
    return weight


def main_directions(values: torch.Tensor) -> torch.Tensor:
    """Return the directions of the largest variance of rows, as orthonormal columns ``(width, width)``.

    >>> main_directions(torch.tensor([[0.0, 2.0], [0.0, -2.0], [1.0, 0.0], [-1.0, 0.0]])).abs()
    tensor([[0., 1.],
            [1., 0.]])
    """
    centred = values.double() - values.double().mean(0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    return vectors.flip(1).to(values.dtype)  # eigenvalues ascend


@torch.no_grad()
def copy_layers(library: ChainLibrary, teacher: nn.Module, config: Any) -> None:
    """Begin candidates of the teacher's width with the teacher's own sub-layers, where these stand.

    A part of the heads or neurons begins with those of the largest weights; a linear map with the product of the maps
    that it stands for (Bercovich et al., arXiv 2411.19146, section 3.2).
    """
    layout = layout_of(config)
    layers: Any = teacher.get_submodule(layout.layers)
    length = len(library.arguments["slots"])
    for number, block in enumerate(library.blocks):
        for position, slot in enumerate(library.arguments["slots"]):
            layer = layers[(number * length + position) // 2]
            is_attention = (number * length + position) % 2 == 0
            for word in slot:
                if word == NOTHING:
                    continue
                own: Any = block.layers[str(library.width)][position][key_of(word)]  # type: ignore[union-attr,index]
                if is_attention:
                    _begin_attention(own, layer, layout, library.arguments["head_size"])
                else:
                    _begin_ffn(own, layer, layout)


def _begin_attention(own: SubLayer, layer: nn.Module, layout: Layout, head_size: int) -> None:
    """Begin a sub-layer in the place of attention."""
    maps: list[Any] = [layer.get_submodule(path) for path in layout.attention]
    query, key, value, output = maps
    operation: Any = own.operation
    if isinstance(operation, LinearMap):
        operation.map.weight.copy_(output.weight @ value.weight)  # (P4): as if each token saw only itself
        operation.map.bias.copy_(output.bias + output.weight @ value.bias)
    elif isinstance(operation, Attention):
        heads = len(value.weight) // head_size
        of_values = value.weight.view(heads, -1).norm(dim=1)
        of_outputs = output.weight.T.reshape(heads, -1).norm(dim=1)
        rows = _rows_of(_largest(of_values * of_outputs, operation.heads), head_size)
        for mine, theirs in ((operation.query, query), (operation.key, key), (operation.value, value)):
            mine.weight.copy_(theirs.weight[rows])
            mine.bias.copy_(theirs.bias[rows])
        operation.output.weight.copy_(output.weight[:, rows])
        operation.output.bias.copy_(output.bias)
    else:
        return
    copy_values(own.norm, layer.get_submodule(layout.attention_norm))


def _begin_ffn(own: SubLayer, layer: nn.Module, layout: Layout) -> None:
    """Begin a sub-layer in the place of the feed-forward maps."""
    maps: list[Any] = [layer.get_submodule(path) for path in layout.ffn]
    up, down = maps
    operation: Any = own.operation
    if isinstance(operation, LinearMap):
        operation.map.weight.copy_(down.weight @ up.weight)
        operation.map.bias.copy_(down.bias + down.weight @ up.bias)
    elif isinstance(operation, FeedForward):
        importance = up.weight.norm(dim=1) * down.weight.norm(dim=0)
        rows = _largest(importance, len(operation.up.weight))
        operation.up.weight.copy_(up.weight[rows])
        operation.up.bias.copy_(up.bias[rows])
        operation.down.weight.copy_(down.weight[:, rows])
        operation.down.bias.copy_(down.bias)
    else:
        return
    copy_values(own.norm, layer.get_submodule(layout.ffn_norm))


def _largest(importance: torch.Tensor, count: int) -> torch.Tensor:
    """Return the positions of the largest numbers, in their order; of tensors without values the first ones."""
    if importance.is_meta:
        return torch.arange(count)
    return importance.topk(count).indices.sort().values


def _rows_of(heads: torch.Tensor, head_size: int) -> torch.Tensor:
    """Return the rows of some heads."""
    within = torch.arange(head_size, device=heads.device)
    return (heads[:, None] * head_size + within).flatten()


def copy_values(own: Any, source: Any) -> None:
    """Copy weight and bias of a module."""
    own.weight.copy_(source.weight)
    own.bias.copy_(source.bias)


def require_gelu(config: Any, options: Sequence[str]) -> None:
    """Make sure that a teacher's layers compute as the chains do.

    Raises:
        UsageError: its activation is another one.
    """
    activation = getattr(config, "hidden_act", None) or getattr(config, "activation", None)
    if activation != "gelu":
        text = f"{options[0]}: {options[1]} takes over layers with the activation 'gelu'. The network has"
        raise UsageError(f"operator_chains.{text} {activation!r}.")
