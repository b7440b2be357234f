"""Exact costs of architectures: from a table if costs add up over knobs, else from the cost function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from nasframe.records import Arch
from nasframe_frontier.codes import Codes

CostFunction = Callable[[Sequence[Arch]], Any]
"""Architectures → their costs, ``(archs, costs)``."""


class CostObjective(NamedTuple):
    """An objective that is a cost: the cost's column, and the sign that makes the cost an error to be minimised."""

    column: int
    sign: float


class ExactCosts:
    """Computes costs of rows, and recognises costs that are sums over knobs.

    Args:
        function: costs of architectures, ``(archs, costs)``; ``None`` means that there are no costs.
        domain: architectures are sampled from it to fit the table.
        codes: the translation of its architectures.
    """

    def __init__(self, function: CostFunction | None, domain: Any, codes: Codes) -> None:
        self.function = function
        self.domain = domain
        self.codes = codes
        self.table = np.zeros((0, 0))  # the cost of each value of each knob, once fitted
        self.additive = False  # whether the table reproduces the costs

    def of_archs(self, archs: Sequence[Arch]) -> np.ndarray:
        """Ask the cost function."""
        if self.function is None:
            return np.zeros((len(archs), 0))
        costs = np.asarray(self.function(archs), dtype=float)
        return costs.reshape(len(archs), -1)  # a function of one cost may return a flat list

    def of_rows(self, rows: np.ndarray) -> np.ndarray:
        """Ask the cost function about rows."""
        archs = [self.codes.arch(row) for row in rows]
        return self.of_archs(archs)

    def of_candidates(self, rows: np.ndarray, flags: np.ndarray) -> np.ndarray:
        """Return costs the fastest way that is exact.

        Args:
            rows: the architectures.
            flags: their one-hot codes.
        """
        if self.additive:
            return flags @ self.table
        return self.of_rows(rows)

    def fit_table(self) -> None:
        """Fit the additive table, if that was not done yet.

        It is fitted to three quarters of a sample of random architectures. The remaining quarter shows whether costs
        really are additive.
        """
        if len(self.table):
            return
        rng = np.random.default_rng(0)  # fixed, so that a resumed sampler fits the same table
        unknowns = int(self.codes.sizes.sum())
        count = min(2 * unknowns + 20, 2000)
        samples = [self.domain.sample(rng) for _ in range(count)]
        rows = np.array([self.codes.row(arch) for arch in samples])
        flags = self.codes.flags(rows)
        costs = self.of_rows(rows)
        fitted = 3 * count // 4
        self.table, *_ = np.linalg.lstsq(flags[:fitted], costs[:fitted], rcond=None)
        self.additive = np.allclose(flags @ self.table, costs, rtol=1e-9)

    def objectives(self, rows: np.ndarray, errors: np.ndarray) -> dict[int, CostObjective]:
        """Find out which objectives are costs by comparing numbers, so that the sampler needs no names.

        Args:
            rows: evaluated architectures.
            errors: ``(rows, objectives)``.

        Returns:
            The costs by objective. At least one objective is left to be predicted.
        """
        exact: dict[int, CostObjective] = {}
        if not len(rows) or errors.shape[1] == 1:
            return exact
        costs = self.of_rows(rows)
        for objective, values in enumerate(errors.T):
            if len(exact) == errors.shape[1] - 1:
                break
            cost = _equal_cost(costs, values)
            if cost is not None:
                exact[objective] = cost
        return exact


def _equal_cost(costs: np.ndarray, values: np.ndarray) -> CostObjective | None:
    """Return the first cost that equals the values, up to its sign."""
    for column in range(costs.shape[1]):
        for sign in (1.0, -1.0):
            if np.allclose(sign * costs[:, column], values, rtol=1e-9):
                return CostObjective(column, sign)
    return None
