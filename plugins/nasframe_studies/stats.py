"""Paired statistics over seeds, as pure functions of arrays; ``docs/statistics.md`` says what each number means.

The unit of pairing is the seed: two arms of one seed share data order, initial weights and noise, so the difference
within a seed is due to the arms. A number that the seeds at hand cannot give is ``None``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from nasframe.report.example_stats import (
    CONFIDENCE,
    CONFUSION_METRICS,
    RESAMPLES,
    Interval,
    McNemar,
    confusion_metric,
    example_bootstrap,
    mcnemar,
)

__all__ = [
    "ALPHA", "CONFIDENCE", "CONFUSION_METRICS", "POWER", "RESAMPLES", "Bootstrap", "Interval", "McNemar", "Paired",
    "SignedRanks", "Summary", "bootstrap", "confusion_metric", "example_bootstrap", "holm", "mcnemar", "mean_ranks",
    "paired", "seeds_needed", "step_curves", "summary", "t_interval", "t_power", "wilcoxon",
]  # fmt: skip

ALPHA = 0.05
POWER = 0.8
MOST_SEEDS = 100_000
"""The most seeds that a plan may ask for."""
DIGITS = 12
"""Differences that agree to as many decimals count as equal: scores are sums of rounded numbers."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One arm's scores over its seeds.

    Args:
        n: how many seeds.
        mean: of the scores.
        sd: standard deviation of the seeds, from two seeds on.
        low: lower end of the mean's bootstrap interval, from three seeds on.
        high: its upper end.
        interval: ``BCa``, or ``percentile`` if BCa does not exist.
    """

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    interval: str | None


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The differences between two arms within seeds, ``arm - reference``, and the tests of their mean.

    Args:
        n: how many seeds both arms have.
        mean: of the differences.
        sd: standard deviation of the differences, from two seeds on.
        t_low: lower end of Student's interval of the mean.
        t_high: its upper end.
        low: lower end of the bootstrap interval of the mean, from three seeds on.
        high: its upper end.
        t: statistic of the paired t test.
        p_t: its two-sided p-value.
        wilcoxon: sum of the ranks of the positive differences.
        p_wilcoxon: exact two-sided p-value of Wilcoxon's test.
        smallest_p: the smallest p-value that Wilcoxon's test can give with as many differences other than zero.
        zeros: how many differences are zero.
        ties: whether differences of equal size share their ranks.
        d_z: effect size, mean over standard deviation of the differences.
        seeds_needed: how many seeds in all the t test needs to find an effect of this size.
    """

    n: int
    mean: float
    sd: float | None = None
    t_low: float | None = None
    t_high: float | None = None
    low: float | None = None
    high: float | None = None
    t: float | None = None
    p_t: float | None = None
    wilcoxon: float | None = None
    p_wilcoxon: float | None = None
    smallest_p: float | None = None
    zeros: int = 0
    ties: bool = False
    d_z: float | None = None
    seeds_needed: int | None = None


class Bootstrap(NamedTuple):
    """A bootstrap interval, and the method that gave it."""

    low: float | None
    high: float | None
    method: str | None


class SignedRanks(NamedTuple):
    """Wilcoxon's test of signed ranks; see :func:`wilcoxon`."""

    rank_sum: float
    p: float
    smallest_p: float
    zeros: int
    ties: bool


