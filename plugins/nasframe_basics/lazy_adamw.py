"""Modifier ``lazy_adamw``: an AdamW that leaves alone what a step's sub-networks did not use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nasframe.errors import UsageError
from nasframe.interfaces import Modifier, TrainJob
from nasframe_basics.used import UsedSizes, require_subnetworks

if TYPE_CHECKING:  # torch is imported when training begins, as nasframe_basics.loop explains
    import torch
    from torch import nn

    from nasframe.interfaces import Step
    from nasframe.nn.elastic import Part

BETAS = (0.9, 0.999)
EPSILON = 1e-8
"""The constants of torch's AdamW, which the loop uses."""


@dataclass
class Tracked:
    """A parameter of a layer, and its optimiser's state.

    Args:
        layer: the layer's position.
        parameter: the parameter.
        part: which of its entries belong to which head or neuron; ``None`` if all are used whenever the layer is.
        decay: the weight decay.
        mean: running mean of the gradients, of the parameter's shape.
        square: running mean of their squares.
        uses: for each head or neuron how many steps used it, ``(units,)``; one number without a part.
    """

    layer: int
    parameter: nn.Parameter
    part: Part | None
    decay: float
    mean: torch.Tensor
    square: torch.Tensor
    uses: torch.Tensor

    def update(self, units: int, rate: float) -> None:
        """Make one step of AdamW (Loshchilov & Hutter, arXiv 1711.05101) with the entries of the first units."""
        gradient = self.parameter.grad
        if gradient is None or (self.part is not None and units == 0):
            return
        self.uses[:units] += 1
        steps = self._steps(units)
        weight = self._used(self.parameter.data, units)
        mean = self._used(self.mean, units)
        square = self._used(self.square, units)
        now = self._used(gradient, units)
        mean.lerp_(now, 1 - BETAS[0])
        square.lerp_(now.square(), 1 - BETAS[1])
        # Each unit has its own bias correction: it is as if it had an optimiser of its own, which slept meanwhile.
        scale = (square / (1 - BETAS[1] ** steps)).sqrt_().add_(EPSILON)
        weight.mul_(1 - rate * self.decay)
        weight.sub_(rate * mean / (1 - BETAS[0] ** steps) / scale)

    def _used(self, tensor: torch.Tensor, units: int) -> torch.Tensor:
        """Return the entries of the first units, as a view."""
        if self.part is None:
            return tensor
        return self.part.runs(tensor, units)

    def _steps(self, units: int) -> torch.Tensor:
        """Return the number of steps of each entry, so that it broadcasts to :meth:`_used`."""
        if self.part is None:
            return self.uses
        of_entries = self.uses[:units].repeat_interleave(self.part.width)
        dimensions_behind = self.parameter.ndim - 1 - self.part.dim
        return of_entries.view(-1, *[1] * dimensions_behind)


class LazyAdamW(Modifier):
    """Let AdamW change only the heads, neurons and layers that the sub-networks of the step have.

    The loop's AdamW also moves weights that a step did not use: their gradient is zero, but their momentum and weight
    decay go on, and their moments fade. With this modifier they stay as they are, moments included, until they are used
    again. Each head and neuron counts its own steps for the bias correction of Adam. With sub-networks much smaller
    than the network a step also writes less memory.

    It takes over all parameters of the layers; embeddings and the head are used in every step and stay with the loop's
    optimiser. Learning rate, weight decay and clipping are the stage's.
    """

    reads_space = False
    elementwise = True

    def __init__(self) -> None:
        self.tracked: list[Tracked] = []
        self.loaded: Mapping[str, Any] = {}  # a state to go on from, until there are tensors to take it
        self.used = UsedSizes()

    def validate(self, job: TrainJob) -> None:
        """Refuse stages with one network, another optimiser, or parametrised layers.

        Raises:
            UsageError: it says which.
        """
        require_subnetworks(job, "lazy_adamw", "all of which each step uses. Expected a stage with a sampler.")
        if job.options.optimizer != "adamw":
            raise UsageError(f"lazy_adamw: stage {job.stage!r} has optimizer: {job.options.optimizer}. Expected adamw.")
        if job.net is None:
            return
        for name, _, _ in _parameters(job.net):
            if "parametrizations" in name:
                raise UsageError(
                    f"lazy_adamw: stage {job.stage!r}: {name.removesuffix('.original')} is parametrised, so its "
                    "entries may not belong to single heads and neurons. Expected no such modifier in the stage."
                )

    def claims(self, net: nn.Module) -> list[nn.Parameter]:
        """Take over the parameters of all layers."""
        return [parameter for _, _, parameter in _parameters(net) if parameter.requires_grad]

    def on_start(self, job: TrainJob) -> None:
        """Begin with moments of zero."""
        import torch

        from nasframe.nn.elastic import family_of, layers_of, slices_of

        self.validate(job)
        self.tracked = []
        parts: dict[int, Part] = {}
        for layer in layers_of(job.net):
            for part in slices_of(family_of(job.net), layer):
                tensor = getattr(layer.get_submodule(part.path), part.name)
                if tensor is not None:
                    parts[id(tensor)] = part
        for _, layer_position, parameter in _parameters(job.net):
            if not parameter.requires_grad:
                continue
            found = parts.get(id(parameter))
            units = 1
            if found is not None:
                units = parameter.shape[found.dim] // (found.blocks * found.width)
            self.tracked.append(
                Tracked(
                    layer=layer_position,
                    parameter=parameter,
                    part=found,
                    decay=job.options.weight_decay if parameter.ndim > 1 else 0.0,
                    mean=torch.zeros_like(parameter),
                    square=torch.zeros_like(parameter),
                    uses=torch.zeros(units, device=parameter.device),
                )
            )
        self.restore()

    def on_batch(self, step: Step) -> None:
        """Note the sizes of the sub-network."""
        self.used.note(step)

    def on_update(self, step: Step) -> None:
        """Make the step, unless it is skipped."""
        import torch

        if not step.skipped:
            with torch.no_grad():
                for tracked in self.tracked:
                    if tracked.layer in self.used.layers:
                        tracked.update(self._units(tracked), step.lr)
        self.used = UsedSizes()

    def _units(self, tracked: Tracked) -> int:
        if tracked.part is None:
            return 1
        return self.used.units[f"{tracked.part.unit}.{tracked.layer}"]

    def state_dict(self) -> dict[str, Any]:
        """Return moments and numbers of steps."""
        return {
            "mean": [tracked.mean for tracked in self.tracked],
            "square": [tracked.square for tracked in self.tracked],
            "uses": [tracked.uses for tracked in self.tracked],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that :meth:`state_dict` returned."""
        self.loaded = state
        self.restore()

    def restore(self) -> None:
        """Take over a loaded state as soon as there are tensors to take it."""
        if not self.tracked or not self.loaded:
            return
        for name in ("mean", "square", "uses"):
            for tracked, stored in zip(self.tracked, self.loaded[name], strict=True):
                getattr(tracked, name).copy_(stored)
        self.loaded = {}


def _parameters(net: nn.Module) -> Iterator[tuple[str, int, nn.Parameter]]:
    """Yield the name, layer and tensor of each parameter of the layers."""
    from nasframe.nn.elastic import layers_of

    for position, layer in enumerate(layers_of(net)):
        for name, parameter in layer.named_parameters():
            yield f"{position}.{name}", position, parameter
