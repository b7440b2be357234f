"""Assign a format to each matrix within a number of bits, by how much each format would hurt that matrix alone.

The labels of formulas are our own; README.md lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from nasframe.errors import UnsatisfiableError, UsageError
from nasframe.interfaces import FormatSpace, Work
from nasframe.nn.formats import encoder_matrices, parse_format, shown
from nasframe.nn.storage import account
from nasframe.records import Batch, Count, Positive, Size
from nasframe.seeds import stream_seed
from nasframe.units import parse_number, parse_share
from nasframe_nxmiformer import policies
from nasframe_nxmiformer.estimators import Bits
from nasframe_nxmiformer.space import by_knob

Measure = Callable[[Mapping[int, torch.Tensor]], float]
"""Returns the damage of changed weights, which are given by the ids of the weights that they replace."""

POLICIES = {"exact": policies.exact, "greedy": policies.greedy, "uniform": policies.uniform}


class AssignBits:
    """Find an assignment of formats for each bound on the bits of the encoder's matrices. The network stays unchanged.

    It needs a space of formats (``nm_bits``). A matrix's sensitivity to a format is measured on training data, with all
    other matrices unchanged.

    Args:
        archs: name of an assignment → the bits it may take: a share of the uncompressed matrices, such as ``"10%"``, or
            a number.
        policy: ``exact``, dynamic programming; ``greedy``, the least damage for each bit saved, then exchanges; or
            ``uniform``, one format for all.
        sensitivity: ``fisher``, the squared change of the weights times their mean squared gradient; or ``loss``, the
            increase of the loss itself, which takes a pass over the data for each matrix and format.
        indices: whether to count the positions of the weights that an n:m pattern keeps.
        batches: number of training batches over which the sensitivity is averaged.
        batch_size: examples in each.
        seed: draws them.

    Raises:
        UsageError: there is no bound, or one that is not a share or number of bits above 0.
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
        self.bounds = {}
        for name, text in archs.items():
            self.bounds[name] = Bound.parse(name, text)
        self.policy = policy
        self.sensitivity = sensitivity
        self.indices = indices
        self.batches = batches
        self.batch_size = batch_size
        self.seed = seed

    def __call__(self, work: Work) -> Work:
        """Return the work with one more architecture for each bound.

        Raises:
            UsageError: the space is not one of formats.
            UnsatisfiableError: no assignment meets a bound.
        """
        space: Any = work.space
        has_formats = isinstance(space, FormatSpace)
        if not has_formats:
            raise UsageError("assign_bits: the space has no formats to choose from. Expected space: nm_bits.")
        table = Bits(indices=self.indices).table(space, work.net)
        assert table is not None  # every space of formats has a table
        bits = np.array(list(table.choices.values()))
        damages = self.damages(work)
        uncompressed = account(work.net)["matrices_fp32"]  # in whatever format the matrices are stored now
        knobs = space.domain.knobs
        archs = {}
        for name, bound in self.bounds.items():
            available = bound.bits(uncompressed) - table.base
            places = POLICIES[self.policy](bits, damages, available)
            if places is None:
                raise self._unsatisfiable(name, bits, table.base, uncompressed)
            arch = {}
            for (knob, values), place in zip(knobs.items(), places, strict=True):
                arch[knob] = values[place]
            archs[name] = arch
        return replace(work, archs={**work.archs, **archs})

    def damages(self, work: Work) -> np.ndarray:
        """Return the sensitivity of each knob to each of its formats, ``(knobs, formats)``.

        Matrices are converted one at a time: damages are assumed to add up, as the policies need.
        """
        net = work.net
        space: Any = work.space
        measure = self._measure(work)
        grouped = by_knob(space.family, dict(encoder_matrices(net)))
        rows = []
        for knob, values in space.domain.knobs.items():
            weights: list[Any] = [module.weight for module in grouped.get(knob, ())]
            row = []
            for text in values:
                form = parse_format(text)
                changed = {id(weight): shown(weight.detach(), form) for weight in weights}
                row.append(measure(changed))
            rows.append(row)
        return np.array(rows)

    def _measure(self, work: Work) -> Measure:
        """Return the measure of damage, on batches of training data."""
        seed = stream_seed(self.seed, "data", "assign_bits")
        data = work.task.train_batches(seed, 0, self.batch_size)
        device = next(work.net.parameters()).device
        batches = [batch.to(device) for batch in islice(data, self.batches)]
        if self.sensitivity == "fisher":
            return fisher(work.net, work.task, batches)
        return rise(work.net, work.task, batches)

    def _unsatisfiable(self, name: str, bits: np.ndarray, base: float, uncompressed: float) -> UnsatisfiableError:
        """Return the error that names the least bits that the policy could reach."""
        if self.policy == "uniform":  # one format for all
            smallest = bits.sum(0).min()
        else:
            smallest = bits.min(1).sum()
        least = smallest + base
        return UnsatisfiableError(
            f"assign_bits: {name}: no {self.policy} assignment fits. The least is {least / uncompressed:.2%} of "
            f"{uncompressed:,.0f} bits. Expected a larger bound, or formats of fewer bits."
        )


