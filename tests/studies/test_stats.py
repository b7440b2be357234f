"""Statistics: equal to scipy and to values worked out by hand, and the properties that make them trustworthy."""

from __future__ import annotations

import math
from dataclasses import asdict
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from nasframe_studies import stats

# Scores of 3 arms at 6 seeds.
TABLE = np.array([
    [0.912, 0.907, 0.899], [0.921, 0.913, 0.912], [0.917, 0.902, 0.917],
    [0.909, 0.911, 0.893], [0.926, 0.909, 0.905], [0.914, 0.910, 0.901],
])  # fmt: skip
A, B, C = TABLE.T
exactly = pytest.approx
TIGHT = {"rel": 1e-12, "abs": 1e-12}
scores = st.integers(0, 1000).map(lambda k: k / 1000)
few = settings(deadline=None, max_examples=40)


def pairs(least=2, most=9):
    return st.integers(least, most).flatmap(lambda n: st.tuples(*[st.lists(scores, min_size=n, max_size=n)] * 2))


# ---- against scipy


def test_summary_equals_scipy():
    found = stats.summary(A, resamples=10_000, seed=5)
    expected = scipy_stats.bootstrap(
        (np.sort(A),), np.mean, n_resamples=10_000, method="BCa", rng=np.random.default_rng(5)
    ).confidence_interval
    assert (found.n, found.interval) == (6, "BCa")
    assert found.mean == exactly(np.mean(A), **TIGHT)
    assert found.sd == exactly(scipy_stats.tstd(A), **TIGHT)
    assert (found.low, found.high) == exactly(tuple(expected), **TIGHT)


@pytest.mark.parametrize("other", [B, C])
def test_paired_equals_scipy(other):
    found, test = stats.paired(A, other), scipy_stats.ttest_rel(A, other)
    interval = test.confidence_interval(0.95)
    assert (found.t, found.p_t) == exactly((test.statistic, test.pvalue), **TIGHT)
    assert (found.t_low, found.t_high) == exactly((interval.low, interval.high), **TIGHT)
    resampled = scipy_stats.bootstrap((np.sort(A - other),), np.mean, n_resamples=10_000, rng=np.random.default_rng(0))
    assert (found.low, found.high) == exactly(tuple(resampled.confidence_interval), **TIGHT)


def test_wilcoxon_equals_scipy_without_ties_and_zeros():
    differences = np.round(A - B, 6)
    test = scipy_stats.wilcoxon(differences, method="exact")
    total, p, smallest, zeros, ties = stats.wilcoxon(differences)
    assert p == exactly(test.pvalue, **TIGHT)
    assert min(total, 21 - total) == exactly(test.statistic, **TIGHT)
    assert (smallest, zeros, ties) == (2 / 2**6, 0, False)


def test_wilcoxon_with_ties_and_zeros_counts_all_signs():
    differences = np.array([0.3, 0.1, 0.1, -0.1, 0.0, 0.2, -0.3])
    kept = differences[differences != 0]
    ranks = scipy_stats.rankdata(np.abs(kept))
    sums = np.array([ranks @ signs for signs in product([0, 1], repeat=len(kept))])
    seen = ranks @ (kept > 0)
    total, p, smallest, zeros, ties = stats.wilcoxon(differences)
    assert total == seen
    assert p == exactly(min(1, 2 * min((sums <= seen).mean(), (sums >= seen).mean())), **TIGHT)
    assert (smallest, zeros, ties) == (2 / 2**6, 1, True)
    permuted = scipy_stats.wilcoxon(kept, method=scipy_stats.PermutationMethod(n_resamples=10**6))
    assert p == exactly(permuted.pvalue, **TIGHT)


def test_ties_and_zeros_are_seen_through_rounding():
    reference = np.array([0.1, 0.2, 0.3, 0.7])
    arm = reference + np.array([0.1, 0.1, 0.1, 0.0])  # 0.1 + 0.2 - 0.2 is not 0.1
    assert len(set(arm - reference)) > 2
    assert stats.wilcoxon(arm - reference) == (6.0, 0.25, 0.25, 1, True)


def test_power_equals_the_integral_over_the_noncentral_t():
    from scipy.integrate import quad

    for d, n in ((0.8, 5), (0.3, 20), (2.0, 4)):
        critical = scipy_stats.t.ppf(0.975, n - 1)
        inside = quad(lambda x, d=d, n=n: scipy_stats.nct.pdf(x, n - 1, d * math.sqrt(n)), -critical, critical)[0]
        assert stats.t_power(d, n) == exactly(1 - inside, abs=1e-7)


