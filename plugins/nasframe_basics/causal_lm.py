"""Task ``causal_lm``: predict the next token of your own texts, or of the docstrings of installed packages.

Texts are documents. Each split's documents stand one after another, an end-of-text token behind each, and this line of
tokens is cut into blocks of one length. An example is a block. Its inputs are ``length`` tokens; its labels are the
same tokens moved on by one, so that every position has a label.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from nasframe.errors import UsageError, listing
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
from nasframe_basics.epochs import EpochBatches, cut
from nasframe_basics.package_docs import PACKAGES, docstrings_of, source_files
from nasframe_basics.rows import decoded, located
from nasframe_basics.splits import Split, carve

Documents: TypeAlias = Literal["paragraph", "line", "file"]
Package: TypeAlias = Literal[
    "matplotlib", "networkx", "numpy", "pandas", "python", "scipy", "sklearn", "sympy", "torch", "transformers"
]
Files: TypeAlias = Path | str | list[Path | str]

DEFAULT_LENGTH = 128
EVALUATION_BATCH = 16
"""Blocks that are evaluated at once; the logits of one block are as many numbers as tokens times vocabulary."""
TOKENISED_TOGETHER = 1024
FEWEST = 2
"""Tokens of the shortest block."""
METRICS: Mapping[str, MetricFormat] = {
    "perplexity": MetricFormat(higher_is_better=False),
    # Tokens of one text depend on each other, so the error of a share of independent examples would be too small.
    "accuracy": MetricFormat(percent=True, standard_error="unknown"),
    "loss": MetricFormat(higher_is_better=False),
}


@dataclass(frozen=True)
class Corpus:
    """The documents of one file, or of one package.

    Args:
        split: the task's split that they belong to.
        name: the file or package.
        documents: the texts, in order.
    """

    split: str
    name: str
    documents: Sequence[str]


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
    corpora = _corpora(train, dev, packages, documents, limit, base)
    splits = {"train": _joined(corpora, "train")}
    if dev is None:
        # Carved before `select`, so that `dev` is the same whatever `select` is.
        rest, dev_data = carve(splits["train"], dev_share, None, seed, "dev")
        splits = {"train": rest, "dev": dev_data}
    else:
        splits["dev"] = _joined(corpora, "dev")
        _notify_shared(splits, notify)
    training, selection = carve(splits["train"], select, None, seed)
    splits = {"train": training, "select": selection, "dev": splits["dev"]}
    sources = [DataSource(corpus.split, corpus.name, len(corpus.documents)) for corpus in corpora]
    return CausalLMTask(splits, length, tokenizer, seed, train_limit, sources, notify)


def _faults(options: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield rules about options that types cannot express."""
    has_files = options.get("train") is not None
    packages = options.get("packages")
    if packages is not None and has_files:
        yield ("packages",), "the texts are named twice. Expected either train or packages."
    if packages is None and not has_files:
        yield ("train",), "missing. Expected text files, or packages whose docstrings to read."
    if options.get("dev") is not None and not has_files:
        yield ("dev",), "needs train. Expected both, or dev_share."
    if isinstance(packages, list):
        repeated = sorted({str(name) for name in packages if packages.count(name) > 1})
        if repeated:
            yield ("packages",), f"{listing(repeated)} is named twice. Expected each package once."
        if not packages:
            yield ("packages",), f"none named. Expected some of {', '.join(PACKAGES)}."


def _validate(options: Mapping[str, Any], tokenizer: Any) -> None:
    """Refuse a block in the recipe that the network cannot read."""
    refuse_block(options.get("length", DEFAULT_LENGTH), tokenizer)


def _on_files(options: Mapping[str, Any], base: Path) -> Iterator[tuple[str, str]]:
    """Yield the options that name files which are not there."""
    for name in ("train", "dev"):
        for path in _paths(options.get(name), base):
            if not path.is_file():
                yield name, f"{path}: no such file. Expected a text file."


causal_lm.faults = _faults  # type: ignore[attr-defined]
causal_lm.validate = _validate  # type: ignore[attr-defined]
causal_lm.on_files = _on_files  # type: ignore[attr-defined]
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


def _paths(files: Files | None, base: Path | None) -> list[Path]:
    """Return the files that an option names."""
    if files is None:
        return []
    names = files if isinstance(files, list) else [files]
    return [located(name, base) for name in names]


