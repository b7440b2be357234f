"""Exact costs of sub-networks without building them: what each layer, head and neuron adds, read off the slice map."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nasframe.nn.blueprint import blueprint, build
from nasframe.nn.described import Described
from nasframe.nn.elastic import WORD_EMBEDDINGS, Family, base_of, family_of, layers_of, slices_of
from nasframe.nn.slices import RANK, kept_of, kept_rank, weights
from nasframe.types import Arch, CostTable


class LayerCost(NamedTuple):
    """What keeping a layer costs, what each of its heads adds, and what each of its neurons adds."""

    fixed: float
    head: float
    neuron: float


class Additive:
    """A cost that is a sum over what a sub-network keeps of one network.

    Args:
        full: ``{"heads", "ffn"}`` of each of the network's layers.
        base: the cost of what is always there, the whole word embedding included.
        layers: the costs of each layer.
        rank: the word embedding's rank, ``None`` where it is not factorised, and what one column of it costs.
    """

    def __init__(
        self,
        full: Sequence[Mapping[str, int]],
        base: float,
        layers: Sequence[LayerCost],
        rank: tuple[int | None, float] = (None, 0.0),
    ) -> None:
        self.full, self.base, self.layers, self.rank = full, base, layers, rank
        self._rows = [
            (f"heads.{i}", f"ffn.{i}", sizes["heads"], sizes["ffn"], *cost)
            for i, (sizes, cost) in enumerate(zip(full, layers, strict=True))
        ]
        self._kept: dict[tuple[int, ...], list[tuple]] = {}

    def of(self, arch: Arch | None = None) -> float:
        """Return the cost of a sub-network of any sizes, or of the whole network.

        Raises:
            SliceError: the network does not have these sizes.
        """
        total = self.base
        try:  # a canonical architecture, some microseconds; all else is read with care
            rows = self._kept[tuple(arch["layers"])]  # type: ignore[index]
            inside = len(arch) == 1 + 2 * len(rows)  # type: ignore[arg-type]
            for head_key, ffn_key, most_heads, most_ffn, fixed, head, neuron in rows:
                heads, ffn = arch[head_key], arch[ffn_key]  # type: ignore[index]
                inside = inside and 0 <= heads <= most_heads and 0 <= ffn <= most_ffn
                total += fixed + heads * head + ffn * neuron
            if inside:
                return total
        except (KeyError, TypeError):
            pass
        kept, (most, column) = kept_of(self.full, arch or {}), self.rank
        self._kept[tuple(k.position for k in kept)] = [self._rows[k.position] for k in kept]
        costs = ((self.layers[k.position], k) for k in kept)
        fewer = (most or 0) - (kept_rank(most, arch or {}) or 0)
        layers = sum(cost.fixed + k.heads * cost.head + k.ffn * cost.neuron for cost, k in costs)
        return self.base - fewer * column + layers

    def table(self, knobs: Mapping[str, Sequence[Any]]) -> CostTable:
        """Return the cost of each choice.

        Args:
            knobs: ``layers`` (lists of kept positions), ``heads.i``, ``ffn.i``, ``embedding_rank``; what is not there
                is kept whole.
        """
        fixed = []
        for i, (cost, full) in enumerate(zip(self.layers, self.full, strict=True)):
            heads = 0 if f"heads.{i}" in knobs else full["heads"] * cost.head
            neurons = 0 if f"ffn.{i}" in knobs else full["ffn"] * cost.neuron
            fixed.append(cost.fixed + heads + neurons)
        base = self.base + (0 if "layers" in knobs else sum(fixed))
        if RANK in knobs:
            base -= (self.rank[0] or 0) * self.rank[1]
        choices: dict[str, list[float]] = {}
        for knob, values in knobs.items():
            if knob == "layers":
                choices[knob] = [sum(fixed[i] for i in kept) for kept in values]
            elif knob.partition(".")[0] not in ("heads", "ffn", RANK):  # it changes no size
                choices[knob] = [0.0] * len(values)
            elif knob == RANK:
                choices[knob] = [(kept_rank(self.rank[0], {RANK: value}) or 0) * self.rank[1] for value in values]
            else:
                unit, _, position = knob.partition(".")
                cost = self.layers[int(position)]
                choices[knob] = [value * (cost.head if unit == "heads" else cost.neuron) for value in values]
        return CostTable(base, choices)


Part = Literal["all", "backbone", "encoder"]


def params(net: nn.Module, part: Part = "all") -> Additive:
    """Count parameters: every weight that would be saved, tied ones once.

    Args:
        net: the network; parametrised tensors count as they act.
        part: ``all``, ``backbone`` (without the task head; a pooler belongs to the backbone), or ``encoder``
            (the layers only).

    >>> from nasframe.testing.toy import tiny_net
    >>> net = tiny_net()
    >>> params(net).of() == sum(p.numel() for p in net.parameters())
    True
    """
    return _stored(net, part, lambda tensor: 1)


def size(net: nn.Module) -> Additive:
    """Count the bytes of all parameters in the types they have, tied ones once; a file's header is not counted."""
    return _stored(net, "all", torch.Tensor.element_size)


