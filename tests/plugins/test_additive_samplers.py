"""The samplers ``milp`` and ``dynamic``: they find what trying everything finds, in the same order."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nasframe.errors import UsageError
from nasframe.records import CostTable, PairCosts, Trial
from nasframe.search.constraints import Bounds, Screen
from nasframe.search.costs import table_cost
from nasframe.search.domain import Choices
from nasframe_basics import milp as milp_file
from nasframe_basics.dynamic import DynamicSampler, undominated
from nasframe_basics.milp import MilpSampler

KINDS = 2


@pytest.fixture(autouse=True)
def solver(monkeypatch):
    """Give even small domains to the solver, which lists them otherwise."""
    monkeypatch.setattr(milp_file, "LISTABLE", 0)


def problem(seed: int, sizes: list[int], pairs: bool):
    """A domain, the table of a score, and those of three costs, some of which count in pairs."""
    rng = np.random.default_rng(seed)
    domain = Choices({f"k{i}": [f"{i}-{value}" for value in range(size)] for i, size in enumerate(sizes)})
    tables = {}
    for name in ("score", "params", "latency", "memory"):
        choices = {knob: rng.uniform(0, 10, len(values)).round(3).tolist() for knob, values in domain.knobs.items()}
        costs = []
        if pairs and name != "memory":
            for i in range(len(sizes) - 1):
                kinds = tuple([value % KINDS for value in range(size)] for size in sizes[i : i + 2])
                of_kinds = rng.uniform(0, 5, (KINDS, KINDS)).round(3).tolist()
                costs.append(PairCosts(f"k{i}", f"k{i + 1}", kinds, of_kinds))
        tables[name] = CostTable(float(rng.integers(3)), choices, tuple(costs))
    return domain, tables


def functions(domain, tables):
    return {name: table_cost(table, domain.knobs) for name, table in tables.items()}


def within(domain, tables, bounds):
    costs = functions(domain, tables)
    return domain.restrict(keep=Screen(bounds, lambda arch: {name: costs[name](arch) for name in bounds}))


def brute_force(domain, tables, bounds) -> list[float]:
    """The scores of all architectures within bounds, ascending."""
    costs = functions(domain, tables)
    scores = []
    for values in itertools.product(*domain.knobs.values()):
        arch = dict(zip(domain.knobs, values, strict=True))
        if all(bound.violation(costs[name](arch)) == 0 for name, bound in bounds.items()):
            scores.append(costs["score"](arch))
    return sorted(scores)


def bounds_at(domain, tables, shares) -> dict[str, Bounds]:
    """Bounds at some share of the way from the smallest to the largest sum of entries."""
    bounds = {}
    for name, share in shares.items():
        costs = functions(domain, {name: tables[name]})
        rng = np.random.default_rng(0)
        values = [costs[name](domain.sample(rng)) for _ in range(50)]
        bounds[name] = Bounds(high=min(values) + share * (max(values) - min(values)))
    return bounds


@given(
    st.integers(0, 10_000),
    st.lists(st.integers(2, 5), min_size=1, max_size=4),
    st.booleans(),
    st.sampled_from(
        [{}, {"params": 0.4}, {"params": 0.6, "latency": 0.5}, {"params": 0.7, "latency": 0.7, "memory": 0.6}]
    ),
)
@example(seed=4, sizes=[4, 4], pairs=True, shares={"params": 0.6, "latency": 0.5})
@settings(max_examples=25, deadline=None)
def test_both_find_what_trying_everything_finds(seed, sizes, pairs, shares):
    domain, tables = problem(seed, sizes, pairs)
    bounds = bounds_at(domain, tables, shares)
    region = within(domain, tables, bounds) if bounds else domain
    expected = brute_force(domain, tables, bounds)
    score = functions(domain, tables)["score"]
    dynamic = DynamicSampler(domain, "-score", tables=tables.get)
    proposed = dynamic.ask(len(expected) + 1, within=region)
    assert [score(arch) for arch in proposed] == pytest.approx(expected)
    milp = MilpSampler(domain, "-score", tables=tables.get)
    first = milp.ask(3, within=region)
    assert [score(arch) for arch in first] == pytest.approx(expected[:3])


def test_larger_problems_agree():
    """With hundreds of choices, which cannot all be tried, both still find the same optimum."""
    domain, tables = problem(3, [4, 60, 60, 60, 60], pairs=True)
    bounds = bounds_at(domain, tables, {"params": 0.5, "latency": 0.45})
    region = within(domain, tables, bounds)
    score = functions(domain, tables)["score"]
    dynamic = DynamicSampler(domain, "-score", tables=tables.get).ask(5, within=region)
    (milp,) = MilpSampler(domain, "-score", tables=tables.get).ask(1, within=region)
    assert score(milp) == pytest.approx(score(dynamic[0]))
    scores = [score(arch) for arch in dynamic]
    assert scores == sorted(scores)
    assert len({str(arch) for arch in dynamic}) == 5


def test_a_score_of_which_more_is_better():
    domain, tables = problem(1, [3, 3], pairs=False)
    best = brute_force(domain, tables, {})[-1]
    score = functions(domain, tables)["score"]
    for sampler in (MilpSampler, DynamicSampler):
        (arch,) = sampler(domain, "score", tables=tables.get).ask(1)
        assert score(arch) == pytest.approx(best)


def test_milp_meets_lower_bounds_and_dynamic_refuses_them():
    domain, tables = problem(2, [4, 4, 4], pairs=False)
    cost = functions(domain, tables)["params"]
    middle = float(np.median([cost(arch) for arch in domain.enumerate()]))
    bounds = {"params": Bounds(low=middle)}
    region = within(domain, tables, bounds)
    (arch,) = MilpSampler(domain, "-score", tables=tables.get).ask(1, within=region)
    assert cost(arch) >= middle
    assert functions(domain, tables)["score"](arch) == pytest.approx(brute_force(domain, tables, bounds)[0])
    with pytest.raises(UsageError, match="lower bound"):
        DynamicSampler(domain, "-score", tables=tables.get).ask(1, within=region)


def test_milp_knows_knobs_that_depend_on_others():
    domain = Choices({"depth": [1, 2], "width.0": [1, 2], "width.1": [1, 2]}, {"width.1": ("depth", [2])})
    table = CostTable(0.0, {"depth": [3.0, 1.0], "width.0": [0.0, 5.0], "width.1": [4.0, 1.0]})
    archs = MilpSampler(domain, "-score", tables=lambda cost: table).ask(10)
    score = table_cost(table, domain.knobs)
    assert len(archs) == domain.size
    assert [score(arch) for arch in archs] == sorted(score(arch) for arch in domain.enumerate())
    with pytest.raises(UsageError, match="milp"):
        DynamicSampler(domain, "-score", tables=lambda cost: table)


def test_what_was_told_is_not_proposed_again():
    domain, tables = problem(5, [3, 3], pairs=True)
    for sampler in (MilpSampler, DynamicSampler):
        (best,) = sampler(domain, "-score", tables=tables.get).ask(1)
        other = sampler(domain, "-score", tables=tables.get)
        other.tell([Trial(best, 0.5)])
        assert best not in other.ask(20)


def test_an_unknown_choice_is_left_out():
    """A value whose score is not known cannot be proposed."""
    domain = Choices({"a": [0, 1, 2]})
    table = CostTable(0.0, {"a": [float("nan"), 2.0, 1.0]})
    for sampler in (MilpSampler, DynamicSampler):
        assert sampler(domain, "-score", tables=lambda cost: table).ask(5) == [{"a": 2}, {"a": 1}]


def test_a_cost_without_a_table_is_refused():
    domain, tables = problem(4, [3, 3], pairs=False)
    region = domain.restrict(keep=Screen({"latency": Bounds(high=1.0)}, lambda arch: {"latency": 0.5}))
    without = {"score": tables["score"]}
    for sampler in (MilpSampler, DynamicSampler):
        with pytest.raises(UsageError, match="'latency' is bounded"):
            sampler(domain, "-score", tables=without.get).ask(1, within=region)
        with pytest.raises(UsageError, match="score: 'loss'"):
            sampler(domain, "-loss", tables=without.get).ask(1)


def test_nothing_is_left_within_impossible_bounds():
    domain, tables = problem(6, [3, 3], pairs=False)
    region = within(domain, tables, {"params": Bounds(high=-1.0)})
    for sampler in (MilpSampler, DynamicSampler):
        assert sampler(domain, "-score", tables=tables.get).ask(2, within=region) == []


@given(st.integers(0, 1000), st.integers(1, 900), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_the_front_has_the_rows_that_none_undercuts(seed, count, columns):
    rows = np.random.default_rng(seed).integers(0, 12, (count, columns)).astype(float)
    front = {tuple(row) for row in undominated(rows)}
    expected = set()
    for row in rows:
        smaller = (rows <= row).all(axis=1) & (rows < row).any(axis=1)
        if not smaller.any():
            expected.add(tuple(row))
    assert front == expected


def test_a_small_domain_is_listed_in_the_same_order(monkeypatch):
    domain, tables = problem(8, [3, 4, 2], pairs=True)
    solved = MilpSampler(domain, "-score", tables=tables.get).ask(6)
    monkeypatch.setattr(milp_file, "LISTABLE", 100)
    assert MilpSampler(domain, "-score", tables=tables.get).ask(6) == solved
