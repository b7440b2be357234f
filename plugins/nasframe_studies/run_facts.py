"""What is read of each run of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class RunFacts:
    """What one run adds to a comparison beside its scores."""

    arm: str
    task: str
    seed: int
    ledger: Mapping[str, float]  # role → MACs
    front: Sequence[tuple[float, ...]]  # (score on select, cost …)
    full: Mapping[str, float]  # cost → that of the full network, where it is known
    metric: str  # of scores, and of curves of training
    aim: str  # what the search's scores are, and so the front and its curves
    cost: str  # of the front: what the searches' budgets bound
    curves: Mapping[tuple[str, str], tuple[list[float], list[float]]]  # (what, axis) → x, score
    data: Mapping[str, Any]  # fingerprint, sizes, labels and primary metric of the task
    conditions: Mapping[str, Sequence[str]]  # machine, threads, versions, precision; see conditions.py
    formats: Mapping[str, Any] = field(default_factory=dict)  # metric → how it reads
