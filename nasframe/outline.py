"""Outlines of networks and tokenizers: their sizes as read from files, for plugins that need only these before a run.

A network of transformers without values (:func:`nasframe.recipe.preflight.skeleton`) takes seconds to make, nearly all
of them for importing torch and transformers. A model that knows its network's sizes without them may offer an
:class:`Outline`. ``nasframe check`` then passes the outline, instead of the network, to plugins whose factory says
``sizes_suffice = True``; all others get the network.

An outline only saves time: the sizes of any other family are those that its row (:mod:`nasframe.nn.elastic`) finds in
the configuration of the network without values. Outlines are therefore for the families of most checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from nasframe.nn.additive import Additive, LayerCost

if TYPE_CHECKING:
    from torch import nn

Axes = tuple[str, ...]
"""The lengths of a tensor's dimensions, by name: ``width``, ``heads`` (all heads' columns), ``ffn`` …"""


@dataclass(frozen=True)
class Family:
    """The tensors of a model family: path → names of its lengths.

    Args:
        prefix: the encoder's name in a network with a head.
        keys: length → key of config.json.
        embeddings: the tensors before the layers.
        project: the tensors between embeddings and layers, if the two have different widths.
        layers: path of the layer list from the encoder.
        layer: a layer's tensors, from the layer.
        pooler: the tensors after the layers.
        head: the tensors of the classification head, from the network.
        pretraining: names of the tensors that the heads of pre-training leave in a checkpoint.
        offset: whether positions are counted from the padding's id + 1.
    """

    prefix: str
    keys: Mapping[str, str]
    embeddings: Mapping[str, Axes]
    layers: str
    layer: Mapping[str, Axes]
    head: Mapping[str, Axes]
    project: Mapping[str, Axes] = field(default_factory=dict)
    pooler: Mapping[str, Axes] = field(default_factory=dict)
    pretraining: frozenset[str] = frozenset()
    offset: bool = False


def _linear(path: str, outputs: str, inputs: str) -> dict[str, Axes]:
    return {f"{path}.weight": (outputs, inputs), f"{path}.bias": (outputs,)}


def _norm(path: str, width: str = "width") -> dict[str, Axes]:
    return {f"{path}.weight": (width,), f"{path}.bias": (width,)}


_KEYS = {
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "ffn": "intermediate_size",
    "width": "hidden_size",
    "words": "vocab_size",
    "positions": "max_position_embeddings",
    "types": "type_vocab_size",
}
_EMBEDDINGS: dict[str, Axes] = {
    "embeddings.word_embeddings.weight": ("words", "embedding"),
    "embeddings.position_embeddings.weight": ("positions", "embedding"),
    "embeddings.token_type_embeddings.weight": ("types", "embedding"),
    **_norm("embeddings.LayerNorm", "embedding"),
}
_BERT_LAYER = {
    **_linear("attention.self.query", "heads", "width"),
    **_linear("attention.self.key", "heads", "width"),
    **_linear("attention.self.value", "heads", "width"),
    **_linear("attention.output.dense", "width", "heads"),
    **_norm("attention.output.LayerNorm"),
    **_linear("intermediate.dense", "ffn", "width"),
    **_linear("output.dense", "width", "ffn"),
    **_norm("output.LayerNorm"),
}
_DISTILBERT_LAYER = {
    **_linear("attention.q_lin", "heads", "width"),
    **_linear("attention.k_lin", "heads", "width"),
    **_linear("attention.v_lin", "heads", "width"),
    **_linear("attention.out_lin", "width", "heads"),
    **_norm("sa_layer_norm"),
    **_linear("ffn.lin1", "ffn", "width"),
    **_linear("ffn.lin2", "width", "ffn"),
    **_norm("output_layer_norm"),
}
_DENSE_HEAD = _linear("classifier.dense", "width", "width") | _linear("classifier.out_proj", "labels", "width")
_BERT_PRETRAINING = (
    _linear("cls.predictions.transform.dense", "width", "width").keys()
    | _norm("cls.predictions.transform.LayerNorm").keys()
    | _linear("cls.predictions.decoder", "words", "width").keys()
    | _linear("cls.seq_relationship", "labels", "width").keys()
    | {"cls.predictions.bias"}
)

FAMILIES: Mapping[str, Family] = {
    "bert": Family(
        prefix="bert",
        keys=_KEYS,
        embeddings=_EMBEDDINGS,
        layers="encoder.layer",
        layer=_BERT_LAYER,
        pooler=_linear("pooler.dense", "width", "width"),
        head=_linear("classifier", "labels", "width"),
        pretraining=frozenset(_BERT_PRETRAINING),
    ),
    "roberta": Family(
        prefix="roberta",
        keys=_KEYS,
        embeddings=_EMBEDDINGS,
        layers="encoder.layer",
        layer=_BERT_LAYER,
        head=_DENSE_HEAD,
        offset=True,
    ),
    "electra": Family(
        prefix="electra",
        keys=_KEYS | {"embedding": "embedding_size"},
        embeddings=_EMBEDDINGS,
        project=_linear("embeddings_project", "width", "embedding"),
        layers="encoder.layer",
        layer=_BERT_LAYER,
        head=_DENSE_HEAD,
    ),
    "distilbert": Family(
        prefix="distilbert",
        keys={
            "layers": "n_layers",
            "heads": "n_heads",
            "ffn": "hidden_dim",
            "width": "dim",
            "words": "vocab_size",
            "positions": "max_position_embeddings",
        },
        embeddings={path: axes for path, axes in _EMBEDDINGS.items() if "types" not in axes},
        layers="transformer.layer",
        layer=_DISTILBERT_LAYER,
        head=_linear("pre_classifier", "width", "width") | _linear("classifier", "labels", "width"),
    ),
}
"""The families of :data:`nasframe.nn.elastic.FAMILIES`, tensor by tensor."""


@dataclass(frozen=True)
class TokenizerOutline:
    """The numbers of a tokenizer that a task needs before a run; they are called as transformers calls them.

    Args:
        model_max_length: how many tokens the network can read.
        special: how many special tokens are added to a text.
        special_in_pair: how many are added to a pair of texts.
    """

    model_max_length: int
    special: int
    special_in_pair: int

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return how many special tokens are added to a text, or to a pair of texts."""
        return self.special_in_pair if pair else self.special


