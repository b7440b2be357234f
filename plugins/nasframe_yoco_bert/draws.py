"""Draws from a distribution over a region of a domain: restricted, aimed at a cost, meeting a condition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from nasframe.errors import UnsatisfiableError
from nasframe.records import Arch
from nasframe_yoco_bert.coordinates import Coordinates

TRIES = 32  # draws among which one of the right cost, or inside the region, is looked for
TILTS = (8.0, 16.0, 32.0, 64.0, 128.0, 256.0)  # towards cheap ones, until a draw meets the region's condition
REGIONS = 64  # remembered


class Region(NamedTuple):
    """The part of a domain that an ask is confined to, and what is worth knowing of it."""

    domain: Any
    allowed: np.ndarray  # (D, K) booleans
    uniform: np.ndarray  # (D, K)
    free: np.ndarray  # (D,) booleans: dimensions with a choice
    costs: tuple[float, float]  # of the cheapest and the dearest


class Draws:
    """Draws architectures; it learns nothing, and all its randomness comes from ``rng``.

    Args:
        at: the domain's coordinates.
        rng: draws.
    """

    def __init__(self, at: Coordinates, rng: np.random.Generator) -> None:
        self.at, self.rng = at, rng
        self.regions: dict[int, Region] = {}

    def region(self, within: Any = None) -> Region:
        """Return what is known of a part of the domain; default: all of it."""
        domain = self.at.domain if within is None else within
        if id(domain) not in self.regions:
            allowed = np.zeros(self.at.valid.shape, bool)
            for row, positions in zip(allowed, domain.allowed, strict=True):
                row[positions] = True
            uniform = allowed / allowed.sum(1, keepdims=True)
            means = self.at.mean_costs(uniform)
            if len(self.regions) >= REGIONS:
                self.regions.clear()
            self.regions[id(domain)] = Region(domain, allowed, uniform, allowed.sum(1) > 1, (means[-1], means[0]))
        return self.regions[id(domain)]

    def find(
        self, p: np.ndarray, region: Region, level: float | None = None, band: float = 0.0
    ) -> tuple[np.ndarray, Arch]:
        """Draw until the region's condition is met, tilting towards what is cheap where no draw meets it.

        Args:
            p: ``(D, K)`` what to draw from.
            region: where; its condition must be met.
            level: prefer draws of this cost.
            band: as near as half of it is near enough.

        Returns:
            ``(D,)`` positions, and the architecture there.

        Raises:
            UnsatisfiableError: nothing meets the condition.
        """
        keep = region.domain.keep
        for table in self.tilts(p, region):
            drawn = self.categories(table, 1 if level is None and keep is None else TRIES)
            if level is not None:
                gap = np.abs(self.at.cost(drawn) - level)
                drawn = drawn[np.argsort(np.where(gap <= band / 2, 0.0, gap), kind="stable")]
            for positions in drawn:
                arch = self.at.domain.decode(positions.tolist())
                if keep is None or keep(arch):
                    return positions, arch
        arch = region.domain.sample(self.rng)
        return self.at.domain.encode(arch), arch

    def likeliest(self, p: np.ndarray, region: Region) -> Arch:
        """Return the mode of ``p``; where the region's condition refuses it, that of a cheaper tilt of it."""
        for table in self.tilts(p, region):
            arch: Arch = self.at.domain.decode(table.argmax(1).tolist())
            if region.domain.keep is None or region.domain.keep(arch):
                return arch
        raise UnsatisfiableError("the most likely architecture does not meet the condition, nor do cheaper ones")

    def tilts(self, p: np.ndarray, region: Region) -> Iterator[np.ndarray]:
        """Yield ``p``, and what is cheaper and cheaper where the region has a condition."""
        yield p
        if region.domain.keep is not None and self.at.priced:
            yield from (self.at.tilted(p, beta) for beta in TILTS)

    def categories(self, p: np.ndarray, count: int) -> np.ndarray:
        """Draw ``(count, D)`` positions from ``(D, K)`` distributions."""
        cumulative = p.cumsum(1)
        drawn = (self.rng.random((count, len(p), 1)) * cumulative[:, -1:] >= cumulative).sum(-1)
        last = p.shape[1] - 1 - (p > 0)[:, ::-1].argmax(1)
        return np.minimum(drawn, last)
