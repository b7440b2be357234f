"""Costs that are counted, not measured: parameters, multiply-adds, bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from weakref import WeakKeyDictionary

from nasframe.interfaces import SpaceTraits, traits_of
from nasframe.nn.additive import Additive
from nasframe.outline import Outline
from nasframe.records import Arch, CostTable, Size

if TYPE_CHECKING:
    from torch import nn

    from nasframe.interfaces import SearchSpace


Counting: TypeAlias = Literal["matmul", "torchprofile"]
Part: TypeAlias = Literal["all", "backbone", "encoder"]


@dataclass(frozen=True)
class Counted:
    """A counted cost: a sum over the layers, heads and neurons that an architecture keeps.

    Args:
        unit: its unit.
        count: returns the additive cost (``nasframe.nn.additive.Additive``) of a network, or of its outline.
        factor: multiplies the count.
        heading: the heading of its column in tables.
        highlight: its name in a sentence, if reports show it first.
    """

    unit: str
    count: Callable[[nn.Module], Any]
    factor: float = 1.0
    heading: str = ""
    highlight: str = ""
    _additive_costs: WeakKeyDictionary[Any, Any] = field(default_factory=WeakKeyDictionary)  # by network

    def estimate(self, space: SearchSpace, net: nn.Module, arch: Arch | None = None) -> float:
        """Return the cost of a sub-network of any sizes, or of the network as it is.

        The costs of a network's layers, heads and neurons are counted once; use a new estimator if its sizes were
        changed in place. If the space does not slice, the extracted network is counted.
        """
        if arch is None:
            return self.factor * self.count(net).of()
        if not hasattr(space, "sizes"):
            extracted = space.extract(net, arch)
            return self.factor * self.count(extracted).of()
        additive = self._additive(net)
        return self.factor * additive.of(space.sizes(arch))

    def table(self, space: SearchSpace, net: nn.Module) -> CostTable | None:
        """Return the cost of every choice of the space's domain; ``None`` if choices have no cost of their own."""
        if not hasattr(space, "sizes") or not traits_of(SpaceTraits, space).additive:
            return None
        additive = self._additive(net)
        table = additive.table(space.domain.knobs)  # type: ignore[attr-defined]
        choices = {}
        for knob, costs in table.choices.items():
            choices[knob] = [self.factor * cost for cost in costs]
        return CostTable(self.factor * table.base, choices)

    def _additive(self, net: nn.Module) -> Any:
        if net not in self._additive_costs:
            self._additive_costs[net] = self.count(net)
        return self._additive_costs[net]


def params() -> Counted:
    """Count every weight that would be saved, tied ones once.

    >>> from nasframe.testing.toy import tiny_net
    >>> params().estimate(None, tiny_net()) == sum(p.numel() for p in tiny_net().parameters())
    True
    """
    return Counted("parameters", partial(_params, part="all"), heading="params")


def backbone_params() -> Counted:
    """Count the weights without the task head; BERT's pooler belongs to the backbone."""
    return Counted("parameters", partial(_params, part="backbone"), heading="backbone")


def encoder_params() -> Counted:
    """Count the weights of the encoder's layers only."""
    count_params = partial(_params, part="encoder")
    return Counted("parameters", count_params, heading="encoder", highlight="encoder parameters")


def macs(batch: Size = 1, length: Size = 128, count: Counting = "matmul") -> Counted:
    """Count the multiply-adds of the matrix products in a forward pass.

    Args:
        batch: number of sequences.
        length: number of tokens in each.
        count: ``matmul`` counts like torch's FlopCounterMode; ``torchprofile`` also counts normalisation, like the
            counter behind YOCO-BERT's figures (arXiv 2106.02435).
    """
    count_macs = partial(_macs, batch=batch, length=length, how=count)
    return Counted("MACs", count_macs, heading="MACs", highlight="MACs")


def flops(batch: Size = 1, length: Size = 128, count: Counting = "matmul") -> Counted:
    """Count floating-point operations, two for each multiply-add of ``macs``.

    Args:
        batch: number of sequences.
        length: number of tokens in each.
        count: see ``macs``.
    """
    count_macs = partial(_macs, batch=batch, length=length, how=count)
    return Counted("FLOPs", count_macs, factor=2.0, heading="FLOPs")


def size() -> Counted:
    """Count the bytes of the saved weights, in the types they have; headers and tokenizer are not counted."""
    return Counted("bytes", _size, heading="size")


# Bytes depend on the types of the weights, which an outline does not have.
for _factory in (params, backbone_params, encoder_params, macs, flops):
    vars(_factory)["sizes_suffice"] = True


def _params(net: nn.Module | Outline, part: Part) -> Additive:
    """Count the parameters of a part of a network."""
    if isinstance(net, Outline):  # from its sizes, so that a check need not import torch
        return net.params(part)
    from nasframe.nn import count

    return count.params(net, part)


def _macs(net: nn.Module | Outline, batch: int, length: int, how: Counting) -> Additive:
    """Count the multiply-adds of a forward."""
    if isinstance(net, Outline):
        return net.macs(batch, length, how)
    from nasframe.nn import count

    return count.macs(net, batch, length, how)


def _size(net: nn.Module) -> Additive:
    """Count the bytes of a network's parameters."""
    from nasframe.nn import count

    return count.size(net)
