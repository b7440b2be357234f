"""From α to an architecture: the most probable one, within a budget if there is one.

Without a budget this is the published rule: the depth with the largest α; for each node the two incoming edges whose
best operation is most probable, each with that operation. It is also the most probable of all architectures, if the
probability of one is that of its depth times those of its six operations, because logarithms keep the order. Under a
budget the most probable architecture that meets it is taken, so that there is one rule for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np

from nasframe_adabert.costs import OperationCosts
from nasframe_adabert.network import EDGES, INPUTS, NODES
from nasframe_adabert.space import arch_of


@dataclass(frozen=True)
class Part:
    """Some nodes of a cell with their edges.

    Args:
        score: the sum of the logarithms of their operations' probabilities.
        cost: the sum of their operations' costs in one cell.
        nodes: for each node its edges, each as ``[source, operation]``.
    """

    score: float
    cost: float
    nodes: tuple[tuple[tuple[int, str], ...], ...]


def derived(
    alpha: np.ndarray,
    alpha_depth: np.ndarray,
    names: Sequence[str],
    fewest: int,
    temperature: float = 0.2,
    costs: OperationCosts | None = None,
    bound: float | None = None,
) -> dict[str, Any] | None:
    """Return the most probable architecture whose cost is within a bound, or ``None`` if no cost is.

    Args:
        alpha: ``(edges, operations)`` logits of the operations.
        alpha_depth: ``(depths,)`` logits of the depths.
        names: the operations.
        fewest: the first depth.
        temperature: by which logits are divided.
        costs: what operations and depths cost; needed for a bound.
        bound: the largest cost.

    >>> derived(np.zeros((9, 2)), np.array([0.0, 1.0]), ["zero", "conv3"], fewest=1)["cells"]
    2
    """
    log_p = log_softmax(alpha / temperature)  # (A10)
    log_p_depth = log_softmax(alpha_depth / temperature)
    each = np.zeros(len(names)) if costs is None else costs.each
    cells = _best_cells(log_p, names, each)
    best: tuple[float, int, Part] | None = None
    for position, depth_score in enumerate(log_p_depth):
        depth = fewest + position
        room = np.inf
        if costs is not None and bound is not None:
            room = bound - costs.fixed[position]
        for part in cells:
            if depth * part.cost > room * (1 + 1e-12):
                continue
            score = depth_score + part.score
            # Among equals, the first: fewer cells, and cells in the order of their scores.
            if best is None or score > best[0]:
                best = (float(score), depth, part)
            break  # the others are less probable
    if best is None:
        return None
    _, depth, part = best  # with no cells, the cell is most probable and left out
    return arch_of(depth, [[list(edge) for edge in edges] for edges in part.nodes])


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return the logarithms of the probabilities along the last dimension."""
    logits = np.asarray(logits, dtype=np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _best_cells(log_p: np.ndarray, names: Sequence[str], each: np.ndarray) -> list[Part]:
    """Return the cells that no other one beats in both probability and cost, the most probable first."""
    cells = [Part(0.0, 0.0, ())]
    for node in range(NODES):
        options = _undominated(list(_node_options(node, log_p, names, each)))
        joined = []
        for cell, option in product(cells, options):
            joined.append(Part(cell.score + option.score, cell.cost + option.cost, cell.nodes + option.nodes))
        cells = _undominated(joined)
    return cells


def _node_options(node: int, log_p: np.ndarray, names: Sequence[str], each: np.ndarray) -> list[Part]:
    """Return every choice of two edges of a node with their operations."""
    options = []
    sources = range(INPUTS + node)
    for pair in combinations(sources, 2):
        rows = [EDGES.index((source, node)) for source in pair]
        for chosen in product(range(len(names)), repeat=2):
            score = sum(float(log_p[row, operation]) for row, operation in zip(rows, chosen, strict=True))
            cost = sum(float(each[operation]) for operation in chosen)
            edges = tuple((source, names[operation]) for source, operation in zip(pair, chosen, strict=True))
            options.append(Part(score, cost, (edges,)))
    return options


def _undominated(parts: Sequence[Part]) -> list[Part]:
    """Return the parts that are more probable than all parts that cost as much or less, the most probable first."""
    # Sorting is stable: among equal parts the first one in the order of their edges stays.
    kept: list[Part] = []
    least = np.inf
    for part in sorted(parts, key=lambda part: (-part.score, part.cost)):
        if part.cost < least:
            kept.append(part)
            least = part.cost
    return kept
