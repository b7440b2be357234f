from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nasframe.errors import UsageError
from nasframe.nn.patterns import Pattern, largest, parse_pattern, project, require_divisible, violations

patterns = st.integers(1, 8).flatmap(lambda m: st.tuples(st.integers(1, m), st.just(m))).map(lambda nm: Pattern(*nm))
values = st.integers(-4, 4).map(float)  # few values, so that ties are common


@settings(deadline=None, max_examples=60)
@given(patterns, st.data())
def test_the_projection_is_the_closest_matrix(pattern: Pattern, data: st.DataObject) -> None:
    weight = torch.tensor(data.draw(arrays("float32", (2, 2 * pattern.m), elements=values)))
    found = project(weight, pattern)
    assert violations(found, pattern) == 0
    kept = largest(weight, pattern)
    assert torch.equal(kept.unflatten(1, (2, pattern.m)).sum(-1), torch.full((2, 2), pattern.n))
    for row, group in itertools.product(range(2), range(2)):
        part = slice(group * pattern.m, (group + 1) * pattern.m)
        before, after = weight[row, part], found[row, part]
        choices = itertools.combinations(range(pattern.m), pattern.m - pattern.n)
        best = min(float(before[list(zeros)].square().sum()) for zeros in choices)
        assert float((before - after).square().sum()) == best
        assert torch.all((after == before) | (after == 0))


@settings(deadline=None, max_examples=40)
@given(patterns, st.integers(1, 19), st.integers(0, 99))
def test_a_last_group_counts_as_filled_up_with_zeros(pattern: Pattern, columns: int, seed: int) -> None:
    weight = torch.randn(3, columns, generator=torch.Generator().manual_seed(seed))
    filled = torch.nn.functional.pad(weight, (0, -columns % pattern.m))
    assert torch.equal(project(weight, pattern), project(filled, pattern)[:, :columns])
    assert violations(project(weight, pattern), pattern) == 0


@settings(deadline=None, max_examples=40)
@given(patterns, st.integers(0, 99))
def test_violations_are_counted_group_by_group(pattern: Pattern, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.integers(0, 2, (3, 3 * pattern.m)).astype(np.float32)
    groups = weight.reshape(3, 3, pattern.m)
    counted = sum(int((groups[i, j] != 0).sum() > pattern.n) for i in range(3) for j in range(3))
    assert violations(torch.tensor(weight), pattern) == counted


@pytest.mark.parametrize(
    ("text", "words"),
    [("5:4", "keeps 5 of 4"), ("0:4", "keeps 0 of 4"), ("2-4", "no n:m pattern"), ("2:4:8", "no n:m"), ("", "as in")],
)
def test_what_is_no_pattern_is_refused_with_the_reason(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_pattern(text)


def test_rows_that_are_no_whole_groups_are_refused() -> None:
    require_divisible("query", 32, Pattern(4, 8))
    with pytest.raises(UsageError, match="query: pattern 2:4 on 18 inputs: 4 does not divide 18"):
        require_divisible("query", 18, Pattern(2, 4))
