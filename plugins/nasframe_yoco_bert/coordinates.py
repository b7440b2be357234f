"""A domain of knobs as padded arrays: what has an effect, what it costs, and draws that aim at a cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nasframe.errors import UsageError
from nasframe.records import Arch

BETAS = 500.0 * np.sinh(np.linspace(-6, 6, 33)) / np.sinh(6)  # tilts to look among, from "large only" to "small only"


class Coordinates:
    """The dimensions of a domain as arrays; D dimensions, at most K values.

    Costs are shares of the domain's range, 0 for its smallest and 1 for its largest architecture, and the mean of
    these where there are several. They are taken to be sums over the active dimensions, as counted costs are: each
    value is probed once.

    Args:
        domain: a ``Choices`` domain, joined or not.
        costs: archs → ``(archs, costs)``; without it nothing has a cost.

    Raises:
        UsageError: a domain without knobs.
    """

    def __init__(self, domain: Any, costs: Callable[[Sequence[Arch]], np.ndarray] | None = None) -> None:
        if not hasattr(domain, "dims"):
            raise UsageError(f"sampler 'sng' needs a domain of knobs, but got {type(domain).__name__}")
        self.domain = domain
        self.shape = np.array(domain.shape)
        self.rows = np.arange(len(self.shape))
        self.valid = np.arange(self.shape.max()) < self.shape[:, None]
        self.reference = domain.encode(domain.largest())
        self.parent, self.on = self._rules()
        self.priced = costs is not None
        self.base, self.effect = 0.0, np.zeros(self.valid.shape)
        if costs is not None:
            self.base, self.effect = self._effects(costs)
        self._tilts = np.array([_tilt(beta, self.effect) for beta in BETAS])  # (B, D, K)
        self._tilts_on = self._tilts[:, self.parent] * self.on

    def live(self, positions: np.ndarray) -> np.ndarray:
        """Return ``(n, D)`` booleans: which dimensions have an effect at ``(n, D)`` positions."""
        return self.on[self.rows, positions[:, self.parent]]

    def canonical(self, positions: np.ndarray) -> np.ndarray:
        """Return ``(D,)`` positions with 0 where there is no effect, as the domain encodes them."""
        return np.where(self.live(positions[None])[0], positions, 0)

    def cost(self, positions: np.ndarray) -> np.ndarray:
        """Return ``(n,)`` costs of ``(n, D)`` positions."""
        return self.base + (self.live(positions) * self.effect[self.rows, positions]).sum(1)

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
        """Tilt distributions so that their mean cost is ``target``, or as near as they come."""
        falling = np.minimum.accumulate(self.mean_costs(p))
        return self.tilted(p, float(np.interp(-target, -falling, BETAS)))

    def _at(self, positions: np.ndarray, d: Any, value: int) -> np.ndarray:
        changed = positions.copy()
        changed[d] = value
        return changed

    def _rules(self) -> tuple[np.ndarray, np.ndarray]:
        """Find for each dimension the one on which its effect depends (itself where it always has one), and how."""
        parent, on = self.rows.copy(), np.ones(self.valid.shape, bool)
        for p in self.rows:
            archs = [self.domain.decode(self._at(self.reference, p, k)) for k in range(self.shape[p])]
            live = np.array([self.domain.active(arch) for arch in archs])
            for d in np.flatnonzero(live.any(0) & ~live.all(0)):
                parent[d] = p
                on[d] = False
                on[d, : self.shape[p]] = live[:, d]
        return parent, on

    def _effects(self, costs: Callable[[Sequence[Arch]], np.ndarray]) -> tuple[float, np.ndarray]:
        """Probe what each value costs beside the reference, or beside the nearest one where it has an effect."""
        origins = []
        for d, active in enumerate(self.live(self.reference[None])[0]):
            first = int(np.flatnonzero(self.on[d])[0])
            origins.append(self.reference if active else self._at(self.reference, self.parent[d], first))
        ends = [self.domain.encode(self.domain.smallest()), self.reference]
        probes = [self._at(origins[d], d, k) for d in self.rows for k in range(self.shape[d])]
        found = np.asarray(costs([self.domain.decode(row) for row in (*ends, *origins, *probes)]), float)
        reach = found[1] - found[0]
        share = ((found - found[0]) / np.where(reach == 0, 1.0, reach)).mean(1)
        effect = np.zeros(self.valid.shape)
        effect[self.valid] = share[2 + len(origins) :]
        effect = np.where(self.valid, effect - share[2 : 2 + len(origins), None], 0.0)
        return float(share[1]), effect


def _tilt(beta: float, effect: np.ndarray) -> np.ndarray:
    logits = -beta * effect
    return np.exp(logits - logits.max(1, keepdims=True))
