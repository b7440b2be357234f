"""What every task must do, as checks: subclass :class:`TaskContract`, say how to make yours, run pytest.

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

from nasframe.records import Batch, Evaluation
from nasframe.testing.kit import Contract, check, require, require_no_global_randomness
from nasframe.testing.toy import tiny_net, tiny_tokenizer

SPLITS = ("train", "select", "dev")
Row = tuple[Any, ...]


class TaskContract(Contract):
    """The checks, with a tokenizer of single characters and a tiny network.

    Attributes:
        batch_size: of the training batches.
        overlap: share of ``select`` or ``dev`` that may be found in ``train``: 0, unless the published data is so.
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
        """Return a task that was made once for all checks that only read it: data can be slow to load."""
        return _shared(cast(Any, type(self)))

    @check
    def test_it_says_what_it_is(self) -> None:
        """Metric, classes, sizes and the data's fingerprint are there before any work."""
        task = self.shared()
        require(isinstance(task.primary, str) and task.primary, "primary: name the metric that a search maximises")
        labels = task.labels
        named = labels is None or (len(labels) > 1 and all(isinstance(label, str) for label in labels))
        require(named, f"labels is {labels!r}; list the class names in index order, or None for regression")
        sizes = {split: task.sizes.get(split, 0) for split in SPLITS}
        require(min(sizes.values()) > 0, f"sizes are {sizes}; all of {', '.join(SPLITS)} need examples")
        again = self.task().fingerprint
        require(isinstance(again, str) and again, "fingerprint: return a hash of the data as text")
        require(again == task.fingerprint, "two tasks on the same data have different fingerprints; hash the data only")

    @check
    def test_an_epoch_has_every_example_once(self) -> None:
        """Batches have a length, positions, and the examples' places in the training split."""
        task = self.shared()
        batches = task.train_batches(0, 0, self.batch_size)
        found = list(batches)
        require(len(batches) == len(found), f"len() says {len(batches)} batches, iterating gives {len(found)}")
        ids = [i for batch in found for i in batch.ids.tolist()]
        size = task.sizes["train"]
        require(len(ids) == len(set(ids)), "an example comes twice in one epoch")
        require(set(ids) == set(range(size)), f"an epoch has {len(ids)} ids; expected each of 0 … {size - 1} once")
        require(max(map(len, found)) <= self.batch_size, f"a batch is larger than batch_size ({self.batch_size})")
        require(same_batch(batches[0], found[0]), "batches[0] is not the first batch of the iteration")

    @check
    def test_the_same_epoch_is_the_same(self) -> None:
        """Seed and epoch alone decide the order; another epoch, or another seed, has another."""
        task = self.shared()

        def order(seed: int, epoch: int, task: Any = task) -> list[int]:
            return [i for batch in task.train_batches(seed, epoch, self.batch_size) for i in batch.ids.tolist()]

        again = order(1, 2, self.task())
        require(order(1, 2) == again, "train_batches(1, 2) differs from call to call; draw from seed and epoch")
        require(order(1, 2) != order(1, 3), "two epochs have the same order; shuffle by (seed, epoch)")
        require(order(1, 2) != order(2, 2), "two seeds have the same order; shuffle by (seed, epoch)")

    @check
    def test_splits_are_disjoint(self) -> None:
        """What is selected on, and what is reported on, was not trained on."""
        task = self.shared()
        rows = {split: self.rows(task, split) for split in SPLITS}
        known = set(rows["train"])
        for split in ("select", "dev"):
            require(len(rows[split]) == task.sizes[split], f"evaluate({split!r}) shows {len(rows[split])} examples")
            both = sum(row in known for row in rows[split])
            require(
                both <= self.overlap * len(rows[split]),
                f"{both} of {len(rows[split])} examples of {split!r} are in 'train' too; carve {split!r} out of it",
            )
        both = sum(row in set(rows["select"]) for row in rows["dev"])
        require(both <= self.overlap * len(rows["dev"]), f"{both} examples of 'dev' are in 'select' too")

    @check
    def test_splits_are_deterministic(self) -> None:
        """The same seed carves the same splits."""
        first, second = self.task(4), self.task(4)
        for split in SPLITS:
            require(self.rows(first, split) == self.rows(second, split), f"split {split!r} differs for one seed")

    @check
    def test_the_loss_is_the_mean_over_a_batch(self) -> None:
        """It is a number with a gradient, and parts weighted by their sizes give the whole."""
        task = self.shared()
        batch = task.train_batches(0, 0, self.batch_size)[0]
        net = self.net(task)
        outputs = net(**batch.inputs)
        loss = task.loss(outputs, batch)
        require(loss.ndim == 0 and bool(torch.isfinite(loss)), f"loss gave {loss}; return one finite number, the mean")
        require(loss.requires_grad, "the loss has no gradient; compute it with torch from outputs.logits")
        halves = [batch.part(rank, 2) for rank in range(2)]
        parts = [task.loss(net(**half.inputs), half).item() * len(half) / len(batch) for half in halves if len(half)]
        require(
            math.isclose(sum(parts), loss.item(), rel_tol=1e-3, abs_tol=1e-5),
            f"the loss of a batch is {loss.item():.5g}, its parts give {sum(parts):.5g}; return the mean over examples",
        )

    @check
    def test_evaluation_is_complete(self) -> None:
        """Metrics with the primary one, predictions an example, no gradients, and the same answer twice."""
        task = self.shared()
        net, recorded = self.net(task), []

        def forward(**inputs: torch.Tensor) -> Any:
            recorded.append(torch.is_grad_enabled())
            return net(**inputs)

        for split in ("select", "dev"):
            found, again = task.evaluate(forward, split), task.evaluate(forward, split)
            self.require_complete(task, found, split)
            same = found.metrics == again.metrics and found.predictions == again.predictions
            require(same, f"evaluating {split!r} twice gives different answers; keep the order, draw nothing")
        require(not any(recorded), "evaluate records gradients; run the network under torch.no_grad()")

    def require_complete(self, task: Any, found: Evaluation, split: str) -> None:
        """Require that an evaluation says all it should."""
        require(task.primary in found.metrics, f"metrics of {split!r} lack the primary one, {task.primary!r}")
        odd = [name for name, value in found.metrics.items() if not isinstance(value, int | float)]
        require(not odd, f"metrics {odd} are no plain numbers; return float(value)")
        require(found.examples == task.sizes[split], f"{split!r} has {found.examples} examples, sizes says otherwise")
        lengths = {name: len(column) for name, column in found.predictions.items()}
        require("id" in lengths, "predictions lack the column 'id': the examples' positions in their split")
        whole = all(length >= found.examples for length in lengths.values())
        require(whole, f"prediction columns have lengths {lengths}; expected one entry for each of {found.examples}")
        require(found.tokens > 0, "tokens is 0; add up batch.tokens, padding included")

    @check
    def test_a_subset_is_fixed_and_part_of_the_whole(self) -> None:
        """``examples=n`` always measures the same n, and a larger subset holds the smaller one."""
        task = self.shared()
        net = self.net(task)
        size = task.sizes["select"]
        few, more = max(size // 4, 1), max(size // 2, 1)
        small, again, large = (task.evaluate(net, "select", n) for n in (few, few, more))
        ids = [set(found.predictions["id"]) for found in (small, again, large)]
        require(small.examples == few == len(ids[0]), f"examples={few} measured {small.examples}")
        require(ids[0] == ids[1], "the same number of examples gave another subset; draw it once, from the seed")
        require(ids[0] <= ids[2], "a larger subset does not hold the smaller one; cut one fixed order")

    @check
    def test_labels_fit(self) -> None:
        """Batches hold class indices where there are classes, numbers where there are none."""
        task = self.shared()
        for batch in task.train_batches(0, 0, self.batch_size):
            if task.labels is None:
                require(batch.labels.dtype.is_floating_point, f"labels of a regression are {batch.labels.dtype}")
            else:
                fine = batch.labels.dtype == torch.int64 and int(batch.labels.min()) >= 0
                require(fine, f"labels are {batch.labels.dtype}; make them int64 class indices")
                most = int(batch.labels.max())
                require(most < len(task.labels), f"label {most} has no name in labels ({len(task.labels)})")

    @check
    def test_global_random_state_is_left_alone(self) -> None:
        """Splits and orders come from seeds."""

        def result() -> list[Any]:
            task = self.task()
            order = [batch.ids.tolist() for batch in task.train_batches(0, 0, self.batch_size)]
            return [order, self.rows(task, "select"), dict(task.evaluate(self.net(task), "select").metrics)]

        require_no_global_randomness(result, lambda a, b: a == b, "nasframe.seeds.generator(seed, 'split')")

    def net(self, task: Any) -> Any:
        """Return a tiny network with a head for the task."""
        return tiny_net(labels=1 if task.labels is None else len(task.labels), max_position_embeddings=512)

    def rows(self, task: Any, split: str) -> list[Row]:
        """Return what the network sees of each example, padding cut off, and its label."""
        if split == "train":
            batches = list(task.train_batches(0, 0, self.batch_size))
            pairs = [(i, row) for b in batches for i, row in zip(b.ids.tolist(), rows_of(b.inputs), strict=True)]
            return [row for _, row in sorted(pairs, key=lambda pair: pair[0])]
        seen: list[Row] = []
        net = self.net(task)

        def forward(**inputs: torch.Tensor) -> Any:
            seen.extend(rows_of(inputs))
            return net(**inputs)

        count = task.evaluate(forward, split).examples
        return seen[:count]


@functools.cache
def _shared(contract: type[TaskContract]) -> Any:
    return contract().task()


def rows_of(inputs: Mapping[str, torch.Tensor]) -> list[Row]:
    """Split a batch's inputs into one tuple an example, without what the mask hides."""
    mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
    return [tuple(ids[kept].tolist()) for ids, kept in zip(inputs["input_ids"], mask, strict=True)]


def same_batch(a: Batch, b: Batch) -> bool:
    """Tell whether two batches hold the same."""
    inputs = a.inputs.keys() == b.inputs.keys() and all(torch.equal(a.inputs[k], b.inputs[k]) for k in a.inputs)
    return inputs and torch.equal(a.labels, b.labels) and torch.equal(a.ids, b.ids)
