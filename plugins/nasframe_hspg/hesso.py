"""HESSO: hybrid efficient structured sparse optimisation (Chen et al., arXiv 2409.09085).

No λ: over P periods the least important groups are chosen, a part at a time, and each period's groups are shrunk to
zero step by step while the optimiser of the stage goes on; then they stay zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import torch

from nasframe.errors import UsageError
from nasframe.step import Step
from nasframe.types import Count, TrainJob
from nasframe.units import share
from nasframe_hspg.stage import (
    GroupModifier,
    Share,
    Shares,
    Unit,
    numbers,
    of_units,
    shares,
    spread,
    to_log,
    zero_shares,
)

Criterion: TypeAlias = Literal["magnitude", "mean_magnitude", "cosine", "taylor", "taylor2"]
ALL = dict.fromkeys(("magnitude", "mean_magnitude", "cosine", "taylor", "taylor2"), 1.0)


class HESSO(GroupModifier):
    """Make a given share of the groups exactly zero, a part in each period, by saliency.

    A group's saliency is the weighted sum of criteria, each scaled to 0 … 1 within its kind: its norm ``magnitude``;
    ``mean_magnitude``, the norm over the root of its size; ``cosine``, 1 − cos(x, ∇), lowest where a step leads
    straight to zero; ``taylor`` |⟨x, ∇⟩| and ``taylor2`` ½⟨x, ∇⟩², the loss that it is worth to first order.

    Args:
        target: what is to stay: a share of the groups of each kind, and so, but for biases and norms that belong to
            no group, of the encoder's parameters. One share, or one for each kind.
        start: the share of the steps before the first period.
        until: the share of the steps at which the last period ends.
        periods: P; never more than there are steps.
        criteria: weights of the criteria; what is not named does not count. Default: all five alike, as published.
        batches: steps over which the criteria that need gradients are averaged, up to the choice.
        least: the share of each layer's groups that always stays; default: none of an encoder's.
        divisible: the number of neurons left in a layer is rounded up to a multiple of this, for n:m patterns or
            kernels that ask for it; zero ones fill it up.
        units: which kinds of groups; default: all that the network has.

    Raises:
        UsageError: a share or a weight out of range.
    """

    name = "hesso"

    def __init__(
        self,
        target: Shares = "50%",
        start: Share = "10%",
        until: Share = "60%",
        periods: Count = 10,
        criteria: dict[Criterion, float] | None = None,
        batches: Count = 1,
        least: Share | None = None,
        divisible: Count = 1,
        units: list[Unit] | None = None,
    ) -> None:
        super().__init__(units, least, divisible)
        self.target, self.periods, self.batches = shares("target", target), periods, batches
        self.start, self.until = share("start", start, ends=True), share("until", until, ends=True)
        if self.until <= self.start:
            raise UsageError(f"hesso: until {until!r} is not after start {start!r}, when the first period begins.")
        self.criteria: Mapping[str, float] = ALL if criteria is None else {str(k): v for k, v in criteria.items()}
        if not any(self.criteria.values()) or min(self.criteria.values()) < 0:
            raise UsageError("hesso: criteria: expected weights of 0 or more, and one above 0.")
        if foreign := self.criteria.keys() - ALL.keys():
            raise UsageError(f"hesso: no criteria {', '.join(sorted(foreign))}. Expected {', '.join(ALL)}.")

    def on_start(self, job: TrainJob) -> None:
        """Find the groups, how many of each kind shall become zero, and the periods' first steps."""
        super().on_start(job)
        x = self.groups
        stay = torch.tensor(of_units("target", self.target, x.units, 1.0), device=x.unit.device)
        self.cap = numbers(x) - (numbers(x) * stay).round()
        self.check(self.cap, "target")
        first = min(round(self.start * job.total), job.total - 1)
        last = max(round(self.until * job.total), first + 1)
        periods = min(self.periods, last - first)
        self.begins = [first + p * (last - first) // periods for p in range(periods + 1)]
        self.chosen = torch.zeros_like(x.unit, dtype=torch.bool)
        self.frozen = torch.zeros_like(self.chosen)
        self.cosine, self.taylor = torch.zeros_like(x.sizes), torch.zeros_like(x.sizes)

    def on_gradients(self, step: Step) -> None:
        """Follow the criteria that need gradients, and choose at the beginning of a period."""
        self.groups.bind()
        coming = next((p for p, begin in enumerate(self.begins[:-1]) if begin >= step.index), None)
        if coming is None or step.index <= self.begins[coming] - self.batches:
            return
        x = self.groups
        gradients, tiny = x.cut([step.job.reduce(g) for g in x.gradients()]), torch.finfo(x.sizes.dtype).tiny
        leads = x.dots(x.views, gradients).detach()
        lengths = (x.squares().detach() * x.squares(gradients)).sqrt().clamp(min=tiny)
        self.cosine += 1 - leads / lengths
        self.taylor += leads.abs()
        if step.index == self.begins[coming]:
            self.add(coming)

    @torch.no_grad()
    def add(self, period: int) -> None:
        """Add the least salient groups to those that go, so that (p + 1) / P of all that shall go are among them."""
        x = self.groups
        norms, taylor = x.squares().sqrt(), self.taylor / self.batches
        values = {"magnitude": norms, "mean_magnitude": norms / x.sizes.sqrt(), "cosine": self.cosine}
        values |= {"taylor": taylor, "taylor2": taylor.square() / 2}
        saliency = torch.zeros_like(norms)
        for criterion, weight in self.criteria.items():
            saliency += weight * spread(values[criterion], x.unit, len(self.cap))
        self.frozen |= self.chosen
        goal = (self.cap * (period + 1) / (len(self.begins) - 1)).round()
        room = goal - torch.bincount(x.unit, self.chosen.float(), len(self.cap))
        self.chosen |= self.choose(saliency, ~self.chosen, self.chosen, room)
        self.cosine.zero_(), self.taylor.zero_()

    @torch.no_grad()
    def on_update(self, step: Step) -> None:
        """Shrink the period's groups by (T − t − 1) / (T − t) in its t-th of T steps; those before stay zero."""
        if step.skipped or step.index < self.begins[0]:
            return
        period = max(p for p, begin in enumerate(self.begins) if begin <= step.index)
        factor = 0.0
        if period < len(self.begins) - 1:
            left = self.begins[period + 1] - step.index
            factor = (left - 1) / left
        row = torch.where(self.chosen, factor, 1.0)
        self.groups.scale_(torch.where(self.frozen, 0.0, row))
        if to_log(step):
            step.job.log(step.index + 1, zero_shares(self.groups, self.groups.zero()))

    def state_dict(self) -> dict[str, Any]:
        """Return which groups were chosen, which of them are zero, and the sums of the criteria."""
        return {"chosen": self.chosen, "frozen": self.frozen, "cosine": self.cosine, "taylor": self.taylor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        for name, value in state.items():
            setattr(self, name, value.to(getattr(self, name, value).device))
