"""Comparing points in several objectives: Pareto fronts, crowding and hypervolume.

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
    # Sorted by the first objective, ties by the next: only earlier points can dominate later ones, and a point that is
    # dominated at all is dominated by one of the front. So one pass that compares with the front is enough.
    keys = values.T[::-1]  # lexsort sorts by the last key first
    best_first = np.lexsort(keys)[::-1]
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
    """Split points into fronts: the best, those that are best without these, and so on (NSGA-II, Deb et al. 2002).

    Args:
        points: objectives, ``(points, objectives)``.
        violations: ``(points,)``. If given, a point with less violation dominates; among equals the objectives decide
            (the paper's constrained domination).

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
    """Return ``(points,)``: the room around each point of a front, infinite at its ends (NSGA-II).

    >>> crowding_distance([[0, 4], [1, 2], [4, 0]])
    array([inf,  2., inf])
    """
    values = _points(points)
    distance = np.zeros(len(values))
    if not len(values):
        return distance
    for column in values.T:
        order = np.argsort(column, kind="stable")  # so that equal points get the same distances on every machine
        smallest, largest = order[0], order[-1]
        distance[[smallest, largest]] = np.inf
        span = float(column[largest] - column[smallest])
        if span > 0:  # objectives are scaled to their range, so that their units do not matter
            gaps = column[order[2:]] - column[order[:-2]]  # between the neighbours on both sides
            distance[order[1:-1]] += gaps / span
    return distance


def hypervolume(points: ArrayLike, reference: Sequence[float]) -> float:
    """Return the volume that the points dominate above a reference point, exactly.

    Two objectives take one sweep; more are cut into slices along the last axis.

    >>> hypervolume([[1, 3], [2, 2]], (0, 0))
    5.0
    """
    values = _points(points) - np.asarray(reference, float)
    is_above = (values > 0).all(axis=1)  # a point below the reference in one objective dominates nothing
    return _volume(values[is_above])


def _volume(values: np.ndarray) -> float:
    """Return the volume between the origin and points with positive coordinates."""
    if not len(values):
        return 0.0
    if values.shape[1] == 1:
        return float(values.max())
    # Slices along the last axis, from the top: slice i lies below points 0 to i.
    from_top = np.argsort(-values[:, -1], kind="stable")
    values = values[from_top]
    heights = values[:, -1]
    depths = heights - np.append(heights[1:], 0.0)
    if values.shape[1] == 2:
        widths = np.maximum.accumulate(values[:, 0])
        return float((widths * depths).sum())
    total = 0.0
    for last, depth in enumerate(depths):
        if depth > 0:
            above = values[: last + 1, :-1]
            # Dominated points add nothing to a slice, but each of them would be sliced again.
            total += _volume(above[pareto_front(above)]) * depth
    return total


def _points(points: ArrayLike) -> np.ndarray:
    """Return points as ``(points, objectives)``; a flat list is points of one objective."""
    values = np.asarray(points, float)
    if not values.size:
        return np.zeros((0, 1))
    return values.reshape(len(values), -1)
