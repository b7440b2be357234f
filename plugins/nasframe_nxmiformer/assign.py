"""Assign a format to each matrix under a compression ratio, by how much each format would hurt it alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from nasframe.errors import UnsatisfiableError, UsageError
from nasframe.nn.bits import account
from nasframe.nn.formats import encoder_matrices, parse_format, shown
from nasframe.streams import stream_seed
from nasframe.types import Batch, Count, Positive, Size, Work
from nasframe.units import parse_number, parse_share
from nasframe_nxmiformer import policies
from nasframe_nxmiformer.estimators import Bits
from nasframe_nxmiformer.space import by_knob

POLICIES = {"exact": policies.exact, "greedy": policies.greedy, "uniform": policies.uniform}


class AssignBits:
    """Find, for each bound on the bits of the encoder's matrices, an assignment of formats; the network stays as it is.

    It needs a space of formats (``nm_bits``). A matrix's sensitivity to a format is measured with all others left
    alone, on training data.

    Args:
        archs: name of an assignment → the bits it may take, a share of the uncompressed matrices as in ``"10%"``, or a
            number.
        policy: ``exact``, dynamic programming; ``greedy``, least damage a bit saved, then exchanges; ``uniform``, one
            format for all.
        sensitivity: ``fisher``, squared change of the weights by mean squared gradient; or ``loss``, the rise of the
            loss itself, a pass over the data for each matrix and format.
        indices: count the places of the weights that an n:m pattern keeps.
        batches: training batches that the sensitivity averages over.
        batch_size: examples in each.
        seed: draws them.

    Raises:
        UsageError: no bound, or one that is not a share or number of bits above 0.
    """

    reshapes = False
    keeps_function = True

    def __init__(
        self,
        archs: Mapping[str, Positive | str],
        policy: Literal["exact", "greedy", "uniform"] = "exact",
        sensitivity: Literal["fisher", "loss"] = "fisher",
        indices: bool = True,
        batches: Count = 16,
        batch_size: Size = 32,
        seed: int = 0,
    ) -> None:
        if not archs or batches < 1 or batch_size < 1:
            raise UsageError("assign_bits: expected archs such as {assigned: 10%}, batches >= 1 and batch_size >= 1.")
        self.bounds = {name: _bound(name, text) for name, text in archs.items()}
        self.policy, self.sensitivity, self.indices = policy, sensitivity, indices
        self.batches, self.batch_size, self.seed = batches, batch_size, seed

    def __call__(self, work: Work) -> Work:
        """Return the work with one more architecture for each bound.

        Raises:
            UsageError: the space is not one of formats.
            UnsatisfiableError: nothing meets a bound.
        """
        space: Any = work.space
        if not hasattr(space, "formats"):
            raise UsageError("assign_bits: the space has no formats to choose from. Expected space: nm_bits.")
        table = Bits(indices=self.indices).table(space, work.net)
        assert table is not None
        knobs = space.domain.knobs
        bits, loss = np.array(list(table.choices.values())), self.damages(work)
        whole = account(work.net)["matrices_fp32"]  # whatever they are stored as by now
        found = {}
        for name, (value, share) in self.bounds.items():
            most = (value * whole if share else value) - table.base
            chosen = POLICIES[self.policy](bits, loss, most)
            if chosen is None:
                least = (bits.min(1).sum() if self.policy != "uniform" else bits.sum(0).min()) + table.base
                raise UnsatisfiableError(
                    f"assign_bits: {name}: no {self.policy} assignment fits. The least is {least / whole:.2%} of "
                    f"{whole:,.0f} bits. Expected a larger bound, or formats of fewer bits."
                )
            found[name] = {knob: values[at] for (knob, values), at in zip(knobs.items(), chosen, strict=True)}
        return replace(work, archs={**work.archs, **found})

    def damages(self, work: Work) -> np.ndarray:
        """Return the sensitivity of each knob to each of its formats, ``(knobs, formats)``."""
        net, space = work.net, work.space
        data = work.task.train_batches(stream_seed(self.seed, "data", "assign_bits"), 0, self.batch_size)
        device = next(net.parameters()).device
        batches = [batch.to(device) for batch in islice(data, self.batches)]
        grouped = by_knob(space.family, dict(encoder_matrices(net)))  # type: ignore[union-attr]
        measure = fisher(net, work.task, batches) if self.sensitivity == "fisher" else rise(net, work.task, batches)
        rows = []
        for knob, values in space.domain.knobs.items():  # type: ignore[union-attr]
            weights: list[Any] = [module.weight for module in grouped.get(knob, ())]
            rows.append([measure({id(w): shown(w.detach(), parse_format(text)) for w in weights}) for text in values])
        return np.array(rows)


def fisher(net: nn.Module, task: Any, batches: list[Batch]) -> Any:
    """Make a measure of changed weights: ``½ Σ F (W' − W)²``, F the mean squared gradient over the batches.

    Args:
        net: the network; it runs in eval mode, and its gradients are left as they were.
        task: whose loss.
        batches: the data.

    Returns:
        A function from {id of a weight: the weight as it would be} to a float.
    """
    weights: list[Any] = [module.weight for _, module in encoder_matrices(net)]
    mean: dict[int, Any] = {id(w): torch.zeros_like(w) for w in weights}
    training, frozen = net.training, [w for w in weights if not w.requires_grad]
    net.eval()
    for weight in frozen:
        weight.requires_grad_(True)
    for batch in batches:
        with torch.enable_grad():
            gradients = torch.autograd.grad(task.loss(net(**batch.inputs), batch), weights)
        for weight, gradient in zip(weights, gradients, strict=True):
            mean[id(weight)].addcmul_(gradient, gradient, value=1 / len(batches))
    for weight in frozen:
        weight.requires_grad_(False)
    net.train(training)
    by_id = {id(weight): weight.detach() for weight in weights}
    return lambda changed: sum(float((mean[k] * (new - by_id[k]).square()).sum()) / 2 for k, new in changed.items())


def rise(net: nn.Module, task: Any, batches: list[Batch]) -> Any:
    """Make a measure of changed weights: how much the mean loss over the batches rises; see :func:`fisher`."""
    names = {id(parameter): name for name, parameter in net.named_parameters()}

    @torch.no_grad()
    def loss(changed: dict[int, torch.Tensor]) -> float:
        given = {names[key]: new for key, new in changed.items()}
        return sum(float(task.loss(functional_call(net, given, (), dict(b.inputs)), b)) for b in batches) / len(batches)

    def measure(changed: dict[int, torch.Tensor]) -> float:
        training = net.training
        net.eval()
        try:
            return loss(changed) - before
        finally:
            net.train(training)

    before = 0.0
    before = measure({})
    return measure


def _bound(name: str, text: float | str) -> tuple[float, bool]:
    """Read a bound: its value, and whether it is a share."""
    share = parse_share(text)
    value = parse_number(text) if share is None else share
    if not value > 0 or (share is not None and value >= 1):
        raise UsageError(f"assign_bits: {name}: {text!r} leaves nothing to choose. Expected above 0, below 100%.")
    return value, share is not None
