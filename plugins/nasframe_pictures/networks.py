"""A small CycleGAN generator whose InstanceNorm scales are γ, its discriminator, and the removal of dead channels.

GAN Slimming is arXiv 2008.11062; its formulas have labels of our own here, which README.md lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode
from transformers.modeling_outputs import SequenceClassifierOutput

from nasframe.nn.custom import Described
from nasframe.nn.quantize import fake_quantize, tensor_scale

RANGE = 4.0  # where the grid of activations ends, as published
SIDE = 32  # of a picture, in pixels


class Rounded(nn.Module):
    """A parametrisation that shows a tensor on one symmetric grid, as published: ``max |w| / 127``.

    Args:
        bits: width of the integer.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the rounded tensor; its gradient passes straight through."""
        largest = weight.detach().abs().amax()
        return fake_quantize(weight, tensor_scale(largest, self.bits), self.bits)


class Prunable(NamedTuple):
    """Channels that can be removed: the convolution that makes them, their norm, the convolution that reads them."""

    name: str
    maker: nn.Conv2d
    norm: nn.InstanceNorm2d
    reader: nn.Conv2d


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    """Return a convolution that pads by reflection, so that a constant channel adds the same number everywhere."""
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, padding_mode="reflect")


def norm(channels: int) -> nn.InstanceNorm2d:
    """Return the norm whose scale is γ."""
    return nn.InstanceNorm2d(channels, affine=True)


class Generator(nn.Module):
    """Turn a picture into another: half the size, some residual blocks, back to full size.

    Args:
        stem: channels at full size, at the start; prunable.
        trunk: channels of the residual trunk; fixed, since the blocks' outputs are added to it.
        blocks: inner channels of each residual block; prunable.
        up: channels at full size, at the end; prunable.
        activations: bits of the inputs of convolutions, except for the picture; ``None`` leaves floating point.
    """

    def __init__(self, stem: int, trunk: int, blocks: Sequence[int], up: int, activations: int | None = None) -> None:
        super().__init__()
        self.activations = activations
        self.stem = conv(3, stem, 5)
        self.stem_norm = norm(stem)
        self.down = conv(stem, trunk, 3, 2)
        self.down_norm = norm(trunk)
        self.inner = nn.ModuleList()
        self.outer = nn.ModuleList()
        self.inner_norms = nn.ModuleList()
        self.outer_norms = nn.ModuleList()
        for width in blocks:
            self.inner.append(conv(trunk, width))
            self.inner_norms.append(norm(width))
            self.outer.append(conv(width, trunk))
            self.outer_norms.append(norm(trunk))
        self.up = conv(trunk, up)
        self.up_norm = norm(up)
        self.last = conv(up, 3, 5)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return pictures in −1 … 1, ``(batch, 3, side, side)``."""
        x = self.stem_norm(self.stem(pictures)).relu()
        x = self.down(self.rounded(x))
        trunk = self.down_norm(x).relu()
        blocks = zip(self.inner, self.inner_norms, self.outer, self.outer_norms, strict=True)
        for inner, inner_norm, outer, outer_norm in blocks:
            x = inner(self.rounded_signed(trunk))
            x = inner_norm(x).relu()
            x = outer(self.rounded(x))
            trunk = trunk + outer_norm(x)
        x = functional.interpolate(self.rounded_signed(trunk), scale_factor=2, mode="nearest")
        x = self.up_norm(self.up(x)).relu()
        return self.last(self.rounded(x)).tanh()

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        """Round activations that are not negative to ``2^bits`` levels from 0 to 4."""
        if not self.activations:
            return x
        levels = 2**self.activations
        step = x.new_tensor(RANGE / (levels - 1))
        # fake_quantize has symmetric grids; these levels are the upper half of the one with a bit more.
        return fake_quantize(x.clamp(0, RANGE), step, self.activations + 1)

    def rounded_signed(self, x: torch.Tensor) -> torch.Tensor:
        """Round the trunk's activations, which have either sign, on a grid that ends at the largest of them."""
        if not self.activations:
            return x
        largest = x.detach().abs().amax()
        return fake_quantize(x, tensor_scale(largest, self.activations), self.activations)

    def prunable(self) -> Iterator[Prunable]:
        """Yield the channels that can be removed, with the one convolution that reads them."""
        yield Prunable("stem", self.stem, self.stem_norm, self.down)
        blocks: Any = zip(self.inner, self.inner_norms, self.outer, strict=True)
        for i, (inner, inner_norm, outer) in enumerate(blocks):
            yield Prunable(f"block.{i}", inner, inner_norm, outer)
        yield Prunable("up", self.up, self.up_norm, self.last)

    def convolutions(self) -> list[nn.Conv2d]:
        """List all convolutions."""
        return [module for module in self.modules() if isinstance(module, nn.Conv2d)]


