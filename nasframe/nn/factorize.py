"""Low-rank factors of a word embedding and of linear maps."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import nn

from nasframe.errors import UsageError
from nasframe.nn.elastic import WORD_EMBEDDINGS, FactorizedEmbedding, FactorizedLinear, base_of, family_of, layers_of

Lower = Literal["svd", "truncate"]
Split = Literal["even", "table"]


def factors(matrix: torch.Tensor, rank: int, split: Split = "even") -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best ``left @ right`` of a rank in the least-squares sense, by truncated SVD (Eckart and Young).

    The columns of ``left`` and the rows of ``right`` are in the order of the singular values, largest first, so that
    the first ``r`` of both are the best of rank ``r``.

    Args:
        matrix: ``(rows, columns)``.
        rank: 1 … min(rows, columns).
        split: where the singular values go: ``even`` shares them out, ``left = U √S`` and ``right = √S Vᵀ``, so that
            both factors train at like rates; ``table`` gives them to the left, ``left = U S``, as ROSITA does.

    >>> left, right = factors(torch.ones(4, 3), rank=1)
    >>> torch.allclose(left @ right, torch.ones(4, 3))
    True
    """
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    left, right = (s.sqrt(), s.sqrt()) if split == "even" else (s, torch.ones_like(s))
    return (u * left)[:, :rank].to(matrix.dtype), (right[:, None] * v)[:rank].to(matrix.dtype)


def refactored(left: torch.Tensor, right: torch.Tensor, split: Split = "even") -> tuple[torch.Tensor, torch.Tensor]:
    """Return factors of the same product whose columns are in the order of its singular values.

    Trained factors are no SVD any more: their last columns are not the least important ones. After this they are. The
    SVD is of a small matrix between the factors' QR decompositions.

    Args:
        left: ``(rows, rank)``.
        right: ``(rank, columns)``.
        split: see :func:`factors`.

    >>> left, right = torch.eye(3)[:, :2], torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    >>> refactored(left, right)[0].norm(dim=0).square().tolist()
    [5.0, 1.0]
    """
    rank = left.shape[1]
    (ql, rl), (qr, rr) = torch.linalg.qr(left.double()), torch.linalg.qr(right.double().T)
    inner_left, inner_right = factors(rl @ rr.T, rank, split)
    new = ql @ inner_left, inner_right @ qr.T
    short = rank - inner_left.shape[1]  # a rank beyond the matrix's own: nothing is left for the last columns
    padded = nn.functional.pad(new[0], (0, short)), nn.functional.pad(new[1], (0, 0, 0, short))
    return padded[0].to(left.dtype), padded[1].to(right.dtype)


@torch.no_grad()
def refactor_embedding(net: nn.Module, rank: int | None = None) -> list[nn.Parameter]:
    """Sort the columns of a factorised word embedding by singular values, in place; the embedding stays the same.

    Args:
        net: the network.
        rank: only the first so many columns, those that are in use; default all.

    Returns:
        The parameters that were changed: moments that an optimiser keeps of them mean nothing any more.
    """
    words: Any = base_of(net).get_submodule(WORD_EMBEDDINGS)
    rank = words.rank if rank is None else rank
    table, project = words.table.weight[:, :rank], words.project.weight[:, :rank]
    left, right = refactored(table, project.T)
    table.copy_(left)
    project.copy_(right.T)
    return [words.table.weight, words.project.weight]


