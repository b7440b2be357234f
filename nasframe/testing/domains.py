"""What every domain must do, as checks: subclass :class:`DomainContract`, define ``make``, run pytest.

class TestMine(DomainContract):
    def make(self):
        return MyDomain()

The contract of spaces has the same checks, on the space's domain, so ``nasframe plugins check`` runs them, too.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from nasframe.errors import UnsatisfiableError
from nasframe.interfaces import (
    BoundedDomain,
    CountableDomain,
    CrossableDomain,
    DrawableDomain,
    EncodedDomain,
    EnumerableDomain,
    FeaturedDomain,
    JoinableDomain,
    KnobDomain,
    RestrictableDomain,
)
from nasframe.records import Arch, Drawing, arch_id
from nasframe.search.restrict import restrict
from nasframe.testing.kit import Contract, DoesNotApply, check, is_plain, require, require_no_global_randomness

GENERATOR = "the generator that the method is given"
LISTED = 2000
"""Architectures of the largest domain that is gone through whole."""


class DomainChecks(Contract):
    """The checks of a domain, for the contracts of domains and of spaces.

    Attributes:
        domain_draws: how many architectures are drawn.
        walk: how many mutations follow each other.
    """

    domain_draws = 20
    walk = 60

    def domain(self) -> Any:
        """Return the domain under test."""
        raise NotImplementedError

    def drawn_archs(self, domain: Any) -> list[Arch]:
        """Draw one architecture from each of some new generators."""
        return [domain.sample(np.random.default_rng(seed)) for seed in range(self.domain_draws)]

    def require_member(self, domain: Any, arch: Any, method: str) -> None:
        """Require that an architecture that a method of the domain returned is plain, inside and canonical."""
        text = f"domain.{method} returned {arch}"
        require(isinstance(arch, Mapping), f"{text}; return a mapping, such as {{'nodes': [...]}}")
        require(is_plain(arch), f"{text}, which is not JSON-plain; use Python numbers, text, lists and dicts")
        require(domain.contains(arch), f"{text}, but domain.contains is false for it; make both agree")
        canonical = domain.canonical(arch)
        require(canonical == arch, f"{text}; return its canonical form {canonical}")

    def require_untouched(self, archs: list[Arch], act: Callable[[], Any], method: str) -> Any:
        """Call a method of the domain and require that its arguments stay as they were; return what it returns."""
        before = copy.deepcopy(archs)
        result = act()
        require(archs == before, f"domain.{method} changed its argument; change a copy")
        return result

    @check
    def test_the_domain_draws_what_it_contains(self) -> None:
        """Drawn and mutated architectures are members of the domain, JSON-plain, canonical and reproducible."""
        domain = self.domain()
        first = self.drawn_archs(domain)
        second = self.drawn_archs(domain)
        require(first == second, f"domain.sample differs for equal generators; draw only from {GENERATOR}")
        for number, arch in enumerate(first):
            self.require_member(domain, arch, "sample")
            # Samplers mutate architectures that they keep in their populations.
            mutants = []
            for _ in range(2):
                rng = np.random.default_rng(number)
                mutant = self.require_untouched([arch], partial(domain.mutate, arch, rng), "mutate")
                self.require_member(domain, mutant, "mutate")
                mutants.append(mutant)
            require(mutants[0] == mutants[1], f"domain.mutate differs for equal generators; draw only from {GENERATOR}")

    @check
    def test_mutations_lead_through_the_domain(self) -> None:
        """A walk of mutations stays inside the domain, and comes to other architectures if there are any."""
        domain = self.domain()
        rng = np.random.default_rng(1)
        start = domain.sample(rng)
        arch = start
        seen = {arch_id(start)}
        for _ in range(self.walk):
            arch = domain.mutate(arch, rng)
            self.require_member(domain, arch, "mutate")
            seen.add(arch_id(arch))
        others = [other for other in self.drawn_archs(domain) if other != start]
        require(
            len(seen) > 1 or not others,
            f"{self.walk} mutations of {start} returned nothing else; change the architecture, as little as possible",
        )

    @check
    def test_equal_networks_have_one_form(self) -> None:
        """The canonical form stays the same when it is taken again, and leaves its argument as it was."""
        domain = self.domain()
        for arch in self.drawn_archs(domain):
            once = self.require_untouched([arch], partial(domain.canonical, arch), "canonical")
            again = domain.canonical(once)
            require(again == once, f"the canonical form of {once} is {again}; return the same form each time")
            once_more = domain.canonical(copy.deepcopy(arch))
            require(once_more == once, "domain.canonical differs for equal architectures; draw nothing in it")

    @check
    def test_strangers_are_not_contained(self) -> None:
        """Whatever else is a mapping is no member of the domain, and asking whether it is raises nothing."""
        domain = self.domain()
        first = self.drawn_archs(domain)[0]
        strangers: list[Arch] = [{}, {"no such knob": 1}, {**first, "no such knob": 1}]
        for name in first:
            strangers += [{**first, name: value} for value in (None, {"no": "such"}, -12345.5)]
        for stranger in strangers:
            try:
                is_contained = domain.contains(stranger)
            except Exception as error:
                require(False, f"domain.contains raised {type(error).__name__} for {stranger}; return False")
            if is_contained:
                # It may be another spelling of a member, such as one with a knob that has no effect.
                canonical = domain.canonical(stranger)
                require(
                    domain.contains(canonical) and is_plain(canonical),
                    f"domain.contains is true for {stranger}, but its canonical form {canonical} is no member",
                )

    @check
    def test_the_domain_can_be_restricted(self) -> None:
        """The part of the domain that meets a condition draws, mutates and contains only what meets it."""
        domain = self.domain()
        ids = {arch_id(arch) for arch in self.drawn_archs(domain)}
        if len(ids) < 2:
            return

        def keep(arch: Arch) -> bool:
            return int(arch_id(arch)[-1], 16) % 2 == 0  # about half of any domain

        if not any(int(name[-1], 16) % 2 == 0 for name in ids):
            return
        half = restrict(domain, keep=keep)
        rng = np.random.default_rng(2)
        for _ in range(self.domain_draws):
            arch = half.sample(rng)
            mutant = half.mutate(arch, rng)
            for found in (arch, mutant):
                require(keep(found) and half.contains(found), f"{found} does not meet the condition; ask it everywhere")
        nothing = restrict(domain, keep=lambda arch: False)
        try:
            nothing.sample(rng)
        except UnsatisfiableError:
            return
        require(False, "a condition that nothing meets gave an architecture; raise UnsatisfiableError")

    @check
    def test_crossing_gives_a_member(self) -> None:
        """A child of two architectures is a member, and its parents stay as they were."""
        domain = self.optional(CrossableDomain)
        archs = self.drawn_archs(domain)
        for number, (a, b) in enumerate(itertools.pairwise(archs)):
            rng = np.random.default_rng(number)
            child = self.require_untouched([a, b], partial(domain.crossover, a, b, rng), "crossover")
            self.require_member(domain, child, "crossover")

    @check
    def test_a_list_has_every_architecture_once(self) -> None:
        """``enumerate`` yields members, each once, as many as ``size`` says, and everything that is drawn.

        A domain with a condition (``keep``) may have fewer than its size says.
        """
        domain = self.optional(EnumerableDomain)
        listed = []
        for arch in itertools.islice(domain.enumerate(), LISTED + 1):
            self.require_member(domain, arch, "enumerate")
            listed.append(arch_id(arch))
        require(len(set(listed)) == len(listed), "domain.enumerate yields an architecture twice; yield each once")
        if len(listed) > LISTED:
            return
        missing = [arch for arch in self.drawn_archs(domain) if arch_id(arch) not in set(listed)]
        require(not missing, f"domain.enumerate does not yield {missing[:1]}, which was drawn; yield everything")
        if isinstance(domain, CountableDomain) and getattr(domain, "keep", None) is None:
            require(domain.size == len(listed), f"domain.size is {domain.size}, but {len(listed)} are listed")

    @check
    def test_the_size_is_a_number(self) -> None:
        """``size`` is no less than the number of different architectures that are drawn."""
        domain = self.optional(CountableDomain)
        different = len({arch_id(arch) for arch in self.drawn_archs(domain)})
        require(
            not math.isnan(domain.size) and domain.size >= different,
            f"domain.size is {domain.size}, but {different} different architectures were drawn; count them all",
        )

    @check
    def test_the_ends_are_members(self) -> None:
        """The smallest and the largest architecture are members."""
        domain = self.optional(BoundedDomain)
        for method in ("smallest", "largest"):
            self.require_member(domain, getattr(domain, method)(), method)

    @check
    def test_values_of_knobs_can_be_kept_out(self) -> None:
        """``restrict`` with one value of a knob leaves architectures that have it, or do not have the knob."""
        self.optional(RestrictableDomain)
        domain = self.optional(KnobDomain)
        for name, values in list(domain.knobs.items())[:5]:
            part = domain.restrict({name: [values[0]]})
            for seed in range(5):
                arch = part.sample(np.random.default_rng(seed))
                value = arch.get(name, values[0])
                require(value == values[0], f"restrict({{{name!r}: [{values[0]!r}]}}) drew {arch}; draw the value only")

    @check
    def test_positions_lead_back(self) -> None:
        """``decode`` undoes ``encode``; a position is below its dimension's number of values, 0 without an effect."""
        domain = self.optional(EncodedDomain)
        conditions = domain.conditions()
        shape = domain.shape
        require(len(shape) == len(domain.dims) == len(conditions), "shape, dims and conditions differ in their lengths")
        for arch in self.drawn_archs(domain):
            code = np.asarray(domain.encode(arch))
            require(domain.decode(code) == arch, f"decode(encode(…)) of {arch} is {domain.decode(code)}")
            active = domain.active(arch)
            for number, size in enumerate(shape):
                require(0 <= code[number] < size, f"position {code[number]} of dimension {number} is not below {size}")
                require(active[number] or code[number] == 0, "the position of a dimension without an effect is not 0")
                condition = conditions[number]
                expected = True
                if condition is not None:
                    parent, active_at = condition
                    expected = bool(active[parent] and active_at[code[parent]])
                require(
                    bool(active[number]) == expected, f"active and conditions disagree on dimension {number} of {arch}"
                )

    @check
    def test_knobs_can_be_joined(self) -> None:
        """The domain with its dimensions joined has the same architectures."""
        domain = self.optional(JoinableDomain)
        joined = domain.joined({})
        for arch in self.drawn_archs(domain):
            require(joined.contains(arch), f"joined({{}}) does not contain {arch}; keep all architectures")

    @check
    def test_features_are_numbers(self) -> None:
        """``features`` returns finite numbers, as many for each architecture, and the same when asked again."""
        domain = self.optional(FeaturedDomain)
        lengths = set()
        for arch in self.drawn_archs(domain):
            numbers = list(self.require_untouched([arch], partial(domain.features, arch), "features"))
            require(all(map(math.isfinite, numbers)), f"domain.features of {arch} is {numbers}; return finite numbers")
            require(numbers == list(domain.features(arch)), "domain.features differs for one architecture")
            lengths.add(len(numbers))
        require(len(lengths) == 1, f"domain.features has {sorted(lengths)} numbers; return as many for each one")

    @check
    def test_graphs_can_be_drawn(self) -> None:
        """``drawing`` returns a :class:`~nasframe.records.Drawing` with at least one node and without a circle."""
        domain = self.optional(DrawableDomain)
        for arch in self.drawn_archs(domain):
            drawing = self.require_untouched([arch], partial(domain.drawing, arch), "drawing")
            require(isinstance(drawing, Drawing), f"domain.drawing returned {drawing!r}; return a Drawing")
            require(drawing.nodes, f"the drawing of {arch} has no node")
            is_text = all(isinstance(text, str) for text in [*drawing.nodes, *drawing.nodes.values()])
            require(is_text, "nodes of a drawing and their labels are text")
            require(drawing.depths() is not None, f"the drawing of {arch} has edges in a circle")

    @check
    def test_domains_leave_global_random_state_alone(self) -> None:
        """The domain neither reads nor changes the global generators of Python, numpy and torch."""

        def archs() -> list[Arch]:
            domain = self.domain()
            rng = np.random.default_rng(3)
            drawn = self.drawn_archs(domain)
            return [*drawn, *[domain.mutate(arch, rng) for arch in drawn]]

        require_no_global_randomness(archs, lambda first, second: bool(first == second), GENERATOR)

    def optional(self, protocol: type) -> Any:
        """Return the domain if it has an optional member; end the check otherwise."""
        domain = self.domain()
        if not isinstance(domain, protocol):
            raise DoesNotApply
        return domain


class DomainContract(DomainChecks):
    """The checks of a domain by itself. ``sample``, ``mutate``, ``contains`` and ``canonical`` are a whole domain.

    The checks of optional members pass if the domain does not have them.
    """

    kind = "domain"

    def make(self) -> Any:
        """Make the domain under test."""
        raise NotImplementedError(f"{type(self).__name__}: override 'make' to return the domain")

    def domain(self) -> Any:
        """Return the domain under test."""
        return self.make()
