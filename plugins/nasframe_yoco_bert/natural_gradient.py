"""One step of the stochastic natural gradient on categorical distributions, as pure functions of arrays.

The update is that of ASNG-NAS (Akimoto et al. 2019, arXiv 1905.08537) without its adaptive step size, which YOCO-BERT
(arXiv 2106.02435) uses with λ = 2 and δ = 1. Distributions are padded: row d holds the categories of dimension d, then
zeros.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

Ties = Literal["absolute", "relative"]
ABSOLUTE, RELATIVE = 1e-12, 1e-14
SMALL = 1e-8


def utility(f: np.ndarray, ties: Ties = "absolute") -> np.ndarray:
    """Rank losses: u = 1/μ for the best μ = ⌈λ/4⌉, −1/μ for the worst μ, 0 between; equals share their mean.

    Args:
        f: ``(λ,)`` losses, lower is better.
        ties: what equal means: ``absolute`` is a difference of at most 1e-12; ``relative``, as published, is one below
            1e-14 · f, which is never the case for f ≤ 0.

    >>> utility(np.array([3.0, 1.0, 2.0, 2.0])).tolist()
    [-1.0, 1.0, 0.0, 0.0]
    """
    order, lam = np.argsort(f, kind="stable"), len(f)
    mu = math.ceil(lam / 4)
    by_rank = np.zeros(lam)
    by_rank[:mu] = 1 / mu
    by_rank[lam - mu :] -= 1 / mu
    gap = np.diff(f[order])
    tied = gap <= ABSOLUTE if ties == "absolute" else gap < RELATIVE * f[order][:-1]
    group = np.concatenate([[0], np.cumsum(~tied)])
    u = np.empty(lam)
    u[order] = (np.bincount(group, by_rank) / np.bincount(group))[group]
    return u


def natural_gradient(theta: np.ndarray, c: np.ndarray, u: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return g = (1/λ) Σⱼ uⱼ mⱼ (cⱼ − θ), the natural gradient in the expectation parameters.

    Args:
        theta: ``(D, K)`` distributions.
        c: ``(λ, D)`` sampled categories.
        u: ``(λ,)`` utilities.
        mask: ``(λ, D)`` booleans m: which dimensions had an effect in a sample.
    """
    share = (u[:, None] * mask) / len(u)
    g = -share.sum(0)[:, None] * theta
    np.add.at(g, (np.arange(theta.shape[0]), c), share)
    return g


def fisher_norm(theta: np.ndarray, g: np.ndarray) -> float:
    """Return ‖g‖_F, ‖g‖²_F = Σ g²/θ over all dimensions and categories."""
    return float(np.sqrt((g * g / np.where(theta > 0, theta, 1.0)).sum()))


def lower_bound(shape: np.ndarray) -> np.ndarray:
    """Return ``(D, 1)`` θ_min = 1 / (D' (K − 1)), D' the number of dimensions with a choice.

    Where few dimensions would make that more than half of a uniform distribution, half of it is the bound.

    >>> lower_bound(np.array([4, 12] + 11 * [12])).round(5).ravel()[:2].tolist()
    [0.02564, 0.00699]
    """
    choices = max(int((shape > 1).sum()), 1)
    return np.minimum(1 / (choices * np.maximum(shape - 1, 1)), 1 / (2 * shape))[:, None]


def step(theta: np.ndarray, g: np.ndarray, delta: float, shape: np.ndarray) -> np.ndarray:
    """Return θ + δ g / ‖g‖_F, kept above the lower bound and normalised; rows without a gradient stay as they are.

    Args:
        theta: ``(D, K)`` distributions.
        g: ``(D, K)`` natural gradient.
        delta: δ, the length of the step.
        shape: ``(D,)`` numbers of categories.
    """
    valid, bound = np.arange(theta.shape[1]) < shape[:, None], lower_bound(shape)
    moved = theta + delta * g / (fisher_norm(theta, g) + SMALL)
    moved = np.where(valid, np.maximum(moved, bound), 0.0)
    total = moved.sum(1, keepdims=True)
    above = np.where(valid, moved - bound, 0.0)  # the excess is taken from what lies above the bound, in proportion
    moved = moved - (total - 1) * above / (total - bound * shape[:, None])
    moved = moved / moved.sum(1, keepdims=True)
    return np.where(g.any(1, keepdims=True), moved, theta)
