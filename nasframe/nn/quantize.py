"""Fake quantisation: numbers in floating point that lie on the grid of a small integer type.

Grids are symmetric: ``scale · {−q … q}`` with ``q = 2^(bits−1) − 1``, so that 0 is on every grid and stays 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

NEAR = 1e-3  # how far a number may be from an integer of its grid, in steps
MOST_BITS = 12
"""The largest bit width whose grid float32 can still resolve: its rounding error stays below ``NEAR``."""
LOOKED_AT = 8  # the largest entries of a row are checked first, because nearly every wrong grid fails on them


def levels(bits: int) -> int:
    """Return the largest integer of a symmetric grid.

    Raises:
        ValueError: fewer than 2 bits, which leave 0 alone.

    >>> levels(8), levels(4), levels(2)
    (127, 7, 1)
    """
    if bits < 2:
        raise ValueError(f"bits: {bits}. Expected 2 or more.")
    return int(2 ** (bits - 1) - 1)


def row_scales(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the step of a grid for each row of a matrix.

    With 3 bits or more, the row's largest magnitude is the grid's end. With 2 bits the grid ``{−α, 0, α}`` has the
    α that is closest to the row in the least-squares sense (ternary weight networks, arXiv 1605.04711, eqs. 5–6):
    the mean magnitude of the entries above 0.7 times the row's mean magnitude.

    Args:
        weight: ``(rows, columns)``.
        bits: 2 or more.

    Returns:
        Positive steps ``(rows, 1)``.
    """
    size = weight.detach().abs()
    if not weight.shape[1]:
        return weight.new_ones(len(weight), 1)
    if bits > 2:
        scales = size.amax(1, keepdim=True) / levels(bits)
    else:
        large = size > 0.7 * size.mean(1, keepdim=True)
        sums = (size * large).sum(1, keepdim=True)
        counts = large.sum(1, keepdim=True)
        scales = sums / counts.clamp(min=1)
    smallest = torch.finfo(scales.dtype).tiny  # smaller steps are not representable
    return torch.where(scales > smallest, scales, 1.0)


def tensor_scale(largest: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the step of a grid that ends at ``largest``, a scalar."""
    return torch.where(largest > 0, largest / levels(bits), 1.0)


def fake_quantize(tensor: torch.Tensor, scale: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the nearest numbers on a grid; the gradient passes unchanged (straight-through, arXiv 1308.3432).

    Args:
        tensor: any shape.
        scale: the grid's step, broadcast against ``tensor``.
        bits: width of the integer.

    >>> fake_quantize(torch.tensor([0.0, 0.4, 9.0]), torch.tensor(0.5), bits=4).tolist()
    [0.0, 0.5, 3.5]
    """
    rounded: torch.Tensor = _Rounded.apply(tensor, scale, levels(bits))
    return rounded


class _Rounded(torch.autograd.Function):
    """Rounds within one copy: a training step rounds every weight, and most of its time goes into memory traffic."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, scale: torch.Tensor, end: int) -> torch.Tensor:
        """Return the nearest numbers on the grid."""
        return (tensor / scale).round_().clamp_(-end, end).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:  # type: ignore[override]
        """Pass the gradient straight through."""
        return gradient, None, None


def fits_grid(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Return which rows lie on some symmetric grid of this width, whatever its step.

    The row's largest entry may be any integer of the grid, because the entry at its end may have been cut off. So each
    integer is tried, from the largest down.

    Args:
        weight: ``(rows, columns)``.
        bits: width of the integer.

    Returns:
        ``(rows,)`` booleans.

    >>> fits_grid(torch.tensor([[0.3, -0.7, 0.0], [0.3, -0.7, 0.01]]), 4).tolist()
    [True, False]
    """
    size = weight.detach().double().abs()
    if not size.shape[1]:
        return torch.ones(len(size), dtype=torch.bool, device=size.device)
    top = size.amax(1, keepdim=True)
    looked_at = min(LOOKED_AT, size.shape[1])
    largest = size.topk(looked_at, 1).values
    fits = top[:, 0] == 0
    for end in range(levels(bits), 0, -1):
        rest = torch.nonzero(~fits)[:, 0]
        if not len(rest):
            break
        # In steps of the grid on which the row's largest entry is the integer ``end``.
        steps = largest[rest] * (end / top[rest])
        likely = rest[_integers(steps)]
        all_steps = size[likely] * (end / top[likely])
        fits[likely] = _integers(all_steps)
    return fits


def _integers(numbers: torch.Tensor) -> torch.Tensor:
    """Return which rows consist of integers, to ``NEAR``."""
    distances = (numbers - numbers.round()).abs()
    return (distances <= NEAR).all(1)


class RowQuantizer(nn.Module):
    """A parametrisation that shows a matrix on its rows' grids (``torch.nn.utils.parametrize``).

    Args:
        bits: width of the integer, 2 or more.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the quantised matrix; its gradient passes straight through."""
        scales = row_scales(weight, self.bits)
        return fake_quantize(weight, scales, self.bits)