def test_power_is_met_in_simulation():
    n, rng = stats.seeds_needed(0.9), np.random.default_rng(1)
    assert n == 12
    draws = rng.normal(0.9, 1.0, (n, 20_000))
    found = (scipy_stats.ttest_1samp(draws, 0.0).pvalue < 0.05).mean()
    assert 0.8 - 0.01 < found < 0.86


def test_mcnemar_equals_the_binomial():
    a, b = np.array([1] * 30 + [0] * 20, bool), np.array([1] * 22 + [0] * 8 + [1] * 2 + [0] * 18, bool)
    first, second, p = stats.mcnemar(a, b)
    assert (first, second) == (8, 2)
    assert p == exactly(2 * sum(math.comb(10, k) for k in range(3)) / 2**10, **TIGHT)
    assert stats.mcnemar(a, a) == (0, 0, 1.0)


@few
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_metrics_of_counts_equal_those_of_scikit_learn(examples):
    y, p = np.array(examples).T
    counts = np.zeros((3, 3))
    np.add.at(counts, (y, p), 1)
    assert stats.confusion_metric("accuracy", counts) == exactly(accuracy_score(y, p), **TIGHT)
    assert stats.confusion_metric("macro_f1", counts) == exactly(
        f1_score(y, p, average="macro", zero_division=0.0), **TIGHT
    )
    if len(set(y) | set(p)) > 1:
        assert stats.confusion_metric("mcc", counts) == exactly(matthews_corrcoef(y, p), abs=1e-9)
    y2, p2 = y % 2, p % 2
    binary = np.zeros((2, 2))
    np.add.at(binary, (y2, p2), 1)
    assert stats.confusion_metric("f1", binary) == exactly(f1_score(y2, p2, zero_division=0.0), **TIGHT)


@pytest.mark.parametrize("metric", ["accuracy", "mcc", "f1"])
def test_example_bootstrap_by_counts_agrees_with_drawing_examples(metric):
    rng = np.random.default_rng(3)
    y = rng.integers(2, size=300)
    a, b = np.where(rng.random(300) < 0.85, y, 1 - y), np.where(rng.random(300) < 0.75, y, 1 - y)

    def by_hand(labels, predictions):
        counts = np.zeros((*labels.shape[:-1], 2, 2))
        for i in (0, 1):
            for j in (0, 1):
                counts[..., i, j] = ((labels == i) & (predictions == j)).sum(-1)
        return stats.confusion_metric(metric, counts)

    drawn, counted = stats.example_bootstrap(y, a, b, by_hand), stats.example_bootstrap(y, a, b, metric)
    assert counted[0] == exactly(drawn[0], **TIGHT)
    assert counted[1:] == exactly(drawn[1:], abs=0.01)
    assert counted[1] < counted[0] < counted[2]


# ---- by hand


def test_paired_by_hand():
    found = stats.paired([0.7, 0.8, 0.9], [0.6, 0.6, 0.6])  # differences 0.1, 0.2, 0.3
    assert found.mean == exactly(0.2, **TIGHT)
    assert found.sd == exactly(0.1, **TIGHT)
    assert found.t == exactly(2 * math.sqrt(3), **TIGHT)
    assert found.d_z == exactly(2.0, **TIGHT)
    assert found.p_t == exactly(1 - 2 * math.sqrt(3) / math.sqrt(12 + 2), **TIGHT)  # Student's t with 2 degrees
    half = 0.95 * math.sqrt(2 / (1 - 0.95**2)) * 0.1 / math.sqrt(3)
    assert (found.t_low, found.t_high) == exactly((0.2 - half, 0.2 + half), **TIGHT)
    assert (found.wilcoxon, found.p_wilcoxon, found.smallest_p) == (6.0, 0.25, 0.25)


def test_holm_by_hand():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == exactly([0.03, 0.06, 0.06, 0.02], **TIGHT)
    assert stats.holm([None, 0.9, None]) == [None, 0.9, None]
    assert stats.holm([0.6, 0.7]) == [1.0, 1.0]


def test_curves_rise_on_the_grid_and_end_where_they_end():
    found = stats.step_curves([([1, 2, 4], [0.3, 0.2, 0.5]), ([2, 3], [0.1, 0.4])], [1, 2, 3, 4])
    np.testing.assert_array_equal(found, [[0.3, 0.3, 0.3, 0.5], [np.nan, 0.1, 0.4, np.nan]])
    mean, low, high = stats.t_interval([[0.1, 0.2], [0.3, 0.2]])
    assert mean == exactly([0.2, 0.2], **TIGHT)
    assert low == exactly([0.2 - scipy_stats.t.ppf(0.975, 1) * 0.1, 0.2], **TIGHT)
    assert high == exactly([0.2 + scipy_stats.t.ppf(0.975, 1) * 0.1, 0.2], **TIGHT)


