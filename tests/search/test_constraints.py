import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasframe.errors import UsageError
from nasframe.search.constraints import Bounds, Screen, parse_bounds, penalised, violation
from nasframe.search.pareto import crowding_distance, hypervolume, non_dominated_sort, pareto_front


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("<= 40M", -math.inf, 40e6),
        (">= 40M, <= 66M", 40e6, 66e6),
        ("50%", -math.inf, 50),
        (40, -math.inf, 40),
        ("<15ms", -math.inf, math.nextafter(15, 0)),
        ("> 3", math.nextafter(3, 9), math.inf),
        ("= 7", 7, 7),
        ([">= 1", "<= 2"], 1, 2),
        ("<= 40, <= 30", -math.inf, 30),
        (">= 10%, <= 20%", 10, 20),
    ],
)
def test_bounds_are_read(text, low, high):
    assert parse_bounds(text, full=100.0) == Bounds(low, high)


@pytest.mark.parametrize("text", ["", "<=", "about 3", ">= 5, <= 3", "=> 3", "<= 40M <= 50M"])
def test_bounds_that_are_none(text):
    with pytest.raises(UsageError):
        parse_bounds(text)


def test_a_percentage_needs_the_full_cost():
    with pytest.raises(UsageError, match="percentage"):
        parse_bounds("<= 50%")


def test_violation_adds_relative_excesses():
    bounds = {"a": Bounds(high=10), "b": Bounds(low=4, high=8), "c": Bounds(high=0)}
    assert violation({"a": 15, "b": 2, "c": 0.25}, bounds) == 0.5 + 0.5 + 0.25
    assert violation({"a": 10, "b": 4, "c": -1}, bounds) == 0
    assert violation({"a": math.nan, "b": 4, "c": 0}, bounds) == math.inf
    screen = Screen({"a": Bounds(high=10)}, lambda arch: {"a": arch["a"]})
    assert screen({"a": 10})
    assert not screen({"a": 11})
    assert screen.violation({"a": 11}) == pytest.approx(0.1)


def test_the_penalty_is_the_published_one_and_always_lowers():
    bounds, extremes = {"params": Bounds(high=50.0)}, {"params": (10.0, 100.0)}
    assert penalised(0.8, {"params": 50.0}, bounds, extremes, 2) == 0.8
    assert penalised(0.8, {"params": 60.0}, bounds, extremes, 2) == pytest.approx(0.8 * (1 - 10 / 50) ** 2)
    assert penalised(0.8, {"params": 100.0}, bounds, extremes, 2) == 0
    assert penalised(-0.1, {"params": 60.0}, bounds, extremes, 2) < -0.1
    assert penalised(0.8, {"params": 15.0}, {"params": Bounds(low=20)}, extremes, 1) == pytest.approx(0.4)


points = st.integers(1, 4).flatmap(
    lambda d: st.lists(st.tuples(*[st.integers(0, 4)] * d), min_size=1, max_size=9).map(lambda p: np.array(p, float))
)


def beats(a, b):
    return all(a >= b) and any(a > b)


@settings(deadline=None, max_examples=80)
@given(points)
def test_the_front_is_what_nothing_beats(values):
    assert pareto_front(values) == [i for i, a in enumerate(values) if not any(beats(b, a) for b in values)]


@settings(deadline=None, max_examples=80)
@given(points, st.randoms())
def test_fronts_are_peeled_under_constraint_domination(values, random):
    excess = np.array([random.choice([0, 0, 0.5, 1]) for _ in values])

    def ahead(i, j):
        return excess[i] < excess[j] or (excess[i] == excess[j] and beats(values[i], values[j]))

    left, expected = set(range(len(values))), []
    while left:
        front = sorted(i for i in left if not any(ahead(j, i) for j in left))
        expected.append(front)
        left -= set(front)
    assert non_dominated_sort(values, excess) == expected


@settings(deadline=None, max_examples=80)
@given(points)
def test_hypervolume_counts_the_dominated_cells(values):
    """Integer points above an integer reference dominate whole unit cells, which can be counted one by one."""
    reference = np.full(values.shape[1], 1.0)
    cells = itertools.product(range(1, 4), repeat=values.shape[1])
    assert hypervolume(values, reference) == sum(any(all(p >= np.array(c) + 1) for p in values) for c in cells)


def test_crowding_by_hand():
    assert crowding_distance([[0, 10], [2, 6], [3, 5], [10, 0]]).tolist() == [
        np.inf, pytest.approx(3 / 10 + 5 / 10), pytest.approx(8 / 10 + 6 / 10), np.inf,
    ]  # fmt: skip
    assert np.isinf(crowding_distance([[1, 1]])).all()
    assert crowding_distance([[1, 2], [1, 2], [1, 2]])[1] == 0


def test_nothing_is_no_volume():
    assert hypervolume([], (0, 0)) == 0
    assert pareto_front([]) == []
    assert non_dominated_sort([]) == []


def test_the_published_penalty_raises_a_negative_score_and_the_monotone_one_lowers_it():
    bounds, extremes = {"params": Bounds(high=50.0)}, {"params": (0.0, 100.0)}
    args = ({"params": 75.0}, bounds, extremes, 2)
    assert penalised(-0.4, *args, "published") == pytest.approx(-0.1)
    assert penalised(-0.4, *args) == pytest.approx(-0.7)
    assert penalised(0.4, *args, "published") == penalised(0.4, *args) == pytest.approx(0.1)
