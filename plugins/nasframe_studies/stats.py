"""Paired statistics over seeds, as pure functions of arrays; ``docs/statistics.md`` says what each number means.

The unit of pairing is the seed: two arms of one seed share data order, initial weights and noise, so the difference
within a seed is what differs between them. Where a number cannot be had from the seeds there are, it is ``None``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE, ALPHA, POWER, RESAMPLES = 0.95, 0.05, 0.8, 10_000
MOST_SEEDS = 100_000
DIGITS = 12  # differences are ties, or zero, where they agree to so many decimals: scores are sums of roundings


@dataclass(frozen=True)
class Summary:
    """One arm's scores over its seeds: ``sd`` from two seeds on, the interval of the mean from three."""

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    interval: str | None  # "BCa", or "percentile" where BCa does not exist


@dataclass(frozen=True)
class Paired:
    """The differences between two arms within seeds, ``arm - reference``, and what can be said of their mean."""

    n: int
    mean: float
    sd: float | None
    t_low: float | None
    t_high: float | None
    low: float | None  # bootstrap
    high: float | None
    t: float | None
    p_t: float | None
    wilcoxon: float | None  # sum of the ranks of the positive differences
    p_wilcoxon: float | None
    smallest_p: float | None  # what the Wilcoxon test could reach at best with so many differences other than zero
    zeros: int
    ties: bool
    d_z: float | None
    g_z: float | None
    seeds_needed: int | None  # in all; None where no number of seeds would do or it cannot be known


def bootstrap(values: ArrayLike, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0) -> tuple:
    """Return the bootstrap interval of the mean: BCa (Efron 1987), percentile where BCa does not exist.

    Args:
        values: ``(n,)``, one a seed.
        confidence: of the interval.
        resamples: how many.
        seed: of the resampling: the same values give the same interval, in whatever order they come.

    Returns:
        ``(low, high, method)``; all ``None`` below three values and where all are equal, since resampling can then
        show no spread.

    >>> bootstrap([1.0, 1.0, 1.0]), bootstrap([1.0, 2.0])
    ((None, None, None), (None, None, None))
    """
    from scipy import stats

    sample = np.sort(np.asarray(values, float))
    if len(sample) < 3 or _constant(sample):
        return None, None, None
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = stats.bootstrap(
                (sample,), np.mean, vectorized=True, n_resamples=resamples, confidence_level=confidence,
                method=method, rng=np.random.default_rng(seed),
            ).confidence_interval  # fmt: skip
        if math.isfinite(found.low) and math.isfinite(found.high):
            return float(found.low), float(found.high), method
    return None, None, None


def summary(values: ArrayLike, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0) -> Summary:
    """Describe one arm's scores over seeds.

    >>> summary([0.5, 0.7]).mean, summary([0.5]).sd
    (0.6, None)
    """
    sample = np.asarray(values, float)
    if not len(sample):
        raise ValueError("no values to describe")
    sd = float(sample.std(ddof=1)) if len(sample) > 1 else None
    return Summary(len(sample), float(sample.mean()), sd, *bootstrap(sample, confidence, resamples, seed))


