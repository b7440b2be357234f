"""Low-rank factors of a word embedding and of linear maps.

Factors always come in the order of the singular values, so that a sub-network that keeps their first columns has the
best approximation of its rank.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from nasframe.errors import UsageError
from nasframe.nn.elastic import (
    FactorizedEmbedding,
    FactorizedLinear,
    base_of,
    family_of,
    inputs_of,
    layers_of,
    maps_of,
    outputs_of,
    words_of,
)

Lower = Literal["svd", "truncate"]
Split = Literal["even", "table"]


def factors(matrix: torch.Tensor, rank: int, split: Split = "even") -> tuple[torch.Tensor, torch.Tensor]:
    """Return factors whose product is the best of a rank in the least squares, by truncated SVD (Eckart and Young).

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
    # In double precision: the error of a small singular value is relative to the largest one.
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    if split == "even":
        left_scale = s.sqrt()
        right_scale = left_scale
    else:
        left_scale = s
        right_scale = torch.ones_like(s)
    left = (u * left_scale)[:, :rank]  # (R9)
    right = (right_scale[:, None] * v)[:rank]
    return left.to(matrix.dtype), right.to(matrix.dtype)


def refactored(left: torch.Tensor, right: torch.Tensor, split: Split = "even") -> tuple[torch.Tensor, torch.Tensor]:
    """Return factors of the same product whose columns are in the order of its singular values.

    After training, factors are no longer an SVD: their last columns are not the least important ones. After this
    function they are, again. With ``left = Q₁ R₁`` and ``rightᵀ = Q₂ R₂``, only the small ``R₁ R₂ᵀ`` needs an SVD.

    Args:
        left: ``(rows, rank)``.
        right: ``(rank, columns)``.
        split: see :func:`factors`.

    >>> left, right = torch.eye(3)[:, :2], torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    >>> refactored(left, right)[0].norm(dim=0).square().tolist()
    [5.0, 1.0]
    """
    rank = left.shape[1]
    q_left, r_left = torch.linalg.qr(left.double())
    q_right, r_right = torch.linalg.qr(right.double().T)
    inner_left, inner_right = factors(r_left @ r_right.T, rank, split)
    new_left = q_left @ inner_left
    new_right = inner_right @ q_right.T
    # If the rank is above the matrix's own, the last columns are zero.
    short = rank - inner_left.shape[1]
    new_left = nn.functional.pad(new_left, (0, short))
    new_right = nn.functional.pad(new_right, (0, 0, 0, short))
    return new_left.to(left.dtype), new_right.to(right.dtype)


@torch.no_grad()
def refactor_embedding(net: nn.Module, rank: int | None = None) -> list[nn.Parameter]:
    """Sort the columns of a factorised word embedding by singular values, in place; the embedding stays the same.

    Args:
        net: the network.
        rank: the number of first columns that are in use, and are sorted; default all.

    Returns:
        The parameters that were changed. An optimiser's moments for them are no longer valid.
    """
    words: Any = words_of(net)
    if rank is None:
        rank = words.rank
    # Slices of the parameters, so that copying into them changes the network.
    table = words.table.weight[:, :rank]
    project = words.project.weight[:, :rank]
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
        lower: how a factorised embedding loses columns: by ``svd`` of the product, or by ``truncate``, as ROSITA does,
            which drops its last ones.
        split: see :func:`factors`.

    Raises:
        UsageError: the rank is not between 1 and the embedding's own.
    """
    copied: Any = copy.deepcopy(net)
    words: Any = words_of(copied)
    if words is None:
        raise UsageError(f"rank: a {type(net).__name__} reads no words. Expected a network with a word embedding.")
    is_product = isinstance(words, FactorizedEmbedding)
    if is_product:
        shape = (words.num_embeddings, words.project.out_features)
        largest = words.rank
        padding_idx = words.table.padding_idx
    else:
        shape = (words.num_embeddings, words.embedding_dim)
        largest = min(shape)
        padding_idx = words.padding_idx
    if isinstance(rank, str):
        # A share refers to the full embedding; it may already have fewer columns.
        number = min(rank_of(rank, min(shape), "rank"), largest)
    else:
        number = rank
    if not 1 <= number <= largest:
        raise UsageError(f"rank: {number} for an embedding of {shape}. Expected 1 to {largest}.")
    if is_product:
        left, right = _lowered(words.table.weight, words.project.weight.T, number, lower, split)
    else:
        left, right = factors(words.weight, number, split)
    with torch.device("meta"):  # so that no random numbers are drawn for weights that are replaced
        small = FactorizedEmbedding(shape[0], number, shape[1], padding_idx)
    small = small.to_empty(device=left.device).to(left.dtype)
    small.table.weight.copy_(left)
    small.project.weight.copy_(right.T)
    base_of(copied).set_submodule(family_of(copied).words, small.train(words.training))
    copied.config.tie_word_embeddings = False  # two factors cannot be tied to one output matrix
    return copied


@torch.no_grad()
def factorize_linears(
    net: nn.Module, rank: int | str, maps: list[str] | None = None, lower: Lower = "svd", split: Split = "even"
) -> nn.Module:
    """Return a copy of a network in which linear maps of the encoder's layers are products of two maps.

    Args:
        net: the network, left as it is; maps may be factorised already, to a larger rank.
        rank: inner width, or a share (``"25%"``) of each map's smaller side.
        maps: some of the family's maps, for BERT ``query``, ``key``, ``value``, ``merge`` (out of the heads), ``widen``
            and ``shrink`` (into and out of the neurons); default all.
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
        for name in maps or maps_of(family_of(copied), layer):
            path = known[name].path
            linear = layer.get_submodule(path)
            product = _product(linear, rank, f"layer {i}, {name}", lower, split)
            layer.set_submodule(path, product)
    return copied


