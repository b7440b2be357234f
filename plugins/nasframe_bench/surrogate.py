"""A model of a table, for the architectures that it lacks: additive if that is exact, else boosted trees.

Trees, as in NAS-Bench-301 (Siems et al., arXiv 2008.09777), and not a kernel: no sampler here models scores with trees,
so a sampler never meets its own assumptions in the benchmark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nasframe.records import Arch
from nasframe_bench.table_file import ArchTable

EXACT = 1e-9  # relative error up to which an additive cost counts as exact
Column = Callable[[np.ndarray], float]
"""A model of one column: features → value."""
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
        self.metrics: dict[str, Column] = {}
        self.costs: dict[str, Column] = {}
        x = np.array([self.features(row["arch"]) for row in table.rows])
        qualities = []
        for name in table.metrics:
            y = np.array([row["metrics"][name] for row in table.rows])
            self.metrics[name] = Trees(x, y)
            qualities.append(f"{name} (R² {_validated(x, y):.3f})")
        for name in table.costs:
            y = np.array([row["costs"][name] for row in table.rows])
            additive = Additive(x, y, domain.shape)
            if additive.is_exact:
                self.costs[name] = additive
                qualities.append(f"{name} (exact, additive)")
            else:
                self.costs[name] = Trees(x, y)
                qualities.append(f"{name} (R² {_validated(x, y):.3f})")
        share = f"{len(table.rows):,} of {domain.size:,} architectures are in the table"
        self.about = f"{share}; of the others a fitted model predicts {', '.join(qualities)}."

    def features(self, arch: Arch) -> np.ndarray:
        """Return ``(dimensions,)``: the position of each dimension's value, −1 if it has no effect."""
        has_effect = self.domain.active(arch)
        return np.where(has_effect, self.domain.encode(arch), -1)

    def __call__(self, arch: Arch) -> Mapping[str, Mapping[str, float]]:
        """Predict metrics and costs of an architecture."""
        x = self.features(arch)
        return {
            "metrics": {name: column(x) for name, column in self.metrics.items()},
            "costs": {name: column(x) for name, column in self.costs.items()},
        }


class Additive:
    """A sum of one number for each choice, by least squares.

    Args:
        x: ``(rows, dimensions)`` features.
        y: ``(rows,)`` values.
        shape: how many values each dimension has.

    Attributes:
        is_exact: whether it reproduces every row.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, shape: tuple[int, ...]) -> None:
        # One column for each value of each dimension, and a last one for the constant.
        self.starts = np.cumsum([0, *shape[:-1]])
        choices = np.zeros((len(x), sum(shape) + 1))
        choices[:, -1] = 1.0
        for row, features in zip(choices, x, strict=True):
            row[self._chosen(features)] = 1.0
        # The constant is the sum of the columns of any one dimension: of all solutions lstsq takes the smallest.
        self.weights = np.linalg.lstsq(choices, y, rcond=None)[0]
        residual = np.abs(y - choices @ self.weights)
        scale = max(np.abs(y).max(), 1.0)
        self.is_exact = bool(residual.max() <= EXACT * scale)

    def __call__(self, x: np.ndarray) -> float:
        """Predict one value."""
        constant = self.weights[-1]
        return float(self.weights[self._chosen(x)].sum() + constant)

    def _chosen(self, features: np.ndarray) -> np.ndarray:
        """Return the columns of an architecture's choices; a dimension without an effect has none."""
        columns: np.ndarray = self.starts + features
        return columns[features >= 0]


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
        most_nodes = max(tree.node_count for tree in trees)
        self.base = float(np.mean(y))  # the prediction that the first tree corrects
        self.rate = fitted.learning_rate
        self.trees = np.arange(len(trees))
        # One row a tree, one column a node, so that all trees take a step at once.
        shape = (len(trees), most_nodes)
        self.feature = np.zeros(shape, int)
        self.threshold = np.zeros(shape)
        self.left = np.zeros(shape, int)
        self.right = np.zeros(shape, int)
        self.value = np.zeros(shape)
        for row, tree in enumerate(trees):
            count = tree.node_count
            nodes = np.arange(count)
            is_leaf = tree.children_left < 0
            self.feature[row, :count] = np.maximum(tree.feature, 0)  # a leaf has -2; what it compares has no effect
            self.threshold[row, :count] = tree.threshold
            # A leaf leads to itself, so that trees of different depths can take the same number of steps.
            self.left[row, :count] = np.where(is_leaf, nodes, tree.children_left)
            self.right[row, :count] = np.where(is_leaf, nodes, tree.children_right)
            self.value[row, :count] = tree.value[:, 0, 0]

    def __call__(self, x: np.ndarray) -> float:
        """Predict one value."""
        trees = self.trees
        nodes = np.zeros(len(trees), int)  # the node that each tree has come to
        for _ in range(TREES["max_depth"]):  # type: ignore[call-overload]
            values = x[self.feature[trees, nodes]]
            goes_left = values <= self.threshold[trees, nodes]
            nodes = np.where(goes_left, self.left[trees, nodes], self.right[trees, nodes])
        corrections = float(self.value[trees, nodes].sum())
        return self.base + self.rate * corrections


def _validated(x: np.ndarray, y: np.ndarray) -> float:
    """Return the coefficient of determination in cross-validation; NaN if there are too few rows."""
    from sklearn.ensemble import GradientBoostingRegressor
    from sklearn.model_selection import KFold, cross_val_score

    if len(y) < 2 * FOLDS:
        return float("nan")
    folds = KFold(FOLDS, shuffle=True, random_state=0)  # the rows of a table may be sorted
    scores = cross_val_score(GradientBoostingRegressor(**TREES), x, y, cv=folds, scoring="r2")
    return float(scores.mean())
