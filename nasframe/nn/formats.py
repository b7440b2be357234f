"""How a network's matrices are stored, in few bits or sparse by a pattern, and whether their weights obey it.

A network's configuration has a record of it: ``config.quantised`` maps matrices to ``{"bits", "n", "m"}``, those of the
encoder's layers by ``"layer.map"``, others by their name in the base model. So every copy, file and export carries
it, and ``nasframe.nn.blueprint`` returns it. (N6) is a formula in the README of the package ``nasframe_nxmiformer``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from nasframe.errors import UsageError
from nasframe.interfaces import FormatSpace
from nasframe.nn.elastic import FamilyRow, base_of, family_of, layers_of
from nasframe.nn.patterns import Pattern, parse_pattern, project, violations
from nasframe.nn.quantize import MOST_BITS, RowQuantizer, fits_grid
from nasframe.records import Arch

FULL = 32
"""Bits of a weight that is left in floating point, and of a row's scale."""


class Format(NamedTuple):
    """How a matrix is stored: ``bits`` of a weight (32: floating point), at most ``n`` of ``m`` weights of a row."""

    bits: int = FULL
    n: int = 1
    m: int = 1

    @property
    def pattern(self) -> Pattern:
        """Its n:m pattern."""
        return Pattern(self.n, self.m)

    @property
    def full(self) -> bool:
        """Whether this is a plain matrix in floating point."""
        return self.bits == FULL and self.pattern.dense

    def __str__(self) -> str:
        number = "fp32" if self.bits == FULL else f"int{self.bits}"
        if self.pattern.dense:
            return number
        return f"{self.n}:{self.m} {number}"


def parse_format(text: str) -> Format:
    """Return a format from its text.

    Args:
        text: ``fp32``, or ``int2`` to ``int12``, after a pattern or alone, as in ``2:4 int8``.

    Raises:
        UsageError: the text is no format.

    >>> parse_format("2:4 int8"), str(parse_format("int4"))
    (Format(bits=8, n=2, m=4), 'int4')
    """
    pattern, _, number = str(text).strip().rpartition(" ")
    integer = re.fullmatch(r"int(\d+)", number)
    bits = int(integer.group(1)) if integer else FULL
    is_known = number == "fp32" or (integer and 2 <= bits <= MOST_BITS)
    if not is_known:
        known = f"'fp32' or 'int2' to 'int{MOST_BITS}', as in '2:4 int8'"
        raise UsageError(f"format: {text!r} is not known. Expected {known}.")
    n, m = parse_pattern(pattern) if pattern else Pattern()
    return Format(bits, n, m)


def shown(weight: torch.Tensor, form: Format) -> torch.Tensor:
    """Return a matrix as it acts in a format, ``Q(P(weight))``; gradients pass straight through the rounding.

    Scales are those of the weights that the projection leaves. 0 is on every grid, so the zeros stay.

    Args:
        weight: ``(rows, columns)``.
        form: see :class:`Format`.

    >>> shown(torch.tensor([[7.0, 1.0, 2.9, 0.0]]), Format(4, 2, 4)).tolist()
    [[7.0, 0.0, 3.0, 0.0]]
    """
    kept = project(weight, form.pattern)
    if form.bits == FULL:
        return kept
    return RowQuantizer(form.bits)(kept)  # (N6)


