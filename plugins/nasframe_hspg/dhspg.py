"""DHSPG: dual half-space projected gradient (Chen et al., *OTOv2*, arXiv 2303.06862).

Groups are divided once, at step T_w, into those that may become zero, G_p, and all others, which are never penalised.
The choice, and how hard each group is pulled, follow from what the stage's optimiser really does to the weights: with
learning rate α its direction is ``∇ = (x − x') / α``, for AdamW as for SGD.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch.nn.functional import normalize

from nasframe.errors import UsageError
from nasframe.interfaces import Step, TrainJob
from nasframe.nn.groups import dot, peak, square
from nasframe.nn.prox import leaves_half_space
from nasframe.records import Count, Positive, ShareBelowOne
from nasframe.units import share
from nasframe_hspg.stage import (
    GroupModifier,
    Share,
    Shares,
    Unit,
    count,
    direction,
    numbers,
    of_units,
    shares,
    spread,
    to_log,
    zero_shares,
)

MARGIN = 0.05  # share of the groups that are in G_p beyond those that have to become zero


@dataclass(frozen=True)
class Pull:
    """How hard groups are pulled.

    Args:
        penalty: λ.
        amplify: λ_g if a step leads away from zero, as a multiple of how fast it does.
        most: the largest λ_g, as a multiple of λ.
    """

    penalty: float
    amplify: float
    most: float


PUBLISHED = {"sgd": Pull(1e-3, 2.0, 10.0), "adamw": Pull(1e-2, 20.0, 1e3)}


class Moved(NamedTuple):
    """What the optimiser did to each group, x' = x − δ with δ = α ∇: ‖x‖², ⟨x, δ⟩ and ‖δ‖², ``(groups,)``."""

    squares: torch.Tensor
    leads: torch.Tensor
    moved: torch.Tensor


