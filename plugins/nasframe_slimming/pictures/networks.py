"""A small CycleGAN generator whose InstanceNorm scales are γ, its discriminator, and how dead channels leave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode
from transformers.modeling_outputs import SequenceClassifierOutput

from nasframe.nn.described import Described
from nasframe.nn.quantize import fake_quantize, tensor_scale

RANGE = 4.0  # where the grid of activations ends, as published
SIDE = 32


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
        return fake_quantize(weight, tensor_scale(weight.detach().abs().amax(), self.bits), self.bits)


class Prunable(NamedTuple):
    """Channels that can be removed: the convolution that makes them, their norm, the convolution that reads them."""

    name: str
    maker: nn.Conv2d
    norm: nn.InstanceNorm2d
    reader: nn.Conv2d


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    """Make a convolution that pads by reflection, so that a constant channel adds the same number everywhere."""
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, padding_mode="reflect")


def norm(channels: int) -> nn.InstanceNorm2d:
    """Make the norm whose scale is γ."""
    return nn.InstanceNorm2d(channels, affine=True)


class Generator(nn.Module):
    """Turn a picture into another: half the size, some residual blocks, back to full size.

    Args:
        stem: channels at full size, before; prunable.
        trunk: channels of the residual trunk; fixed, since blocks add up.
        blocks: inner channels of each residual block; prunable.
        up: channels at full size, after; prunable.
        activations: bits of what convolutions read, but for the picture; ``None`` leaves floating point.
    """

    def __init__(self, stem: int, trunk: int, blocks: Sequence[int], up: int, activations: int | None = None) -> None:
        super().__init__()
        self.activations = activations
        self.stem, self.stem_norm = conv(3, stem, 5), norm(stem)
        self.down, self.down_norm = conv(stem, trunk, 3, 2), norm(trunk)
        self.inner, self.outer = nn.ModuleList(), nn.ModuleList()
        self.inner_norms, self.outer_norms = nn.ModuleList(), nn.ModuleList()
        for width in blocks:
            self.inner.append(conv(trunk, width))
            self.inner_norms.append(norm(width))
            self.outer.append(conv(width, trunk))
            self.outer_norms.append(norm(trunk))
        self.up, self.up_norm = conv(trunk, up), norm(up)
        self.last = conv(up, 3, 5)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return pictures in −1 … 1, ``(batch, 3, side, side)``."""
        x = self.read(self.stem_norm(self.stem(pictures)).relu())
        x = self.down_norm(self.down(x)).relu()
        for inner, inner_norm, outer, outer_norm in zip(
            self.inner, self.inner_norms, self.outer, self.outer_norms, strict=True
        ):
            x = x + outer_norm(outer(self.read(inner_norm(inner(self.read_signed(x))).relu())))
        x = functional.interpolate(self.read_signed(x), scale_factor=2, mode="nearest")
        return self.last(self.read(self.up_norm(self.up(x)).relu())).tanh()

    def read(self, x: torch.Tensor) -> torch.Tensor:
        """Round activations that are not negative to ``2^bits`` levels from 0 to 4."""
        if not self.activations:
            return x
        # bits + 1: the symmetric grid of which this is the upper half
        return fake_quantize(x.clamp(0, RANGE), x.new_tensor(RANGE / (2**self.activations - 1)), self.activations + 1)

    def read_signed(self, x: torch.Tensor) -> torch.Tensor:
        """Round what the trunk carries, which has either sign, on a grid of its own range."""
        if not self.activations:
            return x
        return fake_quantize(x, tensor_scale(x.detach().abs().amax(), self.activations), self.activations)

    def prunable(self) -> Iterator[Prunable]:
        """Yield what can be removed, with the one convolution that reads it."""
        parts: Any = zip(self.inner, self.inner_norms, self.outer, strict=True)
        yield Prunable("stem", self.stem, self.stem_norm, self.down)
        for i, (inner, inner_norm, outer) in enumerate(parts):
            yield Prunable(f"block.{i}", inner, inner_norm, outer)
        yield Prunable("up", self.up, self.up_norm, self.last)

    def convolutions(self) -> list[nn.Conv2d]:
        """List all convolutions."""
        return [module for module in self.modules() if isinstance(module, nn.Conv2d)]


