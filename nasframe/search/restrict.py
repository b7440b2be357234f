"""Conditions on architectures: the part of any domain that a condition accepts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from nasframe.errors import UnsatisfiableError, UsageError
from nasframe.records import Arch

if TYPE_CHECKING:
    pass

if TYPE_CHECKING:
    import numpy as np

    from nasframe.interfaces import Domain

Keep = Callable[[Arch], bool]
"""Tells whether a canonical architecture may stay. With an attribute ``violation`` (architecture → how far from
acceptable, 0 inside) a domain can walk downhill to acceptable ones where draws rarely hit them."""


def restrict(domain: Domain, only: Mapping[str, Any] | None = None, keep: Keep | None = None) -> Any:
    """Restrict any domain: through its own ``restrict`` where it has one, else by rejecting draws.

    Args:
        domain: what to restrict; left as it was.
        only: knob or family → the values to leave.
        keep: a condition on canonical architectures.

    Returns:
        A domain.

    Raises:
        UsageError: ``only`` is given and the domain has no knobs to restrict, or not these.
    """
    if hasattr(domain, "restrict"):
        return domain.restrict(only, keep=keep)
    if only:
        raise UsageError(f"{type(domain).__name__} has no knobs to restrict, but got {dict(only)}")
    return domain if keep is None else Kept(domain, keep)


def both(first: Keep | None, second: Keep | None) -> Keep | None:
    """Join two conditions; their violations add up."""
    return _Both(first, second) if first and second else first or second


class Kept:
    """The part of a domain that ``keep`` accepts, found by rejection.

    Args:
        domain: any domain.
        keep: a condition on canonical architectures.
        tries: draws before giving up.
    """

    def __init__(self, domain: Domain, keep: Keep, tries: int = 2000) -> None:
        self.domain, self.keep, self.tries = domain, keep, tries

    def sample(self, rng: np.random.Generator) -> Arch:
        """Draw until ``keep`` accepts; raises UnsatisfiableError after ``tries`` draws."""
        return self._accepted(lambda: self.domain.sample(rng))

    def mutate(self, arch: Arch, rng: np.random.Generator) -> Arch:
        """Mutate until ``keep`` accepts; raises UnsatisfiableError after ``tries`` mutants."""
        return self._accepted(lambda: self.domain.mutate(arch, rng))

    def contains(self, arch: Arch) -> bool:
        """Tell whether ``arch`` belongs and is accepted."""
        return self.domain.contains(arch) and bool(self.keep(self.domain.canonical(arch)))

    def canonical(self, arch: Arch) -> Arch:
        """Return the canonical form."""
        return self.domain.canonical(arch)

    def restrict(self, only: Mapping[str, Any] | None = None, keep: Keep | None = None) -> Any:
        """Restrict further; conditions add up."""
        return restrict(restrict(self.domain, only), None, both(self.keep, keep))

    def _accepted(self, draw: Callable[[], Arch]) -> Arch:
        for _ in range(self.tries):
            if self.keep(arch := self.domain.canonical(draw())):
                return arch
        raise UnsatisfiableError(f"none of {self.tries} draws from {type(self.domain).__name__} is acceptable")


class _Both:
    def __init__(self, first: Keep, second: Keep) -> None:
        self.parts = first, second

    def __call__(self, arch: Arch) -> bool:
        return all(keep(arch) for keep in self.parts)

    def violation(self, arch: Arch) -> float:
        return sum(keep.violation(arch) if hasattr(keep, "violation") else float(not keep(arch)) for keep in self.parts)


def joined(domain: Any, use: Any) -> Any:
    """Return a domain in the coordinates that a sampler asked for with ``join``."""
    return domain.joined(use["join"]) if isinstance(use, Mapping) and use.get("join") else domain
