"""What `nasframe plugins check` tries the plugins on."""

import torch
from nasframe.testing import ModelContract, SpaceContract, TaskContract

from nasframe_operators.network import Reader
from nasframe_operators.space import Operators


def reader(**sizes):
    """Make a small network, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Reader(**sizes).eval()


class OperatorsExample(SpaceContract):
    """A small reader, and three sequences for it."""

    def make(self, config):
        """Make the space."""
        return Operators(config, layers=3)

    def net(self):
        """Return the network that the model would load."""
        return reader(width=8, length=5, features=3, classes=2)

    def inputs(self):
        """Return inputs by name."""
        return {"rows": torch.rand(3, 5, 3, generator=torch.Generator().manual_seed(0))}


class DigitRowsExample(TaskContract):
    """The task with a network that reads its sequences."""

    use = "digit_rows"

    def net(self, task):
        """Return a small network for the task's batches."""
        return reader(width=8, classes=len(task.labels))


class RowReaderExample(ModelContract):
    """The model with sequences of the length that it reads."""

    use = "row_reader"

    def inputs(self, model, net):
        """Return inputs by name."""
        return {"rows": torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0))}
