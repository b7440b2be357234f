"""The exploit-explore stochastic natural gradient of YOCO-BERT (arXiv 2106.02435), as ask and tell.

Both samplers are this class, each with its own parts: ``sng.py`` and ``sng_published.py``. In the paper's order: draw
from p_θ or explore, learn how good the draws were, step along the natural gradient of θ. The arithmetic of a step is in
``natural_gradient.py``, that of domains and costs in ``coordinates.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from nasframe import registry
from nasframe.errors import UnsatisfiableError, UsageError
from nasframe.records import Arch, Trial
from nasframe.search.domain import DomainError
from nasframe_yoco_bert.coordinates import Coordinates, Costs
from nasframe_yoco_bert.costs import UNMATCHED, Matching, ResidualFit
from nasframe_yoco_bert.draws import Draws, Region
from nasframe_yoco_bert.mixture import Explore, exploit_probability, importance
from nasframe_yoco_bert.natural_gradient import Ties, natural_gradient, step, utility
from nasframe_yoco_bert.proposals import Member, Proposals

REFRESH = 0.05  # of a stage's steps, after which the mixture is computed again
PLAIN = ("updates", "total", "training", "steps", "left", "level", "exploit", "free")
"""Attributes of the state that are JSON-plain as they are."""


@dataclass(frozen=True)
class Parts:
    """The six parts that ours and the published algorithm do differently; the defaults are ours.

    Args:
        explore: how often to explore in training, see :func:`exploit_probability`.
        inactive: dimensions without an effect in a draw are ``masked`` in the update, or filled in at ``random``.
        batches: the members of an update are scored on one batch, in which they were told ``together``, or ``apart``
            as they come.
        ties: which scores are equal, see :func:`utility`.
        weights: samples that explored count by their ``importance``, or ``equal`` to those from θ.
        objective: how the members of an update are compared at equal cost.
    """

    explore: Explore = "per_layer"
    inactive: Literal["masked", "random"] = "masked"
    batches: Literal["together", "apart"] = "together"
    ties: Ties = "absolute"
    weights: Literal["importance", "equal"] = "importance"
    objective: Matching = field(default_factory=Matching)


class Tables(NamedTuple):
    """What proposals are drawn from: ``(D, K)`` probabilities for exploiting and for exploring."""

    exploit: np.ndarray
    explore: np.ndarray


class NaturalGradientSampler:
    """Learns a distribution over sub-networks by its stochastic natural gradient, in training and in search.

    Args:
        domain: the domain to propose from; it has knobs.
        seed: draws the proposals.
        costs: what architectures cost; without it costs are not looked at.
        lam: λ, the number of scores in each update.
        delta: δ, the length of a step in the Fisher metric.
        warm_up: number of updates, at the start of training, in which θ does not move and all proposals explore.
        parts: how it does what ours and the published algorithm do differently.

    Raises:
        UsageError: a domain without knobs, fewer than two answers an update, or no probability of exploring.
    """

    use = "sng"
    needs: tuple[str, ...] = ("encode", "conditions", "smallest", "largest")
    penalty: Literal["monotone", "published"] = "monotone"  # of a negative score, for ``violation: {penalise: p}``
    forgets = True  # at the start of a stage: answers that the stage before left over

    def __init__(
        self, domain: Any, seed: int, costs: Costs | None, lam: int, delta: float, warm_up: int, parts: Parts
    ) -> None:
        registry.refuse_domain(f"sampler {self.use!r}", domain, self.needs)
        if lam < 2:
            raise UsageError(f"sampler {self.use!r}: lam is {lam}. Expected 2 or more.")
        if not isinstance(parts.explore, str) and not 0 <= parts.explore <= 1:
            raise UsageError(f"sampler {self.use!r}: explore is {parts.explore}. Expected 0 to 1.")
        self.domain = domain
        self.lam = lam
        self.delta = delta
        self.warm_up = warm_up
        self.parts = parts
        self.rng = np.random.default_rng(seed)
        self.at = Coordinates(domain, costs if parts.objective.needs_costs else None)
        self.draws = Draws(self.at, self.rng)
        self.objective = parts.objective if self.at.priced else UNMATCHED
        self.match = self.objective.match
        self.distribution = self.at.valid / self.at.shape[:, None]
        self.free = [True] * len(self.at.shape)  # dimensions with a choice in the last ask's region
        self.updates = 0
        self.buffer: list[Member] = []
        self.proposals = Proposals()
        self._tables_of: tuple[Any, ...] = (None, None, None)
        self._tables: Tables
        self.start("", 0, "search")

    @property
    def theta(self) -> list[np.ndarray]:
        """θ: the probabilities of each dimension's values, in the domain's order."""
        rows = zip(self.distribution, self.at.shape, strict=True)
        return [row[:size].copy() for row, size in rows]

    def mode(self, within: Any = None) -> Arch:
        """Return the most likely architecture, or the most likely one of a cheaper tilt of θ that meets the condition.

        Raises:
            UnsatisfiableError: no tilt meets the condition.
        """
        region = self.draws.region(within)
        return self.draws.likeliest(self._restricted(region), region)

    def start(self, stage: str, total: int, origin: Literal["train", "search"] = "search") -> None:
        """Begin a stage: proposals explore in training only, and open proposals are forgotten."""
        self.training = origin == "train"
        self.total = total
        self.steps = 0
        self.left = 0  # members of a group that are still to be proposed
        self.level: float | None = None  # the cost that they aim at
        self.proposals.clear()
        self.fit = ResidualFit()
        self.draws.regions.clear()
        if self.forgets:
            self.buffer.clear()
        explore = self.parts.explore
        self.exploit = 1.0 if isinstance(explore, str) else 1.0 - explore

    # ---- drawing

    def ask(self, n: int = 1, within: Any = None) -> list[Arch]:
        """Draw ``n`` architectures, rounded up to whole groups of λ if groups are told together."""
        region = self.draws.region(within)
        self.free = region.free.tolist()
        self.proposals.forget_if_many()
        whole_groups = self.parts.batches == "together"
        archs: list[Arch] = []
        try:
            while len(archs) < n or (whole_groups and self.left):
                archs.append(self._draw(region))
        except UnsatisfiableError:
            self.left = 0  # nothing more meets the condition: what was found so far is the answer
        return archs

    def _draw(self, region: Region) -> Arch:
        """Draw one architecture: exploit p_θ, restricted and renormalised, or explore uniformly."""
        if self.left == 0:
            self.left = self.lam
            self.level = None
        self.left -= 1
        explores = self._explores()
        if self.training and self.level is None and self._aims(explores):
            self.level = self._random_level(region)
        tables = self._tables_at(region)
        table = tables.explore if explores else tables.exploit
        in_band = self.match == "band"
        level = self.level if in_band else None
        positions, arch = self.draws.find(table, region, level, self.objective.band)
        if in_band and self.level is None:
            self.level = float(self.at.cost(positions[None])[0])  # the first member sets the cost of its group
        weight = self._weight(positions, tables) if self.training else 1.0
        self.proposals.add(arch, self.at.canonical(positions).tolist(), weight)
        return arch

    def _explores(self) -> bool:
        """Decide whether the next draw explores."""
        if not self.training:
            return False
        return self.updates < self.warm_up or bool(self.rng.random() >= self.exploit)  # (Y2)

    def _aims(self, explores: bool) -> bool:
        """Tell whether a draw of a training aims at a random cost."""
        targets = self.objective.targets
        return targets == "all" or (targets == "explore" and explores)

    def _random_level(self, region: Region) -> float:
        """Draw the cost that a group aims at; a power above 1 leans to cheap ones."""
        cheapest, dearest = region.costs
        return float(cheapest + (dearest - cheapest) * self.rng.random() ** self.objective.power)

    def _tables_at(self, region: Region) -> Tables:
        """Return what proposals are drawn from: p_θ and uniform in the region, tilted to the group's cost."""
        # All members of a group are drawn from the same tables, so they are kept until something changes.
        source = (self.distribution, region, self.level)
        if all(new is old for new, old in zip(source, self._tables_of, strict=True)):
            return self._tables
        exploit = self._restricted(region)
        explore = region.uniform
        targets = self.objective.targets
        if self.training and self.level is not None and targets != "none":
            explore = self.at.aimed(explore, self.level)
            if targets == "all":
                exploit = self.at.aimed(exploit, self.level)
        self._tables_of = source
        self._tables = Tables(exploit, explore)
        return self._tables

    def _restricted(self, region: Region) -> np.ndarray:
        """Return p_θ in a region, renormalised."""
        p = self.distribution * region.allowed  # (Y1)
        return p / p.sum(1, keepdims=True)

    def _weight(self, positions: np.ndarray, tables: Tables) -> float:
        """Return the weight of a draw as a sample of p_θ; dimensions without an effect do not count."""
        live = self.at.live(positions[None])[0]
        p = tables.exploit[self.at.rows, positions]
        q = tables.explore[self.at.rows, positions]
        return importance(self.exploit, p[live], q[live])

    # ---- learning

    def tell(self, trials: Sequence[Trial]) -> None:
        """Take scores, λ for an update; what training tells together is not compared with what comes later."""
        together = self.parts.batches == "together"
        for trial in trials:
            member = self._member(trial)
            if member is None:
                continue
            # In a group a failed one counts, too, so that the next group starts afresh. Otherwise it is left out.
            if member.score is None and not together:
                continue
            self.buffer.append(member)
            if len(self.buffer) == self.lam:
                self._update()
        if self.training and together:
            self._update()
        self.steps += 1
        every = max(1, round(REFRESH * self.total))
        if self.training and self.steps % every == 0:
            names = list(self.domain.dims)
            self.exploit = exploit_probability(self.distribution, names, self.at.shape, self.parts.explore)  # (Y5)

    def _member(self, trial: Trial) -> Member | None:
        """Turn a trial into a member of an update, or ``None`` if it cannot be one.

        It can if it was proposed. A foreign one can too, unless groups have a cost: it would be of another.
        """
        is_scored = trial.score is not None and math.isfinite(trial.score)
        score = trial.score if is_scored else None
        member = self.proposals.take(trial.arch, score)
        if member is not None:
            return member
        # The same architecture may be written in another way than it was proposed.
        try:
            positions = self.domain.encode(trial.arch)
        except DomainError:
            return None
        member = self.proposals.take(self.domain.decode(positions), score)
        if member is not None or self.match == "band":
            return member
        return Member(positions.tolist(), score, 1.0)

    def _update(self) -> None:
        """Make one update of θ from the members in the buffer."""
        members = [member for member in self.buffer if member.score is not None]
        self.buffer.clear()
        if len(members) < 2:  # one alone is neither better nor worse
            return
        samples = np.array([member.positions for member in members])
        losses = -np.array([member.score for member in members])  # (Y6)
        if self.match == "residual":
            losses = self.fit.residual(losses, self.at.cost(samples))
        self.updates += 1
        if self.training and self.updates <= self.warm_up:
            return
        utilities = utility(losses, self.parts.ties)
        if self.parts.weights == "importance":
            weights = np.array([member.weight for member in members])
            utilities = utilities * weights / weights.max()
        samples, mask = self._masked(samples)
        gradient = natural_gradient(self.distribution, samples, utilities, mask)
        self.distribution = step(self.distribution, gradient, self.delta, self.at.shape)

    def _masked(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ``(λ, D)`` samples, and which of their dimensions the update moves."""
        live = self.at.live(samples)
        if self.parts.inactive == "masked":
            return samples, live & np.array(self.free)
        # As published: dimensions without an effect move as if they had been drawn uniformly.
        drawn = (self.rng.random(samples.shape) * self.at.shape).astype(int)
        return np.where(live, samples, drawn), np.ones(live.shape, bool)

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """Return θ, the answers that wait for an update, the open proposals and the generator's state."""
        state = {
            "theta": [row.tolist() for row in self.theta],
            "rng": self.rng.bit_generator.state,
            "buffer": [list(member) for member in self.buffer],
            "pending": self.proposals.state(),
            "moments": self.fit.moments.tolist(),
        }
        for name in PLAIN:
            state[name] = getattr(self, name)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that ``state_dict`` returned."""
        probabilities = np.concatenate([np.asarray(row, float) for row in state["theta"]])
        self.distribution = np.zeros(self.at.valid.shape)
        self.distribution[self.at.valid] = probabilities
        self.rng.bit_generator.state = state["rng"]
        self.buffer = [Member(*member[:3]) for member in state["buffer"]]
        self.proposals.load(state["pending"])
        self.fit.moments = np.array(state["moments"], float)
        for name in PLAIN:
            setattr(self, name, state[name])
