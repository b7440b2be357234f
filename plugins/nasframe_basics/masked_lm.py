"""Task ``masked_lm``: predict the tokens that were masked (Devlin et al. 2019, arXiv 1810.04805), in texts of any kind.

Texts are documents. Each split's documents stand one after another, a separator behind each, and this line of tokens is
cut into blocks, which are filled up with the tokenizer's token for the beginning and its separator. An example is a
block. In each block the same number of tokens is masked: 15 % of them, of which 80 % become the mask token, 10 % become
random tokens, and 10 % stay as they are. Training draws other positions in each epoch (Liu et al. 2019,
arXiv 1907.11692); those of ``select`` and ``dev`` are fixed.
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
    SplitSummary,
)
from nasframe.seeds import generator
from nasframe.units import share
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
ENDS = 2
"""Tokens of a block that the task adds: the one for its beginning, and the separator at its end."""
FEWEST = ENDS + 2
"""Tokens of the shortest block."""
MASKED = 0.8
"""Share of the chosen tokens that become the mask token."""
RANDOM = 0.1
"""Share of the chosen tokens that become a random token; the rest stay as they are."""
METRICS: Mapping[str, MetricFormat] = {
    "perplexity": MetricFormat(higher_is_better=False),
    # Tokens of one text depend on each other, so the error of a share of independent examples would be too small.
    "accuracy": MetricFormat(percent=True, standard_error="unknown"),
    "loss": MetricFormat(higher_is_better=False),
}


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


@dataclass(frozen=True)
class Blocks:
    """The tokens of a split, in blocks.

    Args:
        tokens: ``(blocks, length)`` of int32.
        count: tokens of the texts in all, the separators between them included.
        left_out: tokens that are in no block: those at the end, and those of blocks with too few to mask.
    """

    tokens: np.ndarray
    count: int
    left_out: int


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
        for name, split in splits.items():
            if not len(split):
                raise UsageError(f"split {name!r} is empty. Expected at least one text.")
        if tokenizer is not None:
            refuse_block(length, tokenizer)
            self._vocabulary = vocabulary_of(tokenizer)
        self.length = length
        self.chosen = max(1, round(probability * (length - ENDS)))
        self.seed = seed
        self.fingerprint = _fingerprint(splits, [length, probability, train_limit])
        self._splits = splits
        self._tokenizer = tokenizer
        self._limit = train_limit
        self._sources = sources
        self._blocks: dict[str, Blocks] = {}
        self._notify = notify

    def training_texts(self) -> Iterator[str]:
        """Yield the training texts, from which a model may make a tokenizer."""
        for (text,) in self._splits["train"].texts:
            yield text

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Split → number of blocks."""
        left_out = {name: self.blocks(name).left_out for name in self._splits}
        if any(left_out.values()):
            parts = [f"{count:,} of {name}" for name, count in left_out.items()]
            text = f"Blocks have {self.length} tokens. Tokens at the end, and stretches of very short texts, fill none:"
            self._notify("task.length", f"{text} {', '.join(parts)}.")
        return {name: len(self.blocks(name).tokens) for name in self._splits}

    @cached_property
    def summary(self) -> DataSummary:
        """The data in numbers: documents, copies, tokens and blocks, split by split."""
        train_texts = set(self._splits["train"].texts)
        summaries = []
        for name, split in self._splits.items():
            blocks = self.blocks(name)
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
                    blocks=len(blocks.tokens),
                    tokens=blocks.count,
                )
            )
        rows_read = sum(source.rows for source in self._sources)
        rows_used = sum(len(split) for split in self._splits.values())
        unused = max(rows_read - rows_used, 0)
        return DataSummary(tuple(self._sources), tuple(summaries), None, unused, self.length, noun="document")

    def blocks(self, split: str) -> Blocks:
        """Return a split's blocks, nothing masked; it is tokenised the first time.

        Raises:
            UsageError: there is no such split or no tokenizer, or the texts are shorter than a block.
        """
        if split not in self._splits:
            raise UsageError(f"split: there is no {split!r}. Expected one of {', '.join(self._splits)}.")
        if split not in self._blocks:
            if self._tokenizer is None:
                raise UsageError(
                    "task: no tokenizer was given. Expected tokenizer=…, as a model's .tokenizer() returns."
                )
            tokens = tokenised(self._tokenizer, [text for (text,) in self._splits[split].texts])
            limit = self._limit if split == "train" else None
            blocks = cut_blocks(tokens, self.length, self._vocabulary, self.chosen, limit)
            if not len(blocks.tokens) and blocks.count >= self.length:
                raise UsageError(
                    f"split {split!r}: in each block of {self.length} of its {blocks.count} tokens, fewer than "
                    f"{self.chosen} can be masked; the others are special ones. Expected a tokenizer that knows the "
                    "words of these texts."
                )
            if not len(blocks.tokens):
                raise UsageError(
                    f"split {split!r}: its texts have {blocks.count} tokens, which is less than one block of "
                    f"{self.length}, {ENDS} of them at its ends. Expected more text, or a smaller length."
                )
            self._blocks[split] = blocks
        return self._blocks[split]

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

        tokens = self.blocks(split).tokens[index].astype(np.int64)
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
        from torch.nn import functional

        logits = outputs.logits.float()  # a network in mixed precision returns them in 16 bits
        return functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED)

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

        ids = self._ids(split, examples)
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
        loss = float(np.mean(losses))
        metrics = {"perplexity": perplexity(loss), "accuracy": float(np.mean(correct)), "loss": loss}
        columns: dict[str, Sequence[Any]] = {"id": ids.tolist(), "loss": losses, "accuracy": correct}
        return Evaluation(metrics, columns, len(ids), tokens)

    def _ids(self, split: str, examples: int | None) -> np.ndarray:
        """Return the positions of the blocks to measure, ascending."""
        size = len(self.blocks(split).tokens)
        if examples is None or examples >= size:
            return np.arange(size)
        # One order for all sizes: a larger subset holds the smaller ones.
        order = generator(self.seed, "examples", split).permutation(size)
        return np.sort(order[:examples])


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
    refuse_block(options.get("length", DEFAULT_LENGTH), tokenizer)
    if hasattr(tokenizer, "mask_token_id"):  # what stands for a tokenizer before a run need not know it
        vocabulary_of(tokenizer)


