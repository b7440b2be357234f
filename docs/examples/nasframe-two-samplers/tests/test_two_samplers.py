"""The samplers keep the contract of their kind, do what they say, and are found when they are installed."""

import itertools

import numpy as np
import pytest
from nasframe import Trial, registry
from nasframe.domain import Choices
from nasframe.testing import SamplerContract
from nasframe_two_samplers.local_search import LocalSearch
from nasframe_two_samplers.predicted import Predicted

WIDTHS = [1, 2, 4, 8]


class TestLocalSearch(SamplerContract):
    trials = 1000

    def make(self, domain, seed):
        return LocalSearch(domain, seed)


class TestPredicted(SamplerContract):
    trials = 200
    seconds = 240.0  # a regression is fitted for every ask, which takes long on a busy machine

    def make(self, domain, seed):
        return Predicted(domain, seed)


class Chains:
    """A domain without knobs: words of one to four letters."""

    def sample(self, rng):
        return {"chain": "".join(rng.choice(list("abc"), size=rng.integers(1, 5)).tolist())}

    def mutate(self, arch, rng):
        chain = list(arch["chain"])
        chain[rng.integers(len(chain))] = str(rng.choice(list("abc")))
        return {"chain": "".join(chain)}

    def contains(self, arch):
        chain = arch.get("chain")
        return isinstance(chain, str) and 1 <= len(chain) <= 4 and set(chain) <= set("abc")

    def canonical(self, arch):
        return arch


def answer(sampler, archs, score):
    sampler.tell([Trial(arch, score(arch)) for arch in archs])


def total(arch):
    return float(sum(arch.values()))


def test_all_neighbours_are_proposed_before_a_step():
    domain = Choices({"a": WIDTHS, "b": WIDTHS, "c": WIDTHS})
    sampler = LocalSearch(domain, seed=1)
    (start,) = sampler.ask()
    answer(sampler, [start], total)
    neighbours = [sampler.ask()[0] for _ in range(9)]
    for arch in neighbours:
        answer(sampler, [arch], total)
    differences = [[knob for knob in start if arch[knob] != start[knob]] for arch in neighbours]
    assert all(len(knobs) == 1 for knobs in differences)
    assert len({tuple(arch.values()) for arch in neighbours}) == 9
    best = max(neighbours, key=total)
    (second,) = sampler.ask()
    assert sum(best[knob] != second[knob] for knob in best) == 1  # now around the best of them


def test_it_climbs_to_the_top_and_starts_again():
    domain = Choices({f"width.{i}": WIDTHS for i in range(6)})
    sampler = LocalSearch(domain, seed=0)
    proposals = []
    for _ in range(300):
        archs = sampler.ask()
        answer(sampler, archs, total)
        proposals += archs
    # Each climb takes at most six steps of 18 neighbours, and ends at the only top there is.
    tops = [i for i, arch in enumerate(proposals) if total(arch) == 48]
    assert tops[0] <= 1 + 6 * 18
    jumps = [sum(a[k] != b[k] for k in a) for a, b in itertools.pairwise(proposals)]
    assert max(jumps[tops[0] + 18 :]) > 2


def test_a_knob_that_another_one_switches_on_is_a_neighbour():
    domain = Choices({"op": ["skip", "conv"], "kernel": [1, 3]}, {"kernel": ("op", ["conv"])})
    sampler = LocalSearch(domain)
    found = sampler.around({"op": "conv", "kernel": 3}, domain)
    others = [arch for arch in found if arch != {"op": "conv", "kernel": 3}]
    assert sorted(map(str, others)) == sorted(map(str, [{"op": "skip"}, {"op": "conv", "kernel": 1}]))


def test_local_search_needs_no_knobs():
    domain = Chains()
    sampler = LocalSearch(domain, seed=0)
    best = 0.0
    for _ in range(200):
        archs = sampler.ask()
        assert all(map(domain.contains, archs))
        answer(sampler, archs, share_of_a)
        best = max(best, *map(share_of_a, archs))
    assert best == 1


def share_of_a(arch):
    return arch["chain"].count("a") / len(arch["chain"])


@pytest.mark.parametrize("seed", range(3))
def test_predictions_lead_to_the_best_of_a_million(seed):
    domain = Choices({f"width.{i}": WIDTHS for i in range(10)})
    sampler = Predicted(domain, seed)
    best = 0.0
    for _ in range(80):
        archs = sampler.ask()
        answer(sampler, archs, total)
        best = max(best, *map(total, archs))
    rng = np.random.default_rng(seed)
    drawn = max(total(domain.sample(rng)) for _ in range(80))
    assert best >= 76 > drawn  # of 80


def test_several_objectives_are_searched_along_their_front():
    domain = Choices({f"width.{i}": WIDTHS for i in range(6)})

    def objectives(arch):
        gain = sum((i + 1) * width**0.5 for i, width in enumerate(arch.values()))
        return gain, -total(arch)

    def area(points):
        """Return the area that points dominate above the worst gain and total there are."""
        covered, reached = 0.0, 21.0
        for gain, minus_total in sorted(points, key=lambda point: -point[1]):
            covered += max(0.0, gain - reached) * (48 + minus_total)
            reached = max(reached, gain)
        return covered

    sampler = Predicted(domain, seed=0)
    found = []
    for _ in range(80):
        for arch in sampler.ask():
            sampler.tell([Trial(arch, objectives(arch)[0], objectives=objectives(arch))])
            found.append(objectives(arch))
    rng = np.random.default_rng(0)
    drawn = [objectives(domain.sample(rng)) for _ in range(240)]
    assert area(found) > area(drawn)  # of three times as many


def test_answers_of_another_search_are_not_mixed():
    domain = Choices({"a": WIDTHS, "b": WIDTHS})
    sampler = Predicted(domain, initial=2)
    for arch in domain.enumerate():
        sampler.tell([Trial(arch, total(arch), objectives=(total(arch), 1.0))])
    sampler.tell([Trial({"a": 1, "b": 1}, 0.5)])
    assert domain.contains(sampler.ask()[0])


@pytest.mark.parametrize(("name", "factory"), [("local_search", LocalSearch), ("predicted", Predicted)])
def test_they_are_registered(name, factory):
    entry = registry.find("sampler", name)
    assert entry.package == "nasframe-two-samplers"
    assert entry.load() is factory
