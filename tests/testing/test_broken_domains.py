"""The contract of domains fails each broken domain, with words that tell its author what to do."""

import itertools

import numpy as np
import pytest

from nasframe.records import Drawing
from nasframe.search.domain import Choices
from nasframe.testing import ContractError, DomainContract
from nasframe.testing.domains import DomainChecks
from nasframe.testing.kit import run_checks
from nasframe.testing.samplers import Words, flat_domain, layered_domain, nested_domain


class Rich(Words):
    """Words with every optional member that makes sense for them."""

    letters = "ab"
    longest = 3

    @property
    def size(self):
        return 2 + 4 + 8

    def enumerate(self):
        for length in range(1, self.longest + 1):
            for letters in itertools.product(self.letters, repeat=length):
                yield {"word": "".join(letters)}

    def smallest(self):
        return {"word": "a"}

    def largest(self):
        return {"word": "bbb"}

    def crossover(self, a, b, rng):
        return {"word": a["word"][:1] + b["word"][1:]}

    def features(self, arch):
        return [len(arch["word"]), arch["word"].count("a")]

    def drawing(self, arch):
        nodes = {str(number): letter for number, letter in enumerate(arch["word"])}
        return Drawing(nodes, [(str(number), str(number + 1)) for number in range(len(nodes) - 1)])


class Unseeded(Words):
    def sample(self, rng):
        return super().sample(np.random.default_rng())


class Tuples(Words):
    def sample(self, rng):
        return {"word": super().sample(rng)["word"], "size": np.int64(3)}

    def contains(self, arch):
        return True


class Spoils(Words):
    def mutate(self, arch, rng):
        arch["word"] = arch["word"][::-1] + "a"
        return {"word": "a"}


class Still(Words):
    def mutate(self, arch, rng):
        return dict(arch)


class Restless(Words):
    """Has a canonical form of the canonical form."""

    def sample(self, rng):
        return {"word": "ab"}

    mutate = sample

    def canonical(self, arch):
        return {"word": arch["word"][::-1]}


class Trusting(Words):
    def contains(self, arch):
        return set(arch["word"]) <= set(self.letters)


class Deaf(Choices):
    """Forgets conditions."""

    def restrict(self, only=None, keep=None):
        return super().restrict(only)


class Leaking(Rich):
    def crossover(self, a, b, rng):
        return {"word": a["word"] + b["word"]}


class Twice(Rich):
    def enumerate(self):
        yield from super().enumerate()
        yield {"word": "a"}


class Small(Rich):
    size = 1


class Endless(Rich):
    def largest(self):
        return {"word": "bbbb"}


class Stubborn(Choices):
    """Ignores which values to leave."""

    def restrict(self, only=None, keep=None):
        return super().restrict(None, keep)


class Crooked(Choices):
    def decode(self, indices):
        return super().decode([0 for _ in indices])


class Narrowing(Choices):
    def joined(self, groups):
        return super().joined(groups).restrict({"k0": [0]})


class Uneven(Rich):
    def features(self, arch):
        return [1.0] * len(arch["word"])


class Circle(Rich):
    def drawing(self, arch):
        return Drawing({"a": "", "b": ""}, [("a", "b"), ("b", "a")])


class Global(Words):
    def sample(self, rng):
        np.random.random()
        return super().sample(rng)


FLAT = {f"k{i}": [0, 1, 2] for i in range(6)}
BROKEN = {
    "the_domain_draws_what_it_contains": (Unseeded, "draw only from the generator that the method is given"),
    "mutations_lead_through_the_domain": (Still, "returned nothing else; change the architecture"),
    "equal_networks_have_one_form": (Restless, "return the same form each time"),
    "strangers_are_not_contained": (Trusting, "domain.contains raised KeyError for {}; return False"),
    "the_domain_can_be_restricted": (lambda: Deaf(FLAT), "does not meet the condition; ask it everywhere"),
    "crossing_gives_a_member": (Leaking, "domain.contains is false for it"),
    "a_list_has_every_architecture_once": (Twice, "yields an architecture twice"),
    "the_size_is_a_number": (Small, "size is 1, but 14|size is 1, but"),
    "the_ends_are_members": (Endless, "domain.largest returned"),
    "values_of_knobs_can_be_kept_out": (lambda: Stubborn(FLAT), "draw the value only"),
    "positions_lead_back": (lambda: Crooked(FLAT), "decode"),
    "knobs_can_be_joined": (lambda: Narrowing(FLAT), "keep all architectures"),
    "features_are_numbers": (Uneven, "return as many for each one"),
    "graphs_can_be_drawn": (Circle, "has edges in a circle"),
    "domains_leave_global_random_state_alone": (Global, "generator was changed; draw from the generator that"),
}
MORE = {
    "numpy's numbers": ("the_domain_draws_what_it_contains", Tuples, "not JSON-plain"),
    "its argument": ("the_domain_draws_what_it_contains", Spoils, "domain.mutate changed its argument"),
}


def contract(make):
    return type("Made", (DomainContract,), {"make": lambda self: make()})


@pytest.mark.parametrize("check", BROKEN)
def test_a_broken_domain_fails_its_check(check):
    make, message = BROKEN[check]
    with pytest.raises(ContractError, match=message):
        getattr(contract(make)(), f"test_{check}")()


@pytest.mark.parametrize("fault", MORE)
def test_it_fails_in_more_ways(fault):
    check, make, message = MORE[fault]
    with pytest.raises(ContractError, match=message):
        getattr(contract(make)(), f"test_{check}")()


def test_every_check_can_fail():
    assert {f"test_{check}" for check in BROKEN} == set(DomainChecks.checks())


@pytest.mark.parametrize(
    "make",
    [Words, Rich, flat_domain, layered_domain, nested_domain, lambda: layered_domain().joined("layer")],
    ids=["words", "rich", "flat", "layered", "nested", "joined"],
)
def test_a_sound_domain_passes(make):
    assert [outcome for outcome in run_checks(contract(make)) if not outcome.passed] == []


def test_a_contract_without_a_domain_says_what_is_missing():
    with pytest.raises(NotImplementedError, match="override 'make' to return the domain"):
        DomainContract().test_the_ends_are_members()
