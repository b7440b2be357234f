"""Networks with fewer layers, heads and FFN neurons: each layer chooses its own widths."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from nasframe.errors import UsageError
from nasframe.nn.additive import group_problem
from nasframe.notices import Notify, say
from nasframe.outline import Outline
from nasframe.records import Arch, Count, Forward, Natural, Percent
from nasframe.search.domain import Choices

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig

RANK = "embedding_rank"
Depth: TypeAlias = Literal["first", "spread"]
UNITS = ("heads", "ffn")
"""The knobs that each kept layer has."""


class WidthDepth:
    """Choose the depth, and in each kept layer the heads and the FFN neurons, of an encoder or decoder.

    A layer keeps its first heads and neurons; ``transform: rewire`` puts the important ones first. Numbers are counts;
    strings with a percent sign are shares of the network's, as in ``["25%", "50%", "100%"]``. If query heads share keys
    and values in groups, as in Llama, heads are kept in whole groups: counts are of query heads and have to be
    multiples of the group's size, and shares are rounded to one.

    Args:
        layers: numbers of layers, or lists of the layers to keep; default all.
        heads: numbers of attention heads; default all.
        ffn: numbers of FFN neurons; default all.
        embedding_rank: ranks of a word embedding that ``transform: svd`` factorised; default: its full rank.
        depth: which n of L layers a number n keeps: the ``first`` n, or n layers ``spread`` evenly, floor(i L / n) for
            i = 0 … n-1, as in DynaBERT (arXiv 2004.04037).
        config: the network's configuration, or its outline; it provides the defaults and bounds the sizes.

    Raises:
        UsageError: a size beyond the network's, heads that are no whole groups, a share without a network, or something
            other than a size.

    >>> space = WidthDepth(layers=[1, 2], heads=[2, 4], ffn=[16, 64])
    >>> space.domain.smallest()
    {'layers': [0], 'heads.0': 2, 'ffn.0': 16}
    """

    sizes_suffice = True
    keeps_net = True

    def __init__(
        self,
        layers: Sequence[Count | Percent | list[Natural]] | None = None,
        heads: Sequence[Natural | Percent] | None = None,
        ffn: Sequence[Natural | Percent] | None = None,
        embedding_rank: Sequence[Count] | None = None,
        depth: Depth = "first",
        config: PreTrainedConfig | Outline | None = None,
    ) -> None:
        self.limits = _limits(config)
        group = self.limits.group
        widths = {
            "heads": _counts("heads", heads, self.limits.heads, group),
            "ffn": _counts("ffn", ffn, self.limits.ffn),
        }
        depths = _depths(layers, self.limits.layers, depth)
        if self.limits.keeps_first:
            _check_first_layer(depths)
        knobs: dict[str, list[Any]] = {"layers": depths}
        if embedding_rank is not None:
            knobs[RANK] = _ranks(embedding_rank)
        # The widths of a layer matter only at the depths that keep it.
        active = {}
        for layer in sorted(set().union(*depths)):
            depths_with_layer = [kept for kept in depths if layer in kept]
            for unit in UNITS:
                knobs[f"{unit}.{layer}"] = widths[unit]
                active[f"{unit}.{layer}"] = ("layers", depths_with_layer)
        self.domain = Choices(knobs, active)

    def supernet(self, net: nn.Module) -> nn.Module:
        """Return the network as it is: sub-networks are slices of it."""
        return net

    def view(self, net: nn.Module, arch: Arch, autograd: bool = False) -> Forward:
        """Return a sub-network that shares the network's weights, see ``nasframe.nn.slices.view``.

        Args:
            net: the network.
            arch: any sizes up to the network's, in the domain or not.
            autograd: see there.
        """
        from nasframe.nn import slices

        return slices.view(net, self.sizes(arch), autograd)

    def extract(self, net: nn.Module, arch: Arch) -> nn.Module:
        """Return a sub-network as a stand-alone model, see ``nasframe.nn.slices.extract``."""
        from nasframe.nn import slices

        return slices.extract(net, self.sizes(arch))

    def arch(self, sizes: Arch) -> dict[str, Any]:
        """Turn the sizes in a recipe into an architecture; they may be outside the domain, but not of the network.

        Args:
            sizes: by knob or by family, as in ``{layers: 3, heads: 6, ffn.0: 512}``, and ``embedding_rank`` if the
                word embedding is factorised; the default of each is its largest value.

        Raises:
            UsageError: a key that is neither knob nor family, a number of layers that the domain does not have, or a
                width that the network does not have.

        >>> WidthDepth(layers=[1, 2], heads=[2, 4], ffn=[16, 64]).arch({"layers": 1, "ffn": 20})
        {'layers': [0], 'heads.0': 4, 'ffn.0': 20}
        """
        self._check_sizes(sizes)
        flat: dict[str, Any] = {}
        for knob, values in self.domain.knobs.items():
            unit = knob.partition(".")[0]
            if knob in sizes:
                flat[knob] = sizes[knob]
            elif unit in sizes:  # one size for all layers
                flat[knob] = sizes[unit]
            else:
                flat[knob] = values[-1]
        if RANK in sizes:
            flat[RANK] = sizes[RANK]
        flat = self.sizes(flat)
        arch = {}
        # Widths of layers that are not kept change nothing, and equal networks have to be equal architectures.
        for knob, value in flat.items():
            unit, _, layer = knob.partition(".")
            if unit not in UNITS or int(layer) in flat["layers"]:
                arch[knob] = value
        return arch

    def _check_sizes(self, sizes: Arch) -> None:
        """Refuse keys that are neither knob nor family, and widths that the network does not have."""
        knobs = self.domain.knobs
        for key, value in sizes.items():
            if key not in knobs and key not in (*UNITS, RANK):
                raise UsageError(f"{key}: not a size. Expected 'layers', 'heads', 'ffn' or one of {', '.join(knobs)}.")
            unit = key.partition(".")[0]
            if unit == "heads":
                _check_width(key, value, self.limits.heads, self.limits.group)
            elif unit == "ffn":
                _check_width(key, value, self.limits.ffn)
            # Layers and the rank have tests of their own, later.

    def sizes(self, arch: Arch) -> dict[str, Any]:
        """Return an architecture with its kept layers listed: ``layers: 4`` becomes the domain's choice of four.

        Raises:
            UsageError: the domain does not have exactly one choice of this number of layers.
        """
        sizes = dict(arch)
        count = arch.get("layers")
        if isinstance(count, int):
            depths = self.domain.knobs["layers"]
            choices = [list(kept) for kept in depths if len(kept) == count]
            if len(choices) != 1:  # lists of layers may offer several of one length
                raise UsageError(f"layers: {count} names {len(choices)} of {list(depths)}.")
            sizes["layers"] = choices[0]
        return sizes


def bert_width_depth(
    layers: Sequence[Count | Percent | list[Natural]] | None = None,
    heads: Sequence[Natural | Percent] | None = None,
    ffn: Sequence[Natural | Percent] | None = None,
    embedding_rank: Sequence[Count] | None = None,
    depth: Depth = "first",
    config: PreTrainedConfig | Outline | None = None,
    notify: Notify = say,
) -> WidthDepth:
    """Return the space ``width_depth`` under its former name.

    Args:
        layers: see :class:`WidthDepth`, as all options.
        heads: numbers of attention heads.
        ffn: numbers of FFN neurons.
        embedding_rank: ranks of a factorised word embedding.
        depth: which layers a number keeps.
        config: the network's configuration, or its outline.
        notify: receives a notice of the new name.
    """
    notify("space", "bert_width_depth is now called width_depth, because it is for other families, too.")
    return WidthDepth(layers, heads, ffn, embedding_rank, depth, config)


bert_width_depth.sizes_suffice = True  # type: ignore[attr-defined]


@dataclass(frozen=True)
class _Limits:
    """The network's own sizes; ``None`` for each if the network is not known.

    Args:
        layers: its layers.
        heads: query heads of each.
        ffn: neurons of each.
        group: query heads that share keys and values.
        keeps_first: whether the first layer cannot be dropped.
    """

    layers: int | None = None
    heads: int | None = None
    ffn: int | None = None
    group: int = 1
    keeps_first: bool = False


def _check_width(key: str, value: Any, full: int | None, group: int = 1) -> None:
    """Refuse a width of a layer that the network does not have.

    Args:
        key: the knob or family, for the error.
        value: the width.
        full: the network's own width, if it is known.
        group: what the width has to be a multiple of.
    """
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    is_size = is_whole and value >= 0 and (full is None or value <= full)
    if not is_size:
        expected = "0 or more" if full is None else f"a number from 0 to {full}"
        raise UsageError(f"{key}: {value!r} is not a size of the network. Expected {expected}.")
    _check_groups(key, [value], full, group)


def _check_groups(key: str, counts: Sequence[int], full: int | None, group: int) -> None:
    """Refuse numbers of heads that are not whole groups of the network's, if it is known."""
    if full is None:
        return
    for count in counts:
        if count % group:
            raise UsageError(f"{key}: {group_problem(count, full, group)}")