masked_lm.faults = _faults  # type: ignore[attr-defined]
masked_lm.validate = _validate  # type: ignore[attr-defined]
masked_lm.on_files = missing_files  # type: ignore[attr-defined]
masked_lm.auto_class = "AutoModelForMaskedLM"  # type: ignore[attr-defined]


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
    >>> blocks.tokens.tolist(), blocks.left_out
    ([[1, 10, 11, 2], [1, 12, 13, 2]], 1)
    """
    width = length - ENDS
    count = len(tokens) // width
    inner = tokens[: count * width].reshape(count, width)
    is_usable = (~np.isin(inner, vocabulary.special)).sum(1) >= chosen
    inner = inner[is_usable]
    left_out = len(tokens) - inner.size
    inner = inner[:limit]
    blocks = np.empty((len(inner), length), dtype=np.int32)
    blocks[:, 0] = vocabulary.begin
    blocks[:, 1:-1] = inner
    blocks[:, -1] = vocabulary.end
    return Blocks(blocks, len(tokens), left_out)


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


def _fingerprint(splits: Mapping[str, Split], settings: Sequence[Any]) -> str:
    """Hash the texts of the splits, how they are packed, and how much is masked."""
    digest = hashlib.sha256(json.dumps(settings).encode())
    for name in sorted(splits):
        digest.update(json.dumps([name, [text for (text,) in splits[name].texts]]).encode())
    return digest.hexdigest()[:16]
