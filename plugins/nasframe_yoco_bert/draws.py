"""Draws from a distribution over a region of a domain: restricted, aimed at a cost, meeting a condition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from nasframe.errors import UnsatisfiableError
from nasframe.records import Arch
from nasframe_yoco_bert.coordinates import Coordinates

TRIES = 32  # draws to choose from if one of a certain cost, or inside the region, is needed
TILTS = (8.0, 16.0, 32.0, 64.0, 128.0, 256.0)  # towards cheap ones, until a draw meets the region's condition
REGIONS = 64  # remembered


class Region(NamedTuple):
    """The part of a domain that an ask is confined to, and its arrays.

    Args:
        domain: that part.
        allowed: ``(D, K)`` booleans.
        uniform: ``(D, K)`` the uniform distribution over it.
        free: ``(D,)`` booleans: dimensions with a choice.
        costs: the mean costs of its cheapest and its dearest tilt.
    """

    domain: Any
    allowed: np.ndarray
    uniform: np.ndarray
    free: np.ndarray
    costs: tuple[float, float]


class Draws:
    """Draws architectures; it learns nothing, and all its randomness comes from ``rng``.

    Args:
        at: the domain's coordinates.
        rng: the source of the draws.
    """

    def __init__(self, at: Coordinates, rng: np.random.Generator) -> None:
        self.at = at
        self.rng = rng
        self.regions: dict[int, Region] = {}

    def region(self, within: Any = None) -> Region:
        """Return the arrays of a part of the domain; default: all of it."""
        domain = self.at.domain if within is None else within
        if id(domain) in self.regions:  # which holds the domain, so that no other can get its id
            return self.regions[id(domain)]
        allowed = np.zeros(self.at.valid.shape, bool)
        for row, positions in zip(allowed, domain.allowed, strict=True):
            row[positions] = True
        choices = allowed.sum(1)
        uniform = allowed / choices[:, None]
        dearest, *_, cheapest = self.at.mean_costs(uniform)
        region = Region(domain, allowed, uniform, free=choices > 1, costs=(cheapest, dearest))
        if len(self.regions) >= REGIONS:
            self.regions.clear()
        self.regions[id(domain)] = region
        return region

    def find(
        self, p: np.ndarray, region: Region, level: float | None = None, band: float = 0.0
    ) -> tuple[np.ndarray, Arch]:
        """Draw until the region's condition is met, tilting towards cheap ones as long as no draw meets it.

        Args:
            p: ``(D, K)`` the distribution to draw from.
            region: the region, whose condition must be met.
            level: the cost that draws should have.
            band: draws within half of it are near enough.

        Returns:
            ``(D,)`` positions, and the architecture there.

        Raises:
            UnsatisfiableError: nothing meets the condition.
        """
        keep = region.domain.keep
        any_draw_will_do = level is None and keep is None
        count = 1 if any_draw_will_do else TRIES
        for table in self.tilts(p, region):
            drawn = self.categories(table, count)
            if level is not None:
                gap = np.abs(self.at.cost(drawn) - level)
                rank = np.where(gap <= band / 2, 0.0, gap)
                order = np.argsort(rank, kind="stable")  # of those in the band, the first one drawn comes first
                drawn = drawn[order]
            for positions in drawn:
                arch = self.at.domain.decode(positions.tolist())
                if keep is None or keep(arch):
                    return positions, arch
        # The domain itself walks towards its condition, whatever the distribution says.
        arch = region.domain.sample(self.rng)
        return self.at.domain.encode(arch), arch

    def likeliest(self, p: np.ndarray, region: Region) -> Arch:
        """Return the mode of ``p``, or of a cheaper tilt of it if the region's condition refuses the mode.

        Raises:
            UnsatisfiableError: the condition refuses the modes of all tilts.
        """
        keep = region.domain.keep
        for table in self.tilts(p, region):
            arch: Arch = self.at.domain.decode(table.argmax(1).tolist())
            if keep is None or keep(arch):
                return arch
        raise UnsatisfiableError("the most likely architecture does not meet the condition, nor do cheaper ones")

    def tilts(self, p: np.ndarray, region: Region) -> Iterator[np.ndarray]:
        """Yield ``p``, then cheaper and cheaper tilts of it if the region has a condition."""
        yield p
        if region.domain.keep is not None and self.at.priced:
            for beta in TILTS:
                yield self.at.tilted(p, beta)

    def categories(self, p: np.ndarray, count: int) -> np.ndarray:
        """Draw ``(count, D)`` positions from ``(D, K)`` distributions."""
        cumulative = p.cumsum(1)
        uniform = self.rng.random((count, len(p), 1)) * cumulative[:, -1:]
        drawn = (uniform >= cumulative).sum(-1)
        # Rounding must not lead beyond the last possible value, which is the first one from the end.
        from_the_end = (p > 0)[:, ::-1].argmax(1)
        last_possible = p.shape[1] - 1 - from_the_end
        return np.minimum(drawn, last_possible)
