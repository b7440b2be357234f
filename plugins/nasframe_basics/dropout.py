"""Modifier ``dropout``: another dropout rate than the network's own, for one stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nasframe.interfaces import Modifier, TrainJob
from nasframe.records import ShareBelowOne

if TYPE_CHECKING:  # torch is imported when training begins, as nasframe_basics.loop explains
    from torch import nn


class Dropout(Modifier):
    """Train a stage with one dropout rate in place of the network's own rates, which come back when the stage ends.

    A sub-network that is much narrower than the network rarely overfits, so that its dropout only adds noise. On a CPU,
    drawing the noise also takes a large part of a narrow network's step.

    Args:
        rate: the probability with which an activation is zeroed; 0 switches dropout off.
    """

    reads_space = False

    def __init__(self, rate: ShareBelowOne = 0.0) -> None:
        self.rate = rate
        self.own_rates: list[tuple[nn.Dropout, float]] = []

    def on_start(self, job: TrainJob) -> None:
        """Set the rate of every dropout module; attention reads the rate of its module, too."""
        from torch import nn

        for module in job.net.modules():
            if isinstance(module, nn.Dropout):
                self.own_rates.append((module, module.p))
                module.p = self.rate

    def on_finish(self, job: TrainJob) -> None:
        """Give each module its own rate back."""
        for module, rate in self.own_rates:
            module.p = rate
        self.own_rates = []
