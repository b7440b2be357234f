"""Which heads and neurons the sub-networks of a training step have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nasframe.errors import UsageError
from nasframe.interfaces import TrainJob, sizes_of

if TYPE_CHECKING:
    from nasframe.interfaces import Step


class UsedSizes:
    """The largest sizes that the sub-networks of a step have; each keeps the first heads and neurons of a layer."""

    def __init__(self) -> None:
        self.layers: set[int] = set()
        self.units: dict[str, int] = {}  # heads.i, ffn.i → number

    def note(self, step: Step) -> None:
        """Take the sub-network of a step; several of one step leave the largest of each size."""
        from nasframe.nn.slices import kept_layers

        for kept in kept_layers(step.job.net, sizes_of(step.job.space, step.arch) or {}):
            self.layers.add(kept.position)
            for unit, count in (("heads", kept.heads), ("ffn", kept.ffn)):
                name = f"{unit}.{kept.position}"
                self.units[name] = max(self.units.get(name, 0), count)


def require_subnetworks(job: TrainJob, name: str, why: str) -> None:
    """Refuse a stage that trains one network, for a modifier that is about sub-networks.

    Args:
        job: the stage.
        name: the modifier's name.
        why: what is wrong with one network, and what to write instead.

    Raises:
        UsageError: the stage has no sampler.
    """
    if job.space is None or job.sampler is None:
        raise UsageError(f"{name}: stage {job.stage!r} trains one network, {why}")
