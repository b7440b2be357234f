"""The removable channels of convolutional networks.

They are followed through the traced graph, from the operation that makes them to those that read them. An operation
that is not known keeps its channels: a channel is removed only if that is certain to change nothing else.
"""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from nasframe.errors import UsageError
from nasframe.nn.elastic import stock_class
from nasframe.nn.groups import Groups, Member, check_units, encoder_groups

PASSES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Dropout, nn.Dropout2d, nn.Identity,
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Flatten,
)  # fmt: skip
"""Modules that treat each channel by itself and turn zeros into zeros."""
FUNCTIONS = {
    torch.relu, torch.tanh, functional.relu, functional.gelu, functional.silu, functional.dropout,
    functional.max_pool2d, functional.avg_pool2d, functional.adaptive_avg_pool2d, torch.flatten, "flatten", "relu",
}  # fmt: skip
"""Functions, and names of methods, that do the same."""
ADDS = {operator.add, operator.iadd, torch.add, "add", "add_"}


class _Channels:
    """The channels of one activation.

    Activations that are added up, as residual connections do, must lose the same channels. They are joined into one
    set, in the manner of union–find: ``into`` leads to the set that stands for both.

    Args:
        count: the number of channels; 0 if it is not known.
        fixed: whether none of them can be removed.
    """

    def __init__(self, count: int = 0, fixed: bool = False) -> None:
        self.count = count
        self.fixed = fixed
        self.into = self
        # Dicts and not sets: the order of groups must not change from run to run.
        self.members: dict[Member, None] = {}
        self.along: dict[Member, None] = {}

    @property
    def root(self) -> _Channels:
        """The set of channels that stands for all that were joined."""
        if self.into is self:
            return self
        return self.into.root

    def join(self, other: _Channels) -> None:
        """Join two sets of channels into one."""
        mine = self.root
        theirs = other.root
        if mine is theirs:
            return
        mine.members |= theirs.members
        mine.along |= theirs.along
        # With different counts the addition broadcasts, which pairs no channel with just one other.
        mine.fixed |= theirs.fixed or mine.count != theirs.count
        theirs.into = mine


def channel_groups(net: nn.Module) -> list[Groups]:
    """Return the channels of a convolutional network that can be removed: all but those of its inputs and outputs.

    A channel owns its filter and bias, and its entries of a batch normalisation; if these are zero, its output is
    zero. The weights that read it in the convolutions and linear maps after it leave with it. Channels that are added
    up (residual connections) leave together. If an operation is not known, or turns zeros into something else, the
    channels that it reads stay.

    Args:
        net: a network that ``torch.fx`` can trace.

    Returns:
        One entry for each set of channels, in the order of the forward pass.

    Raises:
        UsageError: the network cannot be traced, or no channels of it can be removed.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    >>> [(groups.count, [member.name for member in groups.members]) for groups in channel_groups(net)]
    [(4, ['0.weight', '0.bias', '1.weight', '1.bias'])]
    """
    try:
        graph = fx.symbolic_trace(net).graph
    except Exception as error:  # tracing runs the network's own code
        raise UsageError(f"{type(net).__name__}: its channels cannot be followed: {error}") from error
    # A module that runs several times would have to fit several sets of channels at once.
    uses = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    used_once = {name: module for name, module in net.named_modules() if uses[name] == 1}
    channels_of: dict[fx.Node, _Channels] = {}
    for node in graph.nodes:
        inputs = [channels_of[source].root for source in node.all_input_nodes]
        channels_of[node] = _follow(node, inputs, used_once)
    # Joined sets have one root; the fixed ones are those of inputs, outputs and unknown operations.
    roots = dict.fromkeys(channels.root for channels in channels_of.values())
    removable = [channels for channels in roots if not channels.fixed]
    if not removable:
        raise UsageError(f"{type(net).__name__}: none of its channels can be removed.")
    groups = []
    for i, channels in enumerate(removable):
        entry = Groups("channels", i, channels.count, tuple(channels.members), tuple(channels.along))
        groups.append(entry)
    return groups