@dataclass(frozen=True)
class Bound:
    """A bound on the bits of the encoder's matrices.

    Args:
        value: a share, or a number of bits.
        is_share: whether it is a share of the uncompressed matrices.
    """

    value: float
    is_share: bool

    @classmethod
    def parse(cls, name: str, text: float | str) -> Bound:
        """Read a bound.

        Args:
            name: the assignment, for the message.
            text: such as ``"10%"``, or a number.

        Raises:
            UsageError: no assignment could be within it, or every one would be.

        >>> Bound.parse("small", "10%").bits(uncompressed=2000)
        200.0
        """
        share = parse_share(text)
        if share is None:
            bound = cls(parse_number(text), is_share=False)
            is_possible = bound.value > 0
        else:
            bound = cls(share, is_share=True)
            is_possible = 0 < share < 1
        if not is_possible:  # also if it is not a number
            raise UsageError(f"assign_bits: {name}: {text!r} leaves nothing to choose. Expected above 0, below 100%.")
        return bound

    def bits(self, uncompressed: float) -> float:
        """Return the bound in bits."""
        if self.is_share:
            return self.value * uncompressed
        return self.value


def fisher(net: nn.Module, task: Any, batches: Sequence[Batch]) -> Measure:
    """Return the measure ``½ Σ F (W' − W)²`` of changed weights W', F being the mean squared gradient of the batches.

    Args:
        net: the network; it runs in eval mode, and its gradients are not touched.
        task: its loss counts.
        batches: the data.
    """
    weights: list[Any] = [module.weight for _, module in encoder_matrices(net)]
    squares = [torch.zeros_like(weight) for weight in weights]
    was_training = net.training
    frozen = [weight for weight in weights if not weight.requires_grad]
    net.eval()
    for weight in frozen:  # sensitivity needs the gradients of frozen weights, too
        weight.requires_grad_(True)
    for batch in batches:
        with torch.enable_grad():
            loss = task.loss(net(**batch.inputs), batch)
            gradients = torch.autograd.grad(loss, weights)
        for square, gradient in zip(squares, gradients, strict=True):
            square.addcmul_(gradient, gradient, value=1 / len(batches))
    for weight in frozen:
        weight.requires_grad_(False)
    net.train(was_training)

    by_id = {}
    for weight, square in zip(weights, squares, strict=True):
        by_id[id(weight)] = (weight.detach(), square)

    def measure(changed: Mapping[int, torch.Tensor]) -> float:
        damage = 0.0
        for key, new in changed.items():
            weight, square = by_id[key]
            change = new - weight
            damage += float((square * change.square()).sum()) / 2  # (N8)
        return damage

    return measure


def rise(net: nn.Module, task: Any, batches: Sequence[Batch]) -> Measure:
    """Return a measure of changed weights: the increase of the mean loss over the batches.

    Args:
        net: the network; it runs in eval mode.
        task: its loss counts.
        batches: the data.
    """
    name_of = {id(parameter): name for name, parameter in net.named_parameters()}

    @torch.no_grad()
    def mean_loss(changed: Mapping[int, torch.Tensor]) -> float:
        parameters = {name_of[key]: new for key, new in changed.items()}
        was_training = net.training
        net.eval()
        try:
            losses = []
            for batch in batches:
                outputs = functional_call(net, parameters, (), dict(batch.inputs))
                losses.append(float(task.loss(outputs, batch)))
        finally:
            net.train(was_training)
        return sum(losses) / len(batches)

    unchanged = mean_loss({})

    def measure(changed: Mapping[int, torch.Tensor]) -> float:
        return mean_loss(changed) - unchanged

    return measure
