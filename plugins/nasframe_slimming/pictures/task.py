"""Generated pictures: blue shapes on a dark ground, to be painted orange, outlined, on a pale one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from nasframe.types import Batch, Evaluation, Forward, MetricFormat, Size
from nasframe_slimming.pictures.networks import SIDE


class Pictures:
    """Repaint pictures of two or three discs and squares.

    Measured by ``similarity``, 1 − half the mean absolute difference from what was to be painted, and ``psnr`` in
    decibels.

    Args:
        train: training pictures; ``select`` and ``dev`` have a quarter of that each.
        seed: injected; draws them.
    """

    primary = "similarity"
    labels: Sequence[str] | None = None
    metrics: Mapping[str, MetricFormat] = {"similarity": MetricFormat(), "psnr": MetricFormat()}

    def __init__(self, train: Size = 256, seed: int = 0) -> None:
        self.sizes: Mapping[str, int] = {"train": train, "select": max(train // 4, 1), "dev": max(train // 4, 1)}
        self.fingerprint = f"pictures-{seed}-{train}"
        self.data = {
            split: painted(np.random.default_rng([seed, number]), size)
            for number, (split, size) in enumerate(self.sizes.items())
        }

    def batch(self, split: str, index: Any) -> Batch:
        """Gather the pictures at ``index`` of a split."""
        before, after = self.data[split]
        return Batch({"pictures": before[index]}, after[index], torch.as_tensor(np.asarray(index)))

    def train_batches(self, seed: int, epoch: int, batch_size: int) -> list[Batch]:
        """Return one epoch, shuffled by ``(seed, epoch)``."""
        order = np.random.default_rng([seed, epoch]).permutation(self.sizes["train"])
        return [self.batch("train", order[i : i + batch_size]) for i in range(0, len(order), batch_size)]

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Return the mean absolute difference."""
        return (outputs.logits - batch.labels).abs().mean()

    @torch.no_grad()
    def evaluate(self, forward: Forward, split: str, examples: int | None = None) -> Evaluation:
        """Measure how alike generated pictures are to what was to be painted."""
        size = min(examples or self.sizes[split], self.sizes[split])
        absolute, squared = [], []
        for start in range(0, size, 32):
            batch = self.batch(split, np.arange(start, min(start + 32, size)))
            difference = (forward(**batch.inputs).logits.cpu() - batch.labels).flatten(1)
            absolute += difference.abs().mean(1).tolist()
            squared += difference.square().mean(1).tolist()
        psnr = [10 * float(np.log10(4 / max(value, 1e-12))) for value in squared]
        metrics = {"similarity": 1 - float(np.mean(absolute)) / 2, "psnr": float(np.mean(psnr))}
        columns: dict[str, Any] = {
            "id": list(range(size)),
            "label": [1.0] * size,
            "prediction": [1 - value / 2 for value in absolute],
        }
        return Evaluation(metrics, columns, size, size)


def painted(rng: np.random.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Paint pictures before and after.

    Args:
        rng: draws them.
        count: how many.

    Returns:
        Two tensors ``(count, 3, 32, 32)`` in −1 … 1.
    """
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    before, after = np.zeros((2, count, 3, SIDE, SIDE))
    for n in range(count):
        shade = 0.15 + 0.25 * (rng.random() * x + rng.random() * y)
        ground, tone, inside, edge = shade, np.zeros_like(x), np.zeros_like(x, bool), np.zeros_like(x, bool)
        for _ in range(rng.integers(2, 4)):
            cx, cy, r = *rng.uniform(0.2, 0.8, 2), rng.uniform(0.1, 0.22)
            far = np.hypot(x - cx, y - cy) if rng.random() < 0.5 else np.maximum(abs(x - cx), abs(y - cy))
            inside, edge = inside | (far < r), (edge & (far >= r)) | ((far >= r - 0.05) & (far < r))
            tone = np.where(far < r, rng.uniform(0.5, 1.0), tone)
        blue = np.stack([0.2 * tone, 0.4 * tone, tone])
        orange = np.stack([tone, 0.55 * tone, 0.1 * tone]) * np.where(edge, 0.2, 1.0)
        before[n] = np.where(inside, blue, ground)
        after[n] = np.where(inside, orange, np.stack([1 - 0.5 * ground, 1 - 0.6 * ground, 0.9 - ground]))
    return torch.tensor(before * 2 - 1, dtype=torch.float32), torch.tensor(after * 2 - 1, dtype=torch.float32)
