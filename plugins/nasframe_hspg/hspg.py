"""HSPG: half-space stochastic projected gradient (Chen et al., arXiv 2011.04868 and 2107.07467).

``min f(x) + λ Σ_g w_g ‖x_g‖`` over groups g that can be removed. The optimiser of the stage, whichever it is, makes its
step on f, from x to x'. The penalty's part comes after it, from what the step really did to the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nasframe.errors import UsageError
from nasframe.interfaces import Step, TrainJob
from nasframe.nn.groups import dot, peak, square
from nasframe.nn.prox import group_shrinkage, leaves_half_space
from nasframe.records import Count, NonNegative, Percent, ShareBelowOne
from nasframe.units import share
from nasframe_hspg.stage import (
    GroupModifier,
    Share,
    Shares,
    Unit,
    count,
    numbers,
    of_units,
    shares,
    target_or_size,
    to_log,
    zero_shares,
)

# An adaptive eps rises by RAISE, to MOST at most, if no more than this share of the groups became zero.
GAIN = 0.01
RAISE = 0.1
MOST = 0.999


class HSPG(GroupModifier):
    """Make groups of weights exactly zero: proximal steps first, then half-space steps that keep zeros.

    Each step pulls a group's norm towards zero by the learning rate times λ w_g. In the second stage a group that the
    whole step would turn round becomes zero for good. With ``target`` only the groups nearest to zero are pulled, as
    many as the target still lacks, and each kind's λ follows, by dual ascent, the share of groups that should be zero
    by then. A kind that has reached its share is left alone.

    Args:
        penalty: λ; with a target, dual ascent starts from it.
        target: the share of the groups of each kind that stays, and so of the encoder's parameters, apart from biases
            and norms that belong to no group. One share, or one for each kind. λ then pulls only the groups nearest to
            zero, as many as the target still needs.
        caps: instead of a target: the largest share of each kind that may become zero; default: all.
        eps: in [0, 1): a group becomes zero if less than this part of it is left after a step.
        adapt_eps: number of steps after which eps rises by 0.1 for kinds below their share, if no more than 1 % of the
            groups became zero in them; otherwise it goes back to ``eps``.
        prox: N_P, the share of the steps that the first stage takes.
        ramp_end: the share of the steps after which the target should be reached.
        rate: rate of dual ascent, in units that depend neither on the learning rate nor on the number of steps: how
            fast λ changes if all groups of a kind are missing, divided by the λ that would bring the mean group to zero
            by ``ramp_end``.
        normalize: w_g is the square root of the number of a group's weights, so that λ pulls at the root mean square
            of heads and neurons alike; otherwise 1.
        decay_at: shares of the steps after which λ is divided by 10.
        min_kept: the share of each layer's groups that always stays; default: none in an encoder.
        divisible: the number of neurons left in a layer is rounded up to a multiple of this, for n:m patterns or
            kernels that need it; zero neurons fill it up.
        units: which kinds of groups; default: all that the network has.
        size: in place of ``target``: the share of the encoder's parameters that stays at most. The same share of heads
            and of neurons then stays, the largest one with which the encoder is that small.

    Raises:
        UsageError: a share, eps or λ out of range.
    """

    reads_space = False
    name = "hspg"
    caps: float | dict[str, float]

    def __init__(
        self,
        penalty: NonNegative = 1.0,
        target: Shares | None = None,
        caps: Shares | None = None,
        eps: ShareBelowOne = 0.0,
        adapt_eps: Count | None = None,
        prox: Share = "20%",
        ramp_end: Share = "80%",
        rate: NonNegative = 100.0,
        normalize: bool = True,
        decay_at: Sequence[Share] = (),
        min_kept: Share | None = None,
        divisible: Count = 1,
        units: list[Unit] | None = None,
        size: Percent | None = None,
    ) -> None:
        super().__init__(units, min_kept, divisible, size)
        target_or_size(self.name, target, size)
        if not 0 <= eps < 1 or penalty < 0 or rate < 0:
            raise UsageError("hspg: expected 0 <= eps < 1, penalty >= 0 and rate >= 0.")
        if caps is not None and (target is not None or size is not None):
            raise UsageError(
                "hspg: caps and a target or size both say how many groups may become zero. Expected one of them."
            )
        if target is not None:
            self.target = shares("target", target)
        self.caps = 1.0 if caps is None else shares("caps", caps, ends=True)
        self.penalty = penalty
        self.eps = eps
        self.adapt_eps = adapt_eps
        self.rate = rate
        self.normalize = normalize
        self.prox = share("prox", prox, ends=True)
        self.ramp_end = share("ramp_end", ramp_end, ends=True)
        self.decay_at = [share("decay_at", at, ends=True) for at in decay_at]
        if (target is not None or size is not None) and self.ramp_end <= self.prox:
            raise UsageError(f"hspg: ramp_end {ramp_end!r} is not after prox {prox!r}, when groups begin to stay zero.")

    def on_start(self, job: TrainJob) -> None:
        """Find the groups, and how many of each kind may become zero."""
        super().on_start(job)
        groups = self.groups
        device = groups.unit.device
        self.weights = groups.sizes.sqrt() if self.normalize else torch.ones_like(groups.sizes)
        self.total = numbers(groups)
        if self.target is not None:
            kept = of_units("target", self.target, groups.units, 1.0)
            most = [1 - part for part in kept]
        else:
            most = of_units("caps", self.caps, groups.units, 1.0)
        self.cap = (self.total * torch.tensor(most, device=device)).round()
        if self.target is not None:
            self.check(self.cap, "target")
        self.lambdas = torch.full((len(groups.units),), self.penalty, device=device)
        self.epsilons = torch.full_like(self.lambdas, self.eps)
        self.zeros_then = torch.zeros((), device=device)  # the share of zero groups when eps was last adapted
        self.old: list[torch.Tensor] = []  # x, while the optimiser makes its step

    def on_gradients(self, step: Step) -> None:
        """Keep x in the second stage, which compares it with what the optimiser makes of it."""
        groups = self.groups
        groups.bind()
        if self.in_first_stage(step):
            return
        self.old = self.old or groups.copy()

        def keep(old: torch.Tensor, now: torch.Tensor) -> list[torch.Tensor]:
            old.copy_(now)
            return [square(old), peak(old)]

        self.squares, self.peaks = groups.sums(keep, groups.cut(self.old), groups.views)

    def in_first_stage(self, step: Step) -> bool:
        """Whether a step belongs to the proximal steps."""
        return step.index < round(self.prox * step.total)

    @torch.no_grad()
    def on_update(self, step: Step) -> None:
        """Make the penalty's part of the step."""
        if step.skipped:
            return
        decays = [at for at in self.decay_at if step.index >= round(at * step.total)]
        alpha = step.lr * 0.1 ** len(decays)
        if self.in_first_stage(step):
            zero = self.prox_step(alpha)
        else:
            zero = self.half_space_step(alpha)
            self.ascend(step, zero)
            self.adapt(step, zero)
        if to_log(step):
            values = zero_shares(self.groups, zero)
            lambdas = self.lambdas.tolist()
            for unit, value in zip(self.groups.units, lambdas, strict=True):
                values[f"lambda_{unit}"] = value
            step.job.log(step.index + 1, values)

    def prox_step(self, alpha: float) -> torch.Tensor:
        """x_g ← max(0, 1 − α λ w_g / ‖x'_g‖) x'_g; return which groups are zero."""
        groups = self.groups
        squares, peaks = groups.sums(lambda view: [square(view), peak(view)], groups.views)
        zero = peaks == 0
        norms = norms_of(squares, peaks)
        pull = alpha * self.lambdas[groups.unit] * self.weights
        factor = group_shrinkage(norms, pull * self.pulled(norms, zero))  # (H6)
        crossing = (factor == 0) & ~zero
        # The caps have no room for these, so they are not pulled in this step.
        kept_back = crossing & ~self.within(norms, crossing, zero)
        factor = torch.where(kept_back, 1.0, factor)
        groups.scale_(factor)
        return factor == 0

    def half_space_step(self, alpha: float) -> torch.Tensor:
        """v_g = x'_g − α λ w_g x_g / ‖x_g‖; x_g ← 0 if ⟨v_g, x_g⟩ < ε ‖x_g‖², else v_g; return those zero."""
        groups = self.groups
        squares = self.squares
        zero = self.peaks == 0
        norms = norms_of(squares, self.peaks)
        self.mean_size = (norms / self.weights).mean()
        is_pulled = self.pulled(norms, zero)
        pull = alpha * self.lambdas[groups.unit] * self.weights / norms
        pull = torch.where(is_pulled, pull, 0)
        some_are_zero = bool(zero.any())

        def move(v: torch.Tensor, old: torch.Tensor, pull: torch.Tensor, stays: torch.Tensor) -> list[torch.Tensor]:
            if some_are_zero:
                v.mul_(stays)  # (H8)
            v.addcmul_(old, pull, value=-1)
            return [dot(v, old)]  # (H7)

        old = groups.cut(self.old)
        pulls = groups.each(pull)
        stays = groups.each((~zero).to(pull.dtype))
        (dots,) = groups.sums(move, groups.views, old, pulls, stays)
        crossing = leaves_half_space(dots, squares, self.epsilons[groups.unit]) & is_pulled
        leaving = self.within(dots / squares, crossing, zero)
        groups.clear_(leaving)
        kept_back = crossing & ~leaving
        # The caps have no room for these. They get x' back, because the pull would have turned them round.
        if kept_back.any():
            given_back = groups.each(torch.where(kept_back, pull, 0))
            for v, x, part in zip(groups.views, old, given_back, strict=True):
                v.addcmul_(x, part)
        return zero | leaving

    def pulled(self, norms: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
        """Return which groups are pulled: all of kinds below their cap, or the nearest to zero that a target lacks."""
        if self.target is None:
            has_room = self.room(zero) > 0
            return ~zero & has_room[self.groups.unit]
        # λ rises until these are zero; all others keep their norm.
        return self.within(norms / self.weights, ~zero, zero)

    def room(self, zero: torch.Tensor) -> torch.Tensor:
        """Return how many groups of each kind may still become zero."""
        return self.cap - count(self.groups, zero)

    def within(self, scores: torch.Tensor, candidates: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
        """Return the groups of the lowest scores among the candidates, as many as the caps leave room for."""
        return self.choose(scores, candidates, zero, self.room(zero))

    def ascend(self, step: Step, zero: torch.Tensor) -> None:
        """Dual ascent: λ ← max(0, λ + ρ · (share that should be zero by now − share that is))."""
        if self.target is None:
            return
        ramp = self.ramp_end - self.prox
        done = (step.index + 1) / step.total
        part = min(1.0, (done - self.prox) / ramp)
        steps = max(ramp * step.total, 1)
        # A λ of `mean_size` / (α · steps) would bring the mean group to zero within the ramp. Divided by the ramp's
        # steps once more, `rate` depends neither on the learning rate nor on the number of steps.
        rho = self.rate * self.mean_size / (step.lr * steps) / steps
        missing = part * self.cap - count(self.groups, zero)
        self.lambdas = (self.lambdas + rho * missing / self.total).clamp(min=0)  # (H10)

    def adapt(self, step: Step, zero: torch.Tensor) -> None:
        """Raise the eps of kinds below their share if zero groups come too slowly, else set it back."""
        if self.adapt_eps is None or (step.index + 1) % self.adapt_eps:
            return
        share_now = zero.float().mean()
        is_slow = share_now - self.zeros_then <= GAIN
        is_below = count(self.groups, zero) < self.cap
        raised = (self.epsilons + RAISE).clamp(max=MOST)  # (H9)
        self.epsilons = torch.where(is_slow & is_below, raised, self.eps)
        self.zeros_then = share_now

    def state_dict(self) -> dict[str, Any]:
        """Return λ, eps and when it was adapted; the weights show which groups are zero."""
        return {"lambdas": self.lambdas, "epsilons": self.epsilons, "zeros_then": self.zeros_then}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that ``state_dict`` returned."""
        for name, value in state.items():
            device = getattr(self, name, value).device
            setattr(self, name, value.to(device))


def norms_of(squares: torch.Tensor, peaks: torch.Tensor) -> torch.Tensor:
    """Return the norms of groups; squares of tiny weights round to 0, and then the largest magnitude stands in."""
    return torch.where(squares == 0, peaks, squares.sqrt())
