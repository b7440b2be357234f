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
from nasframe.records import Count, Percent, Positive, ShareBelowOne
from nasframe.units import share
from nasframe_hspg.stage import (
    GroupModifier,
    Share,
    Shares,
    Unit,
    count,
    direction,
    numbers,
    shares,
    spread,
    target_or_size,
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


class Move(NamedTuple):
    """What the optimiser did to each group, x' = x − δ with δ = α ∇. Each field is ``(groups,)``.

    Args:
        squares: ‖x‖².
        leads: ⟨x, δ⟩, above 0 if the step leads towards zero.
        lengths: ‖δ‖².
    """

    squares: torch.Tensor
    leads: torch.Tensor
    lengths: torch.Tensor


class DHSPG(GroupModifier):
    """Make a given share of the groups exactly zero: choose candidates once, pull each as hard as it resists.

    Args:
        target: the share of the groups of each kind that stays, and so of the encoder's parameters, apart from biases
            and norms that belong to no group. One share, or one for each kind. Default: 50 %.
        start: T_w, the share of the steps before groups are divided.
        ramp_end: the share of the steps after which as many candidates as needed are zero, because they are pulled hard
            enough; ``null`` pulls only as published, and the missing groups are set to zero at the end.
        penalty: λ; default: published, 1e-3 for SGD and 1e-2 for AdamW.
        amplify: λ_g if a step leads away from zero, as a multiple of how fast it does; published: 2, 20.
        most: the largest λ_g, as a multiple of λ; published: 10, 1000.
        eps: in [0, 1): a group becomes zero if less than this part of it is left after a step.
        scores: how the two parts of a group's score are scaled: ``range``, to 0 … 1 within its kind, or ``published``,
            by their norms over all groups, with AdamW's direction before its weight decay.
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
    name = "dhspg"
    target: float | dict[str, float]

    def __init__(
        self,
        target: Shares | None = None,
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
        size: Percent | None = None,
    ) -> None:
        super().__init__(units, min_kept, divisible, size)
        target_or_size(self.name, target, size)
        if not 0 <= eps < 1:
            raise UsageError("dhspg: expected 0 <= eps < 1.")
        if size is None:
            self.target = shares("target", "50%" if target is None else target)
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
        self.cap = self.cap_of_target()
        published = PUBLISHED[job.options.optimizer]
        self.pulling = Pull(
            published.penalty if self.penalty is None else self.penalty,
            published.amplify if self.amplify is None else self.amplify,
            published.most if self.most is None else self.most,
        )
        self.candidates = torch.zeros_like(self.groups.unit, dtype=torch.bool)
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
        groups = self.groups
        delta = groups.cut(self.delta)

        def subtract(new: torch.Tensor, old: torch.Tensor) -> tuple[torch.Tensor, ...]:
            peaks = peak(old)
            squares = square(old)
            delta = old.sub_(new)  # in place: x − x' = α ∇
            return peaks, squares, square(delta), dot(new, delta)

        peaks, squares, lengths, leads_after = groups.sums(subtract, groups.views, delta)
        move = Move(squares, leads_after + lengths, lengths)  # ⟨x, δ⟩ = ⟨x', δ⟩ + ‖δ‖²
        if not self.candidates.any() and self.cap.any():
            self.candidates = self.divided(step, move)
        zero = self.pull(step, peaks == 0, move, delta)
        if to_log(step):
            step.job.log(step.index + 1, zero_shares(groups, zero))

    def divided(self, step: Step, move: Move) -> torch.Tensor:
        """Return G_p: of each kind the groups of the highest ½ cos(−x, −∇) + ½ size / ‖x‖, both parts scaled."""
        score = self.published_score(step, move) if self.scores == "published" else self.score(move)
        total = numbers(self.groups)
        room = torch.minimum(self.cap + MARGIN * total, total).ceil()
        room = torch.where(self.cap > 0, room, 0)  # no margin for a kind of which nothing has to become zero
        none = torch.zeros_like(self.candidates)
        return self.choose(-score, ~none, none, room)

    def score(self, move: Move) -> torch.Tensor:
        """Score groups with both parts scaled to 0 … 1 within a kind."""
        groups = self.groups
        kinds = len(self.cap)
        tiny = torch.finfo(move.squares.dtype).tiny
        norms = move.squares.sqrt().clamp(min=tiny)
        cosine = move.leads / (move.squares * move.lengths).sqrt().clamp(min=tiny)
        smallness = groups.sizes / norms
        return 0.5 * spread(cosine, groups.unit, kinds) + 0.5 * spread(smallness, groups.unit, kinds)  # (H11)

    def published_score(self, step: Step, move: Move) -> torch.Tensor:
        """Score groups as the published code does, with both parts over their norms over all groups."""
        groups = self.groups
        before = [now.detach() + delta for now, delta in zip(groups.tensors, self.delta, strict=True)]
        directions = groups.cut(direction(step, before, groups.tensors))
        lengths = (move.squares * groups.squares(directions)).sqrt()
        cosine = groups.dots(groups.cut(before), directions) / lengths.clamp(min=1e-8)
        smallness = 1 / (move.squares.sqrt() / groups.sizes + 1e-6)
        return 0.5 * normalize(cosine, dim=0) + 0.5 * normalize(smallness, dim=0)  # (H12)

    def pull(self, step: Step, zero: torch.Tensor, move: Move, delta: list[torch.Tensor]) -> torch.Tensor:
        """v_g = x'_g − α λ_g x_g / ‖x_g‖ on G_p; x_g ← 0 if ⟨v_g, x_g⟩ < ε ‖x_g‖²; return which groups are zero.

        Args:
            step: the step.
            zero: ``(groups,)`` booleans: which are zero already, and stay so.
            move: what the optimiser did.
            delta: δ, as ``Grouped.cut`` gives it.
        """
        groups = self.groups
        squares = move.squares
        norms = squares.clamp(min=torch.finfo(squares.dtype).tiny).sqrt()
        mean_squares = squares / groups.sizes  # how near to zero a group is, whatever its size
        missing = self.cap - count(groups, zero)
        is_pulled = self.candidates & ~zero & (missing > 0)[groups.unit]
        lambdas = self.lambdas(step.lr, norms, move)
        if self.last is not None:
            # The groups nearest to zero, as many as are missing, are pulled hard enough to get there by the ramp's end:
            # in each step by an equal part of x' along x. In the last step 0.5 in place of 1 turns them round.
            steps_left = max(self.last - step.index - 1, 0.5)
            due = self.choose(mean_squares, is_pulled, zero, missing)
            along = (squares - move.leads) / norms  # ⟨x', x⟩ / ‖x‖
            needed = along / (step.lr * steps_left)
            lambdas = torch.where(due, torch.maximum(lambdas, needed), lambdas)
        pull = torch.where(is_pulled, step.lr * lambdas / norms, 0)
        dots = squares - move.leads - pull * squares  # ⟨v, x⟩
        crossing = leaves_half_space(dots, squares, self.eps) & is_pulled
        zero = zero | self.choose(mean_squares, crossing, zero, missing)
        factors = groups.each(torch.where(zero, 0, 1 - pull))
        pulls = groups.each(torch.where(zero, 0, pull))
        # v = x' − pull x = (1 − pull) x' − pull δ, because x is no longer at hand, but δ is.
        for new, difference, factor, part in zip(groups.views, delta, factors, pulls, strict=True):
            new.mul_(factor).addcmul_(difference, part, value=-1)
        return zero

    def lambdas(self, alpha: float, norms: torch.Tensor, move: Move) -> torch.Tensor:
        """Return λ_g, ``(groups,)``: λ, or for ⟨x, ∇⟩ < 0 one at which v_g comes nearer to zero and f still falls."""
        tiny = torch.finfo(norms.dtype).tiny
        penalty = self.pulling.penalty
        most = penalty * self.pulling.most
        away = (-move.leads / alpha / norms).clamp(min=0)  # (H13)
        falls_below = move.lengths / alpha**2 / away.clamp(min=tiny)  # λ_max = ‖∇‖² ‖x‖ / −⟨x, ∇⟩
        raised = (self.pulling.amplify * away).clamp(penalty, most)
        raised = torch.where(raised > falls_below, (away + falls_below) / 2, raised)  # (H14)
        return torch.where(away > 0, raised, penalty)

    def state_dict(self) -> dict[str, Any]:
        """Return G_p; the weights show which groups are zero."""
        return {"candidates": self.candidates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that ``state_dict`` returned."""
        candidates = state["candidates"]
        self.candidates = candidates.to(getattr(self, "candidates", candidates).device)
