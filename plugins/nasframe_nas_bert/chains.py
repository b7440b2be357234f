"""The candidates of a block, as text: a width and a chain of operations, as in ``256: mha ffn conv3``.

A block of a free chain has any operation at each position, and identities at its end only, so that each network has one
form. A block with a pattern has a list of operations for each position, which may be left out (``-``) anywhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nasframe.errors import UsageError, listing, suggestion
from nasframe_nas_bert.networks import NOTHING

MOST = 400_000
"""Candidates of a block; each has an entry in every table."""


@dataclass(frozen=True)
class Chain:
    """One candidate of a block.

    Args:
        width: of its states.
        operations: the words of its operations, in order.
    """

    width: int
    operations: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.width}: {' '.join(self.operations)}"


@dataclass(frozen=True)
class Shape:
    """What the candidates of a block have in common.

    Args:
        widths: from small to large.
        slots: the operations that each position may have.
        free: whether a chain may end early, at any position but the first, instead of naming each position.
    """

    widths: Sequence[int]
    slots: Sequence[Sequence[str]]
    free: bool

    def count(self) -> int:
        """Return the number of candidates.

        At the published sizes (six positions, five operations at five widths, and identities at the end) these are
        5 · (5 + 5² + … + 5⁶):

        >>> words = ["mha", "ffn", "conv3", "conv5", "conv7"]
        >>> Shape([128, 192, 256, 384, 512], [words] * 6, free=True).count()
        97650
        """
        total = 0
        product = 1
        for slot in self.slots:
            product *= len(slot)
            total += product  # (N1): the chains that end here
        return len(self.widths) * (total if self.free else product)

    def candidates(self) -> list[Chain]:
        """Return all candidates, roughly from cheap to expensive."""
        lengths = range(1, len(self.slots) + 1) if self.free else [len(self.slots)]
        rough = {word: _squares(word) for slot in self.slots for word in slot}
        costs: list[tuple[float, int, int]] = []
        chains: list[Chain] = []
        for length in lengths:
            for operations in itertools.product(*self.slots[:length]):
                squares = sum(rough[word] for word in operations)
                for width in self.widths:
                    costs.append((squares * width**2, width, len(chains)))
                    chains.append(Chain(width, operations))
        return [chains[number] for _, _, number in sorted(costs)]

    def parsed(self, value: Any) -> Chain:
        """Return the candidate that a recipe means.

        Args:
            value: text as in ``256: mha ffn``, or ``{width: 256, operations: [mha, ffn]}``. Identities may be written
                anywhere in a free chain; they are moved to its end, where they mean nothing.

        Raises:
            UsageError: it is no candidate of this shape.

        >>> shape = Shape([64, 128], [["mha", "ffn"]] * 3, free=True)
        >>> str(shape.parsed({"width": 64, "operations": ["mha", "-", "ffn"]}))
        '64: mha ffn'
        """
        width: Any
        operations: tuple[str, ...]
        if isinstance(value, Mapping):
            width, operations = value.get("width"), tuple(value.get("operations") or ())
        else:
            before, _, after = str(value).partition(":")
            width = int(before) if before.strip().isdigit() else before
            operations = tuple(after.split())
        if self.free:
            operations = tuple(word for word in operations if word != NOTHING)
        if width not in self.widths:
            raise UsageError(f"{value!r}: no such width. Expected one of {listing(map(str, self.widths))}.")
        fewest = 1 if self.free else len(self.slots)
        if not fewest <= len(operations) <= len(self.slots):
            wanted = f"{fewest} to {len(self.slots)}" if self.free else str(len(self.slots))
            raise UsageError(f"{value!r}: has {len(operations)} operations. Expected {wanted}.")
        for position, word in enumerate(operations):
            if word not in self.slots[position]:
                slot = self.slots[position]
                raise UsageError(
                    f"{value!r}: no operation {word!r} at position {position}. Expected one of {listing(slot)}."
                    f"{suggestion(word, slot)}"
                )
        return Chain(width, operations)


def read(text: str) -> Chain:
    """Return a candidate from its text, which is known to be one.

    >>> read("256: mha ffn/2").operations
    ('mha', 'ffn/2')
    """
    width, _, operations = text.partition(":")
    return Chain(int(width), tuple(operations.split()))


def words_of(slots: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield each operation of some slots once, without the identity."""
    yield from dict.fromkeys(word for slot in slots for word in slot if word != NOTHING)


ROUGH: Mapping[str, float] = {"mha": 4.0, "ffn": 8.0, "conv": 1.0, "linear": 1.0}
"""Parameters of operations in squares of the width."""


def _squares(word: str) -> float:
    """Return the parameters of an operation in squares of the width, roughly."""
    kind, _, divisor = word.partition("/")
    if kind == NOTHING:
        return 0.0
    return ROUGH["conv" if kind.startswith("conv") else kind] / int(divisor or 1)
