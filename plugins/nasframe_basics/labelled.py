"""What all tasks with labels share: classes in the order of the network's outputs, the loss, and evaluation.

A task of texts or of images says how a batch is made of examples (``batch``) and in which order they are read. Labels
are class indices, or numbers in a regression, or a row of 0 and 1 if several labels may hold for one example. The
splits are ``train``, ``select`` (carved out of the training data) and ``dev``.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import numpy as np

from nasframe.errors import UsageError, listing, suggestion
from nasframe.heads import Head, Match, match
from nasframe.labels import are_independent, same_kind
from nasframe.notices import Notify, say
from nasframe.records import Batch, Evaluation, Forward, MetricFormat, Positive
from nasframe.seeds import generator
from nasframe_basics.epochs import EpochBatches, cut
from nasframe_basics.metrics import METRICS, formats
from nasframe_basics.splits import Split, label_counts, strata, stratified

ClassWeights: TypeAlias = Mapping[str, Positive] | Literal["balanced"]
EVALUATION_BATCH = 64
UNLABELLED = -100
"""In place of the class of an example that has none; in a regression that is NaN."""
THRESHOLD = 0.5
"""The probability above which a label is predicted, if several may hold; its logit is then above 0."""


class LabelledTask:
    """Classify examples, tell which of several labels hold for them, or score them on a line (regression).

    Subclasses define :meth:`batch`, and may define :meth:`reading_order` and :meth:`batches_of_epoch`.

    Args:
        splits: ``train``, ``select``, ``dev``; a ``dev_mismatched`` is measured together with ``dev``.
        labels: the class names in index order; :class:`~nasframe.labels.IndependentLabels` if several may hold for one
            example; ``None`` for regression.
        metrics: names from ``nasframe_basics.metrics.METRICS``.
        primary: the one of them that a search maximises.
        seed: draws the subset that ``evaluate(examples=n)`` measures.
        notify: receives notices: what becomes of the saved head.
        saved_head: the head that the checkpoint brings, whose order of classes the task takes over.
        published: ``labels`` are in an order that everybody knows.
        positive: the class that ``f1`` is about; default: the second.
        class_weights: class → weight in the loss, 1 for classes that are not named; or ``balanced``. If several labels
            may hold, it is the weight of the examples for which the label does.

    Attributes:
        metrics: how each metric is printed and compared.
        has_unlabelled: whether some training examples have no labels; a subclass says so.

    Raises:
        UsageError: a split is empty, or outputs of the saved head cannot be told apart.
    """

    def __init__(
        self,
        splits: Mapping[str, Split],
        labels: Sequence[str] | None,
        metrics: Sequence[str],
        primary: str,
        seed: int = 0,
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
        self.primary = primary
        self.seed = seed
        self.sizes = {name: len(split) for name, split in splits.items()}
        # The data in the task's own order of classes: a checkpoint with another order neither changes the fingerprint
        # nor which examples are measured.
        self.fingerprint = fingerprint(splits, labels)
        self._strata = {name: strata(split.labels) for name, split in splits.items()}
        # From here on, classes are numbered as the network's outputs.
        self.labels: Sequence[str] | None = None
        self.has_unlabelled = False
        self._weights: np.ndarray | None = None
        self._outputs = np.zeros(1, dtype=int)  # of each of the task's classes
        self._splits = splits
        if labels is None:
            if class_weights is not None:
                raise UsageError("class_weights: a task of scores has no classes. Expected none.")
            facts: dict[str, Any] = {}
        else:
            head_match = match(saved_head, labels, published)
            for text in head_match.notices:
                notify("model", text)
            self._take_outputs(head_match, labels)
            self._outputs = np.array(head_match.outputs)
            if class_weights is not None:
                self._weights = self._output_weights(class_weights, labels, splits)
            facts = _class_facts(head_match, labels, positive)
            positive = head_match.labels[facts["positive"]]  # by the checkpoint's name of it
        self.metrics = formats(metrics, positive)
        if "dev_mismatched" in splits:
            self.metrics |= mismatched(self.metrics)
        self._functions = _metric_functions(metrics, facts)

    @property
    def _is_independent(self) -> bool:
        """Whether several labels may hold for one example."""
        return are_independent(self.labels)

    def _take_outputs(self, head_match: Match, labels: Sequence[str]) -> None:
        """Number the examples' classes as the network's outputs.

        Args:
            head_match: the output of each class.
            labels: the task's classes, in its own order.
        """
        outputs = np.array(head_match.outputs)
        self.labels = same_kind(head_match.labels, labels)
        renumbered = {}
        for name, split in self._splits.items():
            if self._is_independent:
                # Outputs of which the data say nothing have no column of their own there: they get one of zeros.
                answers = np.zeros((len(split), len(self.labels)), dtype=np.int8)
                answers[:, outputs] = split.labels
            else:
                answers = outputs[split.labels]
            renumbered[name] = Split(split.texts, answers)
        self._splits = renumbered

    def _output_weights(self, wanted: ClassWeights, labels: Sequence[str], splits: Mapping[str, Split]) -> np.ndarray:
        """Return the weight of each of the network's outputs, ``(outputs,)``.

        Args:
            wanted: weights by class name.
            labels: the task's classes, in its own order.
            splits: the examples, their classes in the same order.
        """
        if "train" not in splits:
            raise UsageError("class_weights: there are no training data to weight.")
        assert self.labels is not None
        weights = np.ones(len(self.labels))  # a saved head may have more outputs than the task has classes
        weights[self._outputs] = weights_of(wanted, labels, splits["train"].labels)
        return weights

    def batch(self, split: str, index: np.ndarray) -> Batch:
        """Gather the examples at ``index`` of a split."""
        raise NotImplementedError

    def reading_order(self, split: str, ids: np.ndarray) -> np.ndarray:
        """Return the order in which examples are evaluated, as positions in ``ids``."""
        return np.arange(len(ids))

    def batches_of_epoch(self, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Deal the training examples into batches; together they hold every example once."""
        order = rng.permutation(self.sizes["train"])
        return cut(order, batch_size)

    def train_batches(self, seed: int, epoch: int, batch_size: int) -> EpochBatches:
        """Return one epoch of batches, shuffled by ``(seed, epoch)``."""
        order = self.batches_of_epoch(batch_size, generator(seed, "epoch", epoch))
        return EpochBatches(self.batch, order)

    def loss(self, outputs: Any, batch: Batch) -> Any:
        """Return the mean cross-entropy of a batch, weighted by class, or its mean squared error for regression.

        If several labels may hold, it is the mean of each label's binary cross-entropy. An example without a label adds
        nothing; it counts in the mean.
        """
        import torch
        from torch.nn import functional

        logits = outputs.logits.float()  # a network in mixed precision returns them in 16 bits
        if self.labels is None:
            scores = logits.squeeze(-1)  # (examples, 1) against (examples,) would be broadcast to a square
            truth = batch.labels.to(logits.dtype)
            if self.has_unlabelled:  # whatever such an example's score is, it is taken to be right
                truth = torch.where(torch.isnan(truth), scores.detach(), truth)
            return functional.mse_loss(scores, truth)
        if self._is_independent:
            return self._independent_loss(logits, batch.labels)
        if self._weights is None and not self.has_unlabelled:
            return functional.cross_entropy(logits, batch.labels)
        losses = functional.cross_entropy(logits, batch.labels, reduction="none", ignore_index=UNLABELLED)
        if self._weights is not None:
            weights = torch.as_tensor(self._weights, dtype=logits.dtype, device=logits.device)
            losses = weights[batch.labels.clamp(min=0)] * losses
        # Divided by the number of examples, not by the sum of weights, or by the number of labels: the parts of a batch
        # then add up to the whole.
        return losses.mean()

    def _independent_loss(self, logits: Any, labels: Any) -> Any:
        """Return the binary cross-entropy of a batch, the mean over examples and labels.

        Args:
            logits: ``(batch, outputs)``.
            labels: ``(batch, outputs)``, 0 or 1; a row of ``UNLABELLED`` for an example without labels.
        """
        import torch
        from torch.nn import functional

        # The data say nothing of a head's further outputs, so they are neither right nor wrong.
        outputs = torch.as_tensor(self._outputs, device=logits.device)
        answered = logits[:, outputs]
        truth = labels[:, outputs].to(logits.dtype)
        pos_weight = None
        if self._weights is not None:
            pos_weight = torch.as_tensor(self._weights, dtype=logits.dtype, device=logits.device)[outputs]
        losses = functional.binary_cross_entropy_with_logits(
            answered, truth.clamp(min=0), pos_weight=pos_weight, reduction="none"
        )
        has_labels = truth != UNLABELLED
        return (losses * has_labels).mean()

    def evaluate(self, forward: Forward, split: str, examples: int | None = None) -> Evaluation:
        """Measure a network on a split, or on a fixed, stratified subset of ``examples`` examples of it.

        Args:
            forward: takes CPU tensors by keyword and returns an output with ``logits``.
            split: ``train``, ``select`` or ``dev``.
            examples: size of the subset; a larger one holds the smaller ones.

        Returns:
            The metrics and ``loss``; the columns ``id``, ``label``, ``prediction`` and, for classes, ``p_<class>``. If
            several labels may hold, ``label`` and ``prediction`` are lists of the outputs that do.
        """
        result = self._measure(forward, split, examples)
        if split != "dev" or "dev_mismatched" not in self._splits:
            return result
        mismatched_result = self._measure(forward, "dev_mismatched", examples)
        metrics = dict(result.metrics)
        for name, value in mismatched_result.metrics.items():
            metrics[f"{name}_mismatched"] = value
        columns: dict[str, Sequence[Any]] = {}
        for name, column in result.predictions.items():
            columns[name] = [*column, *mismatched_result.predictions[name]]
        # An id counts within its split, so that it takes both to find a row again.
        matched_names = ["dev"] * result.examples
        mismatched_names = ["dev_mismatched"] * mismatched_result.examples
        columns["split"] = matched_names + mismatched_names
        return Evaluation(
            metrics,
            columns,
            examples=result.examples + mismatched_result.examples,
            tokens=result.tokens + mismatched_result.tokens,
        )

    def _measure(self, forward: Forward, split: str, examples: int | None) -> Evaluation:
        """Measure a network on one split, or on a subset of it; see :meth:`evaluate`."""
        if split not in self._splits:
            raise UsageError(f"split: there is no {split!r}. Expected one of {', '.join(self._splits)}.")
        ids = self._ids(split, examples)
        truth = self._splits[split].labels[ids]
        logits, tokens = self._logits(forward, split, ids)
        predictions, losses, probabilities = self._answers(logits, truth)
        columns: dict[str, Sequence[Any]] = {}
        columns["id"] = ids.tolist()
        columns["label"] = self._column(truth)
        columns["prediction"] = self._column(predictions)
        if probabilities is not None:
            columns |= self._probability_columns(probabilities)
        return Evaluation(self._metrics(truth, predictions, losses), columns, len(ids), tokens)

    def _column(self, values: np.ndarray) -> list[Any]:
        """Return labels or predictions as a column: of several labels that may hold, the lists of those that do."""
        if self._is_independent:
            return [np.flatnonzero(row).tolist() for row in values]
        column: list[Any] = values.tolist()
        return column

    def _answers(self, logits: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return what a network predicts.

        Loss and probabilities are computed here, not by the task's ``loss``: in float64, and without class weights.

        Args:
            logits: ``(examples, outputs)``.
            truth: the labels.

        Returns:
            The predictions, in the form of the labels; the losses, ``(examples,)``; and the probabilities,
            ``(examples, outputs)``, or ``None`` in a regression.
        """
        if self.labels is None:
            predictions = logits[:, 0]
            return predictions, (predictions - truth) ** 2, None
        if self._is_independent:
            of_yes = np.logaddexp(0.0, -logits)  # −log σ
            of_no = np.logaddexp(0.0, logits)
            losses = np.where(truth == 1, of_yes, of_no)[:, self._outputs].mean(1)
            return self._predicted_labels(logits), losses, np.exp(-of_yes)
        log_sums = np.logaddexp.reduce(logits, axis=1, keepdims=True)
        log_p = logits - log_sums
        return logits.argmax(1), -log_p[np.arange(len(truth)), truth], np.exp(log_p)

    def _metrics(self, truth: np.ndarray, predictions: np.ndarray, losses: np.ndarray) -> dict[str, float]:
        """Return the metrics and the mean loss of some examples."""
        metrics = {}
        for name, function in self._functions.items():
            metrics[name] = float(function(truth, predictions))
        metrics["loss"] = float(np.mean(losses))
        return metrics

    # ---- part by part

    def order(self, split: str) -> list[int]:
        """Return the positions of a split's examples in the order in which subsets take them."""
        order: list[int] = self._order(split).tolist()
        return order

    def evaluate_at(self, forward: Forward, split: str, ids: Sequence[int]) -> Evaluation:
        """Measure a network on the examples at some positions; the predictions have a column ``loss``."""
        positions = np.asarray(ids)
        truth = self._splits[split].labels[positions]
        logits, tokens = self._logits(forward, split, positions)
        predictions, losses, _ = self._answers(logits, truth)
        columns = {
            "id": positions.tolist(),
            "label": truth.tolist(),
            "prediction": predictions.tolist(),
            "loss": losses.tolist(),
        }
        return Evaluation(self._metrics(truth, predictions, losses), columns, len(positions), tokens)

    def metrics_of(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, float]:
        """Return the metrics of rows of predictions that :meth:`evaluate_at` gave."""
        return self._metrics(*(np.asarray(columns[name]) for name in ("label", "prediction", "loss")))

    def _order(self, split: str) -> np.ndarray:
        """Return one order for subsets of all sizes, of which any prefix is stratified."""
        return stratified(self._strata[split], generator(self.seed, "examples", split))

    def _predicted_labels(self, logits: np.ndarray) -> np.ndarray:
        """Return 1 for the labels that a network predicts, ``(examples, outputs)``: those more likely than not.

        Outputs of which the data say nothing are never predicted, since nothing could tell whether they are right.
        """
        predictions = np.zeros(logits.shape, dtype=np.int8)
        predictions[:, self._outputs] = logits[:, self._outputs] > math.log(THRESHOLD / (1 - THRESHOLD))
        return predictions

    def _probability_columns(self, probabilities: np.ndarray) -> dict[str, Sequence[Any]]:
        """Return a column for each output, given ``(examples, outputs)``."""
        assert self.labels is not None
        columns: dict[str, Sequence[Any]] = {}
        for output, name in enumerate(self.labels):
            columns[f"p_{name}"] = probabilities[:, output].round(6).tolist()
        return columns

    def _ids(self, split: str, examples: int | None) -> np.ndarray:
        """Return the positions of the examples to measure, ascending."""
        classes = self._strata[split]
        if examples is None or examples >= len(classes):
            return np.arange(len(classes))
        # A prefix of one order, so that a larger subset holds the smaller ones.
        return np.sort(self._order(split)[:examples])

    def _logits(self, forward: Forward, split: str, ids: np.ndarray) -> tuple[np.ndarray, int]:
        """Run a network on examples.

        Args:
            forward: the network.
            split: the examples' split.
            ids: ``(examples,)`` their positions in it.

        Returns:
            ``(examples, outputs)`` the logits in the order of ``ids``, and how many tokens were read.
        """
        import torch

        order = self.reading_order(split, ids)
        sorted_ids = ids[order]
        parts = []
        tokens = 0
        with torch.no_grad():
            for start in range(0, len(ids), EVALUATION_BATCH):
                batch_ids = sorted_ids[start : start + EVALUATION_BATCH]
                batch = self.batch(split, batch_ids)
                logits = forward(**batch.inputs).logits.float()
                parts.append(logits.cpu().numpy())
                tokens += batch.tokens
        sorted_logits = np.concatenate(parts).astype(np.float64)
        in_order = np.empty_like(sorted_logits)
        in_order[order] = sorted_logits
        return in_order, tokens


def _class_facts(head_match: Match, labels: Sequence[str], positive: str | None) -> dict[str, Any]:
    """Return the facts about classes that metrics need: ``classes`` and ``positive``, as numbers of outputs.

    Args:
        head_match: the output of each class.
        labels: the task's classes, in its own order.
        positive: the positive class; default: the second.
    """
    if positive is None:
        index = min(1, len(labels) - 1)  # the first, if a task of a user's own has only one class
    else:
        index = labels.index(positive)
    return {"classes": sorted(head_match.outputs), "positive": head_match.outputs[index]}


def _metric_functions(metrics: Sequence[str], facts: Mapping[str, Any]) -> dict[str, Callable[..., float]]:
    """Return metric → function of labels and predictions, which already has the facts about the task that it needs.

    Args:
        metrics: names of metrics.
        facts: ``classes`` and ``positive``, see :class:`nasframe_basics.metrics.Metric`.
    """
    functions: dict[str, Callable[..., float]] = {}
    for name in metrics:
        metric = METRICS[name]
        arguments = {need: facts[need] for need in metric.needs}
        functions[name] = functools.partial(metric.function, **arguments)
    return functions


def mismatched(metrics: Mapping[str, MetricFormat]) -> dict[str, MetricFormat]:
    """Return the formats of the metrics of MNLI's mismatched set, given those of the matched one."""
    formats_ = {}
    for name, metric_format in metrics.items():
        is_companion = metric_format.higher_is_better  # the metrics, not the loss
        formats_[f"{name}_mismatched"] = replace(metric_format, companion=is_companion, dev_only=True)
    return formats_


def weights_of(wanted: ClassWeights, classes: Sequence[str], labels: np.ndarray) -> np.ndarray:
    """Return the weight of each class.

    Args:
        wanted: class → weight, 1 for classes that are not named; ``balanced`` makes all classes count alike, with a
            mean weight of 1 over the examples. Of labels that may hold together it makes the examples with a label
            count like those without it.
        classes: their names.
        labels: the training data's classes, ``(examples,)``, or ``(examples, classes)`` of labels.

    Raises:
        UsageError: a name is not that of a class.

    >>> weights_of("balanced", ["no", "yes"], np.array([0, 0, 0, 1])).round(3).tolist()
    [0.667, 2.0]
    """
    if wanted == "balanced" and labels.ndim == 2:
        with_label = label_counts(labels, len(classes))
        without_label = len(labels) - with_label
        # A label that never holds has no examples to weight, and one that always does has nothing to count like.
        is_both = (with_label > 0) & (without_label > 0)
        return np.where(is_both, without_label / np.maximum(with_label, 1), 1.0)
    if wanted == "balanced":
        counts = np.bincount(labels, minlength=len(classes))
        present = np.count_nonzero(counts)
        counts = np.maximum(counts, 1)  # classes without examples get some weight, which nothing is multiplied by
        return len(labels) / counts / present
    for name in wanted:
        if name not in classes:
            hint = suggestion(name, classes)
            raise UsageError(f"class_weights: no class {name!r}. Expected some of {listing(classes)}.{hint}")
    return np.array([wanted.get(name, 1.0) for name in classes])


def fingerprint(splits: Mapping[str, Split], labels: Sequence[str] | None) -> str:
    """Hash texts, labels and splits: the same data give the same 16 digits, whichever files they come from."""
    names = None if labels is None else list(labels)
    digest = hashlib.sha256()
    digest.update(json.dumps(names).encode())
    for name in sorted(splits):
        split = splits[name]
        texts, values = list(split.texts), split.labels.tolist()
        content = json.dumps([name, texts, values])
        digest.update(content.encode())
    return digest.hexdigest()[:16]
