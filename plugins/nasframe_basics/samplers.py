"""Samplers that learn nothing: baselines of every search, and plain training of super-networks."""

from __future__ import annotations

import itertools
import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from nasframe import registry
from nasframe.errors import UnsatisfiableError, UsageError
from nasframe.interfaces import EnumerableDomain, keeps_state, size_of, start_sampler
from nasframe.records import Arch, Count, SamplerRef, Trial, arch_id

ENUMERABLE = 20_000
"""A domain of at most this many architectures is searched for those that were not proposed yet."""
TRIES = 100
"""How often an architecture is drawn at random before that."""


class RandomSampler:
    """Draws uniformly, knob by knob.

    Args:
        domain: the domain to propose from.
        seed: draws the proposals.
        replace: draw with replacement. Repeats cost a search nothing, and the search still ends by itself. Set this to
            false only to go through all of a small domain.

    >>> from nasframe.search.domain import Choices
    >>> RandomSampler(Choices({"k": [0, 1, 2]}), seed=0).ask(2)
    [{'k': 1}, {'k': 0}]
    """

    def __init__(self, domain: Any, seed: int = 0, replace: bool = True) -> None:
        self.domain = domain
        self.replace = replace
        self.rng = np.random.default_rng(seed)
        self.proposed: set[str] = set()

    def start(self, stage: str, total: int) -> None:
        """Forget the proposals of an earlier stage."""
        self.proposed.clear()

    def ask(self, n: int = 1, within: Any = None) -> list[Arch]:
        """Draw ``n`` architectures; fewer if none, or no new one, is left."""
        domain = self.domain if within is None else within
        archs: list[Arch] = []
        try:
            while len(archs) < n:
                arch = self._draw(domain)
                if arch is None:
                    break
                archs.append(arch)
        except UnsatisfiableError:  # nothing that fits was found in a restricted domain
            pass
        return archs

    def tell(self, trials: Sequence[Trial]) -> None:
        """Learn nothing; without replacement, known architectures are not proposed again."""
        if not self.replace:
            self.proposed.update(arch_id(trial.arch) for trial in trials)

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state and the proposed architectures."""
        return {"rng": self.rng.bit_generator.state, "proposed": sorted(self.proposed)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that :meth:`state_dict` returned."""
        self.rng.bit_generator.state = state["rng"]
        self.proposed = set(state["proposed"])

    def _draw(self, domain: Any) -> Arch | None:
        """Draw one architecture, a new one if ``replace`` is false; ``None`` if there is none."""
        if self.replace:
            return domain.sample(self.rng)
        arch = self._new(domain)
        if arch is not None:
            self.proposed.add(arch_id(arch))
        return arch

    def _new(self, domain: Any) -> Arch | None:
        """Draw an architecture that was not proposed yet; ``None`` if none is found."""
        # Drawing until one is new is quick while most are. Towards the end of a small domain, the rest is listed.
        for _ in range(TRIES):
            arch = domain.sample(self.rng)
            if arch_id(arch) not in self.proposed:
                return arch
        if not isinstance(domain, EnumerableDomain) or size_of(domain) > ENUMERABLE:
            return None
        new = [arch for arch in domain.enumerate() if arch_id(arch) not in self.proposed]
        if not new:
            return None
        return new[self.rng.integers(len(new))]


