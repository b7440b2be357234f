"""The exploit-explore stochastic natural gradient of YOCO-BERT (arXiv 2106.02435), as a sampler.

In the paper's order: draw from p_θ or explore, hear how good the draws were, step along the natural gradient of θ. The
arithmetic of the step is in ``natural_gradient.py``, that of domains and costs in ``coordinates.py``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from annotated_types import Ge

from nasframe.errors import UnsatisfiableError, UsageError
from nasframe.records import Arch, Count, Natural, Positive, Share, Trial
from nasframe.search.domain import DomainError
from nasframe_yoco_bert.coordinates import Coordinates
from nasframe_yoco_bert.draws import Draws, Region
from nasframe_yoco_bert.mixture import exploit_probability
from nasframe_yoco_bert.natural_gradient import natural_gradient, step, utility

PUBLISHED = {
    "lam": 2, "delta": 1.0, "explore": "averaged", "mask_inactive": False, "same_batch": False, "ties": "relative",
    "uniform_samples": "use", "clear_buffer": False, "penalty": "published", "objective": "loss",
    "cost_targets": "none", "warm_up": 0,
}  # fmt: skip
MENDED = {
    "lam": 4, "delta": 0.1, "explore": "per_layer", "mask_inactive": True, "same_batch": True, "ties": "absolute",
    "uniform_samples": "weight", "clear_buffer": True, "penalty": "monotone", "objective": "cost_matched",
    "cost_targets": "all", "warm_up": 50,
}  # fmt: skip
REFRESH = 0.05  # of a stage's steps, after which the mixture is computed anew
MEMORY, RIDGE = 0.95, 1e-6  # of the running fit of loss on cost: what it keeps from update to update
FORGET = 10_000  # proposals without an answer before they are given up
PLAIN = ("updates", "total", "training", "steps", "left", "level", "exploit", "free")


class Member(NamedTuple):
    """A proposal that was answered: positions, score (``None``: no answer), importance weight, drawn by exploring."""

    positions: list[int]
    score: float | None
    weight: float
    explored: bool


class SNG:
    """Learns a distribution over sub-networks by its stochastic natural gradient, in training and in search.

    Every ``lam`` answers move each knob's distribution θ towards the best and away from the worst. In a training
    stage draws explore with a probability that rises as θ loses entropy; in a search they all come from θ. Where the
    default departs from the publication (arXiv 2106.02435) an option turns that back; ``reference_compat`` turns all
    back.

    Args:
        domain: what to propose from; it has knobs. ``join: layer`` gives heads and FFN of a layer one distribution.
        seed: draws the proposals.
        costs: injected; without them costs are not looked at.
        reference_compat: defaults as published: ``lam`` 2, ``delta`` 1, and the second value of every option below.
        lam: λ, answers an update; default 4.
        delta: δ, the length of a step in the Fisher metric; default 0.1.
        explore: ``per_layer`` exploits with the mean of the dimensions' entropies as a share of its maximum,
            ``averaged`` with the entropy of their averaged distribution; a number is the probability of exploring.
        mask_inactive: dimensions without an effect in a draw do not move (published: as if drawn at random).
        same_batch: compare only what was told together; an ask is then rounded up to whole groups of ``lam``.
            Published: compare answers as they come, over batches.
        ties: scores are equal by an ``absolute`` or a ``relative`` difference.
        uniform_samples: ``weight`` answers by how likely θ was to propose them, ``use`` all alike, or ``skip`` what
            exploring proposed.
        clear_buffer: a stage forgets the answers that the one before left over.
        penalty: how ``violation: {penalise: p}`` lowers a negative score: ``monotone``, or multiplied as ``published``.
        objective: ``cost_matched`` compares answers at equal cost, ``loss`` whatever they cost.
        match: how costs are matched: ``band`` proposes the ``lam`` of a group at nearly one cost, ``residual`` compares
            what is left of the score after a running fit on cost.
        band: width of that band, as a share of the domain's range of costs.
        cost_targets: which proposals of a training aim at a cost drawn at random: ``all``, those that ``explore`` (the
            others come from θ as it is), or ``none``.
        cost_power: a cost aimed at is this power of a uniform number, on the way from the cheapest to the dearest: 1 is
            uniform, more than 1 aims at cheap ones more often, which also cost less to train.
        warm_up: updates in training in which θ rests and all proposals explore; default 50, published 0.

    Raises:
        UsageError: a domain without knobs, fewer than two answers an update, or a probability that is none.

    >>> from nasframe.search.domain import Choices
    >>> sampler = SNG(Choices({"k": [1, 2, 3]}), seed=0, reference_compat=True)
    >>> sampler.tell([Trial({"k": 3}, score=0.9), Trial({"k": 1}, score=0.5)])
    >>> sampler.mode()
    {'k': 3}
    """

    def __init__(
        self,
        domain: Any,
        seed: int = 0,
        costs: Callable[[Sequence[Arch]], Any] | None = None,
        reference_compat: bool = False,
        lam: Annotated[Count, Ge(2)] | None = None,
        delta: Positive | None = None,
        explore: Literal["per_layer", "averaged"] | Share | None = None,
        mask_inactive: bool | None = None,
        same_batch: bool | None = None,
        ties: Literal["absolute", "relative"] | None = None,
        uniform_samples: Literal["weight", "use", "skip"] | None = None,
        clear_buffer: bool | None = None,
        penalty: Literal["monotone", "published"] | None = None,
        objective: Literal["cost_matched", "loss"] | None = None,
        match: Literal["band", "residual"] = "band",
        band: Positive = 0.05,
        cost_targets: Literal["all", "explore", "none"] | None = None,
        cost_power: Positive = 2.0,
        warm_up: Natural | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name in MENDED and value is not None}
        self.how: dict[str, Any] = {**(PUBLISHED if reference_compat else MENDED), **given}
        self.lam, self.delta, self.penalty = self.how["lam"], self.how["delta"], self.how["penalty"]
        fixed = self.how["explore"]
        if self.lam < 2 or not (isinstance(fixed, str) or 0 <= fixed <= 1):
            raise UsageError(f"sampler 'sng': lam {self.lam}, explore {fixed}. Expected 2 or more, and 0 to 1.")
        wanted = self.how["objective"] == "cost_matched" or self.how["cost_targets"] != "none"
        self.at = Coordinates(domain, costs if wanted else None)
        self.domain, self.rng, self.band, self.power = domain, np.random.default_rng(seed), band, cost_power
        self.match = match if self.how["objective"] == "cost_matched" and self.at.priced else ""
        self.targets = self.how["cost_targets"] if self.at.priced else "none"
        self.distribution = self.at.valid / self.at.shape[:, None]
        self.free = [True] * len(self.at.shape)
        self.updates, self.total, self.training = 0, 0, False
        self.buffer: list[Member] = []
        self.draws = Draws(self.at, self.rng)
        self._made: tuple[Any, ...] = ((None, None, None), None, None)  # what the last tables were made from, and they
        self.start("", 0, "search")

    @property
    def theta(self) -> list[np.ndarray]:
        """θ: the probabilities of each dimension's values, in the domain's order."""
        return [row[:size].copy() for row, size in zip(self.distribution, self.at.shape, strict=True)]

    def mode(self, within: Any = None) -> Arch:
        """Return the most likely architecture; under a condition the most likely of the θ tilted until it is met."""
        region = self.draws.region(within)
        return self.draws.likeliest(self._restricted(region), region)

    def start(self, stage: str, total: int, origin: Literal["train", "search"] = "search") -> None:
        """Begin a stage: explore in training only, and forget what was left over."""
        self.training, self.total, self.steps = origin == "train", total, 0
        self.left = 0  # members of a group still to propose
        self.level: float | None = None  # the cost that they aim at
        self.pending: dict[str, list[list[Any]]] = {}
        self.moments = np.zeros((2, 3))
        self.draws.regions.clear()
        if self.how["clear_buffer"]:
            self.buffer.clear()
        fixed = self.how["explore"]
        self.exploit = 1.0 if isinstance(fixed, str) else 1.0 - fixed

    def ask(self, n: int = 1, within: Any = None) -> list[Arch]:
        """Draw ``n`` architectures, or with ``same_batch`` the next larger number of whole groups."""
        region = self.draws.region(within)
        archs: list[Arch] = []
        if len(self.pending) > FORGET:
            self.pending.clear()
        self.free = region.free.tolist()
        try:
            while len(archs) < n or (self.how["same_batch"] and self.left):
                archs.append(self._draw(region))
        except UnsatisfiableError:
            self.left = 0
        return archs

    def tell(self, trials: Sequence[Trial]) -> None:
        """Take the answers, λ an update; what was told together in training is not compared with what comes later."""
        together = self.how["same_batch"]
        for trial in trials:
            member = self._member(trial)
            if member is not None and (together or member.score is not None):
                self.buffer.append(member)
                if len(self.buffer) == self.lam:
                    self._update()
        if self.training and together:
            self._update()
        self.steps += 1
        if self.training and self.steps % max(1, round(REFRESH * self.total)) == 0:
            names = list(self.domain.dims)
            self.exploit = exploit_probability(self.distribution, names, self.at.shape, self.how["explore"])

    def state_dict(self) -> dict[str, Any]:
        """Return θ, the answers that wait for an update, the open proposals and the generator's state."""
        return {
            "theta": [row.tolist() for row in self.theta], "rng": self.rng.bit_generator.state,
            "buffer": [list(member) for member in self.buffer], "pending": copy.deepcopy(self.pending),
            "moments": self.moments.tolist(), **{name: getattr(self, name) for name in PLAIN},
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.distribution = np.zeros(self.at.valid.shape)
        self.distribution[self.at.valid] = np.concatenate([np.asarray(row, float) for row in state["theta"]])
        self.rng.bit_generator.state = state["rng"]
        self.buffer = [Member(*member) for member in state["buffer"]]
        self.pending = copy.deepcopy(dict(state["pending"]))
        self.moments = np.array(state["moments"], float)
        for name in PLAIN:
            setattr(self, name, state[name])

    # ---- drawing

    def _draw(self, region: Region) -> Arch:
        """Draw one architecture: exploit p_θ, restricted and renormalised, or explore uniformly."""
        if self.left == 0:
            self.left, self.level = self.lam, None
        self.left -= 1
        warming = self.updates < self.how["warm_up"]
        explores = self.training and (warming or self.rng.random() >= self.exploit)
        if self.training and self.level is None and (self.targets == "all" or (self.targets == "explore" and explores)):
            low, high = region.costs
            self.level = float(low + (high - low) * self.rng.random() ** self.power)
        p, q = self._tables(region)
        level = self.level if self.match == "band" else None
        positions, arch = self.draws.find(q if explores else p, region, level, self.band)
        if self.match == "band" and self.level is None:
            self.level = float(self.at.cost(positions[None])[0])
        weight = self._weight(positions, p, q) if self.training else 1.0
        proposal = [self.at.canonical(positions).tolist(), weight, explores]
        self.pending.setdefault(str(arch), []).append(proposal)
        return arch

    def _tables(self, region: Region) -> tuple[np.ndarray, np.ndarray]:
        """Return what exploiting and exploring draw from: p_θ and uniform in the region, tilted to the group's cost."""
        key = (self.distribution, region, self.level)
        if not all(new is old for new, old in zip(key, self._made[0], strict=True)):
            p, q = self._restricted(region), region.uniform
            if self.training and self.level is not None and self.targets != "none":
                p = self.at.aimed(p, self.level) if self.targets == "all" else p
                q = self.at.aimed(q, self.level)
            self._made = key, p, q
        return self._made[1:]

    def _restricted(self, region: Region) -> np.ndarray:
        p = self.distribution * region.allowed
        return p / p.sum(1, keepdims=True)

    def _weight(self, positions: np.ndarray, p: np.ndarray, q: np.ndarray) -> float:
        """Return p(x) / (ε p(x) + (1 − ε) q(x)), ε the share that exploits: the weight as a sample of p_θ."""
        live, rows = self.at.live(positions[None])[0], self.at.rows
        tiny = np.finfo(float).tiny
        ratios = np.log(np.maximum(q[rows, positions], tiny) / np.maximum(p[rows, positions], tiny))
        return float(1 / (self.exploit + (1 - self.exploit) * np.exp(np.clip(ratios[live].sum(), -50, 50))))

    # ---- learning

    def _member(self, trial: Trial) -> Member | None:
        """Turn an answer into a member of an update: one to a proposal, or where costs need not match to anything."""
        score = trial.score if trial.score is not None and math.isfinite(trial.score) else None
        key = str(trial.arch)
        if key not in self.pending:
            try:
                positions = self.domain.encode(trial.arch)
            except DomainError:
                return None
            key = str(self.domain.decode(positions))
        if key not in self.pending:
            return None if self.match == "band" else Member(positions.tolist(), score, 1.0, False)
        found, weight, explored = self.pending[key].pop(0)
        if not self.pending[key]:
            del self.pending[key]
        return Member(found, score, weight, explored)

    def _update(self) -> None:
        """Make one update of θ from the answers in the buffer."""
        members = [member for member in self.buffer if member.score is not None]
        self.buffer.clear()
        if self.how["uniform_samples"] == "skip":
            members = [member for member in members if not member.explored]
        if len(members) < 2:
            return
        c = np.array([member.positions for member in members])
        f = -np.array([member.score for member in members])  # minimised
        f = self._residual(f, c) if self.match == "residual" else f
        self.updates += 1
        if self.training and self.updates <= self.how["warm_up"]:
            return
        u = utility(f, self.how["ties"])
        if self.how["uniform_samples"] == "weight":
            weights = np.array([member.weight for member in members])
            u = u * weights / weights.max()
        live = self.at.live(c)
        if self.how["mask_inactive"]:
            mask = live & np.array(self.free)
        else:
            mask, anything = np.ones(live.shape, bool), self.rng.random(c.shape) * self.at.shape
            c = np.where(live, c, anything.astype(int))
        g = natural_gradient(self.distribution, c, u, mask)
        self.distribution = step(self.distribution, g, self.delta, self.at.shape)

    def _residual(self, f: np.ndarray, c: np.ndarray) -> np.ndarray:
        """Return what a running fit of f on cost and its square, within groups, leaves of f."""
        cost = self.at.cost(c)
        x = np.stack([cost, cost**2], axis=1)
        x, y = x - x.mean(0), f - f.mean()
        self.moments = MEMORY * self.moments + np.column_stack([x.T @ x, x.T @ y])
        normal = self.moments[:, :2] + RIDGE * np.trace(self.moments[:, :2]) * np.eye(2)
        return f - x @ np.linalg.lstsq(normal, self.moments[:, 2], rcond=None)[0]
