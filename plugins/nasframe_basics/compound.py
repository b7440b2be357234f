"""Sub-networks of one cost: a few choices of shape, and the widths that then fill the budget."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Gt, Le, Lt

from nasframe.errors import UsageError
from nasframe.nn.additive import LayerCost
from nasframe.outline import Outline
from nasframe.records import Arch, Count, Forward, Natural, Percent, Share
from nasframe.search.domain import Choices
from nasframe_basics.width_depth import WidthDepth

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig

SIZE = "size"
CHOICES = (SIZE, "layers", "attention", "tilt")
FILLS = 0.98
"""The least share of its budget that a network of the domain uses."""
BLOCK = 8
"""Neurons are added in blocks, because matrices of such widths are faster."""
FEW = 512
"""A layer of fewer neurons has no blocks: they would be too coarse to fill a budget."""

Tilt = Annotated[float, Gt(-1), Lt(1)]


@dataclass(frozen=True)
class _Network:
    """What decoding has to know of the network.

    Args:
        layers: its layers.
        heads: heads of each; if query heads share keys and values, groups of them.
        ffn: neurons of each.
        cost: parameters of a layer: fixed, of a head or group, of a neuron.
        group: query heads of a group, 1 if each has its own keys and values.
    """

    layers: int
    heads: int
    ffn: int
    cost: LayerCost
    group: int = 1

    @property
    def total(self) -> float:
        """The parameters of all layers."""
        layer = self.cost.fixed + self.heads * self.cost.head + self.ffn * self.cost.neuron
        return self.layers * layer


class Compound:
    """Choose a size and how it is divided: over the layers, between attention and FFN, between early and late layers.

    The size is a share of the encoder's parameters. The other choices do not change it: each architecture is decoded
    into the widest heads and neurons that keep within the size, and uses 98 to 100 % of it. So architectures of one
    size can be compared as they are, and a network exists for every budget, also for one that nobody named.

    Args:
        smallest: the smallest size.
        largest: the largest size.
        step: the ratio between one size and the next.
        layers: numbers of layers, or lists of the layers to keep; default all. ``depth`` says which layers a number
            keeps.
        attention: shares of a layer's parameters that its heads get. Neurons get the rest, including what rounding
            leaves over.
        tilts: slopes of the widths over the layers: 0 is flat; with 0.5 the widths rise from half of the mean in the
            first layer to 1.5 times the mean in the last one, and with −0.5 they fall.
        depth: which n of L layers a number n keeps, as in ``width_depth``.
        config: the network's configuration, or its outline.

    Raises:
        UsageError: a size beyond the network's, no network, or sizes that no choice can fill.

    >>> from transformers import BertConfig
    >>> config = BertConfig(hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=256)
    >>> space = Compound(layers=[3, 4], config=config)
    >>> space.sizes({"size": 25.0, "layers": [0, 1, 2], "attention": 0.33, "tilt": 0.0})["ffn.0"]
    94
    """

    sizes_suffice = True
    keeps_net = True
    additive = False
    """A choice has no cost of its own: costs are those of the widths that it is decoded into."""

    def __init__(
        self,
        smallest: Percent = "5%",
        largest: Percent = "100%",
        step: Annotated[float, Gt(1), Le(2)] = 1.005,
        layers: Sequence[Count | Percent | list[Natural]] | None = None,
        attention: Sequence[Share] = (0.2, 0.33, 0.5),
        tilts: Sequence[Tilt] = (-0.5, 0.0, 0.5),
        depth: Literal["first", "spread"] = "spread",
        config: PreTrainedConfig | Outline | None = None,
    ) -> None:
        if config is None:
            raise UsageError("space 'compound' needs a network. Expected a recipe with a model, or config=.")
        self.widths = WidthDepth(layers=layers, depth=depth, config=config)
        self.network = _network(config)
        self._sizes_of: dict[tuple[Any, ...], dict[str, Any]] = {}  # decoded ones, by choice
        self.domain_of_choices = Choices(
            {
                SIZE: _ladder(smallest, largest, step),
                "layers": list(self.widths.domain.knobs["layers"]),
                "attention": sorted(set(attention)),
                "tilt": sorted(set(tilts)),
            }
        )
        self.domain = self.domain_of_choices.restrict(keep=_Distinct(self))
        if next(self.domain.enumerate(), None) is None:
            raise UsageError(f"sizes from {smallest} to {largest}: no choice of layers fills one of them.")

    def supernet(self, net: nn.Module) -> nn.Module:
        """Return the network as it is: sub-networks are slices of it."""
        return net

    def view(self, net: nn.Module, arch: Arch, autograd: bool = False) -> Forward:
        """Return a sub-network that shares the network's weights, see ``nasframe.nn.slices.view``."""
        return self.widths.view(net, self.sizes(arch), autograd)

    def extract(self, net: nn.Module, arch: Arch) -> nn.Module:
        """Return a sub-network as a stand-alone model, see ``nasframe.nn.slices.extract``."""
        return self.widths.extract(net, self.sizes(arch))

    def arch(self, sizes: Arch) -> dict[str, Any]:
        """Turn the sizes in a recipe into an architecture.

        Args:
            sizes: a size and choices, as in ``{size: 25, layers: 5}``: the default of ``layers`` is all, of
                ``attention`` the share nearest to the network's own, of ``tilt`` the flattest. Or widths, as
                ``width_depth`` reads them: ``{heads: 3, ffn: 380}``.

        Raises:
            UsageError: a key, size or choice that does not exist.
        """
        if SIZE not in sizes:
            return self.widths.arch(sizes)
        unknown = sizes.keys() - set(CHOICES)
        if unknown:
            raise UsageError(f"{min(unknown)}: not a choice. Expected {', '.join(CHOICES)}; or widths without a size.")
        knobs = self.domain.knobs
        heads_of_all = self.network.layers * self.network.heads * self.network.cost.head
        own_attention = heads_of_all / self.network.total
        defaults = {
            "layers": knobs["layers"][-1],
            "attention": min(knobs["attention"], key=lambda share: abs(share - own_attention)),
            "tilt": min(knobs["tilt"], key=abs),
        }
        choice = {**defaults, **sizes}
        size = _percentage(choice[SIZE])
        if not 0 < size <= 100:
            raise UsageError(f"size: {choice[SIZE]!r} is no share of the encoder. Expected above 0 and at most 100.")
        on_ladder = self.domain.canonical({**choice, SIZE: knobs[SIZE][-1]})  # checks the other choices
        return {**on_ladder, SIZE: size}

    def sizes(self, arch: Arch) -> dict[str, Any]:
        """Return the kept layers, heads and neurons of an architecture, or of widths that are given as they are."""
        if SIZE not in arch:
            return self.widths.sizes(arch)
        layers = arch["layers"]
        if isinstance(layers, int):
            layers = self.widths.sizes({"layers": layers})["layers"]
        key = (arch[SIZE], tuple(layers), arch["attention"], arch["tilt"])
        if key not in self._sizes_of:
            self._sizes_of[key] = decode(self.network, *key)
        return dict(self._sizes_of[key])

    def fill(self, arch: Arch) -> float:
        """Return the share of its size that an architecture uses."""
        cost = self.network.cost
        sizes = self.sizes(arch)
        parameters = 0.0
        for layer in sizes["layers"]:
            units = sizes[f"heads.{layer}"] // self.network.group
            parameters += cost.fixed + units * cost.head + sizes[f"ffn.{layer}"] * cost.neuron
        return parameters / (arch[SIZE] / 100 * self.network.total)


