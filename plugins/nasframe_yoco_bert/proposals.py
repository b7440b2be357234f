"""Proposals that wait for their scores, and the members of an update that they become."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

from nasframe.records import Arch

FORGET = 10_000  # open proposals; beyond that they are given up, because nobody seems to score them


class Member(NamedTuple):
    """A proposal that has been scored.

    Args:
        positions: of its values in the dimensions of the domain.
        score: ``None`` if it could not be evaluated.
        weight: its weight as a sample of the distribution.
    """

    positions: list[int]
    score: float | None
    weight: float


class Proposals:
    """Remembers how each architecture was proposed until it is scored; one may be proposed several times."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[list[Any]]] = {}

    def add(self, arch: Arch, positions: list[int], weight: float) -> None:
        """Remember a proposal."""
        self.waiting.setdefault(str(arch), []).append([positions, weight])

    def take(self, arch: Arch, score: float | None) -> Member | None:
        """Return the oldest open proposal of an architecture as a scored member, or ``None`` if there is none."""
        key = str(arch)
        if key not in self.waiting:
            return None
        positions, weight, *_ = self.waiting[key].pop(0)
        if not self.waiting[key]:
            del self.waiting[key]
        return Member(positions, score, weight)

    def clear(self) -> None:
        """Forget all proposals."""
        self.waiting.clear()

    def forget_if_many(self) -> None:
        """Forget all proposals if so many are open that nobody can be going to score them."""
        if len(self.waiting) > FORGET:
            self.waiting.clear()

    def state(self) -> dict[str, Any]:
        """Return the open proposals, JSON-plain."""
        return copy.deepcopy(self.waiting)

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over open proposals."""
        self.waiting = copy.deepcopy(dict(state))