class Discriminator(nn.Module):
    """Score patches of a picture: 1 for real, 0 for generated.

    Args:
        width: channels of the first layer.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        first = nn.Conv2d(3, width, 4, 2, 1)
        second = nn.Conv2d(width, 2 * width, 4, 2, 1)
        last = nn.Conv2d(2 * width, 1, 3, 1, 1)
        self.layers = nn.ModuleList([first, second, last])

    def features(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """Return the outputs of the two hidden layers."""
        first = functional.leaky_relu(self.layers[0](pictures), 0.2)
        second = functional.instance_norm(self.layers[1](first))
        return [first, functional.leaky_relu(second, 0.2)]

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return scores ``(batch, 1, patches, patches)``."""
        hidden = self.features(pictures)[-1]
        scores: torch.Tensor = self.layers[2](hidden)
        return scores


class PicturePair(Described):
    """A generator together with its discriminator, so that later stages train against the same one.

    Args:
        stem: as in :class:`Generator`.
        trunk: as in :class:`Generator`.
        blocks: as in :class:`Generator`.
        up: as in :class:`Generator`.
        activations: as in :class:`Generator`.
        judge: channels of the discriminator's first layer.
    """

    def __init__(
        self, stem: int, trunk: int, blocks: Sequence[int], up: int, activations: int | None = None, judge: int = 16
    ) -> None:
        super().__init__()
        self.generator = Generator(stem, trunk, blocks, up, activations)
        self.discriminator = Discriminator(judge)

    def forward(self, pictures: torch.Tensor) -> SequenceClassifierOutput:
        """Return the generated pictures as ``logits``."""
        return SequenceClassifierOutput(logits=self.generator(pictures))

    def describe(self) -> dict[str, Any]:
        """Return the widths."""
        generator = self.generator
        return {
            "stem": generator.stem.out_channels,
            "trunk": generator.down.out_channels,
            "up": generator.up.out_channels,
            "blocks": [inner.out_channels for inner in generator.inner],  # type: ignore[union-attr]
            "activations": generator.activations,
            "judge": self.discriminator.layers[0].out_channels,
        }

    def counted(self) -> nn.Module:
        """Return the generator: the discriminator is not deployed."""
        return self.generator

    def forward_macs(self, batch: int) -> float:
        """Return the multiply-adds of the generator."""
        with torch.device("meta"):  # counting needs shapes only
            twin = PicturePair(**self.describe()).generator
            with FlopCounterMode(display=False) as counter:
                twin(torch.zeros(1, 3, SIDE, SIDE))
        return batch * counter.get_total_flops() / 2


def bake(net: PicturePair) -> None:
    """Replace full weights by their rounded values."""
    for module in net.generator.convolutions():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


@torch.no_grad()
def compact(net: PicturePair) -> dict[str, int]:
    """Move channels with γ = 0 behind the others and make them contribute nothing; the pictures stay the same.

    The output of a channel whose scale is 0 is ``relu(β)`` everywhere, β being its norm's bias. Since convolutions pad
    by reflection, this constant adds the same number at every place of the reader's output. That number goes into the
    reader's bias; then β can be 0 too. (The published extraction drops β, so its network differs from the trained one
    until it is fine-tuned.)

    Args:
        net: its weights baked; changed in place.

    Returns:
        How many channels are left of each prunable part.
    """
    left = {}
    for name, maker, its_norm, reader in net.generator.prunable():
        dead = its_norm.weight == 0  # exactly 0, by the proximal step
        assert maker.bias is not None
        assert reader.bias is not None
        constants = net.generator.rounded(its_norm.bias.relu()) * dead
        weights = reader.weight.sum((2, 3))  # of each channel on each output, over all places of the kernel
        reader.bias += weights @ constants  # (P4)
        its_norm.bias[dead] = 0

        order = dead.to(torch.int8).argsort(stable=True)  # the live ones first, in their order
        for tensor in (maker.weight, maker.bias, its_norm.weight, its_norm.bias):
            tensor.copy_(tensor[order])
        reader.weight.copy_(reader.weight[:, order])
        live = int((~dead).sum())
        left[name] = max(1, live)  # a layer has at least one channel, a silent one if need be
    return left
