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
        self.domain = domain
        self.archs = list(archs)
        encoded = [domain.encode(arch) for arch in archs]
        shape = (len(archs), len(domain.dims))  # also without rows
        self.encoded = np.array(encoded, int).reshape(shape)
        self.known = {tuple(row) for row in self.encoded.tolist()}
        self.keep = self.contains  # for samplers that screen what they make themselves

    def __getattr__(self, name: str) -> Any:
        # Called for what is not defined here. An object that is being unpickled has no domain yet: asking for it, or
        # for the hooks of pickle, would end up here again without end.
        if name.startswith("__") or name == "domain":
            raise AttributeError(name)
        return getattr(self.domain, name)

    @property
    def size(self) -> int:
        """The number of rows."""
        return len(self.archs)

    def enumerate(self) -> Iterator[Arch]:
        """Yield every row once."""
        for arch in self.archs:
            yield dict(arch)

    def contains(self, arch: Arch) -> bool:
        """Return whether the table has an architecture."""
        if not self.domain.contains(arch):  # then it cannot be encoded
            return False
        code = self.domain.encode(arch)
        return tuple(code.tolist()) in self.known

    def sample(self, rng: np.random.Generator) -> Arch:
        """Draw a row; raises UnsatisfiableError if there is none."""
        if not self.archs:
            raise UnsatisfiableError("no row of the table is acceptable")
        row = int(rng.integers(len(self.archs)))
        return self.domain.canonical(self.archs[row])

    def mutate(self, arch: Arch, rng: np.random.Generator) -> Arch:
        """Return one of the nearest other rows."""
        return self._near(arch, rng, NEIGHBOURS, other=True)

    def crossover(self, a: Arch, b: Arch, rng: np.random.Generator) -> Arch:
        """Return the row nearest to a crossing."""
        child = self.domain.crossover(a, b, rng)
        return self._near(child, rng, 1)

    def smallest(self) -> Arch:
        """Return the row of the smallest values, by their positions."""
        sums = self.encoded.sum(1)
        return dict(self.archs[int(sums.argmin())])

    def largest(self) -> Arch:
        """Return the row of the largest values, by their positions."""
        sums = self.encoded.sum(1)
        return dict(self.archs[int(sums.argmax())])

    def restrict(self, only: Mapping[str, Any] | None = None, keep: Any = None) -> Rows:
        """Return the rows with these values that ``keep`` accepts."""
        part = self.domain.restrict(only)
        archs = [arch for arch in self.archs if part.contains(arch)]
        if keep is not None:
            archs = [arch for arch in archs if keep(arch)]
        return Rows(part, archs)

    def joined(self, groups: Any) -> Rows:
        """Return the same rows with several knobs read as one dimension."""
        return Rows(self.domain.joined(groups), self.archs)

    def _near(self, arch: Arch, rng: np.random.Generator, count: int, other: bool = False) -> Arch:
        """Draw one of the ``count`` rows that differ from an architecture in the fewest dimensions.

        Args:
            arch: the architecture, which need not be a row.
            rng: draws.
            count: how many rows are drawn from.
            other: whether the architecture itself is left out.
        """
        if len(self.archs) < 2:
            return self.sample(rng)
        is_different = self.encoded != self.domain.encode(arch)
        distances = is_different.sum(1) + rng.random(len(self.archs))  # ties are broken at random
        candidates = len(self.archs)
        if other:
            # The architecture itself is the only row at a distance below 1; it is put behind the farthest one.
            farthest = self.encoded.shape[1] + 1
            distances[distances < 1] += farthest
            candidates -= 1
        nearest = np.argsort(distances)[: min(count, candidates)]
        chosen = nearest[rng.integers(len(nearest))]
        return self.domain.canonical(self.archs[int(chosen)])
