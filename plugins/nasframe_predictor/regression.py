"""The regression: features of an architecture, a model of scikit-learn, and its error by cross-validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from nasframe.errors import UsageError
from nasframe.interfaces import KnobDomain
from nasframe.records import Arch

FOLDS = 5
TREES = 200
ALPHAS = tuple(np.logspace(-4, 4, 17))
"""Strengths of the ridge penalty that its own leave-one-out error chooses from."""


def features(domain: Any, arch: Arch, counts: Sequence[float | None]) -> list[float | None]:
    """Return the features of an architecture.

    Args:
        domain: its domain. Each knob is a feature: the position of its value, from 1; 0 if the knob has no effect.
        arch: the architecture.
        counts: counted costs of it, as further features.

    >>> from nasframe.search.domain import Choices
    >>> features(Choices({"width": [8, 16], "depth": [1, 2]}), {"width": 16}, [3.0])
    [2.0, 0.0, 3.0]
    """
    row: list[float | None] = []
    if isinstance(domain, KnobDomain):
        for knob, values in domain.knobs.items():
            row.append(float(_position(list(values), arch[knob]) + 1) if knob in arch else 0.0)
    return [*row, *counts]


def _position(values: Sequence[Any], value: Any) -> int:
    """Return the position of a value; a list in an architecture may be a tuple in the domain."""
    for position, other in enumerate(values):
        if other == value or (isinstance(value, list | tuple) and list(value) == list(other)):
            return position
    raise UsageError(f"predictor: {value!r} is no value of the domain. Expected one of {list(values)}.")


class Regression:
    """A fitted regression. Equal data give an equal regression.

    Args:
        rows: features of each measured architecture; a feature that is missing in one is left out.
        values: their costs.
        model: ``ridge``, ``forest`` or ``boosting``.

    Attributes:
        error: the mean relative error of predictions, by cross-validation.
        worst: the largest one.
        rank_correlation: Spearman's, between predictions and measurements; ``None`` if all cost the same.

    Raises:
        UsageError: there are no features.

    >>> line = Regression([[float(x)] for x in range(1, 13)], [2.0 * x for x in range(1, 13)], "ridge")
    >>> round(line.predict([6.5]), 3), line.error < 0.01
    (13.0, True)
    """

    def __init__(
        self,
        rows: Sequence[Sequence[float | None]],
        values: Sequence[float],
        model: Literal["ridge", "forest", "boosting"],
    ) -> None:
        table = np.array([[np.nan if value is None else value for value in row] for row in rows], dtype=float)
        self._used = np.isfinite(table).all(axis=0) if table.size else np.zeros(0, bool)
        if not self._used.any():
            raise UsageError(
                "predictor: the architectures have no features: the domain has no knobs, and none of 'counts' can be "
                "counted. Expected other 'counts'."
            )
        inputs = table[:, self._used]
        targets = np.array(values, dtype=float)
        self._range = float(targets.min()), float(targets.max())
        self._model = _pipeline(model)
        self._model.fit(inputs, targets)
        self._validate(inputs, targets, model)

    def predict(self, row: Sequence[float | None]) -> float:
        """Return the predicted cost, within the range of the measured ones."""
        table = np.array([[np.nan if value is None else value for value in row]], dtype=float)
        low, high = self._range
        value = float(self._model.predict(table[:, self._used])[0])
        return min(max(value, low), high)

    def _validate(self, inputs: np.ndarray, targets: np.ndarray, model: Literal["ridge", "forest", "boosting"]) -> None:
        """Measure the error of predictions for architectures that the regression was not fitted to."""
        from scipy.stats import spearmanr
        from sklearn.model_selection import KFold, cross_val_predict

        folds = KFold(min(FOLDS, len(targets)), shuffle=True, random_state=0)
        predictions = cross_val_predict(_pipeline(model), inputs, targets, cv=folds)
        scale = np.maximum(np.abs(targets), np.finfo(float).tiny)
        errors = np.abs(predictions - targets) / scale
        self.error = float(errors.mean())
        self.worst = float(errors.max())
        is_varied = np.ptp(targets) > 0 and np.ptp(predictions) > 0
        self.rank_correlation = float(spearmanr(predictions, targets).statistic) if is_varied else None


def _pipeline(model: str) -> Any:
    """Return a model that is not fitted yet."""
    from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    regressors = {
        "ridge": lambda: RidgeCV(alphas=ALPHAS),
        "forest": lambda: RandomForestRegressor(n_estimators=TREES, random_state=0),
        "boosting": lambda: GradientBoostingRegressor(random_state=0),
    }
    return make_pipeline(StandardScaler(), regressors[model]())
