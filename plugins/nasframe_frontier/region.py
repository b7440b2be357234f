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
        self.knobs = np.arange(len(allowed))
        self.count = np.array([len(values) for values in allowed])
        self.values = np.array([np.resize(values, self.count.max()) for values in allowed])
        # Each value's place among the allowed ones; -1 for a value that is not allowed, and for "inactive".
        self.place = np.full((len(allowed), codes.sizes.max() + 1), -1)
        for knob, values in enumerate(allowed):
            self.place[knob, values] = range(len(values))

        self.followed = 0  # evaluations seen so far
        self.best = np.zeros((0, len(allowed)), int)  # undominated rows; with one objective, the best few
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
            self.best = np.concatenate([self.best, rows[i][None]])[kept]
            self.front = np.concatenate([front, error[None]])[kept]
        self.followed = len(rows)

    def children(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return ``count`` rows: two thirds mutants of the best, a quarter crossings, the rest random.

        Three in ten crossings are mutated, too.
        """
        mutants = 2 * count // 3
        crossings = count // 4
        shape = (mutants + crossings, len(self.knobs))
        first, second = self.best[rng.integers(len(self.best), size=(2, shape[0]))]
        coin, luck, extra, step, fresh = rng.random((5, *shape))

        coin[:mutants] = 1.0  # mutants have one parent
        child = np.where(coin < 0.5, second, first)

        # Every mutant changes at one active knob that has a choice, the luckiest, and now and then at more.
        luck *= (child < self.codes.sizes) & (self.count > 1)
        changes = luck >= luck.max(1, keepdims=True)
        changes[mutants:] &= rng.random((crossings, 1)) < 0.3
        changes |= extra < 0.7 / shape[1]

        place = self.place[self.knobs, child]
        moved = (place + 1 + (step * (self.count - 1)).astype(int)) % self.count  # any allowed value but its own
        place = np.where(changes & (place >= 0), moved, place)
        # A value that is not allowed here, or none at all, is replaced by the other parent's, else by a random one.
        substitute = self.place[self.knobs, second]
        random_place = (fresh * self.count).astype(int)
        substitute = np.where(substitute >= 0, substitute, random_place)
        place = np.where(place >= 0, place, substitute)

        wild = (rng.random((count - len(place), shape[1])) * self.count).astype(int)
        places = np.concatenate([place, wild])
        return self.codes.settled(self.values[self.knobs, places])

    def cheapest(self, valuations: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return, for each of ``(rows, width)`` valuations, the architecture with the smallest value at every knob.

        Knobs that others depend on are drawn at random: their own value says little, since their worth depends on these
        others.
        """
        columns = self.codes.starts[:, None] + self.values
        is_padding = np.arange(self.values.shape[1]) >= self.count[:, None]
        picks = np.where(is_padding, np.inf, valuations[:, columns]).argmin(2)  # (F11)
        for parent, _ in self.codes.rules:
            picks[:, parent] = rng.integers(self.count[parent], size=len(picks))
        return self.codes.settled(self.values[self.knobs, picks])
