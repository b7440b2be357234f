"""Important heads and neurons first, so that slicing keeps them."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import islice
from typing import Literal

from nasframe.nn import importance
from nasframe.nn.rewire import rewire
from nasframe.streams import stream_seed
from nasframe.types import Work


class Rewire:
    """Sort the heads and the neurons of each layer by importance, most important first; the function stays the same.

    Args:
        score: ``magnitude`` of the weights, or ``taylor``: how much the loss would change to first order, on
            training data (Michel et al., arXiv 1905.10650; DynaBERT, arXiv 2004.04037, §2.1).
        neurons: for ``taylor``, a neuron's outgoing weights (``out``), or its incoming ones too (``both``), as in
            DynaBERT's published code.
        batches: training batches that ``taylor`` averages over.
        batch_size: examples in each.
        seed: draws them.
    """

    reshapes = False

    keeps_function = True

    def __init__(
        self,
        score: Literal["magnitude", "taylor"] = "magnitude",
        neurons: Literal["out", "both"] = "out",
        batches: int = 32,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        self.score, self.neurons = score, neurons
        self.batches, self.batch_size, self.seed = batches, batch_size, seed

    def __call__(self, work: Work) -> Work:
        """Return the work with a sorted copy of its network."""
        net = copy.deepcopy(work.net)
        if self.score == "taylor":
            data = work.task.train_batches(stream_seed(self.seed, "data", "rewire"), 0, self.batch_size)
            device = next(net.parameters()).device
            batches = [batch.to(device) for batch in islice(data, self.batches)]
            scores = importance.taylor(net, batches, work.task.loss, self.neurons)
        else:
            scores = importance.magnitude(net)
        order = {
            kind: {layer: values.argsort(descending=True, stable=True) for layer, values in layers.items()}
            for kind, layers in scores.items()
        }
        rewire(net, order)
        return replace(work, net=net)
