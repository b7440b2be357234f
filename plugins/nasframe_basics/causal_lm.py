"""Task ``causal_lm``: predict the next token of your own texts, or of the docstrings of installed packages.

Texts are documents. Each split's documents stand one after another, an end-of-text token behind each, and this line of
tokens is cut into blocks of one length. An example is a block. Its inputs are ``length`` tokens; its labels are the
same tokens moved on by one, so that every position has a label.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nasframe.errors import UsageError
from nasframe.measures import measures
from nasframe.notices import Notify, say
from nasframe.records import (
    Batch,
    Count,
    DataSource,
    DataSummary,
    Evaluation,
    Forward,
    MetricFormat,
    Portion,
    Size,
    SplitSummary,
)
from nasframe.seeds import generator
from nasframe.weights import refusal
from nasframe_basics.documents import (
    Documents,
    Files,
    Package,
    Sources,
    missing_files,
    perplexity,
    read_splits,
    source_faults,
    tokenised,
)
from nasframe_basics.epochs import EpochBatches, cut
from nasframe_basics.splits import Split

DEFAULT_LENGTH = 128
EVALUATION_BATCH = 16
"""Blocks that are evaluated at once; the logits of one block are as many numbers as tokens times vocabulary."""
FEWEST = 2
"""Tokens of the shortest block."""
METRICS: Mapping[str, MetricFormat] = {
    "perplexity": MetricFormat(higher_is_better=False),
    # Tokens of one text depend on each other, so the error of a share of independent examples would be too small.
    "accuracy": MetricFormat(percent=True, standard_error="unknown"),
    "loss": MetricFormat(higher_is_better=False),
}


@dataclass(frozen=True)
class Packed:
    """The tokens of a split, in blocks.

    Args:
        inputs: ``(blocks, length)`` of int32.
        labels: the token behind each, in the same shape.
        tokens: tokens in all, the ends of texts included.
        left_out: tokens at the end that fill no block.
    """

    inputs: np.ndarray
    labels: np.ndarray
    tokens: int
    left_out: int


class CausalLMTask:
    """Predict the next token.

    Args:
        splits: ``train``, ``select`` and ``dev``, an example being a document.
        length: tokens of a block.
        tokenizer: a Hugging Face tokenizer; without one, only the texts are known.
        seed: draws the subset that ``evaluate(examples=n)`` measures.
        train_limit: keep at most this many training blocks.
        sources: the files that the documents were read from, for the summary.
        notify: receives notices: tokens that fill no block.

    Attributes:
        categorical: the outputs are the logits of classes, the tokens, whose names ``labels`` does not list.

    Raises:
        UsageError: a split is empty, or ``length`` is more than the network can read.
    """

    primary = "perplexity"
    labels: Sequence[str] | None = None
    categorical = True
    metrics: Mapping[str, MetricFormat] = METRICS

    def __init__(
        self,
        splits: Mapping[str, Split],
        length: int = DEFAULT_LENGTH,
        tokenizer: Any = None,
        seed: int = 0,
        train_limit: int | None = None,
        sources: Sequence[DataSource] = (),
        notify: Notify = say,
    ) -> None:
        for name, split in splits.items():
            if not len(split):
                raise UsageError(f"split {name!r} is empty. Expected at least one text.")
        if tokenizer is not None:
            refuse_block(length, tokenizer)
        self.length = length
        self.seed = seed
        self.fingerprint = _fingerprint(splits, length, train_limit)
        self._splits = splits
        self._tokenizer = tokenizer
        self._limit = train_limit
        self._sources = sources
        self._packed: dict[str, Packed] = {}
        self._notify = notify

    def _notify_left_out(self) -> None:
        """Report the tokens at the ends of the splits that fill no block."""
        counts = {name: self.packed(name).left_out for name in self._splits}
        if any(counts.values()):
            parts = [f"{count:,} of {name}" for name, count in counts.items()]
            text = f"Blocks have {self.length} tokens. The last tokens, which fill none, are left out:"
            self._notify("task.length", f"{text} {', '.join(parts)}.")

    def training_texts(self) -> Iterator[str]:
        """Yield the training texts, from which a model may make a tokenizer."""
        for (text,) in self._splits["train"].texts:
            yield text

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Split → number of blocks."""
        self._notify_left_out()
        return {name: len(self.packed(name).inputs) for name in self._splits}

    @cached_property
    def summary(self) -> DataSummary:
        """The data in numbers: documents, copies, tokens and blocks, split by split."""
        train_texts = set(self._splits["train"].texts)
        summaries = []
        for name, split in self._splits.items():
            packed = self.packed(name)
            in_train = None if name == "train" else sum(text in train_texts for text in split.texts)
            summaries.append(
                SplitSummary(
                    name=name,
                    rows=len(split),
                    texts=len(set(split.texts)),
                    near=0,
                    in_train=in_train,
                    near_train=None,
                    conflicting=0,
                    classes=None,
                    blocks=len(packed.inputs),
                    tokens=packed.tokens,
                )
            )
        rows_read = sum(source.rows for source in self._sources)
        rows_used = sum(len(split) for split in self._splits.values())
        unused = max(rows_read - rows_used, 0)
        return DataSummary(tuple(self._sources), tuple(summaries), None, unused, self.length, noun="document")

    def packed(self, split: str) -> Packed:
        """Return a split's blocks; it is tokenised the first time.

        Raises:
            UsageError: there is no such split or no tokenizer, or the texts are shorter than a block.
        """
        if split not in self._splits:
            raise UsageError(f"split: there is no {split!r}. Expected one of {', '.join(self._splits)}.")
        if split not in self._packed:
            if self._tokenizer is None:
                raise UsageError(
                    "task: no tokenizer was given. Expected tokenizer=…, as a model's .tokenizer() returns."
                )
            tokens = tokenised(self._tokenizer, [text for (text,) in self._splits[split].texts])
            packed = pack(tokens, self.length, self._limit if split == "train" else None)
            if not len(packed.inputs):
                raise UsageError(
                    f"split {split!r}: its texts have {packed.tokens} tokens, which is less than one block of "
                    f"{self.length} and its last label. Expected more text, or a smaller length."
                )
            self._packed[split] = packed
        return self._packed[split]

    def batch(self, split: str, index: np.ndarray) -> Batch:
        """Gather the blocks at ``index`` of a split; inputs and labels are ``(batch, length)``."""
        import torch

        packed = self.packed(split)
        inputs = torch.from_numpy(packed.inputs[index].astype(np.int64))
        labels = torch.from_numpy(packed.labels[index].astype(np.int64))
        return Batch({"input_ids": inputs}, labels, torch.from_numpy(index.astype(np.int64)))

    def train_batches(self, seed: int, epoch: int, batch_size: int) -> EpochBatches:
        """Return one epoch of blocks, shuffled by ``(seed, epoch)``."""
        order = generator(seed, "epoch", epoch).permutation(self.sizes["train"])
        return EpochBatches(self.batch, cut(order, batch_size))

    def loss(self, outputs: Any, batch: Batch) -> Any:
        """Return the mean cross-entropy of all tokens of a batch, in nats."""
        from torch.nn import functional

        logits = outputs.logits.float()  # a network in mixed precision returns them in 16 bits
        return functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten())

    def evaluate(self, forward: Forward, split: str, examples: int | None = None) -> Evaluation:
        """Measure a network on a split, or on a fixed subset of ``examples`` blocks of it.

        Args:
            forward: takes CPU tensors by keyword and returns an output with ``logits``, ``(batch, length, tokens)``.
            split: ``train``, ``select`` or ``dev``.
            examples: size of the subset; a larger one holds the smaller ones.

        Returns:
            ``perplexity``, the exponential of the mean ``loss`` of a token in nats; ``accuracy``, the share of tokens
            that are predicted; the columns ``id``, ``loss`` and ``accuracy``, block by block.
        """
        import torch
        from torch.nn import functional

        ids = self._ids(split, examples)
        losses: list[float] = []
        correct: list[float] = []
        tokens = 0
        with torch.no_grad():
            for start in range(0, len(ids), EVALUATION_BATCH):
                batch = self.batch(split, ids[start : start + EVALUATION_BATCH])
                logits = forward(**batch.inputs).logits.float().cpu()
                of_tokens = functional.cross_entropy(logits.transpose(1, 2), batch.labels, reduction="none")
                losses += of_tokens.double().mean(1).tolist()
                correct += (logits.argmax(-1) == batch.labels).double().mean(1).tolist()
                tokens += int(batch.labels.numel())
        loss = float(np.mean(losses))
        metrics = {"perplexity": perplexity(loss), "accuracy": float(np.mean(correct)), "loss": loss}
        columns: dict[str, Sequence[Any]] = {"id": ids.tolist(), "loss": losses, "accuracy": correct}
        return Evaluation(metrics, columns, len(ids), tokens)

    def _ids(self, split: str, examples: int | None) -> np.ndarray:
        """Return the positions of the blocks to measure, ascending."""
        size = len(self.packed(split).inputs)
        if examples is None or examples >= size:
            return np.arange(size)
        # One order for all sizes: a larger subset holds the smaller ones.
        order = generator(self.seed, "examples", split).permutation(size)
        return np.sort(order[:examples])


