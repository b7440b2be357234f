"""Removable groups: the weights that leave a network together, as data, and arithmetic over all groups at once.

A group is zero-invariant: if all its weights are zero, its contribution to the network's outputs is exactly zero. An
attention head owns its rows of the query, key and value maps with their biases, and the columns of the map out of the
heads; a neuron owns its row, its bias, and the column that reads it. The biases of the maps *out* of heads and neurons
belong to no group, because they are added however many groups there are. No weight is in two groups.
(Zero-invariant groups: Chen et al., *Only Train Once*, arXiv 2107.07467, §3.1.)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from nasframe.errors import UsageError, listing, suggestion
from nasframe.nn.blueprint import blueprint
from nasframe.nn.elastic import family_of, layers_of, slices_of, units_of
from nasframe.nn.rewire import rewire

UNITS = ("heads", "ffn")

Tensors = Sequence[torch.Tensor]
"""Tensors in order: those of the groups' members, their cuts, or rows with a number for each group."""


class Member(NamedTuple):
    """A tensor's part in the groups of a layer: group k owns the entries ``k * width … (k + 1) * width`` along ``dim``.

    Attributes:
        name: the tensor, from the network.
        dim: the dimension along which the groups lie.
        width: the number of neighbouring entries that a group has along it.
        blocks: how often the groups follow one another along it; a group then has ``width`` entries in each block.
    """

    name: str
    dim: int
    width: int
    blocks: int = 1


@dataclass(frozen=True)
class Groups:
    """The groups of one kind in one layer.

    Args:
        unit: the kind: ``heads``, ``ffn`` or ``channels``.
        layer: the layer.
        count: the number of groups.
        members: the tensors that the groups share out among themselves.
        along: tensors of the same layout that leave with a group but are not part of it, such as the weights that read
            a channel: the group can be zero without them.
    """

    unit: str
    layer: int
    count: int
    members: tuple[Member, ...]
    along: tuple[Member, ...] = ()


def encoder_groups(net: nn.Module, units: Collection[str] | None = None) -> list[Groups]:
    """Return the heads and the neurons of a network's layers.

    Args:
        net: a model of a family that can be sliced, of any sizes per layer.
        units: ``heads``, ``ffn`` or both, the default. Query heads that share keys and values are one group.

    Returns:
        The groups; a layer without heads or neurons has none.

    Raises:
        UsageError: the encoder has no groups of this kind.

    >>> from nasframe.testing.toy import tiny_net
    >>> [(groups.unit, groups.count, len(groups.members)) for groups in encoder_groups(tiny_net(layers=1))]
    [('heads', 4, 7), ('ffn', 64, 3)]
    """
    check_units(units, UNITS)
    wanted = UNITS if units is None else units
    family = family_of(net)
    sizes = blueprint(net)
    names = {id(module): name for name, module in net.named_modules()}
    groups = []
    layers = zip(layers_of(net), sizes["layers"], strict=True)
    for i, (layer, counts) in enumerate(layers):
        members: dict[str, list[Member]] = {"heads": [], "ffn": []}
        for part in slices_of(family, layer):
            linear = layer.get_submodule(part.path)
            if getattr(linear, part.name) is not None:  # maps may have no bias
                name = f"{names[id(linear)]}.{part.name}"
                members[part.unit].append(Member(name, part.dim, part.width, part.blocks))  # (H1)
        removable = units_of(family, layer, **counts)
        for unit in UNITS:
            if removable[unit] and unit in wanted:  # a layer may have lost all its heads or neurons
                groups.append(Groups(unit, i, removable[unit], tuple(members[unit])))
    return groups


def check_units(units: Collection[str] | None, known: Sequence[str]) -> None:
    """Raise an error for kinds of groups that a network does not have.

    >>> check_units(["channels"], ["heads", "ffn"])
    Traceback (most recent call last):
    nasframe.errors.UsageError: units: the network has no groups 'channels'. Expected some of ffn, heads.
    """
    if units is not None and not units:
        raise UsageError(f"units: the list is empty. Expected some of {listing(known)}.")
    for unit in units or ():
        if unit not in known:
            text = f"units: the network has no groups {unit!r}. Expected some of {listing(known)}."
            raise UsageError(text + suggestion(unit, known))


