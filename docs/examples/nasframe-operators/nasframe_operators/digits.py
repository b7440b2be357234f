"""Data and a network to try the space on: handwritten digits, read line by line."""

import hashlib

import numpy as np
import torch
from nasframe.records import Batch, Evaluation, MetricFormat
from nasframe.seeds import generator
from torch.nn import functional

from nasframe_operators.network import Reader

HELD_OUT = 360  # examples in each of select and dev


class DigitRows:
    """Tell the digit in a picture of 8x8 grey values, a sequence of its eight lines.

    The 1,797 pictures come with scikit-learn; 360 of them are held out as dev, and 360 more are select.

    Args:
        limit: use only this many training examples; 0 uses all.
        seed: injected; shuffles the training examples among train and select.
    """

    primary = "accuracy"
    labels = tuple(str(digit) for digit in range(10))
    metrics = {  # noqa: RUF012
        "accuracy": MetricFormat(percent=True),
        "loss": MetricFormat(higher_is_better=False),
    }

    def __init__(self, limit: int = 0, seed: int = 0):
        from sklearn.datasets import load_digits

        digits = load_digits()
        pictures = torch.tensor(digits.images / 16.0, dtype=torch.float32)
        classes = torch.tensor(digits.target, dtype=torch.long)
        everything = np.random.default_rng(0).permutation(len(classes))  # dev is the same for every seed
        dev, training = everything[:HELD_OUT], everything[HELD_OUT:]
        training = training[generator(seed, "split").permutation(len(training))]
        train = training[HELD_OUT:]
        parts = {"train": train[:limit] if limit else train, "select": training[:HELD_OUT], "dev": dev}
        self.rows = {split: pictures[index] for split, index in parts.items()}
        self.answers = {split: classes[index] for split, index in parts.items()}
        self.sizes = {split: len(index) for split, index in parts.items()}
        digest = hashlib.sha256(digits.images.tobytes() + digits.target.tobytes())
        self.fingerprint = digest.hexdigest()[:16]

    def batch(self, split, index):
        """Return the examples at these positions of a split."""
        ids = torch.as_tensor(index)
        return Batch({"rows": self.rows[split][ids]}, self.answers[split][ids], ids)

    def train_batches(self, seed, epoch, batch_size):
        """Return one epoch's batches, shuffled by seed and epoch alone."""
        order = generator(seed, "epoch", epoch).permutation(self.sizes["train"])
        return [self.batch("train", order[start : start + batch_size]) for start in range(0, len(order), batch_size)]

    def loss(self, outputs, batch):
        """Return the mean cross-entropy."""
        return functional.cross_entropy(outputs.logits.float(), batch.labels)

    @torch.no_grad()
    def evaluate(self, forward, split, examples=None):
        """Measure accuracy and loss on a split, or on its first examples."""
        size = min(examples or self.sizes[split], self.sizes[split])
        batch = self.batch(split, np.arange(size))
        logits = forward(**batch.inputs).logits.float()
        labels = batch.labels.to(logits.device)
        predictions = logits.argmax(-1)
        losses = functional.cross_entropy(logits, labels, reduction="none")
        metrics = {"accuracy": float((predictions == labels).float().mean()), "loss": float(losses.mean())}
        columns = {
            "id": batch.ids.tolist(),
            "label": labels.tolist(),
            "prediction": predictions.tolist(),
            "loss": losses.tolist(),
        }
        return Evaluation(metrics, columns, size, batch.tokens)


class RowReader:
    """A network that reads lines of a picture, with fresh weights and without operations.

    Args:
        width: of the hidden states, a multiple of four.
    """

    def __init__(self, width: int = 32):
        self.width = width

    def tokenizer(self):
        """Return nothing: there are no texts."""
        return None

    def load(self, labels, seed, random=False):
        """Make the network with an output for each label, or with one for a regression; seed draws the weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Reader(width=self.width, classes=1 if labels is None else len(labels)).eval()
