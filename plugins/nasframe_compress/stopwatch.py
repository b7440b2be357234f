"""Modifier ``stopwatch``: how long each step of a training takes."""

from __future__ import annotations

import time

from nasframe.interfaces import Modifier, Step, TrainJob

NAME = "step_seconds"


class Stopwatch(Modifier):
    """Log the seconds between one optimiser step and the next, as the metric ``step_seconds``.

    It changes nothing else. Put it last, so that the work of the other modifiers is part of the time.

    >>> Stopwatch().last is None
    True
    """

    reads_space = False

    def __init__(self) -> None:
        self.last: float | None = None

    def on_start(self, job: TrainJob) -> None:
        """Begin anew: the first step has no time, because it also fills caches and allocates memory."""
        self.last = None

    def on_update(self, step: Step) -> None:
        """Log the time since the step before."""
        now = time.perf_counter()
        if self.last is not None:
            step.job.log(step.index + 1, {NAME: now - self.last})
        self.last = now
