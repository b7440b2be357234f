"""The processes of one run: one on its own, or several under ``torchrun`` or ``accelerate launch``."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

from nasframe.errors import UsageError, suggestion

if TYPE_CHECKING:
    import torch
    from accelerate import PartialState


T = TypeVar("T")
Device = Literal["cpu", "cuda", "mps"]
"""Kinds of devices that can be chosen: a CPU, a GPU of NVIDIA or AMD, a GPU of Apple."""
DEVICE = "NASFRAME_DEVICE"
"""The variable that names the device; processes that this one starts inherit it, however they are started."""


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


def choose_device(name: str | None) -> None:
    """Let this process, and those that it starts, compute on a kind of device.

    Args:
        name: one of :data:`Device`; ``None`` leaves the choice as it is: the accelerator if there is one.

    Raises:
        UsageError: there is no such device here.
    """
    if name is None:
        return
    _check_device(name)
    os.environ[DEVICE] = name


def _check_device(name: str) -> None:
    """Refuse a device that is unknown or not there."""
    kinds = get_args(Device)
    if name not in kinds:
        raise UsageError(f"device: unknown {name!r}. Expected one of {', '.join(kinds)}.{suggestion(name, kinds)}")
    if name == "cpu":  # without importing torch, which takes seconds
        return
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    there = accelerator.type if accelerator is not None else None
    if there != name:
        expected = "cpu" if there is None else f"cpu or {there}"
        raise UsageError(f"device: torch {torch.__version__} finds no {name} device here. Expected {expected}.")


def processes() -> PartialState:
    """Return accelerate's state of this process: its number, the number of processes, its device.

    Raises:
        UsageError: the environment names a device that is not there.
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    chosen = os.environ.get(DEVICE)
    if chosen:
        _check_device(chosen)
    # Without cpu=True accelerate overlooks the other processes on a machine without an accelerator.
    use_cpu = chosen == "cpu" or parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=use_cpu)


def from_leader(value: T) -> T:
    """Return the first process's value on every process; every process has to call this, and waits for the first."""
    if not distributed():  # without importing accelerate, which takes seconds
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


def device() -> torch.device:
    """Return this process's device: the chosen one, or else its accelerator if there is one, else the CPU."""
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
