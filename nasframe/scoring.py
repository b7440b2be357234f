"""What is feasible and what is best: bounds on costs, penalties, Pareto fronts, hypervolume.

Objectives are maximised throughout; points are arrays of shape ``(points, objectives)``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from nasframe.errors import UsageError
from nasframe.types import Arch
from nasframe.units import parse_number, parse_share, unit_fault


@dataclass(frozen=True)
class Bounds:
    """A closed interval that a cost must lie in.

    >>> Bounds(high=50.0).violation(60.0)
    0.2
    """

    low: float = -math.inf
    high: float = math.inf
    full: float | None = field(default=None, compare=False, repr=False)  # the full network's cost, to show shares

    def violation(self, cost: float) -> float:
        """Return the excess relative to the bound broken, 0 inside; a cost that is not a number breaks any bound."""
        if self.low <= cost <= self.high:
            return 0.0
        if math.isnan(cost):
            return math.inf
        bound = self.high if cost > self.high else self.low
        return abs(cost - bound) / (abs(bound) or 1.0)

    def shared(self, cost: float, extremes: tuple[float, float]) -> float:
        """Return how far ``cost`` lies on the way from the bound broken to the extreme of that side, 0 inside."""
        if self.low <= cost <= self.high:
            return 0.0
        bound, extreme = (self.high, extremes[1]) if cost > self.high else (self.low, extremes[0])
        return min(abs(cost - bound) / max(abs(extreme - bound), 1e-12), 1.0)

    def joined(self, other: Bounds) -> Bounds:
        """Return the interval that both leave; ``violation`` is never 0 where there is none."""
        return Bounds(max(self.low, other.low), min(self.high, other.high), self.full)

    def show(self, cost: float) -> str:
        """Write a cost, with its share of the full network's where that is known."""
        return f"{cost:,.10g}" + (f" ({cost / self.full:.1%} of the full network)" if self.full else "")

    def __str__(self) -> str:
        sides = [f">= {self.low:,.10g}"] * (self.low > -math.inf) + [f"<= {self.high:,.10g}"] * (self.high < math.inf)
        return ", ".join(sides) or "anything"


def parse_bounds(
    text: str | float | Sequence[str | float], full: float | None = None, unit: str | None = None
) -> Bounds:
    """Read bounds: ``"<= 40M"``, ``">= 40M, <= 66M"``, ``"50%"``, ``40e6``; a bare number is an upper bound.

    Args:
        text: one bound or several, joined by commas or in a list. ``<`` and ``>`` exclude the bound itself.
        full: the cost that percentages are of: that of the full network.
        unit: what the cost is in, as its estimator names it; ``None`` allows any unit.

    Raises:
        UsageError: not a bound, in a unit of something else, a percentage of nothing, or a band that is empty.

    >>> parse_bounds(">= 40M, <= 66M")
    Bounds(low=40000000.0, high=66000000.0)
    >>> parse_bounds("50%", full=10.0).high
    5.0
    """
    low, high = -math.inf, math.inf
    parts = [p for t in text for p in str(t).split(",")] if isinstance(text, list | tuple) else str(text).split(",")
    for part in parts:
        sign, number = re.fullmatch(r"\s*(<=|>=|<|>|==|=|)\s*(.*)", part, re.DOTALL).groups()  # type: ignore[union-attr]
        share = parse_share(number)
        if share is not None and full is None:
            raise UsageError(f"bound {part.strip()!r}: a percentage of an unknown full cost. Give a number.")
        fault = "" if unit is None else unit_fault(number, unit)
        if fault:
            raise UsageError(fault)
        value = parse_number(number) if share is None else share * float(full or 0)
        if sign not in (">", ">="):
            high = min(high, math.nextafter(value, -math.inf) if sign == "<" else value)
        if sign not in ("<", "<=", ""):
            low = max(low, math.nextafter(value, math.inf) if sign == ">" else value)
    if low > high:
        raise UsageError(f"bounds {text!r} contradict each other: nothing is {Bounds(low, high)}")
    return Bounds(low, high, full)


def violation(costs: Mapping[str, float], bounds: Mapping[str, Bounds]) -> float:
    """Return the sum of the relative excesses over all bounds; 0 is feasible."""
    return sum(bound.violation(costs[name]) for name, bound in bounds.items())


class Screen:
    """A condition on architectures, for ``domain.restrict(keep=…)``: their costs meet all bounds.

    Args:
        bounds: cost → bounds.
        costs: architecture → its costs by name.
    """

    def __init__(self, bounds: Mapping[str, Bounds], costs: Callable[[Arch], Mapping[str, float]]) -> None:
        self.bounds, self.costs = bounds, costs

    def __call__(self, arch: Arch) -> bool:
        """Tell whether all bounds are met."""
        return self.violation(arch) == 0

    def violation(self, arch: Arch) -> float:
        """Return the sum of the relative excesses; domains descend on it."""
        return violation(self.costs(arch), self.bounds)


def penalised(
    score: float,
    costs: Mapping[str, float],
    bounds: Mapping[str, Bounds],
    extremes: Mapping[str, tuple[float, float]],
    power: float,
    form: Literal["monotone", "published"] = "monotone",
) -> float:
    """Lower a score by how far its costs exceed the bounds: ``score · (1 − (cost − C) / (cost_max − C)) ** power``.

    The soft penalty of YOCO-BERT (arXiv 2106.02435), with one factor a bound.

    Args:
        score: what was measured.
        costs: cost by name.
        bounds: what they should meet.
        extremes: cost → (smallest, largest) of the domain.
        power: the exponent.
        form: a negative score is lowered too (``monotone``: times 2 − factor), or multiplied as ``published``, which
            raises it.

    >>> penalised(0.8, {"params": 75.0}, {"params": Bounds(high=50.0)}, {"params": (0.0, 100.0)}, 2)
    0.2
    """
    factor = math.prod((1 - b.shared(costs[name], extremes[name])) ** power for name, b in bounds.items())
    return score * factor if score >= 0 or form == "published" else score * (2 - factor)


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


def coverage(first: ArrayLike, second: ArrayLike) -> float | None:
    """Return the share of the second front that the first equals or dominates: the C-metric (Zitzler & Thiele 1999).

    Args:
        first: ``(points, objectives)``, all to be maximised.
        second: the same; ``None`` is returned where it has no points.

    >>> coverage([[2, 2]], [[1, 1], [3, 1]]), coverage([[3, 1]], [[2, 2]])
    (0.5, 0.0)
    """
    a, b = _points(first), _points(second)
    if not len(b):
        return None
    return float((a[:, None] >= b).all(2).any(0).mean()) if len(a) else 0.0


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
