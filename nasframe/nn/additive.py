"""The sizes of sub-networks, and costs that are sums over layers, heads and neurons: arithmetic that needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nasframe.errors import UsageError, suggestion
from nasframe.records import Arch, CostTable


class SliceError(UsageError):
    """A sub-network that the network does not contain, or a network that cannot be sliced in its present form."""


RANK = "embedding_rank"
UNITS = ("heads", "ffn")


class Kept(NamedTuple):
    """One layer of a sub-network: its position in the network, and the numbers of its heads and neurons."""

    position: int
    heads: int
    ffn: int


def kept_of(full: Sequence[Mapping[str, int]], sizes: Mapping[str, Any]) -> list[Kept]:
    """Read the sizes of a sub-network and check them; see :func:`nasframe.nn.slices.kept_layers`.

    Args:
        full: ``{"heads", "ffn"}`` of each of the network's layers.
        sizes: the sub-network's.

    Raises:
        SliceError: an unknown key, a layer twice or out of order, or a size larger than the network's.
    """
    flat = _flat(sizes)
    flat.pop(RANK, None)
    _check_names(full, flat)
    every_position = range(len(full))
    positions = flat.get("layers", every_position)
    ascending = sorted(set(positions).intersection(every_position))
    if list(positions) != ascending:
        raise SliceError(f"layers: {positions} cannot be kept. Expected some of 0 … {len(full) - 1}, ascending.")
    kept = []
    for position in positions:
        counts = {}
        for unit in UNITS:
            most = full[position][unit]
            count = flat.get(f"{unit}.{position}", most)
            if not isinstance(count, int) or not 0 <= count <= most:
                raise SliceError(f"{unit}.{position}: {count!r} is not in the network. Expected 0 … {most}.")
            counts[unit] = count
        kept.append(Kept(position, counts["heads"], counts["ffn"]))
    return kept


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
    """Return the columns of the word embedding's factors that a sub-network keeps; ``None`` if it has no factors.

    Args:
        most: the network's own embedding rank.
        sizes: ``embedding_rank`` is read; default all.

    Raises:
        SliceError: the network does not have that many.

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
    """Return sizes with one key each: ``{"heads": {0: 4}}`` becomes ``{"heads.0": 4}``."""
    flat: dict[str, Any] = {}
    for key, value in sizes.items():
        if isinstance(value, Mapping):
            for position, count in value.items():
                flat[f"{key}.{position}"] = count
        else:
            flat[key] = value
    return flat


class LayerCost(NamedTuple):
    """The cost of a layer itself, of each of its heads, and of each of its neurons."""

    fixed: float
    head: float
    neuron: float


class Additive:
    """A cost that is a sum over the layers, heads, neurons and embedding columns that a sub-network keeps.

    Args:
        full: ``{"heads", "ffn"}`` of each of the network's layers.
        base: the cost of all parts that are always kept, and of the whole word embedding.
        layers: the costs of each layer.
        rank: the word embedding's rank (``None`` if it is not factorised), and the cost of one of its columns.
    """

    def __init__(
        self,
        full: Sequence[Mapping[str, int]],
        base: float,
        layers: Sequence[LayerCost],
        rank: tuple[int | None, float] = (None, 0.0),
    ) -> None:
        self.full = full
        self.base = base
        self.layers = layers
        self.rank, self.column = rank
        # The rest is for the quick way through :meth:`of`, which a search takes many thousand times.
        self._rows = []
        for position, (sizes, cost) in enumerate(zip(full, layers, strict=True)):
            self._rows.append((f"heads.{position}", f"ffn.{position}", sizes["heads"], sizes["ffn"], *cost))
        self._rows_of: dict[tuple[int, ...], list[tuple]] = {}  # kept positions, as far as they were checked → rows

    def of(self, arch: Arch | None = None) -> float:
        """Return the cost of a sub-network of any sizes, or of the whole network.

        Raises:
            SliceError: the network does not have these sizes.
        """
        quick = self._of_canonical(arch)
        if quick is not None:
            return quick
        sizes = arch or {}
        kept = kept_of(self.full, sizes)
        positions = tuple(layer.position for layer in kept)
        self._rows_of[positions] = [self._rows[position] for position in positions]
        total = self.base
        for layer in kept:
            cost = self.layers[layer.position]
            total += cost.fixed + layer.heads * cost.head + layer.ffn * cost.neuron
        dropped_columns = (self.rank or 0) - (kept_rank(self.rank, sizes) or 0)
        return total - dropped_columns * self.column

    def _of_canonical(self, arch: Arch | None) -> float | None:
        """Return the cost of a canonical architecture in a few microseconds; ``None`` for any other."""
        total = self.base
        try:
            rows = self._rows_of[tuple(arch["layers"])]  # type: ignore[index]
            inside = len(arch) == 1 + 2 * len(rows)  # type: ignore[arg-type]
            for head_key, ffn_key, most_heads, most_ffn, fixed, head, neuron in rows:
                heads, ffn = arch[head_key], arch[ffn_key]  # type: ignore[index]
                inside = inside and 0 <= heads <= most_heads and 0 <= ffn <= most_ffn
                total += fixed + heads * head + ffn * neuron
        except (KeyError, TypeError):
            return None
        if not inside:
            return None
        return total

    def table(self, knobs: Mapping[str, Sequence[Any]]) -> CostTable:
        """Return the cost of each choice.

        Args:
            knobs: ``layers`` (lists of kept positions), ``heads.i``, ``ffn.i``, ``embedding_rank``; sizes without a
                knob are the network's.
        """
        fixed = []  # the cost of each layer with all units that have no knob
        for i, (cost, full) in enumerate(zip(self.layers, self.full, strict=True)):
            layer = cost.fixed
            if f"heads.{i}" not in knobs:
                layer += full["heads"] * cost.head
            if f"ffn.{i}" not in knobs:
                layer += full["ffn"] * cost.neuron
            fixed.append(layer)
        base = self.base
        if "layers" not in knobs:
            base += sum(fixed)
        if RANK in knobs:
            base -= (self.rank or 0) * self.column
        choices = {knob: self._choices(knob, values, fixed) for knob, values in knobs.items()}
        return CostTable(base, choices)

    def _choices(self, knob: str, values: Sequence[Any], fixed: Sequence[float]) -> list[float]:
        """Return the cost of each value of one knob; ``fixed`` is the cost of keeping each layer."""
        if knob == "layers":
            costs = []
            for kept in values:
                costs.append(sum(fixed[position] for position in kept))
            return costs
        if knob == RANK:
            ranks = [kept_rank(self.rank, {RANK: value}) or 0 for value in values]
            return [rank * self.column for rank in ranks]
        unit, _, position = knob.partition(".")
        if unit not in UNITS:  # it changes no size
            return [0.0] * len(values)
        cost = self.layers[int(position)]
        each = cost.head if unit == "heads" else cost.neuron
        return [value * each for value in values]
