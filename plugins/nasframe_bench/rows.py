"""The architectures of a domain that a table has, as a domain: draws reach them however few they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nasframe.errors import UnsatisfiableError
from nasframe.records import Arch
from nasframe.search.domain import Choices

NEIGHBOURS = 8  # rows that a mutation chooses from


class Rows:
    """A domain of listed architectures; everything else about it comes from the whole domain.

    Draws are uniform over the rows. A mutant is one of the rows that differ in the fewest dimensions, a child the row
    nearest to a crossing of its parents.

    Args:
        domain: the whole domain.
        archs: the rows' architectures, canonical.

    >>> rows = Rows(Choices({"a": [0, 1, 2], "b": [0, 1, 2]}), [{"a": 0, "b": 0}, {"a": 0, "b": 2}, {"a": 2, "b": 1}])
    >>> rows.size, rows.contains({"a": 1, "b": 1}), rows.restrict({"b": [1, 2]}).size
    (3, False, 2)
    """

    def __init__(self, domain: Choices, archs: Sequence[Arch]) -> None:
        self.domain, self.archs = domain, list(archs)
        self.encoded = np.array([domain.encode(arch) for arch in archs], int).reshape(len(archs), len(domain.dims))
        self.known = set(map(tuple, self.encoded.tolist()))
        self.keep = self.contains  # for samplers that screen what they make themselves

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "domain":
            raise AttributeError(name)
        return getattr(self.domain, name)

    @property
    def size(self) -> int:
        """The number of rows."""
        return len(self.archs)

    def enumerate(self) -> Iterator[Arch]:
        """Yield every row once."""
        return map(dict, self.archs)

    def contains(self, arch: Arch) -> bool:
        """Return whether the table has an architecture."""
        return self.domain.contains(arch) and tuple(self.domain.encode(arch).tolist()) in self.known

    def sample(self, rng: np.random.Generator) -> Arch:
        """Draw a row; raises UnsatisfiableError if there is none."""
        if not self.archs:
            raise UnsatisfiableError("no row of the table is acceptable")
        return self.domain.canonical(self.archs[int(rng.integers(len(self.archs)))])

    def mutate(self, arch: Arch, rng: np.random.Generator) -> Arch:
        """Return one of the nearest other rows."""
        return self._near(arch, rng, NEIGHBOURS, other=True)

    def crossover(self, a: Arch, b: Arch, rng: np.random.Generator) -> Arch:
        """Return the row nearest to a crossing."""
        return self._near(self.domain.crossover(a, b, rng), rng, 1)

    def smallest(self) -> Arch:
        """Return the row of the smallest values, by their positions."""
        return dict(self.archs[int(self.encoded.sum(1).argmin())])

    def largest(self) -> Arch:
        """Return the row of the largest values, by their positions."""
        return dict(self.archs[int(self.encoded.sum(1).argmax())])

    def restrict(self, only: Mapping[str, Any] | None = None, keep: Any = None) -> Rows:
        """Return the rows with these values that ``keep`` accepts."""
        part = self.domain.restrict(only)
        archs = []
        for arch in self.archs:
            if part.contains(arch) and (keep is None or keep(arch)):
                archs.append(arch)
        return Rows(part, archs)

    def joined(self, groups: Any) -> Rows:
        """Return the same rows with several knobs read as one dimension."""
        return Rows(self.domain.joined(groups), self.archs)

    def _near(self, arch: Arch, rng: np.random.Generator, count: int, other: bool = False) -> Arch:
        if len(self.archs) < 2:
            return self.sample(rng)
        differences = (self.encoded != self.domain.encode(arch)).sum(1)
        distances = differences + rng.random(len(self.archs))  # ties are broken at random
        candidates = len(self.archs)
        if other:
            distances[distances < 1] += self.encoded.shape[1] + 1  # the architecture itself comes last
            candidates -= 1
        nearest = np.argsort(distances)[: min(count, candidates)]
        chosen = nearest[rng.integers(len(nearest))]
        return self.domain.canonical(self.archs[int(chosen)])
