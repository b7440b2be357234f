"""Proximal steps against the minimisers they are, and half-spaces against their definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nasframe.nn.prox import group_shrinkage, leaves_half_space, soft_threshold, stay_in_orthant_


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("by", [0.0, 0.4, 3.0])
def test_the_soft_threshold_minimises_its_objective(by):
    """½ (z − x)² + by |z| is nowhere smaller, on a fine grid."""
    x, grid = drawn(0, 20), torch.linspace(-5, 5, 2001, dtype=torch.float64)
    best = grid[((grid - x[:, None]) ** 2 / 2 + by * grid.abs()).argmin(1)]
    torch.testing.assert_close(soft_threshold(x, by), best, rtol=0, atol=6e-3)
    assert (soft_threshold(x, by)[x.abs() <= by] == 0).all()


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 10**6), by=st.floats(0, 3))
def test_the_group_step_minimises_its_objective(seed, by):
    """½ ‖z − x‖² + by ‖z‖: no point nearby is better, and zero only where zero is best."""
    x = drawn(seed, 6, 5)
    z = group_shrinkage(x.norm(dim=1), by)[:, None] * x

    def objective(z):
        return ((z - x) ** 2).sum(1) / 2 + by * z.norm(dim=1)

    for scale in (1e-1, 1e-3):
        assert (objective(z + scale * drawn(seed + 1, 6, 5)) >= objective(z) - 1e-12).all()
    assert ((z == 0).all(1) == (x.norm(dim=1) <= by)).all()
    assert (objective(z) <= objective(torch.zeros_like(z)) + 1e-12).all()


def test_a_group_leaves_its_half_space_where_less_than_eps_of_it_is_left():
    x = drawn(3, 5, 7)
    for eps in (0.0, 0.3, 0.95):
        for left in (-0.2, eps - 0.01, eps + 0.01):
            sideways = drawn(4, 5, 7)
            sideways -= (sideways * x).sum(1, keepdim=True) / (x * x).sum(1, keepdim=True) * x
            v = left * x + sideways
            told = leaves_half_space((v * x).sum(1), (x * x).sum(1), eps)
            assert told.tolist() == [left < eps] * 5


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 10**6), by=st.floats(0, 0.5), eps=st.sampled_from([0.0, 0.1]))
def test_orthant_steps_never_change_a_sign(seed, by, eps):
    before = drawn(seed, 200) * (drawn(seed + 1, 200) > -0.5)
    moved = before + 0.5 * drawn(seed + 2, 200)
    after = moved.clone()
    stay_in_orthant_(after, before.sign(), by, eps)
    for x, m, a in zip(before.tolist(), moved.tolist(), after.tolist(), strict=True):
        sign = (x > 0) - (x < 0)
        v = m - by * sign
        assert a == pytest.approx(v if sign and v * sign > eps else 0.0, abs=1e-12)
