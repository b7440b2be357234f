"""The stopwatch: how long calls of networks take, on a CPU or on a GPU, which runs behind the program."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Timing:
    """How long repeated calls took.

    Args:
        median: in milliseconds.
        spread: milliseconds between the quartiles.
    """

    median: float
    spread: float


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that a call takes, until the device has done its work.

    Args:
        call: what is timed.
        device: where it computes.
    """
    _wait_for(device)
    began = time.perf_counter()
    call()
    _wait_for(device)
    return time.perf_counter() - began


def timings(
    calls: Mapping[str, Callable[[], object]],
    modules: Sequence[nn.Module],
    device: torch.device,
    repeats: int,
    warmup: int,
    threads: int | None = None,
) -> dict[str, Timing]:
    """Time forward passes. Calls take turns, so that a disturbance hits all alike.

    Args:
        calls: by name; each makes one pass.
        modules: the networks that they call: in evaluation mode while they are timed, and afterwards as before.
        device: where they compute.
        repeats: timed passes of each.
        warmup: passes before them, which also allocate memory.
        threads: CPU threads; default: torch's setting.

    >>> layer = nn.Linear(4, 4)
    >>> times = timings({"layer": lambda: layer(torch.ones(1, 4))}, [layer], torch.device("cpu"), repeats=3, warmup=1)
    >>> times["layer"].median > 0, layer.training
    (True, True)
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    threads_before = torch.get_num_threads()
    modes = [(part, part.training) for module in modules for part in module.modules()]
    torch.set_num_threads(threads or threads_before)  # of the whole process, so it is set back
    for module in modules:
        module.eval()
    try:
        with torch.inference_mode():
            for number in range(warmup + repeats):
                for name, call in calls.items():
                    taken = seconds_of(call, device)
                    if number >= warmup:
                        seconds[name].append(taken)
    finally:
        torch.set_num_threads(threads_before)
        for part, mode in modes:
            part.training = mode
    return {name: timing_of(of_call) for name, of_call in seconds.items()}


def timing_of(seconds: Sequence[float]) -> Timing:
    """Return the median and the quartiles' distance, since other programs delay single passes by any amount.

    >>> timing_of([0.001, 0.002, 0.003, 0.004, 9.0])
    Timing(median=3.0, spread=2.0)
    """
    shares = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    quartiles = torch.tensor(seconds, dtype=torch.float64).quantile(shares)
    low, median, high = [1000 * quartile for quartile in quartiles.tolist()]
    return Timing(median, high - low)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
