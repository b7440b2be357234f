import itertools
import json
import math

import numpy as np
import pytest

from nasframe import registry
from nasframe.errors import UsageError
from nasframe.records import Trial, arch_id
from nasframe.search.constraints import Bounds, Screen
from nasframe.search.domain import Choices
from nasframe.search.loop import search
from nasframe.search.pareto import hypervolume
from nasframe.testing.samplers import SamplerContract, answered, flat_domain, layered_domain, size_of
from nasframe_frontier.sampler import FrontierSampler


def rows_of(costs):
    """Turn a cost of one architecture into the function samplers are given."""
    return lambda archs: np.array([[costs(arch)] for arch in archs])


@pytest.mark.slow
class TestContract(SamplerContract):
    rounds, trials = 14, 2000  # 10,000 under -m slow, as all that are registered

    def make(self, domain, seed):
        return FrontierSampler(domain, seed, rows_of(size_of), start=4, candidates=24, memory=16)


@pytest.mark.slow
class TestContractWithoutCosts(SamplerContract):
    trials = 2000

    def make(self, domain, seed):
        return FrontierSampler(domain, seed, start=3, candidates=24, memory=16)


def numbers(arch):
    """Return each knob's number, and its value or its length."""
    return [(sum(map(ord, k)) % 5, len(v) if isinstance(v, list) else v) for k, v in arch.items()]


def ripple(arch):
    """Score: main effects, neighbours that interact, saturation."""
    values = [value for _, value in numbers(arch)]
    return 1 - math.exp(-0.06 * sum(v**0.5 for v in values) - 0.04 * sum(a == b for a, b in itertools.pairwise(values)))


def price(arch):
    """Cost: a sum over knobs."""
    return float(sum((number + 1) * value for number, value in numbers(arch)))


def run(sampler, domain, trials, objectives=("accuracy",), cost=price, score=ripple, **options):
    return search(
        sampler, domain, lambda arch, examples: {"accuracy": score(arch)}, lambda arch: {"cost": cost(arch)},
        objectives=objectives, trials=trials, **options,
    )  # fmt: skip


def names(trials):
    return [arch_id(trial.arch) for trial in trials]


COSTS = {"additive": price, "not additive": lambda arch: price(arch) ** 2}


@pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS)
@pytest.mark.parametrize("domain", [flat_domain(), layered_domain(3), layered_domain(3).joined("layer")], ids=range(3))
@pytest.mark.parametrize("objectives", [("accuracy",), ("accuracy", "-cost"), ("accuracy", "-cost", "size")])
def test_nothing_infeasible_and_nothing_twice(cost, domain, objectives):
    cap = Bounds(high=0.5 * (cost(domain.smallest()) + cost(domain.largest())))
    sampler = FrontierSampler(domain, 1, rows_of(cost), start=6)
    found = search(
        sampler, domain, lambda arch, examples: {"accuracy": ripple(arch), "size": size_of(arch)},
        lambda arch: {"cost": cost(arch)}, objectives=objectives, trials=50, bounds={"cost": cap}, batch=3,
    )  # fmt: skip
    assert {trial.state for trial in found.trials} == {"done"}
    assert len(set(names(found.trials))) == len(found.trials) == 50
    assert sampler.costs.additive == (cost is price)
    assert sorted(sampler.exact) == ([1] if len(objectives) > 1 else [])


@pytest.mark.parametrize("constrained", [False, True])
def test_a_small_domain_is_emptied_then_nothing_is_proposed(constrained):
    domain = Choices({"a": [0, 1, 2], "b": [0, 1, 2, 3], "c": [0, 1]})
    within = domain.restrict(keep=lambda arch: size_of(arch) <= 3) if constrained else domain
    sampler, asked = FrontierSampler(domain, 0, start=3), []
    while archs := sampler.ask(2, within):
        asked += archs
        sampler.tell([Trial(arch, size_of(arch)) for arch in archs])
    assert sorted(map(arch_id, asked)) == sorted(map(arch_id, within.enumerate()))


def best_and_volume(make, seeds):
    domain = Choices({f"k{i}": [0, 1, 2, 3] for i in range(12)})
    most = price(domain.largest())
    found = []
    for seed in seeds:
        one = run(make(domain, seed), domain, 40, bounds={"cost": Bounds(high=0.4 * most)})
        two = run(make(domain, seed), domain, 40, objectives=("accuracy", "-cost"))
        points = [trial.objectives for trial in two.trials]
        found.append((one.winners["best"].score, hypervolume(points, (0.0, -most)) / most))
    return np.array(found).T


@pytest.mark.slow
def test_it_is_far_ahead_of_random_and_of_evolution():
    ours, random, evolution = (
        best_and_volume(make, range(3))
        for make in (
            lambda domain, seed: FrontierSampler(domain, seed, rows_of(price)),
            lambda domain, seed: registry.make("sampler", "random", {"domain": domain, "seed": seed}),
            lambda domain, seed: registry.make("sampler", "evolution", {"domain": domain, "seed": seed}),
        )
    )
    for other in (random, evolution):
        assert (ours > other).all()
        assert (ours.mean(1) > other.mean(1) + 0.01).all()


