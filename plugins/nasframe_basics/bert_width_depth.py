"""Encoders with fewer layers, heads and FFN neurons: each layer chooses its own widths."""

from __future__ import annotations

import numbers as numeric
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from nasframe.errors import UsageError
from nasframe.outline import Outline
from nasframe.records import Arch, Count, Forward, Natural, Percent
from nasframe.search.domain import Choices

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig

RANK = "embedding_rank"


class BertWidthDepth:
    """Choose the depth, and in each kept layer the heads and the FFN neurons, of a BERT-like encoder.

    A layer keeps its first heads and neurons; ``transform: rewire`` puts the important ones first. Numbers are
    counts, strings with a percent sign shares of the network's, as in ``["25%", "50%", "100%"]``.

    Args:
        layers: numbers of layers, or lists of the layers to keep; default all.
        heads: numbers of attention heads; default all.
        ffn: numbers of FFN neurons; default all.
        embedding_rank: ranks of a word embedding that ``transform: svd`` factorised; default its own.
        depth: which layers ``n`` of ``L`` layers are: the ``first`` n, or ``spread`` evenly, layer floor(i L / n)
            for i = 0 … n-1, as DynaBERT drops them (arXiv 2004.04037).
        config: the network's configuration, or its outline, which fills the defaults in and bounds the sizes.

    Raises:
        UsageError: a size beyond the network's, a share without a network, or something else than a size.

    >>> space = BertWidthDepth(layers=[1, 2], heads=[2, 4], ffn=[16, 64])
    >>> space.domain.smallest()
    {'layers': [0], 'heads.0': 2, 'ffn.0': 16}
    """

    sizes_suffice = True

    def __init__(
        self,
        layers: Sequence[Count | Percent | list[Natural]] | None = None,
        heads: Sequence[Natural | Percent] | None = None,
        ffn: Sequence[Natural | Percent] | None = None,
        embedding_rank: Sequence[Count] | None = None,
        depth: Literal["first", "spread"] = "first",
        config: PreTrainedConfig | Outline | None = None,
    ) -> None:
        self.full = full = _limits(config)
        widths = {"heads": _counts("heads", heads, full["heads"]), "ffn": _counts("ffn", ffn, full["ffn"])}
        lists = [_layer_list(entry) for entry in layers or () if isinstance(entry, list)]
        numbers = [entry for entry in layers or () if not isinstance(entry, list)]
        counts = _counts("layers", numbers, full["layers"]) if numbers or not lists else []
        total = full["layers"] or max([*counts, *(kept[-1] + 1 for kept in lists)])
        kept = sorted({*map(tuple, lists), *(_keep(n, total, depth) for n in counts)}, key=lambda k: (len(k), k))
        if kept[-1][-1] >= total or max(k[-1] for k in kept) >= total:
            raise UsageError(f"layers: {list(kept[-1])} is not in a network of {total} layers.")
        knobs: dict[str, list[Any]] = {"layers": [list(k) for k in kept]}
        if embedding_rank is not None:
            knobs[RANK] = _ranks(embedding_rank)
        active = {}
        for i in sorted({i for k in kept for i in k}):
            on = [list(k) for k in kept if i in k]
            for unit in ("heads", "ffn"):
                knobs[f"{unit}.{i}"] = widths[unit]
                active[f"{unit}.{i}"] = ("layers", on)
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
        """Return the architecture that sizes written by knob or family mean; they need not be in the domain.

        Args:
            sizes: as in ``{layers: 3, heads: 6, ffn.0: 512}``, and ``embedding_rank`` where the word embedding is
                factorised; what is not given is the largest.

        Raises:
            UsageError: a key that is neither knob nor family, a number of layers that the domain does not have, or a
                width that the network does not have.

        >>> BertWidthDepth(layers=[1, 2], heads=[2, 4], ffn=[16, 64]).arch({"layers": 1, "ffn": 20})
        {'layers': [0], 'heads.0': 4, 'ffn.0': 20}
        """
        knobs = self.domain.knobs
        for key in sizes:
            if key not in knobs and key not in ("heads", "ffn", RANK):
                raise UsageError(f"{key}: not a size. Expected 'layers', 'heads', 'ffn' or one of {', '.join(knobs)}.")
            unit, value = key.partition(".")[0], sizes[key]
            most = self.full.get(unit)
            whole = isinstance(value, numeric.Integral) and not isinstance(value, bool) and int(value) >= 0
            if unit in ("heads", "ffn") and not (whole and (most is None or int(value) <= most)):
                limit = "0 or more" if most is None else f"a number from 0 to {most}"
                raise UsageError(f"{key}: {value!r} is not a size of the network. Expected {limit}.")
        flat = {knob: sizes.get(knob, sizes.get(knob.partition(".")[0], knobs[knob][-1])) for knob in knobs}
        flat = self.sizes(flat)
        flat |= {RANK: sizes[RANK]} if RANK in sizes else {}
        kept = {"layers", RANK} | {f"{unit}.{i}" for i in flat["layers"] for unit in ("heads", "ffn")}
        return {knob: value for knob, value in flat.items() if knob in kept}

    def sizes(self, arch: Arch) -> dict[str, Any]:
        """Return an architecture with its kept layers listed: ``layers: 4`` is the domain's choice of four.

        Raises:
            UsageError: a number of layers that the domain does not have.
        """
        found = dict(arch)
        if isinstance(n := arch.get("layers"), int):
            lists = [list(kept) for kept in self.domain.knobs["layers"] if len(kept) == n]
            if len(lists) != 1:
                raise UsageError(f"layers: {n} names {len(lists)} of {list(self.domain.knobs['layers'])}.")
            found["layers"] = lists[0]
        return found


