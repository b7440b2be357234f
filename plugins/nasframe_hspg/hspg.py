"""HSPG: half-space stochastic projected gradient (Chen et al., arXiv 2011.04868 and 2107.07467).

``min f(x) + λ Σ_g w_g ‖x_g‖`` over groups g that can be removed. The optimiser of the stage, whatever it is, makes its
step on f; what is meant here by a step is what it really did to the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nasframe.errors import UsageError
from nasframe.interfaces import Step, TrainJob
from nasframe.nn.groups import dot, peak, square
from nasframe.nn.prox import group_shrinkage, leaves_half_space
from nasframe.records import Count, NonNegative, ShareBelowOne
from nasframe.units import share
from nasframe_hspg.stage import (
    GroupModifier,
    Share,
    Shares,
    Unit,
    numbers,
    of_units,
    shares,
    to_log,
    zero_shares,
)

GAIN, RAISE, MOST = 0.01, 0.1, 0.999  # of adaptive eps: the gain in zero groups below which it rises, by how much, to


class HSPG(GroupModifier):
    """Make groups of weights exactly zero: proximal steps first, then half-space steps that keep zeros.

    Each step pulls a group's norm towards zero by the learning rate times λ w_g; in the second stage a group that the
    whole step would turn round becomes zero for good. With ``target`` only so many groups are pulled as it still lacks,
    those nearest to zero, and each kind's λ follows, by dual ascent, the share of groups that should be zero by then. A
    kind that has reached its share is left alone.

    Args:
        penalty: λ, where dual ascent begins if there is a target.
        target: what is to stay: a share of the groups of each kind, and so, but for biases and norms that belong to
            no group, of the encoder's parameters. One share, or one for each kind. λ then pulls only as many groups as
            are still to become zero, those nearest to it.
        caps: instead of a target: the largest share of each kind that may become zero; default: all.
        eps: in [0, 1): a group becomes zero where less than this part of it is left after a step.
        adapt_eps: every so many steps, where no more than 1 % of the groups became zero since, eps rises by 0.1 for
            kinds below their share; otherwise it goes back to ``eps``.
        prox: N_P, the share of the steps that the first stage takes.
        until: by when the target should be reached, a share of the steps.
        rate: of dual ascent, in units that depend neither on the learning rate nor on the number of steps: how fast λ
            changes where all groups of a kind are missing, over the λ that would bring the mean group to zero by
            ``until``.
        normalize: w_g is the square root of the number of a group's weights, so that λ pulls at the root mean square
            of heads and neurons alike; otherwise 1.
        decay_at: shares of the steps after which λ is divided by 10.
        least: the share of each layer's groups that always stays; default: none of an encoder's.
        divisible: the number of neurons left in a layer is rounded up to a multiple of this, for n:m patterns or
            kernels that ask for it; zero ones fill it up.
        units: which kinds of groups; default: all that the network has.

    Raises:
        UsageError: a share, eps or λ out of range.
    """

    name = "hspg"

    def __init__(
        self,
        penalty: NonNegative = 1.0,
        target: Shares | None = None,
        caps: Shares | None = None,
        eps: ShareBelowOne = 0.0,
        adapt_eps: Count | None = None,
        prox: Share = "20%",
        until: Share = "80%",
        rate: NonNegative = 100.0,
        normalize: bool = True,
        decay_at: Sequence[Share] = (),
        least: Share | None = None,
        divisible: Count = 1,
        units: list[Unit] | None = None,
    ) -> None:
        super().__init__(units, least, divisible)
        if not 0 <= eps < 1 or penalty < 0 or rate < 0:
            raise UsageError("hspg: expected 0 <= eps < 1, penalty >= 0 and rate >= 0.")
        if target is not None and caps is not None:
            raise UsageError("hspg: target and caps both say how many groups may become zero. Expected one of them.")
        self.target = None if target is None else shares("target", target)
        self.caps = 1.0 if caps is None else shares("caps", caps, ends=True)
        self.penalty, self.eps, self.adapt_eps, self.rate, self.normalize = penalty, eps, adapt_eps, rate, normalize
        self.prox, self.until = share("prox", prox, ends=True), share("until", until, ends=True)
        self.decay_at = [share("decay_at", at, ends=True) for at in decay_at]
        if target is not None and self.until <= self.prox:
            raise UsageError(f"hspg: until {until!r} is not after prox {prox!r}, when groups begin to stay zero.")

    def on_start(self, job: TrainJob) -> None:
        """Find the groups, and how many of each kind may become zero."""
        super().on_start(job)
        x = self.groups
        self.weights = x.sizes.sqrt() if self.normalize else torch.ones_like(x.sizes)
        if self.target is not None:
            most = [1 - part for part in of_units("target", self.target, x.units, 1.0)]
        else:
            most = of_units("caps", self.caps, x.units, 1.0)
        self.number = numbers(x)
        self.cap = (self.number * torch.tensor(most, device=x.unit.device)).round()
        if self.target is not None:
            self.check(self.cap, "target")
        self.lambdas = torch.full((len(x.units),), self.penalty, device=x.unit.device)
        self.epsilons = torch.full_like(self.lambdas, self.eps)
        self.zeros_then = torch.zeros((), device=x.unit.device)  # zero groups at the last change of eps, as a share
        self.old: list[torch.Tensor] = []

    def on_gradients(self, step: Step) -> None:
        """Keep x_k, where the second stage will ask what the optimiser did to it."""
        self.groups.bind()
        if step.index >= round(self.prox * step.total):
            x = self.groups
            self.old = self.old or x.copy()

            def kept(old: torch.Tensor, now: torch.Tensor) -> list[torch.Tensor]:
                return [square(old.copy_(now)), peak(old)]

            self.squares, self.peaks = x.sums(kept, x.cut(self.old), x.views)

    @torch.no_grad()
    def on_update(self, step: Step) -> None:
        """Make the penalty's part of the step."""
        if step.skipped:
            return
        decay = 0.1 ** sum(step.index >= round(at * step.total) for at in self.decay_at)
        if step.index < round(self.prox * step.total):
            zero = self.prox_step(step.lr * decay)
        else:
            zero = self.half_space_step(step.lr * decay)
            self.ascend(step, zero)
            self.adapt(step, zero)
        if to_log(step):
            lambdas = dict(zip(self.groups.units, self.lambdas.tolist(), strict=True))
            step.job.log(
                step.index + 1, zero_shares(self.groups, zero) | {f"lambda_{u}": v for u, v in lambdas.items()}
            )

    def prox_step(self, alpha: float) -> torch.Tensor:
        """x_g ← max(0, 1 − α λ w_g / ‖v_g‖) v_g, with v what the optimiser made of x; return what is zero."""
        x = self.groups
        squares, peaks = x.sums(lambda view: [square(view), peak(view)], x.views)
        zero, norms = peaks == 0, torch.where(squares == 0, peaks, squares.sqrt())
        factor = group_shrinkage(norms, alpha * self.lambdas[x.unit] * self.weights * self.pulled(norms, zero))
        kept_back = (factor == 0) & ~zero & ~self.within(norms, (factor == 0) & ~zero, zero)
        x.scale_(torch.where(kept_back, torch.ones_like(factor), factor))
        return (factor == 0) & ~kept_back

    def half_space_step(self, alpha: float) -> torch.Tensor:
        """v_g = x'_g − α λ w_g x_g / ‖x_g‖; x_g ← 0 if ⟨v_g, x_g⟩ < ε ‖x_g‖², else v_g; return what is zero."""
        x, squares = self.groups, self.squares
        zero = self.peaks == 0  # zero groups stay zero
        norms = torch.where(squares == 0, self.peaks, squares.sqrt())  # squares of tiny weights may not be told from 0
        self.size = (norms / self.weights).mean()
        open_ = self.pulled(norms, zero)
        pull = torch.where(open_, alpha * self.lambdas[x.unit] * self.weights / norms, 0)
        some = bool(zero.any())

        def made(v: torch.Tensor, old: torch.Tensor, pull: torch.Tensor, stays: torch.Tensor) -> list[torch.Tensor]:
            v = v.mul_(stays) if some else v
            return [dot(v.addcmul_(old, pull, value=-1), old)]

        (dots,) = x.sums(made, x.views, x.cut(self.old), x.each(pull), x.each((~zero).to(pull.dtype)))
        crossing = leaves_half_space(dots, squares, self.epsilons[x.unit]) & open_
        leaving = self.within(dots / squares, crossing, zero)
        x.clear_(leaving)
        if (kept_back := crossing & ~leaving).any():  # for these there is no room: they get x', not turned round
            for v, old, back in zip(x.views, x.cut(self.old), x.each(torch.where(kept_back, pull, 0)), strict=True):
                v.addcmul_(old, back)
        return zero | leaving

    def pulled(self, norms: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
        """Tell which groups are pulled: all of kinds below their cap, or as many as a target lacks, nearest to zero."""
        if self.target is None:
            return ~zero & (self.room(zero) > 0)[self.groups.unit]
        return self.within(norms / self.weights, ~zero, zero)  # λ rises until these are zero; others keep their norm

    def room(self, zero: torch.Tensor) -> torch.Tensor:
        """Count how many groups of each kind may still become zero."""
        return self.cap - torch.bincount(self.groups.unit, zero.float(), len(self.cap))

    def within(self, scores: torch.Tensor, candidates: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
        """Choose of the groups that would become zero as many of the lowest scores as the caps leave room for."""
        return self.choose(scores, candidates, zero, self.room(zero))

    def ascend(self, step: Step, zero: torch.Tensor) -> None:
        """Dual ascent: λ ← max(0, λ + ρ · (share that should be zero by now − share that is))."""
        if self.target is None:
            return
        done = (step.index + 1) / step.total
        part = min(1.0, (done - self.prox) / (self.until - self.prox))
        found = torch.bincount(self.groups.unit, zero.float(), len(self.cap))
        steps = max((self.until - self.prox) * step.total, 1)
        rho = self.rate * self.size / (step.lr * steps) / steps
        self.lambdas = (self.lambdas + rho * (part * self.cap - found) / self.number).clamp(min=0)

    def adapt(self, step: Step, zero: torch.Tensor) -> None:
        """Raise eps where zero groups come too slowly."""
        if self.adapt_eps is None or (step.index + 1) % self.adapt_eps:
            return
        share_now = zero.float().mean()
        slow = share_now - self.zeros_then <= GAIN
        below = torch.bincount(self.groups.unit, zero.float(), len(self.cap)) < self.cap
        raised = (self.epsilons + RAISE).clamp(max=MOST)
        self.epsilons = torch.where(slow & below, raised, torch.full_like(raised, self.eps))
        self.zeros_then = share_now

    def state_dict(self) -> dict[str, Any]:
        """Return what dual ascent and the adaptation of eps have come to; what is zero is seen from the weights."""
        return {"lambdas": self.lambdas, "epsilons": self.epsilons, "zeros_then": self.zeros_then}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        for name, value in state.items():
            setattr(self, name, value.to(getattr(self, name, value).device))
