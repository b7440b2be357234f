"""A domain of knobs as padded arrays: which knobs have an effect, what they cost, and draws that aim at a cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nasframe.records import Arch

BETAS = 500.0 * np.sinh(np.linspace(-6, 6, 33)) / np.sinh(6)  # tilts to choose from, from "large only" to "small only"

Costs = Callable[[Sequence[Arch]], np.ndarray]
"""Architectures → ``(archs, costs)``."""


class Coordinates:
    """The dimensions of a domain as arrays; D dimensions, at most K values.

    Costs are shares of the domain's range, 0 for its smallest and 1 for its largest architecture; several costs are
    averaged. They are assumed to be sums over the active dimensions, as counted costs are, so that probing each value
    once is enough.

    Args:
        domain: a ``Choices`` domain, joined or not.
        costs: architectures → ``(archs, costs)``; without it nothing has a cost.
    """

    def __init__(self, domain: Any, costs: Costs | None = None) -> None:
        self.domain = domain
        self.shape = np.array(domain.shape)
        self.rows = np.arange(len(self.shape))
        self.valid = np.arange(self.shape.max()) < self.shape[:, None]
        self.reference = domain.encode(domain.largest())
        self.parent, self.on = self._rules()
        self.priced = costs is not None
        self.base = 0.0
        self.effect = np.zeros(self.valid.shape)
        if costs is not None:
            self.base, self.effect = self._effects(costs)
        self._tilts = np.array([_tilt(beta, self.effect) for beta in BETAS])  # (B, D, K)
        self._tilts_on = self._tilts[:, self.parent] * self.on

    def live(self, positions: np.ndarray) -> np.ndarray:
        """Return ``(n, D)`` booleans: which dimensions have an effect at ``(n, D)`` positions."""
        return self.on[self.rows, positions[:, self.parent]]

    def canonical(self, positions: np.ndarray) -> np.ndarray:
        """Return ``(D,)`` positions as the domain encodes them: 0 for dimensions without an effect."""
        return np.where(self.live(positions[None])[0], positions, 0)

    def cost(self, positions: np.ndarray) -> np.ndarray:
        """Return ``(n,)`` costs of ``(n, D)`` positions."""
        effects = self.effect[self.rows, positions]
        return self.base + (self.live(positions) * effects).sum(1)

    def mean_costs(self, p: np.ndarray) -> np.ndarray:
        """Return the expected costs of independent draws from ``p``, ``(D, K)``, tilted by each of ``BETAS``."""
        total = np.einsum("bdk,dk->bd", self._tilts, p)
        effect = np.einsum("bdk,dk->bd", self._tilts, p * self.effect) / total
        active = np.einsum("bdk,dk->bd", self._tilts_on, p[self.parent]) / total[:, self.parent]
        return self.base + (active * effect).sum(1)

    def tilted(self, p: np.ndarray, beta: float) -> np.ndarray:
        """Return p · exp(−β · effect), normalised: cheaper for β > 0, nearest to p of all with its mean cost."""
        q = p * _tilt(beta, self.effect)
        return q / q.sum(1, keepdims=True)

    def aimed(self, p: np.ndarray, target: float) -> np.ndarray:
        """Tilt distributions so that their mean cost is ``target``, or as near to it as possible."""
        falling = np.minimum.accumulate(self.mean_costs(p))  # rounding may make it rise in places
        beta = float(np.interp(-target, -falling, BETAS))
        return self.tilted(p, beta)  # (Y14)

    def _at(self, positions: np.ndarray, d: Any, value: int) -> np.ndarray:
        changed = positions.copy()
        changed[d] = value
        return changed

    def _rules(self) -> tuple[np.ndarray, np.ndarray]:
        """Find out on which dimension the effect of each dimension depends.

        Returns:
            ``(D,)`` that dimension, or the dimension itself if it always has an effect, and ``(D, K)`` booleans: at
            which of its values.
        """
        parent = self.rows.copy()
        on = np.ones(self.valid.shape, bool)
        for p in range(len(self.rows)):
            archs = [self.domain.decode(self._at(self.reference, p, k)) for k in range(self.shape[p])]
            live = np.array([self.domain.active(arch) for arch in archs])
            changes = live.any(0) & ~live.all(0)
            for d in np.flatnonzero(changes):
                parent[d] = p
                on[d] = False
                on[d, : self.shape[p]] = live[:, d]
        return parent, on

    def _effects(self, costs: Costs) -> tuple[float, np.ndarray]:
        """Probe how much each value adds to the reference, or to the nearest origin at which it has an effect.

        Returns:
            the reference's cost, and ``(D, K)`` what a value adds to its origin.
        """
        origins = []
        for d, active in enumerate(self.live(self.reference[None])[0]):
            first = int(np.flatnonzero(self.on[d])[0])
            origins.append(self.reference if active else self._at(self.reference, self.parent[d], first))
        probes = []
        for d, origin in enumerate(origins):
            probes += [self._at(origin, d, k) for k in range(self.shape[d])]
        ends = [self.domain.encode(self.domain.smallest()), self.reference]
        archs = [self.domain.decode(row) for row in (*ends, *origins, *probes)]
        values = np.asarray(costs(archs), float)
        smallest, largest = values[:2]
        reach = largest - smallest
        shares = ((values - smallest) / np.where(reach == 0, 1.0, reach)).mean(1)
        of_origins = shares[2 : 2 + len(origins)]
        effect = np.zeros(self.valid.shape)
        effect[self.valid] = shares[2 + len(origins) :]
        effect = np.where(self.valid, effect - of_origins[:, None], 0.0)
        return float(shares[1]), effect


def _tilt(beta: float, effect: np.ndarray) -> np.ndarray:
    logits = -beta * effect
    return np.exp(logits - logits.max(1, keepdims=True))
