"""Task ``masked_lm``: predict the tokens that were masked (Devlin et al. 2019, arXiv 1810.04805), in texts of any kind.

Texts are documents. Each split's documents stand one after another, a separator behind each, and this line of tokens is
cut into blocks, which are filled up with the tokenizer's token for the beginning and its separator. An example is a
block. In each block the same number of tokens is masked: 15 % of them, of which 80 % become the mask token, 10 % become
random tokens, and 10 % stay as they are. Training draws other positions in each epoch (Liu et al. 2019,
arXiv 1907.11692); those of ``select`` and ``dev`` are fixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nasframe.errors import UsageError
from nasframe.measures import measures
from nasframe.notices import Notify, say
from nasframe.records import (
    IGNORED,
    Batch,
    Count,
    DataSource,
    DataSummary,
    Evaluation,
    Forward,
    MetricFormat,
    Portion,
    ShareText,
    Size,
)
from nasframe.seeds import generator
from nasframe.units import share
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

ENDS = 2
"""Tokens of a block that the task adds: the one for its beginning, and the separator at its end."""
FEWEST = ENDS + 2
"""Tokens of the shortest block."""
MASKED = 0.8
"""Share of the chosen tokens that become the mask token."""
RANDOM = 0.1
"""Share of the chosen tokens that become a random token; the rest stay as they are."""


@dataclass(frozen=True)
class Vocabulary:
    """What masking has to know of a tokenizer.

    Args:
        begin: the token that a block begins with.
        end: the separator.
        mask: the mask token.
        special: all tokens that are never chosen.
        size: the number of tokens; a random token is below it.
    """

    begin: int
    end: int
    mask: int
    special: np.ndarray
    size: int


class MaskedLMTask:
    """Predict masked tokens.

    Labels are the tokens at the chosen positions, and −100 at all others, which do not count.

    Args:
        splits: ``train``, ``select`` and ``dev``, an example being a document.
        length: tokens of a block.
        probability: the share of a block's tokens that is chosen.
        tokenizer: a Hugging Face tokenizer; without one, only the texts are known.
        seed: draws the positions in ``select`` and ``dev``, and the subset that ``evaluate(examples=n)`` measures.
        train_limit: keep at most this many training blocks.
        sources: what the documents were read from, for the summary.
        notify: receives notices: tokens that fill no block.

    Attributes:
        categorical: the outputs are the logits of classes, the tokens, whose names ``labels`` does not list.

    Raises:
        UsageError: a split is empty, ``length`` is more than the network can read, or the tokenizer has no mask token.
    """

    primary = "perplexity"
    labels: Sequence[str] | None = None
    categorical = True
    metrics: Mapping[str, MetricFormat] = METRICS

    def __init__(
        self,
        splits: Mapping[str, Split],
        length: int = DEFAULT_LENGTH,
        probability: float = 0.15,
        tokenizer: Any = None,
        seed: int = 0,
        train_limit: int | None = None,
        sources: Sequence[DataSource] = (),
        notify: Notify = say,
    ) -> None:
        if tokenizer is not None:
            refuse_length(length, tokenizer, FEWEST)
            self._vocabulary = vocabulary_of(tokenizer)
        remark = f"Blocks have {length} tokens. Tokens at the end, and stretches of very short texts, fill none"
        self._blocks = TokenBlocks(splits, length, self._cut, remark, tokenizer, train_limit, sources, notify)
        self.length = length
        self.chosen = max(1, round(probability * (length - ENDS)))
        self.seed = seed
        self.fingerprint = self._blocks.fingerprint([length, probability, train_limit])

    def _cut(self, tokens: np.ndarray, limit: int | None) -> Blocks:
        blocks = cut_blocks(tokens, self.length, self._vocabulary, self.chosen, limit)
        if not len(blocks) and blocks.tokens >= self.length:
            raise UsageError(
                f"in each block of {self.length} of its {blocks.tokens} tokens, fewer than {self.chosen} can be "
                "masked; the others are special ones. Expected a tokenizer that knows the words of these texts."
            )
        if not len(blocks):
            raise UsageError(
                f"its texts have {blocks.tokens} tokens, which is less than one block of {self.length}, {ENDS} of "
                "them at its ends. Expected more text, or a smaller length."
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
        """Return a split's blocks, nothing masked; it is tokenised the first time.

        Raises:
            UsageError: there is no such split or no tokenizer, or the texts are shorter than a block.
        """
        return self._blocks.of(split)

    def batch(self, split: str, index: np.ndarray, stream: Sequence[str | int]) -> Batch:
        """Gather blocks, masked.

        Args:
            split: the split.
            index: the blocks' positions in it.
            stream: names the random stream of the masks, together with the seed and each block's position: in
                whatever batch a block is, its masks are the same.

        Returns:
            ``input_ids`` and ``attention_mask``, and labels that are −100 where nothing was chosen; all of
            ``(batch, length)``.
        """
        import torch

        tokens = self.blocks(split).inputs[index].astype(np.int64)
        inputs = tokens.copy()
        labels = np.full_like(tokens, IGNORED)
        seed, *names = stream
        for row, position in enumerate(index):
            rng = generator(int(seed), "masks", *names, int(position))
            chosen = choose_positions(tokens[row], self.chosen, self._vocabulary, rng)
            labels[row, chosen] = tokens[row, chosen]
            inputs[row, chosen] = replacements(tokens[row, chosen], self._vocabulary, rng)
        batch_inputs = {"input_ids": torch.from_numpy(inputs), "attention_mask": torch.ones(inputs.shape).long()}
        ids = torch.from_numpy(np.asarray(index).astype(np.int64))
        return Batch(batch_inputs, torch.from_numpy(labels), ids)

    def train_batches(self, seed: int, epoch: int, batch_size: int) -> EpochBatches:
        """Return one epoch of blocks, shuffled and masked by ``(seed, epoch)``."""
        order = generator(seed, "epoch", epoch).permutation(self.sizes["train"])

        def gather(split: str, index: np.ndarray) -> Batch:
            return self.batch(split, index, (seed, "epoch", epoch))

        return EpochBatches(gather, cut(order, batch_size))

    def loss(self, outputs: Any, batch: Batch) -> Any:
        """Return the mean cross-entropy of the chosen tokens, in nats; each block has as many of them."""
        return token_loss(outputs, batch)

    def evaluate(self, forward: Forward, split: str, examples: int | None = None) -> Evaluation:
        """Measure a network on a split, or on a fixed subset of ``examples`` blocks of it.

        Args:
            forward: takes CPU tensors by keyword and returns an output with ``logits``, ``(batch, length, tokens)``.
            split: ``train``, ``select`` or ``dev``.
            examples: size of the subset; a larger one holds the smaller ones.

        Returns:
            ``perplexity``, the exponential of the mean ``loss`` of a masked token in nats; ``accuracy``, the share of
            masked tokens that are predicted; the columns ``id``, ``loss`` and ``accuracy``, block by block.
        """
        import torch
        from torch.nn import functional

        ids = self._blocks.subset(split, examples, self.seed)
        losses: list[float] = []
        correct: list[float] = []
        tokens = 0
        with torch.no_grad():
            for start in range(0, len(ids), EVALUATION_BATCH):
                batch = self.batch(split, ids[start : start + EVALUATION_BATCH], (self.seed, split))
                is_chosen = batch.labels != IGNORED
                logits = forward(**batch.inputs).logits.cpu()[is_chosen].float()
                expected = batch.labels[is_chosen]
                of_tokens = functional.cross_entropy(logits, expected, reduction="none").double()
                hits = (logits.argmax(-1) == expected).double()
                # As many in each block, so that the chosen tokens are rows of equal length.
                losses += of_tokens.view(len(batch), -1).mean(1).tolist()
                correct += hits.view(len(batch), -1).mean(1).tolist()
                tokens += batch.tokens
        return evaluation_of(ids, losses, correct, tokens)


@measures(lambda options, space: METRICS)
def masked_lm(
    train: Files | None = None,
    dev: Files | None = None,
    packages: list[Package] | None = None,
    glue: Path | None = None,
    documents: Documents = "paragraph",
    length: Size = DEFAULT_LENGTH,
    probability: ShareText = "15%",
    limit: Count | None = None,
    select: Portion = "10%",
    dev_share: Portion = "10%",
    train_limit: Count | None = None,
    tokenizer: Any = None,
    seed: int = 0,
    base: Path | None = None,
    notify: Notify = say,
) -> MaskedLMTask:
    """Predict masked tokens of texts, packed into blocks of one length; measured by ``perplexity``.

    Perplexities compare only between networks with the same tokenizer. Equal documents stay in one split.

    Args:
        train: a text file or a list of them, in UTF-8.
        dev: the text files to report on; without them, ``dev_share`` of the documents is set aside.
        packages: Python packages whose docstrings are the documents, in place of files; a docstring may hold code and
            tables. The same installed versions give the same texts.
        glue: a folder in GLUE's own layout, of one task or of several: the sentences of its training files are the
            documents, in place of files. Development files and labels are not read.
        documents: what a document is in a file: a ``paragraph`` (between empty lines), a ``line``, or the whole
            ``file``.
        length: tokens of a block, which is an example; the network must be able to read as many.
        probability: share of a block's tokens that is masked; at least one token is.
        limit: documents to read of each file or package, for a quick try.
        select: share or number of training documents that are set aside, by ``seed``, for making choices.
        dev_share: share or number of the documents set aside for ``dev``, if no ``dev`` is given.
        train_limit: keep at most this many training blocks.
        tokenizer: injected.
        seed: injected; draws the splits, and the masks of ``select`` and ``dev``.
        base: injected; the folder that relative file names belong to.
        notify: injected; receives what the task decides by itself.

    Raises:
        UsageError: a file cannot be read, holds no text, or the texts are too short; the message names it.
    """
    for place, text in _faults({"train": train, "dev": dev, "packages": packages, "glue": glue}):
        raise UsageError(f"masked_lm: {'.'.join(place)}: {text}")
    sources = Sources(train, dev, packages, glue, documents, limit, base)
    texts = read_splits(sources, select, dev_share, seed, notify)
    return MaskedLMTask(
        texts.splits, length, share("probability", probability), tokenizer, seed, train_limit, texts.sources, notify
    )


def _faults(options: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield rules about options that types cannot express."""
    return source_faults(options, ("train", "packages", "glue"))


