"""The space of the toy generator: how many of each prunable part's channels are kept, the first ones."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from nasframe.domain import Choices
from nasframe.types import Arch, Forward
from nasframe_slimming.pictures.networks import PicturePair


class PictureChannels:
    """Keep the first channels of each prunable part of a toy generator.

    Args:
        config: injected; the widths of the network.
    """

    def __init__(self, config: Any) -> None:
        full = {"stem": config.stem, "up": config.up} | {f"block.{i}": n for i, n in enumerate(config.blocks)}
        self.domain = Choices({knob: list(range(1, n + 1)) for knob, n in full.items()})

    def supernet(self, net: nn.Module) -> nn.Module:
        """Return the network as it is."""
        return net

    def arch(self, sizes: Arch) -> dict[str, int]:
        """Return an architecture from any sizes; what is not given is the largest."""
        return {knob: sizes.get(knob, values[-1]) for knob, values in self.domain.knobs.items()}

    def view(self, net: nn.Module, arch: Arch) -> Forward:
        """Return the sub-network as a function of pictures."""
        return self.extract(net, arch)

    @torch.no_grad()
    def extract(self, net: Any, arch: Arch) -> nn.Module:
        """Copy the first channels out, the discriminator along."""
        sizes = net.sizes()
        blocks = [arch[f"block.{i}"] for i in range(len(sizes["blocks"]))]
        with torch.random.fork_rng(devices=[]):
            small = PicturePair(**sizes | {"stem": arch["stem"], "up": arch["up"], "blocks": blocks})
        state = net.state_dict()
        for name, tensor in small.state_dict().items():
            part = state[name][tuple(slice(length) for length in tensor.shape)]
            tensor.copy_(part)
        return copy.deepcopy(small).to(next(net.parameters()).device).train(net.training)
