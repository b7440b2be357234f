"""Steps that make exact zeros: soft threshold, group proximal step, half-space test, orthant projection.

Labels such as (H2) are formulas in the README of the plugin package ``nasframe_hspg``.
"""

from __future__ import annotations

from typing import Any

import torch


def soft_threshold(x: torch.Tensor, by: float | torch.Tensor) -> torch.Tensor:
    """Shrink each number towards zero: the proximal step of ``by · |x|``, ``sign(x) max(|x| − by, 0)``.

    Args:
        x: any shape.
        by: by how much.

    >>> soft_threshold(torch.tensor([3.0, -0.5, -2.0]), 1.0)
    tensor([ 2.,  0., -1.])
    """
    limit: Any = by
    return x - x.clamp(-limit, limit)  # (H4)


def group_shrinkage(norms: torch.Tensor, by: float | torch.Tensor) -> torch.Tensor:
    """Return the factors of the proximal step of ``by · ‖x_g‖``: group g becomes ``max(0, 1 − by / ‖x_g‖) x_g``.

    Args:
        norms: ``(groups,)`` norms.
        by: by how much, one number or one for each group.

    >>> group_shrinkage(torch.tensor([4.0, 0.5, 0.0]), 1.0)
    tensor([0.7500, 0.0000, 0.0000])
    """
    tiny = torch.finfo(norms.dtype).tiny  # zero groups stay zero, and are no 0 / 0
    return (norms - by).clamp(min=0) / norms.clamp(min=tiny)  # (H2)


def leaves_half_space(dots: torch.Tensor, squares: torch.Tensor, eps: float | torch.Tensor = 0.0) -> torch.Tensor:
    """Return which groups a step takes out of their half-space, ``⟨v_g, x_g⟩ < eps ‖x_g‖²``; they become zero.

    With ``eps = 0`` a step has to cross the plane through the origin to which ``x_g`` is normal (HSPG, Chen et al.,
    arXiv 2011.04868; OTO, arXiv 2107.07467, §3.2).

    Args:
        dots: ``(groups,)`` inner products of the point ``x`` before the step and ``v`` after it.
        squares: ``(groups,)`` squared norms of ``x``.
        eps: in [0, 1), one number or one for each group; larger makes more zeros.

    >>> leaves_half_space(torch.tensor([-0.1, 0.2, 0.9]), torch.ones(3), eps=0.5)
    tensor([ True,  True, False])
    """
    return dots < eps * squares  # (H3)


def stay_in_orthant_(x: torch.Tensor, signs: torch.Tensor, by: float, eps: float = 0.0) -> None:
    """Shrink numbers by ``by`` within the orthant of ``signs``, in place; those that would leave it become zero.

    ``x`` becomes ``v = x − by · ζ`` if ``v ζ > eps``, and otherwise 0; it stays 0 if ζ is 0 (OBProx-SG, Chen et al.,
    arXiv 2004.03639).

    Args:
        x: after a step on the loss alone.
        signs: ζ in −1, 0, 1, of ``x`` before the step.
        by: the penalty's part of the step.
        eps: how far from zero a number has to be to stay.

    >>> x = torch.tensor([0.3, -0.3, 0.05, 0.7])
    >>> stay_in_orthant_(x, torch.tensor([1.0, 1.0, 1.0, 0.0]), by=0.1)
    >>> x
    tensor([0.2000, 0.0000, 0.0000, 0.0000])
    """
    torch.threshold_(x.mul_(signs).sub_(by), eps, 0.0)  # (H5)
    x.mul_(signs)
