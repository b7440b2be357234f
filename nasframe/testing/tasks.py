"""What every task must do, as checks: subclass :class:`TaskContract`, define ``make``, run pytest.

class TestMine(TaskContract):
    def make(self, tokenizer, seed):
        return MyTask(tokenizer=tokenizer, seed=seed)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from nasframe.interfaces import output_kind
from nasframe.records import IGNORED, Batch, Evaluation
from nasframe.testing.kit import Contract, check, require, require_no_global_randomness
from nasframe.testing.toy import tiny_net, tiny_tokenizer

SPLITS = ("train", "select", "dev")
Row = tuple[Any, ...]


class TaskContract(Contract):
    """The checks, with a tokenizer of single characters and a tiny network.

    Attributes:
        batch_size: the size of training batches.
        overlap: the share of ``select`` or ``dev`` that may also be in ``train``: 0, unless the published data have
            such an overlap.
    """

    kind = "task"
    batch_size = 8
    overlap = 0.0

    def make(self, tokenizer: Any, seed: int) -> Any:
        """Make the task under test."""
        return self.registered(tokenizer=tokenizer, seed=seed, base=Path.cwd())

    def task(self, seed: int = 0) -> Any:
        """Make the task with the tiny tokenizer."""
        return self.make(tiny_tokenizer(), seed)

    def shared(self) -> Any:
        """Return one task for all checks that only read it, because data can be slow to load."""
        return _shared_task(cast(Any, type(self)))

    @check
    def test_it_says_what_it_is(self) -> None:
        """Metric, classes, sizes and the data's fingerprint are known before any work."""
        task = self.shared()
        has_primary = isinstance(task.primary, str) and task.primary
        require(has_primary, "primary is not set; name the metric that a search maximises")
        labels = task.labels
        if labels is None:  # a regression
            has_labels = True
        else:
            has_labels = len(labels) > 1 and all(isinstance(label, str) for label in labels)
        require(has_labels, f"labels is {labels!r}; list the class names in index order, or None for a regression")
        sizes = {split: task.sizes.get(split, 0) for split in SPLITS}
        require(min(sizes.values()) > 0, f"sizes are {sizes}; each of {', '.join(SPLITS)} needs examples")
        # From a second task: caches and studies recognise the same data by it.
        fingerprint = self.task().fingerprint
        is_text = isinstance(fingerprint, str) and fingerprint
        require(is_text, f"fingerprint is {fingerprint!r}; return a hash of the data as text")
        require(
            fingerprint == task.fingerprint,
            "two tasks with the same data have different fingerprints; hash only the data",
        )

    @check
    def test_an_epoch_has_every_example_once(self) -> None:
        """An epoch has a length and can be indexed, and its batches hold every training example once."""
        task = self.shared()
        # A resumed run goes to its position by index, so indexing and iterating must agree.
        epoch = task.train_batches(0, 0, self.batch_size)
        batches = list(epoch)
        require(len(epoch) == len(batches), f"len() is {len(epoch)}, but iterating gives {len(batches)} batches")
        ids = _ids_of(batches)
        size = task.sizes["train"]
        require(len(ids) == len(set(ids)), "an example occurs twice in one epoch; draw without replacement")
        require(set(ids) == set(range(size)), f"an epoch has {len(ids)} ids; expected each of 0 … {size - 1} once")
        largest = max(len(batch) for batch in batches)
        require(
            largest <= self.batch_size,
            f"a batch has {largest} examples; keep to batch_size, which is {self.batch_size}",
        )
        require(same_batch(epoch[0], batches[0]), "batches[0] is not the first batch of the iteration; make both agree")

    @check
    def test_the_same_epoch_is_the_same(self) -> None:
        """The order depends on seed and epoch, and on nothing else."""
        task = self.shared()

        def order(seed: int, epoch: int, task: Any = task) -> list[int]:
            return _ids_of(task.train_batches(seed, epoch, self.batch_size))

        # From a second task, since a resumed run makes its task again.
        repeated = order(1, 2, self.task())
        require(order(1, 2) == repeated, "train_batches(1, 2) differs from call to call; draw from seed and epoch")
        require(order(1, 2) != order(1, 3), "two epochs have the same order; shuffle by (seed, epoch)")
        require(order(1, 2) != order(2, 2), "two seeds have the same order; shuffle by (seed, epoch)")

    @check
    def test_splits_are_disjoint(self) -> None:
        """Examples for selection and for the report are not trained on."""
        task = self.shared()
        rows = {split: self.rows(task, split) for split in SPLITS}
        for split in ("select", "dev"):
            count = len(rows[split])
            size = task.sizes[split]
            require(count == size, f"evaluate({split!r}) runs {count} examples; run all {size} of the split")
        self._require_disjoint(rows, "select", "train")
        self._require_disjoint(rows, "dev", "train")
        self._require_disjoint(rows, "dev", "select")

    def _require_disjoint(self, rows: Mapping[str, list[Row]], split: str, other: str) -> None:
        other_rows = set(rows[other])
        total = len(rows[split])
        common = sum(row in other_rows for row in rows[split])
        require(
            common <= self.overlap * total,
            f"{common} of {total} examples of {split!r} are in {other!r}, too; make the splits disjoint",
        )

    @check
    def test_splits_are_deterministic(self) -> None:
        """The same seed gives the same splits."""
        first = self.task(4)
        second = self.task(4)
        for split in SPLITS:
            same = self.rows(first, split) == self.rows(second, split)
            require(same, f"split {split!r} differs for one seed; draw it only from the injected seed")

    @check
    def test_the_loss_is_the_mean_over_a_batch(self) -> None:
        """The loss is a number with a gradient, and parts of a batch weighted by their sizes give the whole."""
        task = self.shared()
        batch = task.train_batches(0, 0, self.batch_size)[0]
        net = self.net(task)
        outputs = net(**batch.inputs)
        loss = task.loss(outputs, batch)
        is_number = loss.ndim == 0 and bool(torch.isfinite(loss))
        require(is_number, f"loss returned {loss}; return one finite number, the mean")
        require(loss.requires_grad, "the loss has no gradient; compute it with torch from outputs.logits")
        # This is how several processes, and micro-batches, share a batch: with a sum they would train differently.
        total = 0.0
        for rank in range(2):
            half = batch.part(rank, 2)
            if len(half):
                half_loss = task.loss(net(**half.inputs), half).item()
                total += half_loss * len(half) / len(batch)
        require(
            math.isclose(total, loss.item(), rel_tol=1e-3, abs_tol=1e-5),
            f"the loss of a batch is {loss.item():.5g}, but its two halves give {total:.5g}; return the mean over "
            "examples",
        )

    @check
    def test_evaluation_is_complete(self) -> None:
        """An evaluation has all metrics and predictions, makes no gradients, and can be repeated."""
        task = self.shared()
        net = self.net(task)
        grad_modes = []

        def forward(**inputs: torch.Tensor) -> Any:
            grad_modes.append(torch.is_grad_enabled())
            return net(**inputs)

        # Twice, because searches remember an evaluation in place of repeating it.
        for split in ("select", "dev"):
            first = task.evaluate(forward, split)
            second = task.evaluate(forward, split)
            self.require_complete(task, first, split)
            same = first.metrics == second.metrics and first.predictions == second.predictions
            require(same, f"two evaluations of {split!r} differ; keep the examples' order, and draw nothing")
        require(not any(grad_modes), "evaluate records gradients; run the network under torch.no_grad()")

    def require_complete(self, task: Any, evaluation: Evaluation, split: str) -> None:
        """Require that an evaluation has everything that reports need."""
        metrics = evaluation.metrics
        require(task.primary in metrics, f"the metrics of {split!r} lack the primary one, {task.primary!r}; add it")
        not_numbers = [name for name, value in metrics.items() if not isinstance(value, int | float)]
        require(not not_numbers, f"the metrics {not_numbers} are not plain numbers; return float(value)")
        examples = evaluation.examples
        size = task.sizes[split]
        require(examples == size, f"the evaluation of {split!r} has {examples} examples, but sizes has {size}")
        lengths = {name: len(column) for name, column in evaluation.predictions.items()}
        require("id" in lengths, "predictions lack the column 'id'; add the examples' positions in their split")
        # More are fine: some have several rows for an example.
        is_whole = all(length >= examples for length in lengths.values())
        require(is_whole, f"prediction columns have lengths {lengths}; add an entry for each of {examples} examples")
        require(evaluation.tokens > 0, "tokens is 0; add up batch.tokens, padding included")

    @check
    def test_a_subset_is_fixed_and_part_of_the_whole(self) -> None:
        """``examples=n`` always measures the same n examples, and a larger subset contains a smaller one."""
        task = self.shared()
        net = self.net(task)
        size = task.sizes["select"]
        few = max(size // 4, 1)
        more = max(size // 2, 1)
        first = task.evaluate(net, "select", few)
        second = task.evaluate(net, "select", few)
        larger = task.evaluate(net, "select", more)
        first_ids = set(first.predictions["id"])
        require(
            first.examples == few == len(first_ids),
            f"examples={few} measured {first.examples} examples; measure as many as asked for",
        )
        require(
            first_ids == set(second.predictions["id"]),
            "the same number of examples gave another subset; draw it once, from the seed",
        )
        require(
            first_ids <= set(larger.predictions["id"]),
            "a larger subset does not contain the smaller one; take the first examples of one fixed order",
        )

    @check
    def test_labels_fit(self) -> None:
        """The labels of batches are indices of classes, 0 or 1 for each label, or numbers in a regression."""
        task = self.shared()
        for batch in task.train_batches(0, 0, self.batch_size):
            labels = batch.labels
            kind = output_kind(task)
            if kind == "independent":
                self._require_independent(task, labels)
                continue
            if kind == "numbers":
                require(
                    labels.dtype.is_floating_point,
                    f"the labels of a regression are {labels.dtype}; make them float32, or set categorical = True if "
                    "they are classes without names",
                )
                continue
            are_whole = labels.dtype == torch.int64
            require(are_whole, f"labels are {labels.dtype}; make them int64 class indices, 0 or more")
            if labels.ndim == 2:  # of tokens, of which some may not count
                labels = labels[labels != IGNORED]
                require(len(labels) > 0, f"all labels of a batch are {IGNORED}; at least one token has to count")
            require(int(labels.min()) >= 0, f"a label is {int(labels.min())}; make them class indices, 0 or more")
            if task.labels is None:  # tokens, which have no names here
                continue
            largest = int(labels.max())
            count = len(task.labels)
            require(
                largest < count, f"label {largest} has no name, because labels lists {count} classes; name them all"
            )

    def _require_independent(self, task: Any, labels: torch.Tensor) -> None:
        """Require labels of which several may hold: a 0 or 1 for each of them."""
        shape = tuple(labels.shape)
        count = len(task.labels)
        require(
            len(shape) == 2 and shape[1] == count,
            f"labels have the shape {shape}; make them (batch, {count}), a column for each of the independent labels",
        )
        are_answers = labels.dtype == torch.int64 and set(labels.unique().tolist()) <= {0, 1}
        require(are_answers, f"independent labels are {labels.dtype}; make them int64, 0 or 1")

    @check
    def test_global_random_state_is_left_alone(self) -> None:
        """Splits and orders are drawn from seeds."""

        def result() -> list[Any]:
            task = self.task()
            order = [batch.ids.tolist() for batch in task.train_batches(0, 0, self.batch_size)]
            metrics = dict(task.evaluate(self.net(task), "select").metrics)
            return [order, self.rows(task, "select"), metrics]

        source = "nasframe.seeds.generator(seed, 'split')"
        require_no_global_randomness(result, lambda first, second: first == second, source)

    def net(self, task: Any) -> Any:
        """Return a tiny network for the task's batches: an image or a language model, or else a text classifier.

        Override it for a task whose batches have other inputs than ``input_ids`` or ``pixel_values``.
        """
        outputs = 1 if task.labels is None else len(task.labels)
        batch = task.train_batches(0, 0, 1)[0]
        pixels = batch.inputs.get("pixel_values")
        require(
            pixels is not None or "input_ids" in batch.inputs,
            f"its batches have the inputs {sorted(batch.inputs)}, and neither input_ids nor pixel_values, so the "
            "contract has no network for them; register the task with an example: the name of a subclass of "
            "TaskContract whose net(task) returns one",
        )
        if pixels is not None:
            channels, height, width = pixels.shape[1:]
            patch = 2 if height % 2 == 0 and width % 2 == 0 else 1
            size = {"image_size": (height, width), "num_channels": channels, "patch_size": patch}
            return tiny_net("vit", labels=outputs, layers=2, **size)
        if batch.labels.ndim == 2 and output_kind(task) != "independent":  # a label for each token
            return tiny_net("llama", layers=2, head="AutoModelForCausalLM", max_position_embeddings=512)
        return tiny_net(labels=outputs, max_position_embeddings=512)

    def rows(self, task: Any, split: str) -> list[Row]:
        """Return what the network reads of each example of a split, without padding."""
        rows: list[Row] = []
        if split == "train":
            # By id, because epochs are shuffled.
            by_id: dict[int, Row] = {}
            for batch in task.train_batches(0, 0, self.batch_size):
                by_id.update(zip(batch.ids.tolist(), rows_of(batch.inputs), strict=True))
            return [by_id[i] for i in sorted(by_id)]
        net = self.net(task)

        # Other splits are only seen by the network that is evaluated on them.
        def forward(**inputs: torch.Tensor) -> Any:
            rows.extend(rows_of(inputs))
            return net(**inputs)

        examples = task.evaluate(forward, split).examples
        return rows[:examples]


@functools.cache
def _shared_task(contract: type[TaskContract]) -> Any:
    return contract().task()


def _ids_of(batches: Any) -> list[int]:
    """Return the ids of all examples in the order of an epoch's batches."""
    ids: list[int] = []
    for batch in batches:
        ids += batch.ids.tolist()
    return ids


def rows_of(inputs: Mapping[str, torch.Tensor]) -> list[Row]:
    """Return what tells the examples of a batch apart: one tuple of all their inputs, without what the mask hides."""
    mask = inputs.get("attention_mask")
    examples = len(next(iter(inputs.values())))
    rows: list[Row] = []
    for number in range(examples):
        row: list[Any] = []
        for name, tensor in inputs.items():
            values = tensor[number]
            if mask is not None and values.shape == mask[number].shape:
                # Padding depends on the batch that an example is in, so it is no part of the example.
                values = values[mask[number].bool()]
            if name != "attention_mask":
                row += values.flatten().tolist()
        rows.append(tuple(row))
    return rows


def same_batch(a: Batch, b: Batch) -> bool:
    """Tell whether two batches are equal."""
    if a.inputs.keys() != b.inputs.keys():
        return False
    same_inputs = all(torch.equal(a.inputs[name], b.inputs[name]) for name in a.inputs)
    return same_inputs and torch.equal(a.labels, b.labels) and torch.equal(a.ids, b.ids)
