"""What the pieces of chains cost: multiply-adds, and milliseconds that are measured on this machine."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from nasframe.interfaces import Piece
from nasframe.nn.inputs import resized
from nasframe.nn.timing import Timing, timings
from nasframe.nn.traced import forward_macs, weightless
from nasframe.processes import processor
from nasframe.records import sequence_length
from nasframe_nas_bert.networks import ChainLibrary, TokenHead

HEAD = "head"


@dataclass(frozen=True)
class Conditions:
    """How pieces are measured.

    Args:
        batch: number of sequences.
        length: tokens in each.
        repeats: timed passes of each piece.
        warmup: passes before them.
        threads: CPU threads.
        device: where.
        machine: on which processor.
    """

    batch: int
    length: int
    repeats: int
    warmup: int
    threads: int
    device: str
    machine: str


@dataclass(frozen=True)
class Times:
    """The measured times of pieces.

    Args:
        how: as :class:`Conditions` has it, plain.
        median: piece → milliseconds.
        spread: piece → milliseconds between the quartiles.
    """

    how: Mapping[str, Any]
    median: Mapping[str, float]
    spread: Mapping[str, float]

    def plain(self) -> dict[str, Any]:
        """Return the times as JSON has them."""
        return {"how": dict(self.how), "median": dict(self.median), "spread": dict(self.spread)}


def conditions(
    inputs: Mapping[str, torch.Tensor], batch: int, length: int | None, repeats: int, warmup: int, threads: int | None
) -> Conditions:
    """Return the conditions of a measurement here, on inputs of a batch."""
    ids = inputs["input_ids"]
    return Conditions(
        batch=batch,
        length=length or sequence_length(inputs) or ids.shape[1],
        repeats=repeats,
        warmup=warmup,
        threads=threads or torch.get_num_threads(),
        device=str(ids.device),
        machine=processor() or platform.machine(),
    )


def measured(pieces: Mapping[str, Piece], inputs: Mapping[str, torch.Tensor], how: Conditions) -> Times:
    """Measure each piece: the median of repeated passes. Pieces take turns, so that a disturbance hits all alike.

    Args:
        pieces: by name; a head of tokens, which is not deployed, counts as nothing.
        inputs: a batch of the network's inputs.
        how: the conditions.
    """
    shaped = resized(inputs, how.batch, how.length)
    calls = {}
    modules = []
    for name, piece in pieces.items():
        if not _is_token_head(name, piece) and piece.inputs is not None:
            calls[name] = partial(piece.module, *piece.inputs(shaped))
            modules.append(piece.module)
    times = timings(calls, modules, torch.device(how.device), how.repeats, how.warmup, how.threads)
    median, spread = {}, {}
    for name in pieces:
        timing = times.get(name, Timing(0.0, 0.0))
        median[name] = timing.median
        spread[name] = timing.spread
    return Times(asdict(how), median, spread)


def _is_token_head(name: str, piece: Piece) -> bool:
    return name == HEAD and isinstance(getattr(piece.module, "head", None), TokenHead)


def macs_of(pieces: Mapping[str, Piece], inputs: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Count the multiply-adds of each piece on a batch of the network's inputs."""
    shapes = {name: tensor.to("meta") for name, tensor in inputs.items()}
    counts = {}
    for name, piece in pieces.items():
        if piece.inputs is None:
            counts[name] = 0.0
            continue
        arguments = piece.inputs(shapes)
        module = weightless(piece.module)
        counts[name] = forward_macs(lambda module=module, arguments=arguments: module(*arguments), {})
    return counts


def stored_times(net: ChainLibrary, how: Conditions) -> Times | None:
    """Return the times that a library keeps, if they were measured under the same conditions."""
    kept = net.measured
    if not kept or kept["how"] != asdict(how):
        return None
    return Times(kept["how"], kept["median"], kept["spread"])
