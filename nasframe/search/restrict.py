"""Conditions on architectures, and the part of a domain that meets a condition."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nasframe.errors import UnsatisfiableError, UsageError
from nasframe.interfaces import (
    CrossableDomain,
    Domain,
    DrawableDomain,
    EnumerableDomain,
    FeaturedDomain,
    GradedCondition,
    RestrictableDomain,
)
from nasframe.records import Arch

if TYPE_CHECKING:
    import numpy as np

Predicate = Callable[[Arch], bool]
"""Tells whether a canonical architecture may stay. If it is a :class:`~nasframe.interfaces.GradedCondition`, a domain
can walk downhill to acceptable architectures when draws rarely hit them."""

TRIES = 2000  # draws before giving up; a part with one architecture in 500 is then found 98 times in 100
GRADED_TRIES = 200  # draws before a walk downhill, which finds rarer parts
STARTS = 4  # rejected draws from which such a walk begins
STEPS_AWAY = 4  # mutations in a row before a mutant of the architecture itself is tried again
CROSSINGS = 100  # children of two parents before a mutant is returned


def restrict(domain: Domain, only: Mapping[str, Any] | None = None, keep: Predicate | None = None) -> Any:
    """Restrict any domain: by its own ``restrict`` if it has one, otherwise by rejecting draws.

    Args:
        domain: what to restrict; it stays as it was.
        only: knob or family → the values to leave.
        keep: a condition on canonical architectures.

    Returns:
        A domain.

    Raises:
        UsageError: ``only`` is given, and the domain has no knobs to restrict, or not these.
    """
    if isinstance(domain, RestrictableDomain):
        return domain.restrict(only, keep=keep)
    if only:
        raise UsageError(
            f"{type(domain).__name__} cannot be restricted to values of knobs, but got {dict(only)}. Expected bounds "
            "of costs (constraints, budgets), which hold for every domain, or a domain with 'restrict'."
        )
    if keep is None:
        return domain
    return RestrictedDomain(domain, keep)


def both(first: Predicate | None, second: Predicate | None) -> Predicate | None:
    """Return the condition that holds if both do; their violations add up."""
    if first is None or second is None:
        return first or second
    return _All((first, second))


class RestrictedDomain:
    """The part of any domain that meets a condition, found by rejecting draws and walking downhill.

    The optional members ``crossover``, ``enumerate``, ``features`` and ``drawing`` are there if the domain has them.
    Others, such as knobs and positions on a grid, are not: they describe the whole domain.

    Args:
        domain: any domain.
        keep: a condition on canonical architectures.
        tries: draws before giving up.

    >>> class Words:
    ...     def sample(self, rng): return {"word": "".join(rng.choice(["a", "b"], size=rng.integers(1, 9)))}
    ...     def mutate(self, arch, rng): return {"word": arch["word"][1:] or "ab"}
    ...     def contains(self, arch): return set(arch["word"]) <= {"a", "b"}
    ...     def canonical(self, arch): return arch
    >>> import numpy as np
    >>> short = RestrictedDomain(Words(), keep=lambda arch: len(arch["word"]) < 3)
    >>> len(short.sample(np.random.default_rng(0))["word"])
    2
    """

    def __init__(self, domain: Domain, keep: Predicate, tries: int = TRIES) -> None:
        self.domain = domain
        self.keep = keep
        self.tries = tries
        # Set on the instance, because samplers look for these members to see what a domain can do.
        if isinstance(domain, CrossableDomain):
            self.crossover = self._crossover
        if isinstance(domain, EnumerableDomain):
            self.enumerate = self._enumerate
        if isinstance(domain, FeaturedDomain):
            self.features = domain.features
        if isinstance(domain, DrawableDomain):
            self.drawing = domain.drawing

    def sample(self, rng: np.random.Generator) -> Arch:
        """Draw until ``keep`` accepts; then, if the condition is graded, walk downhill from the nearest draws.

        Raises:
            UnsatisfiableError: none was found after ``tries`` draws.
        """
        graded = isinstance(self.keep, GradedCondition)
        draws = GRADED_TRIES if graded else self.tries
        rejected = []
        for _ in range(draws):
            arch = self.domain.canonical(self.domain.sample(rng))
            if self.keep(arch):
                return arch
            rejected.append(arch)
        found = self._descended(rejected, rng) if graded else None
        if found is None:
            raise UnsatisfiableError(f"none of {draws} draws from {type(self.domain).__name__} is acceptable")
        return found

    def mutate(self, arch: Arch, rng: np.random.Generator) -> Arch:
        """Return a neighbour that ``keep`` accepts, a farther one if no near one is acceptable, or else a draw.

        Raises:
            UnsatisfiableError: none was found.
        """
        before = self.domain.canonical(arch) if self.domain.contains(arch) else None
        neighbour = arch
        for attempt in range(self.tries):
            # Now and then one step farther, since all neighbours of an architecture may be out of bounds.
            start = neighbour if attempt % STEPS_AWAY else arch
            neighbour = self.domain.canonical(self.domain.mutate(start, rng))
            if neighbour != before and self.keep(neighbour):
                return neighbour
        return self.sample(rng)

    def contains(self, arch: Arch) -> bool:
        """Tell whether ``arch`` belongs to the domain and is accepted."""
        if not self.domain.contains(arch):
            return False
        canonical = self.domain.canonical(arch)
        return bool(self.keep(canonical))

    def canonical(self, arch: Arch) -> Arch:
        """Return the canonical form."""
        return self.domain.canonical(arch)

    def restrict(self, only: Mapping[str, Any] | None = None, keep: Predicate | None = None) -> Any:
        """Return a smaller part; conditions add up."""
        # ``only`` goes to the domain itself: drawing from fewer values rejects fewer draws.
        smaller = restrict(self.domain, only)
        return restrict(smaller, keep=both(self.keep, keep))

    def _crossover(self, a: Arch, b: Arch, rng: np.random.Generator) -> Arch:
        """Return a child that ``keep`` accepts; a mutant of ``a`` if there is none."""
        crossable: Any = self.domain
        for _ in range(CROSSINGS):
            child = self.domain.canonical(crossable.crossover(a, b, rng))
            if self.keep(child):
                return child
        return self.mutate(a, rng)

    def _enumerate(self) -> Iterator[Arch]:
        """Yield the architectures of the domain that ``keep`` accepts."""
        enumerable: Any = self.domain
        for arch in enumerable.enumerate():
            canonical = self.domain.canonical(arch)
            if self.keep(canonical):
                yield canonical

    def _descended(self, rejected: Sequence[Arch], rng: np.random.Generator) -> Arch | None:
        """Walk downhill on the violation from the nearest of some architectures; ``None`` if that leads nowhere."""
        graded: Any = self.keep
        starts = sorted(((graded.violation(arch), number) for number, arch in enumerate(rejected)))[:STARTS]
        for excess, number in starts:
            arch = rejected[number]
            for _ in range(self.tries // STARTS):
                neighbour = self.domain.canonical(self.domain.mutate(arch, rng))
                reached = graded.violation(neighbour)
                if reached <= excess:  # equal ones are taken: no single step may help on a plateau
                    arch, excess = neighbour, reached
                if self.keep(arch):
                    return arch
        return None


class _All:
    """Several conditions at once."""

    def __init__(self, conditions: tuple[Any, ...]) -> None:
        self.conditions = conditions
        # Asked once, because a domain calls ``violation`` at each step of a descent.
        self.graded = [isinstance(condition, GradedCondition) for condition in conditions]

    def __call__(self, arch: Arch) -> bool:
        return all(condition(arch) for condition in self.conditions)

    def violation(self, arch: Arch) -> float:
        total = 0.0
        for condition, graded in zip(self.conditions, self.graded, strict=True):
            if graded:
                total += condition.violation(arch)
            elif not condition(arch):
                total += 1.0  # as much as a cost of twice its bound
        return total


def joined(domain: Any, use: Any) -> Any:
    """Return a domain in the coordinates that a sampler asks for with its option ``join``."""
    if isinstance(use, Mapping) and use.get("join"):
        return domain.joined(use["join"])
    return domain
