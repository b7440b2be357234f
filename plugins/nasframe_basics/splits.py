"""Splits of examples: ``select`` and ``dev`` are carved out of training data, and rows with one text stay together.

Repeats are common in real data. If some copies of a text were trained on and another one measured, the score would be
too good; if all but one were dropped, a user would lose rows without knowing. So :func:`carve` moves all rows with the
same text, or pair of texts, to one side, and drops none. Data without repeats are split as if there were no groups.
"""

from __future__ import annotations

import contextlib
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
        labels: ``(examples,)`` class indices, or floats for regression; ``(examples, labels)``, 0 or 1, if several
            labels may hold for an example.
    """

    texts: Sequence[tuple[str, ...]]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, index: np.ndarray) -> Split:
        """Return the examples at ``index``, in that order."""
        texts = [self.texts[i] for i in index]
        return Split(texts, self.labels[index])


def same_texts(texts: Sequence[tuple[str, ...]]) -> np.ndarray:
    """Number examples by their texts: equal texts (in pairs, both) share a number, in the order of first appearance.

    >>> same_texts([("a",), ("b",), ("a",)]).tolist()
    [0, 1, 0]
    """
    numbers: dict[tuple[str, ...], int] = {}
    groups = [numbers.setdefault(text, len(numbers)) for text in texts]
    return np.array(groups, dtype=np.int64)


def label_counts(labels: np.ndarray, count: int) -> np.ndarray:
    """Count the examples of each of ``count`` classes, or those for which each of ``count`` labels holds.

    >>> label_counts(np.array([0, 1, 1]), 3).tolist(), label_counts(np.array([[1, 0], [1, 1]]), 2).tolist()
    ([1, 2, 0], [2, 1])
    """
    if labels.ndim == 2:
        return np.count_nonzero(labels, axis=0)
    return np.bincount(labels, minlength=count)


def strata(labels: np.ndarray) -> np.ndarray:
    """Return the class by which each example is dealt into splits, ``(examples,)``.

    Of an example with several labels it is the rarest of them, since the shares of common labels come out right anyhow;
    examples without a label are a class of their own.

    Args:
        labels: as :class:`Split` has them.

    >>> strata(np.array([[1, 1], [1, 0], [1, 0], [0, 0]])).tolist()
    [1, 0, 0, 2]
    """
    if labels.ndim == 1:
        return labels
    count = labels.shape[1]
    rarest_first = np.argsort(label_counts(labels, count), kind="stable")
    classes = np.full(len(labels), count)
    for label in rarest_first[::-1]:  # the rarest is written last, and stays
        classes[labels[:, label] == 1] = label
    return classes


def stratified(labels: np.ndarray, rng: np.random.Generator, sizes: np.ndarray | None = None) -> np.ndarray:
    """Order examples so that every prefix holds the classes in their overall shares; floats are one class.

    Args:
        labels: ``(examples,)``, see :func:`strata`.
        rng: draws the order within a class.
        sizes: if the examples are groups of rows, ``(groups,)`` rows of each; shares are then shares of the rows.

    >>> labels = np.array([0, 0, 0, 0, 1, 1])
    >>> sorted(labels[stratified(labels, np.random.default_rng(0))[:3]].tolist())
    [0, 0, 1]
    """
    rows = np.ones(len(labels), int) if sizes is None else sizes
    is_regression = labels.dtype.kind == "f"
    classes = np.zeros(len(labels), int) if is_regression else labels  # scores hardly repeat
    # Each example gets its place within its class, between 0 and 1; sorted by it, all classes run out together.
    places = np.empty(len(labels))
    for label in np.unique(classes):
        members = rng.permutation(np.flatnonzero(classes == label))
        member_rows = rows[members]
        ends = np.cumsum(member_rows)
        middles = ends - member_rows / 2  # with the ends, the last examples of all classes would tie
        places[members] = middles / ends[-1]
    return np.argsort(places, kind="stable")


def carve(data: Split, select: str | float, limit: int | None, seed: int, name: str = "select") -> tuple[Split, Split]:
    """Split training data into the rest and ``select``, stratified; rows with one text stay together, none is dropped.

    Args:
        data: all training examples.
        select: a share (``"10%"``) of the training examples, or a number of examples. If groups of equal texts do not
            add up to it, the nearest possible number is taken.
        limit: the largest number of examples in the rest; a share is then of this number.
        seed: draws both.
        name: the name of the carved part, for messages.

    Raises:
        UsageError: ``select`` is no share or number, or leaves nothing on one side.
    """
    whole = len(data)
    most = min(limit or whole, whole)
    wanted = portion(select, most, name)
    # Groups of rows with one text are dealt out, not rows. If no text repeats, each row is a group of its own.
    groups = same_texts(data.texts)
    sizes = np.bincount(groups)
    classes = strata(data.labels)
    labels = _group_labels(classes, groups)
    # The name is a part of the seed: `dev` and `select` are drawn independently.
    chosen_groups = _chosen_groups(labels, sizes, wanted, generator(seed, name))
    chosen = np.isin(groups, chosen_groups)
    if not chosen.any() or chosen.all():
        texts = "1 distinct text" if len(sizes) == 1 else f"{len(sizes):,} distinct texts"
        raise UsageError(
            f"{name}: {select!r} of {whole:,} examples cannot be set apart: they have only {texts}, the rarest in"
            f" {sizes.min():,} examples, and examples with one text stay together. Expected more distinct texts, or"
            f" another share than {wanted:,} examples."
        )
    rest = np.flatnonzero(~chosen)
    # Cut after `select` was chosen: if it is a number of examples, it holds the same ones whatever the limit.
    if limit is not None and limit < len(rest):
        rest_labels = classes[rest]
        order = stratified(rest_labels, generator(seed, "limit"))
        rest = np.sort(rest[order[:limit]])
    carved = np.flatnonzero(chosen)
    return data.take(rest), data.take(carved)


def _chosen_groups(labels: np.ndarray, sizes: np.ndarray, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Choose groups that have ``wanted`` rows in all, with each class in its share.

    Args:
        labels: ``(groups,)`` the class of each.
        sizes: ``(groups,)`` the rows of each.
        wanted: rows to choose.
        rng: draws the order.
    """
    order = stratified(labels, rng, sizes)
    if sizes.max() == 1:  # no repeats
        return order[:wanted]
    # A class's quota is what it would get if the rows of the groups could be separated.
    classes = int(labels.max()) + 1
    rows = np.repeat(labels[order], sizes[order])
    quotas = np.bincount(rows[:wanted], minlength=classes)
    counts = np.bincount(labels)

    # If large groups leave a part of a class's quota open, it goes to the next class. The class with the most groups
    # comes last, since it is the most likely to make the total exact.
    taken: list[int] = []
    missing = 0
    for label in np.argsort(counts, kind="stable"):
        missing += int(quotas[label])
        groups_of_class = order[labels[order] == label]
        chosen = _fill(groups_of_class.tolist(), sizes, missing)
        missing -= int(sizes[chosen].sum())
        taken += chosen
    return np.array(taken, dtype=np.int64)


