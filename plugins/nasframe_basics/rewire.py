"""Transform ``rewire``: sorts important heads and neurons first, so that slices keep them."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Literal

from nasframe.interfaces import Work
from nasframe.records import Count, Size
from nasframe.seeds import stream_seed


class Rewire:
    """Sort the heads and neurons of each layer, the most important first; the network's outputs stay the same.

    Args:
        score: ``magnitude`` of the weights, or, on training data: ``taylor``, how much the loss would change to first
            order (Michel et al., arXiv 1905.10650; DynaBERT, arXiv 2004.04037, §2.1), ``fisher``, to second order by
            the empirical Fisher information (arXiv 2204.09656), ``accumulated``, the sum of ``|w| · mean |gradient|``
            over the weights (ROSITA, arXiv 2103.11367).
        neurons: for ``taylor``, a neuron's outgoing weights (``out``), or its incoming ones too (``both``), as in
            DynaBERT's published code.
        batches: training batches that the scores are averaged over.
        batch_size: examples in each.
        seed: draws them.
    """

    reshapes = False
    keeps_function = True

    def __init__(
        self,
        score: Literal["magnitude", "taylor", "fisher", "accumulated"] = "magnitude",
        neurons: Literal["out", "both"] = "out",
        batches: Count = 32,
        batch_size: Size = 32,
        seed: int = 0,
    ) -> None:
        self.score = score
        self.neurons = neurons
        self.batches = batches
        self.batch_size = batch_size
        self.seed = seed

    def __call__(self, work: Work) -> Work:
        """Return the work with a sorted copy of its network."""
        from nasframe.nn import importance  # with torch, as nasframe_basics.loop explains
        from nasframe.nn.rewire import rewire

        net = copy.deepcopy(work.net)  # earlier stages' networks stay as they are
        if self.score == "magnitude":
            scores = importance.magnitude(net)
        else:
            seed = stream_seed(self.seed, "data", "rewire")
            data = work.task.train_batches(seed, 0, self.batch_size)
            device = next(net.parameters()).device
            first_batches = islice(data, self.batches)  # fewer if an epoch has fewer
            batches = [batch.to(device) for batch in first_batches]
            score_function = getattr(importance, self.score)
            if self.score == "taylor":
                score_function = partial(score_function, neurons=self.neurons)
            scores = score_function(net, batches, work.task.loss)
        rewire(net, importance.ranked(scores))
        return replace(work, net=net)
