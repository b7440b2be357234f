"""Saves a trainer's state from time to time, so that a resumed run goes on as if it had never stopped."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from nasframe.interfaces import TrainJob

SHARE = 0.05  # of the training time that checkpoints may take, however large the network


class Checkpoints:
    """Keeps the states of a trainer's parts.

    Args:
        job: the stage; ``checkpoint`` and ``checkpoint_every`` are read.
        parts: objects with ``state_dict`` and ``load_state_dict``, by name.
        writes: whether this process writes; all processes read.
    """

    def __init__(self, job: TrainJob, parts: Mapping[str, Any], writes: bool = True) -> None:
        self.job = job
        self.parts = parts
        self.writes = writes and job.checkpoint is not None
        self.saved_at = time.monotonic()
        self.took = 0.0

    def save(self) -> None:
        """Write all states."""
        began = time.monotonic()
        if self.writes:
            states = {name: part.state_dict() for name, part in self.parts.items()}
            self.job.checkpoint.save(states)
        self.saved_at = time.monotonic()
        self.took = self.saved_at - began

    def due(self) -> bool:
        """Tell whether the last checkpoint is old enough; large ones are written less often."""
        age = time.monotonic() - self.saved_at
        # If writing took a second, the next one is due after 20 at the earliest: then a share of 5 % is spent.
        earliest = self.took / SHARE
        return age >= max(self.job.options.checkpoint_every, earliest)

    def save_if_due(self) -> None:
        """Write all states if the last checkpoint is old enough."""
        if self.due():
            self.save()

    def load(self) -> None:
        """Give all parts their states back, if a checkpoint was written."""
        if self.job.checkpoint is None:
            return
        state = self.job.checkpoint.load()
        if state is None:
            return
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
