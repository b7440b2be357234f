"""Summary of the data: the numbers that a run shows before training, and notices about what a user should know.

Two texts are *copies* if they are equal, and *near copies* if they are equal after Unicode normalisation (NFKC), case
folding, and dropping everything except letters, digits and the marks on them. In pairs, both texts must be. Copies are
looked up by hash, so that a million rows take seconds. Near copies are counted in small data only, since the keys of
all texts would take longer to compute than the texts to read.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nasframe.errors import suggestion
from nasframe.labels import are_independent
from nasframe.notices import Notice, Notify
from nasframe.records import DataSource, DataSummary, SplitSummary
from nasframe_basics.splits import Split, label_counts, same_texts

Texts = tuple[str, ...]

MEASURED = 2000
"""How many texts of a split are tokenised to measure their lengths; of a larger split a sample."""
LONGEST = 500
"""How many of the texts in a sample are the longest by characters."""
ENDLESS = 10_000_000
"""A number of tokens at which nothing is cut."""
NEAR_ROWS = 50_000
"""Rows of all splits together up to which near copies are counted."""
LISTED = 5
"""How many classes a notice names."""

# For str.translate, which takes a fraction of the time of a loop over characters; most texts are ASCII.
_DROPPED = {code: None for code in range(128) if not chr(code).isalnum()}


@dataclass(frozen=True)
class Source:
    """The examples of one file, or of one split of a hub data set.

    Args:
        split: the split that it becomes.
        name: the file.
        data: its examples.
        places: file and row of each.
        left_out: the places of broken rows.
        notices: oddities of the file.
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
        return DataSource(self.split, self.name, rows=len(self.data), left_out=len(self.left_out))


def summarise(
    splits: Mapping[str, Split],
    labels: Sequence[str] | None,
    sources: Sequence[DataSource] = (),
    tokenizer: Any = None,
    max_length: int | None = None,
    noun: str = "text",
) -> DataSummary:
    """Count what became of the data, split by split.

    Args:
        splits: the task's splits.
        labels: its class names; :class:`~nasframe.labels.IndependentLabels` if several may hold; ``None`` for
            regression.
        sources: the files that were read.
        tokenizer: measures lengths, if there is one.
        max_length: tokens at which a text is cut.
        noun: what an example is, in the singular.

    >>> data = {"train": Split([("Good!",), ("good",)], np.array([1, 1])), "dev": Split([("GOOD",)], np.array([1]))}
    >>> train, dev = summarise(data, ["bad", "good"]).splits
    >>> train.near, dev.in_train, dev.near_train
    (1, 0, 1)
    """
    if tokenizer is not None and max_length is not None:
        max_length = min(max_length, tokenizer.model_max_length)
    rows_used = sum(len(split) for split in splits.values())
    near_keys = _near_keys(splits) if rows_used <= NEAR_ROWS else None
    conflicting = _conflicting(splits)
    train_texts: set[Texts] = set()
    if "train" in splits:  # a task may only measure
        train_texts = set(splits["train"].texts)

    summaries = []
    for name, split in splits.items():
        summary = _counted(name, split, labels, near_keys, conflicting[name])
        if name != "train":
            copies, near_copies = _copies(split.texts, train_texts, near_keys)
            summary = replace(summary, in_train=copies, near_train=near_copies)
        if tokenizer is not None and max_length is not None:
            longest, share_cut, measured = token_lengths(tokenizer, split.texts, max_length)
            summary = replace(summary, longest=longest, cut=share_cut, measured=measured)
        summaries.append(summary)

    rows_read = sum(source.rows for source in sources)
    return DataSummary(
        sources=tuple(sources),
        splits=tuple(summaries),
        labels=None if labels is None else list(labels),
        unused=max(rows_read - rows_used, 0),  # a task that is given without sources has read no rows
        max_length=max_length,
        noun=noun,
        independent=are_independent(labels),
    )


def _counted(
    name: str,
    split: Split,
    labels: Sequence[str] | None,
    near_keys: Mapping[Texts, Texts] | None,
    conflicting: int,
) -> SplitSummary:
    """Return the numbers that every split has; without ``near_keys``, near copies are not counted."""
    distinct = set(split.texts)
    near = None
    if near_keys is not None:
        distinct_keys = {near_keys[texts] for texts in distinct}
        near = len(distinct) - len(distinct_keys)
    classes = None
    if labels is not None:
        classes = label_counts(split.labels, len(labels)).tolist()
    without_label = None
    if are_independent(labels):
        without_label = len(split) - int(np.count_nonzero(split.labels.any(axis=1)))
    return SplitSummary(
        name=name,
        rows=len(split),
        texts=len(distinct),
        near=near,
        in_train=None,
        near_train=None,
        conflicting=conflicting,
        classes=classes,
        without_label=without_label,
    )


