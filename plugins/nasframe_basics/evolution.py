"""Evolution: mutate and cross the best architectures so far.

With one objective: (μ + λ) selection, or regularised evolution, in which the oldest dies (Real et al., arXiv
1802.01548). With several: NSGA-II selection with constraint domination (Deb et al., 2002). It is steady-state: every
result is selected on at once, so that any number of proposals may be pending.
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

TRIES = 20
"""How many children, and then random architectures, are drawn to find one that was not proposed before."""


class Member(NamedTuple):
    """One architecture of the population.

    Attributes:
        name: its id.
        arch: the architecture.
        objectives: all to be maximised.
        violation: by how much it is over its constraints; 0 if it satisfies them.
    """

    name: str
    arch: Arch
    objectives: list[float]
    violation: float


class EvolutionSampler:
    """Proposes children of good parents, and repeats no architecture while new ones are easy to find.

    Args:
        domain: the domain to propose from; crossover is used if the domain has it.
        seed: draws parents and children.
        population: number of architectures in the population, which starts with this many random ones.
        crossover: probability that a child has two parents.
        mutation: probability of each further mutation. A child of one parent is mutated at least once.
        tournament: number of randomly drawn members of which the best becomes a parent.
        survivors: which architectures survive, the ``best`` or the ``youngest``.

    Raises:
        UsageError: an option out of range.
    """

    random_start = "population"

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
        are_probabilities = 0 <= crossover <= 1 and 0 <= mutation < 1
        if population < 2 or tournament < 1 or not are_probabilities:
            raise UsageError(
                "sampler 'evolution': expected population >= 2, tournament >= 1, 0 <= crossover <= 1, 0 <= mutation < 1"
            )
        self.domain = domain
        self.population = population
        self.crossover = crossover
        self.mutation = mutation
        self.tournament = tournament
        self.survivors = survivors
        self.rng = np.random.default_rng(seed)
        self.members: list[Member] = []  # the oldest first
        self.seen: dict[str, None] = {}  # names of all proposed or told architectures; a set that keeps its order
        self.ranks: list[int] = []  # of the members, 0 is the best; empty when out of date

    def start(self, stage: str, total: int) -> None:
        """Forget everything: a loss on a batch and a metric on a split are not comparable."""
        self.members = []
        self.seen = {}
        self.ranks = []

    def ask(self, n: int = 1, within: Any = None) -> list[Arch]:
        """Draw random architectures until the first population is complete, then children."""
        domain = self.domain if within is None else within
        archs: list[Arch] = []
        try:
            while len(archs) < n:
                arch = self._new(domain)
                # Noted before there is a result, since other proposals may be asked for while this one is evaluated.
                self.seen[arch_id(arch)] = None
                archs.append(arch)
        except UnsatisfiableError:  # nothing that fits was found in a restricted domain
            pass
        return archs

    def tell(self, trials: Sequence[Trial]) -> None:
        """Let evaluated architectures join the population, then select."""
        for trial in trials:
            values = trial.objectives or (trial.score,)
            objectives = [value for value in values if value is not None]
            is_complete = len(objectives) == len(values)
            is_finite = all(math.isfinite(value) for value in [*objectives, trial.violation])
            has_result = trial.state in ("done", "repeat")
            is_usable = is_complete and is_finite and has_result
            if not is_usable or not self.domain.contains(trial.arch):
                continue
            arch = self.domain.canonical(trial.arch)
            name = arch_id(arch)
            self.seen[name] = None
            self._join(Member(name, arch, objectives, trial.violation))

    def _join(self, new: Member) -> None:
        """Add a member, in place of its earlier self if there is one, and remove one if there are too many."""
        others = []
        for member in self.members:
            is_comparable = len(member.objectives) == len(new.objectives)
            if member.name != new.name and is_comparable:
                others.append(member)
        self.members = [*others, new]
        if len(self.members) > self.population:
            loser = 0 if self.survivors == "youngest" else self._order()[-1]
            self.members.pop(loser)
        self.ranks = []

    def state_dict(self) -> dict[str, Any]:
        """Return the population, the names of the proposed architectures, and the generator's state."""
        members = []
        for member in self.members:
            plain = member._replace(arch=dict(member.arch))  # JSON has no other mappings
            members.append(plain._asdict())
        return {
            "rng": self.rng.bit_generator.state,
            "members": members,
            "seen": list(self.seen),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that :meth:`state_dict` returned."""
        self.rng.bit_generator.state = state["rng"]
        self.members = [Member(**member) for member in state["members"]]
        self.seen = dict.fromkeys(state["seen"])
        self.ranks = []

    def _new(self, domain: Any) -> Arch:
        """Return a child or, if the population is not complete, a random architecture; a new one if one is found."""
        # Proposals count that have no result yet, or several asks in a row would draw too large a first population.
        is_complete = len(self.seen) >= self.population
        is_evolving = is_complete and len(self.members) > 1
        if is_evolving:
            for _ in range(TRIES):
                child = self._child(domain)
                if arch_id(child) not in self.seen:
                    return child
        random_tries = TRIES if is_evolving else 2 * TRIES
        for _ in range(random_tries):
            arch = domain.sample(self.rng)
            if arch_id(arch) not in self.seen:
                return arch
        return domain.sample(self.rng)  # nearly all were proposed; a repeat costs a search nothing

    def _child(self, domain: Any) -> Arch:
        """Cross or mutate parents; further mutations follow with the probability ``mutation`` each."""
        child = self._parent()
        if hasattr(domain, "crossover") and self.rng.random() < self.crossover:
            other = self._parent()
            child = domain.crossover(child, other, self.rng)
        else:
            child = domain.mutate(child, self.rng)
        while self.rng.random() < self.mutation:
            child = domain.mutate(child, self.rng)
        return child

    def _parent(self) -> Arch:
        """Hold a tournament."""
        if not self.ranks:
            self.ranks = np.argsort(self._order()).tolist()  # the inverse of the order: member → rank
        drawn = self.rng.integers(len(self.members), size=self.tournament).tolist()
        winner = min(drawn, key=self.ranks.__getitem__)
        return self.members[winner].arch

    def _order(self) -> list[int]:
        """Return the positions of the members, best first: by score or, if there are several objectives, as NSGA-II."""
        values = np.array([member.objectives for member in self.members])
        if values.shape[1] == 1:
            scores = values[:, 0]
            return np.argsort(-scores, kind="stable").tolist()
        violations = [member.violation for member in self.members]
        order: list[int] = []
        for front in non_dominated_sort(values, violations):
            distances = crowding_distance(values[front])
            least_crowded_first = np.argsort(-distances, kind="stable")
            order += np.array(front)[least_crowded_first].tolist()
        return order
