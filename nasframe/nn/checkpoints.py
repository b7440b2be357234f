"""Checkpoints of training loops: the import path that documents name."""

from nasframe.training.checkpoints import SHARE, Checkpoints

__all__ = [
    "SHARE",
    "Checkpoints",
]
