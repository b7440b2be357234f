"""How often YOCO-BERT exploits: the entropy ρ of its distribution as a share of the largest (arXiv 2106.02435)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np


def exploit_probability(
    theta: np.ndarray, names: Sequence[str], shape: np.ndarray, explore: Literal["per_layer", "averaged"] | float
) -> float:
    """Return ρ / ρ_max, ρ the sum over the families of knobs (depth, layers) of an entropy in nats.

    ρ_max is that of uniform distributions, ln 4 + ln 12 in the published space.

    Args:
        theta: ``(D, K)`` distributions, padded with zeros.
        names: of the dimensions; those alike up to the number at the end (``layer.0`` …) are a family.
        shape: ``(D,)`` numbers of values.
        explore: ``per_layer`` is the mean of a family's entropies, ``averaged`` the entropy of its mean; of a number
            the rest to 1 is returned.

    >>> one_hot = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> [exploit_probability(one_hot, ["a.0", "a.1"], np.array([2, 2]), how) for how in ("per_layer", "averaged")]
    [0.0, 1.0]
    """
    if not isinstance(explore, str):
        return 1.0 - explore
    families: dict[tuple[str, int], list[int]] = {}
    for d, (name, size) in enumerate(zip(names, shape, strict=True)):
        families.setdefault((name.partition(".")[0], int(size)), []).append(d)
    rho = rho_max = 0.0
    for (_, size), members in families.items():
        rows = theta[members]
        rho += _entropy(rows.mean(0)) if explore == "averaged" else float(np.mean([_entropy(row) for row in rows]))
        rho_max += float(np.log(size))
    return min(rho / rho_max, 1.0) if rho_max else 1.0


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())
