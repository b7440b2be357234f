"""Measured costs, guessed from counted ones until they are measured: a measurement takes as long as an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nasframe.errors import UnsatisfiableError
from nasframe.records import Arch

if TYPE_CHECKING:
    from nasframe.running.reopen import Finished
    from nasframe.search.budgets import Costs, Goal

DRAWS = 4  # architectures measured to learn the guess, besides the smallest and the largest
LEAST = 1.1  # a guess is never taken to be nearer than this


class Measured:
    """One measured cost of a run's architectures, on this machine.

    Args:
        name: the cost.
        finished: the run.
        counted: architecture → counted costs, ``macs`` and ``params`` among them.
    """

    def __init__(self, name: str, finished: Finished, counted: Costs) -> None:
        self.name, self.finished, self.counted = name, finished, counted
        self.estimator: Any = finished.estimator(name)
        domain, rng = finished.region, np.random.default_rng(0)
        ends = [domain.smallest(), domain.largest()] if hasattr(domain, "largest") else []
        archs = [*ends, *(domain.sample(rng) for _ in range(DRAWS))]
        values = np.array([self.measure(arch) for arch in archs])
        self.extremes = float(values.min()), float(values.max())
        facts = np.array([self._facts(arch) for arch in archs])
        self.scale = np.abs(facts).max(0)
        self.weights = np.linalg.lstsq(facts / self.scale, values, rcond=None)[0]
        guesses = np.array([self.guess(arch) for arch in archs])
        self.slack = max(LEAST, float((np.maximum(values, guesses) / np.minimum(values, guesses)).max()))

    def guess(self, arch: Arch) -> float:
        """Return what an architecture should cost by its MACs and parameters."""
        value = float(np.array(self._facts(arch)) / self.scale @ self.weights)
        return min(max(value, self.extremes[0]), self.extremes[1])

    def measure(self, arch: Arch) -> float:
        """Measure an architecture, once."""
        median: float = self.estimator.measure(self.finished.space, self.finished.net, arch)["median"]
        return median

    def _facts(self, arch: Arch) -> list[float]:
        costs = self.counted(arch)
        return [1.0, costs["macs"], costs["params"]]


def check_measured(wanted: Sequence[Goal], measured: Mapping[str, Measured]) -> None:
    """Make sure that what was measured at the ends of a domain leaves something for each goal.

    Raises:
        UnsatisfiableError: the nearest of them breaks a bound; every such goal is told.
    """
    found = []
    for goal in wanted:
        for name, cost in measured.items():
            if name not in goal.bounds:
                continue
            bound, (low, high) = goal.bounds[name], cost.extremes
            nearest = low if low > bound.high else high if high < bound.low else None
            if nearest is not None:
                text = f"no architecture has {name} {bound}. The nearest measured here is {bound.show(nearest)}"
                found.append(f"{goal.name}: {text}.")
    if found:
        raise UnsatisfiableError("\n".join(found))
