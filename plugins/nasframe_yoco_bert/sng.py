"""The exploit-explore stochastic natural gradient of YOCO-BERT (arXiv 2106.02435), as a sampler.

In the paper's order: draw from p_θ or explore, hear how good the draws were, step along the natural gradient of θ. The
arithmetic of the step is in ``natural_gradient.py``, that of domains and costs in ``coordinates.py``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from nasframe.domain import DomainError
from nasframe.errors import UnsatisfiableError
from nasframe.types import Arch, Count, Positive, Trial
from nasframe_yoco_bert.coordinates import BETAS, Coordinates
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
TRIES = 32  # draws among which one of the right cost, or inside the region, is looked for
TILTS = (0.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)  # towards cheap ones, until a draw meets the region's condition
MEMORY, RIDGE = 0.95, 1e-6  # of the running fit of loss on cost: what it keeps from update to update
REGIONS, FORGET = 64, 10_000  # regions remembered; proposals without an answer before they are given up
PLAIN = ("updates", "total", "training", "steps", "left", "level", "exploit", "free")


class Region(NamedTuple):
    """The part of the domain that an ask is confined to, and what is worth knowing of it."""

    domain: Any
    allowed: np.ndarray  # (D, K) booleans
    uniform: np.ndarray  # (D, K)
    free: np.ndarray  # (D,) booleans: dimensions with a choice
    costs: tuple[float, float]  # of the cheapest and the dearest


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
        cost_targets: which proposals of a training aim at a cost drawn uniformly: ``all``, those that ``explore`` (the
            others come from θ as it is), or ``none``.
        warm_up: updates in training in which θ rests and all proposals explore; default 50, published 0.

    >>> from nasframe.domain import Choices
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
        lam: Count | None = None,
        delta: Positive | None = None,
        explore: Literal["per_layer", "averaged"] | float | None = None,
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
        warm_up: int | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name in MENDED and value is not None}
        self.how: dict[str, Any] = {**(PUBLISHED if reference_compat else MENDED), **given}
        self.lam, self.delta, self.penalty = self.how["lam"], self.how["delta"], self.how["penalty"]
        wanted = self.how["objective"] == "cost_matched" or self.how["cost_targets"] != "none"
        self.at = Coordinates(domain, costs if wanted else None)
        self.domain, self.rng, self.band = domain, np.random.default_rng(seed), band
        self.match = match if self.how["objective"] == "cost_matched" and self.at.effect is not None else ""
        self.targets = self.how["cost_targets"] if self.at.effect is not None else "none"
        self.distribution = self.at.valid / self.at.shape[:, None]
        self.free = [True] * len(self.at.shape)
        self.updates, self.total, self.training = 0, 0, False
        self.buffer: list[Member] = []
        self._made: tuple[Any, ...] = (None,) * 7  # the last tables, and what they were made from
        self.start("", 0, "search")

    @property
    def theta(self) -> list[np.ndarray]:
        """θ: the probabilities of each dimension's values, in the domain's order."""
        return [row[:size].copy() for row, size in zip(self.distribution, self.at.shape, strict=True)]

    def mode(self, within: Any = None) -> Arch:
        """Return the most likely architecture; under a condition the most likely of the θ tilted until it is met."""
        region = self._region(within)
        for p in self._tilts(self._restricted(region), region):
            arch: Arch = self.domain.decode(p.argmax(1))
            if region.domain.keep is None or region.domain.keep(arch):
                return arch
        raise UnsatisfiableError("the most likely architecture does not meet the condition, nor do cheaper ones")

    def start(self, stage: str, total: int, origin: Literal["train", "search"] = "search") -> None:
        """Begin a stage: explore in training only, and forget what was left over."""
        self.training, self.total, self.steps = origin == "train", total, 0
        self.left, self.level = 0, None  # members still to propose of a group, and the cost it aims at
        self.pending: dict[str, list[list[Any]]] = {}
        self.moments = np.zeros((2, 3))
        self.regions: dict[int, Region] = {}
        if self.how["clear_buffer"]:
            self.buffer.clear()
        fixed = self.how["explore"]
        self.exploit = 1.0 if isinstance(fixed, str) else 1.0 - fixed

    def ask(self, n: int = 1, within: Any = None) -> list[Arch]:
        """Draw ``n`` architectures, or with ``same_batch`` the next larger number of whole groups."""
        region, archs = self._region(within), []
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
        aims = self.training and (self.targets == "all" or (self.targets == "explore" and explores))
        if aims and self.level is None:
            self.level = float(self.rng.uniform(*region.costs))
        p, q = self._tables(region)
        positions, arch = self._found(q if explores else p, region)
        if self.match == "band" and self.level is None:
            self.level = float(self.at.cost(positions[None])[0])
        weight = self._weight(positions, p, q) if self.training else 1.0
        self.pending.setdefault(_key(self.domain.encode(arch)), []).append([weight, explores])
        return arch

    def _tables(self, region: Region) -> tuple[np.ndarray, np.ndarray]:
        """Return what exploiting and exploring draw from: p_θ and uniform in the region, tilted to the group's cost."""
        if self._made[:3] != (id(self.distribution), self.level, id(region)):
            p, q = self._restricted(region), region.uniform
            if self.training and self.level is not None and self.targets != "none":
                p = self.at.aimed(p, self.level) if self.targets == "all" else p
                q = self.at.aimed(q, self.level)
            self._made = (id(self.distribution), self.level, id(region), p, q, self.distribution, region)
        return self._made[3], self._made[4]

    def _found(self, p: np.ndarray, region: Region) -> tuple[np.ndarray, Arch]:
        """Draw until the costs match and the region's condition is met, tilting where no draw meets it."""
        keep, matched = region.domain.keep, self.match == "band" and self.level is not None
        for table in self._tilts(p, region):
            drawn = _categories(table, TRIES if matched or keep else 1, self.rng)
            if matched:
                gap = np.abs(self.at.cost(drawn) - self.level)
                drawn = drawn[np.argsort(np.where(gap <= self.band / 2, 0.0, gap), kind="stable")]
            for positions in drawn:
                arch = self.domain.decode(positions)
                if keep is None or keep(arch):
                    return positions, arch
        arch = region.domain.sample(self.rng)
        return self.domain.encode(arch), arch

    def _tilts(self, p: np.ndarray, region: Region) -> Iterator[np.ndarray]:
        yield p
        if region.domain.keep is not None and self.at.effect is not None:
            yield from (self.at.tilted(p, beta) for beta in TILTS)

    def _restricted(self, region: Region) -> np.ndarray:
        p = self.distribution * region.allowed
        return p / p.sum(1, keepdims=True)

    def _region(self, within: Any) -> Region:
        domain = self.domain if within is None else within
        if id(domain) not in self.regions:
            allowed = np.zeros(self.at.valid.shape, bool)
            for row, positions in zip(allowed, domain.allowed, strict=True):
                row[positions] = True
            uniform = allowed / allowed.sum(1, keepdims=True)
            ends = (0.0, 0.0)
            if self.at.effect is not None:
                ends = tuple(float(self.at.mean_cost(self.at.tilted(uniform, beta))) for beta in (BETAS[-1], BETAS[0]))
            if len(self.regions) >= REGIONS:
                self.regions.clear()
            self.regions[id(domain)] = Region(domain, allowed, uniform, allowed.sum(1) > 1, ends)
        return self.regions[id(domain)]

    def _weight(self, positions: np.ndarray, p: np.ndarray, q: np.ndarray) -> float:
        """Return p(x) / (ε p(x) + (1 − ε) q(x)): a sample of the mixture, weighted as one of p_θ."""
        live = self.at.live(positions[None])[0]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.log(q[self.at.rows, positions]) - np.log(p[self.at.rows, positions])
        log_ratio = float(np.clip(ratio[live].sum(), -50, 50))
        return 1 / (self.exploit + (1 - self.exploit) * math.exp(log_ratio))

    # ---- learning

    def _member(self, trial: Trial) -> Member | None:
        try:
            positions = self.domain.encode(trial.arch)
        except DomainError:
            return None
        waiting = self.pending.get(key := _key(positions))
        if not waiting and self.match == "band":
            return None  # nobody's proposal: it was not drawn at the cost of others
        weight, explored = waiting.pop(0) if waiting else (1.0, False)
        if not waiting:
            self.pending.pop(key, None)
        score = trial.score if trial.score is not None and math.isfinite(trial.score) else None
        return Member(positions.tolist(), score, weight, explored)

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


def _categories(p: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw ``(count, D)`` categories from ``(D, K)`` distributions."""
    cumulative = p.cumsum(1)
    drawn = (rng.random((count, len(p), 1)) * cumulative[:, -1:] >= cumulative).sum(-1)
    last = p.shape[1] - 1 - (p > 0)[:, ::-1].argmax(1)
    return np.minimum(drawn, last)


def _key(positions: np.ndarray) -> str:
    return ",".join(map(str, positions.tolist()))
