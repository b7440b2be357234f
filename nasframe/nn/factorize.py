"""Low-rank factors of a word embedding."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from nasframe.errors import UsageError
from nasframe.nn.elastic import WORD_EMBEDDINGS, FactorizedEmbedding


def factors(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best ``left @ right`` of a rank in the least-squares sense, by truncated SVD (Eckart and Young).

    The singular values are shared out evenly, ``left = U √S`` and ``right = √S Vᵀ``, so that both factors train at
    like rates.

    Args:
        matrix: ``(rows, columns)``.
        rank: 1 … min(rows, columns).

    >>> left, right = factors(torch.ones(4, 3), rank=1)
    >>> torch.allclose(left @ right, torch.ones(4, 3))
    True
    """
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    root = s[:rank].sqrt()
    return (u[:, :rank] * root).to(matrix.dtype), (root[:, None] * v[:rank]).to(matrix.dtype)


def factorize_embedding(net: nn.Module, rank: int) -> nn.Module:
    """Return a copy of a network whose word embedding is two factors of a rank.

    Args:
        net: the network, left as it is; its embedding may be factorised already, to a larger rank.
        rank: inner width.

    Raises:
        UsageError: the rank is not between 1 and the embedding's own.
    """
    copied: Any = copy.deepcopy(net)
    words: Any = copied.base_model.get_submodule(WORD_EMBEDDINGS)
    with torch.no_grad():
        matrix = words.project(words.table.weight) if isinstance(words, FactorizedEmbedding) else words.weight
    largest = getattr(words, "rank", min(matrix.shape))
    if not 1 <= rank <= largest:
        raise UsageError(f"rank: {rank} for an embedding of {tuple(matrix.shape)}. Expected 1 to {largest}.")
    rows, columns = matrix.shape
    padding = words.table.padding_idx if isinstance(words, FactorizedEmbedding) else words.padding_idx
    with torch.device("meta"):  # draws nothing
        small = FactorizedEmbedding(rows, rank, columns, padding)
    small = small.to_empty(device=matrix.device).to(matrix.dtype)
    left, right = factors(matrix.detach(), rank)
    with torch.no_grad():
        small.table.weight.copy_(left)
        small.project.weight.copy_(right.T)
    copied.base_model.set_submodule(WORD_EMBEDDINGS, small.train(words.training))
    copied.config.tie_word_embeddings = False
    return copied
