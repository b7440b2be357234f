"""Transform ``chain_from_scratch``: the found chain as it is pre-trained, with new weights and its own head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from nasframe.declarations import matching
from nasframe.errors import UsageError, listing
from nasframe.interfaces import Work
from nasframe.seeds import stream_seed

if TYPE_CHECKING:
    from torch import nn


class ChainFromScratch:
    """Give extracted chains new weights, and the form in which NAS-BERT pre-trains them.

    A chain that was cut out of its library has the teacher's head, and a map at each border where one of the two blocks
    has another width than the teacher. Here maps are left only where the widths of neighbours differ, and the head that
    predicts tokens reads the last block and shares its matrix with the embedding, so that the chain stands by itself
    (arXiv 2105.14444, section 3.4). It never costs more than before.

    Args:
        models: patterns of the models.
        keep: ``nothing``, as published; or ``embedding``, the embedding of the library, which has learned the
            teacher's: a short pre-training has no time to learn one anew.
        seed: injected; draws the weights.

    Raises:
        UsageError: on use, if no model matches, or one is no chain with a head of tokens.
    """

    def __init__(
        self,
        models: Sequence[str] = ("best@*",),
        keep: Literal["nothing", "embedding"] = "nothing",
        seed: int = 0,
    ) -> None:
        self.models = models
        self.keep = keep
        self.seed = seed

    def __call__(self, work: Work) -> Work:
        """Return the work with new networks in place of the chosen models."""
        names = matching(list(work.models), list(self.models))
        if not names:
            raise UsageError(f"chain_from_scratch.models: {listing(self.models)} match none of {listing(work.models)}.")
        drawn = {name: self.drawn(work.models[name], name) for name in names}
        return replace(work, models={**work.models, **drawn})

    def drawn(self, net: Any, name: str) -> nn.Module:
        """Return a new network of the same chain.

        Args:
            net: the extracted model.
            name: its name, of which its seed is made.
        """
        import torch

        from nasframe_nas_bert.networks import OperatorChain

        if not isinstance(net, OperatorChain) or net.settings["head"]["kind"] != "tokens":
            raise UsageError(
                f"chain_from_scratch: {name!r} is a {type(net).__name__}. Expected a chain that was extracted from a "
                "library with a head that predicts tokens, as after 'task: masked_lm'."
            )
        sizes: Mapping[str, Any] = net.sizes
        size = sizes["embedding"]
        width = sizes["blocks"][-1]["width"]
        head = {"kind": "tokens", "width": width, "size": size}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(self.seed, "weights", name))
            new = OperatorChain(**{**net.describe(), "head": head, "joins": None, "tied": True})
        if self.keep == "embedding":
            new.embedding.load_state_dict(net.embedding.state_dict())
        device = next(net.parameters()).device
        return new.to(device).train(net.training)