def _limits(config: PreTrainedConfig | Outline | None) -> _Limits:
    """Return the sizes of the network of a configuration."""
    if config is None:
        return _Limits()
    if isinstance(config, Outline):
        lengths = config.lengths
        return _Limits(lengths["layers"], lengths["heads"], lengths["ffn"])
    from nasframe.nn.rows import row_for

    family = row_for(config)
    sizes = family.sizes(config)  # a family has names of its own for these numbers
    return _Limits(sizes.layers, sizes.heads, sizes.ffn, sizes.group, family.keeps_first)


def _check_first_layer(depths: Sequence[Sequence[int]]) -> None:
    """Refuse depths without layer 0, of a network whose first layer differs from the others."""
    for kept in depths:
        if kept[0] != 0:
            raise UsageError(
                f"layers: {list(kept)} leaves out layer 0, which differs from the others in this family. Expected "
                "layer 0 in every list."
            )


def _depths(layers: Sequence[int | str | list[int]] | None, full: int | None, depth: Depth) -> list[list[int]]:
    """Return the values of the knob ``layers``, lists of kept layers, the shortest first.

    Args:
        layers: as in :class:`WidthDepth`.
        full: the layers of the network; ``None`` if it is not known: then as many as the entries need.
        depth: which layers a number keeps.

    Raises:
        UsageError: an entry is no depth of the network.
    """
    lists = []
    numbers_of_layers = []
    for entry in layers or ():
        if isinstance(entry, list):
            _check_layer_list(entry, full)
            lists.append(entry)
        else:
            numbers_of_layers.append(entry)
    counts = []
    if numbers_of_layers or not lists:
        counts = _counts("layers", numbers_of_layers or None, full)
    depths = {tuple(kept) for kept in lists}  # a set, since a number may stand for one of the lists
    total = full
    if total is None:
        lengths = [kept[-1] + 1 for kept in depths]
        total = max([*counts, *lengths])
    for count in counts:
        depths.add(_kept_layers(count, total, depth))
    in_order = sorted(sorted(depths), key=len)  # values go from small to large
    return [list(kept) for kept in in_order]


