"""What all text tasks share: tokens, length-bucketed batches, evaluation with predictions.

Texts are tokenised once, on first use, into one flat array; that of many texts is kept on the disk, see
:mod:`nasframe_basics.kept_tokens`. A batch is one gather from it, so that little time is spent outside the network. The
splits are ``train``, ``select`` (carved out of the training data) and ``dev``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from nasframe.errors import UsageError
from nasframe.notices import Notify, say
from nasframe.records import Batch, Count, DataSource, DataSummary, Portion
from nasframe.weights import refusal
from nasframe_basics.epochs import cut
from nasframe_basics.kept_tokens import KEPT_FROM, TOGETHER, kept_table, token_chunks
from nasframe_basics.labelled import UNLABELLED, LabelledTask
from nasframe_basics.splits import Split, carve
from nasframe_basics.summary import Source, pass_on, split_notices, summarise
from nasframe_basics.unlabelled import Unlabelled, add_unlabelled, with_texts

MAX_LENGTH = 128
"""Tokens after which texts are cut, unless the recipe says otherwise or the network can read fewer."""
WINDOW = 50
"""Batches that are sorted by length together."""
MOST_CANDIDATES = 20_000
"""Examples of a split that are tokenised once more to see which of them are cut."""


@dataclass(frozen=True)
class Tokens:
    """A split's token ids, example after example.

    Args:
        columns: input name (``input_ids``, ``token_type_ids``) → ``(tokens,)`` of the smallest type that holds them;
            they may be those of several splits.
        starts: ``(examples,)`` the position of each example's first token.
        lengths: ``(examples,)`` tokens of each example.
        padding: input name → the value after an example's end.
    """

    columns: Mapping[str, np.ndarray]
    starts: np.ndarray
    lengths: np.ndarray
    padding: Mapping[str, int]


class TextTask(LabelledTask):
    """Classify one or two texts, or score them on a line (regression).

    Args:
        splits: ``train``, ``select``, ``dev``; a ``dev_mismatched`` is measured together with ``dev``.
        labels: the class names in index order; :class:`~nasframe.labels.IndependentLabels` if several may hold for one
            text; ``None`` for regression.
        metrics: names from ``nasframe_basics.metrics.METRICS``.
        primary: the one of them that a search maximises.
        tokenizer: a Hugging Face tokenizer.
        max_length: tokens after which a text is cut; default: ``default_length``, or what the network can read if
            that is less.
        seed: draws the subset that ``evaluate(examples=n)`` measures.
        sources: the files that the splits were read from, for the summary.
        default_length: tokens after which a text is cut if ``max_length`` is not given.
        unlabelled: further training examples, without labels; :meth:`with_unlabelled` trains on them, too.
        notify: receives notices: texts are cut earlier than by default, or what becomes of the saved head.
        options: of :class:`~nasframe_basics.labelled.LabelledTask`.

    Attributes:
        metrics: how each metric is printed and compared.
        texts_per_example: 2 for pairs of texts, else 1.

    Raises:
        UsageError: a split is empty, outputs of the saved head cannot be told apart, or ``max_length`` is more than the
            network can read, or too few for a text.

    >>> data = {"dev": Split([("good",), ("bad",)], np.array([1, 0]))}
    >>> TextTask(data, ["no", "yes"], ["accuracy"], "accuracy").sizes
    {'dev': 2}
    """

    def __init__(
        self,
        splits: Mapping[str, Split],
        labels: Sequence[str] | None,
        metrics: Sequence[str],
        primary: str,
        tokenizer: Any = None,
        max_length: int | None = None,
        seed: int = 0,
        sources: Sequence[DataSource] = (),
        default_length: int = MAX_LENGTH,
        unlabelled: Sequence[tuple[str, ...]] = (),
        notify: Notify = say,
        **options: Any,
    ) -> None:
        columns = max((len(split.texts[0]) for split in splits.values() if len(split)), default=1)
        self.texts_per_example = columns
        self.max_length = cut_length(max_length, default_length, columns, tokenizer, notify)
        super().__init__(splits, labels, metrics, primary, seed, notify, **options)
        self._tokenizer = tokenizer
        self._notify = notify
        self._tokens: dict[str, Tokens] = {}
        self._sources = sources
        self._unlabelled = list(unlabelled)
        self._distils = False  # whether training batches hold the examples without labels
        self.has_unlabelled = bool(self._unlabelled)
        if self._unlabelled:
            self.fingerprint = with_texts(self.fingerprint, self._unlabelled)

    def with_unlabelled(self) -> TextTask:
        """Return the task with the examples without labels in its training batches, behind all others by their ids."""
        if not self._unlabelled:
            return self
        task = copy.copy(self)  # shares the tokens
        task._distils = True
        return task

    @cached_property
    def summary(self) -> DataSummary:
        """The data in numbers: rows, copies, classes and lengths, split by split."""
        summary = summarise(self._splits, self.labels, self._sources, self._tokenizer, self.max_length)
        if not self._unlabelled:
            return summary
        return add_unlabelled(summary, self._unlabelled, self._splits["train"], self._tokenizer)

    def training_texts(self) -> Iterator[str]:
        """Yield the training texts, from which a model may make a tokenizer; of a pair one after the other."""
        for texts in self._splits["train"].texts:
            yield from texts

    def readable(self, split: str, ids: Sequence[int]) -> list[str]:
        """Return examples of a split as texts, the two of a pair on lines of their own."""
        texts = self._splits[split].texts
        return ["\n".join(texts[place]) for place in ids]

    def cut_examples(self, split: str) -> list[int] | None:
        """Return the positions of the examples that ``max_length`` cuts.

        Returns:
            The positions, ascending; ``None`` if there are too many candidates to tokenise them once more.
        """
        candidates = np.flatnonzero(self.tokens(split).lengths >= self.max_length)  # cut, or just as long
        if len(candidates) > MOST_CANDIDATES:
            return None
        texts = self._splits[split].texts
        cut_ones = []
        for start in range(0, len(candidates), TOGETHER):
            places = candidates[start : start + TOGETHER].tolist()
            columns = [list(column) for column in zip(*(texts[place] for place in places), strict=True)]
            # Not verbose: tokenizers warn of texts that are longer than the network reads, which these may be.
            encoded = self._tokenizer(*columns, truncation=False, return_attention_mask=False, verbose=False)
            lengths = [len(ids) for ids in encoded["input_ids"]]
            cut_ones += [place for place, length in zip(places, lengths, strict=True) if length > self.max_length]
        return cut_ones

    def tokens(self, split: str) -> Tokens:
        """Return a split's tokens; it is tokenised the first time."""
        if split not in self._tokens:
            if self._tokenizer is None:
                raise UsageError(
                    "task: no tokenizer was given. Expected tokenizer=…, as a model's .tokenizer() returns."
                )
            if not self._read_kept_tokens():
                self._tokens[split] = tokenise(self._tokenizer, self._texts_of(split), self.max_length)
        return self._tokens[split]

    def _texts_of(self, split: str) -> Sequence[tuple[str, ...]]:
        """Return the texts of a split, those without labels behind the others of ``train``."""
        texts = self._splits[split].texts
        return [*texts, *self._unlabelled] if split == "train" else texts

    def _read_kept_tokens(self) -> bool:
        """Tokenise all splits, or take their tokens from the cache, if there are many texts; return whether it did."""
        texts = {split: self._texts_of(split) for split in self._splits}
        if sum(map(len, texts.values())) < KEPT_FROM:
            return False
        try:
            table = kept_table(self._tokenizer, list(texts.values()), self.max_length)
        except OSError as error:
            self._notify("task", f"Tokens are kept in memory, because nasframe's cache cannot keep them: {error}.")
            return False
        if table is None:
            return False
        padding = padding_of(self._tokenizer, table.columns)
        for split, its_texts in texts.items():
            starts, lengths = table.places(its_texts)
            self._tokens[split] = Tokens(table.columns, starts, lengths, padding)
        return True

    def batch(self, split: str, index: np.ndarray) -> Batch:
        """Gather the examples at ``index`` of a split, padded to the longest of them."""
        labels = self._splits[split].labels
        if split == "train" and self._unlabelled:
            labels = self._training_labels
        return collate(self.tokens(split), labels, index)

    @cached_property
    def _training_labels(self) -> np.ndarray:
        """``(training examples, …)`` the labels of all, those without one behind the others."""
        labels = self._splits["train"].labels
        missing = np.nan if self.labels is None else UNLABELLED
        shape = (len(self._unlabelled), *labels.shape[1:])
        return np.concatenate([labels, np.full(shape, missing, dtype=labels.dtype)])

    def reading_order(self, split: str, ids: np.ndarray) -> np.ndarray:
        """Return examples by length, so that little is padded."""
        lengths = self.tokens(split).lengths[ids]
        return np.argsort(lengths, kind="stable")

    def batches_of_epoch(self, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Deal the training examples into batches of about equal lengths."""
        lengths = self.tokens("train").lengths
        if not self._distils:
            lengths = lengths[: self.sizes["train"]]
        return bucketed(lengths, batch_size, rng)


def task_with_select(
    splits: Mapping[str, Split],
    labels: Sequence[str] | None,
    metrics: Sequence[str],
    select: Portion,
    train_limit: Count | None,
    *,
    sources: Sequence[Source],
    seed: int,
    notify: Notify,
    primary: str | None = None,
    unlabelled: Unlabelled | None = None,
    **options: Any,
) -> TextTask:
    """Make a task of data as they were read: ``select`` is carved out of ``train``.

    Args:
        splits: ``train`` and ``dev``, and perhaps ``dev_mismatched``.
        labels: the class names; ``None`` for regression.
        metrics: the names of the metrics.
        select: a share or number of training examples.
        train_limit: keep at most this many training examples.
        sources: the files that were read.
        seed: draws ``select`` and the limit.
        notify: receives what the task decides by itself.
        primary: the primary metric; default: the first.
        unlabelled: texts for distillation alone.
        options: of :class:`TextTask`.
    """
    train, selection = carve(splits["train"], select, train_limit, seed)
    splits = {**splits, "train": train, "select": selection}
    pass_on(split_notices(splits, labels), notify)
    counts = [source.counts for source in sources]
    if unlabelled is not None:
        pass_on(unlabelled.notices(splits), notify)
        counts.append(unlabelled.counts)
        options["unlabelled"] = unlabelled.texts
    return TextTask(splits, labels, metrics, primary or metrics[0], seed=seed, sources=counts, notify=notify, **options)


def cut_length(written: int | None, default: int, columns: int, tokenizer: Any, notify: Notify = say) -> int:
    """Choose the number of tokens after which texts are cut.

    Args:
        written: the recipe's number, if there is one.
        default: the number otherwise.
        columns: 1 for texts, 2 for pairs of texts.
        tokenizer: its ``model_max_length`` is the number of tokens that the network can read; ``None``: not known yet.
        notify: receives a notice if the default is too much for the network.

    Raises:
        UsageError: ``written`` is more than the network can read, or too few for a text.
    """
    chosen = default if written is None else written
    if tokenizer is None:
        return chosen
    if written is None:
        chosen = min(default, int(tokenizer.model_max_length))
    refuse_length(chosen, columns, tokenizer)  # the default too: a network may read too few tokens for any text
    if written is None and chosen < default:
        notify("task.max_length", f"texts are cut at {chosen} tokens, all that the network can read.")
    return chosen


def refuse_length(max_length: int | None, columns: int, tokenizer: Any) -> None:
    """Refuse a length that the network cannot read, or that leaves nothing of a text.

    Args:
        max_length: tokens after which texts are cut; ``None`` is the default, which adapts to the network.
        columns: 1 for texts, 2 for pairs of texts.
        tokenizer: its ``model_max_length`` is the number of tokens that the network can read.

    Raises:
        RecipeError: with the option ``max_length``.
    """
    if max_length is None:
        return
    longest = int(tokenizer.model_max_length)
    is_pair = columns == 2
    fewest = tokenizer.num_special_tokens_to_add(pair=is_pair) + columns  # one token of each text
    if max_length < fewest:
        noun = "a pair of texts" if is_pair else "a text"
        raise refusal("max_length", [f"{max_length} is too few tokens for {noun}. Expected at least {fewest}."])
    if max_length > longest:
        raise refusal("max_length", [f"{max_length} is more than the network can read. Expected at most {longest}."])


def tokenise(tokenizer: Any, texts: Sequence[tuple[str, ...]], max_length: int) -> Tokens:
    """Tokenise texts or pairs of texts, cut at ``max_length`` tokens, into flat arrays."""
    parts: dict[str, list[np.ndarray]] = {}
    counts = []
    for columns, chunk_lengths in token_chunks(tokenizer, texts, max_length):
        counts.append(chunk_lengths)
        for name, flat in columns.items():
            # A million rows have a hundred million tokens, and a byte is enough for the segments of all of them.
            smallest = np.min_scalar_type(int(flat.max(initial=0)))
            parts.setdefault(name, []).append(flat.astype(smallest))
    lengths = np.concatenate(counts)
    starts = np.cumsum(lengths) - lengths
    flat_columns = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    return Tokens(flat_columns, starts, lengths, padding_of(tokenizer, parts))


def padding_of(tokenizer: Any, names: Iterable[str]) -> dict[str, int]:
    """Return the value after an example's end, for each input."""
    padding = dict.fromkeys(names, 0)
    padding["input_ids"] = tokenizer.pad_token_id or 0  # without a padding token any id does: it is masked
    return padding


def collate(tokens: Tokens, labels: np.ndarray, index: np.ndarray) -> Batch:
    """Gather examples into a padded batch with an attention mask."""
    import torch

    lengths = tokens.lengths[index]
    starts = tokens.starts[index]
    column = np.arange(lengths.max())
    mask = column < lengths[:, None]  # (examples, longest)
    # Beyond an example's end the first token of all is gathered, since any index has to exist, and then replaced.
    positions = np.where(mask, starts[:, None] + column, 0)
    inputs = {}
    for name, flat in tokens.columns.items():
        gathered = flat[positions].astype(np.int64)
        inputs[name] = torch.from_numpy(np.where(mask, gathered, tokens.padding[name]))
    inputs["attention_mask"] = torch.from_numpy(mask.astype(np.int64))
    target = labels[index]
    is_regression = target.dtype.kind == "f"
    target = target.astype(np.float32 if is_regression else np.int64)
    ids = index.astype(np.int64)
    return Batch(inputs, torch.from_numpy(target), torch.from_numpy(ids))


def bucketed(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Deal examples into batches of similar lengths: shuffle, sort inside windows, cut, shuffle the batches.

    Args:
        lengths: ``(examples,)`` tokens of each example.
        batch_size: examples a batch; one batch may be smaller.
        rng: decides the shuffles.

    Returns:
        The batches as arrays of positions; together they hold every example once.

    >>> rng = np.random.default_rng(0)
    >>> sorted(np.concatenate(bucketed(np.array([3, 1, 2]), 2, rng)).tolist())
    [0, 1, 2]
    """
    order = rng.permutation(len(lengths))
    batches = math.ceil(len(order) / batch_size)
    # A window is a quarter of the data at most: batches must differ between epochs.
    window_batches = max(1, min(WINDOW, batches // 4))
    window = window_batches * batch_size
    sorted_parts = []
    for start in range(0, len(order), window):
        part = order[start : start + window]
        by_length = np.argsort(lengths[part], kind="stable")
        sorted_parts.append(part[by_length])
    order = np.concatenate(sorted_parts)
    chunks = cut(order, batch_size)
    # Shuffled once more, so that lengths do not rise from batch to batch.
    return [chunks[i] for i in rng.permutation(len(chunks))]
