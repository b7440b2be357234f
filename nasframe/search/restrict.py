"""Conditions on architectures, and the part of a domain that meets a condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from nasframe.errors import UnsatisfiableError, UsageError
from nasframe.interfaces import Domain, GradedCondition, RestrictableDomain
from nasframe.records import Arch

if TYPE_CHECKING:
    import numpy as np

Predicate = Callable[[Arch], bool]
"""Tells whether a canonical architecture may stay. If it is a :class:`~nasframe.interfaces.GradedCondition`, a domain
can walk downhill to acceptable architectures when draws rarely hit them."""

TRIES = 2000  # draws before giving up; a part with one architecture in 500 is then found 98 times in 100


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
        raise UsageError(f"{type(domain).__name__} has no knobs to restrict, but got {dict(only)}")
    if keep is None:
        return domain
    return RestrictedDomain(domain, keep)


def both(first: Predicate | None, second: Predicate | None) -> Predicate | None:
    """Return the condition that holds if both do; their violations add up."""
    if first is None or second is None:
        return first or second
    return _All((first, second))


class RestrictedDomain:
    """The part of a domain that meets a condition, found by rejecting draws.

    Args:
        domain: any domain.
        keep: a condition on canonical architectures.
        tries: draws before giving up.
    """

    def __init__(self, domain: Domain, keep: Predicate, tries: int = TRIES) -> None:
        self.domain = domain
        self.keep = keep
        self.tries = tries

    def sample(self, rng: np.random.Generator) -> Arch:
        """Draw until ``keep`` accepts; raises UnsatisfiableError after ``tries`` draws."""
        return self._accepted(lambda: self.domain.sample(rng))

    def mutate(self, arch: Arch, rng: np.random.Generator) -> Arch:
        """Mutate until ``keep`` accepts; raises UnsatisfiableError after ``tries`` mutants."""
        return self._accepted(lambda: self.domain.mutate(arch, rng))

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

    def _accepted(self, draw: Callable[[], Arch]) -> Arch:
        for _ in range(self.tries):
            arch = self.domain.canonical(draw())
            if self.keep(arch):
                return arch
        raise UnsatisfiableError(f"none of {self.tries} draws from {type(self.domain).__name__} is acceptable")


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
