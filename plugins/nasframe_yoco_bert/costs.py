"""How the members of an update come to be compared at equal cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Match = Literal["band", "residual", "none"]
Targets = Literal["all", "explore", "none"]
MEMORY = 0.95  # of the running fit: what it keeps from update to update
RIDGE = 1e-6


@dataclass(frozen=True)
class Matching:
    """How costs are matched within an update, and spread over the updates.

    Args:
        match: ``band`` draws the members of an update at nearly one cost, ``residual`` compares what a fit of the
            losses on cost leaves of them, ``none`` compares them whatever they cost.
        targets: which proposals of a training aim at a cost drawn at random: ``all``, those that ``explore``, ``none``.
        band: width of the band, as a share of the domain's range of costs.
        power: a cost aimed at is this power of a uniform number.
    """

    match: Match = "band"
    targets: Targets = "all"
    band: float = 0.05
    power: float = 2.0

    @property
    def needs_costs(self) -> bool:
        """Whether it needs to know what architectures cost."""
        return self.match != "none" or self.targets != "none"


UNMATCHED = Matching("none", "none")


class ResidualFit:
    """A running fit of losses on cost and its square, within updates.

    Differences within an update count, not the level: each update has its own batches, and these have their own level.
    """

    def __init__(self) -> None:
        self.moments = np.zeros((2, 3))  # xᵀx, and xᵀy in the last column

    def residual(self, losses: np.ndarray, cost: np.ndarray) -> np.ndarray:
        """Return what the fit leaves of ``(λ,)`` losses, which it takes in first."""
        x = np.stack([cost, cost**2], axis=1)
        x = x - x.mean(0)
        y = losses - losses.mean()
        self.moments = MEMORY * self.moments + np.column_stack([x.T @ x, x.T @ y])
        gram = self.moments[:, :2]
        gram = gram + RIDGE * np.trace(gram) * np.eye(2)  # all of one cost: no fit
        coefficients = np.linalg.lstsq(gram, self.moments[:, 2], rcond=None)[0]
        return losses - x @ coefficients  # (Y16)
