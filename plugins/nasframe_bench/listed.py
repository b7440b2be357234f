"""Architectures of any kind that a table lists, as a domain that needs neither knobs nor the code of their own one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nasframe.errors import UnsatisfiableError, UsageError
from nasframe.records import Arch, canonical_json
from nasframe.search.domain import DomainError
from nasframe.search.guarded import copied

NEIGHBOURS = 8
"""Rows that a mutation or a crossing chooses from."""


class Listed:
    """A domain of listed architectures, such as graphs.

    Draws are uniform over the rows. A mutant is one of the rows nearest to its parent, a child one of those nearest to
    both parents together. How far two rows are apart follows from their features, each in units of its standard
    deviation. Without features it follows from how often each part occurs in them, such as a node's operation.

    Args:
        archs: the rows' architectures, canonical.
        features: numbers for each row, as the domain that they come from describes them; ``None`` if it does not.
        crosses: whether that domain has ``crossover``; samplers then find it here, too.

    >>> rows = Listed([{"word": "ab"}, {"word": "abb"}, {"word": "ccc"}], features=[[2], [3], [9]])
    >>> rows.size, rows.contains({"word": "b"}), rows.features({"word": "ccc"})
    (3, False, [9])
    """

    def __init__(
        self, archs: Sequence[Arch], features: Sequence[Sequence[float]] | None = None, crosses: bool = False
    ) -> None:
        table = np.array(part_counts(archs) if features is None else features, float)
        table = table.reshape(len(archs), -1)  # also without rows
        spread = table.std(0) if len(table) else np.ones(1)
        points = table / np.where(spread == 0, 1.0, spread)
        self._take(archs, features, crosses, points)

    def _take(
        self, archs: Sequence[Arch], features: Sequence[Sequence[float]] | None, crosses: bool, points: np.ndarray
    ) -> None:
        """Set the rows and their places, ``(rows, numbers)``."""
        self.archs = list(archs)
        self.known_features = features
        self.crosses = crosses
        self.points = points
        self._number = {canonical_json(arch): row for row, arch in enumerate(self.archs)}
        # Set on the instance, because samplers look for these members to see what a domain can do.
        if features is not None:
            self.features = self._features
        if crosses:
            self.crossover = self._crossover

    @property
    def size(self) -> int:
        """The number of rows."""
        return len(self.archs)

    def enumerate(self) -> Iterator[Arch]:
        """Yield every row once."""
        for arch in self.archs:
            yield copied(arch)

    def contains(self, arch: Arch) -> bool:
        """Return whether the table has an architecture."""
        return self._row(arch) is not None

    def canonical(self, arch: Arch) -> Arch:
        """Return an architecture as the table has it.

        Raises:
            DomainError: the table does not have it. Its other spellings are not known without its own domain.
        """
        row = self._row(arch)
        if row is None:
            raise DomainError(f"the table does not list {dict(arch)}")
        listed: Arch = copied(self.archs[row])
        return listed

    def sample(self, rng: np.random.Generator) -> Arch:
        """Draw a row; raises UnsatisfiableError if there is none."""
        if not self.archs:
            raise UnsatisfiableError("no row of the table is acceptable")
        row = int(rng.integers(len(self.archs)))
        return self.canonical(self.archs[row])

    def mutate(self, arch: Arch, rng: np.random.Generator) -> Arch:
        """Return one of the nearest other rows; a draw if the table does not have ``arch``."""
        return self._near([arch], rng)

    def restrict(self, only: Mapping[str, Any] | None = None, keep: Any = None) -> Listed:
        """Return the rows that ``keep`` accepts.

        Raises:
            UsageError: ``only`` is given; there are no knobs.
        """
        if only:
            raise UsageError(f"a table of listed architectures has no knobs to restrict, but got {dict(only)}")
        rows = [row for row, arch in enumerate(self.archs) if keep is None or keep(copied(arch))]
        archs = [self.archs[row] for row in rows]
        features = None
        if self.known_features is not None:
            features = [self.known_features[row] for row in rows]
        part = object.__new__(Listed)
        # With the distances of the whole table, so that near means the same in every part of it.
        part._take(archs, features, self.crosses, self.points[rows])
        return part

    def _features(self, arch: Arch) -> list[float]:
        """Return the numbers that the architecture's own domain described it by."""
        row = self._row(arch)
        if row is None or self.known_features is None:
            raise DomainError(f"the table does not list {dict(arch)}")
        return list(self.known_features[row])

    def _crossover(self, a: Arch, b: Arch, rng: np.random.Generator) -> Arch:
        """Return one of the rows nearest to both parents."""
        return self._near([a, b], rng)

    def _row(self, arch: Arch) -> int | None:
        try:
            return self._number.get(canonical_json(dict(arch)))
        except (TypeError, ValueError):  # nothing that JSON has
            return None

    def _near(self, parents: Sequence[Arch], rng: np.random.Generator) -> Arch:
        """Draw one of the rows nearest to all parents together, which are left out themselves."""
        own_rows = [row for row in map(self._row, parents) if row is not None]
        others = len(self.archs) - len(set(own_rows))
        if not own_rows or others == 0:
            return self.sample(rng)
        distances = np.zeros(len(self.archs))
        for row in own_rows:
            distances += np.abs(self.points - self.points[row]).sum(1)
        distances += 1e-9 * rng.random(len(self.archs))  # ties are broken at random
        distances[own_rows] = math.inf
        nearest = np.argsort(distances)[: min(NEIGHBOURS, others)]
        chosen = int(nearest[rng.integers(len(nearest))])
        return self.canonical(self.archs[chosen])


def part_counts(archs: Sequence[Arch]) -> list[list[float]]:
    """Count how often each part occurs in architectures, ``(archs, parts)``.

    A part is a number, text or truth value together with the names on the way to it; its place in a list does not
    matter, since nodes move when another one is added.

    >>> part_counts([{"nodes": [{"op": "conv"}, {"op": "conv"}]}, {"nodes": [{"op": "max"}]}])
    [[2.0, 0.0], [0.0, 1.0]]
    """
    counts = [Counter(_parts(arch, ())) for arch in archs]
    names = list(dict.fromkeys(part for count in counts for part in count))
    return [[float(count[name]) for name in names] for count in counts]


def _parts(value: Any, way: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _parts(item, (*way, name))
    elif isinstance(value, list):
        for item in value:
            yield from _parts(item, way)
    else:
        yield (*way, type(value).__name__, value)
