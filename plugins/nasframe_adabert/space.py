"""The space of AdaBERT: how many cells, and which operation stands on which two edges of each node."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal

import torch
from torch import nn

from nasframe.errors import UsageError
from nasframe.nn.rows import is_sliceable, row_for
from nasframe.notices import Notify, say
from nasframe.records import Arch, Count, Forward, Natural, ShareBelowOne, Size
from nasframe.search.domain import Choices
from nasframe_adabert.network import INPUTS, NODES, operation_names
from nasframe_adabert.supernet import AdaBertSupernet

CELLS = "cells"
EXPECTED = "Expected a network of transformers that reads words, with one table of word embeddings."


class AdaBertSpace:
    """Networks of equal convolutional cells over the fine-tuned network's word and position embeddings.

    A cell has three nodes. Each adds up two operations, on two of the cell's inputs and earlier nodes. The inputs are
    the outputs of the two cells before; those of the first cell are the two texts of a pair, or a single text twice.

    Args:
        most: K_max, the largest number of cells.
        fewest: the smallest number of cells; published: 0, which is a bag of embeddings.
        width: channels of all cells.
        dilation: ``convolution`` dilates convolutions by 2, as in the paper; ``morphological`` is the max-plus dilation
            that the published code computes.
        dropout: rate of dropout behind the embeddings.
    """

    def __init__(
        self,
        most: Count = 8,
        fewest: Natural = 0,
        width: Size = 128,
        dilation: Literal["convolution", "morphological"] = "convolution",
        dropout: ShareBelowOne = 0.1,
        config: Any = None,
        notify: Notify = say,
    ) -> None:
        if fewest > most:
            raise UsageError(f"adabert_cells.fewest: {fewest} is more than most, {most}. Expected at most {most}.")
        if fewest == most:
            # α of the depth would have one value, and every choice of it the same gradient.
            raise UsageError(f"adabert_cells.fewest: {fewest} leaves one depth. Expected less than most, {most}.")
        if config is not None and getattr(config, "vocab_size", None) is None:
            raise UsageError(f"adabert_cells: a network of {type(config).__name__} reads no words. {EXPECTED}")
        self.most = most
        self.fewest = fewest
        self.width = width
        self.dilation = dilation
        self.dropout = dropout
        self.notify = notify
        self.domain = cell_domain(fewest, most, dilation)

    def supernet(self, net: nn.Module) -> AdaBertSupernet:
        """Return the super-network over a network's embeddings, which it copies.

        Raises:
            UsageError: the network has no table of word embeddings.
        """
        if is_sliceable(net) and row_for(net.config).causal:
            raise UsageError(
                f"adabert_cells: {type(net).__name__} reads no pairs with separators, by which cells tell two texts "
                "apart. Expected an encoder, not a decoder."
            )
        words = word_table(net)
        positions = position_table(net)
        if positions is None:
            self.notify(
                "space", f"{type(net).__name__} has no table of positions, so that cells are told none by embeddings."
            )
        config: Any = net.config
        made = AdaBertSupernet(
            vocabulary=words.shape[0],
            positions=0 if positions is None else positions.shape[0],
            source=words.shape[1],
            width=self.width,
            classes=config.num_labels,
            fewest=self.fewest,
            most=self.most,
            dilation=self.dilation,
            dropout=self.dropout,
        ).to(words.device)
        with torch.no_grad():
            made.embedding.word_embeddings.weight.copy_(words)
            if positions is not None and made.embedding.position_embeddings is not None:
                made.embedding.position_embeddings.weight.copy_(positions)
        return made

    def view(self, net: nn.Module, arch: Arch) -> Forward:
        """Return a derived network as a function that shares the super-network's weights."""
        cells, nodes = built(arch)

        def forward(**inputs: Any) -> Any:
            return net.run(cells, nodes, **inputs)  # type: ignore[operator]

        return forward

    def extract(self, net: nn.Module, arch: Arch) -> nn.Module:
        """Return a derived network as a model of its own."""
        cells, nodes = built(arch)
        model: nn.Module = net.extracted(cells, nodes)  # type: ignore[operator]
        return model


def cell_domain(fewest: int, most: int, dilation: str = "convolution") -> Choices:
    """Return the domain: ``cells``, and for each node t ``sources.t``, ``first.t`` and ``second.t``.

    Args:
        fewest: the smallest number of cells.
        most: the largest number of cells.
        dilation: what a dilated operation is, which decides the order of operations by cost.

    >>> domain = cell_domain(1, 8)
    >>> domain.size == 8 * (1 * 100) * (3 * 100) * (6 * 100)
    True
    """
    depths = list(range(fewest, most + 1))
    knobs: dict[str, Sequence[Any]] = {CELLS: depths}
    for node in range(NODES):
        knobs[f"sources.{node}"] = [list(pair) for pair in combinations(range(INPUTS + node), 2)]
        knobs[f"first.{node}"] = operation_names(dilation)
        knobs[f"second.{node}"] = operation_names(dilation)
    if fewest > 0:
        return Choices(knobs)
    with_cells = [depth for depth in depths if depth > 0]
    return Choices(knobs, {knob: (CELLS, with_cells) for knob in knobs if knob != CELLS})


def built(arch: Arch) -> tuple[int, list[list[list[Any]]]]:
    """Return the number of cells of an architecture, and for each node its edges as ``[source, operation]``.

    >>> built({"cells": 0})
    (0, [])
    """
    nodes: list[list[list[Any]]] = []
    while f"sources.{len(nodes)}" in arch:
        node = len(nodes)
        first, second = arch[f"sources.{node}"]
        nodes.append([[first, arch[f"first.{node}"]], [second, arch[f"second.{node}"]]])
    return arch[CELLS], nodes


def arch_of(cells: int, nodes: Sequence[Sequence[Sequence[Any]]]) -> dict[str, Any]:
    """Return the architecture of a number of cells and their edges; the inverse of :func:`built`.

    >>> arch_of(2, [[[0, "conv3"], [1, "zero"]]])
    {'cells': 2, 'sources.0': [0, 1], 'first.0': 'conv3', 'second.0': 'zero'}
    """
    arch: dict[str, Any] = {CELLS: cells}
    if cells == 0:
        return arch
    for node, edges in enumerate(nodes):
        (first, first_name), (second, second_name) = sorted(tuple(edge) for edge in edges)
        arch |= {f"sources.{node}": [first, second], f"first.{node}": first_name, f"second.{node}": second_name}
    return arch


def word_table(net: Any) -> Any:
    """Return the table of word embeddings of a network, ``(vocabulary, columns)``.

    Raises:
        UsageError: it has no such table.
    """
    find = getattr(net, "get_input_embeddings", None)
    words = find() if find is not None else None
    if not isinstance(words, nn.Embedding):
        raise UsageError(f"adabert_cells: {type(net).__name__} has no table of word embeddings. {EXPECTED}")
    return words.weight.detach()


def position_table(net: Any) -> Any:
    """Return the table of position embeddings of a network from position 0 on, or ``None`` if it has none.

    Networks whose table has rows in front of position 0, as RoBERTa's, mark the last of them as padding.
    """
    embeddings = getattr(net.base_model, "embeddings", None)
    positions = getattr(embeddings, "position_embeddings", None)
    if not isinstance(positions, nn.Embedding):
        return None
    first = 0 if positions.padding_idx is None else positions.padding_idx + 1
    return positions.weight.detach()[first:]
