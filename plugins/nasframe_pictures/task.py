"""Generated pictures: blue shapes on a dark ground, to be repainted orange, outlined, on a pale ground."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from nasframe.records import Batch, Evaluation, Forward, MetricFormat, Size
from nasframe_pictures.networks import SIDE

EDGE = 0.05  # width of an outline, as a share of the picture
BATCH = 32  # pictures that are evaluated at once


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
            rng = np.random.default_rng([seed, number])  # of its own, so that no split has another's pictures
            self.data[split] = painted(rng, size)

    def batch(self, split: str, index: Any) -> Batch:
        """Gather the pictures at ``index`` of a split."""
        before, after = self.data[split]
        ids = torch.as_tensor(np.asarray(index))
        return Batch({"pictures": before[index]}, after[index], ids)

    def train_batches(self, seed: int, epoch: int, batch_size: int) -> list[Batch]:
        """Return one epoch, shuffled by ``(seed, epoch)``."""
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(self.sizes["train"])
        batches = []
        for start in range(0, len(order), batch_size):
            index = order[start : start + batch_size]
            batches.append(self.batch("train", index))
        return batches

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Return the mean absolute difference."""
        return (outputs.logits - batch.labels).abs().mean()

    @torch.no_grad()
    def evaluate(self, forward: Forward, split: str, examples: int | None = None) -> Evaluation:
        """Measure how close generated pictures are to their targets."""
        whole = self.sizes[split]
        size = min(examples or whole, whole)
        absolute: list[float] = []
        squared: list[float] = []
        for start in range(0, size, BATCH):
            end = min(start + BATCH, size)
            batch = self.batch(split, np.arange(start, end))
            outputs = forward(**batch.inputs).logits.cpu()
            difference = (outputs - batch.labels).flatten(1)
            absolute += difference.abs().mean(1).tolist()
            squared += difference.square().mean(1).tolist()
        similarities = [1 - value / 2 for value in absolute]
        decibels = [psnr(value) for value in squared]
        similarity = 1 - float(np.mean(absolute)) / 2
        metrics = {"similarity": similarity, "psnr": float(np.mean(decibels))}
        columns: dict[str, Any] = {"id": list(range(size)), "label": [1.0] * size, "prediction": similarities}
        return Evaluation(metrics, columns, size, size)


def psnr(squared: float) -> float:
    """Return the peak signal-to-noise ratio of a mean squared difference, in decibels."""
    peak = 4  # the range −1 … 1, squared
    noise = max(squared, 1e-12)  # equal pictures have a finite ratio, too
    return 10 * float(np.log10(peak / noise))


def painted(rng: np.random.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Paint pictures and their targets.

    Args:
        rng: draws the pictures.
        count: number of pictures.

    Returns:
        Two tensors ``(count, 3, 32, 32)`` in −1 … 1.
    """
    pairs = np.array([_painting(rng) for _ in range(count)])  # (count, 2, 3, side, side), in 0 … 1
    scaled = torch.tensor(pairs * 2 - 1, dtype=torch.float32)
    before, after = scaled.unbind(dim=1)
    return before.contiguous(), after.contiguous()


def _painting(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Paint one picture and its target, both ``(3, side, side)`` in 0 … 1."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    slope = rng.random() * x + rng.random() * y
    ground = 0.15 + 0.25 * slope
    tone = np.zeros_like(x)
    inside = np.zeros_like(x, bool)
    edge = np.zeros_like(x, bool)
    for _ in range(rng.integers(2, 4)):
        center_x, center_y = rng.uniform(0.2, 0.8, 2)
        radius = rng.uniform(0.1, 0.22)
        is_disc = rng.random() < 0.5
        away_x = x - center_x
        away_y = y - center_y
        if is_disc:
            distance = np.hypot(away_x, away_y)
        else:
            distance = np.maximum(abs(away_x), abs(away_y))
        covered = distance < radius
        outline = covered & (distance >= radius - EDGE)
        inside |= covered
        edge = (edge & ~covered) | outline  # a later shape hides earlier outlines
        tone = np.where(covered, rng.uniform(0.5, 1.0), tone)

    blue = np.stack([0.2 * tone, 0.4 * tone, tone])
    darkness = np.where(edge, 0.2, 1.0)
    orange = np.stack([tone, 0.55 * tone, 0.1 * tone]) * darkness
    pale = np.stack([1 - 0.5 * ground, 1 - 0.6 * ground, 0.9 - ground])
    before = np.where(inside, blue, ground)
    after = np.where(inside, orange, pale)
    return before, after
