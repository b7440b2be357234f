"""Where a schedule begins, where it ends, and what lies between: architectures as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from nasframe.errors import UsageError
from nasframe.nn import count
from nasframe.nn.blueprint import blueprint
from nasframe.nn.slices import RANK, kept_layers, kept_rank

UNITS = ("heads", "ffn")


def all_sizes(net: nn.Module, arch: Mapping[str, Any]) -> dict[str, Any]:
    """Write out every size of a sub-network: its layers, heads and neurons, and the rank of a factorised embedding.

    >>> from nasframe.testing.toy import tiny_net
    >>> all_sizes(tiny_net(), {"layers": [0], "heads.0": 3})
    {'layers': [0], 'heads.0': 3, 'ffn.0': 64}
    """
    kept = kept_layers(net, arch)
    found: dict[str, Any] = {"layers": [layer.position for layer in kept]}
    for layer in kept:
        found |= {f"heads.{layer.position}": layer.heads, f"ffn.{layer.position}": layer.ffn}
    rank = kept_rank(blueprint(net)[RANK], arch)
    return found if rank is None else found | {RANK: rank}


def lowered(full: Mapping[str, Any], goal: Mapping[str, int], part: float) -> dict[str, Any]:
    """Return the sizes a part of the way from the full ones to the goal's: ``full − (full − goal) · part``, rounded.

    Args:
        full: every size at the start, from :func:`all_sizes`.
        goal: ``layers`` (how many, the first ones), ``heads`` and ``ffn`` (in each kept layer), ``embedding_rank``.
        part: 0 to 1.

    Raises:
        UsageError: a goal is larger than what there is.

    >>> full = {"layers": [0, 1], "heads.0": 12, "ffn.0": 3072, "heads.1": 12, "ffn.1": 3072, "embedding_rank": 768}
    >>> lowered(full, {"layers": 1, "heads": 2, "ffn": 512, "embedding_rank": 128}, 0.3)["heads.0"]
    9
    >>> lowered(full, {"layers": 1, "heads": 2, "ffn": 512, "embedding_rank": 128}, 1.0)
    {'layers': [0], 'heads.0': 2, 'ffn.0': 512, 'embedding_rank': 128}
    """

    def size(unit: str, now: int | None) -> int:
        wanted = goal.get(unit, now)
        if now is None or wanted is None or wanted > now:
            have = "one matrix, not a product (transform svd makes it one)" if now is None else now
            raise UsageError(f"scheduled_prune: {unit} is to end with {wanted}, there is {have}. Expected no more.")
        return now - int((now - wanted) * part + 0.5)

    layers = full["layers"][: size("layers", len(full["layers"]))]
    found: dict[str, Any] = {"layers": layers}
    for i in layers:
        found |= {f"{unit}.{i}": size(unit, full[f"{unit}.{i}"]) for unit in UNITS}
    if RANK in full or RANK in goal:
        found[RANK] = size(RANK, full.get(RANK))
    return found


def default_times(full: Mapping[str, Any], goal: Mapping[str, int]) -> int:
    """Return the published number of cuts: one for each layer that goes, else for each head, else 10.

    >>> default_times({"layers": [0], "heads.0": 12, "ffn.0": 3072}, {"heads": 2, "ffn": 512})
    10
    """
    fewer = len(full["layers"]) - goal.get("layers", len(full["layers"]))
    heads = max((full[f"heads.{i}"] for i in full["layers"]), default=0)
    return max(fewer, 0) or max(heads - goal.get("heads", heads), 0) or 10


def sizes_within(
    net: nn.Module, full: Mapping[str, Any], layers: int | None, target: float, whole: nn.Module
) -> dict[str, int]:
    """Return the heads and neurons, one number for all layers, with which an encoder is just within a target.

    Args:
        net: the network.
        full: every size at the start.
        layers: how many of its layers stay; ``None``: all.
        target: share of the encoder parameters of ``whole``.
        whole: the network that the share is of.

    Raises:
        UsageError: it cannot be reached with one head and one neuron a layer, or is not below what there is.
    """
    cost, most = count.params(net, "encoder"), target * count.params(whole, "encoder").of()
    start = lowered(full, {"layers": layers or len(full["layers"])}, 1.0)
    kept, now = start["layers"], cost.of(start)
    heads, ffn = (min(start[f"{unit}.{i}"] for i in kept) for unit in UNITS)

    def of(heads: int, ffn: int) -> float:
        return cost.of({"layers": kept} | {f"heads.{i}": heads for i in kept} | {f"ffn.{i}": ffn for i in kept})

    least = of(1, 1)
    if not least <= most < now:
        raise UsageError(
            f"scheduled_prune: target {most:,.0f} encoder parameters ({target:.1%}), with {len(kept)} layers. Expected "
            f"at least {least:,.0f} and less than the {now:,.0f} there are."
        )
    few = max(1, min(heads, round(heads * (most - least) / (now - least))))
    while of(few, 1) > most:
        few -= 1
    neurons = max(n for n in range(1, ffn + 1) if of(few, n) <= most)
    return {"heads": few, "ffn": neurons}
