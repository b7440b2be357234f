"""What every text task shares: tokens kept in memory, length-bucketed batches, evaluation with predictions.

Texts are tokenised once, on first use, into one flat array; a batch is one gather from it, so that the time outside
the network stays small. Splits are ``train``, ``select`` (carved out of the training data) and ``dev``.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np

from nasframe.errors import UsageError, listing, suggestion
from nasframe.heads import Head, match
from nasframe.notices import Notify, say
from nasframe.records import Batch, DataSource, DataSummary, Evaluation, Forward, MetricFormat, Positive
from nasframe.seeds import generator
from nasframe.weights import refusal
from nasframe_basics.metrics import METRICS, formats
from nasframe_basics.splits import Split, stratified
from nasframe_basics.summary import summarise

ClassWeights: TypeAlias = Mapping[str, Positive] | Literal["balanced"]
EVALUATION_BATCH = 64
MAX_LENGTH = 128
"""Tokens after which texts are cut, if nothing is written and the network can read as many."""
WINDOW = 50  # batches that are sorted by length together


@dataclass(frozen=True)
class Tokens:
    """A split's token ids, example after example.

    Args:
        columns: input name (``input_ids``, ``token_type_ids``) → ``(tokens,)`` of int32.
        starts: ``(examples,)`` where each example begins.
        lengths: ``(examples,)`` tokens of each example.
        padding: input name → the value beyond an example's end.
    """

    columns: Mapping[str, np.ndarray]
    starts: np.ndarray
    lengths: np.ndarray
    padding: Mapping[str, int]


class TextTask:
    """Classify one or two texts, or score them on a line (regression).

    Args:
        splits: ``train``, ``select``, ``dev``; a ``dev_mismatched`` is measured together with ``dev``.
        labels: the class names in index order; ``None`` for regression.
        metrics: names from ``nasframe_basics.metrics.METRICS``.
        primary: the one of them that a search maximises.
        tokenizer: a Hugging Face tokenizer.
        max_length: tokens after which a text is cut; default: ``default_length``, or what the network can read if
            that is less.
        seed: draws the subset that ``evaluate(examples=n)`` measures.
        saved_head: the head that the checkpoint brings, whose order of classes the task takes over.
        published: ``labels`` are in an order that everybody knows.
        positive: the class that ``f1`` is about; default: the second.
        class_weights: class → weight in the loss, 1 for classes that are not named; or ``balanced``.
        sources: what the splits were read from, for the summary.
        default_length: where texts are cut if ``max_length`` is not given.
        notify: hears of texts that are cut earlier than by default, and what becomes of the saved head.

    Attributes:
        metrics: how each metric reads.

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
        notify: Notify = say,
        *,
        saved_head: Head | None = None,
        published: bool = False,
        positive: str | None = None,
        class_weights: ClassWeights | None = None,
    ) -> None:
        if primary not in metrics:
            hint = suggestion(primary, metrics)
            raise UsageError(f"metric: {primary!r} is not measured here. Expected one of {', '.join(metrics)}.{hint}")
        for name, split in splits.items():
            if not len(split):
                raise UsageError(f"split {name!r} is empty. Expected at least one example.")
        self.primary, self.seed = primary, seed
        columns = max(len(text) for split in splits.values() for text in split.texts[:1])
        self.max_length = cut_length(max_length, default_length, columns, tokenizer, notify)
        self.sizes = {name: len(split) for name, split in splits.items()}
        self.fingerprint = fingerprint(splits, labels)  # of the data in their own order, whatever the checkpoint's is
        self.labels: Sequence[str] | None = None
        self._strata = {name: split.labels for name, split in splits.items()}
        self._weights: np.ndarray | None = None
        outputs: Sequence[int] = ()
        known: dict[str, Any] = {}
        if labels is not None:
            found = match(saved_head, labels, published)
            for text in found.notices:
                notify("model", text)
            self.labels, outputs = list(found.labels), found.outputs
            splits = {name: Split(split.texts, np.array(outputs)[split.labels]) for name, split in splits.items()}
            if class_weights is not None:
                if "train" not in splits:
                    raise UsageError("class_weights: there are no training data to weight.")
                own = weights_of(class_weights, labels, self._strata["train"])
                self._weights = np.ones(len(self.labels))
                self._weights[list(outputs)] = own
            chosen = min(1, len(labels) - 1) if positive is None else labels.index(positive)
            output = outputs[chosen]
            known = {"classes": sorted(outputs), "positive": output}
            positive = self.labels[output]
        elif class_weights is not None:
            raise UsageError("class_weights: a task of scores has no classes. Expected none.")
        self.metrics = formats(metrics, positive)
        if "dev_mismatched" in splits:
            self.metrics |= mismatched(self.metrics)
        self._functions = {
            name: functools.partial(METRICS[name].function, **{key: known[key] for key in METRICS[name].needs})
            for name in metrics
        }
        self._splits, self._tokenizer = splits, tokenizer
        self._tokens: dict[str, Tokens] = {}
        self._sources = sources

    @cached_property
    def summary(self) -> DataSummary:
        """What happened to the data: rows, copies, classes and lengths, split by split."""
        return summarise(self._splits, self.labels, self._sources, self._tokenizer, self.max_length)

    def tokens(self, split: str) -> Tokens:
        """Tokenise a split, the first time it is asked for."""
        if split not in self._tokens:
            if self._tokenizer is None:
                raise UsageError(
                    "task: no tokenizer was given. Expected tokenizer=…, as a model's .tokenizer() returns."
                )
            self._tokens[split] = tokenise(self._tokenizer, self._splits[split].texts, self.max_length)
        return self._tokens[split]

    def batch(self, split: str, index: np.ndarray) -> Batch:
        """Gather the examples at ``index`` of a split, padded to the longest of them."""
        return collate(self.tokens(split), self._splits[split].labels, index)

    def train_batches(self, seed: int, epoch: int, batch_size: int) -> TrainBatches:
        """Return one epoch of batches of about equal lengths, shuffled by ``(seed, epoch)``."""
        order = bucketed(self.tokens("train").lengths, batch_size, generator(seed, "epoch", epoch))
        return TrainBatches(self, order)

    def loss(self, outputs: Any, batch: Batch) -> Any:
        """Return the mean cross-entropy of a batch, weighted by class, or its mean squared error for regression."""
        import torch
        from torch.nn import functional

        logits = outputs.logits.float()
        if self.labels is None:
            return functional.mse_loss(logits.squeeze(-1), batch.labels.to(logits.dtype))
        if self._weights is None:
            return functional.cross_entropy(logits, batch.labels)
        weights = torch.as_tensor(self._weights, dtype=logits.dtype, device=logits.device)[batch.labels]
        losses = functional.cross_entropy(logits, batch.labels, reduction="none")
        return (weights * losses).mean()  # over examples, so that parts of a batch add up to the whole

    def evaluate(self, forward: Forward, split: str, examples: int | None = None) -> Evaluation:
        """Measure a network on a split, or on a fixed, stratified subset of ``examples`` examples of it.

        Args:
            forward: takes CPU tensors by keyword and returns an output with ``logits``.
            split: ``train``, ``select`` or ``dev``.
            examples: size of the subset; a larger one holds the smaller ones.

        Returns:
            The metrics and ``loss``; the columns ``id``, ``label``, ``prediction`` and, for classes, ``p_<class>``.
        """
        result = self._measure(forward, split, examples)
        if split != "dev" or "dev_mismatched" not in self._splits:
            return result
        other = self._measure(forward, "dev_mismatched", examples)
        metrics = dict(result.metrics) | {f"{name}_mismatched": value for name, value in other.metrics.items()}
        columns = {name: [*column, *other.predictions[name]] for name, column in result.predictions.items()}
        columns["split"] = ["dev"] * result.examples + ["dev_mismatched"] * other.examples
        return Evaluation(metrics, columns, result.examples + other.examples, result.tokens + other.tokens)

    def _measure(self, forward: Forward, split: str, examples: int | None) -> Evaluation:
        if split not in self._splits:
            raise UsageError(f"split: there is no {split!r}. Expected one of {', '.join(self._splits)}.")
        truth = self._splits[split].labels
        ids = np.arange(len(truth))
        if examples is not None and examples < len(truth):
            order = stratified(self._strata[split], generator(self.seed, "examples", split))
            ids = np.sort(order[:examples])
        logits, tokens = self._logits(forward, split, ids)
        truth = truth[ids]
        columns: dict[str, list[Any]] = {"id": ids.tolist(), "label": truth.tolist()}
        if self.labels is None:
            predictions = logits[:, 0]
            loss = float(np.mean((predictions - truth) ** 2))
            columns["prediction"] = predictions.tolist()
        else:
            predictions = logits.argmax(1)
            log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
            loss = float(-np.mean(log_p[np.arange(len(ids)), truth]))
            columns["prediction"] = predictions.tolist()
            columns |= {f"p_{name}": p.round(6).tolist() for name, p in zip(self.labels, np.exp(log_p).T, strict=True)}
        metrics = {name: float(function(truth, predictions)) for name, function in self._functions.items()}
        return Evaluation(metrics | {"loss": loss}, columns, len(ids), tokens)

    def _logits(self, forward: Forward, split: str, ids: np.ndarray) -> tuple[np.ndarray, int]:
        import torch

        order = ids[np.argsort(self.tokens(split).lengths[ids], kind="stable")]
        rows, tokens = [], 0
        with torch.no_grad():
            for start in range(0, len(order), EVALUATION_BATCH):
                batch = self.batch(split, order[start : start + EVALUATION_BATCH])
                rows.append(forward(**batch.inputs).logits.float().cpu().numpy())
                tokens += batch.tokens
        logits = np.concatenate(rows).astype(np.float64)
        return logits[np.argsort(order, kind="stable")], tokens


