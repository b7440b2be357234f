"""The part of a domain that an ask is confined to: what was found in it, and children of that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nasframe_frontier.codes import Codes
from nasframe_frontier.improvement import undominated


class Region:
    """Follows the evaluated architectures, and draws candidates by array operations.

    Candidates keep to the values that ``within`` allows. Whether its condition accepts one is asked one by one, later.

    Args:
        within: a domain of knobs.
        codes: how to read it.
    """

    def __init__(self, within: Any, codes: Codes) -> None:
        self.within, self.codes = within, codes
        allowed = within.joined({}).allowed
        self.count = np.array([len(values) for values in allowed])
        self.values = np.array([np.resize(values, self.count.max()) for values in allowed])
        self.knobs = np.arange(len(allowed))
        self.place = np.full((len(allowed), codes.sizes.max() + 1), -1)  # of a value among those allowed
        for knob, values in enumerate(allowed):
            self.place[knob, values] = range(len(values))
        self.best = np.zeros((0, len(allowed)), int)  # rows that none dominates, or the best of one objective
        self.front = np.zeros((0, 1))  # their errors
        self.worst: Any = -math.inf  # the largest errors of anything
        self.extremes: np.ndarray | None = None  # costs of the smallest and the largest

    def contains(self, row: np.ndarray) -> bool:
        """Tell whether an architecture is in the region."""
        if self.within.keep is not None:
            return self.within.contains(self.codes.arch(row))
        return bool(((self.place[self.knobs, row] >= 0) | (row == self.codes.sizes)).all())

    def follow(self, rows: Sequence[np.ndarray], errors: Sequence[list[float]], violations: Sequence[float]) -> None:
        """Keep the best and their errors, as evaluations come in."""
        for row, error, violation in zip(rows, errors, violations, strict=True):
            if violation > 0 or not self.contains(row):
                continue
            self.worst = np.maximum(error, self.worst)
            front = self.front.reshape(-1, len(error))
            keep = undominated(front, np.asarray(error))
            self.best = np.concatenate([self.best, row[None]])[keep]
            self.front = np.concatenate([front, [error]])[keep]

    def children(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return ``count`` rows: two thirds mutants of the best, a quarter crossings, some mutated, the rest random."""
        mutants, crossed = 2 * count // 3, count // 4
        shape = (mutants + crossed, len(self.knobs))
        first, second = self.best[rng.integers(len(self.best), size=(2, shape[0]))]
        coin, luck, again, far, fresh = rng.random((5, *shape))
        coin[:mutants] = 1.0
        child = np.where(coin < 0.5, second, first)
        luck *= (child < self.codes.sizes) & (self.count > 1)
        change = luck >= luck.max(1, keepdims=True)  # one knob for certain, others now and then
        change[mutants:] &= rng.random((crossed, 1)) < 0.3
        change |= again < 0.7 / shape[1]
        place, other = self.place[self.knobs, child], self.place[self.knobs, second]
        place = np.where(change & (place >= 0), (place + 1 + (far * (self.count - 1)).astype(int)) % self.count, place)
        new = np.where(place >= 0, place, np.where(other >= 0, other, (fresh * self.count).astype(int)))
        wild = (rng.random((count - len(new), shape[1])) * self.count).astype(int)
        return self.codes.settled(self.values[self.knobs, np.concatenate([new, wild])])

    def least(self, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return for each of ``(rows, width)`` valuations the architecture with the least value at every knob.

        Knobs that others depend on are drawn, for what they are worth depends on these others.
        """
        padded = np.arange(self.values.shape[1]) >= self.count[:, None]
        picks = np.where(padded, np.inf, values[:, self.codes.starts[:, None] + self.values]).argmin(2)
        for parent, _ in self.codes.rules:
            picks[:, parent] = rng.integers(self.count[parent], size=len(picks))
        return self.codes.settled(self.values[self.knobs, picks])
