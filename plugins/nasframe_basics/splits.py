"""Splits of examples: ``select`` and ``dev`` are carved out of training data, and rows of one text stay together.

Repeats are common in real data. If some copies of a text were trained on and another one measured, the score would be
too good; if all but one were dropped, a user would lose rows without knowing. So :func:`carve` moves all rows of a
text, or of a pair of texts, to one side, and drops none. Data without repeats are split as if there were no groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nasframe.errors import UsageError
from nasframe.seeds import generator


@dataclass(frozen=True)
class Split:
    """Examples as read.

    Args:
        texts: one or two texts an example.
        labels: ``(examples,)`` class indices, or floats for regression.
    """

    texts: Sequence[tuple[str, ...]]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, index: np.ndarray) -> Split:
        """Return the examples at ``index``, in that order."""
        return Split([self.texts[i] for i in index], self.labels[index])


def same_texts(texts: Sequence[tuple[str, ...]]) -> np.ndarray:
    """Number examples by their texts: equal texts (of a pair, both) share a number, by first appearance.

    >>> same_texts([("a",), ("b",), ("a",)]).tolist()
    [0, 1, 0]
    """
    numbers: dict[tuple[str, ...], int] = {}
    found = [numbers.setdefault(text, len(numbers)) for text in texts]
    return np.array(found, dtype=np.int64)


def stratified(labels: np.ndarray, rng: np.random.Generator, sizes: np.ndarray | None = None) -> np.ndarray:
    """Order examples so that every prefix holds the classes in their overall shares; floats are one class.

    Args:
        labels: ``(examples,)``.
        rng: draws the order within a class.
        sizes: where these are groups of rows, ``(groups,)`` rows of each: shares are then of the rows.

    >>> labels = np.array([0, 0, 0, 0, 1, 1])
    >>> sorted(labels[stratified(labels, np.random.default_rng(0))[:3]].tolist())
    [0, 0, 1]
    """
    key = np.empty(len(labels))
    rows = np.ones(len(labels), int) if sizes is None else sizes
    classes = labels if labels.dtype.kind != "f" else np.zeros(len(labels), int)
    for label in np.unique(classes):
        members = rng.permutation(np.flatnonzero(classes == label))
        ends = np.cumsum(rows[members])
        key[members] = (ends - rows[members] / 2) / ends[-1]
    return np.argsort(key, kind="stable")


def carve(data: Split, select: str | float, limit: int | None, seed: int, name: str = "select") -> tuple[Split, Split]:
    """Split training data into what stays and ``select``, stratified; rows of one text stay together, none is dropped.

    Args:
        data: all training examples.
        select: a share (``"10%"``) of the training examples, or a number of examples. Where groups of equal texts do
            not add up to it, the nearest number that they do is taken.
        limit: examples that stay at most; a share is then of this number.
        seed: draws both.
        name: what the carved part is called.

    Raises:
        UsageError: ``select`` is no share or number, or leaves nothing on one side.
    """
    whole = len(data)
    wanted = portion(select, min(limit or whole, whole), name)
    group = same_texts(data.texts)
    sizes = np.bincount(group)
    chosen = np.isin(group, _chosen_groups(_group_labels(data.labels, group), sizes, wanted, generator(seed, name)))
    if not chosen.any() or chosen.all():
        texts = "1 distinct text" if len(sizes) == 1 else f"{len(sizes):,} distinct texts"
        raise UsageError(
            f"{name}: {select!r} of {whole:,} examples cannot be set apart: they hold only {texts}, the rarest in"
            f" {sizes.min():,} examples, and examples of one text stay together. Expected more distinct texts, or"
            f" another share than {wanted:,} examples."
        )
    rest = np.flatnonzero(~chosen)
    if limit is not None and limit < len(rest):
        rest = np.sort(rest[stratified(data.labels[rest], generator(seed, "limit"))[:limit]])
    return data.take(rest), data.take(np.flatnonzero(chosen))


def _chosen_groups(labels: np.ndarray, sizes: np.ndarray, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Choose groups of ``wanted`` rows together, in which the classes have their shares.

    Args:
        labels: ``(groups,)`` the class of each.
        sizes: ``(groups,)`` its rows.
        wanted: rows to choose.
        rng: draws the order.
    """
    order = stratified(labels, rng, sizes)
    if sizes.max() == 1:
        return order[:wanted]
    rows = np.repeat(labels[order], sizes[order])
    quotas = np.bincount(rows[:wanted], minlength=int(labels.max()) + 1)
    counts = np.bincount(labels)

    # What large groups leave over of a class's quota goes to the next class. The one of the most groups comes last:
    # it is the most likely to make the total exact.
    taken: list[int] = []
    missing = 0
    for label in np.argsort(counts, kind="stable"):
        missing += int(quotas[label])
        chosen = _fill(order[labels[order] == label].tolist(), sizes, missing)
        missing -= int(sizes[chosen].sum())
        taken += chosen
    return np.array(taken, dtype=np.int64)


def _fill(order: list[int], sizes: np.ndarray, wanted: int) -> list[int]:
    """Take groups in order, except those that are too large for what is still wanted; at least one is left."""
    taken: list[int] = []
    left_out: list[int] = []
    missing = wanted
    for group in order:
        if sizes[group] <= missing and len(taken) < len(order) - 1:
            taken.append(group)
            missing -= int(sizes[group])
        else:
            left_out.append(group)
    if missing > 0 and len(left_out) > 1:
        smallest = min(left_out, key=lambda group: sizes[group])
        too_many = int(sizes[smallest]) - missing
        if too_many < missing:
            taken.append(smallest)
    return taken


def _group_labels(labels: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return the most frequent label of each group, the lowest of equally frequent ones; zeros for regression."""
    groups = int(group.max()) + 1
    if labels.dtype.kind == "f":
        return np.zeros(groups, dtype=np.int64)
    classes = int(labels.max()) + 1
    pairs, counts = np.unique(group * classes + labels, return_counts=True)
    rising = np.lexsort((-(pairs % classes), counts))  # the last one written wins
    most = np.empty(groups, dtype=np.int64)
    most[pairs[rising] // classes] = pairs[rising] % classes
    return most


def portion(value: str | float, whole: int, option: str) -> int:
    """Read a share (``"10%"``, ``0.1``) of ``whole``, or a number, as a number of examples.

    >>> portion("10%", 250, "select"), portion(40, 250, "select")
    (25, 40)
    """
    try:
        number = float(str(value)[:-1]) / 100 * whole if str(value).endswith("%") else float(value)
    except ValueError:
        number = -1
    if not isinstance(value, str) and 0 < value < 1:
        number = value * whole
    number = round(number)
    if not 0 < number < whole:
        raise UsageError(
            f'{option}: {value!r} of {whole} examples. Expected a share such as "10%" or a number below {whole}.'
        )
    return number
