"""One step of the stochastic natural gradient on categorical distributions, as pure functions of arrays.

The update is that of ASNG-NAS (Akimoto et al. 2019, arXiv 1905.08537) without its adaptive step size. YOCO-BERT (arXiv
2106.02435) uses it with λ = 2 and δ = 1. Distributions are padded: row d holds the categories of
dimension d, then zeros.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

Ties = Literal["absolute", "relative"]
ABSOLUTE = 1e-12
RELATIVE = 1e-14
SMALL = 1e-8  # keeps a step finite if all members of an update are alike


def utility(losses: np.ndarray, ties: Ties = "absolute") -> np.ndarray:
    """Rank losses: u = 1/μ for the best μ = ⌈λ/4⌉, −1/μ for the worst μ, 0 between. Equal losses share their mean.

    Args:
        losses: ``(λ,)`` losses, lower is better.
        ties: which losses are equal. ``absolute``: those that differ by at most 1e-12. ``relative``, as published:
            those that differ by less than 1e-14 · loss, which no two losses ≤ 0 do.

    Returns:
        ``(λ,)`` utilities, in the order of the losses.

    >>> utility(np.array([3.0, 1.0, 2.0, 2.0])).tolist()
    [-1.0, 1.0, 0.0, 0.0]
    """
    lam = len(losses)
    mu = math.ceil(lam / 4)  # (Y7)
    by_rank = np.zeros(lam)
    by_rank[:mu] = 1 / mu
    by_rank[lam - mu :] -= 1 / mu  # subtracted, because for λ = 1 the best is the worst, too

    order = np.argsort(losses, kind="stable")
    ranked = losses[order]
    gaps = np.diff(ranked)
    if ties == "absolute":
        tied = gaps <= ABSOLUTE
    else:
        tied = gaps < RELATIVE * ranked[:-1]
    group = np.concatenate([[0], np.cumsum(~tied)])  # of each rank; equal losses are in one group
    means = np.bincount(group, by_rank) / np.bincount(group)
    utilities = np.empty(lam)
    utilities[order] = means[group]  # (Y8)
    return utilities


def natural_gradient(theta: np.ndarray, samples: np.ndarray, utilities: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return g = (1/λ) Σⱼ uⱼ mⱼ (cⱼ − θ), the natural gradient in the expectation parameters.

    Args:
        theta: ``(D, K)`` distributions.
        samples: c, ``(λ, D)`` sampled categories.
        utilities: u, ``(λ,)``.
        mask: m, ``(λ, D)`` booleans: which dimensions had an effect in a sample.
    """
    shares = (utilities[:, None] * mask) / len(utilities)
    gradient = -shares.sum(0)[:, None] * theta
    dimensions = np.arange(theta.shape[0])
    np.add.at(gradient, (dimensions, samples), shares)  # (Y9)
    return gradient


def fisher_norm(theta: np.ndarray, gradient: np.ndarray) -> float:
    """Return the length of a gradient in the Fisher metric: ‖g‖²_F = Σ g²/θ over all dimensions and categories."""
    padded = np.where(theta > 0, theta, 1.0)
    return float(np.sqrt((gradient * gradient / padded).sum()))  # (Y10)


def lower_bound(shape: np.ndarray) -> np.ndarray:
    """Return ``(D, 1)`` θ_min = 1 / (D' (K − 1)), where D' is the number of dimensions with a choice.

    With few dimensions that would be more than half of a uniform distribution; then half of it is the bound.

    >>> lower_bound(np.array([4, 12] + 11 * [12])).round(5).ravel()[:2].tolist()
    [0.02564, 0.00699]
    """
    choices = max(int((shape > 1).sum()), 1)
    published = 1 / (choices * np.maximum(shape - 1, 1))  # (Y12)
    half_of_uniform = 1 / (2 * shape)
    return np.minimum(published, half_of_uniform)[:, None]


def step(theta: np.ndarray, gradient: np.ndarray, delta: float, shape: np.ndarray) -> np.ndarray:
    """Return θ + δ g / ‖g‖_F, kept above the lower bound and normalised; rows without a gradient stay as they are.

    Args:
        theta: ``(D, K)`` distributions.
        gradient: ``(D, K)`` natural gradient.
        delta: δ, the length of the step in the Fisher metric.
        shape: ``(D,)`` numbers of categories.
    """
    valid = np.arange(theta.shape[1]) < shape[:, None]
    bound = lower_bound(shape)
    length = fisher_norm(theta, gradient) + SMALL
    moved = theta + delta * gradient / length  # (Y11)
    moved = np.where(valid, np.maximum(moved, bound), 0.0)
    # Raising small entries to the bound makes a row's sum larger than 1. What is too much is taken from all entries in
    # proportion to their height above the bound, so that none falls below it.
    excess = moved.sum(1, keepdims=True) - 1
    above = np.where(valid, moved - bound, 0.0)
    total_above = moved.sum(1, keepdims=True) - bound * shape[:, None]
    moved = moved - excess * above / total_above  # (Y13)
    moved = moved / moved.sum(1, keepdims=True)  # rounding errors would add up over the updates
    has_gradient = gradient.any(1, keepdims=True)
    return np.where(has_gradient, moved, theta)