@measures(lambda options, space: METRICS)
def causal_lm(
    train: Files | None = None,
    dev: Files | None = None,
    packages: list[Package] | None = None,
    documents: Documents = "paragraph",
    length: Size = DEFAULT_LENGTH,
    limit: Count | None = None,
    select: Portion = "10%",
    dev_share: Portion = "10%",
    train_limit: Count | None = None,
    tokenizer: Any = None,
    seed: int = 0,
    base: Path | None = None,
    notify: Notify = say,
) -> CausalLMTask:
    """Predict the next token of texts, packed into blocks of one length; measured by ``perplexity``.

    Perplexities compare only between networks with the same tokenizer. Equal documents stay in one split.

    Args:
        train: a text file or a list of them, in UTF-8.
        dev: the text files to report on; without them, ``dev_share`` of the documents is set aside.
        packages: Python packages whose docstrings are the documents, in place of files; a docstring may hold code and
            tables. The same installed versions give the same texts.
        documents: what a document is in a file: a ``paragraph`` (between empty lines), a ``line``, or the whole
            ``file``.
        length: tokens of a block, which is an example; the network must be able to read as many.
        limit: documents to read of each file or package, for a quick try.
        select: share or number of training documents that are set aside, by ``seed``, for making choices.
        dev_share: share or number of the documents set aside for ``dev``, if no ``dev`` is given.
        train_limit: keep at most this many training blocks.
        tokenizer: injected.
        seed: injected; draws the splits.
        base: injected; the folder that relative file names belong to.
        notify: injected; receives what the task decides by itself.

    Raises:
        UsageError: a file cannot be read, holds no text, or the texts are too short; the message names it.
    """
    for place, text in _faults({"train": train, "dev": dev, "packages": packages}):
        raise UsageError(f"causal_lm: {'.'.join(place)}: {text}")
    sources = Sources(train, dev, packages, documents=documents, limit=limit, base=base)
    texts = read_splits(sources, select, dev_share, seed, notify)
    return CausalLMTask(texts.splits, length, tokenizer, seed, train_limit, texts.sources, notify)


