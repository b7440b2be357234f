"""The networks of AdaBERT (Chen et al., arXiv 2001.04246): a stack of equal small cells of convolutions and pools.

:class:`AdaBert` is a derived network: K cells, in which each node reads two earlier nodes, and a classifier. An
exported model carries this file, so that it needs torch and transformers only. The super-network in ``supernet.py`` is
made of the same parts.

Inside, a sequence is ``(batch, width, length)``, as convolutions read it, and a mask ``(batch, 1, length)`` holds 1 for
words and 0 for padding. Every part returns zeros at padding, so that an example's output does not depend on how far its
batch is padded. Labels such as ``(A3)`` name the formulas that the package's README lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.modeling_outputs import SequenceClassifierOutput

from nasframe import Described

INPUTS = 2
"""A cell reads the outputs of the two cells before it."""
NODES = 3
"""Intermediate nodes of a cell; node t reads the two inputs and all nodes before it."""
EDGES = tuple((source, node) for node in range(NODES) for source in range(INPUTS + node))
"""Every edge of a cell as ``(source, node)``: sources 0 and 1 are the cell's inputs, source 2 is node 0, and so on."""
EPSILON = 1e-5
"""What is added to variances before the root."""
MOMENTUM = 0.1
"""Of running means in torch's sense: they keep 0.9 of themselves in each step."""


