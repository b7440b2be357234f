"""What is best of several objectives: Pareto fronts, crowding and hypervolume.

Objectives are maximised throughout; points are arrays of shape ``(points, objectives)``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def pareto_front(points: ArrayLike) -> list[int]:
    """Return the positions of the points that no other one dominates, ascending; equal points stay together.

    >>> pareto_front([[1, 3], [2, 2], [1, 2]])
    [0, 1]
    """
    values = _points(points)
    front: list[int] = []
    for i in np.lexsort(values.T[::-1])[::-1]:  # best first, so that only earlier points can dominate later ones
        ahead = values[front]
        if not ((ahead >= values[i]).all(1) & (ahead > values[i]).any(1)).any():
            front.append(int(i))
    return sorted(front)


def non_dominated_sort(points: ArrayLike, violations: ArrayLike | None = None) -> list[list[int]]:
    """Split points into fronts: the best, what is best without these, and so on (NSGA-II).

    Args:
        points: objectives, ``(points, objectives)``.
        violations: ``(points,)``. With it a point dominates another by constraint domination: less violation first,
            objectives among equals (Deb et al., 2002).

    Returns:
        Positions, front by front.

    >>> non_dominated_sort([[1, 3], [2, 2], [1, 2]])
    [[0, 1], [2]]
    """
    values = _points(points)
    excess = np.zeros(len(values)) if violations is None else np.asarray(violations, float)
    at_least, above = (values[:, None] >= values).all(2), (values[:, None] > values).any(2)
    dominates = (excess[:, None] < excess) | ((excess[:, None] == excess) & at_least & above)
    rivals, left, fronts = dominates.sum(0), np.ones(len(values), bool), []
    while left.any():
        front = np.flatnonzero(left & (rivals == 0))
        left[front] = False
        rivals = rivals - dominates[front].sum(0)
        fronts.append(front.tolist())
    return fronts


def crowding_distance(points: ArrayLike) -> np.ndarray:
    """Return ``(points,)``: the room around each point of a front, infinite at the ends (NSGA-II).

    >>> crowding_distance([[0, 4], [1, 2], [4, 0]])
    array([inf,  2., inf])
    """
    values = _points(points)
    room = np.zeros(len(values))
    for column in values.T:
        order = np.argsort(column, kind="stable")
        span = float(column[order[-1]] - column[order[0]]) if len(order) else 0.0
        room[order[:1]] = room[order[-1:]] = np.inf
        if span > 0:
            room[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return room


def hypervolume(points: ArrayLike, reference: Sequence[float]) -> float:
    """Return the volume that the points dominate above a reference point, exactly.

    A sweep in two dimensions; slices along the last axis in more.

    >>> hypervolume([[1, 3], [2, 2]], (0, 0))
    5.0
    """
    values = _points(points) - np.asarray(reference, float)
    return _volume(values[(values > 0).all(1)])


def _volume(values: np.ndarray) -> float:
    if not len(values):
        return 0.0
    if values.shape[1] == 1:
        return float(values.max())
    values = values[np.argsort(-values[:, -1], kind="stable")]
    depths = values[:, -1] - np.append(values[1:, -1], 0.0)
    if values.shape[1] == 2:
        return float((np.maximum.accumulate(values[:, 0]) * depths).sum())
    total = 0.0
    for i, depth in enumerate(depths):
        if depth > 0:
            slab = values[: i + 1, :-1]
            total += _volume(slab[pareto_front(slab)]) * depth
    return total


def _points(points: ArrayLike) -> np.ndarray:
    values = np.asarray(points, float)
    return values.reshape(len(values), -1) if values.size else np.zeros((0, 1))
