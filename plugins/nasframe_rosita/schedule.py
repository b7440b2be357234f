"""A schedule of pruning as plain data: the architecture at its start, at its end, and after each cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from nasframe.errors import UsageError
from nasframe.nn import count
from nasframe.nn.blueprint import blueprint
from nasframe.nn.slices import RANK, kept_layers, kept_rank

UNITS = ("heads", "ffn")
CUTS = 10  # if neither layers nor heads go, of which the published number follows


def all_sizes(net: nn.Module, arch: Mapping[str, Any]) -> dict[str, Any]:
    """Return every size of a sub-network: its layers, heads and neurons, and the rank of a factorised embedding.

    >>> from nasframe.testing.toy import tiny_net
    >>> all_sizes(tiny_net(), {"layers": [0], "heads.0": 3})
    {'layers': [0], 'heads.0': 3, 'ffn.0': 64}
    """
    kept = kept_layers(net, arch)
    sizes: dict[str, Any] = {"layers": [layer.position for layer in kept]}
    for layer in kept:
        sizes[f"heads.{layer.position}"] = layer.heads
        sizes[f"ffn.{layer.position}"] = layer.ffn
    rank = kept_rank(blueprint(net)[RANK], arch)
    if rank is not None:
        sizes[RANK] = rank
    return sizes


def lowered(full: Mapping[str, Any], goal: Mapping[str, int], part: float) -> dict[str, Any]:
    """Return the sizes a part of the way from the full ones to the goal: ``full − (full − goal) · part``, rounded.

    Args:
        full: every size at the start, from :func:`all_sizes`.
        goal: ``layers`` (the first ones stay), ``heads`` and ``ffn`` (in each kept layer), ``embedding_rank``.
        part: 0 to 1.

    Raises:
        UsageError: a goal is larger than the size at the start.

    >>> full = {"layers": [0, 1], "heads.0": 12, "ffn.0": 3072, "heads.1": 12, "ffn.1": 3072, "embedding_rank": 768}
    >>> lowered(full, {"layers": 1, "heads": 2, "ffn": 512, "embedding_rank": 128}, 0.3)["heads.0"]
    9
    >>> lowered(full, {"layers": 1, "heads": 2, "ffn": 512, "embedding_rank": 128}, 1.0)
    {'layers': [0], 'heads.0': 2, 'ffn.0': 512, 'embedding_rank': 128}
    """

    def size(unit: str, now: int | None) -> int:
        end = goal.get(unit, now)
        if now is None or end is None or end > now:
            present = "one matrix, not a product (transform svd makes it one)" if now is None else now
            raise UsageError(f"scheduled_prune: {unit} is to end with {end}, there is {present}. Expected no more.")
        return now - int((now - end) * part + 0.5)  # (R4)

    depth = size("layers", len(full["layers"]))
    layers = full["layers"][:depth]
    sizes: dict[str, Any] = {"layers": layers}
    for i in layers:
        for unit in UNITS:
            sizes[f"{unit}.{i}"] = size(unit, full[f"{unit}.{i}"])
    if RANK in full or RANK in goal:
        sizes[RANK] = size(RANK, full.get(RANK))
    return sizes


def default_times(full: Mapping[str, Any], goal: Mapping[str, int]) -> int:
    """Return the published number of cuts: one for each layer that goes, else for each head, else 10.

    It is 1 if nothing goes, as when a share of few layers is all of them.

    >>> default_times({"layers": [0], "heads.0": 12, "ffn.0": 3072}, {"heads": 2, "ffn": 512})
    10
    """
    if lowered(full, goal, 1.0) == dict(full):
        return 1
    layers = len(full["layers"])
    fewer_layers = layers - goal.get("layers", layers)
    if fewer_layers > 0:
        return fewer_layers
    heads = max([full[f"heads.{i}"] for i in full["layers"]], default=0)
    fewer_heads = heads - goal.get("heads", heads)
    if fewer_heads > 0:
        return fewer_heads
    return CUTS  # (R5)


def sizes_within(
    net: nn.Module, full: Mapping[str, Any], layers: int | None, target: float, whole: nn.Module
) -> dict[str, int]:
    """Return the numbers of heads and neurons, one for all layers, with which an encoder is just within a target.

    Args:
        net: the network.
        full: every size at the start.
        layers: number of layers that stay; ``None``: all.
        target: share of the encoder parameters of ``whole``.
        whole: the network that the share refers to.

    Raises:
        UsageError: the target cannot be reached with one head and one neuron a layer, or is no less than the network
            has.
    """
    cost = count.params(net, "encoder")
    most = target * count.params(whole, "encoder").of()
    start = lowered(full, {"layers": layers or len(full["layers"])}, 1.0)
    kept = start["layers"]
    now = cost.of(start)
    smallest = cost.of(_even(kept, 1, 1))
    if not smallest <= most < now:
        raise UsageError(
            f"scheduled_prune: target {most:,.0f} encoder parameters ({target:.1%}), with {len(kept)} layers. Expected "
            f"at least {smallest:,.0f} and less than the {now:,.0f} there are."
        )
    all_heads = min(start[f"heads.{i}"] for i in kept)
    all_neurons = min(start[f"ffn.{i}"] for i in kept)

    # Heads shrink to the target's share of the way down, rounded; neurons make up for the rounding.
    share_of_heads = round(all_heads * (most - smallest) / (now - smallest))
    heads = max(1, min(all_heads, share_of_heads))
    while cost.of(_even(kept, heads, 1)) > most:
        heads -= 1
    neurons = all_neurons
    while cost.of(_even(kept, heads, neurons)) > most:
        neurons -= 1
    return {"heads": heads, "ffn": neurons}


def _even(layers: Sequence[int], heads: int, ffn: int) -> dict[str, Any]:
    """Return the architecture with the same numbers of heads and neurons in every layer."""
    arch: dict[str, Any] = {"layers": list(layers)}
    for i in layers:
        arch[f"heads.{i}"] = heads
        arch[f"ffn.{i}"] = ffn
    return arch