def encoder_matrices(net: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Yield the linear maps of the encoder's layers, in order, with names such as ``0.output.dense``.

    Raises:
        UsageError: the maps' weights are transposed, so that rows and groups of m would be those of outputs.
    """
    refuse_transposed(family_of(net), type(net).__name__)
    for name, module in layers_of(net).named_modules():
        if isinstance(module, nn.Linear):
            yield name, module


def refuse_transposed(family: FamilyRow, name: str) -> None:
    """Refuse a family whose matrices have inputs in rows: formats are defined for outputs in rows.

    Raises:
        UsageError: the family has transposed matrices.
    """
    if family.transposed:
        raise UsageError(
            f"{name}: its linear maps have weights (inputs, outputs), for which n:m patterns and quantisation by rows "
            "are not defined. Expected a family with torch.nn.Linear, such as BERT or Llama."
        )


def word_tables(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the module that holds the word embedding's weights, or the two of a factorised one, with their names."""
    words = family_of(net).words
    if words is None:
        return
    for name, module in base_of(net).named_modules():
        if isinstance(module, nn.Embedding | nn.Linear) and name.startswith(words):
            yield name, module


def raw_weight(module: nn.Module) -> nn.Parameter:
    """Return the parameter behind a module's weight, also if the weight is parametrised."""
    owner: Any = module
    if is_parametrized(module, "weight"):
        return owner.parametrizations.weight.original
    return owner.weight


def formats_of(space: Any, net: nn.Module, arch: Arch | None) -> dict[str, Format] | None:
    """Return the formats that an architecture assigns to the encoder's matrices.

    Args:
        space: a space of formats, which has a method ``formats(net, arch)``, or any other.
        net: the network.
        arch: the architecture.

    Returns:
        One format for each matrix, or ``None`` if there is no such space or no architecture.
    """
    if arch is None or not isinstance(space, FormatSpace):
        return None
    return dict(space.formats(net, arch))


def record_of(net: nn.Module) -> dict[str, Format]:
    """Return the format of each matrix of a network that is not stored plainly."""
    entries = getattr(_config(net), "quantised", {})
    return {name: Format(**entry) for name, entry in entries.items()}


def set_record(net: nn.Module, record: Mapping[str, Format]) -> None:
    """Replace a network's record; plain matrices are left out, and so is a record without entries."""
    config = _config(net)
    vars(config).pop("quantised", None)  # without compressed matrices, a configuration is a stock one
    entries = {}
    for name, form in record.items():
        if not form.full:
            entries[name] = form._asdict()
    if entries:
        config.quantised = entries


def _config(net: nn.Module) -> Any:
    """Return the configuration that holds the record; a network that is no encoder has none to keep."""
    base = getattr(net, "base_model", None)
    return getattr(base, "config", None) or SimpleNamespace()


def note(net: nn.Module, name: str, **fields: int) -> None:
    """Record how one matrix is stored now.

    Args:
        net: the network.
        name: the matrix.
        fields: some of ``bits``, ``n`` and ``m``; the others stay unchanged.

    >>> from nasframe.testing.toy import tiny_net
    >>> net = tiny_net()
    >>> note(net, "0.output.dense", bits=8)
    >>> record_of(net)
    {'0.output.dense': Format(bits=8, n=1, m=1)}
    """
    record = record_of(net)
    entry = record.get(name, Format())._replace(**fields)
    set_record(net, {**record, name: entry})


def settle(net: nn.Module) -> nn.Module:
    """Drop entries that no longer hold from the network's compression record, and return the network."""
    record = record_of(net)
    if not record:
        return net
    kept = {}
    # Bits and pattern are dropped one by one: rounding may be lost while the zeros are still in place.
    for name, row in inspect(matrices(net, record), record).items():
        entry = record[name]
        if row["rows_off_grid"]:
            entry = entry._replace(bits=FULL)
        if row["violations"]:
            entry = entry._replace(n=1, m=1)
        kept[name] = entry
    set_record(net, kept)
    return net


def matrices(net: nn.Module, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return matrices of a network as they act, by name; names that the network does not have are left out."""
    modules: dict[str, Any] = dict(word_tables(net))
    modules.update(encoder_matrices(net))
    return {name: modules[name].weight.detach() for name in names if name in modules}


def saved_name(net: nn.Module, name: str) -> str:
    """Return the key of a recorded matrix's weight in a network's ``state_dict``."""
    path = f"{name}.weight"
    first, _, _ = name.partition(".")
    if first.isdigit():  # a layer's position
        path = f"{family_of(net).layers}.{path}"
    if base_of(net) is not net:
        path = f"{net.base_model_prefix}.{path}"
    return path


def inspect(tensors: Mapping[str, torch.Tensor], record: Mapping[str, Format]) -> dict[str, dict[str, Any]]:
    """Return how far the recorded matrices obey their formats, in every group of m and every row.

    Args:
        tensors: matrices by name; those that are missing are left out.
        record: the formats that they should have.

    Returns:
        name → ``format``, ``groups`` (of m), ``violations`` (groups with more than n weights), ``rows_off_grid`` (rows
        that fit no grid of that many bits) and ``zeros`` (their share of the weights).
    """
    rows_by_name = {}
    for name, form in record.items():
        if name not in tensors:
            continue
        weight = tensors[name]
        rows, columns = weight.shape
        groups = 0
        broken = 0
        off_grid = 0
        if not form.pattern.dense:
            groups = rows * math.ceil(columns / form.m)  # a row's last group may be short
            broken = violations(weight, form.pattern)
        if form.bits != FULL:
            off_grid = int((~fits_grid(weight, form.bits)).sum())
        zeros = 0.0
        if weight.numel():
            zeros = float((weight == 0).double().mean())
        rows_by_name[name] = {
            "format": str(form),
            "groups": groups,
            "violations": broken,
            "rows_off_grid": off_grid,
            "zeros": zeros,
        }
    return rows_by_name
