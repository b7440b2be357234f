"""Samplers that learn nothing: what every search is compared with, and what trains super-networks plainly."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from nasframe import registry
from nasframe.errors import UnsatisfiableError, UsageError
from nasframe.interfaces import start_sampler
from nasframe.records import Arch, Count, SamplerRef, Trial, arch_id

ENUMERABLE = 20_000  # a domain of at most so many architectures is searched for what was not proposed yet


class RandomSampler:
    """Draws uniformly, knob by knob.

    Args:
        domain: what to propose from.
        seed: draws the proposals.
        replace: draw with replacement. A search answers repeats for free and ends by itself, so that this only
            matters where a small domain is to be emptied; then set it to false.

    >>> from nasframe.search.domain import Choices
    >>> RandomSampler(Choices({"k": [0, 1, 2]}), seed=0).ask(2)
    [{'k': 1}, {'k': 0}]
    """

    def __init__(self, domain: Any, seed: int = 0, replace: bool = True) -> None:
        self.domain, self.replace = domain, replace
        self.rng = np.random.default_rng(seed)
        self.proposed: set[str] = set()

    def start(self, stage: str, total: int) -> None:
        """Forget what was proposed in an earlier stage."""
        self.proposed.clear()

    def ask(self, n: int = 1, within: Any = None) -> list[Arch]:
        """Draw ``n`` architectures; fewer where nothing (new) is left."""
        domain = self.domain if within is None else within
        archs: list[Arch] = []
        try:
            while len(archs) < n and (arch := self._draw(domain)) is not None:
                archs.append(arch)
        except UnsatisfiableError:
            pass
        return archs

    def tell(self, trials: Sequence[Trial]) -> None:
        """Learn nothing; without replacement, what is known is not proposed again."""
        if not self.replace:
            self.proposed.update(arch_id(trial.arch) for trial in trials)

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state and what was proposed."""
        return {"rng": self.rng.bit_generator.state, "proposed": sorted(self.proposed)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.rng.bit_generator.state = state["rng"]
        self.proposed = set(state["proposed"])

    def _draw(self, domain: Any) -> Arch | None:
        if self.replace:
            return domain.sample(self.rng)
        for _ in range(100):
            if self._is_new(arch := domain.sample(self.rng)):
                return arch
        if getattr(domain, "size", np.inf) > ENUMERABLE:
            return None
        left = [arch for arch in domain.enumerate() if arch_id(arch) not in self.proposed]
        if not left:
            return None
        self._is_new(arch := left[self.rng.integers(len(left))])
        return arch

    def _is_new(self, arch: Arch) -> bool:
        known = len(self.proposed)
        self.proposed.add(arch_id(arch))
        return len(self.proposed) > known


class GridSampler:
    """Walks over an even grid: knobs of a tied group move together, groups are combined freely.

    With the default ties, widths that are uniform over the layers times depths: the sub-networks of DynaBERT
    (arXiv 2004.04037).

    Args:
        domain: what to propose from; it has knobs.
        seed: unused; a grid is not random.
        tie: ``true`` ties each family (``heads.0``, ``heads.1`` …); lists name families that move in step
            (``[[heads, ffn]]`` is one width multiplier); ``false`` ties nothing.
        points: at most so many values a group, equally spaced, ends included; default: all.
        cycle: begin again at the end, as training needs; a search is over there.

    Raises:
        UsageError: a domain without knobs, an unknown family, or families of different lengths in one group.

    >>> from nasframe.search.domain import Choices
    >>> domain = Choices({"heads.0": [1, 2], "heads.1": [1, 2], "ffn.0": [8, 16], "ffn.1": [8, 16]})
    >>> len(GridSampler(domain).ask(100)), len(GridSampler(domain, tie=[["heads", "ffn"]]).ask(100))
    (4, 2)
    """

    def __init__(
        self,
        domain: Any,
        seed: int = 0,
        tie: bool | list[list[str]] = True,
        points: Count | None = None,
        cycle: bool = False,
    ) -> None:
        if not hasattr(domain, "knobs"):
            raise UsageError(f"sampler 'grid' needs a domain of knobs, but got {type(domain).__name__}")
        self.domain, self.cycle = domain, cycle
        self.proposed: set[int] = set()
        self.archs = _grid(domain, _groups(list(domain.knobs), tie), points)
        self.places = {arch_id(arch): place for place, arch in enumerate(self.archs)}

    def start(self, stage: str, total: int) -> None:
        """Begin at the first point."""
        self.proposed.clear()

    def ask(self, n: int = 1, within: Any = None) -> list[Arch]:
        """Return the first ``n`` points of ``within`` that were not proposed yet."""
        domain = self.domain if within is None else within
        archs: list[Arch] = []
        while len(archs) < n:
            left = (i for i in range(len(self.archs)) if i not in self.proposed and domain.contains(self.archs[i]))
            found = list(itertools.islice(left, n - len(archs)))
            self.proposed.update(found)
            archs += [domain.canonical(self.archs[i]) for i in found]
            if len(archs) < n and not (self.cycle and self._forget(domain)):
                break
        return archs

    def tell(self, trials: Sequence[Trial]) -> None:
        """Learn nothing; a known point need not be proposed again, unless the grid is walked in cycles."""
        if not self.cycle:
            names = (arch_id(trial.arch) for trial in trials)
            self.proposed.update(self.places[name] for name in names if name in self.places)

    def state_dict(self) -> dict[str, Any]:
        """Return which points were proposed."""
        return {"proposed": sorted(self.proposed)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.proposed = set(state["proposed"])

    def _forget(self, domain: Any) -> bool:
        """Let the points of a domain be proposed again; tell whether there are any."""
        inside = {i for i in self.proposed if domain.contains(self.archs[i])}
        self.proposed -= inside
        return bool(inside)


class EverySampler:
    """Proposes all sub-networks of a small domain: each once in a search, all of them in every step of a training.

    Args:
        domain: what to propose from; it can be enumerated.
        seed: unused.
        limit: a larger domain is refused.

    >>> from nasframe.search.domain import Choices
    >>> sampler = EverySampler(Choices({"k": [0, 1, 2]}))
    >>> sampler.ask(2), sampler.ask(2), sampler.ask(2)
    ([{'k': 0}, {'k': 1}], [{'k': 2}], [])
    """

    def __init__(self, domain: Any, seed: int = 0, limit: Count = 4096) -> None:
        self.domain, self.limit, self.training = domain, limit, False
        self.proposed: dict[str, None] = {}  # names, a set that keeps its order
        self.queues: dict[int, tuple[Any, deque[Arch]]] = {}  # by the identity of a domain: it, and what is left of it

    def start(self, stage: str, total: int, origin: Literal["train", "search"] = "search") -> None:
        """Begin again."""
        self.training = origin == "train"
        self.proposed.clear()
        self.queues.clear()

    def ask(self, n: int = 1, within: Any = None) -> list[Arch]:
        """Return the next ``n`` architectures of ``within``, in the domain's order; in training all of them.

        Raises:
            UsageError: the domain cannot be enumerated, or is larger than ``limit``.
        """
        domain = self.domain if within is None else within
        if self.training:
            return self._listed(domain)
        if id(domain) not in self.queues:
            self.queues[id(domain)] = (domain, deque(self._listed(domain)))
        left = self.queues[id(domain)][1]
        archs: list[Arch] = []
        while left and len(archs) < n:
            arch = left.popleft()
            if arch_id(arch) not in self.proposed:
                self.proposed[arch_id(arch)] = None
                archs.append(arch)
        return archs

    def tell(self, trials: Sequence[Trial]) -> None:
        """Learn nothing; what is known need not be proposed again."""
        if not self.training:
            self.proposed |= dict.fromkeys(arch_id(trial.arch) for trial in trials)

    def state_dict(self) -> dict[str, Any]:
        """Return the names of what was proposed."""
        return {"training": self.training, "proposed": list(self.proposed)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.training, self.proposed = state["training"], dict.fromkeys(state["proposed"])
        self.queues.clear()

    def _listed(self, domain: Any) -> list[Arch]:
        if not hasattr(domain, "enumerate"):
            raise UsageError(f"sampler 'every' needs a domain to enumerate, but got {type(domain).__name__}")
        archs = list(itertools.islice(domain.enumerate(), self.limit + 1))
        if len(archs) > self.limit:
            raise UsageError(
                f"sampler 'every': more than {self.limit:,} architectures. Restrict the domain or raise limit."
            )
        return archs


class SandwichSampler:
    """Adds the largest and the smallest architecture to another sampler's proposals (arXiv 1903.05134).

    At least one proposal of an ask is the inner sampler's: asked for one, as in a search, this is the inner sampler;
    asked for three, as in training with ``archs_per_step: 3``, it is largest, smallest, and one of the inner's. The
    inner sampler hears only of its own.

    Args:
        domain: what to propose from.
        seed: given to the inner sampler.
        inner: the sampler to wrap.
        largest: add the largest architecture.
        smallest: add the smallest architecture.
    """

    def __init__(
        self, domain: Any, seed: int = 0, inner: SamplerRef = "random", largest: bool = True, smallest: bool = True
    ) -> None:
        self.domain = domain
        self.inner = registry.make("sampler", inner, {"domain": domain, "seed": seed})
        self.ends = ["largest"] * largest + ["smallest"] * smallest
        self.pending: Counter[str] = Counter()

    def start(self, stage: str, total: int, origin: Literal["train", "search"] = "search") -> None:
        """Forget what was not answered, and let the inner sampler know."""
        self.pending.clear()
        start_sampler(self.inner, stage, total, origin)

    def ask(self, n: int = 1, within: Any = None) -> list[Arch]:
        """Return the ends, then the inner sampler's proposals."""
        domain = self.domain if within is None else within
        ends = [getattr(domain, end)() for end in self.ends[: max(n - 1, 0)]]
        ends = [arch for arch in ends if domain.contains(arch)]
        self.pending.update(arch_id(arch) for arch in ends)
        return ends + self.inner.ask(n - len(ends), within=within)

    def tell(self, trials: Sequence[Trial]) -> None:
        """Pass on what is not the answer to an end."""
        others = []
        for trial in trials:
            name = arch_id(trial.arch)
            if self.pending[name] > 0:
                self.pending[name] -= 1
            else:
                others.append(trial)
        self.pending = +self.pending
        if others:
            self.inner.tell(others)

    def state_dict(self) -> dict[str, Any]:
        """Return the inner sampler's state and the ends without an answer."""
        return {"inner": self.inner.state_dict(), "pending": dict(self.pending)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.inner.load_state_dict(state["inner"])
        self.pending = Counter(state["pending"])


def _groups(knobs: Sequence[str], tie: bool | list[list[str]]) -> dict[str, str]:
    """Give each knob the name of the group it moves with."""
    family = {knob: knob if tie is False else knob.rpartition(".")[0] or knob for knob in knobs}
    for together in tie if isinstance(tie, list) else []:
        if unknown := set(together) - set(family.values()):
            raise UsageError(f"tie: unknown families {sorted(unknown)}. Known: {sorted(set(family.values()))}")
        family = {knob: "+".join(together) if name in together else name for knob, name in family.items()}
    return family


def _grid(domain: Any, groups: Mapping[str, str], points: int | None) -> list[Arch]:
    lengths: dict[str, int] = {}
    for knob, group in groups.items():
        count = len(domain.knobs[knob])
        if lengths.setdefault(group, count) != count:
            raise UsageError(f"cannot tie {group!r}: {knob!r} has {count} values, others {lengths[group]}")
    axes = {
        group: np.unique(np.linspace(0, count - 1, min(points or count, count)).round().astype(int)).tolist()
        for group, count in lengths.items()
    }
    if np.prod([float(len(axis)) for axis in axes.values()]) > ENUMERABLE:
        raise UsageError(f"sampler 'grid': more than {ENUMERABLE:,} points. Tie the knobs or ask for fewer points.")
    found: dict[str, Arch] = {}
    for cell in itertools.product(*axes.values()):
        at = dict(zip(axes, cell, strict=True))
        arch = domain.canonical({knob: domain.knobs[knob][at[group]] for knob, group in groups.items()})
        if domain.contains(arch):
            found.setdefault(arch_id(arch), arch)
    return list(found.values())
