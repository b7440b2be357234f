"""Documents as blocks of tokens, for the tasks that learn the language itself: ``causal_lm`` and ``masked_lm``.

Each split's documents stand one after another, an end-of-text token behind each, and this line of tokens is cut into
blocks of one length. A block is an example. How the line is cut, and which tokens are labels, is the task's business;
here is what the tasks have in common: reading, splits, numbers for the summary, subsets, and metrics.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from nasframe.errors import UsageError
from nasframe.notices import Notify, say
from nasframe.records import IGNORED, Batch, DataSource, DataSummary, Evaluation, MetricFormat, SplitSummary
from nasframe.seeds import generator
from nasframe.weights import refusal
from nasframe_basics.documents import perplexity
from nasframe_basics.kept_tokens import KEPT_FROM, kept_stream, tokenised
from nasframe_basics.splits import Split

DEFAULT_LENGTH = 128
EVALUATION_BATCH = 16
"""Blocks that are evaluated at once; the logits of one block are as many numbers as tokens times vocabulary."""
METRICS: Mapping[str, MetricFormat] = {
    "perplexity": MetricFormat(higher_is_better=False),
    # Tokens of one text depend on each other, so the error of a share of independent examples would be too small.
    "accuracy": MetricFormat(percent=True, standard_error="unknown"),
    "loss": MetricFormat(higher_is_better=False),
}


@dataclass(frozen=True)
class Blocks:
    """The tokens of a split, in blocks.

    Args:
        inputs: ``(blocks, length)`` of int32.
        labels: the token to predict at each position, in the same shape; ``None`` if the task draws the positions.
        tokens: tokens of the texts in all, the ends of texts included.
        left_out: tokens that are in no block.
    """

    inputs: np.ndarray
    labels: np.ndarray | None
    tokens: int
    left_out: int

    def __len__(self) -> int:
        return len(self.inputs)


Cut = Callable[[np.ndarray, int | None], Blocks]
"""Cuts a line of tokens into at most as many blocks; raises :class:`UsageError` if there is none."""


class TokenBlocks:
    """The documents of a task, and their blocks, split by split.

    Args:
        splits: ``train``, ``select`` and ``dev``, an example being a document.
        length: tokens of a block.
        cut: how the line of a split's tokens is cut.
        remark: a notice's text about tokens that are in no block, up to the colon before their numbers.
        tokenizer: a Hugging Face tokenizer; without one, only the texts are known.
        train_limit: keep at most this many training blocks.
        sources: the files that the documents were read from, for the summary.
        notify: receives notices: tokens that are in no block.

    Raises:
        UsageError: a split is empty.
    """

    def __init__(
        self,
        splits: Mapping[str, Split],
        length: int,
        cut: Cut,
        remark: str,
        tokenizer: Any = None,
        train_limit: int | None = None,
        sources: Sequence[DataSource] = (),
        notify: Notify = say,
    ) -> None:
        for name, split in splits.items():
            if not len(split):
                raise UsageError(f"split {name!r} is empty. Expected at least one text.")
        self.splits = splits
        self.length = length
        self._cut = cut
        self._remark = remark
        self._tokenizer = tokenizer
        self._limit = train_limit
        self._sources = sources
        self._notify = notify
        self._blocks: dict[str, Blocks] = {}

    def fingerprint(self, settings: Sequence[Any]) -> str:
        """Hash the texts of the splits, and the settings of how they are packed."""
        digest = hashlib.sha256(json.dumps(settings).encode())
        for name in sorted(self.splits):
            digest.update(json.dumps([name, self._texts(name)]).encode())
        return digest.hexdigest()[:16]

    def training_texts(self) -> Iterator[str]:
        """Yield the training texts, from which a model may make a tokenizer."""
        yield from self._texts("train")

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Split → number of blocks; the first look at it reports the tokens that are in none."""
        left_out = {name: self.of(name).left_out for name in self.splits}
        if any(left_out.values()):
            parts = [f"{count:,} of {name}" for name, count in left_out.items()]
            self._notify("task.length", f"{self._remark}: {', '.join(parts)}.")
        return {name: len(self.of(name)) for name in self.splits}

    @cached_property
    def summary(self) -> DataSummary:
        """The data in numbers: documents, copies, tokens and blocks, split by split."""
        summaries = tuple(self._summary_of(name) for name in self.splits)
        rows_read = sum(source.rows for source in self._sources)
        rows_used = sum(len(split) for split in self.splits.values())
        unused = max(rows_read - rows_used, 0)
        return DataSummary(tuple(self._sources), summaries, None, unused, self.length, noun="document")

    def _summary_of(self, name: str) -> SplitSummary:
        split = self.splits[name]
        blocks = self.of(name)
        in_train = None
        if name != "train":
            in_train = sum(text in self._train_texts for text in split.texts)
        return SplitSummary(
            name=name,
            rows=len(split),
            texts=len(set(split.texts)),
            near=0,
            in_train=in_train,
            near_train=None,
            conflicting=0,
            classes=None,
            blocks=len(blocks),
            tokens=blocks.tokens,
        )

    @cached_property
    def _train_texts(self) -> set[tuple[str, ...]]:
        return set(self.splits["train"].texts)

    def _texts(self, split: str) -> list[str]:
        return [text for (text,) in self.splits[split].texts]

    def of(self, split: str) -> Blocks:
        """Return a split's blocks; it is tokenised the first time.

        Raises:
            UsageError: there is no such split or no tokenizer, or the texts make no block.
        """
        if split not in self.splits:
            raise UsageError(f"split: there is no {split!r}. Expected one of {', '.join(self.splits)}.")
        if split not in self._blocks:
            if self._tokenizer is None:
                raise UsageError(
                    "task: no tokenizer was given. Expected tokenizer=…, as a model's .tokenizer() returns."
                )
            tokens = self._stream(split)
            limit = self._limit if split == "train" else None
            try:
                self._blocks[split] = self._cut(tokens, limit)
            except UsageError as error:
                raise UsageError(f"split {split!r}: {error}") from None
        return self._blocks[split]

    def _stream(self, split: str) -> np.ndarray:
        """Return the tokens of a split's texts; those of many texts are kept in nasframe's cache."""
        texts = self._texts(split)
        kept = None
        if sum(map(len, self.splits.values())) >= KEPT_FROM:
            try:
                kept = kept_stream(self._tokenizer, texts)
            except OSError as error:
                text = f"Tokens are kept in memory, because nasframe's cache cannot keep them: {error}."
                self._notify("task", text)
        return tokenised(self._tokenizer, texts) if kept is None else kept

    def subset(self, split: str, examples: int | None, seed: int) -> np.ndarray:
        """Return the positions of the blocks to measure, ascending.

        Args:
            split: the split.
            examples: how many; ``None`` takes all.
            seed: draws them.
        """
        size = len(self.of(split))
        if examples is None or examples >= size:
            return np.arange(size)
        # One order for all sizes: a larger subset holds the smaller ones.
        order = generator(seed, "examples", split).permutation(size)
        return np.sort(order[:examples])


