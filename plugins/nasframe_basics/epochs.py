"""One epoch of training batches, for tasks that keep all examples in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nasframe.records import Batch


@dataclass(frozen=True)
class EpochBatches:
    """The batches of an epoch. Each is made when it is read; any can be read, so that a resume skips for free.

    Args:
        gather: makes a batch of the examples at some positions of a split.
        order: the positions in ``train``, batch by batch.
    """

    gather: Callable[[str, np.ndarray], Batch]
    order: Sequence[np.ndarray]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> Batch:
        return self.gather("train", self.order[position])

    def __iter__(self) -> Iterator[Batch]:
        return (self.gather("train", index) for index in self.order)


def cut(order: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut an order of examples into batches; the last one may be smaller.

    >>> [batch.tolist() for batch in cut(np.arange(5), 2)]
    [[0, 1], [2, 3], [4]]
    """
    return [order[start : start + size] for start in range(0, len(order), size)]