def decode(network: _Network, size: float, layers: Sequence[int], attention: float, tilt: float) -> dict[str, Any]:
    """Return the widths of a choice: heads by their share, then as many neurons as the budget has left.

    Args:
        network: the full network.
        size: the share of its encoder, in percent.
        layers: the layers to keep.
        attention: the heads' share of what the kept layers have beyond their fixed parameters.
        tilt: the slope of the widths over the layers.

    Returns:
        ``layers``, ``heads.i`` and ``ffn.i``. A layer has at least one head or group. If the choice cannot use the
        whole budget, all widths are full; if even the smallest widths are beyond it, it is exceeded.
    """
    cost = network.cost
    depth = len(layers)
    budget = size / 100 * network.total - depth * cost.fixed
    slopes = _slopes(depth, tilt)
    mean_heads = attention * budget / depth / cost.head
    heads = [min(max(round(mean_heads * slope), 1), network.heads) for slope in slopes]
    left = budget - sum(heads) * cost.head  # parameters that are not spent yet
    mean_neurons = left / depth / cost.neuron
    block = BLOCK if network.ffn >= FEW else 1
    neurons = []
    for slope in slopes:
        blocks = math.floor(mean_neurons * slope / block)
        neurons.append(min(max(blocks, 0) * block, network.ffn))
    left -= sum(neurons) * cost.neuron
    left = _fill(neurons, left, cost.neuron, block, network.ffn, slopes)
    _fill(heads, left, cost.head, 1, network.heads, slopes)  # only if all neurons are there
    sizes: dict[str, Any] = {"layers": list(layers)}
    for layer, head_count, neuron_count in zip(layers, heads, neurons, strict=True):
        sizes[f"heads.{layer}"] = head_count * network.group
        sizes[f"ffn.{layer}"] = neuron_count
    return sizes


