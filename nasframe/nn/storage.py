"""The bits that a network takes, part by part: weights, the places of n:m weights, scales, and uncompressed parts.

(N7) is a formula in the README of the plugin package ``nasframe_nxmiformer``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from nasframe.nn.elastic import family_of, layers_of
from nasframe.nn.formats import FULL, Format, encoder_matrices, inspect, record_of, word_tables
from nasframe.nn.slices import weights


class Bits(NamedTuple):
    """The bits of a matrix: those of its kept weights, of their places in their groups, and of the rows' scales."""

    weights: int
    indices: int
    scales: int

    def total(self, indices: bool = True, scales: bool = True) -> int:
        """Return the sum, with or without the indices and the scales."""
        bits = self.weights
        if indices:
            bits += self.indices
        if scales:
            bits += self.scales
        return bits


def stored_bits(rows: int, columns: int, form: Format) -> Bits:
    """Return the bits that a matrix takes.

    A group of m stores n weights and, for each, its place in ``⌈log₂ m⌉`` bits; a row of integers has one scale of 32
    bits. If m does not divide a row's length, its last group is filled up.

    Args:
        rows: outputs.
        columns: inputs.
        form: see :class:`nasframe.nn.formats.Format`.

    >>> stored_bits(1, 8, Format(8, 2, 4))
    Bits(weights=32, indices=8, scales=32)
    """
    groups = rows * math.ceil(columns / form.m)
    kept = groups * form.n
    place_bits = 0
    if not form.pattern.dense:
        place_bits = math.ceil(math.log2(form.m))
    scale_bits = 0
    if form.bits < FULL:
        scale_bits = FULL
    return Bits(kept * form.bits, kept * place_bits, rows * scale_bits)  # (N7)


def account(net: nn.Module, record: Mapping[str, Format] | None = None) -> dict[str, Any]:
    """Return the bits that a network takes, part by part; tied weights count once.

    Args:
        net: the network.
        record: formats by matrix; default: the network's own record. Other matrices count in floating point.

    Returns:
        ``weights``, ``indices`` and ``scales`` of the matrices of the encoder's layers, and ``matrices_fp32``, the
        bits of these matrices uncompressed. ``encoder_rest`` (biases, normalisation). ``outside`` (embeddings, pooler,
        head) and ``outside_fp32``. ``saved`` and ``saved_without_indices``: the saved share of ``matrices_fp32``.

    >>> from nasframe.testing.toy import tiny_net
    >>> account(tiny_net())["saved"]
    0.0
    """
    if record is None:
        record = record_of(net)
    # Formats by the modules' ids, because the walk below sees modules, and the record has its own names for them.
    plain = Format()
    encoder = {}
    if not family_of(net).transposed:  # others have no formats
        encoder = {id(module): record.get(name, plain) for name, module in encoder_matrices(net)}
    words = {id(module): record.get(name, plain) for name, module in word_tables(net)}
    in_layers = {id(module) for module in layers_of(net).modules()}
    parts = ("weights", "indices", "scales", "matrices_fp32", "encoder_rest", "outside", "outside_fp32")
    counts = dict.fromkeys(parts, 0)
    for module, key, tensor in _tensors(net):
        full = FULL * tensor.numel()
        is_matrix = key == "weight"
        if is_matrix and id(module) in encoder:
            bits = _bits_of(tensor, encoder[id(module)])
            counts["weights"] += bits.weights
            counts["indices"] += bits.indices
            counts["scales"] += bits.scales
            counts["matrices_fp32"] += full
        elif id(module) in in_layers:
            counts["encoder_rest"] += full
        else:
            form = words.get(id(module), plain)
            if is_matrix and not form.full:
                counts["outside"] += _bits_of(tensor, form).total()
            else:
                counts["outside"] += full
            counts["outside_fp32"] += full
    taken = Bits(counts["weights"], counts["indices"], counts["scales"])
    whole = counts["matrices_fp32"]
    return counts | {
        "saved": _saved(taken.total(), whole),
        "saved_without_indices": _saved(taken.total(indices=False), whole),
    }


def _bits_of(matrix: torch.Tensor, form: Format) -> Bits:
    rows, columns = matrix.shape
    return stored_bits(rows, columns, form)


def _saved(bits: int, whole: int) -> float:
    """Return the saved share, 0 for an encoder without matrices."""
    if whole == 0:
        return 0.0
    return 1 - bits / whole


def summary(
    tensors: Mapping[str, torch.Tensor], record: Mapping[str, Format], counts: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the facts about compressed matrices that a report shows.

    Args:
        tensors: the matrices by name, from the network or from a file.
        record: the formats that they should have.
        counts: the result of :func:`account`.

    Returns:
        ``formats`` (the number of matrices of each), ``groups``, ``violations``, ``rows_off_grid`` and ``missing``,
        over all matrices, the mean share of ``zeros``, and the counts.
    """
    rows = inspect(tensors, record)
    sums = dict.fromkeys(("groups", "violations", "rows_off_grid", "zeros"), 0)
    for row in rows.values():
        for key in sums:
            sums[key] += row[key]
    zeros = sums.pop("zeros") / max(len(rows), 1)  # a share of each matrix
    missing = len(record) - len(rows)
    formats = dict(Counter(map(str, record.values())))
    return {"formats": formats, **sums, "missing": missing, "zeros": zeros, **counts}


def _tensors(net: nn.Module) -> Iterator[tuple[nn.Module, str, torch.Tensor]]:
    """Yield all weights, tied ones once; for a parametrised one, the tensor behind its parametrisation."""
    seen = set()
    for _, module, key in weights(net):
        owner: Any = module
        if is_parametrized(module, key):
            tensor = owner.parametrizations[key].original
        else:
            tensor = owner._parameters[key]
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield module, key, tensor