@torch.no_grad()
def factorize_embedding(net: nn.Module, rank: int | str, lower: Lower = "svd", split: Split = "even") -> nn.Module:
    """Return a copy of a network whose word embedding is two factors of a rank.

    Args:
        net: the network, left as it is; its embedding may be factorised already, to a larger rank.
        rank: inner width, or a share (``"25%"``) of the embedding's width.
        lower: how an embedding that is factorised already loses columns: ``svd`` of the product anew, or ``truncate``,
            its last ones, as ROSITA does.
        split: see :func:`factors`.

    Raises:
        UsageError: the rank is not between 1 and the embedding's own.
    """
    copied: Any = copy.deepcopy(net)
    words: Any = base_of(copied).get_submodule(WORD_EMBEDDINGS)
    known = isinstance(words, FactorizedEmbedding)
    shape = (words.num_embeddings, words.project.out_features if known else words.embedding_dim)
    largest = words.rank if known else min(shape)
    rank = min(rank_of(rank, min(shape), "rank"), largest) if isinstance(rank, str) else rank
    if not 1 <= rank <= largest:
        raise UsageError(f"rank: {rank} for an embedding of {shape}. Expected 1 to {largest}.")
    table = words.table if known else words
    if known:
        left, right = _lowered(words.table.weight, words.project.weight.T, rank, lower, split)
    else:
        left, right = factors(words.weight, rank, split)
    with torch.device("meta"):  # draws nothing
        small = FactorizedEmbedding(shape[0], rank, shape[1], table.padding_idx)
    small = small.to_empty(device=left.device).to(left.dtype)
    small.table.weight.copy_(left)
    small.project.weight.copy_(right.T)
    base_of(copied).set_submodule(WORD_EMBEDDINGS, small.train(words.training))
    copied.config.tie_word_embeddings = False
    return copied


@torch.no_grad()
def factorize_linears(
    net: nn.Module, rank: int | str, maps: list[str] | None = None, lower: Lower = "svd", split: Split = "even"
) -> nn.Module:
    """Return a copy of a network in which linear maps of the encoder's layers are products of two.

    Args:
        net: the network, left as it is; maps may be factorised already, to a larger rank.
        rank: inner width, or a share (``"25%"``) of each map's smaller side.
        maps: some of ``query``, ``key``, ``value``, ``merge`` (out of the heads), ``widen`` and ``shrink`` (into and
            out of the neurons); default all.
        lower: see :func:`factorize_embedding`.
        split: see :func:`factors`; the table is the factor that comes last.

    Raises:
        UsageError: an unknown map, or a rank that is not between 1 and a map's smaller side.

    >>> from nasframe.nn.blueprint import blueprint
    >>> from nasframe.testing.toy import tiny_net
    >>> blueprint(factorize_linears(tiny_net(layers=1), 4, ["widen"]))["factorized"]
    {'0.intermediate.dense': 4}
    """
    copied = copy.deepcopy(net)
    known = family_of(copied).maps
    for name in maps or ():
        if name not in known:
            raise UsageError(f"maps: there is no {name!r}. Expected some of {', '.join(known)}.")
    for i, layer in enumerate(layers_of(copied)):
        for name in maps or known:
            linear: Any = layer.get_submodule(known[name])
            layer.set_submodule(known[name], _product(linear, rank, f"layer {i}, {name}", lower, split))
    return copied


def rank_of(rank: int | str, largest: int, place: str) -> int:
    """Read a rank, or a share of the largest one.

    Raises:
        UsageError: it is neither, or out of range.

    >>> rank_of("25%", 32, "widen"), rank_of(5, 32, "widen")
    (8, 5)
    """
    try:
        number = max(1, round(float(rank.removesuffix("%")) / 100 * largest)) if isinstance(rank, str) else rank
        fits = 1 <= number <= largest and (not isinstance(rank, str) or rank.endswith("%"))
    except ValueError:
        fits = False
    if not fits:
        raise UsageError(f'{place}: rank {rank!r}. Expected 1 to {largest}, or a share such as "25%".')
    return number


def _product(linear: Any, rank: int | str, place: str, lower: Lower, split: Split) -> FactorizedLinear:
    known = isinstance(linear, FactorizedLinear)
    weight, bias = (linear.expand.weight, linear.expand.bias) if known else (linear.weight, linear.bias)
    shape = (linear.out_features, linear.in_features)
    number = rank_of(rank, min(linear.rank, *shape) if known and not isinstance(rank, str) else min(shape), place)
    if known:
        left, right = _lowered(weight, linear.reduce.weight, min(number, linear.rank), lower, split)
    else:
        left, right = factors(weight, number, split)
    with torch.device("meta"):
        product = FactorizedLinear(shape[1], left.shape[1], shape[0], bias is not None)
    product = product.to_empty(device=weight.device).to(weight.dtype).train(linear.training)
    product.expand.weight.copy_(left)
    product.reduce.weight.copy_(right)
    if bias is not None:
        product.expand.bias.copy_(bias)
    return product


def _lowered(left: Any, right: Any, rank: int, lower: Lower, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    if lower == "svd":
        left, right = refactored(left, right, split)
    return left[:, :rank], right[:rank]
