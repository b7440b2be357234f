"""Evolution: mutate and cross the best found so far.

One objective: (μ + λ) selection, or regularised evolution, where the oldest dies (Real et al., arXiv 1802.01548).
Several: NSGA-II selection with constraint domination (Deb et al., 2002). Steady state: every answer is selected on at
once, so that any number of proposals may be under way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from annotated_types import Ge

from nasframe.errors import UnsatisfiableError, UsageError
from nasframe.records import Arch, Share, ShareBelowOne, Size, Trial, arch_id
from nasframe.search.pareto import crowding_distance, non_dominated_sort

TRIES = 20  # children drawn to find one that was not proposed before


class Member(NamedTuple):
    """One living architecture."""

    name: str
    arch: Arch
    objectives: list[float]
    violation: float


class EvolutionSampler:
    """Proposes children of good parents, and no architecture twice while new ones are near.

    Args:
        domain: what to propose from; crossover is used where the domain has it.
        seed: draws parents and children.
        population: how many architectures live; so many random ones start it.
        crossover: probability that a child has two parents.
        mutation: probability of a further mutation. A child of one parent is mutated at least once.
        tournament: a parent is the best of so many members drawn at random.
        survivors: who lives on, the ``best`` or the ``youngest``.

    Raises:
        UsageError: an option out of range.
    """

    def __init__(
        self,
        domain: Any,
        seed: int = 0,
        population: Annotated[Size, Ge(2)] = 16,
        crossover: Share = 0.5,
        mutation: ShareBelowOne = 0.2,
        tournament: Size = 2,
        survivors: Literal["best", "youngest"] = "best",
    ) -> None:
        if population < 2 or tournament < 1 or not (0 <= crossover <= 1 and 0 <= mutation < 1):
            raise UsageError(
                "sampler 'evolution': expected population >= 2, tournament >= 1, 0 <= crossover <= 1, 0 <= mutation < 1"
            )
        self.domain, self.population, self.tournament, self.survivors = domain, population, tournament, survivors
        self.crossover, self.mutation = crossover, mutation
        self.rng = np.random.default_rng(seed)
        self.members: list[Member] = []
        self.seen: dict[str, None] = {}  # names of all that was proposed or told, a set that keeps its order
        self.places: list[int] = []  # each member's place, best first; empty when out of date

    def start(self, stage: str, total: int) -> None:
        """Forget everything: a loss on a batch and a metric on a split are not comparable."""
        self.members, self.seen, self.places = [], {}, []

    def ask(self, n: int = 1, within: Any = None) -> list[Arch]:
        """Draw random architectures until the first population is complete, then children."""
        domain = self.domain if within is None else within
        archs: list[Arch] = []
        try:
            while len(archs) < n:
                arch = self._new(domain)
                self.seen[arch_id(arch)] = None
                archs.append(arch)
        except UnsatisfiableError:
            pass
        return archs

    def tell(self, trials: Sequence[Trial]) -> None:
        """Let evaluated architectures join the population, then select."""
        for trial in trials:
            objectives = [math.nan if value is None else value for value in trial.objectives or (trial.score,)]
            usable = all(map(math.isfinite, [*objectives, trial.violation])) and trial.state in ("done", "repeat")
            if not usable or not self.domain.contains(trial.arch):
                continue
            arch = self.domain.canonical(trial.arch)
            name = arch_id(arch)
            self.seen[name] = None
            rivals = (m for m in self.members if m.name != name and len(m.objectives) == len(objectives))
            self.members = [*rivals, Member(name, arch, objectives, trial.violation)]
            if len(self.members) > self.population:
                self.members.pop(0 if self.survivors == "youngest" else self._order()[-1])
            self.places = []

    def state_dict(self) -> dict[str, Any]:
        """Return the population, what was proposed, and the generator's state."""
        members = [{**member._asdict(), "arch": dict(member.arch)} for member in self.members]
        return {"rng": self.rng.bit_generator.state, "members": members, "seen": list(self.seen)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.rng.bit_generator.state = state["rng"]
        self.members = [Member(**member) for member in state["members"]]
        self.seen, self.places = dict.fromkeys(state["seen"]), []

    def _new(self, domain: Any) -> Arch:
        evolving = len(self.seen) >= self.population and len(self.members) > 1
        for attempt in range(2 * TRIES):
            arch = self._child(domain) if evolving and attempt < TRIES else domain.sample(self.rng)
            if arch_id(arch) not in self.seen:
                return arch
        return domain.sample(self.rng)

    def _child(self, domain: Any) -> Arch:
        child = self._parent()
        if hasattr(domain, "crossover") and self.rng.random() < self.crossover:
            child = domain.crossover(child, self._parent(), self.rng)
        else:
            child = domain.mutate(child, self.rng)
        while self.rng.random() < self.mutation:
            child = domain.mutate(child, self.rng)
        return child

    def _parent(self) -> Arch:
        if not self.places:
            self.places = np.argsort(self._order()).tolist()
        drawn = self.rng.integers(len(self.members), size=self.tournament)
        return self.members[min(drawn.tolist(), key=self.places.__getitem__)].arch

    def _order(self) -> list[int]:
        """Return members best first: by front and room in it, where objectives are several; else by score."""
        values = np.array([member.objectives for member in self.members])
        if values.shape[1] == 1:
            return np.argsort(-values[:, 0], kind="stable").tolist()
        order: list[int] = []
        for front in non_dominated_sort(values, [member.violation for member in self.members]):
            order += np.array(front)[np.argsort(-crowding_distance(values[front]), kind="stable")].tolist()
        return order
