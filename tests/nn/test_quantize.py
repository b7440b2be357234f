from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nasframe.nn.quantize import RowQuantizer, fake_quantize, levels, row_scales, tensor_scale

matrices = arrays("float32", (3, 8), elements=st.floats(-100, 100, width=32)).map(torch.tensor)
widths = st.sampled_from([8, 4, 2])


@settings(deadline=None, max_examples=60)
@given(matrices, widths)
def test_rows_lie_on_their_grids(weight: torch.Tensor, bits: int) -> None:
    scales, rounded = row_scales(weight, bits), RowQuantizer(bits)(weight)
    steps = (rounded / scales).double()
    assert torch.equal(steps, steps.round()) or torch.allclose(steps, steps.round(), atol=1e-4)
    assert steps.abs().max() <= levels(bits) * (1 + 1e-6)
    assert all(len(row.unique()) <= 2 * levels(bits) + 1 for row in rounded)
    assert torch.all(rounded[weight == 0] == 0)
    if bits > 2:
        assert torch.all((rounded - weight).abs() <= scales * (0.5 + 1e-4))


@settings(deadline=None, max_examples=60)
@given(matrices, widths)
def test_rounding_twice_is_rounding_once(weight: torch.Tensor, bits: int) -> None:
    once = RowQuantizer(bits)(weight)
    torch.testing.assert_close(RowQuantizer(bits)(once), once, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_gradients_pass_straight_through(bits: int) -> None:
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    slope = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    (RowQuantizer(bits)(weight) * slope).sum().backward()
    assert torch.equal(weight.grad, slope)


def test_more_bits_are_closer() -> None:
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    errors = [float((RowQuantizer(bits)(weight) - weight).square().mean()) for bits in (8, 4, 2)]
    assert errors[0] < errors[1] < errors[2] < float(weight.square().mean())


def test_two_bits_are_the_ternary_optimum() -> None:
    """The chosen α beats every other threshold's α by no more than a few per cent in squared error."""
    weight = torch.randn(1, 500, generator=torch.Generator().manual_seed(0))
    chosen = float((RowQuantizer(2)(weight) - weight).square().sum())
    best = min(
        float((fake_quantize(weight, torch.tensor(alpha), 2) - weight).square().sum())
        for alpha in torch.linspace(0.2, 3, 200).tolist()
    )
    assert best <= chosen <= 1.03 * best


def test_a_tensors_grid_ends_at_its_largest() -> None:
    values = torch.tensor([-3.0, 0.0, 1.0])
    scale = tensor_scale(values.abs().max(), 8)
    assert fake_quantize(values, scale, 8)[0] == -3.0
    assert float(tensor_scale(torch.zeros(()), 8)) == 1.0
    assert torch.equal(RowQuantizer(4)(torch.zeros(2, 3)), torch.zeros(2, 3))
