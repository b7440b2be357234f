"""The exploit-explore mixture of YOCO-BERT (arXiv 2106.02435): how often it exploits, and the weight of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Explore = Literal["per_layer", "averaged"] | float
"""How exploring follows the entropy of the distribution; a number is the probability of exploring."""

LARGEST_LOG_RATIO = 50.0  # a larger one changes no weight, but its exponential may overflow


def exploit_probability(theta: np.ndarray, names: Sequence[str], shape: np.ndarray, explore: Explore) -> float:
    """Return ρ / ρ_max: ρ is the sum of the entropies of the knobs' families (depth, layers), in nats.

    ρ_max is that of uniform distributions, ln 4 + ln 12 in the published space.

    Args:
        theta: ``(D, K)`` distributions, padded with zeros.
        names: names of the dimensions; those that differ in their last number only (``layer.0`` …) are a family.
        shape: ``(D,)`` numbers of values.
        explore: ``per_layer`` takes the mean of a family's entropies, ``averaged`` the entropy of its mean. For a
            number, 1 minus that number is returned.

    >>> one_hot = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> exploit_probability(one_hot, ["a.0", "a.1"], np.array([2, 2]), "per_layer")
    0.0
    >>> exploit_probability(one_hot, ["a.0", "a.1"], np.array([2, 2]), "averaged")
    1.0
    """
    if not isinstance(explore, str):
        return 1.0 - explore
    families: dict[tuple[str, int], list[int]] = {}
    for d, (name, size) in enumerate(zip(names, shape, strict=True)):
        family = name.partition(".")[0]
        families.setdefault((family, int(size)), []).append(d)
    rho = 0.0
    rho_max = 0.0
    for (_, size), members in families.items():
        rows = theta[members]
        if explore == "averaged":
            rho += _entropy(rows.mean(0))
        else:
            entropies = [_entropy(row) for row in rows]
            rho += float(np.mean(entropies))  # (Y3)
        rho_max += float(np.log(size))  # (Y4)
    if rho_max == 0:  # no dimension has a choice
        return 1.0
    return min(rho / rho_max, 1.0)


def importance(exploit: float, p: np.ndarray, q: np.ndarray) -> float:
    """Return p(x) / (ε p(x) + (1 − ε) q(x)), the weight of a sample x of the mixture as a sample of p.

    Args:
        exploit: ε, the share of samples that are drawn from p.
        p: the probabilities of x's values in the distribution that exploits, one for each dimension.
        q: the same in the distribution that explores.

    >>> importance(0.5, np.array([0.5, 0.5]), np.array([0.5, 0.5]))
    1.0
    """
    tiny = np.finfo(float).tiny
    ratios = np.maximum(q, tiny) / np.maximum(p, tiny)
    # The sum of logarithms, because a product over many dimensions may underflow.
    log_ratio = np.clip(np.log(ratios).sum(), -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    return float(1 / (exploit + (1 - exploit) * np.exp(log_ratio)))  # (Y15)


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]  # 0 · ln 0 counts as 0
    return float(-(p * np.log(p)).sum())
