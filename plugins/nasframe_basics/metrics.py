"""The metrics of text tasks: functions of labels and predictions, ``(examples,)`` each, higher is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Share of equal entries.

    >>> accuracy(np.array([0, 1]), np.array([1, 1]))
    0.5
    """
    return float(np.mean(labels == predictions))


def f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """F1 of class 1; 0 where it never occurs."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, pos_label=1, zero_division=0.0))


def macro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Mean F1 over the classes that occur."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, average="macro", zero_division=0.0))


def mcc(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Matthews correlation; 0 for constant predictions."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predictions))


def pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Linear correlation; 0 where one side is constant."""
    return _correlation("pearsonr", labels, predictions)


def spearman(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Rank correlation; 0 where one side is constant."""
    return _correlation("spearmanr", labels, predictions)


def negative_rmse(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Root mean squared error, negative so that higher is better."""
    return -float(np.sqrt(np.mean((labels - predictions) ** 2)))


def _correlation(name: str, labels: np.ndarray, predictions: np.ndarray) -> float:
    from scipy import stats

    if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return 0.0
    return float(getattr(stats, name)(labels, predictions).statistic)


def _mean(*parts: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda labels, predictions: sum(part(labels, predictions) for part in parts) / len(parts)


METRICS: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "accuracy_f1": _mean(accuracy, f1),
    "macro_f1": macro_f1,
    "mcc": mcc,
    "pearson": pearson,
    "spearman": spearman,
    "pearson_spearman": _mean(pearson, spearman),
    "negative_rmse": negative_rmse,
}
