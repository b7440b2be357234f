"""Costs of networks that are no slices: counted by running a copy without values, once for each architecture.

Exact tables (:mod:`nasframe.nn.count`) are for networks whose layers can be sliced. Any other network is copied to the
meta device, where tensors have shapes but no numbers, and torch's FlopCounterMode watches one forward pass of the copy.
That takes milliseconds, allocates nothing, and leaves the network alone.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from nasframe.nn.custom import Described
from nasframe.nn.rows import is_sliceable
from nasframe.records import Arch, Forward, arch_id

META = "meta"
WHOLE = ""
"""Stands for the whole network among the architectures of :class:`Traced`."""


_LAST_DIMENSIONS = frozenset({functional.layer_norm, functional.rms_norm})
"""Normalisations whose second argument is the shape of the last dimensions."""
_CHANNELS = frozenset({functional.batch_norm, functional.instance_norm})
"""Normalisations of channels, which are the second dimension; their fourth argument has a weight for each channel."""
_ELEMENTWISE = frozenset({functional.gelu, functional.silu, functional.relu})


class UncountableError(Exception):
    """A forward pass or an extraction that cannot be followed without values; its text says why."""


def has_table(net: nn.Module) -> bool:
    """Tell whether the costs of a network's sub-networks are known exactly, without running any of them.

    >>> from nasframe.testing.toy import tiny_net
    >>> has_table(tiny_net()), has_table(nn.Linear(2, 2))
    (True, False)
    """
    return is_sliceable(net)


def weightless(net: nn.Module) -> nn.Module:
    """Return a copy of a network in eval mode whose tensors have shapes and no values, on the meta device.

    Weights that the network ties are tied in the copy, too.

    Args:
        net: the network, which stays as it is.

    >>> weightless(nn.Linear(3, 2)).weight.is_meta
    True
    """
    # Copies of tensors are replaced in advance, so that the values are never copied, not even for a moment.
    replaced: dict[int, Any] = {}
    for tensor in itertools.chain(net.parameters(), net.buffers()):
        shape_only: torch.Tensor = torch.empty_like(tensor, device=META)
        if isinstance(tensor, nn.Parameter):
            shape_only = nn.Parameter(shape_only, requires_grad=tensor.requires_grad)
        replaced[id(tensor)] = shape_only
    return copy.deepcopy(net, replaced).eval()


def forward_macs(forward: Forward, inputs: Mapping[str, torch.Tensor]) -> float:
    """Return the multiply-adds of the matrix products and convolutions of a forward pass.

    Args:
        forward: a network on the meta device, or a view of it.
        inputs: its inputs, on any device; only their shapes and types count.

    Raises:
        UncountableError: the forward pass depends on values, or does not accept these inputs.

    >>> forward_macs(weightless(nn.Linear(3, 2)), {"input": torch.ones(4, 3)})
    24.0
    """
    shapes = {name: tensor.to(META) for name, tensor in inputs.items()}
    try:
        return _flops(forward, shapes) / 2  # a multiply-add is two FLOPs
    except Exception as error:  # whatever a foreign network raises only means that it cannot be counted
        # Some networks look whether a mask hides anything. Without one they compute the same products.
        unmasked = {name: tensor for name, tensor in shapes.items() if not name.endswith("mask")}
        if len(unmasked) == len(shapes):
            raise UncountableError(_reason(error)) from error
        try:
            return _flops(forward, unmasked) / 2
        except Exception:  # the first error is the one that says why
            raise UncountableError(_reason(error)) from error


def _flops(forward: Forward, inputs: Mapping[str, torch.Tensor]) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter, _Shortcuts() as shortcuts:
        forward(**inputs)
    return float(counter.get_total_flops()) + shortcuts.flops


class _Shortcuts(TorchFunctionMode):
    """Answer the most frequent calls on tensors without values at once, by an empty tensor of the right shape.

    On the meta device torch takes linear maps, normalisations and activations apart into operations written in Python,
    several dozen for each, which would be most of the time of a count. What is not proved to fit goes to torch, which
    then raises its own error.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        """What the linear maps take that FlopCounterMode has not seen; the other calls take nothing that it counts."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        is_first_meta = bool(args) and isinstance(args[0], torch.Tensor) and args[0].is_meta
        if is_first_meta and func is functional.linear and _maps_linearly(*args, **named):
            inputs, weight = args[0], args[1]
            outputs = weight.shape[0]
            self.flops += 2 * inputs.numel() * outputs
            return inputs.new_empty((*inputs.shape[:-1], outputs))
        if is_first_meta and _keeps_shape(func, args, named):
            return torch.empty_like(args[0])
        return func(*args, **named)


def _maps_linearly(inputs: torch.Tensor, weight: Any = None, bias: torch.Tensor | None = None) -> bool:
    """Tell whether the tensors of a linear map fit together."""
    if not isinstance(weight, torch.Tensor) or weight.dim() != 2 or not weight.is_meta:
        return False
    fits = inputs.dim() > 0 and inputs.shape[-1] == weight.shape[1] and inputs.dtype == weight.dtype
    return fits and (bias is None or bias.shape == weight.shape[:1])


def _keeps_shape(func: Any, args: Sequence[Any], named: Mapping[str, Any]) -> bool:
    """Tell whether a call returns a tensor of its first argument's shape."""
    shape = args[0].shape
    if func in _ELEMENTWISE:
        return True
    if func in _LAST_DIMENSIONS:
        normalized = args[1] if len(args) > 1 else named.get("normalized_shape", ())
        return len(normalized) > 0 and tuple(shape[-len(normalized) :]) == tuple(normalized)
    if func in _CHANNELS:
        weight = args[3] if len(args) > 3 else named.get("weight")
        return weight is not None and len(shape) > 1 and tuple(weight.shape) == (shape[1],)
    return False


