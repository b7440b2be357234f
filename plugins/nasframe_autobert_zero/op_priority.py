"""The sampler of AutoBERT-Zero, OP-NAS (arXiv 2107.07445): evolution that prefers operations which did well."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from nasframe.errors import UnsatisfiableError
from nasframe.records import Arch, Count, NonNegative, Share, Trial, arch_id
from nasframe_autobert_zero.domain import operations_of

TRIES = 50
"""Children that are made to find one that was not proposed before and lies in the region."""
MUTANTS = 6
"""Mutants of a parent to draw from, in a domain without ``mutate_formula``."""


class Member(NamedTuple):
    """An evaluated architecture.

    Attributes:
        name: its id.
        arch: the architecture.
        score: what it scored.
    """

    name: str
    arch: Arch
    score: float


class Record(NamedTuple):
    """What is known of an operation at a place.

    Attributes:
        total: the sum of the scores of the architectures that have it there.
        number: how many there are.
    """

    total: float
    number: int


class OpPriority:
    """Proposes children of the best architectures; operations of changed nodes are drawn by their record at that node.

    The first architectures are random. A child has one node of one formula changed and, with the probability
    ``layers``, one layer: attention or convolution, kernel, size. An operation that was not tried at a place counts as
    tried once there, with the mean score of all architectures.

    In a domain that has no ``mutate_formula``, such as a table, some mutants of the parent are made, and one of them is
    drawn by the mean priority of what it changed. Places are then the nodes of formulas, or knobs with their values.

    Args:
        domain: the domain to propose from.
        seed: draws everything.
        initial: M, the number of random architectures at the start.
        parents: K, the number of best architectures that children come from.
        population: how many architectures the K best are taken from: the latest, so that each generation replaces the
            one before; ``null`` takes them from all.
        alpha: α, the weight of operations that were rarely tried.
        layers: probability that a child also has another layer.
        scores: ``raw`` takes scores as they are, as published; ``standard`` divides their distance from the mean by
            their standard deviation, so that differences of a percent weigh as much as α.
        priority: ``false`` chooses all operations with equal chances, for comparison.
    """

    random_start = "initial"

    def __init__(
        self,
        domain: Any,
        seed: int = 0,
        initial: Count = 100,
        parents: Count = 5,
        population: Count | None = 100,
        alpha: NonNegative = 1.0,
        layers: Share = 0.5,
        scores: Literal["raw", "standard"] = "raw",
        priority: bool = True,
    ) -> None:
        self.domain = domain
        self.initial = initial
        self.parents = parents
        self.population = population
        self.alpha = alpha
        self.layers = layers
        self.scores = scores
        self.priority = priority
        self.rng = np.random.default_rng(seed)
        self.members: list[Member] = []  # the oldest first
        self.proposed: dict[str, None] = {}  # names; a set that keeps its order
        self.records: dict[str, dict[str, Record]] = {}  # place → operation → record

    def start(self, stage: str, total: int) -> None:
        """Forget everything: a loss on a batch and a metric on a split are not comparable."""
        self.members = []
        self.proposed = {}
        self.records = {}

    def ask(self, n: int = 1, within: Any = None) -> list[Arch]:
        """Draw random architectures until there are ``initial``, then children of the best."""
        domain = self.domain if within is None else within
        archs: list[Arch] = []
        try:
            while len(archs) < n:
                arch = self._new(domain)
                self.proposed[arch_id(arch)] = None
                archs.append(arch)
        except UnsatisfiableError:  # nothing that fits was found in a restricted domain
            pass
        return archs

    def tell(self, trials: Sequence[Trial]) -> None:
        """Let evaluated architectures be parents, and book their scores with their operations."""
        known = {member.name for member in self.members}
        for trial in trials:
            if trial.score is None or not math.isfinite(trial.score) or not self.domain.contains(trial.arch):
                continue
            arch = self.domain.canonical(trial.arch)
            name = arch_id(arch)
            self.proposed[name] = None
            if name in known:  # a repeat says nothing new
                continue
            known.add(name)
            self.members.append(Member(name, arch, trial.score))
            for place, operation in operations_of(arch).items():
                records = self.records.setdefault(place, {})
                record = records.get(operation, Record(0.0, 0))
                records[operation] = Record(record.total + trial.score, record.number + 1)

    def state_dict(self) -> dict[str, Any]:
        """Return the evaluated architectures, the names of the proposed ones, and the generator's state."""
        members = [[dict(member.arch), member.score] for member in self.members]
        return {"rng": self.rng.bit_generator.state, "members": members, "proposed": list(self.proposed)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that :meth:`state_dict` returned."""
        self.start("", 0)
        self.tell([Trial(arch, score) for arch, score in state["members"]])
        self.proposed = dict.fromkeys(state["proposed"])
        self.rng.bit_generator.state = state["rng"]

    # ---- children

    def _new(self, domain: Any) -> Arch:
        """Return a child or, at the start, a random architecture; a new one if one is found."""
        is_evolving = len(self.proposed) >= self.initial and bool(self.members)
        if is_evolving:
            parents = self.best()
            for _ in range(TRIES):
                child = self._child(parents, domain)
                if arch_id(child) not in self.proposed and domain.contains(child):
                    return child
        for _ in range(TRIES):
            arch: Arch = domain.sample(self.rng)
            if arch_id(arch) not in self.proposed:
                return arch
        return domain.sample(self.rng)  # type: ignore[no-any-return]

    def best(self) -> list[Member]:
        """Return the K best architectures of the population."""
        latest = self.members if self.population is None else self.members[-self.population :]
        return sorted(latest, key=lambda member: -member.score)[: self.parents]

    def _child(self, parents: Sequence[Member], domain: Any) -> Arch:
        """Change a parent on both levels: a node of a formula, and perhaps a layer."""
        parent = parents[int(self.rng.integers(len(parents)))].arch
        if not hasattr(self.domain, "mutate_formula"):
            return self._mutant(parent, domain)
        child: Arch = self.domain.mutate_formula(parent, self.rng, self.choose)
        if self.rng.random() < self.layers:
            child = self.domain.mutate_layers(child, self.rng)
        return child

    def _mutant(self, parent: Arch, domain: Any) -> Arch:
        """Make some mutants, and draw one by the mean priority of what it changed."""
        mutants: list[Arch] = [domain.mutate(parent, self.rng) for _ in range(MUTANTS)]
        if not self.priority:
            return mutants[0]
        before = operations_of(parent)
        u = []
        for mutant in mutants:
            operations = operations_of(mutant)
            changed = {place: name for place, name in operations.items() if before.get(place) != name}
            values = [self.priorities(place, [name])[0] for place, name in (changed or operations).items()]
            u.append(float(np.mean(values)) if values else 0.0)
        return mutants[self._drawn(np.array(u))]

    def choose(self, place: str, candidates: Sequence[str]) -> str:
        """Draw an operation for a node by its priority there."""
        if not self.priority:
            return candidates[int(self.rng.integers(len(candidates)))]
        return candidates[self._drawn(self.priorities(place, candidates))]

    def _drawn(self, u: np.ndarray) -> int:
        """Draw a position by its priority."""
        weights = np.exp(u - u.max())
        return int(self.rng.choice(len(u), p=weights / weights.sum()))  # (Z8)

    def priorities(self, place: str, candidates: Sequence[str]) -> np.ndarray:
        """Return u_ij of some operations j at a place i, ``(candidates,)``."""
        scores = np.array([member.score for member in self.members])
        mean = float(scores.mean()) if len(scores) else 0.0
        deviation = float(scores.std()) if len(scores) else 0.0
        total = max(len(scores), 1)  # N
        u = []
        for operation in candidates:
            record = self.records.get(place, {}).get(operation, Record(mean, 1))
            mu = record.total / record.number
            if self.scores == "standard":
                mu = (mu - mean) / deviation if deviation > 0 else 0.0
            u.append(mu + self.alpha * math.sqrt(2 * math.log(total) / record.number))  # (Z7)
        return np.array(u)