def _validate(options: Mapping[str, Any], tokenizer: Any) -> None:
    """Refuse a block in the recipe that the network cannot read, and a tokenizer that cannot mask."""
    refuse_length(options.get("length", DEFAULT_LENGTH), tokenizer, FEWEST)
    if hasattr(tokenizer, "mask_token_id"):  # what stands for a tokenizer before a run need not know it
        vocabulary_of(tokenizer)


masked_lm.faults = _faults  # type: ignore[attr-defined]
masked_lm.validate = _validate  # type: ignore[attr-defined]
masked_lm.on_files = missing_files  # type: ignore[attr-defined]
masked_lm.auto_class = "AutoModelForMaskedLM"  # type: ignore[attr-defined]


def vocabulary_of(tokenizer: Any) -> Vocabulary:
    """Return what masking has to know of a tokenizer.

    Raises:
        UsageError: it has no mask token, or none for the ends of a text.
    """
    begin = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    end = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    missing = [
        name
        for name, token in (("mask_token", tokenizer.mask_token_id), ("cls_token", begin), ("sep_token", end))
        if token is None
    ]
    if missing:
        raise UsageError(
            f"masked_lm: the tokenizer has no {', no '.join(missing)}. Expected that of a masked language model, such "
            "as BERT's."
        )
    special = np.array(sorted(tokenizer.all_special_ids), dtype=np.int64)
    return Vocabulary(begin, end, tokenizer.mask_token_id, special, len(tokenizer))