@dataclass(frozen=True, eq=False)  # compared by identity, as networks are
class Outline:
    """The sizes of an encoder of transformers with a classification head; all its layers have the same sizes.

    Args:
        family: its ``model_type``, one of ``FAMILIES``.
        lengths: ``layers``, ``heads``, ``ffn``, ``width``, ``words``, ``positions``, ``labels`` (the outputs of
            the head), and if the family has them ``types`` and ``embedding``.
        tokenizer: the outline of its tokenizer.
        longest: the longest input, in tokens.

    >>> sizes = {"layers": 1, "heads": 2, "ffn": 8, "width": 4, "words": 9, "positions": 5, "types": 2, "labels": 2}
    >>> Outline("bert", sizes, TokenizerOutline(5, 2, 3), 5).params("encoder").of({"layers": [0], "heads.0": 1})
    134.0
    """

    family: str
    lengths: Mapping[str, int]
    tokenizer: TokenizerOutline
    longest: int

    @property
    def config(self) -> Outline:
        """The outline itself: a space receives it in place of the network's configuration."""
        return self

    @property
    def head_size(self) -> int:
        """The columns of one attention head."""
        return self.lengths["width"] // self.lengths["heads"]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each parameter, under its name in the network with a head."""
        return {name: self.shape(axes) for name, axes in self._tensors("all")}

    def encoder_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each parameter of the encoder without pooler, under its name in the encoder."""
        family = FAMILIES[self.family]
        shapes = {}
        for name, axes in self._tensors("backbone"):
            inner_name = name.removeprefix(f"{family.prefix}.")
            if inner_name not in family.pooler:
                shapes[inner_name] = self.shape(axes)
        return shapes

    def shape(self, axes: Axes) -> tuple[int, ...]:
        """Return a tensor's shape, given the names of its lengths."""
        return tuple(self._length(axis) for axis in axes)

    def params(self, part: Literal["all", "backbone", "encoder"] = "all") -> Additive:
        """Count parameters, as :func:`nasframe.nn.count.params` does for the network.

        Args:
            part: ``all``, ``backbone`` (without the head), or ``encoder`` (only the layers).
        """
        # Of a layer: its fixed parameters, and those that each head and each neuron adds.
        costs = {"fixed": 0, "heads": 0, "ffn": 0}
        for axes in FAMILIES[self.family].layer.values():
            unit = _unit(axes)
            others = tuple(axis for axis in axes if axis != unit)
            weights = math.prod(self.shape(others))
            if unit == "heads":
                weights *= self.head_size  # the dimension counts columns, and a head has several
            costs[unit] += weights
        layer_cost = LayerCost(float(costs["fixed"]), float(costs["heads"]), float(costs["ffn"]))
        outside = 0
        for _, axes in self._outside(part):
            outside += math.prod(self.shape(axes))
        return Additive(self._layer_sizes(), float(outside), [layer_cost] * self.lengths["layers"])

    def macs(self, batch: int = 1, length: int = 128, count: str = "matmul") -> Additive:
        """Count multiply-adds, as :func:`nasframe.nn.count.macs` does for the network.

        Args:
            batch: number of sequences.
            length: number of tokens in each.
            count: ``matmul`` or ``torchprofile``.
        """
        family = FAMILIES[self.family]
        width = self.lengths["width"]
        norm = batch * length if count == "torchprofile" else 0  # multiply-adds for each normalised column
        columns = {"heads": 0, "ffn": 0}  # weights of each head's column and of each neuron
        for axes in family.layer.values():
            if len(axes) == 2:  # a matrix; vectors are added, which is no multiply-add
                columns[_unit(axes)] += width
        attention = 2 * length**2  # queries with keys, and their weights with values
        head = self.head_size * (columns["heads"] * length + attention)
        neuron = length * columns["ffn"]
        norms = 2.0 * norm * width  # a layer has two
        cost = LayerCost(norms, float(batch * head), float(batch * neuron))

        # Pooler and head read one token of each sequence, a projection of the embeddings reads all of them.
        once = self._weights((*family.pooler.values(), *family.head.values()))
        per_token = self._weights(axes for _, axes in self._project())
        base = batch * (once + per_token * length) + norm * (self._length("embedding") + 1)
        return Additive(self._layer_sizes(), float(base), [cost] * self.lengths["layers"])

    def _weights(self, tensors: Iterable[Axes]) -> int:
        """Count the entries of the matrices among tensors."""
        return sum(math.prod(self.shape(axes)) for axes in tensors if len(axes) == 2)

    def _length(self, axis: str) -> int:
        """Return the length of a dimension by its name."""
        if axis == "heads":
            return self.lengths["width"]
        if axis == "embedding":
            return self.lengths.get("embedding", self.lengths["width"])
        return self.lengths[axis]

    def _layer_sizes(self) -> list[dict[str, int]]:
        sizes = {"heads": self.lengths["heads"], "ffn": self.lengths["ffn"]}
        return [sizes] * self.lengths["layers"]

    def _project(self) -> Iterator[tuple[str, Axes]]:
        """Yield the tensors between embeddings and layers, if the two have different widths."""
        if self._length("embedding") != self.lengths["width"]:
            yield from FAMILIES[self.family].project.items()

    def _outside(self, part: str) -> Iterator[tuple[str, Axes]]:
        """Yield the tensors outside the layers that belong to a part."""
        family = FAMILIES[self.family]
        if part == "encoder":
            return
        for name, axes in (*family.embeddings.items(), *self._project(), *family.pooler.items()):
            yield f"{family.prefix}.{name}", axes
        if part == "all":
            yield from family.head.items()

    def _tensors(self, part: str) -> Iterator[tuple[str, Axes]]:
        """Yield all tensors that belong to a part."""
        family = FAMILIES[self.family]
        yield from self._outside(part)
        for position in range(self.lengths["layers"]):
            for name, axes in family.layer.items():
                yield f"{family.prefix}.{family.layers}.{position}.{name}", axes


def _unit(axes: Axes) -> str:
    """Return the unit that a layer's tensor gets narrower with, ``heads`` or ``ffn``; ``fixed`` if there is none."""
    for unit in ("heads", "ffn"):
        if unit in axes:
            return unit
    return "fixed"


def sizes_suffice(factory: Any) -> bool:
    """Return whether a plugin's factory declares that an outline is enough for it before a run.

    A subclass does not inherit the declaration, since it may read more of the network than its base class.
    """
    return getattr(factory, "__dict__", {}).get("sizes_suffice") is True


def longest_input(net: nn.Module | Outline) -> int | None:
    """Return how many tokens a network can read; ``None`` if there is no limit.

    Args:
        net: the network, with or without values, or its outline.
    """
    if isinstance(net, Outline):
        return net.longest
    from nasframe.nn.positions import usable_positions

    return usable_positions(net)
