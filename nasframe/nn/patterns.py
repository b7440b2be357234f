"""n:m sparsity: at most n of m consecutive weights along the input dimension are not zero.

(N5) is a formula in the README of the plugin package ``nasframe_nxmiformer``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from torch.nn import functional

from nasframe.errors import UsageError


class Pattern(NamedTuple):
    """At most ``n`` of ``m`` consecutive weights of a row are kept; ``n = m`` is dense."""

    n: int = 1
    m: int = 1

    @property
    def dense(self) -> bool:
        """Whether nothing has to be zero."""
        return self.n == self.m


def parse_pattern(text: str) -> Pattern:
    """Return the pattern that a text means.

    Args:
        text: such as ``2:4``.

    Raises:
        UsageError: the text is no pattern, or n is above m or below 1.

    >>> parse_pattern("2:4")
    Pattern(n=2, m=4)
    """
    match = re.fullmatch(r"(\d+):(\d+)", str(text).strip())
    if not match:
        raise UsageError(f"pattern: {text!r} is no n:m pattern. Expected two counts, as in '2:4'.")
    pattern = Pattern(int(match[1]), int(match[2]))
    if not 1 <= pattern.n <= pattern.m:
        raise UsageError(f"pattern: {text} keeps {pattern.n} of {pattern.m} weights. Expected n from 1 to m.")
    return pattern


def require_divisible(name: str, columns: int, pattern: Pattern) -> None:
    """Make sure that the rows of a matrix consist of whole groups.

    Args:
        name: name of the matrix, for the message.
        columns: its input width.
        pattern: see :class:`Pattern`.

    Raises:
        UsageError: m does not divide the number of columns.
    """
    if columns % pattern.m:
        raise UsageError(
            f"{name}: pattern {pattern.n}:{pattern.m} on {columns} inputs: {pattern.m} does not divide {columns}. "
            "Expected groups that fill a row, or remainder: pad, which fills the last one up with zeros."
        )


def largest(weight: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """Mark the n largest magnitudes in each group of m consecutive columns, of equal ones the first.

    If m does not divide the length of a row, its last group counts as filled up with zeros.

    Args:
        weight: ``(rows, columns)``.
        pattern: see :class:`Pattern`.

    Returns:
        A boolean mask of the same shape, with exactly n marks in each whole group.

    >>> largest(torch.tensor([[1.0, -3.0, 2.0, 0.0]]), Pattern(2, 4)).int().tolist()
    [[0, 1, 1, 0]]
    """
    n, m = pattern
    columns = weight.shape[-1]
    padding = -columns % m
    filled_up = functional.pad(weight.detach().abs(), (0, padding))
    groups = filled_up.unflatten(-1, (-1, m))
    # Each weight's rank in its group is counted by comparing the m planes (rows, groups) pair by pair, which is far
    # faster than sorting groups.
    size = groups.movedim(-1, 0).contiguous()
    above = torch.zeros_like(size, dtype=torch.uint8)  # number of weights of its group that come before each weight
    for j in range(1, m):
        first = size[:j] >= size[j]
        above[j] += first.sum(0, dtype=torch.uint8)
        above[:j] += ~first
    stays = above < n  # (N5)
    return stays.movedim(0, -1).flatten(-2)[..., :columns]


def project(weight: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """Return the closest matrix that obeys the pattern, in the least-squares sense.

    Args:
        weight: ``(rows, columns)``.
        pattern: see :class:`Pattern`.

    >>> project(torch.tensor([[1.0, -3.0, 2.0, 0.5]]), Pattern(1, 2)).tolist()
    [[0.0, -3.0, 2.0, 0.0]]
    """
    if pattern.dense:
        return weight
    return weight * largest(weight, pattern)


def violations(weight: torch.Tensor, pattern: Pattern) -> int:
    """Return the number of groups with more than n nonzero weights.

    >>> violations(torch.tensor([[1.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]]), Pattern(2, 4))
    1
    """
    padding = -weight.shape[-1] % pattern.m
    nonzero = functional.pad((weight != 0).int(), (0, padding))
    counts = nonzero.unflatten(-1, (-1, pattern.m)).sum(-1)
    return int((counts > pattern.n).sum())
