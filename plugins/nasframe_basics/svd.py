"""Low-rank word embeddings and linear maps."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import nn

from nasframe.errors import UsageError
from nasframe.interfaces import Work
from nasframe.nn.factorize import factorize_embedding, factorize_linears
from nasframe.records import Count, Percent


class SVD:
    """Split the word embedding (as ROSITA does, arXiv 2103.11367), and linear maps, into two factors by truncated SVD.

    Matrices that are factorised already are factorised again, to a lower rank.

    Args:
        rank: inner width of the word embedding; its ``words · width`` weights become ``(words + width) · rank``. A
            share (``"25%"``) is relative to its width; ``null`` leaves the embedding unchanged.
        linears: inner width of the encoder's linear maps, or a share of each map's smaller side; ``null`` leaves them
            unchanged.
        maps: which linear maps: ``query``, ``key``, ``value``, ``merge`` (the heads' output), ``widen`` and ``shrink``
            (into the neurons and out of them); default all.
        lower: how a product gets a lower rank: by a new ``svd`` of the product, which is the best of this rank, or
            ``truncate``: by dropping its last columns, as ROSITA does.
        split: which factor gets the singular values: both, half each (``even``), or only the ``table``, as in ROSITA.

    Raises:
        UsageError: nothing to factorise, an unknown map, or a rank beyond the matrix.
    """

    reshapes = True

    def __init__(
        self,
        rank: Count | Percent | None = None,
        linears: Count | Percent | None = None,
        maps: list[Literal["query", "key", "value", "merge", "widen", "shrink"]] | None = None,
        lower: Literal["svd", "truncate"] = "svd",
        split: Literal["even", "table"] = "even",
    ) -> None:
        if rank is None and linears is None:
            raise UsageError("svd: nothing to factorise. Expected rank (of the word embedding), linears, or both.")
        for option, value in (("rank", rank), ("linears", linears)):
            check_rank(f"svd.{option}", value)
        if maps is not None and linears is None:
            raise UsageError("svd: maps are named, but no rank of them. Expected linears too.")
        self.rank = rank
        self.linears = linears
        self.maps = maps
        self.lower = lower
        self.split = split

    def __call__(self, work: Work) -> Work:
        """Return the work with a factorised copy of its network."""
        return replace(work, net=self.factorized(work.net))

    def validate(self, net: nn.Module) -> None:
        """Refuse ranks beyond the network's matrices."""
        self.factorized(net)

    def factorized(self, net: nn.Module) -> nn.Module:
        """Return a factorised copy."""
        # Each function copies the network, so the original stays as it is.
        if self.rank is not None:
            net = factorize_embedding(net, self.rank, self.lower, self.split)  # type: ignore[arg-type]
        if self.linears is not None:
            net = factorize_linears(net, self.linears, self.maps, self.lower, self.split)  # type: ignore[arg-type]
        return net


def check_rank(place: str, rank: int | str | None) -> None:
    """Refuse a value that is no rank of any matrix.

    Raises:
        UsageError: it is neither a positive number nor a share up to 100 %.
    """
    if rank is None:
        return
    if isinstance(rank, str):
        share = rank.removesuffix("%")
        is_share = rank.endswith("%") and share.replace(".", "", 1).isdigit()  # float() would also read "nan" and "1e1"
        is_rank = is_share and 0 < float(share) <= 100
    else:
        is_rank = isinstance(rank, int) and rank >= 1
    if not is_rank:
        raise UsageError(f'{place}: {rank!r}. Expected a rank of at least 1, or a share such as "25%".')
