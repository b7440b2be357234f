"""Transform ``redraw``: draws all weights of networks anew, for methods that train what they found from scratch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nasframe import families
from nasframe.declarations import matching
from nasframe.errors import UsageError, listing
from nasframe.interfaces import CURRENT, Work
from nasframe.nn.custom import Described, described, made
from nasframe.seeds import stream_seed

if TYPE_CHECKING:
    from torch import nn


class Redraw:
    """Draw every weight of networks anew from the seed: an extracted model then keeps its sizes and nothing else.

    A model of transformers gets weights as its class draws them; a network of one's own those of its constructor.

    Args:
        models: patterns of the models that are redrawn; default: the current network is.
        seed: injected.

    Raises:
        UsageError: on use, if no model matches.
    """

    reshapes = False

    def __init__(self, models: list[str] | None = None, seed: int = 0) -> None:
        self.models = models
        self.seed = seed

    def __call__(self, work: Work) -> Work:
        """Return the work with new networks of the same sizes."""
        if self.models is None:
            return replace(work, net=self.redrawn(work.net, CURRENT))
        names = matching(list(work.models), self.models)
        if not names:
            raise UsageError(f"redraw.models: {listing(self.models)} match none of {listing(work.models)}.")
        drawn = {name: self.redrawn(work.models[name], name) for name in names}
        return replace(work, models={**work.models, **drawn})

    def redrawn(self, net: nn.Module, name: str) -> nn.Module:
        """Return a network of the same sizes with new weights.

        Args:
            net: the network.
            name: its name, of which its seed is made.
        """
        import torch

        from nasframe_basics.new_head import redraw_weights

        device = next(net.parameters()).device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(self.seed, "weights", name))
            if isinstance(net, Described):
                drawn: nn.Module = made(described(net))
            else:
                drawn = families.build(families.describe(net))
                if not hasattr(drawn, "_init_weights"):
                    raise UsageError(f"redraw: a {type(net).__name__} does not say how its weights are drawn.")
                redraw_weights(drawn, drawn)
                drawn.tie_weights()  # type: ignore[operator]
        return drawn.to(device).train(net.training)