def _limits(config: PreTrainedConfig | Outline | None) -> dict[str, int | None]:
    if config is None:
        return {"layers": None, "heads": None, "ffn": None}
    if isinstance(config, Outline):
        return {name: config.lengths[name] for name in ("layers", "heads", "ffn")}
    from nasframe.nn.elastic import FAMILIES

    if (family := FAMILIES.get(config.model_type)) is None:
        raise UsageError(
            f"{config.model_type}: not a family that can be sliced. Expected one of {', '.join(FAMILIES)}."
        )
    fields = {"layers": family.depth, "heads": family.heads, "ffn": family.ffn}
    return {name: getattr(config, field) for name, field in fields.items()}


def _counts(name: str, values: Sequence[int | str] | None, full: int | None) -> list[int]:
    if values is None or (name == "layers" and not values):
        if full is None:
            raise UsageError(f"{name}: no values given. Expected counts, or a network whose own count to take.")
        return [full]
    counts = sorted({_count(name, value, full) for value in values})
    if not counts or counts[0] < (name == "layers") or (full is not None and counts[-1] > full):
        most = "" if full is None else f" to {full}"
        raise UsageError(
            f"{name}: {list(values)} are not all sizes of the network. Expected {int(name == 'layers')}{most}."
        )
    return counts


def _ranks(values: Sequence[int]) -> list[int]:
    if not values or min(values) < 1:
        raise UsageError(f"{RANK}: {list(values)} are not all ranks. Expected numbers of at least 1.")
    return sorted(set(values))


def _count(name: str, value: int | str, full: int | None) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        share = float(str(value).removesuffix("%")) / 100
        if not str(value).endswith("%"):
            raise ValueError
    except ValueError:
        raise UsageError(f"{name}: {value!r} is not a size. Expected a count or a share such as '50%'.") from None
    if full is None:
        raise UsageError(f"{name}: {value!r} is a share, of a network that is not given. Expected a count.")
    return max(1, round(share * full))


def _layer_list(kept: list[int]) -> list[int]:
    if not kept or kept != sorted(set(kept)) or any(not isinstance(i, int) or i < 0 for i in kept):
        raise UsageError(f"layers: {kept} cannot be kept. Expected positions, ascending, at least one.")
    return kept


def _keep(n: int, total: int, depth: str) -> tuple[int, ...]:
    return tuple(range(n)) if depth == "first" else tuple(i * total // n for i in range(n))