# ---- properties


@few
@given(pairs(), st.randoms())
def test_the_order_of_the_seeds_does_not_matter(pair, random):
    order = list(range(len(pair[0])))
    random.shuffle(order)
    a, b = np.array(pair)
    before, after = (asdict(stats.paired(x, y, resamples=200)) for x, y in ((a, b), (a[order], b[order])))
    for key, value in before.items():
        assert after[key] == (value if value is None else exactly(value, rel=1e-9, abs=1e-9)), key


@few
@given(pairs(), st.integers(-500, 500))
def test_a_constant_on_both_sides_changes_nothing(pair, shift):
    a, b = np.array(pair)
    before, after = (asdict(stats.paired(a + s, b + s, resamples=200)) for s in (0.0, shift / 1000))
    for key in ("mean", "sd", "p_wilcoxon", "p_t", "zeros", "ties", "t_low", "d_z"):
        assert after[key] == (before[key] if before[key] is None else exactly(before[key], rel=1e-6, abs=1e-9)), key


@few
@given(pairs())
def test_sides_exchanged_turn_the_sign(pair):
    there, back = (stats.paired(*sides, resamples=200) for sides in (pair, pair[::-1]))
    assert back.mean == exactly(-there.mean, abs=1e-12)
    assert back.p_wilcoxon == exactly(there.p_wilcoxon, **TIGHT)
    assert (back.seeds_needed, back.zeros) == (there.seeds_needed, there.zeros)


@few
@given(pairs(1, 12))
def test_wilcoxon_never_goes_below_what_it_says_it_can_reach(pair):
    found = stats.paired(*pair, resamples=200)
    assert found.smallest_p <= found.p_wilcoxon <= 1
    assert found.smallest_p == min(1.0, 2 / 2 ** (found.n - found.zeros))


@few
@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=8))
def test_holm_is_monotone_and_never_lowers(p_values):
    adjusted = stats.holm(p_values)
    made = sorted((p, q) for p, q in zip(p_values, adjusted, strict=True) if p is not None)
    assert all(p <= q <= 1 for p, q in made)
    assert all(q <= later for (_, q), (_, later) in pairwise(made))
    assert [p is None for p in p_values] == [q is None for q in adjusted]


@few
@given(st.floats(0.05, 200))
def test_needed_seeds_are_the_least(d):
    n = stats.seeds_needed(d)
    assert stats.t_power(d, n) >= 0.8
    assert n == 2 or stats.t_power(d, n - 1) < 0.8
    assert stats.seeds_needed(2 * d) <= n


@few
@given(st.lists(st.lists(scores, min_size=3, max_size=3), min_size=1, max_size=6))
def test_ranks_add_up(table):
    ranks = stats.mean_ranks(table)
    assert ranks.sum() == exactly(6.0)
    assert (ranks >= 1).all()
    assert (ranks <= 3).all()


# ---- little or odd data


def test_one_seed_gives_the_difference_and_nothing_else():
    found = stats.paired([0.7], [0.6])
    assert found.mean == exactly(0.1)
    assert (found.sd, found.t, found.p_t, found.t_low, found.low, found.d_z, found.seeds_needed) == (None,) * 7
    assert (found.p_wilcoxon, found.smallest_p) == (1.0, 1.0)
    assert asdict(stats.summary([0.7])) == {"n": 1, "mean": 0.7} | dict.fromkeys(("sd", "low", "high", "interval"))


def test_two_seeds_have_a_t_interval_and_no_bootstrap():
    found = stats.paired([0.7, 0.8], [0.6, 0.6])
    assert found.t_low < found.mean < found.t_high
    assert (found.low, found.high, found.smallest_p) == (None, None, 0.5)


@pytest.mark.parametrize("gap", [0.0, 0.1])
def test_equal_differences_prove_nothing_by_t(gap):
    found = stats.paired(np.array([0.1, 0.2, 0.7]) + gap, [0.1, 0.2, 0.7])
    assert (found.t, found.p_t, found.t_low, found.low, found.d_z, found.seeds_needed) == (None,) * 6
    assert found.p_wilcoxon == (0.25 if gap else 1.0)
    assert (found.zeros, found.smallest_p) == ((0, 0.25) if gap else (3, 1.0))


def test_equal_scores_show_no_spread():
    found = stats.summary([0.5] * 4)
    assert (found.sd, found.low, found.high) == (0.0, None, None)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="one score a seed"):
        stats.paired([], [])
    with pytest.raises(ValueError, match="no values"):
        stats.summary([])
