"""The networks of AutoBERT-Zero (arXiv 2107.07445): encoders of transformers whose layers mix words in other ways.

A layer mixes words by a formula of queries, keys and values (:class:`Attention`), or by a convolution
(:class:`Convolution`). Everything else (embeddings, feed-forward networks, normalisations, the head) stays as it is in
transformers. An exported model carries this file and ``expression.py``; both need torch and transformers only.
Labels such as ``(Z3)`` name the formulas that the package's README lists.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from torch.nn import functional

from nasframe import Described
from nasframe_autobert_zero.expression import STANDARD, WORDS, Expression, inputs_of, nodes_of, parse, shape_of

CONVOLUTION = "conv"
"""What a layer's mix begins with if it is a convolution: ``conv7`` has a kernel of 7 words."""
TINY = 1e-6
"""Keeps the slope of the signed root finite at 0."""


def kernel_of(mix: str) -> int | None:
    """Return the kernel of a convolution, ``None`` for a formula.

    >>> kernel_of("conv7"), kernel_of("matmul(q, k)")
    (7, None)
    """
    number = mix.removeprefix(CONVOLUTION)
    return int(number) if number != mix and number.isascii() and number.isdigit() else None


def words_of(attention_mask: torch.Tensor | None) -> torch.Tensor | None:
    """Return which keys are words and no padding, ``(batch, 1, 1, keys)``; ``None`` if all are.

    Args:
        attention_mask: what an encoder of transformers gives its layers: ``(batch, 1, queries, keys)`` with the same
            row for every query, either booleans or numbers that are added to the scores.
    """
    if attention_mask is None:
        return None
    first_row = attention_mask[:, :1, :1, :]
    return first_row if first_row.dtype == torch.bool else first_row >= 0


# ---- attention


class Attention(nn.Module):
    """Mix words by a formula, in each head.

    Args:
        width: columns of the layer's input.
        heads: number of heads.
        head_size: d, the columns of a head.
        formula: the formula, as text.
        dropout: rate of dropout behind normalised scores.
        all_inputs: make the map of the values even if the formula does not read them.
    """

    def __init__(
        self, width: int, heads: int, head_size: int, formula: str, dropout: float, all_inputs: bool = False
    ) -> None:
        super().__init__()
        columns = heads * head_size
        self.head_size = head_size
        self.formula = formula
        self.dropout = dropout
        reads_values = all_inputs or "v" in inputs_of(parse(formula))
        self.query = nn.Linear(width, columns)
        self.key = nn.Linear(width, columns)
        self.value = nn.Linear(width, columns) if reads_values else None
        self.merge = nn.Linear(columns, width)

    def forward(
        self,
        hidden: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        formula: str | None = None,
        **unused: Any,
    ) -> tuple[torch.Tensor, None]:
        """Return the mixed words ``(batch, words, width)``, and ``None`` in place of attention scores.

        Args:
            hidden: ``(batch, words, width)``.
            attention_mask: from the encoder.
            formula: another formula to use with the same maps.
            unused: what an encoder of transformers passes on besides.
        """
        expression = parse(formula or self.formula)
        read = inputs_of(expression)
        inputs = {}
        for name, linear in (("q", self.query), ("k", self.key), ("v", self.value)):
            if name in read and linear is not None:
                inputs[name] = linear(hidden).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
        dropout = self.dropout if self.training else 0.0
        mixed = computed(expression, inputs, words_of(attention_mask), dropout)  # (Z1)
        return self.merge(mixed.transpose(1, 2).flatten(2)), None


