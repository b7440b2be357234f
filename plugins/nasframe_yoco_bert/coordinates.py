"""A domain of knobs as padded arrays: which knobs have an effect, what they cost, and draws that aim at a cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nasframe.records import Arch

BETAS = 500.0 * np.sinh(np.linspace(-6, 6, 33)) / np.sinh(6)
"""Tilts to choose from, from "large only" to "small only", closer together around 0."""

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
        self.depth = max(
            (len(self._chain(d)) for d in range(len(self.rows))), default=0
        )  # conditions of the deepest dimension
        self.priced = costs is not None
        self.base = 0.0
        self.effect = np.zeros(self.valid.shape)
        if costs is not None:
            self.base, self.effect = self._effects(costs)
        self._tilts = np.array([_tilt(beta, self.effect) for beta in BETAS])  # (B, D, K)
        self._tilts_on = self._tilts[:, self.parent] * self.on

    def live(self, positions: np.ndarray) -> np.ndarray:
        """Return ``(n, D)`` booleans: which dimensions have an effect at ``(n, D)`` positions."""
        return self._down_the_chain(self.on[self.rows, positions[:, self.parent]])

    def canonical(self, positions: np.ndarray) -> np.ndarray:
        """Return ``(D,)`` positions as the domain encodes them: 0 for dimensions without an effect."""
        return np.where(self.live(positions[None])[0], positions, 0)

    def cost(self, positions: np.ndarray) -> np.ndarray:
        """Return ``(n,)`` costs of ``(n, D)`` positions."""
        effects = self.effect[self.rows, positions]
        live = self.live(positions)
        return self.base + (live * effects).sum(1)

    def mean_costs(self, p: np.ndarray) -> np.ndarray:
        """Return the expected costs of independent draws from ``p``, ``(D, K)``, tilted by each of ``BETAS``."""
        total = np.einsum("bdk,dk->bd", self._tilts, p)
        effect = np.einsum("bdk,dk->bd", self._tilts, p * self.effect) / total
        # A dimension costs something only if the one that it depends on switches it on.
        total_of_parent = total[:, self.parent]
        switched_on = np.einsum("bdk,dk->bd", self._tilts_on, p[self.parent]) / total_of_parent
        active = self._down_the_chain(switched_on)
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

    def _down_the_chain(self, own: np.ndarray) -> np.ndarray:
        """Multiply what holds for each dimension by what holds for all those that it depends on, ``(n, D)``.

        A dimension that depends on none is its own parent, and what holds for it is 1.
        """
        product = own
        for _ in range(self.depth - 1):
            product = own * product[:, self.parent]
        return product

    def _changed(self, positions: np.ndarray, d: Any, value: int) -> np.ndarray:
        """Return positions with another value in dimension ``d``."""
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
        for d, condition in enumerate(self.domain.conditions()):
            if condition is not None:
                parent[d], active_at = condition
                on[d] = False
                on[d, : len(active_at)] = active_at
        return parent, on

    def _chain(self, d: int) -> list[int]:
        """Return a dimension and those that it depends on, without the last, which depends on none."""
        chain = []
        while self.parent[d] != d:
            chain.append(d)
            d = self.parent[d]
        return chain

    def _effects(self, costs: Costs) -> tuple[float, np.ndarray]:
        """Probe how much each value adds to the reference, or to the nearest origin at which it has an effect.

        Returns:
            the reference's cost, and ``(D, K)`` what a value adds to its origin.
        """
        origins = self._origins()
        probes = []
        for d, origin in enumerate(origins):
            probes += [self._changed(origin, d, value) for value in range(self.shape[d])]
        ends = [self.domain.encode(self.domain.smallest()), self.reference]
        # In one call, because additive costs of many architectures are counted at once.
        archs = [self.domain.decode(row) for row in (*ends, *origins, *probes)]
        values = np.asarray(costs(archs), float)
        smallest, largest = values[:2]
        reach = largest - smallest
        relative = (values - smallest) / np.where(reach == 0, 1.0, reach)
        shares = relative.mean(1)
        of_ends, of_origins, of_probes = np.split(shares, [2, 2 + len(origins)])
        effect = np.zeros(self.valid.shape)
        effect[self.valid] = of_probes
        effect = np.where(self.valid, effect - of_origins[:, None], 0.0)
        return float(of_ends[1]), effect

    def _origins(self) -> list[np.ndarray]:
        """Return for each dimension the reference, or what is nearest to it among positions where it has an effect."""
        origins = []
        is_live = self.live(self.reference[None])[0]
        for d in self.rows:
            origin = self.reference
            if not is_live[d]:
                for link in self._chain(int(d)):
                    if not self.on[link, origin[self.parent[link]]]:
                        first_value = int(np.flatnonzero(self.on[link])[0])
                        origin = self._changed(origin, self.parent[link], first_value)
            origins.append(origin)
        return origins


def _tilt(beta: float, effect: np.ndarray) -> np.ndarray:
    """Return exp(−β · effect), scaled so that the largest factor of each dimension is 1: none overflows."""
    logits = -beta * effect
    return np.exp(logits - logits.max(1, keepdims=True))