@dataclass(frozen=True)
class TrainBatches:
    """One epoch: batches made when asked for, by position too, so that a resume skips at no cost."""

    task: TextTask
    order: Sequence[np.ndarray]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> Batch:
        return self.task.batch("train", self.order[position])

    def __iter__(self) -> Iterator[Batch]:
        return (self.task.batch("train", index) for index in self.order)


def cut_length(written: int | None, default: int, columns: int, tokenizer: Any, notify: Notify = say) -> int:
    """Choose the number of tokens after which texts are cut.

    Args:
        written: what the user wrote, if anything.
        default: the number if nothing was written.
        columns: 1 for texts, 2 for pairs of texts.
        tokenizer: its ``model_max_length`` is what the network can read; ``None``: not known yet.
        notify: hears if the default is too much for the network.

    Raises:
        UsageError: ``written`` is more than the network can read, or too few for a text.
    """
    if tokenizer is None:
        return default if written is None else written
    longest = int(tokenizer.model_max_length)
    chosen = min(default, longest) if written is None else written
    refuse_length(chosen, columns, tokenizer)
    if chosen < default and written is None:
        notify("task.max_length", f"texts are cut at {chosen} tokens, all that the network can read.")
    return chosen


def refuse_length(max_length: int, columns: int, tokenizer: Any) -> None:
    """Refuse to cut texts where the network cannot read them, or where nothing of them is left.

    Args:
        max_length: tokens after which texts are cut.
        columns: 1 for texts, 2 for pairs of texts.
        tokenizer: its ``model_max_length`` is what the network can read.

    Raises:
        RecipeError: with the option ``max_length``.
    """
    longest = int(tokenizer.model_max_length)
    least = tokenizer.num_special_tokens_to_add(pair=columns == 2) + columns
    what = "a pair of texts" if columns == 2 else "a text"
    if max_length < least:
        raise refusal("max_length", [f"{max_length} is too few tokens for {what}. Expected at least {least}."])
    if max_length > longest:
        raise refusal("max_length", [f"{max_length} is more than the network can read. Expected at most {longest}."])


