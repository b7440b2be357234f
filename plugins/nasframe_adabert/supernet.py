"""The super-network: a stack of cells with all ten operations on every edge, and the architecture parameters α.

All cells share α, and each has weights of its own. A forward pass takes one operation for each edge and one depth,
which :class:`Sampled` holds as one-hot vectors with straight-through gradients. The other operations and the deeper
cells have weight 0. They are computed, because the gradient of their weight in the mixture is the loss's gradient times
their output; but no gradient flows through them, since it would be multiplied by 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.modeling_outputs import ModelOutput

from nasframe import Described
from nasframe_adabert.network import (
    EDGES,
    INPUTS,
    NODES,
    AdaBert,
    Embedding,
    first_state,
    make_operation,
    mean_over_words,
    mixed_state,
    operation_names,
    parts_of,
    weighted_nodes,
)


@dataclass
class SuperOutput(ModelOutput):
    """What the super-network returns.

    Args:
        logits: ``(batch, classes)`` at the sampled depth.
        depth_logits: ``(batch, depths, classes)`` after 0, 1 … cells. Those beyond the sampled depth have no gradient.
        depth: ``(depths,)`` the one-hot depth, with its straight-through gradient.
    """

    logits: torch.Tensor | None = None
    depth_logits: torch.Tensor | None = None
    depth: torch.Tensor | None = None


@dataclass(frozen=True)
class Sampled:
    """One draw of operations and depth.

    Args:
        operations: ``(edges, operations)`` a one-hot row for each edge.
        depth: ``(most + 1,)`` one-hot over 0, 1 … cells.
    """

    operations: torch.Tensor
    depth: torch.Tensor


def depth_gradient(depth: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    """Return a term of value 0 whose gradient in the drawn depth is the loss at each depth.

    Args:
        depth: ``(most + 1,)`` the drawn depth ŷ.
        losses: ``(most + 1,)`` the loss after 0, 1 … cells; they get no gradient.
    """
    return ((depth - depth.detach()) * losses.detach()).sum()


class AdaBertSupernet(Described):
    """All networks of the space ``adabert_cells`` in one.

    Args:
        vocabulary: number of tokens.
        positions: number of positions; 0 for none.
        source: width of the embedding tables, which are the fine-tuned network's and stay as they are.
        width: channels of all cells.
        classes: number of outputs.
        fewest: the smallest number of cells.
        most: the largest number of cells.
        dilation: what a dilated operation is, see :func:`nasframe_adabert.network.make_operation`.
        dropout: rate of dropout behind the embeddings.

    Attributes:
        alpha: ``(edges, operations)`` logits of the operations.
        alpha_depth: ``(most − fewest + 1,)`` logits of the depths.
        sampled: what the next forward passes in train mode take; ``None`` takes the most probable.
    """

    def __init__(
        self,
        vocabulary: int,
        positions: int,
        source: int,
        width: int,
        classes: int,
        fewest: int,
        most: int,
        dilation: str = "convolution",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.arguments = {
            "vocabulary": vocabulary,
            "positions": positions,
            "source": source,
            "width": width,
            "classes": classes,
            "fewest": fewest,
            "most": most,
            "dilation": dilation,
            "dropout": dropout,
        }
        self.names = operation_names(dilation)
        self.embedding = Embedding(vocabulary, positions, width, source, dropout)
        self.cells = nn.ModuleList([MixedCell(width, self.names, dilation) for _ in range(most)])
        self.mix = nn.Parameter(torch.zeros(most + 1, most + 1))  # row K mixes the states of K cells and the input
        self.classifier = nn.Linear(width, classes)
        self.alpha = nn.Parameter(torch.zeros(len(EDGES), len(self.names)))
        self.alpha_depth = nn.Parameter(torch.zeros(most - fewest + 1))
        self.sampled: Sampled | None = None

    def describe(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return dict(self.arguments)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy takes over: all but the draw, which belongs to one step's graph."""
        return {**self.__dict__, "sampled": None}

    @property
    def fewest(self) -> int:
        """The smallest number of cells."""
        return int(self.arguments["fewest"])  # type: ignore[call-overload]

    @property
    def most(self) -> int:
        """The largest number of cells."""
        return len(self.cells)

    def part(self, name: str) -> Sequence[nn.Module] | None:
        """Return the modules that count as ``encoder`` or ``backbone``."""
        return parts_of(name, self.embedding, self.cells)

    def most_probable(self) -> Sampled:
        """Return the operation of each edge, and the depth, that have the largest α."""
        operations = functional.one_hot(self.alpha.argmax(1), len(self.names))
        depth = functional.one_hot(self.alpha_depth.argmax(), len(self.alpha_depth))
        return Sampled(operations.to(self.alpha.dtype), self.over_all_depths(depth.to(self.alpha.dtype)))

    def over_all_depths(self, depth: torch.Tensor) -> torch.Tensor:
        """Return values for the space's depths as ``(most + 1,)``, with zeros for depths below ``fewest``."""
        return functional.pad(depth, (self.fewest, 0))

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> SuperOutput:
        """Run the mixture; see :meth:`nasframe_adabert.network.AdaBert.forward` for the inputs."""
        sampled = self.sampled if self.training and self.sampled is not None else self.most_probable()
        # Without values, as when operations are counted, all of the mixture is computed.
        is_counting = input_ids.is_meta
        depth = self.most if is_counting else int(sampled.depth.argmax())
        chosen = None if is_counting else sampled.operations.argmax(1).tolist()
        before_last, last, mask = self.embedding(input_ids, attention_mask, token_type_ids)
        states = [first_state(before_last, last, mask)]
        logits = [self.read(states)]
        for number, cell in enumerate(self.cells, start=1):
            with torch.set_grad_enabled(torch.is_grad_enabled() and number <= depth):
                before_last, last = last, cell(before_last, last, mask, sampled.operations, chosen)
                states.append(mean_over_words(last, mask))
                logits.append(self.read(states))
        return SuperOutput(logits[depth], torch.stack(logits, dim=1), sampled.depth)

    def read(self, states: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the logits of a network with as many cells as there are states after the first."""
        depth = len(states) - 1
        mixed: torch.Tensor = self.classifier(mixed_state(states, self.mix[depth, : depth + 1]))
        return mixed

    def run(
        self,
        cells: int,
        nodes: Sequence[Sequence[Sequence[Any]]],
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> SuperOutput:
        """Run one derived network with the weights of this one.

        Args:
            cells: K.
            nodes: the edges of each node, as :class:`~nasframe_adabert.network.AdaBert` has them.
            input_ids: ``(batch, length)`` tokens.
            attention_mask: ``(batch, length)``, 0 for padding.
            token_type_ids: ``(batch, length)``, 1 for the second text.
        """
        before_last, last, mask = self.embedding(input_ids, attention_mask, token_type_ids)
        states = [first_state(before_last, last, mask)]
        for cell in list(self.cells)[:cells]:
            before_last, last = last, cell.derived(before_last, last, mask, nodes)  # type: ignore[operator]
            states.append(mean_over_words(last, mask))
        return SuperOutput(self.read(states))

    def extracted(self, cells: int, nodes: Sequence[Sequence[Sequence[Any]]]) -> AdaBert:
        """Return a derived network as a model of its own, with copies of this one's weights.

        Args:
            cells: K.
            nodes: the edges of each node.
        """
        same = ("vocabulary", "positions", "width", "classes", "dilation", "dropout")
        arguments: dict[str, Any] = {name: self.arguments[name] for name in same}
        with torch.random.fork_rng(devices=[]):
            model = AdaBert(cells=cells, nodes=nodes, **arguments).to(self.alpha.device)
        state = {name: tensor.detach().clone() for name, tensor in self._derived_state(cells, nodes).items()}
        model.load_state_dict(state)
        return model.train(self.training)

    def _derived_state(self, cells: int, nodes: Sequence[Sequence[Sequence[Any]]]) -> Mapping[str, torch.Tensor]:
        """Return the tensors of a derived network by their names in it."""
        narrow: Any = self.embedding.narrow
        tables = self.embedding
        state = {
            # The fine-tuned network's tables are narrowed once and for all: E Wᵀ has the rows that W makes of E.
            "embedding.word_embeddings.weight": tables.word_embeddings.weight @ narrow.weight.T,
            "embedding.norm.weight": self.embedding.norm.weight,
            "embedding.norm.bias": self.embedding.norm.bias,
            "mix": self.mix[cells, : cells + 1],
            "classifier.weight": self.classifier.weight,
            "classifier.bias": self.classifier.bias,
        }
        if tables.position_embeddings is not None:
            state["embedding.position_embeddings.weight"] = tables.position_embeddings.weight @ narrow.weight.T
        for number in range(cells):
            mixed: Any = self.cells[number]
            state[f"cells.{number}.weights"] = mixed.weights
            for node, edges in enumerate(nodes):
                for position, (source, name) in enumerate(edges):
                    operation = mixed.operation(source, node, name)
                    for key, tensor in operation.state_dict().items():
                        state[f"cells.{number}.operations.{node}.{position}.{key}"] = tensor
        return state


class MixedCell(nn.Module):
    """A cell with all operations on all edges.

    Args:
        width: channels.
        names: the operations.
        dilation: what a dilated operation is.
    """

    def __init__(self, width: int, names: Sequence[str], dilation: str) -> None:
        super().__init__()
        self.names = tuple(names)
        edges = [nn.ModuleDict({name: make_operation(name, width, dilation) for name in names}) for _ in EDGES]
        self.edges = nn.ModuleList(edges)
        self.weights = nn.Parameter(torch.zeros(NODES))

    def operation(self, source: int, node: int, name: str) -> nn.Module:
        """Return the operation of an edge by its name."""
        edge: Any = self.edges[EDGES.index((source, node))]
        operation: nn.Module = edge[name]
        return operation

    def forward(
        self,
        first: torch.Tensor,
        second: torch.Tensor,
        mask: torch.Tensor,
        operations: torch.Tensor,
        chosen: Sequence[int] | None,
    ) -> torch.Tensor:
        """Return the mixture's output, ``(batch, width, length)``.

        Args:
            first: the output of the cell before the last.
            second: the output of the last cell.
            mask: ``(batch, 1, length)``.
            operations: ``(edges, operations)`` the weights of the mixture.
            chosen: the one operation of each edge with weight 1; ``None`` lets gradients flow through all.
        """
        states = [first, second]
        for node in range(NODES):
            total = torch.zeros_like(first)
            for source in range(INPUTS + node):
                number = EDGES.index((source, node))
                index = None if chosen is None else chosen[number]
                total = total + self.mixture(number, states[source], mask, operations[number], index)
            states.append(total)
        return weighted_nodes(states, self.weights)

    def mixture(
        self, number: int, hidden: torch.Tensor, mask: torch.Tensor, weights: torch.Tensor, chosen: int | None
    ) -> torch.Tensor:
        """Return the weighted sum of an edge's operations."""
        edge: Any = self.edges[number]
        needs_others = weights.requires_grad and torch.is_grad_enabled()
        total = torch.zeros_like(hidden)
        for index, name in enumerate(self.names):
            if chosen is None or index == chosen:
                total = total + weights[index] * edge[name](hidden, mask)
                continue
            # Its weight is 0, and so are the gradients of its input and of its own weights. Only the gradient of the
            # mixture's weight is not, and needs the output. In train mode it also keeps its running statistics.
            if needs_others or self.training:
                with torch.no_grad():
                    output = edge[name](hidden, mask)
                if needs_others:
                    total = total + weights[index] * output
        return total

    def derived(
        self, first: torch.Tensor, second: torch.Tensor, mask: torch.Tensor, nodes: Sequence[Sequence[Sequence[Any]]]
    ) -> torch.Tensor:
        """Return the output of a derived cell: for each node the sum of its two edges."""
        states = [first, second]
        for node, edges in enumerate(nodes):
            total = torch.zeros_like(first)
            for source, name in edges:
                total = total + self.operation(source, node, name)(states[source], mask)
            states.append(total)
        return weighted_nodes(states, self.weights)
