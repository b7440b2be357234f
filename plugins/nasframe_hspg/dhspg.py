"""DHSPG: dual half-space projected gradient (Chen et al., *OTOv2*, arXiv 2303.06862).

Groups are divided once, at step T_w, into those that may become zero, G_p, and all others, which are never penalised.
Which groups these are, and how hard each is pulled, follows from what the optimiser of the stage really does to the
weights: with rate α its direction is ``∇ = (x − x') / α``, for AdamW as for SGD.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    direction,
    numbers,
    of_units,
    shares,
    spread,
    to_log,
    zero_shares,
)

PUBLISHED = {"sgd": (1e-3, 2.0, 10.0), "adamw": (1e-2, 20.0, 1e3)}  # λ, how it is amplified, how far it may rise
MARGIN = 0.05  # so much more than the target is in G_p


class Moved(NamedTuple):
    """What the optimiser did to each group, x' = x − δ with δ = α ∇: ‖x‖², ⟨x, δ⟩ and ‖δ‖², ``(groups,)``."""

    squares: torch.Tensor
    leads: torch.Tensor
    moved: torch.Tensor


class DHSPG(GroupModifier):
    """Make a given share of the groups exactly zero: choose candidates once, pull each as hard as it resists.

    Args:
        target: what is to stay: a share of the groups of each kind, and so, but for biases and norms that belong to
            no group, of the encoder's parameters. One share, or one for each kind.
        start: T_w, the share of the steps before groups are divided.
        until: by this share of the steps as many candidates as needed are pulled hard enough to be zero; ``null`` pulls
            as published only; what is then missing becomes zero at the end.
        penalty: λ; default: published, 1e-3 for SGD and 1e-2 for AdamW.
        amplify: what λ_g is where a step leads away from zero, as a multiple of how fast; published: 2, 20.
        most: λ_g may be so many times λ; published: 10, 1000.
        eps: in [0, 1): a group becomes zero where less than this part of it is left after a step.
        scores: how the two parts of a group's score are scaled: ``range``, to 0 … 1 within its kind, or ``published``,
            by their norms over all groups, with AdamW's direction before its weight decay.
        least: the share of each layer's groups that always stays; default: none of an encoder's.
        divisible: the number of neurons left in a layer is rounded up to a multiple of this, for n:m patterns or
            kernels that ask for it; zero ones fill it up.
        units: which kinds of groups; default: all that the network has.

    Raises:
        UsageError: a share, eps or λ out of range.
    """

    name = "dhspg"

    def __init__(
        self,
        target: Shares = "50%",
        start: Share = "10%",
        until: Share | None = "60%",
        penalty: Positive | None = None,
        amplify: Positive | None = None,
        most: Positive | None = None,
        eps: ShareBelowOne = 0.0,
        scores: Literal["range", "published"] = "range",
        least: Share | None = None,
        divisible: Count = 1,
        units: list[Unit] | None = None,
    ) -> None:
        super().__init__(units, least, divisible)
        if not 0 <= eps < 1:
            raise UsageError("dhspg: expected 0 <= eps < 1.")
        self.scores = scores
        self.target, self.eps, self.given = shares("target", target), eps, (penalty, amplify, most)
        self.start = share("start", start, ends=True)
        self.until = None if until is None else share("until", until, ends=True)
        if self.until is not None and self.until <= self.start:
            raise UsageError(f"dhspg: until {until!r} is not after start {start!r}, when groups are chosen.")

    def on_start(self, job: TrainJob) -> None:
        """Find the groups, and how many of each kind shall become zero."""
        super().on_start(job)
        x = self.groups
        stay = torch.tensor(of_units("target", self.target, x.units, 1.0), device=x.unit.device)
        self.cap = numbers(x) - (numbers(x) * stay).round()
        self.check(self.cap, "target")
        published = PUBLISHED[job.options.optimizer]
        self.penalty, self.amplify, self.most = (
            p if g is None else g for g, p in zip(self.given, published, strict=True)
        )
        self.candidates = torch.zeros_like(x.unit, dtype=torch.bool)
        self.first = min(round(self.start * job.total), job.total - 1)
        self.last = None if self.until is None else max(round(self.until * job.total), self.first + 1)
        self.delta: list[torch.Tensor] = []

    def on_gradients(self, step: Step) -> None:
        """Keep x_k."""
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

        def sums(x: torch.Tensor, delta: torch.Tensor) -> tuple[torch.Tensor, ...]:
            peaks, squares = peak(delta), square(delta)
            delta.sub_(x)  # δ = x_k − x' = α ∇
            return peaks, squares, square(delta), dot(x, delta)

        peaks, squares, moved, leads = x.sums(sums, x.views, delta)
        by = Moved(squares, leads + moved, moved)  # ⟨x_k, δ⟩ = ⟨x', δ⟩ + ‖δ‖²
        if not self.candidates.any() and self.cap.any():
            self.candidates = self.divided(step, by)
        zero = self.pull(step, peaks == 0, by, delta)  # zero groups stay zero
        if to_log(step):
            step.job.log(step.index + 1, zero_shares(x, zero))

    def divided(self, step: Step, by: Moved) -> torch.Tensor:
        """G_p: of each kind those of the highest ½ cos(−x, −∇) + ½ size / ‖x‖, each scaled."""
        x, kinds = self.groups, len(self.cap)
        tiny = torch.finfo(by.squares.dtype).tiny
        if self.scores == "published":
            score = self.published(step, by)
        else:
            cosine = by.leads / (by.squares * by.moved).sqrt().clamp(min=tiny)
            small = x.sizes / by.squares.sqrt().clamp(min=tiny)
            score = 0.5 * spread(cosine, x.unit, kinds) + 0.5 * spread(small, x.unit, kinds)
        room = torch.minimum(self.cap + MARGIN * numbers(x), numbers(x)).ceil()
        none = torch.zeros_like(self.candidates)
        return self.choose(-score, ~none, none, torch.where(self.cap > 0, room, 0))

    def published(self, step: Step, by: Moved) -> torch.Tensor:
        """Score groups as the published code does: each of the two over its norm over all groups."""
        x = self.groups
        before = [now.detach() + delta for now, delta in zip(x.tensors, self.delta, strict=True)]
        ways = x.cut(direction(step, before, x.tensors))
        cosine = x.dots(x.cut(before), ways) / (by.squares * x.squares(ways)).sqrt().clamp(min=1e-8)
        small = 1 / (by.squares.sqrt() / x.sizes + 1e-6)
        return 0.5 * normalize(cosine, dim=0) + 0.5 * normalize(small, dim=0)

    def pull(self, step: Step, zero: torch.Tensor, by: Moved, delta: list[torch.Tensor]) -> torch.Tensor:
        """v_g = x'_g − α λ_g x_g / ‖x_g‖ on G_p; x_g ← 0 if ⟨v_g, x_g⟩ < ε ‖x_g‖²; return what is zero."""
        x, alpha, squares = self.groups, step.lr, by.squares
        found = torch.bincount(x.unit, zero.float(), len(self.cap))
        open_ = self.candidates & ~zero & (found < self.cap)[x.unit]
        norms = squares.clamp(min=torch.finfo(squares.dtype).tiny).sqrt()
        lambdas = self.lambdas(alpha, norms, by)
        if self.last is not None:  # as many as still lack, those nearest to zero, get there in time
            left = max(self.last - step.index - 1, 0.5)  # steps; in the last one a group is turned round
            due = self.choose(squares / x.sizes, open_, zero, self.cap - found)
            along = (squares - by.leads) / norms  # of x', which is to be gone
            lambdas = torch.where(due, torch.maximum(lambdas, along / (alpha * left)), lambdas)
        pull = torch.where(open_, alpha * lambdas / norms, 0)
        dots = squares - by.leads - pull * squares  # ⟨v, x_k⟩
        leaving = leaves_half_space(dots, squares, self.eps) & open_
        leaving = self.choose(squares / x.sizes, leaving, zero, self.cap - found)
        zero = zero | leaving
        stays = torch.where(zero, 0, 1 - pull)
        for w, d, stay, p in zip(x.views, delta, x.each(stays), x.each(torch.where(zero, 0, pull)), strict=True):
            w.mul_(stay).addcmul_(d, p, value=-1)  # x' − pull x_k = (1 − pull) x' − pull δ
        return zero

    def lambdas(self, alpha: float, norms: torch.Tensor, by: Moved) -> torch.Tensor:
        """λ_g: λ, or where ⟨x, ∇⟩ < 0 what makes v_g come nearer to zero and still lowers f, if there is such."""
        away = (-by.leads / alpha / norms).clamp(min=0)  # λ_min = −⟨x, ∇⟩ / ‖x‖: below it ‖x‖ grows
        falls = by.moved / alpha**2 / away.clamp(min=torch.finfo(away.dtype).tiny)  # λ_max = ‖∇‖² ‖x‖ / −⟨x, ∇⟩
        raised = (self.amplify * away).clamp(self.penalty, self.penalty * self.most)
        raised = torch.where(raised > falls, (away + falls) / 2, raised)
        return torch.where(away > 0, raised, self.penalty)

    def state_dict(self) -> dict[str, Any]:
        """Return G_p; what is zero is seen from the weights."""
        return {"candidates": self.candidates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.candidates = state["candidates"].to(getattr(self, "candidates", state["candidates"]).device)