def cut_blocks(
    tokens: np.ndarray, length: int, vocabulary: Vocabulary, chosen: int = 1, limit: int | None = None
) -> Blocks:
    """Cut a line of tokens into blocks, each with a token for its beginning and a separator at its end.

    Args:
        tokens: ``(tokens,)``.
        length: tokens of a block, the two at its ends included.
        vocabulary: the tokens for the ends, and those that are never masked.
        chosen: tokens that will be masked in each block; a block that has fewer, as one of very short texts, is left
            out, so that each has the same number of labels.
        limit: the largest number of blocks.

    >>> vocabulary = Vocabulary(1, 2, 3, np.array([1, 2, 3]), 20)
    >>> blocks = cut_blocks(np.arange(10, 15), 4, vocabulary)
    >>> blocks.inputs.tolist(), blocks.left_out
    ([[1, 10, 11, 2], [1, 12, 13, 2]], 1)
    """
    width = length - ENDS
    count = len(tokens) // width
    inner = tokens[: count * width].reshape(count, width)
    is_usable = (~np.isin(inner, vocabulary.special)).sum(1) >= chosen
    inner = inner[is_usable]
    left_out = len(tokens) - inner.size
    inner = inner[:limit]
    inputs = np.empty((len(inner), length), dtype=np.int32)
    inputs[:, 0] = vocabulary.begin
    inputs[:, 1:-1] = inner
    inputs[:, -1] = vocabulary.end
    return Blocks(inputs, None, len(tokens), left_out)


def choose_positions(tokens: np.ndarray, count: int, vocabulary: Vocabulary, rng: np.random.Generator) -> np.ndarray:
    """Choose positions of a block to predict, none of a special token.

    Args:
        tokens: ``(length,)``.
        count: how many; the block has as many other tokens at least.
        vocabulary: the special tokens.
        rng: draws.
    """
    candidates = np.flatnonzero(~np.isin(tokens, vocabulary.special))
    return np.sort(rng.choice(candidates, size=count, replace=False))


def replacements(tokens: np.ndarray, vocabulary: Vocabulary, rng: np.random.Generator) -> np.ndarray:
    """Return what stands in the input in place of chosen tokens: mostly the mask, else a random token or the same."""
    draw = rng.random(len(tokens))
    random_tokens = rng.integers(vocabulary.size, size=len(tokens))
    replaced = np.where(draw < MASKED + RANDOM, random_tokens, tokens)
    return np.where(draw < MASKED, vocabulary.mask, replaced)
