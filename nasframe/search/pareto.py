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
    best_first = np.lexsort(values.T[::-1])[::-1]  # only earlier points can dominate later ones
    front: list[int] = []
    for position in best_first:
        point = values[position]
        earlier = values[front]
        nowhere_worse = (earlier >= point).all(axis=1)
        somewhere_better = (earlier > point).any(axis=1)
        if not (nowhere_worse & somewhere_better).any():
            front.append(int(position))
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
    if violations is None:
        excess = np.zeros(len(values))
    else:
        excess = np.asarray(violations, float)
    # dominates[i, j]: point i dominates point j
    nowhere_worse = (values[:, None] >= values).all(axis=2)
    somewhere_better = (values[:, None] > values).any(axis=2)
    less_violation = excess[:, None] < excess
    equal_violation = excess[:, None] == excess
    dominates = less_violation | (equal_violation & nowhere_worse & somewhere_better)

    dominators = dominates.sum(axis=0)  # among the points that are in no front yet
    is_left = np.ones(len(values), bool)
    fronts = []
    while is_left.any():
        front = np.flatnonzero(is_left & (dominators == 0))
        is_left[front] = False
        dominators = dominators - dominates[front].sum(axis=0)
        fronts.append(front.tolist())
    return fronts


def crowding_distance(points: ArrayLike) -> np.ndarray:
    """Return ``(points,)``: the room around each point of a front, infinite at the ends (NSGA-II).

    >>> crowding_distance([[0, 4], [1, 2], [4, 0]])
    array([inf,  2., inf])
    """
    values = _points(points)
    distance = np.zeros(len(values))
    if not len(values):
        return distance
    for column in values.T:
        order = np.argsort(column, kind="stable")
        smallest, largest = order[0], order[-1]
        distance[[smallest, largest]] = np.inf
        span = float(column[largest] - column[smallest])
        if span > 0:
            gaps = column[order[2:]] - column[order[:-2]]  # between the neighbours on both sides
            distance[order[1:-1]] += gaps / span
    return distance


def hypervolume(points: ArrayLike, reference: Sequence[float]) -> float:
    """Return the volume that the points dominate above a reference point, exactly.

    A sweep in two dimensions; slices along the last axis in more.

    >>> hypervolume([[1, 3], [2, 2]], (0, 0))
    5.0
    """
    values = _points(points) - np.asarray(reference, float)
    return _volume(values[(values > 0).all(1)])


def _volume(values: np.ndarray) -> float:
    """Return the volume between the origin and points with positive coordinates."""
    if not len(values):
        return 0.0
    if values.shape[1] == 1:
        return float(values.max())
    # Slices along the last axis, from the top: slice i lies below points 0 to i.
    values = values[np.argsort(-values[:, -1], kind="stable")]
    heights = values[:, -1]
    depths = heights - np.append(heights[1:], 0.0)
    if values.shape[1] == 2:
        widths = np.maximum.accumulate(values[:, 0])
        return float((widths * depths).sum())
    total = 0.0
    for last, depth in enumerate(depths):
        if depth > 0:
            above = values[: last + 1, :-1]
            total += _volume(above[pareto_front(above)]) * depth
    return total


def _points(points: ArrayLike) -> np.ndarray:
    values = np.asarray(points, float)
    return values.reshape(len(values), -1) if values.size else np.zeros((0, 1))
