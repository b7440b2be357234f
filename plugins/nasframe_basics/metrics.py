"""The metrics of tasks with labels: functions of labels and predictions, and formats of their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nasframe.records import MetricFormat

PLAIN = MetricFormat()
PERCENT = MetricFormat(percent=True)
CORRELATION = MetricFormat(standard_error="correlation")


@dataclass(frozen=True)
class Metric:
    """One number that a task measures.

    Args:
        function: takes labels and predictions, and by keyword the facts that ``needs`` names.
        format: how it is printed and compared.
        needs: ``positive``, the positive class, or ``classes``, those that occur in the data.
    """

    function: Callable[..., float]
    format: MetricFormat = PLAIN
    needs: Sequence[str] = ()


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Return the share of equal entries.

    >>> accuracy(np.array([0, 1]), np.array([1, 1]))
    0.5
    """
    return float(np.mean(labels == predictions))


def f1(labels: np.ndarray, predictions: np.ndarray, positive: int = 1) -> float:
    """Return the F1 of the positive class; 0 if it never occurs.

    >>> f1(np.array([0, 1, 2]), np.array([0, 1, 1]), positive=0)
    1.0
    """
    from sklearn.metrics import f1_score  # slow to import, and checks of recipes read this module

    is_positive = labels == positive  # as two classes, however many there are
    is_predicted = predictions == positive
    return float(f1_score(is_positive, is_predicted, zero_division=0.0))


def macro_f1(labels: np.ndarray, predictions: np.ndarray, classes: Sequence[int] | None = None) -> float:
    """Return the mean F1 over the classes, or the labels, that occur or are predicted.

    Args:
        labels: the true classes; of labels that may hold together 0 or 1, ``(examples, labels)``.
        predictions: the predicted ones.
        classes: the classes of the data, if the network has more; only these count.

    >>> macro_f1(np.array([0, 0, 1]), np.array([0, 0, 2]), classes=[0, 1])
    0.5
    """
    from sklearn.metrics import f1_score

    # A predicted class that never occurs counts with an F1 of 0, as in scikit-learn.
    if labels.ndim == 2:
        counted = np.flatnonzero(labels.any(axis=0) | predictions.any(axis=0))
    else:
        counted = np.union1d(labels, predictions)
    if classes is not None:
        counted = np.intersect1d(counted, classes)
    if not len(counted):  # no label holds, and none is predicted
        return 0.0
    return float(f1_score(labels, predictions, labels=counted, average="macro", zero_division=0.0))


def micro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Return the F1 of all yes or no answers together, ``(examples, labels)`` each; 0 if no label occurs.

    >>> round(float(micro_f1(np.array([[1, 1], [0, 0]]), np.array([[1, 0], [0, 0]]))), 3)
    0.667
    """
    right = np.count_nonzero((labels == 1) & (predictions == 1))
    holding = np.count_nonzero(labels) + np.count_nonzero(predictions)
    return 2 * right / holding if holding else 0.0


def subset_accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Return the share of examples of which all labels are predicted, and no other.

    >>> subset_accuracy(np.array([[1, 1], [0, 0]]), np.array([[1, 0], [0, 0]]))
    0.5
    """
    return float(np.mean((labels == predictions).all(axis=1)))


def label_accuracy(labels: np.ndarray, predictions: np.ndarray, classes: Sequence[int] | None = None) -> float:
    """Return the share of right yes or no answers: 1 minus the Hamming loss.

    Args:
        labels: 0 or 1, ``(examples, labels)``.
        predictions: the predicted ones.
        classes: the labels of the data, if the network has more; only these count.

    >>> label_accuracy(np.array([[1, 1], [0, 0]]), np.array([[1, 0], [0, 0]]))
    0.75
    """
    right = labels == predictions
    if classes is not None:
        right = right[:, list(classes)]
    return float(np.mean(right))


def accuracy_f1(labels: np.ndarray, predictions: np.ndarray, positive: int = 1) -> float:
    """Return the mean of accuracy and F1, as GLUE reports it."""
    both = accuracy(labels, predictions) + f1(labels, predictions, positive)
    return both / 2


def mcc(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Return the Matthews correlation; 0 for constant predictions."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predictions))


def pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Return the linear correlation; 0 if one side is constant."""
    return _correlation("pearsonr", labels, predictions)


def spearman(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Return the rank correlation; 0 if one side is constant."""
    return _correlation("spearmanr", labels, predictions)


def negative_rmse(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Return the root mean squared error, negative so that higher is better."""
    errors = labels - predictions
    mean_square = np.mean(errors**2)
    return -float(np.sqrt(mean_square))


def _correlation(name: str, labels: np.ndarray, predictions: np.ndarray) -> float:
    from scipy import stats

    if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return 0.0  # scipy would warn and return NaN, which no search can compare
    correlate = getattr(stats, name)
    return float(correlate(labels, predictions).statistic)


def pearson_spearman(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Return the mean of both correlations, as GLUE reports it."""
    both = pearson(labels, predictions) + spearman(labels, predictions)
    return both / 2


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric(accuracy, PERCENT),
    "f1": Metric(f1, PERCENT, ("positive",)),
    "accuracy_f1": Metric(accuracy_f1, PERCENT, ("positive",)),
    "macro_f1": Metric(macro_f1, PERCENT, ("classes",)),
    "micro_f1": Metric(micro_f1, PERCENT),
    "subset_accuracy": Metric(subset_accuracy, PERCENT),
    "label_accuracy": Metric(label_accuracy, PERCENT, ("classes",)),
    "mcc": Metric(mcc, CORRELATION),
    "pearson": Metric(pearson, CORRELATION),
    "spearman": Metric(spearman, CORRELATION),
    "pearson_spearman": Metric(pearson_spearman, CORRELATION),
    "negative_rmse": Metric(negative_rmse),
}
LOSS = MetricFormat(higher_is_better=False)
"""The format of the loss, which every task measures in addition to its metrics."""


def formats(names: Sequence[str], positive: str | None = None) -> dict[str, MetricFormat]:
    """Return the formats of the named metrics and of the loss.

    Args:
        names: of :data:`METRICS`.
        positive: the name of the positive class.
    """
    formats_ = {}
    for name in names:
        metric = METRICS[name]
        about = positive if "positive" in metric.needs else None
        formats_[name] = replace(metric.format, positive=about)
    formats_["loss"] = LOSS
    return formats_
