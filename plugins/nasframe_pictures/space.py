"""The space of the toy generator: the number of channels that each prunable part keeps."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nasframe.records import Arch, Forward
from nasframe.search.domain import Choices
from nasframe_pictures.networks import PicturePair


class PictureChannels:
    """Keep the first channels of each prunable part of a toy generator.

    Args:
        config: injected; the widths of the network.
    """

    keeps_net = True

    def __init__(self, config: Any) -> None:
        widths = {"stem": config.stem, "up": config.up}
        for i, width in enumerate(config.blocks):
            widths[f"block.{i}"] = width
        knobs = {}
        for knob, width in widths.items():
            knobs[knob] = range(1, width + 1)
        self.domain = Choices(knobs)

    def supernet(self, net: nn.Module) -> nn.Module:
        """Return the network unchanged."""
        return net

    def arch(self, sizes: Arch) -> dict[str, int]:
        """Return an architecture from sizes of some knobs; the others have their largest size."""
        return {knob: sizes.get(knob, values[-1]) for knob, values in self.domain.knobs.items()}

    def view(self, net: nn.Module, arch: Arch) -> Forward:
        """Return the sub-network as a function of pictures."""
        return self.extract(net, arch)

    @torch.no_grad()
    def extract(self, net: Any, arch: Arch) -> nn.Module:
        """Copy the first channels, and the whole discriminator, into a network of their own."""
        sizes = net.describe()
        sizes["stem"] = arch["stem"]
        sizes["up"] = arch["up"]
        for i in range(len(sizes["blocks"])):
            sizes["blocks"][i] = arch[f"block.{i}"]
        with torch.random.fork_rng(devices=[]):  # the weights that are drawn here are overwritten
            small = PicturePair(**sizes)
        state = net.state_dict()
        for name, tensor in small.state_dict().items():
            first = tuple(slice(length) for length in tensor.shape)  # of every dimension
            tensor.copy_(state[name][first])
        device = next(net.parameters()).device
        return small.to(device).train(net.training)
