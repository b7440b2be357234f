"""What happened to the data: the numbers that a run shows before training, and what a user should be told.

Two texts are *copies* if they are equal, and *near copies* if they are equal after Unicode normalisation (NFKC), case
folding, and dropping all but letters, digits and the marks on them. Of a pair, both texts must be. Everything here is a
look-up of hashes, so that a million rows take seconds.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nasframe.notices import Notice
from nasframe.records import DataSource, DataSummary, SplitSummary
from nasframe_basics.splits import Split, same_texts

Texts = tuple[str, ...]

MEASURED = 2000
"""Texts of a split that are tokenised to see how long they are; of a larger split some, its longest among them."""
LONGEST = 500
"""So many of them are those of the most characters."""
ENDLESS = 10_000_000
"""A number of tokens at which nothing is cut."""
LISTED = 5
"""Classes that one notice names."""

_DROPPED = {code: None for code in range(128) if not chr(code).isalnum()}


@dataclass(frozen=True)
class Source:
    """The examples of one file, or of one split of a hub data set.

    Args:
        split: the split that it becomes.
        name: the file.
        data: its examples.
        places: file and row of each.
        left_out: places of broken rows.
        notices: what was odd about it.
    """

    split: str
    name: str
    data: Split
    places: Sequence[str]
    left_out: Sequence[str] = ()
    notices: Sequence[Notice] = ()

    @property
    def counts(self) -> DataSource:
        """How many rows were read."""
        return DataSource(self.split, self.name, len(self.data), len(self.left_out))


def summarise(
    splits: Mapping[str, Split],
    labels: Sequence[str] | None,
    sources: Sequence[DataSource] = (),
    tokenizer: Any = None,
    max_length: int | None = None,
) -> DataSummary:
    """Count what became of the data.

    Args:
        splits: the task's splits.
        labels: its class names, or ``None`` for regression.
        sources: what was read.
        tokenizer: to measure lengths with, if there is one.
        max_length: tokens at which a text is cut.

    >>> data = {"train": Split([("Good!",), ("good",)], np.array([1, 1])), "dev": Split([("GOOD",)], np.array([1]))}
    >>> train, dev = summarise(data, ["bad", "good"]).splits
    >>> train.near, dev.in_train, dev.near_train
    (1, 0, 1)
    """
    near_keys: dict[Texts, Texts] = {}
    for split in splits.values():
        for texts in split.texts:
            if texts not in near_keys:
                near_keys[texts] = tuple(near_key(text) for text in texts)
    conflicting = _conflicting(splits)
    train = set(splits["train"].texts) if "train" in splits else set()
    near_train = {near_keys[texts] for texts in train}

    if tokenizer is not None and max_length is not None:
        max_length = min(max_length, tokenizer.model_max_length)

    rows = []
    for name, split in splits.items():
        distinct = set(split.texts)
        in_train = near_in_train = None
        if name != "train":
            in_train = sum(text in train for text in split.texts)
            near_in_train = sum(near_keys[text] in near_train for text in split.texts) - in_train
        longest, cut, measured = None, None, 0
        if tokenizer is not None and max_length is not None:
            longest, cut, measured = token_lengths(tokenizer, split.texts, max_length)
        rows.append(
            SplitSummary(
                name=name,
                rows=len(split),
                texts=len(distinct),
                near=len(distinct) - len({near_keys[text] for text in distinct}),
                in_train=in_train,
                near_train=near_in_train,
                conflicting=conflicting[name],
                classes=None if labels is None else np.bincount(split.labels, minlength=len(labels)).tolist(),
                longest=longest,
                cut=cut,
                measured=measured,
            )
        )
    used = sum(len(split) for split in splits.values())
    unused = max(sum(source.rows for source in sources) - used, 0)
    return DataSummary(tuple(sources), tuple(rows), None if labels is None else list(labels), unused, max_length)


def near_key(text: str) -> str:
    """Return what near copies of a text share; a text without letters and digits is near to itself alone.

    >>> near_key("It's  GOOD."), near_key("Ｎａïve"), near_key("?!")
    ('itsgood', 'naïve', '?!')
    """
    if text.isascii():
        key = text.lower().translate(_DROPPED)
    else:
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        key = "".join(c for c in folded if c.isalnum() or unicodedata.category(c).startswith("M"))
    return key or text


def token_lengths(tokenizer: Any, texts: Sequence[Texts], max_length: int) -> tuple[int, float, int]:
    """Measure how many tokens texts have before they are cut.

    Args:
        tokenizer: a Hugging Face tokenizer.
        texts: one or two texts an example.
        max_length: tokens at which they are cut.

    Returns:
        The tokens of the longest, the share that is cut, and how many were looked at: all, or of more than
        ``MEASURED`` the ``LONGEST`` by characters and others at even distances, which stand for the rest.
    """
    picked, weights = _picked([sum(map(len, text)) for text in texts])
    columns = [list(column) for column in zip(*(texts[i] for i in picked), strict=True)]
    encoded = tokenizer(*columns, truncation=True, max_length=ENDLESS, return_attention_mask=False)
    lengths = np.array([len(ids) for ids in encoded["input_ids"]])
    cut = float(np.sum(weights * (lengths > max_length)) / len(texts))
    return int(lengths.max()), cut, len(picked)


def _picked(characters: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Choose the texts to tokenise, and say how many texts each of them stands for."""
    count = len(characters)
    if count <= MEASURED:
        return np.arange(count), np.ones(count)
    falling = np.argsort(-np.array(characters), kind="stable")
    longest, others = falling[:LONGEST], np.sort(falling[LONGEST:])
    sample = others[np.linspace(0, len(others) - 1, MEASURED - LONGEST).astype(int)]
    weights = np.ones(MEASURED)
    weights[LONGEST:] = len(others) / len(sample)
    return np.concatenate([longest, sample]), weights


