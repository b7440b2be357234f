"""Quantisation-aware training with straight-through gradients."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from torch.nn.utils import parametrize

from nasframe.interfaces import Modifier, Step, TrainJob
from nasframe.nn.formats import FULL, encoder_matrices, formats_of, note, word_tables
from nasframe.nn.quantize import RowQuantizer, fake_quantize, tensor_scale

Inputs: TypeAlias = tuple[torch.Tensor, ...]
RANGE_DECAY = 0.99
"""Share of the old value in a running mean, at each step."""


class FakeQuant(Modifier):
    """Train with weights, and optionally activations, rounded to the grid of a small integer type.

    Weights have one grid a row. At the end they stay on it, in floating point, so that the result is a plain model.
    Activations have one grid a tensor and are rounded during training only, as dynamic integer inference does. The
    result's blueprint records the bits of each matrix.

    Args:
        bits: bits of the encoder's weight matrices; an ``arch`` from a space of formats (``nm_bits``) takes precedence.
        activations: bits of the inputs of these matrices; ``null`` leaves them in floating point.
        ranges: an activation's grid ends at the largest magnitude in the ``batch``, or at its ``running`` mean.
        embeddings: bits of the word embedding, with one grid for each word; ``null`` leaves it in floating point.
    """

    reads_space = False

    def __init__(
        self,
        bits: Literal[8, 4, 2] = 8,
        activations: Literal[8, 4] | None = None,
        ranges: Literal["batch", "running"] = "batch",
        embeddings: Literal[8, 4, 2] | None = None,
    ) -> None:
        self.bits = bits
        self.activations = activations
        self.ranges = ranges
        self.embeddings = embeddings
        self.largest: dict[str, torch.Tensor] = {}  # running means of the largest magnitudes, by matrix
        self.read: tuple[torch.Tensor, torch.Tensor] | None = None  # the last input, and the same rounded
        self.hooks: list[Any] = []
        self.rounded: dict[str, tuple[nn.Module, int]] = {}  # matrix → its module and bits

    def on_start(self, job: TrainJob) -> None:
        """Parametrise the weights and hook the activations."""
        arch_formats = formats_of(job.space, job.net, job.arch)
        if self.embeddings:
            for name, table in word_tables(job.net):
                self.rounded[name] = (table, self.embeddings)
        for name, module in encoder_matrices(job.net):
            bits = arch_formats[name].bits if arch_formats else self.bits
            if bits >= FULL:  # an architecture may leave matrices in floating point
                continue
            self.rounded[name] = (module, bits)
            if self.activations:
                hook = partial(self._round_input, name)
                self.hooks.append(module.register_forward_pre_hook(hook))
        for rounded, bits in self.rounded.values():
            # The quantizer keeps shape and type. With unsafe=True torch does not run it once to check that.
            parametrize.register_parametrization(rounded, "weight", RowQuantizer(bits), unsafe=True)

    def validate(self, job: TrainJob) -> None:
        """Parametrise the weights, so that modifiers further down the list can check whether they allow it."""
        if job.net is not None:
            self.on_start(job)

    def on_update(self, step: Step) -> None:
        """Free the last input."""
        self.read = None

    def on_finish(self, job: TrainJob) -> None:
        """Leave the rounded weights in place of the full ones."""
        for hook in self.hooks:
            hook.remove()
        for name, (module, bits) in self.rounded.items():
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
            note(job.net, name, bits=bits)

    def state_dict(self) -> dict[str, Any]:
        """Return the running ranges."""
        return {"largest": self.largest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with these ranges."""
        self.largest = dict(state["largest"])

    def _round_input(self, name: str, module: nn.Module, inputs: Inputs) -> Inputs:
        """Round a matrix's input; a hook of its module."""
        tensor, *others = inputs
        if not tensor.numel():  # a layer without heads or neurons
            return inputs
        if self.ranges == "batch" and self.read is not None:
            last_tensor, last_rounded = self.read
            if last_tensor is tensor:  # queries, keys and values read the same tensor, so it is rounded once
                return (last_rounded, *others)
        # One pass over the tensor finds both ends; abs().max() would copy it.
        lowest, highest = tensor.detach().aminmax()
        largest = torch.maximum(-lowest, highest).float()
        if self.ranges == "running":
            if module.training:  # evaluations use the mean and leave it alone
                mean = self.largest.get(name, largest)
                self.largest[name] = RANGE_DECAY * mean + (1 - RANGE_DECAY) * largest
            largest = self.largest.get(name, largest)
        assert self.activations is not None
        scale = tensor_scale(largest, self.activations).to(tensor.dtype)
        rounded = fake_quantize(tensor, scale, self.activations)
        self.read = (tensor, rounded)
        return (rounded, *others)
