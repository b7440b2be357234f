"""Networks as functions in a chosen precision. Verbs of recipes import this, and checks read verbs without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nasframe.errors import RunError

if TYPE_CHECKING:
    from torch import nn

    from nasframe.records import Forward


def forward_of(forward: Forward, net: nn.Module, precision: str, name: str = "the network") -> Forward:
    """Return a network as a function: inputs go to its device, and matrix products run in ``precision``.

    The function raises RunError for outputs that are not finite, which would otherwise count as some class.
    """
    if net is None:  # a recipe's space may have no network
        return forward
    from nasframe.training.optim import autocast, finite_outputs

    device = next(net.parameters()).device

    def call(**inputs: Any) -> Any:
        inputs_on_device = {name: tensor.to(device) for name, tensor in inputs.items()}
        with autocast(precision, device):
            outputs = forward(**inputs_on_device)
        if not finite_outputs(outputs):
            raise RunError(f"{name}: the outputs are not finite, in precision {precision}.")
        return outputs

    return call
