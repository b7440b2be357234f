"""The processes of one run: one on its own, or several under ``torchrun`` or ``accelerate launch``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def distributed() -> bool:
    """Tell whether several processes share this run."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def leader() -> bool:
    """Tell whether this process writes the run directory."""
    return int(os.environ.get("RANK", "0")) == 0


def join_processes() -> None:
    """Meet the other processes, where there are any."""
    if distributed():
        from accelerate import PartialState

        PartialState()


def told_by_leader(text: str) -> str:
    """Return the first process's text on every process."""
    if not distributed():
        return text
    from accelerate.utils import broadcast_object_list

    return str(broadcast_object_list([text])[0])


def device() -> torch.device:
    """Return this process's device: its accelerator where there is one, else the CPU."""
    from accelerate import PartialState

    return PartialState().device
