import json

import numpy as np
import pytest

from nasframe.errors import UsageError
from nasframe.interfaces import start_sampler
from nasframe.records import Trial, arch_id
from nasframe.search.domain import Choices
from nasframe.testing import samplers
from nasframe.testing.samplers import answered, flat_domain, layered_domain
from nasframe_basics.evolution import EvolutionSampler
from nasframe_basics.samplers import EverySampler, GridSampler, RandomSampler, SandwichSampler


class SamplerContract(samplers.SamplerContract):
    """Options other than the defaults, which are checked as registered, with a long run of 10,000 trials."""

    trials = 500


class TestRandomWithoutReplacement(SamplerContract):
    def make(self, domain, seed):
        return RandomSampler(domain, seed, replace=False)


class TestCyclingGrid(SamplerContract):
    def make(self, domain, seed):
        return GridSampler(domain, seed, points=2, cycle=True)


class TestSandwichOfEvolution(SamplerContract):
    batch = 4

    def make(self, domain, seed):
        return SandwichSampler(domain, seed, inner=EvolutionSampler(domain, seed, population=6))


class TestEvolution(SamplerContract):
    def make(self, domain, seed):
        return EvolutionSampler(domain, seed, population=6)


class TestRegularisedEvolution(SamplerContract):
    def make(self, domain, seed):
        return EvolutionSampler(domain, seed, population=6, survivors="youngest")


def test_random_without_replacement_empties_the_domain():
    domain = layered_domain(2)
    sampler = RandomSampler(domain, seed=0, replace=False)
    archs = sampler.ask(1000)
    assert len({arch_id(arch) for arch in archs}) == len(archs) == domain.size == 81
    assert sampler.ask(1) == []


def test_grid_is_widths_times_depths():
    domain = layered_domain(4)
    archs = GridSampler(domain).ask(1000)
    assert len(archs) == 3 * 3 * 3
    assert all(len({v for k, v in arch.items() if k.startswith("ffn")}) == 1 for arch in archs)
    assert archs[0] == domain.smallest()
    assert archs[-1] == domain.largest()
    tied = GridSampler(domain, tie=[["heads", "ffn"]], points=2).ask(1000)
    assert [(len(a["layers"]), a["heads.0"], a["ffn.0"]) for a in tied] == [
        (2, 1, 16),
        (2, 4, 64),
        (4, 1, 16),
        (4, 4, 64),
    ]
    assert len(GridSampler(flat_domain(), tie=False).ask(1000)) == 3**6


