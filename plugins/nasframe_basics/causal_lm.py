"""Task ``causal_lm``: predict the next token of your own texts, or of the docstrings of installed packages.

Texts are documents. Each split's documents stand one after another, an end-of-text token behind each, and this line of
tokens is cut into blocks of one length. An example is a block. Its inputs are ``length`` tokens; its labels are the
same tokens moved on by one, so that every position has a label.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
)
from nasframe.seeds import generator
from nasframe_basics.documents import Documents, Files, Package, Sources, missing_files, read_splits, source_faults
from nasframe_basics.epochs import EpochBatches, cut
from nasframe_basics.splits import Split
from nasframe_basics.token_blocks import (
    DEFAULT_LENGTH,
    EVALUATION_BATCH,
    METRICS,
    Blocks,
    TokenBlocks,
    evaluation_of,
    refuse_length,
    token_loss,
)

FEWEST = 2
"""Tokens of the shortest block."""


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
        if tokenizer is not None:
            refuse_length(length, tokenizer, FEWEST)
        remark = f"Blocks have {length} tokens. The last tokens, which fill none, are left out"
        self._blocks = TokenBlocks(splits, length, self._cut, remark, tokenizer, train_limit, sources, notify)
        self.length = length
        self.seed = seed
        self.fingerprint = self._blocks.fingerprint([length, train_limit])

    def _cut(self, tokens: np.ndarray, limit: int | None) -> Blocks:
        blocks = pack(tokens, self.length, limit)
        if not len(blocks):
            raise UsageError(
                f"its texts have {blocks.tokens} tokens, which is less than one block of {self.length} and its last "
                "label. Expected more text, or a smaller length."
            )
        return blocks

    def training_texts(self) -> Iterator[str]:
        """Yield the training texts, from which a model may make a tokenizer."""
        return self._blocks.training_texts()

    @property
    def sizes(self) -> dict[str, int]:
        """Split → number of blocks."""
        return self._blocks.sizes

    @property
    def summary(self) -> DataSummary:
        """The data in numbers: documents, copies, tokens and blocks, split by split."""
        return self._blocks.summary

    def blocks(self, split: str) -> Blocks:
        """Return a split's blocks; it is tokenised the first time.

        Raises:
            UsageError: there is no such split or no tokenizer, or the texts are shorter than a block.
        """
        return self._blocks.of(split)

    def batch(self, split: str, index: np.ndarray) -> Batch:
        """Gather the blocks at ``index`` of a split; inputs and labels are ``(batch, length)``."""
        import torch

        blocks = self.blocks(split)
        assert blocks.labels is not None
        inputs = torch.from_numpy(blocks.inputs[index].astype(np.int64))
        labels = torch.from_numpy(blocks.labels[index].astype(np.int64))
        return Batch({"input_ids": inputs}, labels, torch.from_numpy(index.astype(np.int64)))

    def train_batches(self, seed: int, epoch: int, batch_size: int) -> EpochBatches:
        """Return one epoch of blocks, shuffled by ``(seed, epoch)``."""
        order = generator(seed, "epoch", epoch).permutation(self.sizes["train"])
        return EpochBatches(self.batch, cut(order, batch_size))

    def loss(self, outputs: Any, batch: Batch) -> Any:
        """Return the mean cross-entropy of all tokens of a batch, in nats."""
        return token_loss(outputs, batch)

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

        ids = self._blocks.subset(split, examples, self.seed)
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
        return evaluation_of(ids, losses, correct, tokens)


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
    refuse_length(options.get("length", DEFAULT_LENGTH), tokenizer, FEWEST)


causal_lm.faults = _faults  # type: ignore[attr-defined]
causal_lm.validate = _validate  # type: ignore[attr-defined]
causal_lm.on_files = missing_files  # type: ignore[attr-defined]
causal_lm.auto_class = "AutoModelForCausalLM"  # type: ignore[attr-defined]


def pack(tokens: np.ndarray, length: int, limit: int | None = None) -> Blocks:
    """Cut a line of tokens into blocks; each token but the first is the label of one position.

    Args:
        tokens: ``(tokens,)``.
        length: tokens of a block.
        limit: the largest number of blocks.

    >>> blocks = pack(np.arange(8), 3)
    >>> blocks.inputs.tolist(), blocks.labels.tolist(), blocks.left_out
    ([[0, 1, 2], [3, 4, 5]], [[1, 2, 3], [4, 5, 6]], 1)
    """
    count = max(len(tokens) - 1, 0) // length
    kept = count if limit is None else min(count, limit)
    end = kept * length
    inputs = tokens[:end].reshape(kept, length)
    labels = tokens[1 : end + 1].reshape(kept, length)
    left_out = len(tokens) - (count * length + 1) if count else len(tokens)
    return Blocks(inputs, labels, len(tokens), left_out)
