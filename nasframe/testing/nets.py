"""How contracts compare networks: what they compute, and whether they stayed unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nasframe.nn.outputs import LOGITS, compared
from nasframe.testing.kit import require

SHOWN = 3
"""How many names a message lists before it counts the rest."""


def outputs_of(forward: Callable[..., Any], inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Run a network without gradients; return its logits, or else all numbers of its outputs one after the other."""
    with torch.no_grad():
        return numbers_of(forward(**inputs))


def numbers_of(outputs: Any) -> torch.Tensor:
    """Return the logits of outputs, or else all floating-point numbers in them one after the other."""
    tensors = compared(outputs)
    if LOGITS in tensors:
        return tensors[LOGITS]
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the largest difference of two tensors; infinity if their shapes differ."""
    if a.shape != b.shape:
        return float("inf")
    if a.numel() == 0:
        return 0.0
    return float((a - b).abs().max())


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    """Tell whether two networks have the same tensors, bit by bit."""
    first = a.state_dict()
    second = b.state_dict()
    if first.keys() != second.keys():
        return False
    return all(torch.equal(first[name], second[name]) for name in first)


def shapes_of(net: nn.Module) -> dict[str, torch.Size]:
    """Return the shape of each tensor by name."""
    return {name: tensor.shape for name, tensor in net.state_dict().items()}


@dataclass(frozen=True)
class Snapshot:
    """The state of a network at one moment.

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
        """Return a snapshot of a network."""
        # Copies, because training changes tensors in place.
        state = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}
        modes = {}
        hooks = {}
        for name, module in net.named_modules():
            modes[name] = module.training
            hooks[name] = _hook_count(module)
        frozen = [name for name, parameter in net.named_parameters() if not parameter.requires_grad]
        return cls(state, modes, hooks, frozenset(frozen))


def require_unchanged(
    net: nn.Module, before: Snapshot, who: str, advice: str, hooks: bool = True, what: str = "the network"
) -> None:
    """Require that a network is still what it was.

    Args:
        net: the network now.
        before: its snapshot.
        who: who may have changed it, such as ``extract``.
        advice: what its author should do instead.
        hooks: whether to check hooks, too.
        what: the network's name in the message.
    """
    now = Snapshot.of(net)

    def require_no_change(kind: str, names: Iterable[str]) -> None:
        changed = list(names)
        require(not changed, f"{who} changed {kind} of {what} ({listed(changed)}); {advice}")

    # Names, then shapes, then values: each comparison needs the one before it.
    require_no_change("tensors' names", before.state.keys() ^ now.state.keys())
    reshaped = []
    rewritten = []
    for name, tensor in now.state.items():
        earlier = before.state[name]
        if tensor.shape != earlier.shape:
            reshaped.append(name)
        elif not torch.equal(tensor, earlier):
            rewritten.append(name)
    require_no_change("shapes", reshaped)
    require_no_change("weights", rewritten)
    switched = []
    for name, mode in now.modes.items():
        if before.modes.get(name) != mode:
            switched.append(name or "itself")  # the network's own name among its modules is empty
    require_no_change("train/eval mode", switched)
    require_no_change("requires_grad", now.frozen ^ before.frozen)
    if hooks:
        require_no_hooks_left(net, before, who, advice)


def require_no_hooks_left(net: nn.Module, before: Snapshot, who: str, advice: str) -> None:
    """Require that no module has more hooks than before."""
    left = []
    for name, module in net.named_modules():
        if _hook_count(module) > before.hooks.get(name, 0):
            left.append(name or "the network itself")
    require(not left, f"{who} left hooks behind ({listed(left)}); {advice}")


def listed(names: Iterable[str]) -> str:
    """Return the first few names in alphabetical order, and how many more there are.

    >>> listed(["d", "c", "b", "a"])
    'a, b, c and 1 more'
    """
    ordered = sorted(names)
    text = ", ".join(ordered[:SHOWN])
    rest = len(ordered) - SHOWN
    if rest <= 0:
        return text
    return f"{text} and {rest} more"


def _hook_count(module: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for kind in kinds)
