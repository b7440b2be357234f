"""HESSO: hybrid efficient structured sparse optimisation (Chen et al., arXiv 2409.09085).

No λ: over P periods the least important groups are chosen, a part at a time, and each period's groups are shrunk to
zero step by step while the optimiser of the stage goes on; then they stay zero.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch

from nasframe.errors import UsageError
from nasframe.interfaces import Step, TrainJob
from nasframe.nn.groups import Grouped
from nasframe.records import Count, NonNegative, Percent
from nasframe.units import share
from nasframe_hspg.stage import (
    GroupModifier,
    Share,
    Shares,
    Unit,
    count,
    direction,
    shares,
    spread,
    target_or_size,
    to_log,
    zero_shares,
)

Criterion: TypeAlias = Literal["magnitude", "mean_magnitude", "cosine", "taylor", "taylor2"]
ALL: dict[str, float] = dict.fromkeys(get_args(Criterion), 1.0)
PUBLISHED = "published"
GUARD = 1e-8  # of the published code, against divisions by zero


class HESSO(GroupModifier):
    """Make a given share of the groups exactly zero: in each period, a part of the least salient ones.

    A group's saliency is the weighted sum of criteria, each scaled to 0 … 1 within its kind: its norm ``magnitude``;
    ``mean_magnitude``, the norm over the root of its size; ``cosine``, 1 − cos(x, ∇), lowest where a step leads
    straight to zero; ``taylor`` |⟨x, ∇⟩| and ``taylor2`` ½⟨x, ∇⟩², the loss that it is worth to first order. ∇ is the
    gradient of the loss.

    ``criteria: published`` is the saliency of the published code: all five in equal parts, each over its norm over all
    groups; the cosine is cos(x, ∇) + 1, so that groups which a step leads to zero count *more*; ``mean_magnitude`` is
    the norm over the size; and ∇ is the direction of the stage's optimiser in one step, before AdamW's weight decay.

    Args:
        target: the share of the groups of each kind that stays, and so of the encoder's parameters, apart from biases
            and norms that belong to no group. One share, or one for each kind. Default: 50 %.
        start: the share of the steps before the first period.
        ramp_end: the share of the steps after which the last period ends.
        periods: P, the number of periods; at most the number of steps.
        criteria: weights of the criteria (those not named do not count), or ``published``. Default: all five equally,
            as described above.
        batches: steps over which the criteria that need gradients are averaged, up to the choice.
        min_kept: the share of each layer's groups that always stays; default: none in an encoder.
        divisible: the number of neurons left in a layer is rounded up to a multiple of this, for n:m patterns or
            kernels that need it; zero neurons fill it up.
        units: which kinds of groups; default: all that the network has.
        size: in place of ``target``: the share of the encoder's parameters that stays at most. The same share of heads
            and of neurons then stays, the largest one with which the encoder is that small.

    Raises:
        UsageError: a share or a weight out of range.
    """

    reads_space = False
    name = "hesso"
    target: float | dict[str, float]

    def __init__(
        self,
        target: Shares | None = None,
        start: Share = "10%",
        ramp_end: Share = "60%",
        periods: Count = 10,
        criteria: Literal["published"] | dict[Criterion, NonNegative] | None = None,
        batches: Count = 1,
        min_kept: Share | None = None,
        divisible: Count = 1,
        units: list[Unit] | None = None,
        size: Percent | None = None,
    ) -> None:
        super().__init__(units, min_kept, divisible, size)
        target_or_size(self.name, target, size)
        if size is None:
            self.target = shares("target", "50%" if target is None else target)
        self.periods = periods
        self.batches = batches
        self.start = share("start", start, ends=True)
        self.ramp_end = share("ramp_end", ramp_end, ends=True)
        if self.ramp_end <= self.start:
            raise UsageError(
                f"hesso: ramp_end {ramp_end!r} is not after start {start!r}, when the first period begins."
            )
        self.published = criteria == PUBLISHED
        self.criteria = ALL
        if isinstance(criteria, Mapping):
            self.criteria = {str(name): weight for name, weight in criteria.items()}
        elif self.published and batches != 1:
            raise UsageError("hesso: batches: the published criteria are those of one step. Expected 1.")
        weights = self.criteria.values()
        if not any(weights) or min(weights) < 0:
            raise UsageError("hesso: criteria: expected weights of 0 or more, and one above 0.")
        foreign = self.criteria.keys() - ALL.keys()
        if foreign:
            raise UsageError(f"hesso: no criteria {', '.join(sorted(foreign))}. Expected {', '.join(ALL)}.")

    def on_start(self, job: TrainJob) -> None:
        """Find the groups, how many of each kind are to become zero, and the periods' first steps."""
        super().on_start(job)
        groups = self.groups
        self.cap = self.cap_of_target()
        first = min(round(self.start * job.total), job.total - 1)
        last = max(round(self.ramp_end * job.total), first + 1)
        periods = min(self.periods, last - first)
        self.begins = [first + p * (last - first) // periods for p in range(periods + 1)]
        self.chosen = torch.zeros_like(groups.unit, dtype=torch.bool)
        self.frozen = torch.zeros_like(self.chosen)  # groups of earlier periods, which stay zero
        self.cosine = torch.zeros_like(groups.sizes)
        self.taylor = torch.zeros_like(groups.sizes)
        # Periods whose groups are chosen. It is no tensor, because every step asks, and no step must wait for a device.
        self.added = 0
        self.old: list[torch.Tensor] = []  # x, while the optimiser makes the step from which `published` chooses

    def on_gradients(self, step: Step) -> None:
        """Add up the criteria that need gradients, and choose groups at the beginning of a period."""
        self.groups.bind()
        self.old = []
        if self.published:
            is_between = self.begins[0] <= step.index < self.begins[-1]
            # A skipped step chooses nothing, so the choice may be made later in the period.
            if is_between and self.period(step) >= self.added:
                self.old = [tensor.detach().clone() for tensor in self.groups.tensors]
            return
        period = bisect_left(self.begins, step.index)  # the next one, or the one that begins with this step
        if period >= len(self.begins) - 1:
            return
        if step.index > self.begins[period] - self.batches:
            self.add_gradients(step)
        if step.index == self.begins[period]:
            self.add(period, self.weighted())

    def add_gradients(self, step: Step) -> None:
        """Add this step's criteria to those of the steps before."""
        groups = self.groups
        tiny = torch.finfo(groups.sizes.dtype).tiny
        gradients = groups.cut([step.job.reduce(gradient) for gradient in groups.gradients()])
        leads = groups.dots(groups.views, gradients).detach()
        lengths = (groups.squares().detach() * groups.squares(gradients)).sqrt()
        self.cosine += 1 - leads / lengths.clamp(min=tiny)
        self.taylor += leads.abs()

    @torch.no_grad()
    def weighted(self) -> torch.Tensor:
        """Return the weighted sum of the criteria, each scaled to 0 … 1 within its kind."""
        groups = self.groups
        norms = groups.squares().sqrt()
        taylor = self.taylor / self.batches
        values = {
            "magnitude": norms,
            "mean_magnitude": norms / groups.sizes.sqrt(),
            "cosine": self.cosine,  # a sum over the batches: scaled, it is what the mean would be
            "taylor": taylor,
            "taylor2": taylor.square() / 2,
        }
        saliency = torch.zeros_like(norms)
        for criterion, weight in self.criteria.items():
            saliency += weight * spread(values[criterion], groups.unit, len(self.cap))  # (H15)
        return saliency

    def add(self, period: int, saliency: torch.Tensor) -> None:
        """Choose the least salient groups, so that (p + 1) / P of all that are to go are chosen."""
        self.frozen |= self.chosen
        periods = len(self.begins) - 1
        goal = (self.cap * (period + 1) / periods).round()
        room = goal - count(self.groups, self.chosen)
        self.chosen |= self.choose(saliency, ~self.chosen, self.chosen, room)
        self.cosine.zero_()
        self.taylor.zero_()
        self.added = period + 1

    def period(self, step: Step) -> int:
        """Return the period that a step is in, P after the last one."""
        return bisect_right(self.begins, step.index) - 1

    @torch.no_grad()
    def on_update(self, step: Step) -> None:
        """Shrink the period's groups by (T − t − 1) / (T − t) in its t-th of T steps; those before stay zero."""
        if step.skipped or step.index < self.begins[0]:
            return
        period = self.period(step)
        if self.old:
            directions = direction(step, self.old, self.groups.tensors)
            self.add(period, published(self.groups, self.old, directions))
        factor = 0.0
        if period < len(self.begins) - 1:
            steps_left = self.begins[period + 1] - step.index
            factor = (steps_left - 1) / steps_left  # (H18)
        factors = torch.where(self.chosen, factor, 1.0)
        self.groups.scale_(torch.where(self.frozen, 0.0, factors))
        if to_log(step):
            zero = self.groups.zero()
            step.job.log(step.index + 1, zero_shares(self.groups, zero))

    def state_dict(self) -> dict[str, Any]:
        """Return which groups were chosen, in how many periods, which are zero, and the sums of the criteria."""
        return {
            "chosen": self.chosen,
            "added": torch.tensor(self.added),
            "frozen": self.frozen,
            "cosine": self.cosine,
            "taylor": self.taylor,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.added = int(state["added"])
        for name in ("chosen", "frozen", "cosine", "taylor"):
            value = state[name]
            device = getattr(self, name, value).device
            setattr(self, name, value.to(device))


def published(groups: Grouped, weights: Sequence[torch.Tensor], directions: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the saliency of the published code: five criteria in equal parts, each over its norm over all groups.

    Args:
        groups: the groups.
        weights: x, the tensors before the step.
        directions: ∇, the optimiser's direction.
    """
    x = groups.cut(weights)
    nabla = groups.cut(directions)
    norms = groups.squares(x).sqrt()
    leads = groups.dots(x, nabla)
    cosine = leads / (norms + GUARD) / (groups.squares(nabla).sqrt() + GUARD)
    criteria = [norms, norms / groups.sizes, cosine + 1, leads.abs(), leads.square() / 2]  # (H16)
    saliency = torch.zeros_like(norms)
    for values in criteria:
        length = (values.square().sum() + GUARD).sqrt() + GUARD
        saliency += values / length / len(criteria)  # (H19)
    return saliency