def bootstrap(
    values: ArrayLike, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> Bootstrap:
    """Return the bootstrap interval of the mean: BCa (Efron 1987), or percentile if BCa does not exist.

    Args:
        values: ``(n,)``, one a seed.
        confidence: of the interval.
        resamples: how many.
        seed: of the resampling: the same values give the same interval, in whatever order they come.

    Returns:
        Low, high and method. All are ``None`` with fewer than three values or if all are equal, since resampling then
        shows no spread.

    >>> bootstrap([1.0, 2.0])
    Bootstrap(low=None, high=None, method=None)
    """
    from scipy import stats

    sample = np.sort(np.asarray(values, float))  # sorted, so that the resamples do not depend on the order
    if len(sample) < 3 or _constant(sample):
        return Bootstrap(None, None, None)
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # BCa warns where it does not exist, which is checked below
            result = stats.bootstrap(
                (sample,),
                np.mean,
                vectorized=True,
                n_resamples=resamples,
                confidence_level=confidence,
                method=method,
                rng=np.random.default_rng(seed),
            )
        low, high = result.confidence_interval
        if math.isfinite(low) and math.isfinite(high):
            return Bootstrap(float(low), float(high), method)
    return Bootstrap(None, None, None)


def summary(values: ArrayLike, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0) -> Summary:
    """Describe one arm's scores over seeds.

    Args:
        values: ``(n,)``, one score a seed.
        confidence: of the interval.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: there are no values.

    >>> summary([0.5, 0.7]).mean, summary([0.5]).sd
    (0.6, None)
    """
    sample = np.asarray(values, float)
    if not len(sample):
        raise ValueError("no values to describe")
    sd = float(sample.std(ddof=1)) if len(sample) > 1 else None
    low, high, method = bootstrap(sample, confidence, resamples, seed)
    return Summary(n=len(sample), mean=float(sample.mean()), sd=sd, low=low, high=high, interval=method)


def t_interval(values: ArrayLike, confidence: float = CONFIDENCE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, low and high of Student's interval over the first axis; low and high are NaN below two rows."""
    from scipy import stats

    sample = np.asarray(values, float)
    n = len(sample)
    mean = sample.mean(0)
    if n < 2:
        unknown = np.full_like(mean, np.nan)
        return mean, unknown, unknown
    critical = stats.t.ppf((1 + confidence) / 2, n - 1)
    half = critical * sample.std(0, ddof=1) / math.sqrt(n)
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

    Raises:
        ValueError: the sides are not one score a seed, or there is no seed.

    >>> pair = paired([0.62, 0.65, 0.61, 0.64], [0.60, 0.61, 0.60, 0.61])
    >>> round(pair.mean, 6), round(pair.p_t, 4), pair.p_wilcoxon, pair.smallest_p
    (0.025, 0.0305, 0.125, 0.125)
    """
    from scipy import stats

    arm_scores = np.asarray(arm, float)
    differences = arm_scores - np.asarray(reference, float)
    if differences.ndim != 1 or not len(differences):
        raise ValueError("expected one score a seed on both sides, and at least one seed")
    n = len(differences)
    mean = float(differences.mean())
    sd = float(differences.std(ddof=1)) if n > 1 else None
    t = p_t = t_low = t_high = d_z = needed = None
    # Equal differences have a deviation of rounding errors only, against which any mean would be significant.
    if sd and not _constant(differences):
        standard_error = sd / math.sqrt(n)
        t = mean / standard_error
        p_t = float(2 * stats.t.sf(abs(t), n - 1))
        _, low, high = t_interval(differences, confidence)
        t_low = float(low)
        t_high = float(high)
        d_z = mean / sd  # Cohen's d of paired samples
        needed = seeds_needed(d_z)
    resampled = bootstrap(differences, confidence, resamples, seed)
    ranks = wilcoxon(differences)
    return Paired(
        n=n,
        mean=mean,
        sd=sd,
        t_low=t_low,
        t_high=t_high,
        low=resampled.low,
        high=resampled.high,
        t=t,
        p_t=p_t,
        wilcoxon=ranks.rank_sum,
        p_wilcoxon=ranks.p,
        smallest_p=ranks.smallest_p,
        zeros=ranks.zeros,
        ties=ranks.ties,
        d_z=d_z,
        seeds_needed=needed,
    )


def wilcoxon(differences: ArrayLike) -> SignedRanks:
    """Test signed ranks exactly, two-sided (Wilcoxon 1945).

    Zeros are left out before ranking, as Wilcoxon did; equal sizes share the mean of their ranks. The p-value is
    exact in both cases: it counts all ``2 ** m`` ways to give signs to the ``m`` ranks that are left.

    Args:
        differences: ``(n,)``.

    Returns:
        The sum of the positive ranks, p, the smallest p that ``m`` ranks can give (``2 / 2 ** m``), how many zeros
        were left out, and whether ranks were shared.

    >>> wilcoxon([0.02, 0.04, 0.01, 0.03, 0.05])
    SignedRanks(rank_sum=15.0, p=0.0625, smallest_p=0.0625, zeros=0, ties=False)
    """
    from scipy import stats

    # Rounded, because differences that are equal on paper differ in their last bits, and would share no ranks.
    rounded = np.round(np.asarray(differences, float), DIGITS)
    kept = rounded[rounded != 0]
    doubled = (2 * stats.rankdata(np.abs(kept))).astype(int)  # whole numbers, shared ranks too
    # chances[s] is the chance that the positive ranks add up to s / 2: each rank is added or not, with equal chances
    chances = np.ones(1)
    for rank in doubled:
        without = np.pad(chances, (0, rank))
        with_rank = np.pad(chances, (rank, 0))
        chances = (without + with_rank) / 2
    total = int(doubled[kept > 0].sum())
    at_most = chances[: total + 1].sum()
    at_least = chances[total:].sum()
    p = min(1.0, 2 * float(min(at_most, at_least)))
    return SignedRanks(
        rank_sum=total / 2,
        p=p,
        smallest_p=min(1.0, 2.0 ** (1 - len(kept))),
        zeros=len(rounded) - len(kept),
        ties=len(np.unique(doubled)) < len(doubled),
    )


def t_power(d: float, n: int, alpha: float = ALPHA) -> float:
    """Return the power of the two-sided paired t test, from the noncentral t distribution.

    Args:
        d: the effect, mean over standard deviation of the differences.
        n: how many seeds.
        alpha: the two-sided level.

    >>> round(t_power(0.5, 34), 4)
    0.8078
    """
    from scipy import stats

    critical = stats.t.isf(alpha / 2, n - 1)
    shift = abs(d) * math.sqrt(n)  # the noncentrality
    # The test rejects on both sides; on the side away from the effect it almost never does.
    near = stats.nct.sf(critical, n - 1, shift)
    far = stats.nct.cdf(-critical, n - 1, shift)
    if math.isnan(far):  # scipy, for some shifts at which it is below 1e-8
        far = 0.0
    return float(near + far)


def seeds_needed(d: float, power: float = POWER, alpha: float = ALPHA) -> int | None:
    """Return the smallest number of seeds at which the paired t test finds an effect of ``d`` with the given power.

    Args:
        d: the effect, mean over standard deviation of the differences.
        power: the chance to find it.
        alpha: the two-sided level.

    Returns:
        Two or more; ``None`` if :data:`MOST_SEEDS` are not enough.

    >>> seeds_needed(0.5), seeds_needed(2.0), seeds_needed(0.0)
    (34, 5, None)
    """
    # Double until the power suffices, then halve the gap between too few and enough.
    too_few = 1
    enough = 2
    while not t_power(d, enough, alpha) >= power:  # "not ... >=" goes on at NaN, too
        too_few = enough
        enough = 2 * enough
        if too_few > MOST_SEEDS:
            return None
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if t_power(d, middle, alpha) >= power:
            enough = middle
        else:
            too_few = middle
    return enough


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values for their number (Holm 1979); tests that could not be made (``None``) do not count.

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    tests = [(p, place) for place, p in enumerate(p_values) if p is not None]
    ordered = sorted(tests)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for step, (p, place) in enumerate(ordered):
        remaining = len(ordered) - step  # Bonferroni's factor for those that no smaller p has settled
        largest = max(largest, min(1.0, remaining * p))  # never below that of a smaller p
        adjusted[place] = largest
    return adjusted


def mean_ranks(scores: ArrayLike) -> np.ndarray:
    """Return each arm's mean rank, 1 the best; equal scores share the mean of their ranks.

    Args:
        scores: ``(seeds, arms)``, complete.

    >>> mean_ranks([[0.7, 0.6, 0.6], [0.5, 0.9, 0.4]]).tolist()
    [1.5, 1.75, 2.75]
    """
    from scipy import stats

    rounded = np.round(np.asarray(scores, float), DIGITS)
    return stats.rankdata(-rounded, axis=1).mean(0)


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
        places = np.asarray(x, float)
        best = np.maximum.accumulate(np.asarray(y, float))
        last = np.searchsorted(places, points, side="right") - 1  # the last place at or before each point
        inside = (last >= 0) & (points <= places[-1])
        scores = best[np.maximum(last, 0)]  # those outside are any score, and replaced in the next line
        rows.append(np.where(inside, scores, np.nan))
    return np.array(rows)


def _constant(values: np.ndarray) -> bool:
    return bool(np.ptp(np.round(values, DIGITS)) == 0)