def _copies(
    texts: Sequence[Texts], train: set[Texts], near_keys: Mapping[Texts, Texts] | None
) -> tuple[int, int | None]:
    """Count the texts that are copies of training texts, and those that are only near copies, if these are counted."""
    others = [example for example in texts if example not in train]
    copies = len(texts) - len(others)
    if near_keys is None:
        return copies, None
    train_keys = {near_keys[example] for example in train}
    near_copies = sum(near_keys[example] in train_keys for example in others)
    return copies, near_copies


def _near_keys(splits: Mapping[str, Split]) -> dict[Texts, Texts]:
    """Return the keys of all texts in the splits, each computed once."""
    keys: dict[Texts, Texts] = {}
    for split in splits.values():
        for texts in split.texts:
            if texts not in keys:  # repeats are common, and a key takes much longer than looking one up
                keys[texts] = tuple(near_key(text) for text in texts)
    return keys


def near_key(text: str) -> str:
    """Return a key that near copies of a text share; a text without letters and digits is its own key.

    >>> near_key("It's  GOOD."), near_key("Ｎａïve"), near_key("?!")
    ('itsgood', 'naïve', '?!')
    """
    if text.isascii():
        key = text.lower().translate(_DROPPED)
    else:
        # Case folding can undo the normalisation of some characters, so it is done again afterwards.
        folded = unicodedata.normalize("NFKC", text).casefold()
        normal = unicodedata.normalize("NFKC", folded)
        key = "".join(character for character in normal if _counts(character))
    return key or text  # with an empty key, "?!" and ":-)" would be near copies


def _counts(character: str) -> bool:
    """Tell whether a character is a letter, a digit or a mark on one, as vowels are in many scripts."""
    if character.isalnum():
        return True
    category = unicodedata.category(character)
    return category.startswith("M")


def token_lengths(tokenizer: Any, texts: Sequence[Texts], max_length: int) -> tuple[int, float, int]:
    """Measure how many tokens texts have before they are cut.

    Args:
        tokenizer: a Hugging Face tokenizer.
        texts: one or two texts an example.
        max_length: tokens at which they are cut.

    Returns:
        The tokens of the longest, the share that is cut, and how many texts were tokenised: all of them or, of more
        than ``MEASURED``, the ``LONGEST`` by characters and others at even distances, which stand for the rest.
    """
    characters = [len("".join(example)) for example in texts]
    sample, weights = _sample(characters)
    sampled_texts = [texts[i] for i in sample]
    columns = [list(column) for column in zip(*sampled_texts, strict=True)]
    # Told to cut nothing, a tokenizer would warn of texts that are longer than the network can read.
    encoded = tokenizer(*columns, truncation=True, max_length=ENDLESS, return_attention_mask=False)
    lengths = np.array([len(ids) for ids in encoded["input_ids"]])
    is_cut = lengths > max_length
    share_cut = float(np.sum(weights * is_cut) / len(texts))
    return int(lengths.max()), share_cut, len(sample)