def _corpora(
    train: Files | None,
    dev: Files | None,
    packages: Sequence[str] | None,
    documents: Documents,
    limit: int | None,
    base: Path | None,
) -> list[Corpus]:
    """Read the documents, file by file or package by package."""
    corpora = []
    for package in packages or ():
        texts = list(itertools.islice(docstrings(package), limit))
        if not texts:
            raise UsageError(f"packages: {package} has no docstrings here. Expected its source files.")
        corpora.append(Corpus("train", package, texts))
    for split, files in (("train", train), ("dev", dev)):
        for path in _paths(files, base):
            texts = read_documents(path, documents)
            corpora.append(Corpus(split, str(path), texts[:limit]))
    return corpora


def read_documents(path: Path, unit: Documents) -> list[str]:
    """Read the documents of a text file.

    Args:
        path: the file; UTF-8, a byte-order mark allowed.
        unit: ``paragraph``, ``line`` or ``file``.

    Raises:
        UsageError: it is missing, is not UTF-8, or holds no text.
    """
    text = decoded(path).replace("\r\n", "\n").replace("\r", "\n")
    if unit == "file":
        parts = [text.strip("\n")]
    elif unit == "line":
        parts = text.split("\n")
    else:
        parts = _paragraphs(text)
    documents = [part for part in parts if part.strip()]
    if not documents:
        raise UsageError(f"{path}: no text. Expected at least one {unit}.")
    return documents


def _paragraphs(text: str) -> list[str]:
    """Return the parts of a text between empty lines.

    >>> _paragraphs("one\\ntwo\\n \\nthree\\n")
    ['one\\ntwo', 'three']
    """
    paragraphs: list[str] = []
    lines: list[str] = []
    for line in [*text.split("\n"), ""]:
        if line.strip():
            lines.append(line)
        elif lines:
            paragraphs.append("\n".join(lines))
            lines = []
    return paragraphs


def docstrings(package: str) -> Iterator[str]:
    """Yield the docstrings of a package, each text once, file by file in a fixed order."""
    seen: set[str] = set()
    for path in source_files(package):
        for docstring in docstrings_of(path.read_bytes()):
            text = docstring.strip()
            if text and text not in seen and "\0" not in text:
                seen.add(text)
                yield text


def _joined(corpora: Iterable[Corpus], split: str) -> Split:
    """Return the documents of a split, labelled by file so that carved splits hold some of each."""
    texts: list[tuple[str, ...]] = []
    labels: list[int] = []
    chosen = [corpus for corpus in corpora if corpus.split == split]
    for number, corpus in enumerate(chosen):
        texts += [(text,) for text in corpus.documents]
        labels += [number] * len(corpus.documents)
    return Split(texts, np.array(labels, dtype=np.int64))


def _notify_shared(splits: Mapping[str, Split], notify: Notify) -> None:
    """Report the documents of ``dev`` that are in the training files, too."""
    train_texts = set(splits["train"].texts)
    dev = splits["dev"].texts
    shared = sum(text in train_texts for text in dev)
    if shared:
        text = f"{shared:,} of {len(dev):,} documents stand in the training files too. They are kept."
        notify("task.dev", text)


def tokenised(tokenizer: Any, texts: Sequence[str]) -> np.ndarray:
    """Return the tokens of texts one after another, ``(tokens,)``, with an end-of-text token behind each.

    Raises:
        UsageError: the tokenizer has no token for the end of a text.
    """
    end = tokenizer.eos_token_id
    if end is None:
        end = tokenizer.sep_token_id  # of BERT and its relatives
    if end is None:
        raise UsageError("task: the tokenizer has no eos_token. Expected one, which marks the end of each text.")
    parts = []
    for start in range(0, len(texts), TOKENISED_TOGETHER):
        together = list(texts[start : start + TOKENISED_TOGETHER])
        encoded = tokenizer(together, add_special_tokens=False, return_attention_mask=False, verbose=False)
        for ids in encoded["input_ids"]:
            parts.append(np.array([*ids, end], dtype=np.int32))
    return np.concatenate(parts)


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


def perplexity(loss: float) -> float:
    """Return the exponential of a mean loss in nats, infinity if that is too large for a number.

    >>> round(perplexity(math.log(8)), 6), perplexity(1e9)
    (8.0, inf)
    """
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def _fingerprint(splits: Mapping[str, Split], length: int, limit: int | None) -> str:
    """Hash the texts of the splits and how they are packed."""
    digest = hashlib.sha256(json.dumps([length, limit]).encode())
    for name in sorted(splits):
        digest.update(json.dumps([name, [text for (text,) in splits[name].texts]]).encode())
    return digest.hexdigest()[:16]