def _faults(options: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield rules about options that types cannot express."""
    return source_faults(options, ("train", "packages"))


def _validate(options: Mapping[str, Any], tokenizer: Any) -> None:
    """Refuse a block in the recipe that the network cannot read."""
    refuse_block(options.get("length", DEFAULT_LENGTH), tokenizer)


causal_lm.faults = _faults  # type: ignore[attr-defined]
causal_lm.validate = _validate  # type: ignore[attr-defined]
causal_lm.on_files = missing_files  # type: ignore[attr-defined]
causal_lm.auto_class = "AutoModelForCausalLM"  # type: ignore[attr-defined]


def refuse_block(length: int, tokenizer: Any) -> None:
    """Refuse a length of blocks that the network cannot read.

    Args:
        length: tokens of a block.
        tokenizer: its ``model_max_length`` is the number of tokens that the network can read.

    Raises:
        RecipeError: with the option ``length``.
    """
    longest = int(tokenizer.model_max_length)
    if length < FEWEST:
        raise refusal("length", [f"{length} is too few tokens for a block. Expected at least {FEWEST}."])
    if length > longest:
        raise refusal("length", [f"{length} is more than the network can read. Expected at most {longest}."])


def pack(tokens: np.ndarray, length: int, limit: int | None = None) -> Packed:
    """Cut a line of tokens into blocks; each token but the first is the label of one position.

    Args:
        tokens: ``(tokens,)``.
        length: tokens of a block.
        limit: the largest number of blocks.

    >>> packed = pack(np.arange(8), 3)
    >>> packed.inputs.tolist(), packed.labels.tolist(), packed.left_out
    ([[0, 1, 2], [3, 4, 5]], [[1, 2, 3], [4, 5, 6]], 1)
    """
    count = max(len(tokens) - 1, 0) // length
    kept = count if limit is None else min(count, limit)
    end = kept * length
    inputs = tokens[:end].reshape(kept, length)
    labels = tokens[1 : end + 1].reshape(kept, length)
    left_out = len(tokens) - (count * length + 1) if count else len(tokens)
    return Packed(inputs, labels, len(tokens), left_out)


def _fingerprint(splits: Mapping[str, Split], length: int, limit: int | None) -> str:
    """Hash the texts of the splits and how they are packed."""
    digest = hashlib.sha256(json.dumps([length, limit]).encode())
    for name in sorted(splits):
        digest.update(json.dumps([name, [text for (text,) in splits[name].texts]]).encode())
    return digest.hexdigest()[:16]
