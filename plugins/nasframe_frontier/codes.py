"""Architectures as rows of integers, so that hundreds of candidates are made and compared by a few array operations."""

from __future__ import annotations

from typing import Any

import numpy as np

from nasframe.errors import UsageError
from nasframe.types import Arch


class Codes:
    """Translates the architectures of a domain: the position of each knob's value, the number of values if inactive.

    Joined dimensions are taken apart, for knobs are what costs and scores depend on.

    Args:
        domain: a domain of knobs, such as :class:`nasframe.domain.Choices`.

    >>> from nasframe.domain import Choices
    >>> codes = Codes(Choices({"layers": [1, 2], "ffn": [8, 16, 32]}, {"ffn": ("layers", [2])}))
    >>> codes.row({"layers": 1}).tolist(), codes.arch(codes.row({"layers": 2, "ffn": 32}))
    ([0, 3], {'layers': 2, 'ffn': 32})
    """

    def __init__(self, domain: Any) -> None:
        if not (hasattr(domain, "encode") and hasattr(domain, "joined")):
            raise UsageError(f"sampler 'frontier' needs a domain of knobs, but got {type(domain).__name__}")
        self.domain = domain.joined({})
        self.sizes = np.array(self.domain.shape)
        self.starts = np.cumsum(self.sizes + 1) - self.sizes - 1
        self.width = int((self.sizes + 1).sum())
        self.rules: list[tuple[int, np.ndarray]] = []
        names = list(self.domain.dims)
        for knob, size in enumerate(self.sizes):  # which knobs are there, for every value of this one
            probes = np.zeros((size, len(names)), int)
            probes[:, knob] = range(size)
            present = np.array([[name in arch for name in names] for arch in map(self.domain.decode, probes.tolist())])
            varies = present.any(0) & ~present.all(0)
            if varies.any():
                self.rules.append((knob, present | ~varies))

    def row(self, arch: Arch) -> np.ndarray:
        """Return ``(knobs,)`` integers; raises DomainError for what the domain does not have."""
        return self.settled(self.domain.encode(arch)[None])[0]

    def arch(self, row: np.ndarray) -> dict[str, Any]:
        """Return the canonical architecture of a row."""
        return self.domain.decode(np.where(row < self.sizes, row, 0).tolist())

    def settled(self, rows: np.ndarray) -> np.ndarray:
        """Mark inactive knobs, so that equal networks have equal rows."""
        for parent, present in self.rules:
            rows = np.where(present[rows[:, parent]], rows, self.sizes)
        return rows

    def flags(self, rows: np.ndarray) -> np.ndarray:
        """Return ``(rows, width)``: 1 at the value that each knob has, *inactive* being one of its values."""
        flags = np.zeros((len(rows), self.width))
        flags[np.arange(len(rows))[:, None], rows + self.starts] = 1.0
        return flags

    def rows(self, flags: np.ndarray) -> np.ndarray:
        """Return the rows of flags; the inverse of :meth:`flags`."""
        return np.nonzero(flags)[1].reshape(len(flags), -1) - self.starts

    def distances(self, order: float) -> np.ndarray:
        """Return ``(width, width)`` distances between values of a knob, 0 between different knobs.

        A mixture: 1 between any two values, and how far apart they are in the knob's order, ``order`` of it.
        """
        table = np.zeros((self.width, self.width))
        for start, size in zip(self.starts, self.sizes, strict=True):
            place = np.append(np.linspace(0, 1, size), 0.0)  # what is absent is closest to the smallest
            far = np.abs(place[:, None] - place) * order + (1 - order) * (1 - np.eye(size + 1))
            table[start : start + size + 1, start : start + size + 1] = far
        return table