class DHSPG(GroupModifier):
    """Make a given share of the groups exactly zero: choose candidates once, pull each as hard as it resists.

    Args:
        target: the share of the groups of each kind that stays, and so, but for biases and norms that belong to no
            group, the share of the encoder's parameters. One share, or one for each kind.
        start: T_w, the share of the steps before groups are divided.
        ramp_end: the share of the steps after which as many candidates as needed are zero, because they are pulled
            hard enough; ``null`` pulls as published only, and the groups that are missing become zero at the end.
        penalty: λ; default: published, 1e-3 for SGD and 1e-2 for AdamW.
        amplify: λ_g if a step leads away from zero, as a multiple of how fast it does; published: 2, 20.
        most: the largest λ_g, as a multiple of λ; published: 10, 1000.
        eps: in [0, 1): a group becomes zero if less than this part of it is left after a step.
        scores: how the two parts of a group's score are scaled: ``range``, to 0 … 1 within its kind, or ``published``,
            by their norms over all groups, with AdamW's direction before its weight decay.
        min_kept: the share of each layer's groups that always stays; default: none of an encoder's.
        divisible: the number of neurons left in a layer is rounded up to a multiple of this, for n:m patterns or
            kernels that need it; zero ones fill it up.
        units: which kinds of groups; default: all that the network has.

    Raises:
        UsageError: a share, eps or λ out of range.
    """

    name = "dhspg"
    target: float | dict[str, float]

    def __init__(
        self,
        target: Shares = "50%",
        start: Share = "10%",
        ramp_end: Share | None = "60%",
        penalty: Positive | None = None,
        amplify: Positive | None = None,
        most: Positive | None = None,
        eps: ShareBelowOne = 0.0,
        scores: Literal["range", "published"] = "range",
        min_kept: Share | None = None,
        divisible: Count = 1,
        units: list[Unit] | None = None,
    ) -> None:
        super().__init__(units, min_kept, divisible)
        if not 0 <= eps < 1:
            raise UsageError("dhspg: expected 0 <= eps < 1.")
        self.target = shares("target", target)
        self.eps = eps
        self.scores = scores
        self.penalty = penalty
        self.amplify = amplify
        self.most = most
        self.start = share("start", start, ends=True)
        self.ramp_end = None if ramp_end is None else share("ramp_end", ramp_end, ends=True)
        if self.ramp_end is not None and self.ramp_end <= self.start:
            raise UsageError(f"dhspg: ramp_end {ramp_end!r} is not after start {start!r}, when groups are chosen.")

    def on_start(self, job: TrainJob) -> None:
        """Find the groups, and how many of each kind are to become zero."""
        super().on_start(job)
        x = self.groups
        stay = torch.tensor(of_units("target", self.target, x.units, 1.0), device=x.unit.device)
        self.cap = numbers(x) - (numbers(x) * stay).round()
        self.check(self.cap, "target")
        published = PUBLISHED[job.options.optimizer]
        self.pulling = Pull(
            published.penalty if self.penalty is None else self.penalty,
            published.amplify if self.amplify is None else self.amplify,
            published.most if self.most is None else self.most,
        )
        self.candidates = torch.zeros_like(x.unit, dtype=torch.bool)
        self.first = min(round(self.start * job.total), job.total - 1)
        self.last: int | None = None
        if self.ramp_end is not None:
            self.last = max(round(self.ramp_end * job.total), self.first + 1)
        self.delta: list[torch.Tensor] = []  # x while the optimiser makes its step, then δ = x − x'

    def on_gradients(self, step: Step) -> None:
        """Keep x, which is compared with what the optimiser makes of it."""
        self.groups.bind()
        if step.index >= self.first:
            self.delta = self.delta or self.groups.copy()
            torch._foreach_copy_(self.delta, self.groups.tensors)

    @torch.no_grad()
    def on_update(self, step: Step) -> None:
        """Divide the groups at T_w; from then on pull at G_p and project it."""
        if step.skipped or step.index < self.first:
            return
        x = self.groups
        delta = x.cut(self.delta)

        def subtract(new: torch.Tensor, old: torch.Tensor) -> tuple[torch.Tensor, ...]:
            peaks = peak(old)
            squares = square(old)
            delta = old.sub_(new)  # in place: x − x' = α ∇
            return peaks, squares, square(delta), dot(new, delta)

        peaks, squares, moved, leads = x.sums(subtract, x.views, delta)
        by = Moved(squares, leads + moved, moved)  # ⟨x, δ⟩ = ⟨x', δ⟩ + ‖δ‖²
        if not self.candidates.any() and self.cap.any():
            self.candidates = self.divided(step, by)
        zero = self.pull(step, peaks == 0, by, delta)
        if to_log(step):
            step.job.log(step.index + 1, zero_shares(x, zero))

    def divided(self, step: Step, by: Moved) -> torch.Tensor:
        """Return G_p: of each kind the groups of the highest ½ cos(−x, −∇) + ½ size / ‖x‖, both parts scaled."""
        x = self.groups
        score = self.published_score(step, by) if self.scores == "published" else self.score(by)
        room = torch.minimum(self.cap + MARGIN * numbers(x), numbers(x)).ceil()
        room = torch.where(self.cap > 0, room, 0)
        none = torch.zeros_like(self.candidates)
        return self.choose(-score, ~none, none, room)

    def score(self, by: Moved) -> torch.Tensor:
        """Score groups with both parts scaled to 0 … 1 within a kind."""
        x = self.groups
        kinds = len(self.cap)
        tiny = torch.finfo(by.squares.dtype).tiny
        cosine = by.leads / (by.squares * by.moved).sqrt().clamp(min=tiny)
        small = x.sizes / by.squares.sqrt().clamp(min=tiny)
        return 0.5 * spread(cosine, x.unit, kinds) + 0.5 * spread(small, x.unit, kinds)  # (H11)

    def published_score(self, step: Step, by: Moved) -> torch.Tensor:
        """Score groups as the published code does, with both parts over their norms over all groups."""
        x = self.groups
        before = [now.detach() + delta for now, delta in zip(x.tensors, self.delta, strict=True)]
        ways = x.cut(direction(step, before, x.tensors))
        cosine = x.dots(x.cut(before), ways) / (by.squares * x.squares(ways)).sqrt().clamp(min=1e-8)
        small = 1 / (by.squares.sqrt() / x.sizes + 1e-6)
        return 0.5 * normalize(cosine, dim=0) + 0.5 * normalize(small, dim=0)  # (H12)

    def pull(self, step: Step, zero: torch.Tensor, by: Moved, delta: list[torch.Tensor]) -> torch.Tensor:
        """v_g = x'_g − α λ_g x_g / ‖x_g‖ on G_p; x_g ← 0 if ⟨v_g, x_g⟩ < ε ‖x_g‖²; return which groups are zero.

        Args:
            step: the step.
            zero: ``(groups,)`` booleans: which are zero already, and stay so.
            by: what the optimiser did.
            delta: δ, as ``Grouped.cut`` gives it.
        """
        x = self.groups
        alpha = step.lr
        squares = by.squares
        lacking = self.cap - count(x, zero)
        open_ = self.candidates & ~zero & (lacking > 0)[x.unit]
        norms = squares.clamp(min=torch.finfo(squares.dtype).tiny).sqrt()
        lambdas = self.lambdas(alpha, norms, by)
        if self.last is not None:  # the groups nearest to zero, as many as are lacking, get there in time
            left = max(self.last - step.index - 1, 0.5)  # steps; at 0.5, the last one, a group is turned round
            due = self.choose(squares / x.sizes, open_, zero, lacking)
            along = (squares - by.leads) / norms  # the length of x' along x, which is to be gone
            lambdas = torch.where(due, torch.maximum(lambdas, along / (alpha * left)), lambdas)
        pull = torch.where(open_, alpha * lambdas / norms, 0)
        dots = squares - by.leads - pull * squares  # ⟨v, x⟩
        crossing = leaves_half_space(dots, squares, self.eps) & open_
        leaving = self.choose(squares / x.sizes, crossing, zero, lacking)
        zero = zero | leaving
        stays = x.each(torch.where(zero, 0, 1 - pull))
        pulls = x.each(torch.where(zero, 0, pull))
        for new, difference, stay, part in zip(x.views, delta, stays, pulls, strict=True):
            new.mul_(stay).addcmul_(difference, part, value=-1)  # x' − pull x = (1 − pull) x' − pull δ
        return zero

    def lambdas(self, alpha: float, norms: torch.Tensor, by: Moved) -> torch.Tensor:
        """Return λ_g, ``(groups,)``: λ, or for ⟨x, ∇⟩ < 0 one at which v_g comes nearer to zero and f still falls."""
        tiny = torch.finfo(norms.dtype).tiny
        lambda_, most = self.pulling.penalty, self.pulling.penalty * self.pulling.most
        away = (-by.leads / alpha / norms).clamp(min=0)  # (H13)
        falls = by.moved / alpha**2 / away.clamp(min=tiny)  # λ_max = ‖∇‖² ‖x‖ / −⟨x, ∇⟩
        raised = (self.pulling.amplify * away).clamp(lambda_, most)
        raised = torch.where(raised > falls, (away + falls) / 2, raised)  # (H14)
        return torch.where(away > 0, raised, lambda_)

    def state_dict(self) -> dict[str, Any]:
        """Return G_p; the weights show which groups are zero."""
        return {"candidates": self.candidates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that ``state_dict`` returned."""
        candidates = state["candidates"]
        self.candidates = candidates.to(getattr(self, "candidates", candidates).device)
