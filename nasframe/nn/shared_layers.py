"""Copies of layers that share their weights and differ from their originals in a few entries.

The views of ``nasframe.nn.slices`` consist of them. No weight is copied: a copy's narrowed parameters are slices of the
original's, which are bound again at each call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

from nasframe.nn.elastic import LINEAR, FamilyRow, Part, resize_layer, slices_of

Follower = tuple[dict[str, Any], dict[str, Any]]


class Slice:
    """One tensor of a copy: the entries of its original's first units, or all of them.

    A slice of a plain parameter is a leaf of the graph that adds its gradient into the parameter's. This is for speed:
    the backward pass of ``narrow`` would fill a full-size gradient with zeros for each slice.

    Args:
        source: the module that holds the original tensor.
        copied: the module that will hold the slice.
        name: the tensor's name in both.
        part: where the units' entries are; ``None`` takes the whole tensor.
        units: the number of units that are kept.
    """

    def __init__(
        self, source: nn.Module, copied: nn.Module, name: str, part: Part | None = None, units: int = 0
    ) -> None:
        self.source = source
        self.copied = copied
        self.name = name
        self.part = part
        self.units = units
        self.whole: torch.Tensor | None = None
        self.leaf: torch.Tensor | None = None

    def bind(self, autograd: bool) -> None:
        """Put the current slice into the copy."""
        whole: Any = self.source._parameters.get(self.name)
        is_plain = whole is not None
        if not is_plain:
            whole = getattr(self.source, self.name)  # parametrised, or there is no bias
        if self.part is None or whole is None:
            bound = whole
        elif autograd or not is_plain or whole._backward_hooks or whole._post_accumulate_grad_hooks:
            # The gradient has to flow through the original: to what it is computed from, or past its hooks.
            bound = self.part.first(whole, self.units)
        else:
            bound = self._leaf(whole, self.part)
        self.copied._parameters[self.name] = bound

    def _leaf(self, whole: torch.Tensor, part: Part) -> torch.Tensor:
        """Return the slice as a leaf of its own, made again if the parameter's memory or mode changed.

        A slice of several blocks is a copy, not a view, so it is made again each time: weights may have changed.
        """
        is_view = part.blocks == 1
        if is_view and self.leaf is not None and self.whole is whole and not _moved(whole, self.leaf):
            return self.leaf
        with torch.inference_mode(False), torch.enable_grad():
            leaf = part.first(whole.detach(), self.units)
            if whole.requires_grad:
                leaf.requires_grad_()
                leaf.register_post_accumulate_grad_hook(_gradient_adder(whole, part, self.units))
        if is_view:
            self.whole = whole
            self.leaf = leaf
        return leaf


def _moved(whole: torch.Tensor, leaf: torch.Tensor) -> bool:
    is_elsewhere = whole.data_ptr() != leaf.data_ptr()
    was_frozen_or_freed = whole.requires_grad != leaf.requires_grad
    return is_elsewhere or was_frozen_or_freed


def _gradient_adder(whole: torch.Tensor, part: Part, units: int) -> Callable[[torch.Tensor], None]:
    """Return the hook that moves a slice's gradient into its parameter's."""

    def add(leaf: torch.Tensor) -> None:
        # Gradients are recorded in backward only for second derivatives, which would miss this copying.
        if torch.is_grad_enabled():
            raise RuntimeError("create_graph=True needs a view made with autograd=True.")
        gradient: Any = leaf.grad
        leaf.grad = None
        if part.blocks > 1:
            _add_blocks(whole, part, units, gradient)
            return
        length = part.length(units)
        if whole.grad is not None:
            whole.grad.narrow(part.dim, 0, length).add_(gradient)
            return
        grad = torch.empty_like(whole)
        grad.narrow(part.dim, 0, length).copy_(gradient)
        grad.narrow(part.dim, length, grad.shape[part.dim] - length).zero_()
        whole.grad = grad

    return add


def _add_blocks(whole: torch.Tensor, part: Part, units: int, gradient: torch.Tensor) -> None:
    """Add the gradient of a slice of several blocks to its parameter's."""
    if whole.grad is None:
        whole.grad = torch.zeros_like(whole)
    part.runs(whole.grad, units).add_(part.runs(gradient, units))


