"""Low-rank word embeddings."""

from __future__ import annotations

from dataclasses import replace

from nasframe.nn.factorize import factorize_embedding
from nasframe.types import Work


class SVD:
    """Split the word embedding into two factors by truncated SVD (as ROSITA does, arXiv 2103.10369).

    Args:
        rank: inner width; the embedding's ``words · width`` weights become ``(words + width) · rank``.
    """

    reshapes = True

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def __call__(self, work: Work) -> Work:
        """Return the work with a factorised copy of its network."""
        return replace(work, net=factorize_embedding(work.net, self.rank))
