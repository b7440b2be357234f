"""The model ``picture_pair``: a toy generator and its discriminator, of given widths, with fresh weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from nasframe.records import Size
from nasframe_pictures.networks import PicturePair


class Fresh:
    """Make a generator and a discriminator with random weights.

    Args:
        stem: the generator's channels at full size, at its start.
        trunk: its channels at half size.
        blocks: number of residual blocks, each as wide inside as the trunk.
        up: its channels at full size, at its end.
        judge: the discriminator's channels.
    """

    def __init__(self, stem: Size = 16, trunk: Size = 32, blocks: Size = 4, up: Size = 16, judge: Size = 16) -> None:
        widths = [trunk] * blocks
        self.sizes = {"stem": stem, "trunk": trunk, "blocks": widths, "up": up, "judge": judge}

    def tokenizer(self) -> None:
        """Return ``None``: pictures have no tokenizer."""

    def load(self, labels: Sequence[str] | None, seed: int, random: bool = False) -> nn.Module:
        """Draw the weights from ``seed``."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return PicturePair(**self.sizes).eval()  # type: ignore[arg-type]
