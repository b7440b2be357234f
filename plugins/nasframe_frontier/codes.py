"""Architectures as rows of integers, so that a few array operations make and compare hundreds of candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nasframe.records import Arch


class Codes:
    """Translates architectures to rows of integers and back.

    A row has one integer for each knob: the position of the knob's value. For an inactive knob it is the number of
    values, one past the last position. Joined knobs are taken apart, because costs and scores depend on single knobs.

    Args:
        domain: a domain of knobs, such as :class:`nasframe.search.domain.Choices`.

    >>> from nasframe.search.domain import Choices
    >>> codes = Codes(Choices({"layers": [1, 2], "ffn": [8, 16, 32]}, {"ffn": ("layers", [2])}))
    >>> codes.row({"layers": 1}).tolist(), codes.arch(codes.row({"layers": 2, "ffn": 32}))
    ([0, 3], {'layers': 2, 'ffn': 32})
    """

    def __init__(self, domain: Any) -> None:
        self.domain = domain.joined({})
        self.sizes = np.array(self.domain.shape)
        widths = self.sizes + 1  # one more for "inactive"
        self.width = int(widths.sum())
        self.starts = np.cumsum(widths) - widths
        self.rules = self._activity_rules()

    def row(self, arch: Arch) -> np.ndarray:
        """Return ``(knobs,)`` integers.

        Raises:
            DomainError: the architecture is not in the domain.
        """
        return self.settled(self.domain.encode(arch)[None])[0]

    def arch(self, row: np.ndarray) -> dict[str, Any]:
        """Return the canonical architecture of a row."""
        positions = np.where(row < self.sizes, row, 0)
        return self.domain.decode(positions.tolist())

    def settled(self, rows: np.ndarray) -> np.ndarray:
        """Mark inactive knobs, so that equal networks have equal rows."""
        for parent, active in self.rules:  # parents first: what depends on an inactive knob is inactive, too
            rows = np.where(active[rows[:, parent]], rows, self.sizes)
        return rows

    def flags(self, rows: np.ndarray) -> np.ndarray:
        """Return the one-hot code of rows, ``(rows, width)``; *inactive* counts as one of a knob's values."""
        flags = np.zeros((len(rows), self.width))
        columns = rows + self.starts
        np.put_along_axis(flags, columns, 1.0, axis=1)
        return flags

    def rows(self, flags: np.ndarray) -> np.ndarray:
        """Return the rows of flags; the inverse of :meth:`flags`."""
        columns = np.nonzero(flags)[1].reshape(len(flags), -1)
        return columns - self.starts

    def distances(self, order: float) -> np.ndarray:
        """Return ``(width, width)`` distances between the values of each knob; between different knobs they are 0.

        The distance mixes two: 1 between any two values, with weight ``1 - order``, and how far apart they are in the
        knob's order, with weight ``order``.
        """
        table = np.zeros((self.width, self.width))
        for start, size in zip(self.starts, self.sizes, strict=True):
            active = np.linspace(0, 1, size)
            place = np.append(active, 0.0)  # an inactive knob is closest to its smallest value
            apart = np.abs(place[:, None] - place)
            differs = 1 - np.eye(size + 1)
            block = slice(start, start + size + 1)
            table[block, block] = apart * order + (1 - order) * differs
        return table

    def _activity_rules(self) -> list[tuple[int, np.ndarray]]:
        """Return which knobs are active at each value of a knob that others depend on, parents before their children.

        Returns:
            Pairs of a knob's position and a ``(values + 1, knobs)`` table of booleans; its last row is for "inactive".
        """
        conditions = self.domain.conditions()
        tables: dict[int, np.ndarray] = {}
        for knob, condition in enumerate(conditions):
            if condition is None:
                continue
            parent, active_at = condition
            # A knob that does not depend on this one counts as active here: the rule must leave it alone.
            table = tables.setdefault(parent, np.ones((self.sizes[parent] + 1, len(conditions)), bool))
            table[:, knob] = [*active_at, False]
        return sorted(tables.items(), key=lambda rule: depth(rule[0], conditions))


def depth(knob: int, conditions: Sequence[tuple[int, np.ndarray] | None]) -> int:
    """Return on how many other knobs the effect of a knob depends.

    >>> depth(1, [None, (0, np.array([True]))])
    1
    """
    count = 0
    condition = conditions[knob]
    while condition is not None:
        count += 1
        condition = conditions[condition[0]]
    return count
