"""Real data for a few seconds of training: the 1,797 handwritten digits of 8x8 pixels that scikit-learn brings."""

from typing import ClassVar

import numpy as np
import torch
from nasframe.types import Batch, Evaluation, MetricFormat
from nasframe_graphs.network import CLASSES, Stem

SHARES = {"train": 0.6, "select": 0.2, "dev": 0.2}


class Digits:
    """Say which digit a picture shows.

    Args:
        seed: injected; unused, since the splits are always the same.
    """

    primary = "accuracy"
    labels = tuple(str(digit) for digit in range(CLASSES))
    metrics: ClassVar = {
        "accuracy": MetricFormat(percent=True),
        "loss": MetricFormat(higher_is_better=False),
    }

    def __init__(self, seed: int = 0):
        from sklearn.datasets import load_digits

        data = load_digits()
        order = np.random.default_rng(0).permutation(len(data.target))
        ends = (np.cumsum(list(SHARES.values())) * len(order)).round().astype(int)
        parts = np.split(order, ends[:-1])
        self.rows = dict(zip(SHARES, parts, strict=True))
        self.sizes = {split: len(rows) for split, rows in self.rows.items()}
        self.pixels = torch.tensor(data.images / 16, dtype=torch.float32)
        self.digits = torch.tensor(data.target)
        self.fingerprint = "scikit-learn digits, 60-20-20"

    def batch(self, split, index):
        """Return the examples of a split at these positions."""
        rows = self.rows[split][index]
        return Batch({"pixels": self.pixels[rows]}, self.digits[rows], torch.as_tensor(np.asarray(index)))

    def train_batches(self, seed, epoch, batch_size):
        """Return one epoch's batches."""
        order = np.random.default_rng([seed, epoch]).permutation(self.sizes["train"])
        return [self.batch("train", order[i : i + batch_size]) for i in range(0, len(order), batch_size)]

    def loss(self, outputs, batch):
        """Return the mean cross-entropy."""
        return torch.nn.functional.cross_entropy(outputs.logits.float(), batch.labels)

    @torch.no_grad()
    def evaluate(self, forward, split, examples=None):
        """Measure accuracy and cross-entropy."""
        size = min(examples or self.sizes[split], self.sizes[split])
        batch = self.batch(split, np.arange(size))
        logits = forward(**batch.inputs).logits.float().cpu()
        predicted = logits.argmax(1)
        loss = torch.nn.functional.cross_entropy(logits, batch.labels)
        metrics = {"accuracy": float((predicted == batch.labels).float().mean()), "loss": float(loss)}
        columns = {"id": list(range(size)), "label": batch.labels.tolist(), "prediction": predicted.tolist()}
        return Evaluation(metrics, columns, size, size)


class DigitModel:
    """Make the stem of a network for digits, with new weights.

    Args:
        channels: of every operation.
    """

    def __init__(self, channels: int = 16):
        self.channels = channels

    def tokenizer(self):
        """Pictures have no tokenizer."""
        return None

    def skeleton(self):
        """Return the network without values, so that `nasframe check` knows the space."""
        with torch.device("meta"):
            return Stem(self.channels)

    def load(self, labels, seed, random=False):
        """Draw the weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Stem(self.channels).eval()
