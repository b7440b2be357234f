"""A model of a table, for the architectures that it lacks: additive where that is exact, else boosted trees.

Trees, as in NAS-Bench-301 (Siems et al., arXiv 2008.09777), and not a kernel: no sampler here models scores with trees,
so that none meets its own assumptions in the benchmark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nasframe.records import Arch
from nasframe_bench.table_file import ArchTable

EXACT = 1e-9  # relative error up to which an additive cost counts as exact
TREES = {"n_estimators": 300, "max_depth": 4, "learning_rate": 0.06, "subsample": 0.7, "random_state": 0}
FOLDS = 5


class TableModel:
    """Predicts every column of a table.

    Args:
        table: the rows to fit.
        domain: their domain.

    Attributes:
        about: one sentence on what is predicted, and how well: coefficients of determination over 5 folds.
    """

    def __init__(self, table: ArchTable, domain: Any) -> None:
        self.domain = domain
        x = np.array([self.features(row["arch"]) for row in table.rows])
        self.columns: dict[str, dict[str, Callable[[np.ndarray], float]]] = {"metrics": {}, "costs": {}}
        said = []
        for kind, names in (("metrics", table.metrics), ("costs", table.costs)):
            for name in names:
                y = np.array([row[kind][name] for row in table.rows])
                additive = Additive(x, y, domain.shape)
                exact = kind == "costs" and np.abs(additive.residual).max() <= EXACT * max(np.abs(y).max(), 1.0)
                self.columns[kind][name] = additive if exact else Trees(x, y)
                said.append(f"{name} (exact, additive)" if exact else f"{name} (R² {_validated(x, y):.3f})")
        share = f"{len(table.rows):,} of {domain.size:,} architectures are in the table"
        self.about = f"{share}; of the others a fitted model predicts {', '.join(said)}."

    def features(self, arch: Arch) -> np.ndarray:
        """Return ``(dimensions,)``: the position of each dimension's value, −1 where it has no effect."""
        return np.where(self.domain.active(arch), self.domain.encode(arch), -1)

    def __call__(self, arch: Arch) -> Mapping[str, Mapping[str, float]]:
        """Predict metrics and costs of an architecture."""
        x = self.features(arch)
        return {kind: {name: column(x) for name, column in found.items()} for kind, found in self.columns.items()}


class Additive:
    """A sum of one number a choice, by least squares.

    Args:
        x: ``(rows, dimensions)`` features.
        y: ``(rows,)`` values.
        shape: how many values each dimension has.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, shape: tuple[int, ...]) -> None:
        self.starts = np.cumsum([0, *shape[:-1]])
        hot = np.zeros((len(x), sum(shape) + 1))
        hot[:, -1] = 1.0
        for row, here in zip(hot, x, strict=True):
            row[(self.starts + here)[here >= 0]] = 1.0
        self.weights = np.linalg.lstsq(hot, y, rcond=None)[0]
        self.residual = y - hot @ self.weights

    def __call__(self, x: np.ndarray) -> float:
        """Predict one value."""
        return float(self.weights[(self.starts + x)[x >= 0]].sum() + self.weights[-1])


class Trees:
    """Gradient-boosted trees by scikit-learn, laid out so that one prediction costs microseconds.

    Args:
        x: ``(rows, dimensions)`` features.
        y: ``(rows,)`` values.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        from sklearn.ensemble import GradientBoostingRegressor

        fitted = GradientBoostingRegressor(**TREES).fit(x, y)
        trees = [stage[0].tree_ for stage in fitted.estimators_]
        size = max(tree.node_count for tree in trees)
        self.base, self.rate, self.every = float(np.mean(y)), fitted.learning_rate, np.arange(len(trees))
        self.feature, self.left, self.right = (np.zeros((len(trees), size), int) for _ in range(3))
        self.threshold, self.value = (np.zeros((len(trees), size)) for _ in range(2))
        for t, tree in enumerate(trees):
            n, leaf, own = tree.node_count, tree.children_left < 0, np.arange(tree.node_count)
            self.feature[t, :n] = np.maximum(tree.feature, 0)
            self.threshold[t, :n] = tree.threshold
            self.left[t, :n] = np.where(leaf, own, tree.children_left)  # a leaf leads to itself
            self.right[t, :n] = np.where(leaf, own, tree.children_right)
            self.value[t, :n] = tree.value[:, 0, 0]

    def __call__(self, x: np.ndarray) -> float:
        """Predict one value."""
        at, t = np.zeros(len(self.every), int), self.every
        for _ in range(TREES["max_depth"]):  # type: ignore[call-overload]
            low = x[self.feature[t, at]] <= self.threshold[t, at]
            at = np.where(low, self.left[t, at], self.right[t, at])
        return self.base + self.rate * float(self.value[t, at].sum())


def _validated(x: np.ndarray, y: np.ndarray) -> float:
    """Return the coefficient of determination of predictions that did not see what they predict."""
    from sklearn.ensemble import GradientBoostingRegressor
    from sklearn.model_selection import KFold, cross_val_score

    if len(y) < 2 * FOLDS:
        return float("nan")
    folds = KFold(FOLDS, shuffle=True, random_state=0)
    return float(cross_val_score(GradientBoostingRegressor(**TREES), x, y, cv=folds, scoring="r2").mean())