def _sample(characters: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Choose the texts to tokenise.

    Args:
        characters: the length of each text.

    Returns:
        The positions of the texts, and for each how many texts it stands for.
    """
    count = len(characters)
    if count <= MEASURED:
        return np.arange(count), np.ones(count)
    # The longest text of all is nearly always among the longest by characters, and so are most that are cut. Each of
    # these stands for itself.
    falling = np.argsort(-np.array(characters), kind="stable")
    longest = falling[:LONGEST]
    others = np.sort(falling[LONGEST:])
    positions = np.linspace(0, len(others) - 1, MEASURED - LONGEST)  # at even distances
    sampled_others = others[positions.astype(int)]
    weights = np.ones(MEASURED)
    weights[LONGEST:] = len(others) / len(sampled_others)
    return np.concatenate([longest, sampled_others]), weights


def _conflicting(splits: Mapping[str, Split]) -> dict[str, int]:
    """Count, split by split, the rows whose text has another label in another row of any split."""
    texts: list[Texts] = []
    for split in splits.values():
        texts += split.texts
    labels = np.concatenate([split.labels for split in splits.values()])
    marked = in_conflict(texts, labels)
    counts = {}
    start = 0
    for name, split in splits.items():
        end = start + len(split)
        in_split = marked[start:end]
        counts[name] = int(in_split.sum())
        start = end
    return counts


def in_conflict(texts: Sequence[Texts], labels: np.ndarray) -> np.ndarray:
    """Mark the examples whose text has several labels.

    >>> in_conflict([("a",), ("b",), ("a",)], np.array([0, 1, 1])).tolist()
    [True, False, True]
    """
    groups = same_texts(texts)
    _, label_numbers = np.unique(labels, axis=0, return_inverse=True)  # labels may be scores, or sets of labels
    pairs = np.stack([groups, label_numbers.reshape(-1)])
    distinct_pairs = np.unique(pairs, axis=1)
    labels_of_group = np.bincount(distinct_pairs[0])
    has_several = labels_of_group > 1
    return has_several[groups]


def pass_on(notices: Iterable[Notice], notify: Notify) -> None:
    """Give notices to ``notify``, one after the other."""
    for notice in notices:
        notify(notice.place, notice.text)


def data_notices(sources: Sequence[Source], labels: Sequence[str] | None, noun: str = "text") -> Iterator[Notice]:
    """Yield what a user should know about the data before they are split.

    Args:
        sources: the files that were read; the first is the training data.
        labels: the class names, or ``None`` for regression.
        noun: what an example is, in the singular.
    """
    label_noun = "scores" if labels is None else "labels"
    for source in sources:
        yield from source.notices
        yield from _broken_rows(source)
        yield from _empty_texts(source)
        yield from _several_labels(source, label_noun, noun)
    train = sources[0]
    if labels is not None:
        yield from _single_examples(train, labels)
    train_texts = set(train.data.texts)
    for source in sources[1:]:
        shared = sum(texts in train_texts for texts in source.data.texts)
        if shared:
            rows = f"{shared:,} of {len(source.data):,} rows"
            article = "an" if noun[0] in "aeiou" else "a"
            text = f"{rows} have {article} {noun} that stands in {train.name} too."
            yield Notice(source.name, f"{text} They are kept; scores on them say little about new {noun}s.")


def split_notices(splits: Mapping[str, Split], labels: Sequence[str] | None) -> Iterator[Notice]:
    """Yield what a user should know about the splits: classes that nothing is trained on.

    Args:
        splits: the task's splits.
        labels: the class names, or ``None`` for regression.
    """
    if labels is None:
        return
    # Classes are those of the whole file; a limit, or the carving of small splits, may leave none of a rare one.
    counts = label_counts(splits["train"].labels, len(labels))
    absent = np.flatnonzero(counts == 0).tolist()
    if absent:
        names = _named([labels[i] for i in absent], labels)
        yield Notice("task", f"No training example is left of {names}.")


def _broken_rows(source: Source) -> Iterator[Notice]:
    count = len(source.left_out)
    if count:
        rows = "1 row has" if count == 1 else f"{count:,} rows have"
        yield Notice(source.left_out[0], f"{rows} too few columns in {source.name} and are left out.")


def _empty_texts(source: Source) -> Iterator[Notice]:
    empty = []
    for place, texts in zip(source.places, source.data.texts, strict=True):
        if not all(text.strip() for text in texts):
            empty.append(place)
    if len(empty) == 1:
        yield Notice(empty[0], "1 text is empty. It is kept.")
    elif empty:
        yield Notice(empty[0], f"{len(empty):,} texts are empty, the first here. They are kept.")


def _several_labels(source: Source, label_noun: str, noun: str) -> Iterator[Notice]:
    """Yield a notice that texts have several labels; it names two rows to compare."""
    texts = source.data.texts
    labels = source.data.labels
    marked = np.flatnonzero(in_conflict(texts, labels)).tolist()
    if not marked:
        return
    first = marked[0]
    same_text = [row for row in marked if texts[row] == texts[first]]
    other = next(row for row in same_text if np.any(labels[row] != labels[first]))  # in_conflict marks none without one
    several = {texts[row] for row in marked}
    count = len(several)
    subject = f"1 {noun} has" if count == 1 else f"{count:,} {noun}s have"
    # The first row is the notice's place, so that an editor opens it; the other shows what it differs from.
    place, other_place = source.places[first], source.places[other]
    yield Notice(
        place,
        f"{subject} different {label_noun} in {len(marked):,} rows; compare this row with {other_place}.",
    )


def _single_examples(train: Source, labels: Sequence[str]) -> Iterator[Notice]:
    """Yield a notice that classes have one example only."""
    counts = label_counts(train.data.labels, len(labels))
    single = np.flatnonzero(counts == 1).tolist()
    if single:
        has_label = train.data.labels == single[0]
        if are_independent(labels):
            has_label = train.data.labels[:, single[0]] == 1
        row = int(np.flatnonzero(has_label)[0])
        names = _named([labels[i] for i in single], labels)
        text = f"There is only one example of {names}, which can be in one split only."
        others = [name for position, name in enumerate(labels) if counts[position] > 1]
        hint = suggestion(labels[single[0]], others) if len(single) == 1 else ""
        yield Notice(train.places[row], text + hint)


def _named(names: Sequence[str], labels: Sequence[str]) -> str:
    """Name some of the task's classes, the first ``LISTED`` of them: ``classes 'a', 'b' and 3 more``."""
    singular, plural = ("label", "labels") if are_independent(labels) else ("class", "classes")
    noun = singular if len(names) == 1 else plural
    listed = ", ".join(repr(name) for name in names[:LISTED])
    if len(names) > LISTED:
        listed += f" and {len(names) - LISTED:,} more"
    return f"{noun} {listed}"