class Discriminator(nn.Module):
    """Score patches of a picture: 1 is real, 0 made.

    Args:
        width: channels of the first layer.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Conv2d(3, width, 4, 2, 1), nn.Conv2d(width, 2 * width, 4, 2, 1), nn.Conv2d(2 * width, 1, 3, 1, 1)]
        )

    def features(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """Return what the two hidden layers see."""
        first = functional.leaky_relu(self.layers[0](pictures), 0.2)
        return [first, functional.leaky_relu(functional.instance_norm(self.layers[1](first)), 0.2)]

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return scores ``(batch, 1, patches, patches)``."""
        scores: torch.Tensor = self.layers[2](self.features(pictures)[-1])
        return scores


class PicturePair(Described):
    """A generator with its discriminator, so that the latter goes from stage to stage along.

    Args:
        stem: see :class:`Generator`, as the next four.
        trunk: see there.
        blocks: see there.
        up: see there.
        activations: see there.
        judge: channels of the discriminator's first layer.
    """

    def __init__(
        self, stem: int, trunk: int, blocks: Sequence[int], up: int, activations: int | None = None, judge: int = 16
    ) -> None:
        super().__init__()
        self.generator = Generator(stem, trunk, blocks, up, activations)
        self.discriminator = Discriminator(judge)

    def forward(self, pictures: torch.Tensor) -> SequenceClassifierOutput:
        """Return the generated pictures, in the place of logits."""
        return SequenceClassifierOutput(logits=self.generator(pictures))

    def sizes(self) -> dict[str, Any]:
        """Return the widths."""
        g = self.generator
        widths = {"stem": g.stem.out_channels, "trunk": g.down.out_channels, "up": g.up.out_channels}
        blocks = [inner.out_channels for inner in g.inner]  # type: ignore[union-attr]
        judge = self.discriminator.layers[0].out_channels
        return widths | {"blocks": blocks, "activations": g.activations, "judge": judge}

    def counted(self) -> nn.Module:
        """The generator: the discriminator is not deployed."""
        return self.generator

    def forward_macs(self, batch: int) -> float:
        """Return the multiply-adds of the generator."""
        with torch.device("meta"):
            twin = PicturePair(**self.sizes()).generator
            with FlopCounterMode(display=False) as counter:
                twin(torch.zeros(1, 3, SIDE, SIDE))
        return batch * counter.get_total_flops() / 2


def bake(net: PicturePair) -> None:
    """Leave rounded weights in the place of the full ones."""
    for module in net.generator.convolutions():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


@torch.no_grad()
def compact(net: PicturePair) -> dict[str, int]:
    """Move channels with γ = 0 behind the others and make them contribute nothing; the pictures stay the same.

    A channel whose scale is 0 still says ``relu(β)`` everywhere. Since convolutions pad by reflection, its reader adds
    the same number at every place, which goes into the reader's bias; then β can be 0 too. (The published extraction
    drops β, so that its network differs from the trained one until it is fine-tuned.)

    Args:
        net: its weights baked; changed in place.

    Returns:
        How many channels are left of each prunable part.
    """
    left = {}
    for name, maker, its_norm, reader in net.generator.prunable():
        dead = its_norm.weight == 0
        says = net.generator.read(its_norm.bias.relu()) * dead
        assert reader.bias is not None
        reader.bias += reader.weight.sum((2, 3)) @ says
        its_norm.bias[dead] = 0
        order = dead.to(torch.int8).argsort(stable=True)
        for tensor in (maker.weight, maker.bias, its_norm.weight, its_norm.bias):
            assert tensor is not None
            tensor.copy_(tensor[order])
        reader.weight.copy_(reader.weight[:, order])
        left[name] = max(1, int((~dead).sum()))  # of a part without any, one silent channel stays
    return left