def _fill(counts: list[int], left: float, cost: float, block: int, most: int, slopes: Sequence[float]) -> float:
    """Spend what is left of a budget: block by block, on the layer that is furthest below its share.

    Args:
        counts: heads or neurons of each layer; they are raised in place.
        left: the parameters to spend.
        cost: parameters of one head or neuron.
        block: how many are added at once.
        most: how many a layer can have.
        slopes: each layer's share, as a multiple of the mean.

    Returns:
        The parameters that are still left.
    """
    while True:
        additions = [min(block, most - count) for count in counts]  # the last one may be less than a block
        open_layers = [i for i, added in enumerate(additions) if added > 0 and added * cost <= left]
        if not open_layers:
            return left
        neediest = min(open_layers, key=lambda i: (counts[i] / slopes[i], -slopes[i], i))
        counts[neediest] += additions[neediest]
        left -= additions[neediest] * cost


def _slopes(depth: int, tilt: float) -> list[float]:
    """Return each kept layer's width as a multiple of the mean, rising evenly from 1 − tilt to 1 + tilt."""
    if depth == 1:
        return [1.0]
    return [1 + tilt * (2 * i / (depth - 1) - 1) for i in range(depth)]


class _Distinct:
    """Accepts an architecture that fills its size, and of several choices that are the same network, one."""

    def __init__(self, space: Compound) -> None:
        self.space = space
        self.accepted: dict[float, set[tuple[Any, ...]]] = {}  # size → the accepted choices

    def __call__(self, arch: Arch) -> bool:
        size = arch[SIZE]
        if size not in self.accepted:
            self.accepted[size] = self._choices(size)
        return _key(arch) in self.accepted[size]

    def _choices(self, size: float) -> set[tuple[Any, ...]]:
        """Return one choice for each network of a size."""
        knobs = self.space.domain_of_choices.knobs
        values_of = [knobs[name] for name in CHOICES[1:]]
        choice_of: dict[tuple[Any, ...], tuple[Any, ...]] = {}  # widths → the choice that stands for them
        for values in itertools.product(*values_of):
            arch = dict(zip(CHOICES, (size, *values), strict=True))
            if FILLS <= self.space.fill(arch) <= 1:
                choice_of.setdefault(self._widths(arch), _key(arch))
        # The first choice stands for its network, except that the last of all stands for its own: the domain's two ends
        # are the first and the last choice, and both should belong to it.
        last = {SIZE: size}
        for name in CHOICES[1:]:
            last[name] = knobs[name][-1]
        widths_of_last = self._widths(last)
        if widths_of_last in choice_of:
            choice_of[widths_of_last] = _key(last)
        return set(choice_of.values())

    def _widths(self, arch: Arch) -> tuple[Any, ...]:
        widths = self.space.sizes(arch)
        return (tuple(widths.pop("layers")), *widths.values())


def _key(arch: Arch) -> tuple[Any, ...]:
    return tuple(arch["layers"]), arch["attention"], arch["tilt"]


def _ladder(smallest: str, largest: str, step: float) -> list[float]:
    """Return the sizes from the largest down to the smallest in equal ratios, in percent, ascending.

    Raises:
        UsageError: they are not shares of a network, or not in this order.
    """
    low, high = _percentage(smallest), _percentage(largest)
    if not 0 < low <= high <= 100:
        raise UsageError(f"smallest: {smallest}, largest: {largest}. Expected 0% < smallest ≤ largest ≤ 100%.")
    count = math.floor(math.log(high / low) / math.log(step) + 1e-9)
    ladder = [float(f"{high / step**i:.4g}") for i in range(count + 1)]
    return sorted(set(ladder))


def _percentage(size: Any) -> float:
    """Read a size: 25, 25.5 or "25%"."""
    try:
        return float(str(size).removesuffix("%"))
    except ValueError:
        raise UsageError(f"size: {size!r} is not a share. Expected a percentage such as '25%'.") from None


def _network(config: PreTrainedConfig | Outline) -> _Network:
    """Read a network's sizes and the parameters of a layer, its heads and its neurons."""
    if isinstance(config, Outline):
        lengths = config.lengths
        cost = config.params("encoder").layers[0]
        return _Network(lengths["layers"], lengths["heads"], lengths["ffn"], cost)
    from nasframe.nn.blueprint import without_weights
    from nasframe.nn.count import params
    from nasframe.nn.rows import row_for

    sizes = row_for(config).sizes(config)
    cost = params(without_weights(config), "encoder").layers[-1]
    return _Network(sizes.layers, sizes.heads // sizes.group, sizes.ffn, cost, sizes.group)
