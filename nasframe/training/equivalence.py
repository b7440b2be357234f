"""Checks that removing parts of a network changed nothing: logits before and after, on one small batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from nasframe.errors import VerificationError
from nasframe.interfaces import TrainJob

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

    def logits(net: nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return net(**batch.inputs).logits

    before = logits(net)
    arch = remove()
    after = logits(extract(net, arch))
    error = same(f"stage {job.stage!r}: the network without its zeros", after, before)
    job.log(job.total, {"removal_error": error})
    return arch