def _check_layer_list(kept: list[int], full: int | None) -> None:
    """Refuse a list that does not say which of the network's layers to keep."""
    is_ascending = kept == sorted(set(kept))
    are_positions = all(isinstance(layer, int) and layer >= 0 for layer in kept)
    if not kept or not is_ascending or not are_positions:
        raise UsageError(f"layers: {kept} cannot be kept. Expected positions, ascending, at least one.")
    if full is not None and kept[-1] >= full:
        raise UsageError(f"layers: {kept} is not in a network of {full} layers.")


def _kept_layers(count: int, total: int, depth: Depth) -> tuple[int, ...]:
    """Return which layers a number of layers keeps."""
    if depth == "first":
        return tuple(range(count))
    return tuple(i * total // count for i in range(count))


def _counts(name: str, values: Sequence[int | str] | None, full: int | None, group: int = 1) -> list[int]:
    """Read the option for one size: distinct numbers, ascending.

    Args:
        name: of the option.
        values: numbers and shares; the default is ``full`` alone.
        full: the network's own number, if it is known.
        group: what every number has to be a multiple of; shares are rounded to one.

    Raises:
        UsageError: a value is not a size of the network.
    """
    if values is None:
        if full is None:
            raise UsageError(f"{name}: no values given. Expected counts, or a network whose own count to take.")
        return [full]
    counts = sorted({_count(name, value, full, group) for value in values})
    fewest = 1 if name == "layers" else 0  # a layer without heads, or without neurons, passes its input on
    are_sizes = bool(counts) and counts[0] >= fewest and (full is None or counts[-1] <= full)
    if not are_sizes:
        most = "" if full is None else f" to {full}"
        raise UsageError(f"{name}: {list(values)} are not all sizes of the network. Expected {fewest}{most}.")
    _check_groups(name, counts, full, group)
    return counts


def _count(name: str, value: int | str, full: int | None, group: int) -> int:
    """Read one number or share."""
    if isinstance(value, int) and not isinstance(value, bool):  # true would be 1
        return value
    text = str(value)
    try:
        if not text.endswith("%"):
            raise ValueError
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        raise UsageError(f"{name}: {value!r} is not a size. Expected a count or a share such as '50%'.") from None
    if full is None:
        raise UsageError(f"{name}: {value!r} is a share, of a network that is not given. Expected a count.")
    return group * max(1, round(share * full / group))  # a small share of a few heads is one head, not none


def _ranks(values: Sequence[int]) -> list[int]:
    """Read the option ``embedding_rank``: distinct ranks, ascending."""
    if not values or min(values) < 1:
        raise UsageError(f"{RANK}: {list(values)} are not all ranks. Expected numbers of at least 1.")
    return sorted(set(values))