def macs(
    net: nn.Module, batch: int = 1, length: int = 128, count: Literal["matmul", "torchprofile"] = "matmul"
) -> Additive:
    """Count the multiply-adds of one forward.

    A layer of ``a`` attention columns (heads x head size) and ``f`` neurons, at width ``d`` and length ``S``, has
    ``4 S d a + 2 S² a + 2 S d f`` (projections, scores and their application, feed-forward); a map that is a product of
    rank ``r`` has ``S r (d + a)`` or ``S r (d + f)``. What is outside the layers is counted on the weightless network
    itself.

    Args:
        net: the network.
        batch: sequences.
        length: tokens in each, padding included.
        count: ``matmul`` counts matrix products, as torch's FlopCounterMode does (whose FLOPs are twice this; it
            overlooks the fused attention kernel of CPUs, which eager attention or the meta device avoid).
            ``torchprofile`` adds what the counter behind YOCO-BERT's figures (arXiv 2106.02435) adds: ``S d`` for
            each normalisation, and ``S``.

    >>> from nasframe.testing.toy import tiny_net
    >>> net = tiny_net()
    >>> macs(net, batch=2, length=5).of({"layers": []})  # pooler and classifier
    2176.0
    """
    if isinstance(net, Described):
        return Additive([], net.forward_macs(batch), [])
    config, sizes, norm = base_of(net).config, blueprint(net), batch * length * (count == "torchprofile")
    width, head_size = config.hidden_size, sizes["head_size"]
    costs = []
    for layer in layers_of(net):
        fixed, column, neuron = _products(layer, family_of(net))  # multiply-adds of one token
        head = head_size * (column * length + 2 * length**2)
        costs.append(LayerCost(2.0 * norm * width + batch * length * fixed, batch * head, batch * length * neuron))
    once, per_token = _outside(net)
    embedding = base_of(net).embeddings.LayerNorm.normalized_shape[0]
    base = batch * (once + per_token * length) + norm * (embedding + 1)
    words: Any = base_of(net).get_submodule(WORD_EMBEDDINGS)
    rank = sizes[RANK]
    return Additive(sizes["layers"], base, costs, (rank, batch * length * words.project.out_features if rank else 0.0))


def _products(layer: nn.Module, family: Family) -> tuple[int, int, int]:
    """Count one token's multiply-adds in a layer's linear maps: always, for each attention column, for each neuron."""
    found = {"fixed": 0, "heads": 0, "ffn": 0}
    for (path, name, dim, unit), (stock, *_) in zip(slices_of(family, layer), family.slices, strict=True):
        if name == "weight":
            factor: Any = layer.get_submodule(path)
            found[unit] += factor.weight.shape[1 - dim]
            if path != stock:  # the other factor
                product: Any = layer.get_submodule(stock)
                found["fixed"] += product.rank * (product.in_features, product.out_features)[dim]
    return found["fixed"], found["heads"], found["ffn"]


def forward_macs(net: nn.Module, arch: Arch | None, batch: int, length: int) -> float:
    """Return the multiply-adds of a forward through a sub-network, or the whole network where ``arch`` is ``None``.

    Args:
        net: the network.
        arch: the sub-network's sizes.
        batch: sequences.
        length: tokens in each, padding included.

    >>> from nasframe.testing.toy import tiny_net
    >>> forward_macs(tiny_net(layers=1), {"heads.0": 0}, 1, 2)
    9280.0
    """
    return batch * macs(net, 1, length).of(arch)


def _stored(net: nn.Module, part: Part, each: Callable[[torch.Tensor], int]) -> Additive:
    """Sum ``each(tensor)``, what one number costs, over the numbers stored."""
    if isinstance(net, Described):
        return Additive([], float(sum(p.numel() * each(p) for p in net.counted().parameters())), [])
    family, sizes = family_of(net), blueprint(net)
    rows = {"heads": sizes["head_size"], "ffn": 1}
    costs = []
    for layer in layers_of(net):
        narrow = {(path, name): (dim, unit) for path, name, dim, unit in slices_of(family, layer)}
        cost = {"fixed": 0.0, "heads": 0.0, "ffn": 0.0}
        for path, tensor_name, tensor in _tensors(layer):
            dim, unit = narrow.get((path, tensor_name), (None, "fixed"))
            others = math.prod(n for d, n in enumerate(tensor.shape) if d != dim)
            cost[unit] += others * rows.get(unit, 1) * each(tensor)
        costs.append(LayerCost(*cost.values()))
    inside = {id(module) for module in layers_of(net).modules()}
    rest = {"all": net, "backbone": base_of(net)}.get(part)
    once = {} if rest is None else {id(tensor): tensor for *_, tensor in _tensors(rest, inside)}
    words = _tensors(base_of(net).get_submodule(WORD_EMBEDDINGS)) if sizes[RANK] else ()
    column = sum(tensor.shape[0] * each(tensor) for *_, tensor in words if id(tensor) in once)
    base = float(sum(tensor.numel() * each(tensor) for tensor in once.values()))
    return Additive(sizes["layers"], base, costs, (sizes[RANK], column))


def _tensors(net: nn.Module, without: Collection[int] = ()) -> Iterator[tuple[str, str, torch.Tensor]]:
    for path, module, name in weights(net):
        if id(module) not in without:
            yield path, name, getattr(module, name)


_OUTSIDE: WeakKeyDictionary[nn.Module, dict[Any, tuple[float, float]]] = WeakKeyDictionary()


def _outside(net: nn.Module) -> tuple[float, float]:
    """Return the MACs outside the layers of one sequence, once and per token, counted on a network without layers."""
    config, sizes = base_of(net).config, blueprint(net) | {"layers": [], "factorized": {}}
    known, key = _OUTSIDE.setdefault(net, {}), (sizes["embedding_rank"], config.num_labels)
    if key not in known:
        empty = build(config, sizes)
        counted = []
        for length in (2, 3):
            with FlopCounterMode(display=False) as counter:
                empty(input_ids=torch.zeros(1, length, dtype=torch.long, device="meta"))
            counted.append(counter.get_total_flops() / 2)
        per_token = counted[1] - counted[0]
        known[key] = (counted[0] - 2 * per_token, per_token)
    return known[key]