def t_interval(values: ArrayLike, confidence: float = CONFIDENCE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, low and high of Student's interval over the first axis; low and high are NaN below two rows."""
    from scipy import stats

    sample = np.asarray(values, float)
    n, mean = len(sample), sample.mean(0)
    if n < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    half = stats.t.ppf((1 + confidence) / 2, n - 1) * sample.std(0, ddof=1) / math.sqrt(n)
    return mean, mean - half, mean + half


def paired(
    arm: ArrayLike, reference: ArrayLike, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> Paired:
    """Compare two arms seed by seed.

    Args:
        arm: ``(n,)``, one score a seed.
        reference: ``(n,)``, the reference's scores at the same seeds.
        confidence: of the intervals.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    >>> found = paired([0.62, 0.65, 0.61, 0.64], [0.60, 0.61, 0.60, 0.61])
    >>> round(found.mean, 6), round(found.p_t, 4), found.p_wilcoxon, found.smallest_p
    (0.025, 0.0305, 0.125, 0.125)
    """
    from scipy import stats

    d = np.asarray(arm, float) - np.asarray(reference, float)
    if d.ndim != 1 or not len(d):
        raise ValueError("expected one score a seed on both sides, and at least one seed")
    n, mean, sd = len(d), float(d.mean()), float(d.std(ddof=1)) if len(d) > 1 else None
    rank_sum, p_rank, smallest, zeros, ties = wilcoxon(d)
    t = p_t = t_low = t_high = d_z = g_z = None
    if sd and not _constant(d):
        t = mean / (sd / math.sqrt(n))
        p_t = float(2 * stats.t.sf(abs(t), n - 1))
        t_low, t_high = (float(bound) for bound in t_interval(d, confidence)[1:])
        d_z, g_z = mean / sd, hedges(mean / sd, n)
    low, high, _ = bootstrap(d, confidence, resamples, seed)
    needed = None if d_z is None else seeds_needed(d_z)
    return Paired(
        n, mean, sd, t_low, t_high, low, high, t, p_t, rank_sum, p_rank, smallest, zeros, ties, d_z, g_z, needed
    )


def wilcoxon(differences: ArrayLike) -> tuple[float, float, float, int, bool]:
    """Test signed ranks exactly, two-sided (Wilcoxon 1945).

    Zeros are left out before ranking, as Wilcoxon did; equal sizes share the mean of their ranks. The p-value is
    exact in both cases: it counts all ``2 ** m`` ways to give signs to the ``m`` ranks there are.

    Args:
        differences: ``(n,)``.

    Returns:
        The sum of the positive ranks, p, the smallest p that ``m`` ranks could give (``2 / 2 ** m``), how many zeros
        were left out, whether ranks were shared.

    >>> wilcoxon([0.02, 0.04, 0.01, 0.03, 0.05])
    (15.0, 0.0625, 0.0625, 0, False)
    """
    from scipy import stats

    rounded = np.round(np.asarray(differences, float), DIGITS)
    kept = rounded[rounded != 0]
    doubled = (2 * stats.rankdata(np.abs(kept))).astype(int)  # whole numbers, shared ranks too
    chances = np.ones(1)  # chances[s]: that the positive ranks add up to s / 2
    for rank in doubled:
        chances = (np.pad(chances, (0, rank)) + np.pad(chances, (rank, 0))) / 2
    total = int(doubled[kept > 0].sum())
    p = min(1.0, 2 * float(min(chances[: total + 1].sum(), chances[total:].sum())))
    ties = len(np.unique(doubled)) < len(doubled)
    return total / 2, p, min(1.0, 2.0 ** (1 - len(kept))), len(rounded) - len(kept), ties


def hedges(d: float, n: int) -> float | None:
    """Correct an effect size from ``n`` differences for its bias, exactly (Hedges 1981); ``None`` below three.

    >>> round(hedges(1.0, 10), 6)
    0.913875
    """
    from scipy.special import gammaln

    df = n - 1
    return None if df < 2 else float(d * np.exp(gammaln(df / 2) - gammaln((df - 1) / 2)) / math.sqrt(df / 2))


def t_power(d: float, n: int, alpha: float = ALPHA) -> float:
    """Return the power of the two-sided paired t test, from the noncentral t distribution.

    >>> round(t_power(0.5, 34), 4)
    0.8078
    """
    from scipy import stats

    critical, shift = stats.t.isf(alpha / 2, n - 1), abs(d) * math.sqrt(n)
    far = stats.nct.cdf(-critical, n - 1, shift)  # scipy: NaN for some shifts at which it is below 1e-8
    return float(stats.nct.sf(critical, n - 1, shift) + (0.0 if math.isnan(far) else far))


def seeds_needed(d: float, power: float = POWER, alpha: float = ALPHA) -> int | None:
    """Return the least number of seeds at which the paired t test finds an effect of ``d`` with the given power.

    Args:
        d: the effect, mean over standard deviation of the differences.
        power: the chance to find it.
        alpha: the two-sided level.

    Returns:
        Two or more; ``None`` where :data:`MOST_SEEDS` would not do.

    >>> seeds_needed(0.5), seeds_needed(2.0), seeds_needed(0.0)
    (34, 5, None)
    """
    low, high = 1, 2
    while not t_power(d, high, alpha) >= power:
        low, high = high, 2 * high
        if low > MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if t_power(d, middle, alpha) >= power else (middle, high)
    return high


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values for being several (Holm 1979); tests that could not be made (``None``) do not count.

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    made = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    worst = 0.0
    for step, (p, i) in enumerate(made):
        worst = max(worst, min(1.0, (len(made) - step) * p))
        adjusted[i] = worst
    return adjusted


def mean_ranks(scores: ArrayLike) -> np.ndarray:
    """Return each arm's mean rank, 1 the best; equal scores share the mean of their ranks.

    Args:
        scores: ``(seeds, arms)``, complete.

    >>> mean_ranks([[0.7, 0.6, 0.6], [0.5, 0.9, 0.4]]).tolist()
    [1.5, 1.75, 2.75]
    """
    from scipy import stats

    return stats.rankdata(-np.round(np.asarray(scores, float), DIGITS), axis=1).mean(0)


def mcnemar(first: ArrayLike, second: ArrayLike) -> tuple[int, int, float]:
    """Compare two models on the same examples (McNemar 1947), exactly.

    Args:
        first: ``(examples,)``, whether the first model is right.
        second: the same of the second.

    Returns:
        How many only the first has right, how many only the second, the two-sided p of the binomial test.

    >>> mcnemar([1, 1, 1, 1, 0], [0, 0, 0, 1, 1])
    (3, 1, 0.625)
    """
    from scipy import stats

    a, b = np.asarray(first, bool), np.asarray(second, bool)
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    both = only_first + only_second
    return only_first, only_second, float(stats.binomtest(only_first, both).pvalue) if both else 1.0


def confusion_metric(name: str, counts: np.ndarray) -> np.ndarray:
    """Compute a metric of confusion matrices.

    Args:
        name: ``accuracy``, ``f1`` (of class 1), ``macro_f1`` or ``mcc``.
        counts: ``(…, labels, predictions)``.

    Returns:
        ``(…,)``; a quotient of zeros is 0.

    >>> float(confusion_metric("f1", np.array([[3, 1], [1, 1]])))
    0.5
    """
    counts = np.asarray(counts, float)
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    total, true, said = counts.sum((-2, -1)), counts.sum(-1), counts.sum(-2)
    if name == "accuracy":
        return _over(right.sum(-1), total)
    if name in ("f1", "macro_f1"):
        f1 = _over(2 * right, true + said)
        present = true + said > 0  # a class that is neither there nor predicted has no F1
        return f1[..., 1] if name == "f1" else _over((f1 * present).sum(-1), present.sum(-1))
    above = right.sum(-1) * total - (true * said).sum(-1)
    return _over(above, np.sqrt((total**2 - (said**2).sum(-1)) * (total**2 - (true**2).sum(-1))))


CONFUSION_METRICS = ("accuracy", "f1", "macro_f1", "mcc")


def example_bootstrap(
    labels: ArrayLike, first: ArrayLike, second: ArrayLike,
    metric: str | Callable[[np.ndarray, np.ndarray], np.ndarray],
    confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0,
) -> tuple[float, float, float]:  # fmt: skip
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
    (0.0, 0.0, 0.0)
    """
    y, a, b = (np.asarray(column) for column in (labels, first, second))
    rng, n = np.random.default_rng(seed), len(y)
    if callable(metric):
        whole = float(metric(y, a) - metric(y, b))
        found = []
        for _ in range(0, resamples, 500):  # a chunk of rows at a time, for the memory
            rows = rng.integers(n, size=(500, n))
            found.append(metric(y[rows], a[rows]) - metric(y[rows], b[rows]))
        drawn = np.concatenate(found)[:resamples]
    else:
        classes, coded = np.unique(np.concatenate([y, a, b, [0, 1]]), return_inverse=True)
        k = len(classes)
        cells, counts = np.unique(coded[: 3 * n].reshape(3, n), axis=1, return_counts=True)
        draws = np.concatenate([counts[None], rng.multinomial(n, counts / n, size=resamples)])
        totals = []
        for model in (1, 2):
            tables = draws @ np.eye(k * k)[cells[0] * k + cells[model]]
            totals.append(confusion_metric(metric, tables.reshape(-1, k, k)))
        difference = totals[0] - totals[1]
        whole, drawn = float(difference[0]), difference[1:]
    tail = 50 * (1 - confidence)
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return whole, float(low), float(high)


def step_curves(curves: Sequence[tuple[ArrayLike, ArrayLike]], grid: ArrayLike) -> np.ndarray:
    """Read best-so-far curves on a common grid.

    Args:
        curves: ``(x, y)`` each, x ascending: the score found at x. Scores are accumulated to the best so far.
        grid: ``(points,)``.

    Returns:
        ``(curves, points)``; NaN before a curve's first point and after its last.

    >>> step_curves([([1, 3], [0.5, 0.4])], [0, 1, 2, 3, 4]).tolist()
    [[nan, 0.5, 0.5, 0.5, nan]]
    """
    points = np.asarray(grid, float)
    rows = []
    for x, y in curves:
        places, best = np.asarray(x, float), np.maximum.accumulate(np.asarray(y, float))
        at = np.searchsorted(places, points, side="right") - 1
        inside = (at >= 0) & (points <= places[-1])
        rows.append(np.where(inside, best[np.maximum(at, 0)], np.nan))
    return np.array(rows)


def _constant(values: np.ndarray) -> bool:
    return bool(np.ptp(np.round(values, DIGITS)) == 0)


def _over(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below > 0)
