"""Checks that removing parts of a network changed nothing: logits before and after, on one small batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from nasframe.errors import VerificationError, listing
from nasframe.interfaces import TrainJob
from nasframe.nn.outputs import compared

TOLERANCE = 1e-5
"""The largest difference of fp32 logits, relative to logits larger than 1. Sums in another order differ by about 1e-6;
if a part was not zero, the difference is far larger."""


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference of two networks' logits, relative to logits larger than 1.

    >>> apart(torch.tensor([0.5, 100.0]), torch.tensor([0.25, 101.0]))
    0.25
    """
    scale = expected.abs().clamp(min=1)
    differences = (found - expected).abs() / scale
    return float(differences.max())


def same(what: str, found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the difference of two networks' logits, as :func:`apart` measures it, and refuse more than ``TOLERANCE``.

    Args:
        what: the network, for the error.
        found: its logits.
        expected: the logits that it should have.

    Raises:
        VerificationError: they differ by more.
    """
    error = apart(found, expected)
    if not error <= TOLERANCE:  # written so that NaN is refused, too
        raise VerificationError(f"{what} differs by {error:g}. Expected {TOLERANCE:g} or less.")
    return error


def same_outputs(what: str, found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> float:
    """Return the largest difference of two networks' outputs by name, and refuse more than ``TOLERANCE``.

    Raises:
        VerificationError: they differ by more, or have other names or shapes.
    """
    if found.keys() != expected.keys():
        raise VerificationError(f"{what} has the outputs {listing(found)}. Expected {listing(expected)}.")
    largest = 0.0
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            shapes = f"{tuple(found[name].shape)}. Expected {tuple(tensor.shape)}."
            raise VerificationError(f"{what} has {name} of the shape {shapes}")
        if tensor.numel():
            largest = max(largest, same(what, found[name], tensor))
    return largest


def without_zeros(job: TrainJob, remove: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Remove the zeros of a stage's network, and check that the logits of a batch of eight stay the same.

    Args:
        job: the stage; the difference is logged as ``removal_error``.
        remove: changes the network in place, and returns the architecture that is left.

    Raises:
        VerificationError: the network computes something else without its zeros.
    """
    from nasframe.nn.slices import extract

    net: Any = job.net.eval()
    # A wrong removal shows on any inputs, so eight examples are enough.
    first_batch = next(iter(job.task.train_batches(0, 0, 8)))
    device = next(net.parameters()).device
    batch = first_batch.to(device)

    def outputs(net: nn.Module) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            return compared(net(**batch.inputs))

    before = outputs(net)
    arch = remove()
    after = outputs(extract(net, arch))
    error = same_outputs(f"stage {job.stage!r}: the network without its zeros", after, before)
    job.log(job.total, {"removal_error": error})
    return arch