def test_grid_cycles_and_starts_again():
    sampler = GridSampler(Choices({"k": [0, 1, 2]}), cycle=True)
    assert [arch["k"] for arch in sampler.ask(5)] == [0, 1, 2, 0, 1]
    sampler.start("next", 10)
    assert sampler.ask(1) == [{"k": 0}]
    plain = GridSampler(Choices({"k": [0, 1, 2]}))
    assert plain.ask(1, within=plain.domain.restrict({"k": [2]})) == [{"k": 2}]
    assert plain.ask(5) == [{"k": 0}, {"k": 1}]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GridSampler(layered_domain(), tie=[["head", "ffn"]]), "unknown families"),
        (lambda: GridSampler(Choices({"a.0": [1, 2], "b.0": [1]}), tie=[["a", "b"]]), "cannot tie"),
        (lambda: GridSampler(layered_domain(12), tie=False), "Tie the knobs"),
        (lambda: GridSampler(object()), "needs a domain with 'knobs'"),
        (lambda: EverySampler(layered_domain(), limit=10).ask(), "more than 10"),
        (lambda: EverySampler(object()), "needs a domain with 'enumerate'"),
        (lambda: EvolutionSampler(flat_domain(), population=1), "population >= 2"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(UsageError, match=message):
        call()


def test_every_is_the_domain_each_time_in_training():
    domain = layered_domain(2)
    sampler = EverySampler(domain)
    sampler.start("supernet", 10, "train")
    assert sampler.ask(1) == sampler.ask(7) == list(domain.enumerate())


ONCE = {
    "every": EverySampler,
    "grid": GridSampler,
    "plain grid": lambda domain, seed=0: GridSampler(domain, seed, tie=False),
    "random": lambda domain, seed=0: RandomSampler(domain, seed, replace=False),
}


@pytest.mark.parametrize("name", ONCE)
@pytest.mark.parametrize("restart", ["none", "state", "told"])
def test_no_point_is_proposed_twice_also_after_a_restart(name, restart):
    """Whether the state is kept, or all that is known are the trials, as in an Optuna study that goes on."""
    domain = layered_domain(2)
    parts = [domain, domain.restrict({"ffn": [16, 32]}), domain.restrict(keep=lambda arch: arch["heads.0"] > 1)]
    sampler, trials = ONCE[name](domain), []
    start_sampler(sampler, "search", 100, "search")
    for number in range(1000):
        archs = sampler.ask(3, within=parts[number % 3])
        assert len(archs) <= 3
        assert all(parts[number % 3].contains(arch) for arch in archs)
        trials += answered(archs)
        sampler.tell(answered(archs))
        if number % 4 == 3 and restart != "none":
            state, sampler = json.loads(json.dumps(sampler.state_dict())), ONCE[name](domain)
            start_sampler(sampler, "search", 100, "search")
            if restart == "state":
                sampler.load_state_dict(state)
            else:
                sampler.tell(trials)
        if number % 3 == 0 and not archs:
            break
    names = [arch_id(trial.arch) for trial in trials]
    assert len(set(names)) == len(names)
    assert len(names) == (domain.size if "grid" not in name else len(sampler.archs))


@pytest.mark.parametrize("name", ONCE)
def test_another_stage_begins_again(name):
    sampler = ONCE[name](layered_domain(2))
    first = sampler.ask(500)
    assert sampler.ask(1) == []
    start_sampler(sampler, "next", 100, "search")
    assert {arch_id(arch) for arch in sampler.ask(500)} == {arch_id(arch) for arch in first}


class Recorder:
    """A sampler that remembers what it was told."""

    def __init__(self, domain):
        self.inner, self.told = RandomSampler(domain, 0), []

    def ask(self, n=1, within=None):
        return self.inner.ask(n, within)

    def tell(self, trials):
        self.told += trials


def test_sandwich_adds_the_ends_and_keeps_their_answers():
    domain = layered_domain()
    inner = Recorder(domain)
    sampler = SandwichSampler(domain, inner=inner)
    assert len(sampler.ask(1)) == 1
    archs = sampler.ask(4)
    assert archs[:2] == [domain.largest(), domain.smallest()]
    sampler.tell(answered(archs))
    assert [trial.arch for trial in inner.told] == archs[2:]
    sampler.tell(answered([domain.largest()]))
    assert inner.told[-1].arch == domain.largest()


def test_evolution_beats_random_on_a_sum():
    domain = Choices({f"k{i}": list(range(8)) for i in range(10)})

    def best(sampler):
        found = -np.inf
        for _ in range(200):
            archs = sampler.ask(1)
            scores = [float(sum(arch.values())) for arch in archs]
            sampler.tell([Trial(arch, score) for arch, score in zip(archs, scores, strict=True)])
            found = max(found, *scores)
        return found

    seeds = range(5)
    random = np.mean([best(RandomSampler(domain, seed)) for seed in seeds])
    for survivors in ("best", "youngest"):
        assert np.mean([best(EvolutionSampler(domain, seed, survivors=survivors)) for seed in seeds]) > random + 5


def test_evolution_proposes_nothing_twice_while_there_is_more():
    domain = Choices({f"k{i}": [0, 1, 2] for i in range(5)})
    sampler, names = EvolutionSampler(domain, 0), []
    for _ in range(120):
        archs = sampler.ask(1)
        names += map(arch_id, archs)
        sampler.tell([Trial(arch, -float(sum(arch.values()))) for arch in archs])
    assert len(set(names)) == len(names)


def test_several_objectives_keep_a_spread_front_and_feasible_members():
    domain = Choices({f"k{i}": list(range(6)) for i in range(6)})
    sampler = EvolutionSampler(domain, 0, population=12)
    for _ in range(300):
        archs = sampler.ask(1)
        for arch in archs:
            high, low = sum(list(arch.values())[:3]), sum(list(arch.values())[3:])
            values = (high - 0.5 * low, -float(high))
            sampler.tell([Trial(arch, values[0], objectives=values, violation=max(0.0, 3 - high))])
    members = sampler.members
    assert all(member.violation == 0 for member in members)
    assert all(sum(list(member.arch.values())[3:]) <= 1 for member in members)
    assert len({member.objectives[1] for member in members}) >= 8
