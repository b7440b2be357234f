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

from nasframe.nn.elastic import Family, resize_layer, slices_of

Follower = tuple[dict[str, Any], dict[str, Any]]


class Slice:
    """One tensor of a copy: the first entries of its original's along one dimension, or all of them.

    A slice of a plain parameter is a leaf of the graph that adds its gradient into the parameter's. This is for speed:
    the backward pass of ``narrow`` would fill a full-size gradient with zeros for each slice.

    Args:
        source: the module that holds the original tensor.
        copied: the module that will hold the slice.
        name: the tensor's name in both.
        dim: the dimension that narrows; ``None`` takes the whole tensor.
        length: the number of entries that are kept along it.
    """

    def __init__(
        self, source: nn.Module, copied: nn.Module, name: str, dim: int | None = None, length: int = 0
    ) -> None:
        self.source = source
        self.copied = copied
        self.name = name
        self.dim = dim
        self.length = length
        self.whole: torch.Tensor | None = None
        self.leaf: torch.Tensor | None = None

    def bind(self, autograd: bool) -> None:
        """Put the current slice into the copy."""
        whole: Any = self.source._parameters.get(self.name)
        is_plain = whole is not None
        if not is_plain:
            whole = getattr(self.source, self.name)  # parametrised, or there is no bias
        if self.dim is None or whole is None:
            part = whole
        elif autograd or not is_plain or whole._backward_hooks or whole._post_accumulate_grad_hooks:
            # The gradient has to flow through the original: to what it is computed from, or past its hooks.
            part = whole.narrow(self.dim, 0, self.length)
        else:
            part = self._leaf(whole, self.dim)
        self.copied._parameters[self.name] = part

    def _leaf(self, whole: torch.Tensor, dim: int) -> torch.Tensor:
        """Return the slice as a leaf of its own, made again if the parameter's memory or mode changed."""
        if self.leaf is not None and self.whole is whole and not _moved(whole, self.leaf):
            return self.leaf
        with torch.inference_mode(False), torch.enable_grad():
            leaf = whole.detach().narrow(dim, 0, self.length)
            if whole.requires_grad:
                leaf.requires_grad_()
                leaf.register_post_accumulate_grad_hook(_gradient_adder(whole, dim, self.length))
        self.whole = whole
        self.leaf = leaf
        return leaf


def _moved(whole: torch.Tensor, leaf: torch.Tensor) -> bool:
    is_elsewhere = whole.data_ptr() != leaf.data_ptr()
    was_frozen_or_freed = whole.requires_grad != leaf.requires_grad
    return is_elsewhere or was_frozen_or_freed


def _gradient_adder(whole: torch.Tensor, dim: int, length: int) -> Callable[[torch.Tensor], None]:
    """Return the hook that moves a slice's gradient into its parameter's."""

    def add(leaf: torch.Tensor) -> None:
        # Gradients are recorded in backward only for second derivatives, which would miss this copying.
        if torch.is_grad_enabled():
            raise RuntimeError("create_graph=True needs a view made with autograd=True.")
        part: Any = leaf.grad
        leaf.grad = None
        if whole.grad is not None:
            whole.grad.narrow(dim, 0, length).add_(part)
            return
        grad = torch.empty_like(whole)
        grad.narrow(dim, 0, length).copy_(part)
        grad.narrow(dim, length, grad.shape[dim] - length).zero_()
        whole.grad = grad

    return add


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


def narrowed(family: Family, layer: nn.Module, heads: int, ffn: int) -> Narrowed:
    """Return a copy of a layer that has only its first heads and neurons, and shares everything else.

    Raises:
        TypeError: a linear map that would be sliced was replaced by another module.
    """
    copied: Any = layer
    paths = [path for path, *_ in slices_of(family, layer)]
    for path in dict.fromkeys(paths):  # a map with a bias is listed twice
        source = layer.get_submodule(path)
        # A quantised linear map, for example, computes with copies of its weight, which no slice would reach.
        if not isinstance(source, nn.Linear):
            raise TypeError(f"{path}: a {type(source).__name__} cannot be sliced. Expected torch.nn.Linear.")
        copied = replaced(copied, path, _plain_copy(source))
    slices: list[Slice] = []

    def take(path: str, name: str, dim: int, length: int) -> None:
        source = layer.get_submodule(path)
        target = copied.get_submodule(path)
        slices.append(Slice(source, target, name, dim, length))

    resize_layer(family, copied, heads, ffn, take)
    for path in (family.merge, family.shrink):
        # The bias of a map out of heads or neurons is whole. A factorised map shares the factor that has it.
        source = layer.get_submodule(path)
        if isinstance(source, nn.Linear):
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
        slices.append(Slice(source, factor, "weight", 1, rank))
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