class Grouped:
    """The groups of a network as one row of numbers: a norm, a product or a factor for each, in order.

    The work is done tensor by tensor, over all groups in a tensor at once: a network has thousands of groups, and a
    loop over them would take far longer than the arithmetic.

    Args:
        net: the network; its tensors are looked up again after ``bind``.
        groups: see :class:`Groups`.

    >>> from nasframe.testing.toy import tiny_net
    >>> grouped = Grouped(net := tiny_net(layers=1), encoder_groups(net))
    >>> grouped.squares().shape, grouped.sizes[0].item()
    (torch.Size([68]), 1048.0)
    """

    def __init__(self, net: nn.Module, groups: Sequence[Groups]) -> None:
        self.net = net
        self.groups = list(groups)
        self.bind()
        self.counts = [entry.count for entry in self.groups]
        sizes = [float(_entries(entry, net)) for entry in self.groups]
        units = [self.units.index(entry.unit) for entry in self.groups]
        self.sizes = self._for_each_group(sizes)
        self.unit = self._for_each_group(units)
        self.layer = self._for_each_group(range(len(self.groups)))

    def _for_each_group(self, values: Sequence[float]) -> torch.Tensor:
        """Repeat the value of each layer and kind for each of its groups."""
        device = self.tensors[0].device if self.tensors else torch.device("cpu")
        row = torch.tensor(values).repeat_interleave(torch.tensor(self.counts))
        return row.to(device)

    @property
    def units(self) -> list[str]:
        """The kinds of groups that the network has, in order."""
        return list(dict.fromkeys(entry.unit for entry in self.groups))

    def bind(self) -> None:
        """Look up the tensors, parametrised ones behind their parametrisation, and cut them into groups."""
        # Behind it, because that is the tensor that the optimiser trains.
        self.tensors = []
        for entry in self.groups:
            for member in entry.members:
                self.tensors.append(tensor_of(self.net, member.name))
        self.views = self.cut(self.tensors)

    def cut(self, tensors: Tensors) -> list[torch.Tensor]:
        """View tensors of the shapes of ``self.tensors`` as ``(before, groups, entries)`` each."""
        views = []
        remaining = iter(tensors)
        for entry in self.groups:
            for member in entry.members:
                tensor = next(remaining).detach()
                views.append(_divided(tensor, member, entry.count))
        return views

    def copy(self) -> list[torch.Tensor]:
        """Return uninitialised tensors of the same shapes."""
        return [torch.empty_like(tensor) for tensor in self.tensors]

    def gradients(self) -> list[torch.Tensor]:
        """Return the tensors' gradients, zeros for a tensor without one."""
        gradients = []
        for tensor in self.tensors:
            gradient = tensor.grad
            if gradient is None:
                gradient = torch.zeros_like(tensor)
            gradients.append(gradient)
        return gradients

    def sums(self, of: Callable[..., Tensors], *views: Iterable[torch.Tensor]) -> Tensors:
        """Return sums over each group's parts, of numbers that a function returns for one tensor after another.

        The function may compute several numbers, and may change the tensor as well. It then works on data that are in
        the processor's cache: on a CPU it is passes over memory that take time, not products.

        Args:
            of: takes a tensor's cut from each of ``views``; returns rows, ``(groups of the tensor,)`` each.
            views: the cuts of each tensor, such as ``views``, ``cut(…)`` and ``each(…)``.
        """
        rows_of_tensors = [of(*cuts) for cuts in zip(*views, strict=True)]
        rows_by_number = zip(*rows_of_tensors, strict=True)  # all tensors' rows of one number, then of the next
        return [self._summed(iter(rows)) for rows in rows_by_number]

    def squares(self, views: Tensors | None = None) -> torch.Tensor:
        """Return each group's squared norm, of the weights or of tensors as ``cut`` gives them."""
        if views is None:
            views = self.views
        squares = map(square, views)
        return self._summed(squares)

    def dots(self, first: Tensors, second: Tensors) -> torch.Tensor:
        """Return each group's inner product of two sets of tensors as ``cut`` gives them."""
        products = [dot(x, y) for x, y in zip(first, second, strict=True)]
        return self._summed(iter(products))

    def scale_(self, factors: torch.Tensor) -> None:
        """Multiply each group's weights by its factor."""
        for x, factor in zip(self.views, self.each(factors), strict=True):
            x.mul_(factor)

    def clear_(self, which: torch.Tensor) -> None:
        """Make some groups zero, without a pass over all others."""
        views = iter(self.views)
        for entry, mask in self.layers(which):
            places = mask.nonzero()[:, 0]
            for _ in entry.members:
                next(views).index_fill_(1, places, 0)

    def zero(self) -> torch.Tensor:
        """Tell which groups are zero: those whose weights are all 0.

        Norms will not do: the squares of small weights underflow to 0.
        """
        peaks = map(peak, self.views)
        return self._summed(peaks) == 0

    def layers(self, row: torch.Tensor) -> Iterator[tuple[Groups, torch.Tensor]]:
        """Yield the parts that a row with an entry for each group has in each layer."""
        yield from zip(self.groups, row.split(self.counts), strict=True)

    def each(self, row: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield for each tensor the part of a row that fits its cut, ``(1, groups, 1)``."""
        for entry, part in self.layers(row):
            for _ in entry.members:
                yield part.view(1, -1, 1)

    def _summed(self, parts: Iterator[torch.Tensor]) -> torch.Tensor:
        """Return the sums of the rows of each entry's tensors, for all entries of ``groups`` in one row."""
        sums = []
        for entry in self.groups:
            total = next(parts)
            for _ in entry.members[1:]:
                total = total + next(parts)
            sums.append(total)
        return torch.cat(sums)


def square(x: torch.Tensor) -> torch.Tensor:
    """Return the squared norms of ``(before, groups, entries)``, ``(groups,)``."""
    # The norm along rows is one fast pass; along columns it is far slower than squares and their sum.
    if len(x) == 1:
        return torch.linalg.vector_norm(x[0], dim=1).square()
    return x.square().sum(dim=(0, 2))


def peak(x: torch.Tensor) -> torch.Tensor:
    """Return the largest magnitudes in ``(before, groups, entries)``, ``(groups,)``: 0 only if all entries are 0.

    >>> peak(torch.tensor([[[0.0, -0.0], [1e-30, 0.0]]])) == 0, square(torch.tensor([[[1e-30, 0.0]]])) == 0
    (tensor([ True, False]), tensor([True]))
    """
    return torch.linalg.vector_norm(x, torch.inf, dim=(0, 2))


def dot(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the inner products of two ``(before, groups, entries)``, ``(groups,)``."""
    return (x * y).sum((0, 2))


def tensor_of(net: nn.Module, name: str) -> torch.Tensor:
    """Return a parameter or buffer by its name; if it is parametrised, the tensor behind its parametrisation."""
    path, _, key = name.rpartition(".")
    module: Any = net.get_submodule(path)
    if is_parametrized(module, key):
        return module.parametrizations[key].original
    return getattr(module, key)


def zeros_last(net: nn.Module, zero: Mapping[str, Mapping[int, torch.Tensor]]) -> dict[str, Any]:
    """Reorder heads and neurons of an encoder, in place, so that those to be removed come last.

    Args:
        net: the network; its outputs stay the same.
        zero: ``{"heads": {layer: mask}, "ffn": {layer: mask}}``, true for those to be removed.

    Returns:
        The architecture that keeps all others: ``layers`` (all), ``heads.i`` and ``ffn.i``.

    >>> from nasframe.testing.toy import tiny_net
    >>> zeros_last(tiny_net(layers=1), {"heads": {0: torch.tensor([True, False, False, True])}})
    {'layers': [0], 'heads.0': 2, 'ffn.0': 64}
    """
    orders: dict[str, dict[int, torch.Tensor]] = {}
    for unit, masks in zero.items():
        orders[unit] = {}
        for layer, mask in masks.items():
            # Stable, so that those that stay keep their order.
            orders[unit][layer] = mask.int().argsort(stable=True)
    sizes = blueprint(net)["layers"]
    rewire(net, orders)
    arch: dict[str, Any] = {"layers": list(range(len(sizes)))}
    for i, counts in enumerate(sizes):
        for unit in UNITS:
            removed = zero.get(unit, {}).get(i)
            arch[f"{unit}.{i}"] = counts[unit]
            if removed is not None and len(removed):
                each = counts[unit] // len(removed)  # query heads of a group
                arch[f"{unit}.{i}"] -= each * int(removed.sum())
    return arch


def _divided(tensor: torch.Tensor, member: Member, count: int) -> torch.Tensor:
    """View a tensor as ``(before, groups, entries)``: before and after the dimension along which the groups lie."""
    before = tensor.shape[: member.dim].numel()
    length = tensor.shape[member.dim]
    if length != member.blocks * count * member.width:
        each = member.blocks * member.width
        raise UsageError(f"{member.name}: {length} entries cannot be {count} groups of {each}.")
    return tensor.view(before * member.blocks, count, -1)


def _entries(groups: Groups, net: nn.Module) -> int:
    """Return how many weights each of the groups has."""
    total = 0
    for member in groups.members:
        total += tensor_of(net, member.name).numel()
    return total // groups.count
