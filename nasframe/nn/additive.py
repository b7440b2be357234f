"""The sizes of sub-networks and the costs that are sums over them: arithmetic alone, which needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nasframe.errors import UsageError, suggestion
from nasframe.records import Arch, CostTable


class SliceError(UsageError):
    """A sub-network that the network does not contain, or a network that cannot be sliced as it stands."""


RANK = "embedding_rank"


class Kept(NamedTuple):
    """One layer of a sub-network: which layer of the network it is, and how many of its heads and neurons it has."""

    position: int
    heads: int
    ffn: int


def kept_of(full: Sequence[Mapping[str, int]], sizes: Mapping[str, Any]) -> list[Kept]:
    """Read the sizes of a sub-network and check them; see :func:`nasframe.nn.slices.kept_layers`.

    Args:
        full: ``{"heads", "ffn"}`` of each of the network's layers.
        sizes: the sub-network's.

    Raises:
        SliceError: an unknown key, a layer twice or out of order, or a size beyond the network's.
    """
    flat = _flat(sizes)
    flat.pop(RANK, None)
    _check_names(full, flat)
    positions = flat.get("layers", range(len(full)))
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
    """Read how many columns of the word embedding's factors a sub-network keeps; ``None``: there are no factors.

    Args:
        most: the network's own embedding rank.
        sizes: ``embedding_rank`` is read; default all.

    Raises:
        SliceError: the network does not have so many.

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
    """Spell out sizes that are given as mappings: ``{"heads": {0: 4}}`` becomes ``{"heads.0": 4}``."""
    flat = {}
    for key, value in sizes.items():
        if isinstance(value, Mapping):
            for position, count in value.items():
                flat[f"{key}.{position}"] = count
        else:
            flat[key] = value
    return flat


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
        rank: the word embedding's rank (``None`` if it is not factorised), and what one of its columns costs.
    """

    def __init__(
        self,
        full: Sequence[Mapping[str, int]],
        base: float,
        layers: Sequence[LayerCost],
        rank: tuple[int | None, float] = (None, 0.0),
    ) -> None:
        self.full, self.base, self.layers = full, base, layers
        self.rank, self.column = rank
        self._rows = []
        for position, (sizes, cost) in enumerate(zip(full, layers, strict=True)):
            self._rows.append((f"heads.{position}", f"ffn.{position}", sizes["heads"], sizes["ffn"], *cost))
        self._rows_of: dict[tuple[int, ...], list[tuple]] = {}  # by kept positions

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
        """Cost a canonical architecture in some microseconds; ``None`` for any other, which is read with care."""
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
        return total if inside else None

    def table(self, knobs: Mapping[str, Sequence[Any]]) -> CostTable:
        """Return the cost of each choice.

        Args:
            knobs: ``layers`` (lists of kept positions), ``heads.i``, ``ffn.i``, ``embedding_rank``; what is not there
                is kept whole.
        """
        fixed = []  # what keeping each layer costs, with all units that no knob chooses
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
        """Cost each value of one knob; ``fixed`` is what keeping each layer costs."""
        if knob == "layers":
            return [sum(fixed[position] for position in kept) for kept in values]
        if knob == RANK:
            return [(kept_rank(self.rank, {RANK: value}) or 0) * self.column for value in values]
        unit, _, position = knob.partition(".")
        if unit not in ("heads", "ffn"):  # it changes no size
            return [0.0] * len(values)
        cost = self.layers[int(position)]
        each = cost.head if unit == "heads" else cost.neuron
        return [value * each for value in values]