def _conflicting(splits: Mapping[str, Split]) -> dict[str, int]:
    """Count, split by split, the rows whose text has another label in another row of any split."""
    texts = [text for split in splits.values() for text in split.texts]
    labels = np.concatenate([split.labels for split in splits.values()])
    marked = in_conflict(texts, labels)
    counts, start = {}, 0
    for name, split in splits.items():
        counts[name] = int(marked[start : start + len(split)].sum())
        start += len(split)
    return counts


def in_conflict(texts: Sequence[Texts], labels: np.ndarray) -> np.ndarray:
    """Mark the examples whose text has several labels.

    >>> in_conflict([("a",), ("b",), ("a",)], np.array([0, 1, 1])).tolist()
    [True, False, True]
    """
    group = same_texts(texts)
    _, kinds = np.unique(labels, return_inverse=True)
    pairs = np.unique(np.stack([group, kinds.reshape(-1)]), axis=1)
    several = np.bincount(pairs[0]) > 1
    return several[group]


def data_notices(sources: Sequence[Source], labels: Sequence[str] | None) -> Iterator[Notice]:
    """Yield what a user should know about the data before it is split.

    Args:
        sources: what was read; the first is the training data.
        labels: the class names, or ``None`` for regression.
    """
    for source in sources:
        yield from source.notices
        yield from _broken_rows(source)
        yield from _empty_texts(source)
        yield from _several_labels(source, "labels" if labels is not None else "scores")
    train = sources[0]
    if labels is not None:
        yield from _single_examples(train, labels)
    known = set(train.data.texts)
    for source in sources[1:]:
        shared = sum(text in known for text in source.data.texts)
        if shared:
            yield Notice(
                source.name,
                f"{shared:,} of {len(source.data):,} rows have a text that stands in {train.name} too. They are kept;"
                " scores on them say little about new texts.",
            )


def split_notices(splits: Mapping[str, Split], labels: Sequence[str] | None) -> Iterator[Notice]:
    """Yield what a user should know about the splits: classes that nothing is trained on.

    Args:
        splits: the task's splits.
        labels: the class names, or ``None`` for regression.
    """
    if labels is None:
        return
    counts = np.bincount(splits["train"].labels, minlength=len(labels))
    absent = [name for name, count in zip(labels, counts, strict=True) if count == 0]
    if absent:
        yield Notice("task", f"No training example is left of {_named(absent, 'class', 'classes')}.")


def _broken_rows(source: Source) -> Iterator[Notice]:
    if source.left_out:
        rows = "1 row has" if len(source.left_out) == 1 else f"{len(source.left_out):,} rows have"
        yield Notice(source.left_out[0], f"{rows} too few columns in {source.name} and are left out.")


def _empty_texts(source: Source) -> Iterator[Notice]:
    empty = [place for place, texts in zip(source.places, source.data.texts, strict=True) if not _all_filled(texts)]
    if empty:
        text = "1 text is empty." if len(empty) == 1 else f"{len(empty):,} texts are empty, the first here."
        yield Notice(empty[0], f"{text} It is kept." if len(empty) == 1 else f"{text} They are kept.")


def _all_filled(texts: Texts) -> bool:
    return all(text and not text.isspace() for text in texts)


def _several_labels(source: Source, noun: str) -> Iterator[Notice]:
    marked = np.flatnonzero(in_conflict(source.data.texts, source.data.labels))
    if len(marked):
        first = source.data.texts[marked[0]]
        others = [i for i in marked[1:].tolist() if source.data.texts[i] == first]
        other = next(i for i in others if source.data.labels[i] != source.data.labels[marked[0]])
        texts = len({source.data.texts[i] for i in marked.tolist()})
        what = "1 text has" if texts == 1 else f"{texts:,} texts have"
        yield Notice(
            source.places[marked[0]],
            f"{what} different {noun} in {len(marked):,} rows; compare this row with {source.places[other]}.",
        )


def _single_examples(train: Source, labels: Sequence[str]) -> Iterator[Notice]:
    counts = np.bincount(train.data.labels, minlength=len(labels))
    single = np.flatnonzero(counts == 1)
    if len(single):
        row = int(np.flatnonzero(train.data.labels == single[0])[0])
        names = _named([labels[i] for i in single.tolist()], "class", "classes")
        yield Notice(train.places[row], f"There is only one example of {names}, which can be in one split only.")


def _named(names: Sequence[str], one: str, many: str) -> str:
    shown = ", ".join(repr(name) for name in names[:LISTED])
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return f"{one if len(names) == 1 else many} {shown}{more}"