def token_loss(outputs: Any, batch: Batch) -> Any:
    """Return the mean cross-entropy of all labels of a batch, in nats; those that are −100 do not count."""
    from torch.nn import functional

    logits = outputs.logits.float()  # a network in mixed precision returns them in 16 bits
    return functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED)


def evaluation_of(ids: np.ndarray, losses: Sequence[float], correct: Sequence[float], tokens: int) -> Evaluation:
    """Return the evaluation of blocks that have the same number of labels each.

    Args:
        ids: the blocks' positions in their split.
        losses: the mean loss of each block's labels, in nats.
        correct: the share of each block's labels that is predicted.
        tokens: tokens that were read in all.
    """
    loss = float(np.mean(losses))
    metrics = {"perplexity": perplexity(loss), "accuracy": float(np.mean(correct)), "loss": loss}
    columns: dict[str, Sequence[Any]] = {"id": ids.tolist(), "loss": losses, "accuracy": correct}
    return Evaluation(metrics, columns, len(ids), tokens)


def refuse_length(length: int, tokenizer: Any, fewest: int) -> None:
    """Refuse a length of blocks that the network cannot read.

    Args:
        length: tokens of a block.
        tokenizer: its ``model_max_length`` is the number of tokens that the network can read.
        fewest: tokens of the shortest block.

    Raises:
        RecipeError: with the option ``length``.
    """
    longest = int(tokenizer.model_max_length)
    if length < fewest:
        raise refusal("length", [f"{length} is too few tokens for a block. Expected at least {fewest}."])
    if length > longest:
        raise refusal("length", [f"{length} is more than the network can read. Expected at most {longest}."])
