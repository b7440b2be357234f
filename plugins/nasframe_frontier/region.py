"""The part of a domain that an ask is confined to: the best architectures in it, and their children."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nasframe_frontier.codes import Codes
from nasframe_frontier.improvement import undominated


class Region:
    """Follows the evaluated architectures, and draws candidates by array operations.

    Candidates use only values that ``within`` allows. A condition of ``within`` is not considered when they are drawn:
    :meth:`contains` checks it for one candidate at a time, since it may be expensive.

    Args:
        within: a domain of knobs.
        codes: the translation of its architectures.
    """

    def __init__(self, within: Any, codes: Codes) -> None:
        self.within = within
        self.codes = codes
        allowed = within.joined({}).allowed
        knobs = len(allowed)
        self.knobs = np.arange(knobs)
        self.count = np.array([len(values) for values in allowed])
        most = self.count.max()
        self.values = np.array([np.resize(values, most) for values in allowed])  # shorter lists are repeated
        # Each value's place among the allowed ones; -1 for a value that is not allowed, and for "inactive".
        self.place = np.full((knobs, codes.sizes.max() + 1), -1)
        for knob, values in enumerate(allowed):
            self.place[knob, values] = range(len(values))

        self.followed = 0  # evaluations seen so far
        self.best = np.zeros((0, knobs), int)  # undominated rows; with one objective, the best few
        self.front = np.zeros((0, 1))  # their errors
        self.worst: Any = -math.inf  # the largest errors of all
        self.extremes: np.ndarray | None = None  # costs of the smallest and the largest architecture

    @property
    def conditional(self) -> bool:
        """Whether a condition decides, beyond the allowed values, what belongs to the region."""
        return self.within.keep is not None

    def contains(self, row: np.ndarray) -> bool:
        """Whether an architecture is in the region."""
        if self.conditional:
            return self.within.contains(self.codes.arch(row))
        is_allowed = self.place[self.knobs, row] >= 0
        is_inactive = row == self.codes.sizes
        return bool((is_allowed | is_inactive).all())

    def follow(self, rows: Sequence[np.ndarray], errors: Sequence[list[float]], violations: Sequence[float]) -> None:
        """Take in the evaluations that came since the last call: the best stay, with their errors."""
        for i in range(self.followed, len(rows)):
            if violations[i] > 0 or not self.contains(rows[i]):
                continue
            error = np.asarray(errors[i])
            self.worst = np.maximum(error, self.worst)
            front = self.front.reshape(-1, len(error))  # before the first evaluation its width is unknown
            kept = undominated(front, error)
            self.best = np.vstack([self.best, rows[i]])[kept]
            self.front = np.vstack([front, error])[kept]
        self.followed = len(rows)

    def children(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return ``count`` rows: two thirds mutants of the best, a quarter crossings, the rest random.

        Three in ten crossings are mutated, too.
        """
        mutants = 2 * count // 3
        crossings = count // 4
        bred = mutants + crossings
        knobs = len(self.knobs)
        parents = rng.integers(len(self.best), size=(2, bred))
        first, second = self.best[parents]
        # Numbers in 0 … 1 for each knob of each child.
        coin, luck, extra, step, fresh = rng.random((5, bred, knobs))

        coin[:mutants] = 1.0  # mutants have one parent
        child = np.where(coin < 0.5, second, first)

        # Every mutant changes at one active knob that has a choice, the luckiest, and now and then at more.
        has_choice = (child < self.codes.sizes) & (self.count > 1)
        luck *= has_choice
        changes = luck >= luck.max(axis=1, keepdims=True)
        is_mutated = rng.random((crossings, 1)) < 0.3
        changes[mutants:] &= is_mutated
        changes |= extra < 0.7 / knobs

        place = self.place[self.knobs, child]
        shift = 1 + (step * (self.count - 1)).astype(int)  # to any allowed value but its own
        moved = (place + shift) % self.count
        place = np.where(changes & (place >= 0), moved, place)
        # A value that is not allowed here, or none at all, is replaced by the other parent's, else by a random one.
        substitute = self.place[self.knobs, second]
        substitute = np.where(substitute >= 0, substitute, self._places(fresh))
        place = np.where(place >= 0, place, substitute)

        wild = self._places(rng.random((count - bred, knobs)))
        return self._rows(np.concatenate([place, wild]))

    def cheapest(self, valuations: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return, for each of ``(rows, width)`` valuations, the architecture with the smallest value at every knob.

        Knobs that others depend on are drawn at random: their own value says little, since their worth depends on these
        others.
        """
        columns = self.codes.starts[:, None] + self.values
        picks = valuations[:, columns].argmin(axis=2)  # (F11); of equals the first, so that none is a repeated value
        for parent, _ in self.codes.rules:
            picks[:, parent] = rng.integers(self.count[parent], size=len(picks))
        return self._rows(picks)

    def _places(self, shares: np.ndarray) -> np.ndarray:
        """Return a place among the allowed values of each knob, from numbers in 0 … 1."""
        return (shares * self.count).astype(int)

    def _rows(self, places: np.ndarray) -> np.ndarray:
        """Return the rows that have the values at these places of each knob."""
        rows = self.values[self.knobs, places]
        return self.codes.settled(rows)
