"""The space of NxMiFormer: an n:m pattern and a number of bits for each matrix of the encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils.parametrize import is_parametrized

from nasframe.errors import UsageError, listing, suggestion
from nasframe.nn import slices
from nasframe.nn.elastic import FamilyRow
from nasframe.nn.formats import (
    Format,
    encoder_matrices,
    parse_format,
    raw_weight,
    record_of,
    refuse_transposed,
    set_record,
    shown,
)
from nasframe.nn.patterns import require_divisible
from nasframe.nn.rows import row_for
from nasframe.nn.storage import stored_bits
from nasframe.records import Arch, Forward
from nasframe.search.domain import Choices


class NMBits:
    """Choose the format of each weight matrix in the encoder's layers, such as ``query.0: "2:4 int8"``.

    A view runs the network with its own weights projected and rounded, ``Q(P(W))``. The matrices of layer ``i`` are
    ``query.i``, ``key.i``, ``value.i``, ``merge.i`` (out of the heads), ``widen.i`` and ``shrink.i`` (into and out of
    the neurons); both factors of a factorised matrix share a format.

    Args:
        formats: ``fp32`` or ``int2`` to ``int12``, alone or after an n:m pattern.
        remainder: ``refuse`` (reject) rows whose last group of m is incomplete, or ``pad`` that group with zeros.
        config: the network's configuration.

    Raises:
        UsageError: a format is unknown, n is above m, or m does not divide a matrix's inputs.
    """

    keeps_net = True

    def __init__(
        self,
        formats: Sequence[str] = ("2:4 int4", "int4", "2:4 int8", "int8"),
        remainder: Literal["refuse", "pad"] = "refuse",
        config: Any = None,
    ) -> None:
        family = row_for(config, "nm_bits")
        refuse_transposed(family, f"nm_bits: {config.model_type}")
        distinct = set(map(parse_format, formats))
        # From the smallest to the largest, as a domain orders its values.
        chosen = sorted(distinct, key=lambda form: (per_weight(form), form))
        if not chosen:
            raise UsageError("nm_bits: formats: there are none. Expected at least one.")
        self.family = family
        self.remainder = remainder
        sizes = family.sizes(config)
        for form in chosen:
            for inputs in (config.hidden_size, sizes.heads * sizes.head_size, sizes.ffn):
                self._check("nm_bits", inputs, form)
        values = [str(form) for form in chosen]
        self.kinds = tuple(family.maps)
        knobs = {}
        for i in range(sizes.layers):
            for kind in self.kinds:
                knobs[f"{kind}.{i}"] = values
        self.domain = Choices(knobs)

    def supernet(self, net: nn.Module) -> nn.Module:
        """Return the network unchanged."""
        return net

    def sizes(self, arch: Arch) -> dict[str, Any]:
        """Return no sizes, which means all layers, heads and neurons."""
        return {}

    def arch(self, sizes: Arch) -> dict[str, Any]:
        """Return the architecture of formats that are written by knob or by kind of matrix.

        Formats outside the domain are allowed.

        Args:
            sizes: such as ``{query: "2:4 int8", shrink.0: int8}``; matrices that are not named have the largest format.

        Raises:
            UsageError: a key is neither a knob nor a kind, or a format is unknown.
        """
        for key in sizes:
            if key not in self.domain.knobs and key not in self.kinds:
                names = [*self.kinds, *self.domain.knobs]
                raise UsageError(f"{key}: not a matrix. Expected one of {listing(names)}.{suggestion(key, names)}")
        arch = {}
        for knob, values in self.domain.knobs.items():
            kind, _, _ = knob.partition(".")
            # A single matrix overrides its kind, and the largest format is the default.
            text = sizes.get(knob, sizes.get(kind, values[-1]))
            arch[knob] = str(parse_format(text))
        return arch

    def formats(self, net: nn.Module, arch: Arch) -> dict[str, Format]:
        """Return the format of each linear map in the encoder's layers, by its name.

        Raises:
            UsageError: m does not divide a matrix's inputs.
        """
        formats = {}
        for name, module in encoder_matrices(net):
            knob = knob_of(self.family, name)
            form = Format()
            if knob is not None and knob in arch:
                form = parse_format(arch[knob])
            self._check(name, module.in_features, form)
            formats[name] = form
        return formats

    def view(self, net: nn.Module, arch: Arch) -> Forward:
        """Return the network as a function that uses its weights in the architecture's formats."""
        formats = self.formats(net, arch)
        path_of = {id(module): path for path, module in net.named_modules()}
        changed = []  # path, module and format of each matrix that is not plain
        for name, module in encoder_matrices(net):
            if not formats[name].full:
                changed.append((path_of[id(module)], module, formats[name]))
        converted: dict[str, Any] = {}
        versions: Any = None  # of the weights that were converted

        def forward(*args: Any, **kwargs: Any) -> Any:
            nonlocal converted, versions
            weights = [raw_weight(module) for _, module, _ in changed]
            # Evaluation runs many batches with the same weights; with gradients, each batch needs a graph of its own.
            current = [(id(weight), weight._version) for weight in weights]
            if torch.is_grad_enabled() or current != versions:
                converted = {}
                for (path, module, form), weight in zip(changed, weights, strict=True):
                    converted[key_of(path, module)] = shown(weight, form)
                versions = None if torch.is_grad_enabled() else current
            return functional_call(net, converted, args, kwargs)

        return forward

    def extract(self, net: nn.Module, arch: Arch) -> nn.Module:
        """Return a copy of the network with its weights in the architecture's formats, which its record names."""
        formats = self.formats(net, arch)
        small = slices.extract(net, {})  # a copy of the full size
        originals = dict(encoder_matrices(net))
        with torch.no_grad():
            for name, module in encoder_matrices(small):
                module.weight.copy_(shown(raw_weight(originals[name]), formats[name]))
        set_record(small, record_of(small) | formats)
        return small

    def _check(self, name: str, columns: int, form: Format) -> None:
        if self.remainder == "refuse":
            require_divisible(name, columns, form.pattern)


def per_weight(form: Format) -> float:
    """Return the bits that a weight of a long row takes, including its place in an n:m group.

    >>> per_weight(parse_format("2:4 int8")), per_weight(parse_format("int4"))
    (5.0, 4.0)
    """
    bits = stored_bits(1, form.m, form)
    return (bits.weights + bits.indices) / form.m


def knob_of(family: FamilyRow, name: str) -> str | None:
    """Return the knob that a linear map of the encoder's layers belongs to.

    >>> from nasframe.nn.elastic import FAMILIES
    >>> knob_of(FAMILIES["bert"], "3.attention.output.dense")
    'merge.3'
    """
    layer, _, path = name.partition(".")
    for kind, own in family.maps.items():
        is_factor = path.startswith(f"{own.path}.")
        if path == own.path or is_factor:
            return f"{kind}.{layer}"
    return None


def key_of(name: str, module: nn.Module) -> str:
    """Return the name of a module's trained weight in the network.

    Args:
        name: the module's.
        module: a linear map; if a modifier parametrised it, its weight is stored under another name.
    """
    if is_parametrized(module, "weight"):
        return f"{name}.parametrizations.weight.original"
    return f"{name}.weight"


def by_knob(family: FamilyRow, modules: Mapping[str, nn.Module]) -> dict[str, list[nn.Module]]:
    """Group linear maps by the knob they belong to; those of no knob are left out."""
    grouped: dict[str, list[nn.Module]] = {}
    for name, module in modules.items():
        knob = knob_of(family, name)
        if knob:
            grouped.setdefault(knob, []).append(module)
    return grouped