def rank_of(rank: int | str, largest: int, place: str) -> int:
    """Return a rank that is given as a number or as a share of the largest one.

    Raises:
        UsageError: it is neither, or it is out of range.

    >>> rank_of("25%", 32, "widen"), rank_of(5, 32, "widen")
    (8, 5)
    """
    number: int | None
    if isinstance(rank, int):
        number = rank
    else:
        number = _rank_of_share(rank, largest)
    if number is None or not 1 <= number <= largest:
        raise UsageError(f'{place}: rank {rank!r}. Expected 1 to {largest}, or a share such as "25%".')
    return number


def _rank_of_share(share: str, largest: int) -> int | None:
    """Return a share of the largest rank as a number, at least 1; ``None`` if the text is no share."""
    if not share.endswith("%"):
        return None
    try:
        percent = float(share.removesuffix("%"))
        return max(1, round(percent / 100 * largest))
    except (ValueError, OverflowError):  # not a number, NaN, or infinity
        return None


def _product(linear: Any, rank: int | str, place: str, lower: Lower, split: Split) -> FactorizedLinear:
    """Return a linear map as a product of two maps of a rank; ``place`` is its name in an error."""
    outputs = outputs_of(linear)
    inputs = inputs_of(linear)
    largest = min(outputs, inputs)
    if isinstance(linear, FactorizedLinear):
        weight = linear.expand.weight
        bias = linear.expand.bias
        # A share refers to the map's smaller side; a number must not exceed the rank that the map has.
        if not isinstance(rank, str):
            largest = min(largest, linear.rank)
        number = min(rank_of(rank, largest, place), linear.rank)
        left, right = _lowered(weight, linear.reduce.weight, number, lower, split)
    else:
        weight = linear.weight.T if isinstance(linear, Conv1D) else linear.weight
        bias = linear.bias
        number = rank_of(rank, largest, place)
        left, right = factors(weight, number, split)
    with torch.device("meta"):  # as in factorize_embedding
        product = FactorizedLinear(inputs, left.shape[1], outputs, bias is not None)
    product = product.to_empty(device=weight.device).to(weight.dtype).train(linear.training)
    product.expand.weight.copy_(left)
    product.reduce.weight.copy_(right)
    if bias is not None:
        product.expand.bias.copy_(bias)
    return product


def _lowered(left: Any, right: Any, rank: int, lower: Lower, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """Return factors of a lower rank: the first columns, after sorting them again if ``lower`` is ``svd``."""
    if lower == "svd":
        left, right = refactored(left, right, split)
    return left[:, :rank], right[:rank]
