"""Two models on the same examples: exact and resampled comparisons, as pure functions of arrays.

Reports of runs, model cards and comparisons of runs use them. The examples are the only randomness here: the noise of
training is in none of these numbers. ``docs/statistics.md`` says what each number means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
RESAMPLES = 10_000
CHUNK = 500
"""Resamples of the examples that are drawn at a time, to bound the memory."""
MANY_CLASSES = 12
"""With more classes the accuracy is computed without their confusion matrix, which would be large."""
MOST_DRAWN = 25_000_000
"""Examples that are drawn at a time at most, in all resamples together."""


class McNemar(NamedTuple):
    """McNemar's test of two models; see :func:`mcnemar`."""

    only_first: int
    only_second: int
    p: float


class Interval(NamedTuple):
    """A difference with its interval."""

    difference: float
    low: float
    high: float


def mcnemar(first: ArrayLike, second: ArrayLike) -> McNemar:
    """Compare two models on the same examples (McNemar 1947), exactly.

    Args:
        first: ``(examples,)``, whether the first model is right.
        second: the same of the second.

    Returns:
        How many examples only the first has right, how many only the second, and the two-sided p of the binomial test.

    >>> mcnemar([1, 1, 1, 1, 0], [0, 0, 0, 1, 1])
    McNemar(only_first=3, only_second=1, p=0.625)
    """
    from scipy import stats

    first_right = np.asarray(first, bool)
    second_right = np.asarray(second, bool)
    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    # Examples on which both are right or both wrong say nothing of which is better.
    differing = only_first + only_second
    p = 1.0
    if differing:
        p = float(stats.binomtest(only_first, differing).pvalue)
    return McNemar(only_first, only_second, p)


def confusion_metric(name: str, counts: np.ndarray) -> np.ndarray:
    """Compute a metric of confusion matrices.

    Args:
        name: ``accuracy``, ``f1`` (of class 1), ``accuracy_f1`` (the mean of both), ``macro_f1`` or ``mcc``.
        counts: ``(…, labels, predictions)``.

    Returns:
        ``(…,)``; a quotient of zeros is 0.

    >>> float(confusion_metric("f1", np.array([[3, 1], [1, 1]])))
    0.5
    """
    counts = np.asarray(counts, float)
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    total = counts.sum((-2, -1))
    labels = counts.sum(-1)  # examples of each class
    predictions = counts.sum(-2)  # examples predicted as each class
    if name == "accuracy":
        return _quotient(right.sum(-1), total)
    if name == "accuracy_f1":
        return (confusion_metric("accuracy", counts) + confusion_metric("f1", counts)) / 2
    if name in ("f1", "macro_f1"):
        f1 = _quotient(2 * right, labels + predictions)
        if name == "f1":
            return f1[..., 1]
        present = labels + predictions > 0  # a class that is neither there nor predicted has no F1
        return _quotient((f1 * present).sum(-1), present.sum(-1))
    # Matthews' coefficient of several classes (Gorodkin 2004)
    covariance = right.sum(-1) * total - (labels * predictions).sum(-1)
    of_labels = total**2 - (labels**2).sum(-1)
    of_predictions = total**2 - (predictions**2).sum(-1)
    return _quotient(covariance, np.sqrt(of_predictions * of_labels))


CONFUSION_METRICS = ("accuracy", "f1", "accuracy_f1", "macro_f1", "mcc")


