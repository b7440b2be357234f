"""Measured costs, predicted from counted ones: one measurement takes as long as an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nasframe.errors import UnsatisfiableError
from nasframe.interfaces import EstimatorTraits, ends_of, traits_of
from nasframe.records import Arch

if TYPE_CHECKING:
    from nasframe.running.reopen import Finished
    from nasframe.search.budgets import Budget, Costs

DRAWS = 4  # architectures measured to fit the model, besides the smallest and the largest
MIN_SLACK = 1.1  # no prediction is trusted to be nearer than this factor


class MeasuredCost:
    """One measured cost of a run's architectures, on this machine.

    A linear model in MACs and parameters is fitted to a few measured architectures.

    Args:
        name: the cost.
        finished: the run.
        counted: architecture → counted costs, ``macs`` and ``params`` among them.

    Attributes:
        extremes: the least and the largest measured value.
        slack: the largest factor between a measured value and its prediction.
    """

    def __init__(self, name: str, finished: Finished, counted: Costs) -> None:
        self.name = name
        self.finished = finished
        self.counted = counted
        self.estimator: Any = finished.estimator(name)

        domain = finished.region
        rng = np.random.default_rng(0)
        archs = ends_of(domain)
        for _ in range(DRAWS):
            archs.append(domain.sample(rng))

        values = np.array([self.measure(arch) for arch in archs])
        self.extremes = float(values.min()), float(values.max())
        features = np.array([self._features(arch) for arch in archs])
        largest = np.abs(features).max(0)  # MACs and the constant 1 differ by nine powers of ten
        self.scale = np.where(largest > 0, largest, 1.0)
        self.weights = np.linalg.lstsq(features / self.scale, values, rcond=None)[0]
        # The fit's own errors say how wrong a prediction may be. Few points flatter them, hence a least slack.
        predictions = np.array([self.predict(arch) for arch in archs])
        factors = np.maximum(values, predictions) / np.minimum(values, predictions)
        self.slack = max(MIN_SLACK, float(factors.max()))

    def predict(self, arch: Arch) -> float:
        """Return what an architecture should cost by its MACs and parameters, within the measured extremes."""
        features = np.array(self._features(arch))
        value = float(features / self.scale @ self.weights)
        low, high = self.extremes
        return min(max(value, low), high)

    def measure(self, arch: Arch) -> float:
        """Return the measured cost of an architecture."""
        measurement = self.estimator.measure(self.finished.space, self.finished.net, arch)
        median: float = measurement["median"]
        return median

    def of_model(self, model: Any, arch: Arch) -> Mapping[str, Any]:
        """Measure a finished model, as a run does: by itself, or by the architecture that it was extracted at."""
        finished = self.finished
        reads_weights = traits_of(EstimatorTraits, self.estimator).reads_weights
        measurement: Mapping[str, Any]
        if reads_weights or finished.inputs.is_of_former_api(self.name):
            measurement = self.estimator.measure(None, model, again=True)
        else:
            measurement = self.estimator.measure(finished.space, finished.net, arch, again=True)
        return measurement

    def _features(self, arch: Arch) -> list[float]:
        """Return a constant, and the multiply-adds and parameters; one that cannot be counted explains nothing."""
        costs = self.counted(arch)
        return [1.0, costs.get("macs", 0.0), costs.get("params", 0.0)]


def check_measured(budgets: Sequence[Budget], measured: Mapping[str, MeasuredCost]) -> None:
    """Make sure that the measured extremes leave something for each budget.

    Raises:
        UnsatisfiableError: even the nearest of them breaks a bound; names every such budget.
    """
    problems = []
    for budget in budgets:
        for name, cost in measured.items():
            if name not in budget.bounds:
                continue
            bound = budget.bounds[name]
            low, high = cost.extremes
            if low > bound.high:
                nearest = low
            elif high < bound.low:
                nearest = high
            else:  # some part of the measured range is within the bound
                continue
            text = f"no architecture has {name} {bound}. The nearest measured here is {bound.show(nearest)}"
            problems.append(f"{budget.name}: {text}.")
    if problems:
        raise UnsatisfiableError("\n".join(problems))
