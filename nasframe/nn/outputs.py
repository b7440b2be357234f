"""Outputs of networks, whatever their form: the tensors in them, and the logits where something needs logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from nasframe.errors import UsageError, listing

LOGITS = "logits"
OUTPUT = "output"
"""The name of an output that is a tensor itself."""


def tensors_of(outputs: Any) -> dict[str, torch.Tensor]:
    """Return the tensors in a network's outputs by name.

    Args:
        outputs: a tensor, a mapping or sequence of outputs, or an object with outputs as attributes.

    >>> tensors_of({"depth": torch.ones(2), "losses": (torch.zeros(1), None)})
    {'depth': tensor([1., 1.]), 'losses.0': tensor([0.])}
    >>> tensors_of(torch.ones(1))
    {'output': tensor([1.])}
    """
    if isinstance(outputs, torch.Tensor):
        return {OUTPUT: outputs}
    return dict(_tensors("", outputs))


def _tensors(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
        return
    for key, part in _parts(value).items():
        yield from _tensors(f"{name}.{key}".removeprefix("."), part)


def _parts(value: Any) -> Mapping[Any, Any]:
    """Return what a value consists of, by name; nothing for a value without parts."""
    if isinstance(value, type):
        return {}
    if isinstance(value, Mapping):
        return value
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return value._asdict()
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    attributes = getattr(value, "__dict__", {})
    # An attribute of any other kind may lead anywhere.
    return {name: part for name, part in attributes.items() if isinstance(part, torch.Tensor)}


def compared(outputs: Any) -> dict[str, torch.Tensor]:
    """Return the tensors by which two networks are compared: the logits if there are any, else all of floats.

    Raises:
        UsageError: there is nothing to compare.

    >>> compared({"logits": torch.ones(1), "hidden": torch.zeros(1)})
    {'logits': tensor([1.])}
    """
    tensors = tensors_of(outputs)
    if LOGITS in tensors:
        return {LOGITS: tensors[LOGITS]}
    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    if not floats:
        raise UsageError(
            f"a network's outputs, {type(outputs).__name__}, hold no tensors of floating-point numbers. Expected a "
            "tensor, or a mapping, a sequence or an object with tensors."
        )
    return floats


def logits_of(outputs: Any, who: str) -> torch.Tensor:
    """Return the logits in a network's outputs, for something that works with logits alone.

    Args:
        outputs: the network's.
        who: what needs the logits, for the error.

    Raises:
        UsageError: there are none; names the outputs that there are.

    >>> from types import SimpleNamespace
    >>> logits_of(SimpleNamespace(logits=torch.ones(1)), "kd")
    tensor([1.])
    """
    logits = getattr(outputs, LOGITS, None)
    if logits is None and isinstance(outputs, Mapping):
        logits = outputs.get(LOGITS)
    if logits is None:
        names = listing(tensors_of(outputs)) or "no tensors"
        raise UsageError(
            f"{who}: needs the network's logits, but its outputs are {names}. Expected outputs with logits."
        )
    found: torch.Tensor = logits
    return found
