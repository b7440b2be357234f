"""What contracts ask of networks: what they compute, and whether they stayed as they were."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nasframe.testing.kit import require


def outputs_of(forward: Callable[..., Any], inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Run a network without gradients; return its logits, ``(batch, labels)``."""
    with torch.no_grad():
        logits: torch.Tensor = forward(**inputs).logits
    return logits


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the largest difference of two tensors, infinite where their shapes differ."""
    if a.shape != b.shape:
        return float("inf")
    return float((a - b).abs().max()) if a.numel() else 0.0


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    """Tell whether two networks have the same tensors, bit by bit."""
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@dataclass(frozen=True)
class Snapshot:
    """A network at one moment.

    Args:
        state: name → a copy of the tensor.
        modes: name of a module → its train/eval mode.
        hooks: name of a module → how many hooks it has.
        frozen: names of parameters without gradients.
    """

    state: Mapping[str, torch.Tensor]
    modes: Mapping[str, bool]
    hooks: Mapping[str, int]
    frozen: frozenset[str]

    @classmethod
    def of(cls, net: nn.Module) -> Snapshot:
        """Take one."""
        modules = dict(net.named_modules())
        return cls(
            {name: tensor.detach().clone() for name, tensor in net.state_dict().items()},
            {name: module.training for name, module in modules.items()},
            {name: _hooks(module) for name, module in modules.items()},
            frozenset(name for name, parameter in net.named_parameters() if not parameter.requires_grad),
        )


def require_unchanged(net: nn.Module, before: Snapshot, who: str, hooks: bool = True) -> None:
    """Require that a network is as it was.

    Args:
        net: the network now.
        before: what it was.
        who: who may have changed it, and what to do instead.
        hooks: whether hooks count too.
    """
    now = Snapshot.of(net)
    gone, new = before.state.keys() - now.state.keys(), now.state.keys() - before.state.keys()
    require(not gone and not new, f"{who}: the network's tensors have other names now ({listed(gone | new)})")
    shapes = [name for name, tensor in now.state.items() if tensor.shape != before.state[name].shape]
    require(not shapes, f"{who}: shapes changed ({listed(shapes)})")
    values = [name for name, tensor in now.state.items() if not torch.equal(tensor, before.state[name])]
    require(not values, f"{who}: weights changed ({listed(values)})")
    modes = [name or "the network" for name, mode in now.modes.items() if before.modes.get(name) != mode]
    require(not modes, f"{who}: train/eval mode changed ({listed(modes)})")
    require(now.frozen == before.frozen, f"{who}: requires_grad changed ({listed(now.frozen ^ before.frozen)})")
    if hooks:
        require_no_hooks_left(net, before, who)


def require_no_hooks_left(net: nn.Module, before: Snapshot, who: str) -> None:
    """Require that no module has more hooks than before."""
    now = Snapshot.of(net).hooks
    left = [name or "the network" for name, count in now.items() if count > before.hooks.get(name, 0)]
    require(not left, f"{who}: hooks are left behind ({listed(left)})")


def listed(names: Any) -> str:
    """Write a few names."""
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _hooks(module: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for kind in kinds)