def without(net: nn.Module, groups: Sequence[Groups], removed: Mapping[int, torch.Tensor]) -> nn.Module:
    """Return a copy of a convolutional network without some of its channels; each set keeps at least one channel.

    Args:
        net: the network.
        groups: its channels, from :func:`channel_groups`.
        removed: ``{layer: (channels,) mask}``, true for channels to remove.

    Returns:
        A smaller network of the same class; if the removed groups are zero, its outputs are the same.
    """
    small = copy.deepcopy(net)
    for entry in groups:
        keep = torch.nonzero(~removed[entry.layer]).flatten()
        if not len(keep):  # modules without channels do not run
            keep = torch.zeros(1, dtype=torch.long, device=keep.device)
        for member in (*entry.members, *entry.along):
            path, _, key = member.name.rpartition(".")
            module = small.get_submodule(path)
            # A channel has `width` neighbouring entries, all of which stay or go.
            inside = torch.arange(member.width, device=keep.device)
            index = (keep[:, None] * member.width + inside).flatten()
            whole = getattr(module, key)
            part = whole.detach().index_select(member.dim, index)
            if isinstance(whole, nn.Parameter):
                part = nn.Parameter(part)
            setattr(module, key, part)
    for module in small.modules():
        _fit(module)
    return small


def _follow(node: fx.Node, inputs: list[_Channels], modules: Mapping[str, nn.Module]) -> _Channels:
    """Return the channels of an operation's output, and record what it does with those of its inputs."""
    if node.op == "call_module":
        name = str(node.target)
        return _follow_module(name, modules.get(name), inputs)
    if node.op in ("call_function", "call_method"):
        if _by_channel(node):
            return inputs[0]
        if node.target in ADDS and len(inputs) == 2:
            inputs[0].join(inputs[1])
            return inputs[0]
    return _unknown(inputs)


def _follow_module(name: str, module: Any, inputs: list[_Channels]) -> _Channels:
    """Do the same for the call of a module; ``None`` stands for a module that is used several times."""
    if isinstance(module, nn.BatchNorm2d):
        _note(inputs[0], name, module)
        return inputs[0]
    is_plain_convolution = isinstance(module, nn.Conv2d) and module.groups == 1
    if is_plain_convolution or isinstance(module, nn.Linear):
        _note_reader(inputs[0], name, module)
        made = _Channels(module.weight.shape[0])
        _note(made, name, module)
        return made
    if isinstance(module, PASSES):
        return inputs[0]
    return _unknown(inputs)


def _unknown(inputs: list[_Channels]) -> _Channels:
    """Fix the channels that an unknown operation reads, and return those of its output, which are fixed, too."""
    for channels in inputs:
        channels.fixed = True
    return _Channels(fixed=True)


def _note_reader(channels: _Channels, name: str, module: Any) -> None:
    """Record that the columns of a module's weight leave with the channels that they read.

    After a flattened picture, a channel has several neighbouring columns.
    """
    columns = module.weight.shape[1]
    if channels.count and columns % channels.count == 0:
        channels.along[Member(f"{name}.weight", 1, columns // channels.count)] = None
    else:
        channels.fixed = True


def _by_channel(node: fx.Node) -> bool:
    """Tell whether a function treats each channel by itself."""
    if node.target in ("mean", torch.mean):
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        if not isinstance(dims, tuple | list):
            return False
        # Activations are (batch, channels, height, width), and dimensions may be counted from the end.
        averaged = {dim % 4 for dim in dims if isinstance(dim, int)}
        return averaged == {2, 3}
    return node.target in FUNCTIONS


def _note(channels: _Channels, name: str, module: nn.Module) -> None:
    """Record that channels own the rows of a module's tensors; buffers, which are not trained, only leave with them."""
    parameters = module.named_parameters(recurse=False)
    buffers = module.named_buffers(recurse=False)
    for key, tensor in [*parameters, *buffers]:
        if tensor.ndim:  # a batch normalisation counts its batches in a scalar
            owned = channels.members if isinstance(tensor, nn.Parameter) else channels.along
            owned[Member(f"{name}.{key}", 0, 1)] = None


def _fit(module: nn.Module) -> None:
    """Update a module's own record of its sizes."""
    if isinstance(module, nn.Conv2d):
        module.out_channels, module.in_channels = module.weight.shape[:2]
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
        module.num_features = len(module.running_mean)


def removable_groups(net: nn.Module, units: Collection[str] | None = None) -> list[Groups]:
    """Return an encoder's heads and neurons, or the channels of any other network that torch.fx can trace.

    Args:
        net: the network.
        units: the kinds of groups; default: all that the network has.

    Raises:
        UsageError: the network has no groups of this kind.
    """
    try:
        stock_class(net)
    except TypeError:
        check_units(units, ["channels"])
        return channel_groups(net)
    return encoder_groups(net, units)
