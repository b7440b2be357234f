"""Training batches, epoch after epoch, from where a checkpoint left off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nasframe.interfaces import Batches, TrainJob
from nasframe.records import Batch
from nasframe.seeds import stream_seed


class Feed:
    """An endless iterator over a stage's training batches; the run's seed and the stage decide their order.

    Args:
        job: the stage.

    Attributes:
        epoch_length: batches in the first epoch, from which the length of the training is computed.

    >>> from nasframe.testing.toy import ToyTask, tiny_net
    >>> from nasframe.records import TrainOptions
    >>> feed = Feed(TrainJob(tiny_net(), ToyTask(), None, TrainOptions(batch_size=16), seed=0, stage="teacher"))
    >>> [len(batch) for _, batch in zip(range(5), feed)], feed.state_dict()
    ([16, 16, 16, 16, 16], {'epoch': 1, 'batch': 1})
    """

    def __init__(self, job: TrainJob) -> None:
        self.job = job
        self.epoch = 0
        self.batch = 0
        self.data = self._epoch()
        self.epoch_length = len(self.data)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self.batch == len(self.data):
            self.epoch += 1
            self.batch = 0
            self.data = self._epoch()
        self.batch += 1
        return self.data[self.batch - 1]

    def state_dict(self) -> dict[str, int]:
        """Return the position of the next batch."""
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on at the position that ``state_dict`` returned."""
        # The epoch is drawn again by name, so that a checkpoint needs neither its order nor a generator's state.
        self.epoch = state["epoch"]
        self.batch = state["batch"]
        self.data = self._epoch()

    def _epoch(self) -> Batches:
        seed = stream_seed(self.job.seed, "data", self.job.stage)
        return self.job.task.train_batches(seed, self.epoch, self.job.options.batch_size)
