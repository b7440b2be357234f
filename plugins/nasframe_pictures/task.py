"""Generated pictures: blue shapes on a dark ground, to be repainted orange, outlined, on a pale ground."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from nasframe.records import Batch, Evaluation, Forward, MetricFormat, Size
from nasframe_pictures.networks import SIDE

EDGE = 0.05  # width of an outline, as a share of the picture


class Pictures:
    """Repaint pictures of two or three discs and squares.

    The metrics are ``similarity``, 1 − half the mean absolute difference from the target, and ``psnr`` in decibels.

    Args:
        train: training pictures; ``select`` and ``dev`` have a quarter of that each.
        seed: injected; draws the pictures.
    """

    primary = "similarity"
    labels: Sequence[str] | None = None
    metrics: Mapping[str, MetricFormat] = {"similarity": MetricFormat(), "psnr": MetricFormat()}

    def __init__(self, train: Size = 256, seed: int = 0) -> None:
        held_out = max(train // 4, 1)
        self.sizes: Mapping[str, int] = {"train": train, "select": held_out, "dev": held_out}
        self.fingerprint = f"pictures-{seed}-{train}"
        self.data: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for number, (split, size) in enumerate(self.sizes.items()):
            self.data[split] = painted(np.random.default_rng([seed, number]), size)

    def batch(self, split: str, index: Any) -> Batch:
        """Gather the pictures at ``index`` of a split."""
        before, after = self.data[split]
        return Batch({"pictures": before[index]}, after[index], torch.as_tensor(np.asarray(index)))

    def train_batches(self, seed: int, epoch: int, batch_size: int) -> list[Batch]:
        """Return one epoch, shuffled by ``(seed, epoch)``."""
        order = np.random.default_rng([seed, epoch]).permutation(self.sizes["train"])
        starts = range(0, len(order), batch_size)
        return [self.batch("train", order[start : start + batch_size]) for start in starts]

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Return the mean absolute difference."""
        return (outputs.logits - batch.labels).abs().mean()

    @torch.no_grad()
    def evaluate(self, forward: Forward, split: str, examples: int | None = None) -> Evaluation:
        """Measure how close generated pictures are to their targets."""
        size = min(examples or self.sizes[split], self.sizes[split])
        absolute: list[float] = []
        squared: list[float] = []
        for start in range(0, size, 32):
            batch = self.batch(split, np.arange(start, min(start + 32, size)))
            difference = (forward(**batch.inputs).logits.cpu() - batch.labels).flatten(1)
            absolute += difference.abs().mean(1).tolist()
            squared += difference.square().mean(1).tolist()
        similarities = [1 - value / 2 for value in absolute]
        psnr = [10 * float(np.log10(4 / max(value, 1e-12))) for value in squared]  # 4 is the range −1 … 1, squared
        metrics = {"similarity": 1 - float(np.mean(absolute)) / 2, "psnr": float(np.mean(psnr))}
        columns: dict[str, Any] = {"id": list(range(size)), "label": [1.0] * size, "prediction": similarities}
        return Evaluation(metrics, columns, size, size)


def painted(rng: np.random.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Paint pictures and their targets.

    Args:
        rng: draws the pictures.
        count: number of pictures.

    Returns:
        Two tensors ``(count, 3, 32, 32)`` in −1 … 1.
    """
    before, after = np.zeros((2, count, 3, SIDE, SIDE))
    for number in range(count):
        before[number], after[number] = _painting(rng)
    return torch.tensor(before * 2 - 1, dtype=torch.float32), torch.tensor(after * 2 - 1, dtype=torch.float32)


def _painting(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Paint one picture and its target, both ``(3, side, side)`` in 0 … 1."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    ground = 0.15 + 0.25 * (rng.random() * x + rng.random() * y)
    tone = np.zeros_like(x)
    inside = np.zeros_like(x, bool)
    edge = np.zeros_like(x, bool)
    for _ in range(rng.integers(2, 4)):
        center_x, center_y = rng.uniform(0.2, 0.8, 2)
        radius = rng.uniform(0.1, 0.22)
        is_disc = rng.random() < 0.5
        away_x = x - center_x
        away_y = y - center_y
        distance = np.hypot(away_x, away_y) if is_disc else np.maximum(abs(away_x), abs(away_y))
        covered = distance < radius
        inside |= covered
        edge = (edge & ~covered) | (covered & (distance >= radius - EDGE))  # a later shape hides earlier outlines
        tone = np.where(covered, rng.uniform(0.5, 1.0), tone)

    blue = np.stack([0.2 * tone, 0.4 * tone, tone])
    orange = np.stack([tone, 0.55 * tone, 0.1 * tone]) * np.where(edge, 0.2, 1.0)
    pale = np.stack([1 - 0.5 * ground, 1 - 0.6 * ground, 0.9 - ground])
    return np.where(inside, blue, ground), np.where(inside, orange, pale)