class GridSampler:
    """Walks over an even grid: the knobs of a tied group move together, and groups are combined freely.

    The default ties give every combination of one width for all layers and a depth: the sub-networks of DynaBERT
    (arXiv 2004.04037).

    Args:
        domain: the domain to propose from; it has knobs.
        seed: unused; a grid is not random.
        tie: ``true`` ties each family (``heads.0``, ``heads.1`` …); a list names families that move together
            (``[[heads, ffn]]`` is one width multiplier); ``false`` ties nothing.
        points: at most this many values for each group, equally spaced and including both ends; default: all.
        cycle: whether to start again at the end, as training needs; a search ends there.

    Raises:
        UsageError: a domain without knobs, an unknown family, or families of different lengths in one group.

    >>> from nasframe.search.domain import Choices
    >>> domain = Choices({"heads.0": [1, 2], "heads.1": [1, 2], "ffn.0": [8, 16], "ffn.1": [8, 16]})
    >>> len(GridSampler(domain).ask(100)), len(GridSampler(domain, tie=[["heads", "ffn"]]).ask(100))
    (4, 2)
    """

    needs = ("knobs",)

    def __init__(
        self,
        domain: Any,
        seed: int = 0,
        tie: bool | list[list[str]] = True,
        points: Count | None = None,
        cycle: bool = False,
    ) -> None:
        registry.refuse_domain("sampler 'grid'", domain, self.needs)
        self.domain = domain
        self.cycle = cycle
        self.proposed: set[int] = set()  # positions in the grid
        groups = _groups(list(domain.knobs), tie)
        self.archs = _grid(domain, groups, points)
        self.places: dict[str, int] = {}
        for place, arch in enumerate(self.archs):
            self.places[arch_id(arch)] = place

    def start(self, stage: str, total: int) -> None:
        """Start at the first point."""
        self.proposed.clear()

    def ask(self, n: int = 1, within: Any = None) -> list[Arch]:
        """Return the first ``n`` points of ``within`` that were not proposed yet."""
        domain = self.domain if within is None else within
        archs: list[Arch] = []
        while len(archs) < n:
            places = self._next(domain, n - len(archs))
            self.proposed.update(places)
            for place in places:
                archs.append(domain.canonical(self.archs[place]))
            if len(archs) < n:
                can_start_again = self.cycle and self._forget(domain)
                if not can_start_again:
                    break
        return archs

    def _next(self, domain: Any, n: int) -> list[int]:
        """Return the first ``n`` places of the grid that are in a domain and were not proposed yet."""
        # All places are walked each time: one that a narrower domain did not have is proposed when a wider one does.
        places: list[int] = []
        for place, arch in enumerate(self.archs):
            if len(places) == n:
                break
            if place not in self.proposed and domain.contains(arch):
                places.append(place)
        return places

    def tell(self, trials: Sequence[Trial]) -> None:
        """Learn nothing; known points are not proposed again, unless the grid is walked in cycles."""
        if self.cycle:
            return
        for trial in trials:
            name = arch_id(trial.arch)
            if name in self.places:
                self.proposed.add(self.places[name])

    def state_dict(self) -> dict[str, Any]:
        """Return the places of the proposed points."""
        return {"proposed": sorted(self.proposed)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that :meth:`state_dict` returned."""
        self.proposed = set(state["proposed"])

    def _forget(self, domain: Any) -> bool:
        """Allow the points in a domain to be proposed again; return whether there are any."""
        inside = set()
        for place in self.proposed:
            if domain.contains(self.archs[place]):
                inside.add(place)
        self.proposed -= inside
        return bool(inside)


class EverySampler:
    """Proposes all sub-networks of a small domain: each once in a search, or all of them in every training step.

    Args:
        domain: the domain to propose from; it can be enumerated.
        seed: unused.
        limit: the largest domain that is accepted.

    >>> from nasframe.search.domain import Choices
    >>> sampler = EverySampler(Choices({"k": [0, 1, 2]}))
    >>> sampler.ask(2), sampler.ask(2), sampler.ask(2)
    ([{'k': 0}, {'k': 1}], [{'k': 2}], [])
    """

    needs = ("enumerate",)

    def __init__(self, domain: Any, seed: int = 0, limit: Count = 4096) -> None:
        registry.refuse_domain("sampler 'every'", domain, self.needs)
        self.domain = domain
        self.limit = limit
        self.training = False
        self.proposed: dict[str, None] = {}  # names; a set that keeps its order
        # The id of a domain → the domain, which keeps the id from being used again, and its remaining architectures.
        self.queues: dict[int, tuple[Any, deque[Arch]]] = {}

    def start(self, stage: str, total: int, origin: Literal["train", "search"] = "search") -> None:
        """Start again."""
        self.training = origin == "train"
        self.proposed.clear()
        self.queues.clear()

    def ask(self, n: int = 1, within: Any = None) -> list[Arch]:
        """Return the next ``n`` architectures of ``within``, in the domain's order; in training all of them.

        Raises:
            UsageError: the domain is larger than ``limit``.
        """
        domain = self.domain if within is None else within
        if self.training:
            return self._listed(domain)  # the gradients of all of them are averaged, whatever `n` is
        if id(domain) not in self.queues:
            queue = deque(self._listed(domain))
            self.queues[id(domain)] = (domain, queue)
        _, queue = self.queues[id(domain)]
        archs: list[Arch] = []
        while queue and len(archs) < n:
            arch = queue.popleft()
            # Another queue, or an earlier stop of this run, may have proposed it.
            if arch_id(arch) not in self.proposed:
                self.proposed[arch_id(arch)] = None
                archs.append(arch)
        return archs

    def tell(self, trials: Sequence[Trial]) -> None:
        """Learn nothing; known architectures are not proposed again."""
        if not self.training:
            for trial in trials:
                self.proposed[arch_id(trial.arch)] = None

    def state_dict(self) -> dict[str, Any]:
        """Return the names of the proposed architectures."""
        return {"training": self.training, "proposed": list(self.proposed)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that :meth:`state_dict` returned."""
        self.training = state["training"]
        self.proposed = dict.fromkeys(state["proposed"])
        self.queues.clear()

    def _listed(self, domain: Any) -> list[Arch]:
        """List a domain, unless it is too large."""
        # One more than allowed is enough to know: listing a large domain would take forever.
        first_archs = itertools.islice(domain.enumerate(), self.limit + 1)
        archs = list(first_archs)
        if len(archs) > self.limit:
            raise UsageError(
                f"sampler 'every': more than {self.limit:,} architectures. Restrict the domain or raise limit."
            )
        return archs


class SandwichSampler:
    """Adds the largest and the smallest architecture to another sampler's proposals (arXiv 1903.05134).

    Each ask contains at least one proposal of the inner sampler. Asked for one, as in a search, this sampler is the
    inner sampler; asked for three, as in training with ``archs_per_step: 3``, it proposes the largest, the smallest,
    and one of the inner sampler's. Only results of its own proposals are passed to the inner sampler.

    Args:
        domain: the domain to propose from.
        seed: passed to the inner sampler.
        inner: the sampler to wrap.
        largest: add the largest architecture.
        smallest: add the smallest architecture.
    """

    needs = ("smallest", "largest")

    def __init__(
        self, domain: Any, seed: int = 0, inner: SamplerRef = "random", largest: bool = True, smallest: bool = True
    ) -> None:
        self.domain = domain
        self.ends = []
        if largest:
            self.ends.append("largest")
        if smallest:
            self.ends.append("smallest")
        registry.refuse_domain("sampler 'sandwich'", domain, self.needs)
        self.inner = registry.make("sampler", inner, {"domain": domain, "seed": seed})
        self.keeps_state = keeps_state(self.inner)
        self.pending: Counter[str] = Counter()  # ends that were proposed and have no result yet

    def start(self, stage: str, total: int, origin: Literal["train", "search"] = "search") -> None:
        """Start again, and so does the inner sampler."""
        self.pending.clear()
        start_sampler(self.inner, stage, total, origin)

    def ask(self, n: int = 1, within: Any = None) -> list[Arch]:
        """Return the ends, then the inner sampler's proposals."""
        domain = self.domain if within is None else within
        archs: list[Arch] = []
        most_ends = max(n - 1, 0)  # one place is the inner sampler's
        for end in self.ends[:most_ends]:
            arch = getattr(domain, end)()
            if domain.contains(arch):  # a restricted domain may lack its ends
                archs.append(arch)
                self.pending[arch_id(arch)] += 1
        others = self.inner.ask(n - len(archs), within=within)
        return archs + others

    def tell(self, trials: Sequence[Trial]) -> None:
        """Pass the results of the inner sampler's proposals on to it."""
        # The inner sampler may have proposed an end, too. Counting tells how many of its results are not the ends'.
        others = []
        for trial in trials:
            name = arch_id(trial.arch)
            if self.pending[name] > 0:
                self.pending[name] -= 1
            else:
                others.append(trial)
        self.pending = +self.pending  # without zeros
        if others:
            self.inner.tell(others)

    def state_dict(self) -> dict[str, Any]:
        """Return the inner sampler's state and the ends without a result."""
        return {"inner": self.inner.state_dict(), "pending": dict(self.pending)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that :meth:`state_dict` returned."""
        self.inner.load_state_dict(state["inner"])
        self.pending = Counter(state["pending"])


def _groups(knobs: Sequence[str], tie: bool | list[list[str]]) -> dict[str, str]:
    """Return knob → name of the group that it moves with, see :class:`GridSampler`."""
    groups = {}
    for knob in knobs:
        family = knob.rpartition(".")[0] or knob  # `layers` has no number, and is a family of its own
        groups[knob] = knob if tie is False else family
    if not isinstance(tie, list):
        return groups
    for together in tie:
        families = set(groups.values())
        unknown = set(together) - families
        if unknown:
            raise UsageError(f"tie: unknown families {sorted(unknown)}. Known: {sorted(families)}")
        joined = "+".join(together)
        for knob, family in groups.items():
            if family in together:
                groups[knob] = joined
    return groups


def _grid(domain: Any, groups: Mapping[str, str], points: int | None) -> list[Arch]:
    """Return the architectures of the grid, each once.

    Args:
        domain: the domain.
        groups: knob → group.
        points: the largest number of values a group.
    """
    lengths: dict[str, int] = {}  # of groups
    for knob, group in groups.items():
        count = len(domain.knobs[knob])
        if lengths.setdefault(group, count) != count:
            raise UsageError(f"cannot tie {group!r}: {knob!r} has {count} values, others {lengths[group]}")
    axes = {group: _even(count, points) for group, count in lengths.items()}
    size = math.prod(len(axis) for axis in axes.values())
    if size > ENUMERABLE:
        raise UsageError(f"sampler 'grid': more than {ENUMERABLE:,} points. Tie the knobs or ask for fewer points.")
    archs: dict[str, Arch] = {}
    for cell in itertools.product(*axes.values()):
        positions = dict(zip(axes, cell, strict=True))
        values = {}
        for knob, group in groups.items():
            position = positions[group]
            values[knob] = domain.knobs[knob][position]
        arch = domain.canonical(values)  # points that differ only in inactive knobs become one
        if domain.contains(arch):
            archs.setdefault(arch_id(arch), arch)
    return list(archs.values())


def _even(count: int, points: int | None) -> list[int]:
    """Return at most ``points`` of the positions 0 … count - 1, equally spaced, ends included."""
    number = count if points is None else min(points, count)
    positions = np.linspace(0, count - 1, number)
    rounded = positions.round().astype(int)
    return np.unique(rounded).tolist()