def parameters(net: nn.Module) -> float:
    """Return the number of a network's parameters, tied ones once.

    >>> parameters(nn.Linear(3, 2))
    8.0
    """
    return float(sum(parameter.numel() for parameter in counted(net).parameters()))


def part_parameters(net: nn.Module, part: str) -> float:
    """Return the number of parameters in a part of a network that says which modules it has, tied ones once.

    Args:
        net: the network.
        part: ``encoder`` or ``backbone``.

    Raises:
        UncountableError: the network does not say.
    """
    modules = net.part(part) if isinstance(net, Described) else None
    if modules is None:
        raise UncountableError(f"it has no part {part!r} that is known")
    return parameters(nn.ModuleList(modules))


def size(net: nn.Module) -> float:
    """Return the bytes of a network's parameters in their present types, tied ones once.

    >>> size(nn.Linear(3, 2))
    32.0
    """
    return float(sum(parameter.numel() * parameter.element_size() for parameter in counted(net).parameters()))


def counted(net: nn.Module) -> nn.Module:
    """Return the part of a network whose parameters count: all of it, unless it says otherwise."""
    if isinstance(net, Described):
        return net.counted()
    return net


class Traced:
    """What is remembered of networks without tables: a weightless copy of each, and numbers by architecture.

    Networks are held weakly, so that they are forgotten when nothing else holds them.
    """

    def __init__(self) -> None:
        self._copies: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()
        # A number that cannot be counted is remembered by the reason.
        self._numbers: WeakKeyDictionary[nn.Module, dict[tuple[Any, str], float | str]] = WeakKeyDictionary()

    def macs(self, space: Any, net: nn.Module, arch: Arch | None, inputs: Mapping[str, torch.Tensor]) -> float:
        """Return the multiply-adds of one forward pass of a sub-network.

        Args:
            space: the space that the architecture is from.
            net: the network.
            arch: the sub-network; ``None`` is the whole network.
            inputs: one batch; the count is of the whole batch.

        Raises:
            UncountableError: the forward pass cannot be followed.
        """
        shapes = shapes_of(inputs)

        def trace(shapes_only: nn.Module) -> float:
            forward: Forward = shapes_only
            if arch is not None:
                forward = _followed(space.view, shapes_only, arch)
            return forward_macs(forward, inputs)

        return self._remembered(("macs", shapes), net, arch, trace)

    def of_model(
        self, what: Hashable, count: Callable[[nn.Module], float], space: Any, net: nn.Module, arch: Arch | None
    ) -> float:
        """Return a number of a sub-network's stand-alone model, which is counted without values.

        Args:
            what: what the number is; it is remembered under this name.
            count: counts a model on the meta device.
            space: the space that the architecture is from.
            net: the network.
            arch: the sub-network; ``None`` is the whole network.

        Raises:
            UncountableError: extraction or count cannot be followed.
        """

        def trace(shapes_only: nn.Module) -> float:
            if arch is None:
                return count(shapes_only)
            try:
                model = _followed(space.extract, shapes_only, arch)
            except UncountableError:  # the space looks at values, so they are extracted, too
                model = weightless(_followed(space.extract, net, arch))
            return count(model.eval())

        return self._remembered(what, net, arch, trace)

    def _remembered(self, what: Any, net: nn.Module, arch: Arch | None, trace: Any) -> float:
        """Return a number of a sub-network, or raise as it did the first time."""
        numbers = self._numbers.setdefault(net, {})
        key = (what, WHOLE if arch is None else arch_id(arch))
        if key not in numbers:
            if net not in self._copies:
                self._copies[net] = weightless(net)
            try:
                numbers[key] = trace(self._copies[net])
            except UncountableError as error:
                numbers[key] = str(error)  # the error itself would keep the network alive, by its traceback
        number = numbers[key]
        if isinstance(number, str):
            raise UncountableError(number)
        return number


@contextmanager
def _ties_kept() -> Iterator[None]:
    """Let ``module.to("meta")`` inside the block keep tied weights tied: by itself it makes a parameter for each path.

    A space may move what it extracts to the device of its network.
    """
    future = torch.__future__
    before = future.get_swap_module_params_on_conversion()
    future.set_swap_module_params_on_conversion(True)
    try:
        yield
    finally:
        future.set_swap_module_params_on_conversion(before)


def shapes_of(inputs: Mapping[str, torch.Tensor]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return the shapes of a network's inputs, by which a count of them is remembered."""
    return tuple((name, tuple(tensor.shape)) for name, tensor in inputs.items())


def _followed(method: Any, net: nn.Module, arch: Arch) -> Any:
    """Call a space's method on a network without values."""
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), _ties_kept():
            return method(net, arch)
    except Exception as error:
        raise UncountableError(_reason(error)) from error


def _reason(error: Exception) -> str:
    """Return an error as one line."""
    first_line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
