"""The removable channels of convolutional networks, followed from who makes them to who reads them."""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import fx, nn
from torch.nn import functional

from nasframe.errors import UsageError
from nasframe.nn.groups import Groups, Member

PASSES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Dropout, nn.Dropout2d, nn.Identity,
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Flatten,
)  # fmt: skip
"""Modules that treat each channel by itself and make zeros of zeros, as these functions and methods do."""
FUNCTIONS = {
    torch.relu, torch.tanh, functional.relu, functional.gelu, functional.silu, functional.dropout,
    functional.max_pool2d, functional.avg_pool2d, functional.adaptive_avg_pool2d, torch.flatten, "flatten", "relu",
}  # fmt: skip
ADDS = {operator.add, operator.iadd, torch.add, "add", "add_"}


class _Channels:
    """The channels of one activation; those of activations that are added up are the same ones."""

    def __init__(self, count: int = 0, fixed: bool = False) -> None:
        self.count, self.fixed, self.into = count, fixed, self
        self.members: dict[Member, None] = {}
        self.along: dict[Member, None] = {}

    @property
    def root(self) -> _Channels:
        """The one of its kind that stands for all that were joined."""
        return self if self.into is self else self.into.root

    def join(self, other: _Channels) -> None:
        """Make two sets of channels one."""
        mine, theirs = self.root, other.root
        if mine is not theirs:
            mine.members |= theirs.members
            mine.along |= theirs.along
            mine.fixed |= theirs.fixed or mine.count != theirs.count
            theirs.into = mine


def channel_groups(net: nn.Module) -> list[Groups]:
    """List the channels of a convolutional network that can be removed: all but its inputs' and its outputs'.

    A channel owns its filter and bias, and its entries of a batch normalisation; where these are zero, what comes
    out of it is zero. The weights that read it in the convolutions and linear maps that follow leave along with it.
    Channels that are added up (residual connections) leave together. Where an operation is not known, or makes
    something of zeros, the channels it reads stay.

    Args:
        net: a network that ``torch.fx`` can trace.

    Returns:
        One entry for each set of channels, in the order in which they are made.

    Raises:
        UsageError: the network cannot be traced, or has no channels that could be removed.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    >>> [(groups.count, [member.name for member in groups.members]) for groups in channel_groups(net)]
    [(4, ['0.weight', '0.bias', '1.weight', '1.bias'])]
    """
    try:
        graph = fx.symbolic_trace(net).graph
    except Exception as error:  # tracing runs the network's own code
        raise UsageError(f"{type(net).__name__}: its channels cannot be followed: {error}") from error
    uses = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    once = {name: module for name, module in net.named_modules() if uses[name] == 1}
    made: dict[fx.Node, _Channels] = {}
    for node in graph.nodes:
        made[node] = _follow(node, [made[source].root for source in node.all_input_nodes], once)
    found = dict.fromkeys(channels.root for channels in made.values() if not channels.root.fixed)
    groups = [
        Groups("channels", i, channels.count, tuple(channels.members), tuple(channels.along))
        for i, channels in enumerate(found)
    ]
    if not groups:
        raise UsageError(f"{type(net).__name__}: it has no channels that could be removed.")
    return groups


def without(net: nn.Module, groups: Sequence[Groups], removed: Mapping[int, torch.Tensor]) -> nn.Module:
    """Copy a convolutional network without some of its channels; each set of channels keeps at least one.

    Args:
        net: the network.
        groups: its channels, from :func:`channel_groups`.
        removed: ``{layer: (channels,) mask}``, true for those that go.

    Returns:
        A smaller network of the same class; where the removed groups are zero, with the same outputs.
    """
    small = copy.deepcopy(net)
    for entry in groups:
        keep = torch.nonzero(~removed[entry.layer]).flatten()
        keep = keep if len(keep) else torch.zeros(1, dtype=torch.long, device=keep.device)
        for member in (*entry.members, *entry.along):
            path, _, key = member.name.rpartition(".")
            module, index = small.get_submodule(path), keep[:, None] * member.width
            index = (index + torch.arange(member.width, device=keep.device)).flatten()
            whole = getattr(module, key)
            part = whole.detach().index_select(member.dim, index)
            setattr(module, key, nn.Parameter(part) if isinstance(whole, nn.Parameter) else part)
    for module in small.modules():
        _fit(module)
    return small


def _follow(node: fx.Node, inputs: list[_Channels], modules: Mapping[str, nn.Module]) -> _Channels:
    """Say which channels come out of an operation, and note what it does with those that go in."""
    name, module = str(node.target), modules.get(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, nn.BatchNorm2d):
        _note(inputs[0], name, module)
        return inputs[0]
    if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1):
        read, count = module.weight.shape[1], inputs[0].count
        if count and read % count == 0:
            inputs[0].along[Member(f"{name}.weight", 1, read // count)] = None
        else:
            inputs[0].fixed = True
        made = _Channels(module.weight.shape[0])
        _note(made, name, module)
        return made
    if isinstance(module, PASSES) or (node.op in ("call_function", "call_method") and _by_channel(node)):
        return inputs[0]
    if node.op in ("call_function", "call_method") and node.target in ADDS and len(inputs) == 2:
        inputs[0].join(inputs[1])
        return inputs[0]
    for channels in inputs:
        channels.fixed = True
    return _Channels(fixed=True)


def _by_channel(node: fx.Node) -> bool:
    """Tell whether a function treats each channel by itself; a mean may only be over the picture."""
    if node.target in ("mean", torch.mean):
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        return isinstance(dims, tuple | list) and {d % 4 for d in dims if isinstance(d, int)} == {2, 3}
    return node.target in FUNCTIONS


def _note(channels: _Channels, name: str, module: nn.Module) -> None:
    """Let channels own the rows of a module's tensors."""
    for key, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        if tensor.ndim:
            owned = channels.members if isinstance(tensor, nn.Parameter) else channels.along
            owned[Member(f"{name}.{key}", 0, 1)] = None


def _fit(module: nn.Module) -> None:
    """Bring a module's own record of its sizes up to date."""
    if isinstance(module, nn.Conv2d):
        module.out_channels, module.in_channels = module.weight.shape[:2]
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
        module.num_features = len(module.running_mean)
