"""The space of NxMiFormer: for each matrix of the encoder, its n:m pattern and the bits of its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils.parametrize import is_parametrized

from nasframe.domain import Choices
from nasframe.errors import UsageError, listing, suggestion
from nasframe.nn import slices
from nasframe.nn.bits import stored_bits
from nasframe.nn.elastic import FAMILIES, Family
from nasframe.nn.formats import Format, encoder_matrices, parse_format, raw_weight, record_of, set_record, shown
from nasframe.nn.patterns import require_divisible
from nasframe.types import Arch, Forward

KINDS = ("query", "key", "value", "merge", "widen", "shrink")


class NMBits:
    """Choose the format of each weight matrix in the encoder's layers, as in ``query.0: "2:4 int8"``.

    A view shows the network's own weights projected and rounded, ``Q(P(W))``. The matrices of layer ``i`` are
    ``query.i``, ``key.i``, ``value.i``, ``merge.i`` (out of the heads), ``widen.i`` and ``shrink.i`` (into and out of
    the neurons); both factors of a factorised one share a format.

    Args:
        formats: ``fp32`` or ``int2`` to ``int12``, alone or after an n:m pattern.
        remainder: rows whose last group of m is not whole are refused, or the group is filled up with zeros.
        config: the network's configuration.

    Raises:
        UsageError: an unknown format, n above m, or m does not divide a matrix's inputs.
    """

    def __init__(
        self,
        formats: Sequence[str] = ("2:4 int4", "int4", "2:4 int8", "int8"),
        remainder: Literal["refuse", "pad"] = "refuse",
        config: Any = None,
    ) -> None:
        family = FAMILIES.get(getattr(config, "model_type", "").removeprefix("nasframe-"))
        if family is None:
            raise UsageError(f"nm_bits: a network that it does not know. Expected one of {', '.join(FAMILIES)}.")
        chosen = sorted({parse_format(text) for text in formats}, key=lambda form: (per_weight(form), form))
        if not chosen:
            raise UsageError("nm_bits: formats: there are none. Expected one at least.")
        self.family, self.remainder = family, remainder
        for form in chosen:
            self._check("nm_bits", config.hidden_size, form)
            self._check("nm_bits", getattr(config, family.ffn), form)
        values = [str(form) for form in chosen]
        self.domain = Choices({f"{kind}.{i}": values for i in range(getattr(config, family.depth)) for kind in KINDS})

    def supernet(self, net: nn.Module) -> nn.Module:
        """Return the network as it is."""
        return net

    def sizes(self, arch: Arch) -> dict[str, Any]:
        """Return the sizes of an architecture: all layers, heads and neurons."""
        return {}

    def arch(self, sizes: Arch) -> dict[str, Any]:
        """Return the architecture that formats written by knob or kind of matrix mean, in the domain or not.

        Args:
            sizes: as in ``{query: "2:4 int8", shrink.0: int8}``; what is not given has the largest format.

        Raises:
            UsageError: a key that is neither knob nor kind, or an unknown format.
        """
        for key in sizes:
            if key not in self.domain.knobs and key not in KINDS:
                known = [*KINDS, *self.domain.knobs]
                raise UsageError(f"{key}: not a matrix. Expected one of {listing(known)}.{suggestion(key, known)}")
        found = {}
        for knob, values in self.domain.knobs.items():
            found[knob] = str(parse_format(sizes.get(knob, sizes.get(knob.partition(".")[0], values[-1]))))
        return found

    def formats(self, net: nn.Module, arch: Arch) -> dict[str, Format]:
        """Return the format of each linear map in the encoder's layers, by its name.

        Raises:
            UsageError: m does not divide a matrix's inputs.
        """
        found = {}
        for name, module in encoder_matrices(net):
            knob = knob_of(self.family, name)
            found[name] = parse_format(arch[knob]) if knob and knob in arch else Format()
            self._check(name, module.in_features, found[name])
        return found

    def view(self, net: nn.Module, arch: Arch) -> Forward:
        """Return the network as it acts with its weights in the architecture's formats."""
        forms = self.formats(net, arch)
        path = {id(module): name for name, module in net.named_modules()}
        chosen = [(path[id(module)], module, forms[name]) for name, module in encoder_matrices(net)]
        chosen = [entry for entry in chosen if not entry[2].full]
        kept: dict[str, Any] = {"versions": None}

        def forward(*args: Any, **kwargs: Any) -> Any:
            behind = {key_of(name, module): (raw_weight(module), form) for name, module, form in chosen}
            versions = [(id(weight), weight._version) for weight, _ in behind.values()]
            if torch.is_grad_enabled() or kept["versions"] != versions:
                kept["weights"] = {key: shown(weight, form) for key, (weight, form) in behind.items()}
                kept["versions"] = None if torch.is_grad_enabled() else versions
            return functional_call(net, kept["weights"], args, kwargs)

        return forward

    def extract(self, net: nn.Module, arch: Arch) -> nn.Module:
        """Return a copy of the network whose weights are in the architecture's formats, which its record names."""
        forms, small = self.formats(net, arch), slices.extract(net, {})
        behind = dict(encoder_matrices(net))
        with torch.no_grad():
            for name, module in encoder_matrices(small):
                module.weight.copy_(shown(raw_weight(behind[name]), forms[name]))
        set_record(small, record_of(small) | forms)
        return small

    def _check(self, name: str, columns: int, form: Format) -> None:
        if self.remainder == "refuse":
            require_divisible(name, columns, form.pattern)


def per_weight(form: Format) -> float:
    """Return the bits that a weight of a long row takes, its place among n:m included.

    >>> per_weight(parse_format("2:4 int8")), per_weight(parse_format("int4"))
    (5.0, 4.0)
    """
    bits = stored_bits(1, form.m, form)
    return (bits.weights + bits.indices) / form.m


def knob_of(family: Family, name: str) -> str | None:
    """Return the knob that a linear map of the encoder's layers belongs to.

    >>> knob_of(FAMILIES["bert"], "3.attention.output.dense")
    'merge.3'
    """
    layer, _, path = name.partition(".")
    for kind, own in zip(KINDS, (*family.projections, family.merge, family.widen, family.shrink), strict=True):
        if path == own or path.startswith(f"{own}."):
            return f"{kind}.{layer}"
    return None


def key_of(name: str, module: nn.Module) -> str:
    """Return the name of that parameter in the network."""
    return f"{name}.parametrizations.weight.original" if is_parametrized(module, "weight") else f"{name}.weight"


def by_knob(family: Family, modules: Mapping[str, nn.Module]) -> dict[str, list[nn.Module]]:
    """Group linear maps by the knob they belong to; those of no knob are left out."""
    found: dict[str, list[nn.Module]] = {}
    for name, module in modules.items():
        if knob := knob_of(family, name):
            found.setdefault(knob, []).append(module)
    return found