class AdaBert(Described):
    """A text classifier of K equal cells over word and position embeddings.

    Args:
        vocabulary: number of tokens.
        positions: number of positions; 0 for a network without position embeddings.
        width: channels of all cells.
        classes: number of outputs.
        cells: K, the number of cells; with 0 the classifier reads the mean embedding.
        nodes: for each node of the cell its two edges, each as ``[source, operation]``.
        dilation: what a dilated operation is, see :func:`make_operation`.
        dropout: rate of dropout behind the embeddings.
    """

    def __init__(
        self,
        vocabulary: int,
        positions: int,
        width: int,
        classes: int,
        cells: int,
        nodes: Sequence[Sequence[Sequence[Any]]],
        dilation: str = "convolution",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.arguments = {
            "vocabulary": vocabulary,
            "positions": positions,
            "width": width,
            "classes": classes,
            "cells": cells,
            "nodes": [[list(edge) for edge in edges] for edges in nodes],
            "dilation": dilation,
            "dropout": dropout,
        }
        self.embedding = Embedding(vocabulary, positions, width, dropout=dropout)
        self.cells = nn.ModuleList([Cell(width, nodes, dilation) for _ in range(cells)])
        self.mix = nn.Parameter(torch.zeros(cells + 1))
        self.classifier = nn.Linear(width, classes)

    def describe(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return dict(self.arguments)

    def part(self, name: str) -> Sequence[nn.Module] | None:
        """Return the modules that count as ``encoder`` or ``backbone``."""
        return parts_of(name, self.embedding, self.cells)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Classify texts, or pairs of texts.

        Args:
            input_ids: ``(batch, length)`` tokens, padded at the end.
            attention_mask: ``(batch, length)``, 0 for padding; by default there is none.
            token_type_ids: ``(batch, length)``, 1 for tokens of the second text; without it, the first separator ends
                the first text.

        Returns:
            An output with ``logits``, ``(batch, classes)``.
        """
        before_last, last, mask = self.embedding(input_ids, attention_mask, token_type_ids)
        states = [first_state(before_last, last, mask)]
        for cell in self.cells:
            before_last, last = last, cell(before_last, last, mask)
            states.append(mean_over_words(last, mask))
        return SequenceClassifierOutput(logits=self.classifier(mixed_state(states, self.mix)))


def parts_of(name: str, embedding: nn.Module, cells: nn.Module) -> Sequence[nn.Module] | None:
    """Return the modules of a part of a network of cells: the encoder is its cells."""
    return {"encoder": [cells], "backbone": [embedding, cells]}.get(name)


# ---- input


class Embedding(nn.Module):
    """The two input sequences of the first cell: words and positions, narrow, normalised, with dropout.

    Args:
        vocabulary: number of tokens.
        positions: number of positions, 0 for none.
        width: channels of the result.
        source: width of the tables if they are another network's, which stay as they are; a map to ``width``, which
            is learned, then follows. ``None``: the tables have ``width`` themselves, and are learned.
        dropout: rate of dropout.
    """

    def __init__(
        self, vocabulary: int, positions: int, width: int, source: int | None = None, dropout: float = 0.1
    ) -> None:
        super().__init__()
        columns = width if source is None else source
        self.word_embeddings = nn.Embedding(vocabulary, columns)
        self.position_embeddings = nn.Embedding(positions, columns) if positions else None
        self.narrow = nn.Identity() if source is None else nn.Linear(source, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        if source is not None:
            self.word_embeddings.requires_grad_(False)
            if self.position_embeddings is not None:
                self.position_embeddings.requires_grad_(False)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, token_type_ids: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return both input sequences ``(batch, width, length)`` and their mask ``(batch, 1, length)``.

        Of a pair, each text is one input, and its positions start at 0. A single text is both inputs.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        is_word = attention_mask.bool()
        is_second = second_text(input_ids, is_word, token_type_ids)
        is_first = is_word & ~is_second
        is_pair = is_second.any(1, keepdim=True)
        # The second text is moved to the front, where the first one ends.
        shift = is_first.sum(1, keepdim=True)
        place = torch.arange(input_ids.shape[1], device=input_ids.device) + shift
        place = place.clamp(max=input_ids.shape[1] - 1)
        second_length = is_second.sum(1, keepdim=True)
        is_second_word = torch.arange(input_ids.shape[1], device=input_ids.device) < second_length
        second_ids = torch.where(is_pair, input_ids.gather(1, place), input_ids)
        is_second_word = torch.where(is_pair, is_second_word, is_first)
        first = self.embedded(input_ids, is_first)
        second = self.embedded(second_ids, is_second_word)
        mask = (is_first | is_second_word).unsqueeze(1).to(first.dtype)
        return first, second, mask

    def embedded(self, input_ids: torch.Tensor, is_word: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of one text, ``(batch, width, length)``, zeros at padding."""
        hidden = self.word_embeddings(input_ids)
        if self.position_embeddings is not None:
            hidden = hidden + self.position_embeddings.weight[: input_ids.shape[1]]
        hidden = self.narrow(hidden)  # (A1)
        hidden = self.dropout(self.norm(hidden))
        hidden = hidden * is_word.unsqueeze(-1)
        return hidden.transpose(1, 2)


def second_text(
    input_ids: torch.Tensor, is_word: torch.Tensor, token_type_ids: torch.Tensor | None = None
) -> torch.Tensor:
    """Return which tokens belong to the second text of a pair, ``(batch, length)``.

    Args:
        input_ids: ``(batch, length)`` tokens, padded at the end.
        is_word: ``(batch, length)`` false for padding.
        token_type_ids: 1 for the second text. Without it, an example's last token is taken for the separator: what
            follows the first separator is the second text.

    >>> ids = torch.tensor([[1, 7, 2, 8, 9, 2], [1, 7, 8, 2, 0, 0]])
    >>> second_text(ids, ids != 0).int()
    tensor([[0, 0, 0, 1, 1, 1],
            [0, 0, 0, 0, 0, 0]], dtype=torch.int32)
    """
    if token_type_ids is not None:
        return (token_type_ids == 1) & is_word
    last = (is_word.sum(1, keepdim=True) - 1).clamp(min=0)
    separator = input_ids.gather(1, last)
    is_separator = (input_ids == separator) & is_word
    separators_before = is_separator.cumsum(1) - is_separator.long()
    return (separators_before > 0) & is_word


# ---- cells


class Cell(nn.Module):
    """A derived cell: three nodes that each add up two operations, and a weighted mean of the nodes.

    Args:
        width: channels.
        nodes: for each node its two edges, each as ``[source, operation]``.
        dilation: what a dilated operation is.
    """

    def __init__(self, width: int, nodes: Sequence[Sequence[Sequence[Any]]], dilation: str) -> None:
        super().__init__()
        self.sources = [[int(source) for source, _ in edges] for edges in nodes]
        operations = []
        for edges in nodes:
            operations.append(nn.ModuleList([make_operation(name, width, dilation) for _, name in edges]))
        self.operations = nn.ModuleList(operations)
        self.weights = nn.Parameter(torch.zeros(NODES))

    def forward(self, first: torch.Tensor, second: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the cell's output, of the shape of its two inputs ``(batch, width, length)``."""
        states = [first, second]
        for sources, operations in zip(self.sources, self.operations, strict=True):
            total = torch.zeros_like(first)
            for source, operation in zip(sources, operations, strict=True):  # type: ignore[call-overload]
                total = total + operation(states[source], mask)  # (A2)
            states.append(total)
        return weighted_nodes(states, self.weights)


def weighted_nodes(states: Sequence[torch.Tensor], weights: torch.Tensor) -> torch.Tensor:
    """Return a cell's output: the mean of its nodes with learned weights.

    Args:
        states: the cell's inputs and then its nodes.
        weights: ``(nodes,)`` logits of the weights.
    """
    shares = functional.softmax(weights, dim=0)
    nodes = torch.stack(tuple(states[INPUTS:]))
    return torch.einsum("n,nbcl->bcl", shares, nodes)  # (A3)


# ---- readout


def mean_over_words(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of a sequence over its words, ``(batch, width)``."""
    return (hidden * mask).sum(2) / mask.sum(2).clamp(min=1)


def first_state(first: torch.Tensor, second: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the state before all cells: the mean of both input sequences."""
    return mean_over_words((first + second) / 2, mask)


def mixed_state(states: Sequence[torch.Tensor], logits: torch.Tensor) -> torch.Tensor:
    """Return what the classifier reads: the states of the input and of all cells, mixed with learned weights.

    Args:
        states: ``(batch, width)`` each.
        logits: one weight for each state, before the softmax.
    """
    shares = functional.softmax(logits, dim=0)
    mixed = torch.einsum("s,sbc->bc", shares, torch.stack(tuple(states)))
    return torch.tanh(mixed)  # (A4)


# ---- operations


KERNELS = (3, 5, 7)
POOL = 3


def operation_names(dilation: str = "convolution") -> tuple[str, ...]:
    """Return the ten operations, from the cheapest to the one with most parameters.

    >>> operation_names()[-2:]
    ('conv7', 'dilated7')
    """
    weightless = ("zero", "identity", "max_pool3", "avg_pool3")
    convolutions = tuple(f"conv{kernel}" for kernel in KERNELS)
    dilated = tuple(f"dilated{kernel}" for kernel in KERNELS)
    if dilation == "morphological":  # it has one number for each channel and place
        return (*weightless, *dilated, *convolutions)
    paired = [name for pair in zip(convolutions, dilated, strict=True) for name in pair]
    return (*weightless, *paired)


def make_operation(name: str, width: int, dilation: str = "convolution") -> nn.Module:
    """Return an operation of an edge: a module of a sequence and its mask.

    Args:
        name: one of :func:`operation_names`.
        width: channels.
        dilation: ``convolution`` makes dilated operations convolutions that skip every other word, as in the paper.
            ``morphological`` makes them the max-plus dilation of the published code, which skips no word.
    """
    if name == "zero":
        return Zero()
    if name == "identity":
        return Same()
    if name == "max_pool3":
        return MaxPool()
    if name == "avg_pool3":
        return MeanPool()
    kernel = int(name[-1])
    if name.startswith("conv"):
        return Convolution(width, kernel, dilation=1)
    if dilation == "morphological":
        return Morphological(width, kernel)
    return Convolution(width, kernel, dilation=2)


class Zero(nn.Module):
    """No connection."""

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return zeros."""
        return torch.zeros_like(hidden)


class Same(nn.Module):
    """A shortcut."""

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the sequence."""
        return hidden


class MaxPool(nn.Module):
    """The maximum of a word and its two neighbours; padding is no neighbour."""

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the pooled sequence."""
        is_padding = mask == 0
        lowest = torch.finfo(hidden.dtype).min
        words = hidden.masked_fill(is_padding, lowest)
        return functional.max_pool1d(words, POOL, stride=1, padding=POOL // 2).masked_fill(is_padding, 0)


class MeanPool(nn.Module):
    """The mean of a word and its two neighbours; padding is no neighbour."""

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the pooled sequence."""
        total = functional.avg_pool1d(hidden, POOL, stride=1, padding=POOL // 2)
        neighbours = functional.avg_pool1d(mask, POOL, stride=1, padding=POOL // 2)
        return total / neighbours.clamp(min=1 / POOL) * mask


class Convolution(nn.Module):
    """ReLU, a convolution over words and channels, and a batch normalisation.

    Args:
        width: channels.
        kernel: words under the kernel.
        dilation: the distance between them.
    """

    def __init__(self, width: int, kernel: int, dilation: int) -> None:
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.convolution = nn.Conv1d(width, width, kernel, padding=padding, dilation=dilation, bias=False)
        self.norm = BatchNorm(width)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the convolved sequence."""
        return self.norm(self.convolution(functional.relu(hidden)), mask)


class Morphological(nn.Module):
    """ReLU, a max-plus dilation of each channel, and a batch normalisation.

    The published code calls TensorFlow's ``dilation2d`` where the paper has a dilated convolution: each channel's
    output is the maximum over neighbours of their value plus a learned number.

    Args:
        width: channels.
        kernel: words under the kernel.
    """

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(width, kernel))
        self.norm = BatchNorm(width)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the dilated sequence."""
        kernel = self.weight.shape[1]
        lowest = torch.finfo(hidden.dtype).min / 2  # to which a weight can be added
        words = functional.relu(hidden).masked_fill(mask == 0, lowest)
        words = functional.pad(words, (kernel // 2, kernel // 2), value=lowest)
        neighbours = words.unfold(2, kernel, 1)  # (batch, width, length, kernel)
        highest = (neighbours + self.weight.unsqueeze(1)).amax(-1)
        return self.norm(highest.masked_fill(mask == 0, 0), mask)


class BatchNorm(nn.Module):
    """Batch normalisation whose means and variances are those of words, padding left out.

    Args:
        width: channels.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the normalised sequence, zeros at padding."""
        hidden = hidden.float()  # sums over a batch need more than 16 bits
        if not self.training:
            mean, variance = self.running_mean, self.running_var
            return functional.batch_norm(hidden, mean, variance, self.weight, self.bias, eps=EPSILON) * mask
        count = mask.sum()
        mean = (hidden * mask).sum((0, 2)) / count.clamp(min=1)
        deviation = (hidden - mean[:, None]) * mask
        variance = deviation.square().sum((0, 2)) / count.clamp(min=1)
        self._follow(mean, variance * count / (count - 1).clamp(min=1))
        scale = self.weight * torch.rsqrt(variance + EPSILON)
        return (deviation * scale[:, None] + self.bias[:, None]) * mask

    @torch.no_grad()
    def _follow(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Move the running statistics towards those of a batch."""
        self.running_mean.lerp_(mean, MOMENTUM)
        self.running_var.lerp_(variance, MOMENTUM)


def histogram(nodes: Sequence[Sequence[Sequence[Any]]]) -> Mapping[str, int]:
    """Return how often each operation stands in a cell, the most frequent first.

    >>> histogram([[[0, "conv3"], [1, "identity"]], [[0, "conv3"], [2, "conv3"]]])
    {'conv3': 3, 'identity': 1}
    """
    counts: dict[str, int] = {}
    for edges in nodes:
        for _, name in edges:
            counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))