def _fill(order: list[int], sizes: np.ndarray, wanted: int) -> list[int]:
    """Take groups in order, except those with more rows than are still missing; at least one group is not taken."""
    taken: list[int] = []
    left_out: list[int] = []
    missing = wanted
    for group in order:
        is_last = len(taken) == len(order) - 1  # it stays in the training data, or the class would not be trained
        if sizes[group] <= missing and not is_last:
            taken.append(group)
            missing -= int(sizes[group])
        else:
            left_out.append(group)
    if missing > 0 and len(left_out) > 1:  # one group more may come nearer to the wanted number
        smallest = min(left_out, key=lambda group: sizes[group])
        too_many = int(sizes[smallest]) - missing
        if too_many < missing:
            taken.append(smallest)
    return taken


def _group_labels(labels: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return the most frequent label of each group, the lowest of equally frequent ones; zeros for regression.

    Args:
        labels: ``(examples,)``.
        group: ``(examples,)`` the number of each example's group.
    """
    groups = int(group.max()) + 1
    if labels.dtype.kind == "f":
        return np.zeros(groups, dtype=np.int64)
    classes = int(labels.max()) + 1
    pair_codes = group * classes + labels  # one number for each pair of group and label
    pairs, counts = np.unique(pair_codes, return_counts=True)
    pair_groups, pair_labels = np.divmod(pairs, classes)
    # Written in this order, the last one stays: the most frequent label, the lowest of equals.
    order = np.lexsort((-pair_labels, counts))
    most_frequent = np.empty(groups, dtype=np.int64)
    most_frequent[pair_groups[order]] = pair_labels[order]
    return most_frequent


def portion(value: str | float, whole: int, option: str) -> int:
    """Return the number of examples that a share (``"10%"``, ``0.1``) of ``whole``, or a number, stands for.

    >>> portion("10%", 250, "select"), portion(40, 250, "select")
    (25, 40)
    """
    number = -1.0  # of text that is no number; refused below like other numbers out of range
    with contextlib.suppress(ValueError):
        if isinstance(value, str) and value.endswith("%"):
            number = float(value[:-1]) / 100 * whole
        elif not isinstance(value, str) and 0 < value < 1:
            number = value * whole
        else:
            number = float(value)
    count = round(number)
    if not 0 < count < whole:
        raise UsageError(
            f'{option}: {value!r} of {whole} examples. Expected a share such as "10%" or a number below {whole}.'
        )
    return count