def example_bootstrap(
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    metric: str | Callable[[np.ndarray, np.ndarray], np.ndarray],
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the difference of a metric between two models on the same examples, with its percentile interval.

    Args:
        labels: ``(examples,)``, numbers.
        first: ``(examples,)``, the first model's predictions.
        second: the second's.
        metric: one of :data:`CONFUSION_METRICS`, or a function of labels and predictions ``(…, examples)``. For the
            names only the counts of (label, first, second) are drawn, which is the same distribution.
        confidence: of the interval.
        resamples: how many times the examples are drawn.
        seed: of the drawing.

    >>> example_bootstrap([0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0], "accuracy")
    Interval(difference=0.0, low=0.0, high=0.0)
    """
    sides = np.array([labels, first, second])
    of_first, of_second = _draw(sides, metric, resamples, seed)
    return _percentiles(of_first - of_second, confidence)


def example_interval(
    labels: ArrayLike,
    predictions: ArrayLike,
    metric: str | Callable[[np.ndarray, np.ndarray], np.ndarray],
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return a metric of one model with its percentile interval; the arguments are those of :func:`example_bootstrap`.

    >>> value, low, high = example_interval([0, 1] * 50, [0, 1] * 45 + [1, 0] * 5, "accuracy")
    >>> value, low < value < high
    (0.9, True)
    """
    (of_model,) = _draw(np.array([labels, predictions]), metric, resamples, seed)
    return _percentiles(of_model, confidence)


def _percentiles(values: np.ndarray, confidence: float) -> Interval:
    """Return the first of some values with the percentile interval of the others, which are resampled."""
    tail = 50 * (1 - confidence)
    low, high = np.percentile(values[1:], [tail, 100 - tail])
    return Interval(float(values[0]), float(low), float(high))


def _draw(
    sides: np.ndarray, metric: str | Callable[[np.ndarray, np.ndarray], np.ndarray], resamples: int, seed: int
) -> list[np.ndarray]:
    """Return each model's metric on all examples and then on each resample of them, ``(1 + resamples,)`` each.

    Args:
        sides: ``(1 + models, examples)``, labels first.
        metric: as in :func:`example_bootstrap`.
        resamples: how many times the examples are drawn.
        seed: of the drawing.
    """
    rng = np.random.default_rng(seed)
    if callable(metric):
        return _draw_examples(sides, metric, resamples, rng)
    return _draw_counts(sides, metric, resamples, rng)


def _draw_examples(
    sides: np.ndarray,
    metric: Callable[[np.ndarray, np.ndarray], np.ndarray],
    resamples: int,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """Do as :func:`_draw` does, example by example."""
    labels, *models = sides
    n = len(labels)
    values = [[np.array([metric(labels, model)])] for model in models]
    together = max(1, min(CHUNK, MOST_DRAWN // n))
    for _ in range(0, resamples, together):
        rows = rng.integers(n, size=(together, n))
        drawn = labels[rows]  # the same examples for all models, since the models are paired by them
        for parts, model in zip(values, models, strict=True):
            parts.append(metric(drawn, model[rows]))
    return [np.concatenate(parts)[: 1 + resamples] for parts in values]


def _draw_counts(sides: np.ndarray, metric: str, resamples: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Do as :func:`_draw` does, by the counts of the combinations (label, first, second) that occur.

    How often each combination is among n examples drawn with replacement is multinomial, and the metrics depend on
    nothing else, so that no example need be drawn by itself.
    """
    from scipy.sparse import csr_matrix

    if metric == "accuracy" and len(np.unique(sides)) > MANY_CLASSES:  # only right and wrong count
        labels, *models = sides
        wrong = [model != labels for model in models]
        sides = np.array([np.zeros_like(labels), *wrong], dtype=int)
    rows, n = sides.shape
    with_both_classes = np.append(sides.ravel(), [0, 1])  # f1 is of class 1, there or not
    classes, coded = np.unique(with_both_classes, return_inverse=True)
    k = len(classes)
    coded_sides = coded[: rows * n].reshape(rows, n)
    cells, counts = np.unique(coded_sides, axis=1, return_counts=True)
    # Where each combination counts in the confusion matrix of each model: one row each, with a single 1.
    numbers = np.arange(len(counts))
    places = []
    for model in range(1, rows):
        entries = cells[0] * k + cells[model]
        places.append(csr_matrix((np.ones(len(counts)), (numbers, entries)), shape=(len(counts), k * k)))
    values: list[list[np.ndarray]] = [[] for _ in places]
    together = max(1, MOST_DRAWN // max(len(counts), k * k))
    draws = counts[None]  # first the examples as they are
    left = resamples
    while True:
        for parts, place in zip(values, places, strict=True):
            matrices = (draws @ place).reshape(-1, k, k)
            parts.append(confusion_metric(metric, matrices))
        if not left:
            return [np.concatenate(parts) for parts in values]
        draws = rng.multinomial(n, counts / n, size=min(left, together))
        left -= len(draws)


def metric_difference(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    metric: str,
    positive: int | None,
    resamples: int = RESAMPLES,
) -> Interval | None:
    """Return the difference of a task's metric between two models; ``None`` if predictions do not suffice for it.

    Args:
        labels: ``(examples,)``, indices of classes, or real values; ``(examples, labels)``, 0 or 1, if several labels
            may hold for an example.
        first: of the same shape, the first model's predictions.
        second: the second's.
        metric: the task's name of it.
        positive: the class that ``f1`` is about, if it is known.
        resamples: how many times the examples are drawn.
    """
    if labels.ndim == 2:
        if metric not in SET_METRICS:
            return None
        of_first, of_second = _draw_sets(labels, [first, second], SET_METRICS[metric], resamples)
        return _percentiles(of_first - of_second, CONFIDENCE)
    sides = _prepared(metric, positive, labels, first, second)
    if sides is None:
        return None
    labels, first, second = sides.columns
    return example_bootstrap(labels, first, second, sides.metric, resamples=resamples)


def metric_interval(
    labels: np.ndarray, predictions: np.ndarray, metric: str, positive: int | None, resamples: int = RESAMPLES
) -> Interval | None:
    """Return a task's metric of one model with its interval; see :func:`metric_difference`."""
    if labels.ndim == 2:
        if metric not in SET_METRICS:
            return None
        (of_model,) = _draw_sets(labels, [predictions], SET_METRICS[metric], resamples)
        return _percentiles(of_model, CONFIDENCE)
    sides = _prepared(metric, positive, labels, predictions)
    if sides is None:
        return None
    labels, predictions = sides.columns
    return example_interval(labels, predictions, sides.metric, resamples=resamples)


# ---- several labels for an example


class SetMetric(NamedTuple):
    """A metric of labels that may hold together, which depends on sums over the examples alone.

    ``counts`` takes labels and predictions, ``(examples, labels)``, and returns ``(examples, numbers)``; ``value``
    takes their sums, ``(…, numbers)``, and returns ``(…,)``.
    """

    counts: Callable[[np.ndarray, np.ndarray], np.ndarray]
    value: Callable[[np.ndarray], np.ndarray]


def _f1_counts(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Return for each label whether it is found, and how often it holds or is predicted."""
    return np.concatenate([labels * predictions, labels + predictions], axis=1)


def _all_right(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    is_right = (labels == predictions).all(axis=1)
    return np.stack([is_right, np.ones_like(is_right)], axis=1)


def _micro_f1(sums: np.ndarray) -> np.ndarray:
    found, holding = np.split(sums, 2, axis=-1)
    return _quotient(2 * found.sum(-1), holding.sum(-1))


def _macro_f1(sums: np.ndarray) -> np.ndarray:
    found, holding = np.split(sums, 2, axis=-1)
    is_present = holding > 0  # a label that neither holds nor is predicted has no F1
    return _quotient(_quotient(2 * found, holding).sum(-1), is_present.sum(-1))


def _share(sums: np.ndarray) -> np.ndarray:
    return _quotient(sums[..., 0], sums[..., 1])


SET_METRICS = {
    "micro_f1": SetMetric(_f1_counts, _micro_f1),
    "macro_f1": SetMetric(_f1_counts, _macro_f1),
    "subset_accuracy": SetMetric(_all_right, _share),
}


def _draw_sets(
    labels: np.ndarray, models: Sequence[np.ndarray], metric: SetMetric, resamples: int, seed: int = 0
) -> list[np.ndarray]:
    """Return each model's metric on all examples and then on each resample of them, as :func:`_draw` does.

    Only the counts of examples that are alike are drawn, which is the same distribution.
    """
    rng = np.random.default_rng(seed)
    columns = [metric.counts(labels.astype(int), model.astype(int)) for model in models]
    kinds, repeats = np.unique(np.concatenate(columns, axis=1), axis=0, return_counts=True)
    of_models = np.split(kinds.astype(float), len(models), axis=1)
    n = len(labels)
    values: list[list[np.ndarray]] = [[] for _ in models]
    together = max(1, MOST_DRAWN // len(repeats))
    draws = repeats[None]  # first the examples as they are
    left = resamples
    while True:
        for parts, counts in zip(values, of_models, strict=True):
            parts.append(metric.value(draws @ counts))
        if not left:
            return [np.concatenate(parts) for parts in values]
        draws = rng.multinomial(n, repeats / n, size=min(left, together))
        left -= len(draws)


class _Prepared(NamedTuple):
    """Labels and predictions as :func:`_draw` takes them, and its metric."""

    columns: list[np.ndarray]
    metric: str | Callable[[np.ndarray, np.ndarray], np.ndarray]


def _prepared(metric: str, positive: int | None, *columns: np.ndarray) -> _Prepared | None:
    """Return labels and predictions for a metric, ``None`` if they do not suffice to compute it."""
    of_classes = all(are_whole(column) for column in columns)
    sides = list(columns)
    if metric in ("f1", "accuracy_f1") and positive is not None:  # confusion_metric takes class 1 for the positive one
        if metric == "accuracy_f1" and len(np.unique(sides)) > 2:
            return None
        sides = [np.asarray(column == positive, int) for column in sides]
    if metric == "macro_f1":
        labels, *predictions = columns
        # Predictions do not say whether a class that the examples lack counts in the mean.
        if not set(np.concatenate(predictions)) <= set(labels):
            return None
    if of_classes and metric in CONFUSION_METRICS:
        return _Prepared(sides, metric)
    if metric in REAL_METRICS:
        return _Prepared(sides, REAL_METRICS[metric])
    return None


def are_whole(column: np.ndarray) -> bool:
    """Tell whether a column holds whole numbers: indices of classes rather than real values."""
    return bool((column == np.round(column)).all())


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Correlate along the last axis; 0 if one side is constant, as the task's metric."""
    x = x - x.mean(-1, keepdims=True)
    y = y - y.mean(-1, keepdims=True)
    squares = (x**2).sum(-1) * (y**2).sum(-1)
    # A resample may draw one example only, so that a side is constant though the whole is not.
    divisor = np.where(squares == 0, 1.0, squares) ** 0.5
    return (x * y).sum(-1) / divisor


def _spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return _pearson(rankdata(x, axis=-1), rankdata(y, axis=-1))


def _negative_rmse(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return -(((x - y) ** 2).mean(-1) ** 0.5)


def _pearson_spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (_pearson(x, y) + _spearman(x, y)) / 2


REAL_METRICS = {
    "pearson": _pearson,
    "spearman": _spearman,
    "pearson_spearman": _pearson_spearman,
    "negative_rmse": _negative_rmse,
}


def _quotient(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    zeros = np.zeros(np.broadcast(numerator, denominator).shape)
    return np.divide(numerator, denominator, out=zeros, where=denominator > 0)
