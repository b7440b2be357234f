"""The sizes of sub-networks, and costs that are sums over them.

It is arithmetic alone, so that ``nasframe check`` and the search can count without importing torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nasframe.errors import UsageError, suggestion
from nasframe.records import Arch, CostTable


class SliceError(UsageError):
    """A sub-network that the network does not contain, or a network that cannot be sliced as it stands."""


RANK = "embedding_rank"
"""The knob for the columns that a factorised word embedding keeps."""


class Kept(NamedTuple):
    """One layer of a sub-network: which layer of the network it is, and how many of its heads and neurons it has."""

    position: int
    heads: int
    ffn: int


def kept_of(full: Sequence[Mapping[str, int]], sizes: Mapping[str, Any], group: int = 1) -> list[Kept]:
    """Return the layers that a sub-network keeps; see :func:`nasframe.nn.slices.kept_layers`.

    Args:
        full: ``{"heads", "ffn"}`` of each of the network's layers.
        sizes: the sub-network's sizes.
        group: the query heads that share one head of keys and values, which stay or go together.

    Raises:
        SliceError: an unknown key, a layer twice or out of order, a size beyond the network's, or part of a group.

    >>> kept_of([{"heads": 6, "ffn": 8}], {"heads.0": 4}, group=2)
    [Kept(position=0, heads=4, ffn=8)]
    """
    flat = _flat(sizes)
    flat.pop(RANK, None)
    _check_names(full, flat)
    positions = flat.get("layers", range(len(full)))
    # One comparison finds positions that are twice there, out of order, or not in the network.
    ascending = sorted(set(positions) & set(range(len(full))))
    if list(positions) != ascending:
        raise SliceError(f"layers: {positions} cannot be kept. Expected some of 0 … {len(full) - 1}, ascending.")
    kept = []
    for position in positions:
        counts = {}
        for unit in ("heads", "ffn"):
            most = full[position][unit]
            count = flat.get(f"{unit}.{position}", most)
            if not isinstance(count, int) or not 0 <= count <= most:
                raise SliceError(f"{unit}.{position}: {count!r} is not in the network. Expected 0 … {most}.")
            if unit == "heads" and count % group:
                raise SliceError(f"heads.{position}: {group_problem(count, most, group)}")
            counts[unit] = count
        kept.append(Kept(position, counts["heads"], counts["ffn"]))
    return kept


def group_problem(count: int, most: int, group: int) -> str:
    """Return the reason why a number of query heads is not one of whole groups.

    >>> group_problem(3, 8, 2)
    '3 heads are not whole groups of 2, which share keys and values. Expected one of 0, 2, 4, 6, 8.'
    """
    allowed = ", ".join(map(str, range(0, most + 1, group)))
    return f"{count} heads are not whole groups of {group}, which share keys and values. Expected one of {allowed}."


def _check_names(full: Sequence[Mapping[str, int]], sizes: Mapping[str, Any]) -> None:
    """Refuse keys that are not sizes of a network with these layers."""
    names = {"layers"}
    for position in range(len(full)):
        names |= {f"heads.{position}", f"ffn.{position}"}
    for key in sizes:
        if key not in names:
            hint = suggestion(key, names)
            raise SliceError(f"{key}: not a size of a network with {len(full)} layers.{hint}")


def kept_rank(most: int | None, sizes: Mapping[str, Any]) -> int | None:
    """Return how many columns of the word embedding's factors a sub-network keeps, ``None`` if there are no factors.

    Args:
        most: the network's own embedding rank.
        sizes: the sub-network's sizes; without ``embedding_rank`` it keeps all columns.

    Raises:
        SliceError: the network does not have as many.

    >>> kept_rank(16, {"embedding_rank": 4}), kept_rank(16, {}), kept_rank(None, {})
    (4, 16, None)
    """
    rank = sizes.get(RANK, most)
    if rank == most:
        return most
    if most is None:
        raise SliceError(
            f"{RANK}: {rank} of an embedding that is one matrix. Expected a factorised one (transform svd)."
        )
    if not isinstance(rank, int) or not 1 <= rank <= most:
        raise SliceError(f"{RANK}: {rank!r} is not in the network. Expected 1 … {most}.")
    return rank


def _flat(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Return sizes without nested mappings: ``{"heads": {0: 4}}`` becomes ``{"heads.0": 4}``."""
    flat = {}
    for key, value in sizes.items():
        if isinstance(value, Mapping):
            for position, count in value.items():
                flat[f"{key}.{position}"] = count
        else:
            flat[key] = value
    return flat


class LayerCost(NamedTuple):
    """The cost of a kept layer without heads and neurons, and the cost of each head and of each neuron in it.

    If query heads share keys and values in groups, ``head`` is the cost of a group.
    """

    fixed: float
    head: float
    neuron: float


