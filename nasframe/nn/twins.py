"""Twins of modules: copies that share everything with their originals but the few entries that are replaced.

The views of ``nasframe.nn.slices`` are made of them. No weight is copied: a twin's narrowed parameters are slices of
the original's, bound anew at each call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

from nasframe.nn.elastic import Family, resize_layer, slices_of

Follower = tuple[dict[str, Any], dict[str, Any]]


class Slice:
    """One tensor of a twin: the first entries of its original's along one dimension, or all of them.

    A slice of a plain parameter is a leaf of the graph that adds its gradient into the parameter's: the backward of
    ``narrow`` would fill a full-size gradient with zeros for each slice.
    """

    def __init__(self, source: nn.Module, twin: nn.Module, name: str, dim: int | None = None, length: int = 0) -> None:
        self.source, self.twin, self.name, self.dim, self.length = source, twin, name, dim, length
        self.whole: torch.Tensor | None = None
        self.leaf: torch.Tensor | None = None

    def bind(self, autograd: bool) -> None:
        """Put the current slice into the twin."""
        whole: Any = self.source._parameters.get(self.name)
        plain = whole is not None
        if not plain:
            whole = getattr(self.source, self.name)  # parametrised, or there is no bias
        if self.dim is None or whole is None:
            part = whole
        elif autograd or not plain or whole._backward_hooks or whole._post_accumulate_grad_hooks:
            part = whole.narrow(self.dim, 0, self.length)
        else:
            part = self._leaf(whole)
        self.twin._parameters[self.name] = part

    def _leaf(self, whole: torch.Tensor) -> torch.Tensor:
        leaf = self.leaf
        if leaf is None or self.whole is not whole or _moved(whole, leaf):
            with torch.inference_mode(False), torch.enable_grad():
                leaf = whole.detach().narrow(self.dim, 0, self.length)  # type: ignore[arg-type]
                if whole.requires_grad:
                    leaf.requires_grad_().register_post_accumulate_grad_hook(_deliver(whole, self.dim, self.length))
            self.whole, self.leaf = whole, leaf
        return leaf


def _moved(whole: torch.Tensor, leaf: torch.Tensor) -> bool:
    return whole.data_ptr() != leaf.data_ptr() or whole.requires_grad != leaf.requires_grad


def _deliver(whole: Any, dim: Any, length: int) -> Callable[[torch.Tensor], None]:
    def deliver(leaf: torch.Tensor) -> None:
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

    return deliver


class Narrowed(NamedTuple):
    """A narrowed layer or word embedding, the slices to bind before it runs, the states to follow their originals'."""

    layer: nn.Module
    slices: list[Slice]
    followers: list[Follower]


def narrowed(family: Family, layer: nn.Module, heads: int, ffn: int) -> Narrowed:
    """Make the twin of a layer that has only its first heads and neurons.

    Raises:
        TypeError: a linear map to be sliced is something else by now.
    """
    twin: Any = layer
    for path in dict.fromkeys(path for path, *_ in slices_of(family, layer)):
        source = layer.get_submodule(path)
        if not isinstance(source, nn.Linear):
            raise TypeError(f"{path}: a {type(source).__name__} cannot be sliced. Expected torch.nn.Linear.")
        plain = shallow(source, type_before_parametrizations(source))
        plain._modules.pop("parametrizations", None)
        twin = replaced(twin, path, plain)
    slices: list[Slice] = []

    def take(path: str, name: str, dim: int, length: int) -> None:
        slices.append(Slice(layer.get_submodule(path), twin.get_submodule(path), name, dim, length))

    resize_layer(family, twin, heads, ffn, take)
    for path in (family.merge, family.shrink):
        if isinstance(layer.get_submodule(path), nn.Linear):  # else factorised: the factor with the bias is shared
            slices.append(Slice(layer.get_submodule(path), twin.get_submodule(path), "bias"))
    return Narrowed(twin, slices, list(followers(layer, twin)))


def narrowed_words(words: nn.Module, rank: int) -> Narrowed:
    """Make the twin of a factorised word embedding that has only the first columns of both factors."""
    twin = shallow(words)
    twin.rank = rank
    slices = []
    for name, field in (("table", "embedding_dim"), ("project", "in_features")):
        source = words.get_submodule(name)
        factor = twin._modules[name] = shallow(source, type_before_parametrizations(source))
        setattr(factor, field, rank)
        factor._modules.pop("parametrizations", None)
        slices.append(Slice(source, factor, "weight", 1, rank))
    return Narrowed(twin, slices, list(followers(words, twin)))


def shallow(module: nn.Module, cls: type | None = None) -> Any:
    """Copy a module, sharing its children, weights and hooks."""
    twin: Any = object.__new__(cls or type(module))
    twin.__dict__.update(module.__dict__, _modules=dict(module._modules), _parameters=dict(module._parameters))
    return twin


def replaced(module: nn.Module, path: str, new: nn.Module) -> Any:
    """Copy the modules along a path, and put another one at its end."""
    name, _, rest = path.partition(".")
    twin = shallow(module)
    twin._modules[name] = replaced(module.get_submodule(name), rest, new) if rest else new
    return twin


def followers(module: nn.Module, twin: nn.Module) -> Iterator[Follower]:
    """Pair the state of each original with its twin's, as far down as they differ."""
    if module is not twin:
        yield module.__dict__, twin.__dict__
        for name, child in twin._modules.items():
            if child is not None:
                yield from followers(module._modules[name], child)  # type: ignore[arg-type]
