"""Batches of a training stage: the import path that documents name."""

from nasframe.training.batches import Feed

__all__ = [
    "Feed",
]