def mismatched(metrics: Mapping[str, MetricFormat]) -> dict[str, MetricFormat]:
    """Return how the metrics of MNLI's mismatched set read; they stand beside those of the matched one."""
    return {
        f"{name}_mismatched": replace(format_, companion=format_.higher_is_better, dev_only=True)
        for name, format_ in metrics.items()
    }


def weights_of(wanted: ClassWeights, classes: Sequence[str], labels: np.ndarray) -> np.ndarray:
    """Return the weight of each class.

    Args:
        wanted: class → weight, 1 for those that are not named; ``balanced`` makes all classes count alike, and the
            mean over the examples 1.
        classes: their names.
        labels: ``(examples,)`` the training data's classes.

    Raises:
        UsageError: there is no class of a name.

    >>> weights_of("balanced", ["no", "yes"], np.array([0, 0, 0, 1])).round(3).tolist()
    [0.667, 2.0]
    """
    if wanted == "balanced":
        counts = np.bincount(labels, minlength=len(classes))
        return len(labels) / np.maximum(counts, 1) / np.count_nonzero(counts)
    for name in wanted:
        if name not in classes:
            hint = suggestion(name, classes)
            raise UsageError(f"class_weights: no class {name!r}. Expected some of {listing(classes)}.{hint}")
    return np.array([wanted.get(name, 1.0) for name in classes])


