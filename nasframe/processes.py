"""The processes of one run: one on its own, or several under ``torchrun`` or ``accelerate launch``."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch
    from accelerate import PartialState


T = TypeVar("T")


def distributed() -> bool:
    """Tell whether several processes share this run."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def leader() -> bool:
    """Tell whether this process writes the run directory."""
    return int(os.environ.get("RANK", "0")) == 0


def join_processes() -> None:
    """Connect to the other processes of the run, if there are any."""
    if distributed():
        processes()


def processes() -> PartialState:
    """Return accelerate's state of this process: its number, the number of processes, its device."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    # Without cpu=True accelerate overlooks the other processes on a machine without an accelerator.
    use_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=use_cpu)


def from_leader(value: T) -> T:
    """Return the first process's value on every process; every process has to call this, and waits for the first."""
    if not distributed():  # without importing accelerate, which takes seconds
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


def device() -> torch.device:
    """Return this process's device: its accelerator if there is one, else the CPU."""
    return processes().device


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