class Additive:
    """A cost that is a sum over what a sub-network keeps of one network.

    Args:
        full: ``{"heads", "ffn"}`` of each of the network's layers.
        base: the cost of all that every sub-network has, the whole word embedding included.
        layers: the costs of each layer.
        rank: the word embedding's rank (``None`` if it is not factorised), and the cost of one of its columns.
        group: the query heads that share one head of keys and values; a layer's ``head`` is then the cost of a group.
    """

    def __init__(
        self,
        full: Sequence[Mapping[str, int]],
        base: float,
        layers: Sequence[LayerCost],
        rank: tuple[int | None, float] = (None, 0.0),
        group: int = 1,
    ) -> None:
        self.full = full
        self.group = group
        self.base = base
        self.layers = layers
        self.rank, self.column = rank
        # The knobs, limits and costs of each layer in one tuple: a search counts millions of architectures, and
        # building the knobs' names each time would take longer than all the arithmetic.
        self._rows = []
        for position, (sizes, cost) in enumerate(zip(full, layers, strict=True)):
            row = (f"heads.{position}", f"ffn.{position}", sizes["heads"], sizes["ffn"], *cost)
            self._rows.append(row)
        self._rows_of: dict[tuple[int, ...], list[tuple]] = {}  # by kept positions

    def of(self, arch: Arch | None = None) -> float:
        """Return the cost of a sub-network of any sizes, or of the whole network.

        Raises:
            SliceError: the network does not have these sizes.
        """
        cost_of_canonical = self._of_canonical(arch)
        if cost_of_canonical is not None:
            return cost_of_canonical
        sizes = arch or {}
        kept = kept_of(self.full, sizes, self.group)
        # These layers have passed the checks, so that from now on architectures of them take the quick way.
        positions = tuple(layer.position for layer in kept)
        self._rows_of[positions] = [self._rows[position] for position in positions]
        total = self.base
        for layer in kept:
            cost = self.layers[layer.position]
            total += cost.fixed + layer.heads // self.group * cost.head + layer.ffn * cost.neuron
        # The base includes the whole embedding, so that networks without factors need no case of their own.
        dropped_columns = (self.rank or 0) - (kept_rank(self.rank, sizes) or 0)
        return total - dropped_columns * self.column

    def _of_canonical(self, arch: Arch | None) -> float | None:
        """Return the cost of an architecture that has exactly its kept layers' knobs, ``None`` for any other.

        This takes a few microseconds, because nothing is checked but the limits. A key or type that does not fit
        raises an error here, and the caller then reads the architecture with care.
        """
        total = self.base
        group = self.group
        try:
            rows = self._rows_of[tuple(arch["layers"])]  # type: ignore[index]
            is_inside = len(arch) == 1 + 2 * len(rows)  # type: ignore[arg-type]
            for head_knob, ffn_knob, most_heads, most_ffn, fixed, head, neuron in rows:
                heads = arch[head_knob]  # type: ignore[index]
                ffn = arch[ffn_knob]  # type: ignore[index]
                is_inside = is_inside and 0 <= heads <= most_heads and 0 <= ffn <= most_ffn
                if group != 1:  # a division for each layer would cost the others time
                    heads, rest = divmod(heads, group)
                    is_inside = is_inside and not rest
                total += fixed + heads * head + ffn * neuron
        except (KeyError, TypeError):
            return None
        return total if is_inside else None

    def table(self, knobs: Mapping[str, Sequence[Any]]) -> CostTable:
        """Return the cost of each choice.

        Args:
            knobs: ``layers`` (lists of kept positions), ``heads.i``, ``ffn.i``, ``embedding_rank``; parts without a
                knob are kept whole.
        """
        # Units that no knob chooses are kept with their layer, so they belong to the layer's own cost.
        fixed = []
        for i, (cost, full) in enumerate(zip(self.layers, self.full, strict=True)):
            layer = cost.fixed
            if f"heads.{i}" not in knobs:
                layer += full["heads"] // self.group * cost.head
            if f"ffn.{i}" not in knobs:
                layer += full["ffn"] * cost.neuron
            fixed.append(layer)
        base = self.base
        if "layers" not in knobs:
            base += sum(fixed)
        if RANK in knobs:
            base -= (self.rank or 0) * self.column
        choices = {}
        for knob, values in knobs.items():
            choices[knob] = self._choices(knob, values, fixed)
        return CostTable(base, choices)

    def _choices(self, knob: str, values: Sequence[Any], fixed: Sequence[float]) -> list[float]:
        """Return the cost of each value of one knob; ``fixed`` has the cost of keeping each layer."""
        costs = []
        if knob == "layers":
            for kept in values:
                costs.append(sum(fixed[position] for position in kept))
            return costs
        if knob == RANK:
            for value in values:
                rank = kept_rank(self.rank, {RANK: value}) or 0
                costs.append(rank * self.column)
            return costs
        unit, _, position = knob.partition(".")
        if unit not in ("heads", "ffn"):  # such as a format, which changes no size
            return [0.0] * len(values)
        layer = self.layers[int(position)]
        if unit == "heads":
            return [value // self.group * layer.head for value in values]
        return [value * layer.neuron for value in values]