def test_conditional_knobs_are_no_trap():
    """The best depth is found, though every other knob has to change with it."""
    domain = layered_domain(6)

    def score(arch):
        widths = sum(math.log2(arch[f"ffn.{i}"] * arch[f"heads.{i}"]) for i in arch["layers"])
        return widths + 12.0 * len(arch["layers"])

    cap = {"cost": Bounds(high=6 * 40.0)}
    deep = [
        len(run(FrontierSampler(domain, seed, rows_of(size_of)), domain, 60, cost=size_of, score=score, bounds=cap)
            .winners["best"].arch["layers"])
        for seed in range(3)
    ]  # fmt: skip
    assert deep == [6, 6, 6]


def test_budgets_take_turns_and_each_is_met():
    domain = flat_domain()
    most = price(domain.largest())
    budgets = {"cost": {f"{share}": Bounds(high=share * most) for share in (0.7, 0.5, 0.3)}}
    found = run(FrontierSampler(domain, 0, rows_of(price), start=5), domain, 60, budgets=budgets)
    assert {trial.state for trial in found.trials} == {"done"}
    for share, budget in budgets["cost"].items():
        best = max(ripple(arch) for arch in domain.enumerate() if budget.violation(price(arch)) == 0)
        assert found.winners[f"best@{share}"].score > 0.985 * best


def test_several_at_once_differ_and_learn_as_well():
    domain = Choices({f"k{i}": [0, 1, 2, 3] for i in range(8)})
    sampler = FrontierSampler(domain, 0, rows_of(price))
    sampler.tell(answered(sampler.ask(12), objectives=2))
    archs = sampler.ask(40)
    assert len({arch_id(arch) for arch in archs}) == 40
    most = price(domain.largest())
    volume = {
        batch: np.mean([
            hypervolume([t.objectives for t in run(
                FrontierSampler(domain, seed, rows_of(price)), domain, 64, ("accuracy", "-cost"), batch=batch
            ).trials], (0.0, -most))
            for seed in range(2)
        ])
        for batch in (1, 8)
    }  # fmt: skip
    assert volume[8] > 0.97 * volume[1]


@pytest.mark.slow
@pytest.mark.parametrize("objectives", [1, 2])
def test_a_long_run_goes_on_exactly_after_its_state_was_written(objectives):
    """Past refits, a full memory and a queue of proposals, under a constraint and without."""
    domain = layered_domain(5)
    small = Screen({"size": Bounds(high=250)}, lambda arch: {"size": size_of(arch)})
    regions = [domain, domain.restrict(keep=small), domain.joined("layer")]
    whole, resumed = (FrontierSampler(domain, seed, rows_of(size_of), memory=32) for seed in (0, 1))

    def tail(sampler, rounds):
        asked = []
        for number in range(rounds):
            asked += (archs := sampler.ask(1 + number % 2, regions[number % 3]))
            sampler.tell(answered(archs, objectives=objectives))
        return asked

    tail(whole, 100)
    state = json.loads(json.dumps(whole.state_dict()))
    assert state["queue"] or objectives
    resumed.load_state_dict(state)
    assert tail(whole, 40) == tail(resumed, 40)
    assert json.dumps(whole.state_dict()) == json.dumps(resumed.state_dict())


def test_failures_are_neither_fatal_nor_tried_again():
    domain = flat_domain()

    def score(arch):
        return math.nan if arch["k0"] == 2 and arch["k1"] > 0 else ripple(arch)

    found = run(FrontierSampler(domain, 3, rows_of(price)), domain, 60, score=score)
    assert any(trial.state == "failed" for trial in found.trials)
    assert len(set(names(found.trials))) == len(found.trials)


def test_penalised_violations_are_kept_out_of_the_front():
    domain = flat_domain()
    sampler = FrontierSampler(domain, 0, rows_of(price))
    cap = {"cost": Bounds(high=0.4 * price(domain.largest()))}
    found = run(sampler, domain, 60, ("accuracy", "-cost"), bounds=cap, violation={"penalise": 2})
    assert {trial.state for trial in found.trials} == {"done"}
    broken = [trial.violation > 0 for trial in found.trials]
    assert any(broken[:10])
    assert sum(broken[30:]) < 12


def test_a_new_score_for_a_known_architecture_replaces_the_old():
    domain = Choices({f"k{i}": [0, 1, 2] for i in range(4)})
    sampler = FrontierSampler(domain, 0, start=2)
    archs = sampler.ask(4)
    sampler.tell([Trial(arch, float(i)) for i, arch in enumerate(archs)])
    sampler.ask()
    sampler.tell([Trial(archs[0], 9.0)])
    sampler.ask()
    assert [-row[0] for row in sampler.errors] == [9.0, 1.0, 2.0, 3.0]
    assert sampler.regions[0].front.min() == -9.0


@pytest.mark.parametrize("options", [{"candidates": 1}, {"candidates": 5000}, {"memory": 3}])
def test_options_out_of_range(options):
    with pytest.raises(UsageError, match="candidates"):
        FrontierSampler(flat_domain(), **options)


def test_a_domain_without_knobs_is_refused():
    with pytest.raises(UsageError, match="needs a domain with 'encode' and"):
        FrontierSampler(object())


def test_an_interrupted_search_goes_on():
    domain = layered_domain(3)
    budgets = {"cost": {"low": Bounds(high=300.0), "high": Bounds(high=500.0)}}
    whole, again = (
        run(FrontierSampler(domain, 0, rows_of(price)), domain, 40, budgets=budgets, done=done)
        for done in ([], run(FrontierSampler(domain, 0, rows_of(price)), domain, 25, budgets=budgets).trials)
    )
    assert names(whole.trials) == names(again.trials)
    assert [trial.score for trial in whole.trials] == [trial.score for trial in again.trials]