def computed(
    expression: Expression,
    inputs: Mapping[str, torch.Tensor],
    words: torch.Tensor | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Compute a formula.

    Args:
        expression: the formula.
        inputs: ``q``, ``k`` and, if it is read, ``v``: ``(batch, heads, words, d)`` each.
        words: ``(batch, 1, 1, words)``, false for padding; ``None`` if there is none.
        dropout: rate of dropout behind scores that are normalised over words.

    Returns:
        The result, ``(batch, heads, words, d)`` if the formula is valid.
    """
    values: dict[Expression, torch.Tensor] = dict(inputs)
    head_size = next(iter(inputs.values())).shape[-1]
    for node in nodes_of(expression):  # each once, arguments first
        operation, *arguments = node
        tensors = [values[argument] for argument in arguments]
        if operation == "softmax" and shape_of(arguments[0])[1] == WORDS:
            values[node] = functional.dropout(softmax_over_words(tensors[0], words), dropout)
        else:
            values[node] = applied(operation, tensors, head_size)
    return values[expression]


def softmax_over_words(scores: torch.Tensor, words: torch.Tensor | None) -> torch.Tensor:
    """Normalise scores over the last axis, words, without padding."""
    if words is not None:
        scores = scores.masked_fill(~words, torch.finfo(scores.dtype).min)  # (Z2)
    return scores.softmax(-1)


def applied(operation: str, tensors: Sequence[torch.Tensor], head_size: int) -> torch.Tensor:
    """Compute one operation of a formula; ``softmax`` is over the last axis.

    Args:
        operation: its name.
        tensors: its arguments.
        head_size: d.
    """
    x = tensors[0]
    if operation == "neg":
        return -x
    if operation == "transpose":
        return x.transpose(-1, -2)
    if operation == "scale":
        return x / math.sqrt(head_size)
    if operation == "softmax":
        return x.softmax(-1)
    if operation == "logsigmoid":
        return functional.logsigmoid(x)
    if operation == "softsign":
        return functional.softsign(x)
    if operation == "sqrt":
        return x.sqrt()
    if operation == "signed_sqrt":
        return x / (x.abs() + TINY).sqrt()
    y = tensors[1]
    if operation == "add":
        return x + y
    if operation == "matmul":
        return x @ y
    if operation == "cosine":
        return functional.normalize(x, dim=-1) @ functional.normalize(y, dim=-1).transpose(-1, -2)
    if operation == "euclidean":
        return torch.cdist(x, y)
    raise ValueError(f"{operation!r}: no such operation")


# ---- convolution


class Convolution(nn.Module):
    """Mix words by a light convolution (Wu et al., arXiv 1901.10430) behind a gated linear unit.

    Args:
        width: columns of the layer's input.
        heads: number of kernels; neighbouring columns share one.
        kernel: words under the largest kernel, odd.
    """

    def __init__(self, width: int, heads: int, kernel: int) -> None:
        super().__init__()
        self.widen = nn.Linear(width, 2 * width)
        self.kernels = nn.Parameter(torch.zeros(heads, kernel))
        self.merge = nn.Linear(width, width)
        if self.kernels.is_meta:  # shapes alone are wanted, and drawing nothing takes milliseconds there
            return
        for linear in (self.widen, self.merge):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        nn.init.normal_(self.kernels, std=0.02)

    def forward(
        self,
        hidden: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        kernel: int | None = None,
        **unused: Any,
    ) -> tuple[torch.Tensor, None]:
        """Return the mixed words ``(batch, words, width)``, and ``None`` in place of attention scores.

        Args:
            hidden: ``(batch, words, width)``.
            attention_mask: from the encoder.
            kernel: words under the kernel: the middle of the largest one; default: all of it.
            unused: what an encoder of transformers passes on besides.
        """
        gated = functional.glu(self.widen(hidden), dim=-1)  # (Z3)
        words = words_of(attention_mask)
        if words is not None:
            gated = gated * words[:, 0, 0, :, None]  # padding weighs nothing
        weights = centre(self.kernels, kernel or self.kernels.shape[1]).softmax(-1)  # (Z4)
        batch, length, width = gated.shape
        heads, size = weights.shape
        # Columns that share a kernel become examples of a batch, so that one grouped convolution does them all.
        columns = gated.transpose(1, 2).reshape(batch, heads, width // heads, length).transpose(1, 2)
        mixed = functional.conv1d(columns.flatten(0, 1), weights[:, None], padding=size // 2, groups=heads)
        mixed = mixed.unflatten(0, (batch, width // heads)).transpose(1, 2).reshape(batch, width, length)
        return self.merge(mixed.transpose(1, 2)), None


def centre(kernels: torch.Tensor, size: int) -> torch.Tensor:
    """Return the middle of kernels.

    Args:
        kernels: ``(heads, largest)``, an odd number.
        size: words to keep, odd.
    """
    cut = (kernels.shape[1] - size) // 2
    return kernels[:, cut : cut + size]  # (Z5)


# ---- networks


class Encoder(Described):
    """An encoder of transformers, ``net``, whose layers mix words in other ways.

    Attributes:
        net: the encoder with its head.
        arguments: the constructor's arguments.
    """

    net: Any
    arguments: dict[str, Any]

    def describe(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return dict(self.arguments)

    def part(self, name: str) -> Sequence[nn.Module] | None:
        """Return the modules that count as ``encoder`` or ``backbone``."""
        if name == "encoder":
            return [self.net.get_submodule(self.arguments["paths"]["layers"])]
        return [self.net.base_model] if name == "backbone" else None

    @classmethod
    def sources(cls) -> Sequence[Path]:
        """Return this file and the one that reads formulas."""
        here = Path(__file__)
        return [here, here.with_name("expression.py")]

    def forward(self, input_ids: torch.Tensor | None = None, **inputs: Any) -> Any:
        """Return what the class of transformers returns for these inputs."""
        if input_ids is not None:
            inputs["input_ids"] = input_ids
        return self.net(**inputs)


class AutoBertZero(Encoder):
    """An encoder of transformers whose layers mix words by formulas and convolutions.

    Args:
        model: the class of transformers.
        config: its configuration.
        paths: where its parts are, from the network; ``attention``, ``merge``, ``widen`` and ``shrink`` from a layer.
        sizes: ``width``, ``heads`` and ``head_size`` of its layers; ``depth`` names the configuration's field of their
            number.
        layers: for each layer ``mix``, a formula or ``conv7``, and ``ffn``, its number of neurons.
        dropout: rate of dropout behind normalised scores.
    """

    def __init__(
        self,
        model: str,
        config: Mapping[str, Any],
        paths: Mapping[str, str],
        sizes: Mapping[str, Any],
        layers: Sequence[Mapping[str, Any]],
        dropout: float,
    ) -> None:
        super().__init__()
        self.arguments = {
            "model": model,
            "config": dict(config),
            "paths": dict(paths),
            "sizes": dict(sizes),
            "layers": [dict(layer) for layer in layers],
            "dropout": dropout,
        }
        self.net = stock_network(model, {**config, sizes["depth"]: len(layers)})
        for layer, choice in zip(self.net.get_submodule(paths["layers"]), layers, strict=True):
            mixer = make_mixer(choice["mix"], sizes, dropout)
            put_mixer(layer, paths, mixer)
            resize_ffn(layer, paths, choice["ffn"])


def stock_network(model: str, config: Mapping[str, Any]) -> Any:
    """Return a network of transformers with fresh weights.

    Its own attention is ``eager``, which gives every layer its mask as numbers; no such attention is left in the end.
    """
    network_class: Any = getattr(transformers, model)
    settings = network_class.config_class.from_dict(dict(config))
    settings._attn_implementation = "eager"
    net = network_class(settings)
    for module in net.modules():
        # When transformers loads a model of another class around this one, it leaves buffers empty that are not stored.
        module._non_persistent_buffers_set.clear()
    return net


def make_mixer(mix: str, sizes: Mapping[str, Any], dropout: float) -> nn.Module:
    """Return the module that mixes words in a layer."""
    kernel = kernel_of(mix)
    if kernel is not None:
        return Convolution(sizes["width"], sizes["heads"], kernel)
    return Attention(sizes["width"], sizes["heads"], sizes["head_size"], mix, dropout)


def put_mixer(layer: nn.Module, paths: Mapping[str, str], mixer: nn.Module) -> None:
    """Put a mixer in the place of a layer's attention. It has its own map out of the heads, so the layer's one goes.

    Args:
        layer: the layer.
        paths: ``attention`` and ``merge``, from the layer.
        mixer: the module.
    """
    layer.set_submodule(paths["attention"], mixer)
    is_outside = not paths["merge"].startswith(paths["attention"] + ".")
    if is_outside:
        layer.set_submodule(paths["merge"], nn.Identity())


def resize_ffn(layer: nn.Module, paths: Mapping[str, str], neurons: int) -> None:
    """Give a layer another number of neurons, with fresh weights."""
    widen: Any = layer.get_submodule(paths["widen"])
    shrink: Any = layer.get_submodule(paths["shrink"])
    if widen.out_features == neurons:
        return
    layer.set_submodule(paths["widen"], nn.Linear(widen.in_features, neurons))
    layer.set_submodule(paths["shrink"], nn.Linear(neurons, shrink.out_features))


class Branches(nn.Module):
    """Both ways to mix words in a layer of the super-network: by attention, and by convolution.

    The maps of the attention do not depend on its formula, and a small kernel is the middle of the largest.

    Args:
        sizes: of the layer.
        kernel: the largest kernel.
        dropout: rate of dropout behind normalised scores.
    """

    def __init__(self, sizes: Mapping[str, Any], kernel: int, dropout: float) -> None:
        super().__init__()
        width, heads = sizes["width"], sizes["heads"]
        self.attention = Attention(width, heads, sizes["head_size"], STANDARD, dropout, all_inputs=True)
        self.convolution = Convolution(width, heads, kernel)

    def forward(
        self,
        hidden: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        mix: str = STANDARD,
        **unused: Any,
    ) -> tuple[torch.Tensor, None]:
        """Return the words as one of the branches mixes them, and ``None`` in place of attention scores."""
        kernel = kernel_of(mix)
        if kernel is not None:
            mixed: tuple[torch.Tensor, None] = self.convolution(hidden, attention_mask, kernel)
        else:
            mixed = self.attention(hidden, attention_mask, mix)
        return mixed


class AutoBertSupernet(Encoder):
    """An encoder of transformers with both branches in every layer; as a whole it has the standard attention.

    Args:
        model: the class of transformers.
        config: its configuration.
        paths: where its parts are.
        sizes: of its layers.
        kernel: the largest kernel.
        dropout: rate of dropout behind normalised scores.
    """

    def __init__(
        self,
        model: str,
        config: Mapping[str, Any],
        paths: Mapping[str, str],
        sizes: Mapping[str, Any],
        kernel: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.arguments = {
            "model": model,
            "config": dict(config),
            "paths": dict(paths),
            "sizes": dict(sizes),
            "kernel": kernel,
            "dropout": dropout,
        }
        self.net = stock_network(model, config)
        for layer in self.net.get_submodule(paths["layers"]):
            put_mixer(layer, paths, Branches(sizes, kernel, dropout))