class Narrowed(NamedTuple):
    """A narrowed layer or word embedding.

    Attributes:
        layer: the copy.
        slices: the slices to bind before it runs.
        followers: pairs of the states of an original and its copy, which has to follow it.
    """

    layer: nn.Module
    slices: list[Slice]
    followers: list[Follower]


def narrowed(family: FamilyRow, layer: nn.Module, heads: int, ffn: int) -> Narrowed:
    """Return a copy of a layer that has only its first heads and neurons, and shares everything else.

    Raises:
        TypeError: a linear map that would be sliced was replaced by another module.
    """
    copied: Any = layer
    paths = dict.fromkeys(part.path for part in slices_of(family, layer))  # a map with a bias is listed twice
    for path in paths:
        source = layer.get_submodule(path)
        # A quantised linear map, for example, computes with copies of its weight, which no slice would reach.
        if not isinstance(source, LINEAR):
            raise TypeError(f"{path}: a {type(source).__name__} cannot be sliced. Expected torch.nn.Linear.")
        copied = replaced(copied, path, _plain_copy(source))
    slices: list[Slice] = []

    def take(part: Part, units: int) -> None:
        source = layer.get_submodule(part.path)
        target = copied.get_submodule(part.path)
        slices.append(Slice(source, target, part.name, part, units))

    resize_layer(family, copied, heads, ffn, take)
    for path in (*family.readers("heads"), *family.readers("ffn")):
        # The bias of a map out of heads or neurons is whole. A factorised map shares the factor that has it.
        source = layer.get_submodule(path)
        if isinstance(source, LINEAR):
            slices.append(Slice(source, copied.get_submodule(path), "bias"))
    return Narrowed(copied, slices, followers(layer, copied))


def narrowed_words(words: nn.Module, rank: int) -> Narrowed:
    """Return a copy of a factorised word embedding that has only the first columns of both factors."""
    copied = shallow(words)
    copied.rank = rank
    slices = []
    for name, field in (("table", "embedding_dim"), ("project", "in_features")):
        source = words.get_submodule(name)
        factor = _plain_copy(source)
        setattr(factor, field, rank)
        copied._modules[name] = factor
        columns = Part("words", name, "weight", 1, "rank", 1, 1, outputs=False)
        slices.append(Slice(source, factor, "weight", columns, rank))
    return Narrowed(copied, slices, followers(words, copied))


def _plain_copy(module: nn.Module) -> Any:
    """Return a copy of a module without its parametrisations, because its slices are of parametrised tensors."""
    plain = shallow(module, type_before_parametrizations(module))
    plain._modules.pop("parametrizations", None)
    return plain


def shallow(module: nn.Module, cls: type | None = None) -> Any:
    """Return a copy of a module that shares its children, weights and hooks.

    ``copy.copy`` would share the dictionaries of children and parameters as well, in which copies differ.
    """
    copied: Any = object.__new__(cls or type(module))
    copied.__dict__.update(module.__dict__)
    copied.__dict__["_modules"] = dict(module._modules)
    copied.__dict__["_parameters"] = dict(module._parameters)
    return copied


def replaced(module: nn.Module, path: str, new: nn.Module) -> Any:
    """Return a copy of a module with another one at the end of a path; modules along the path are copied, too."""
    name, _, rest = path.partition(".")
    if rest:
        new = replaced(module.get_submodule(name), rest, new)
    copied = shallow(module)
    copied._modules[name] = new
    return copied


def followers(module: nn.Module, copied: nn.Module) -> list[Follower]:
    """Return pairs of the states of originals and copies, down to the modules that both share."""
    if module is copied:
        return []
    pairs: list[Follower] = [(module.__dict__, copied.__dict__)]
    for name, child in copied._modules.items():
        if child is not None:
            pairs += followers(module._modules[name], child)  # type: ignore[arg-type]
    return pairs
