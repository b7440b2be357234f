"""Progressive shrinking (Xu et al. 2021, arXiv 2105.14444, section 3.2): the candidates of a block, bin by bin.

Candidates fall into bins by their parameters and their latency, so that small ones are compared with small ones. In
each round, half of those that are looked at are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Settings:
    """How candidates are dropped.

    Args:
        bins: B; 0 keeps all candidates.
        sample: E, candidates that are looked at in a bin and a round.
        keep: m, candidates that are left in each bin at the end.
    """

    bins: int = 10
    sample: int = 2000
    keep: int = 10


def bins_of(costs: Sequence[np.ndarray], count: int) -> np.ndarray:
    """Return the bin of each candidate, −1 for one whose costs fall into different bins.

    Args:
        costs: of each kind of cost, ``(candidates,)``.
        count: B. Bin b, from 1, has costs above (b − 1) / B and up to b / B of the largest candidate's.

    >>> bins_of([np.array([1.0, 5.0, 10.0]), np.array([1.0, 9.0, 10.0])], 2).tolist()
    [1, -1, 2]
    """
    bins = []
    for of_kind in costs:
        largest = of_kind.max() or 1.0
        # (N3): p_{b-1} < p(a) <= p_b with p_b = (b / B) p(largest); the same for latencies
        bins.append(np.ceil(of_kind / largest * count - 1e-9).clip(1, count).astype(int))
    agree = np.all([other == bins[0] for other in bins], axis=0)
    return np.where(agree, bins[0], -1)


class Survivors:
    """The candidates of one part that are left.

    Args:
        bins: the bin of each candidate; −1 for one that is left out from the start.
        settings: how candidates are dropped.
    """

    def __init__(self, bins: np.ndarray, settings: Settings) -> None:
        self.bins = bins
        self.settings = settings
        self.left = np.flatnonzero(bins >= 0)

    @property
    def done(self) -> bool:
        """Whether every bin has few enough."""
        return all(len(members) <= self.settings.keep for members in self.by_bin().values())

    def by_bin(self) -> dict[int, np.ndarray]:
        """Return the candidates that are left, by their bins."""
        bins = self.bins[self.left]
        return {int(number): self.left[bins == number] for number in np.unique(bins)}

    def shrink(self, loss: Callable[[int], float], rng: np.random.Generator) -> int:
        """Drop the worse half of the candidates that are looked at, in each bin; return how many were looked at.

        Args:
            loss: candidate → its loss.
            rng: draws those that are looked at.
        """
        looked_at = 0
        dropped: list[int] = []
        for members in self.by_bin().values():
            excess = len(members) - self.settings.keep
            if excess <= 0:
                continue
            size = min(self.settings.sample, len(members))
            sampled = rng.choice(members, size=size, replace=False)
            losses = np.array([loss(int(candidate)) for candidate in sampled])
            looked_at += size
            worst_first = sampled[np.argsort(-losses, kind="stable")]
            # (N4): R = E / 2 of them are dropped, but m are left
            dropped += worst_first[: min(max(size // 2, 1), excess)].tolist()
        self.left = np.setdiff1d(self.left, dropped)
        return looked_at

    def finish(self, loss: Callable[[int], float], rng: np.random.Generator) -> tuple[dict[int, float], int]:
        """Measure what is left, and keep the best ``keep`` of each bin.

        Args:
            loss: candidate → its loss.
            rng: draws candidates in bins that still have more than can be looked at.

        Returns:
            Candidate → its loss, of those that are kept; and how many were looked at.
        """
        losses: dict[int, float] = {}
        looked_at = 0
        for members in self.by_bin().values():
            if len(members) > self.settings.sample:
                members = np.sort(rng.choice(members, size=self.settings.sample, replace=False))
            of_bin = {int(candidate): loss(int(candidate)) for candidate in members}
            looked_at += len(of_bin)
            best = sorted(of_bin, key=lambda candidate: of_bin[candidate])[: self.settings.keep]
            losses.update({candidate: of_bin[candidate] for candidate in best})
        self.left = np.array(sorted(losses), dtype=int)
        return losses, looked_at

    def state_dict(self) -> dict[str, Any]:
        """Return the candidates that are left, and the bins, which measured costs may have decided."""
        return {"left": self.left.tolist(), "bins": self.bins.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that :meth:`state_dict` returned."""
        self.left = np.array(state["left"], dtype=int)
        self.bins = np.array(state["bins"], dtype=int)