def tokenise(tokenizer: Any, texts: Sequence[tuple[str, ...]], max_length: int) -> Tokens:
    """Tokenise texts or pairs of texts, cut at ``max_length`` tokens, into flat arrays."""
    columns: dict[str, list[np.ndarray]] = {}
    lengths: list[int] = []
    for start in range(0, len(texts), 8192):  # in pieces, since a tokenizer's own records are large
        parts = [list(column) for column in zip(*texts[start : start + 8192], strict=True)]
        encoded = tokenizer(*parts, truncation=True, max_length=max_length, return_attention_mask=False)
        lengths += map(len, encoded["input_ids"])
        for name, rows in encoded.items():
            flat = np.fromiter(itertools.chain.from_iterable(rows), np.int32)
            columns.setdefault(name, []).append(flat)
    sizes = np.array(lengths)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    padding = dict.fromkeys(columns, 0) | {"input_ids": tokenizer.pad_token_id or 0}
    return Tokens({name: np.concatenate(parts) for name, parts in columns.items()}, starts, sizes, padding)


def collate(tokens: Tokens, labels: np.ndarray, index: np.ndarray) -> Batch:
    """Gather examples into a padded batch with an attention mask."""
    import torch

    lengths = tokens.lengths[index]
    column = np.arange(lengths.max())
    mask = column < lengths[:, None]
    where = np.where(mask, tokens.starts[index][:, None] + column, 0)
    inputs = {
        name: torch.from_numpy(np.where(mask, flat[where], tokens.padding[name]).astype(np.int64))
        for name, flat in tokens.columns.items()
    }
    inputs["attention_mask"] = torch.from_numpy(mask.astype(np.int64))
    target = labels[index]
    kind = np.float32 if target.dtype.kind == "f" else np.int64
    return Batch(inputs, torch.from_numpy(target.astype(kind)), torch.from_numpy(index.astype(np.int64)))


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
    batches = -(-len(order) // batch_size)
    window = max(1, min(WINDOW, batches // 4)) * batch_size  # a quarter at most: batches must differ between epochs
    parts = (order[start : start + window] for start in range(0, len(order), window))
    order = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in parts])
    chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [chunks[i] for i in rng.permutation(len(chunks))]


def fingerprint(splits: Mapping[str, Split], labels: Sequence[str] | None) -> str:
    """Hash texts, labels and splits: the same data gives the same 16 digits wherever its files lie."""
    digest = hashlib.sha256(json.dumps(None if labels is None else list(labels)).encode())
    for name in sorted(splits):
        digest.update(json.dumps([name, list(splits[name].texts), splits[name].labels.tolist()]).encode())
    return digest.hexdigest()[:16]
