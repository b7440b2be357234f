import math
from dataclasses import replace

import numpy as np
import pytest

from nasframe.errors import RunError, UnsatisfiableError, UsageError
from nasframe.records import arch_id
from nasframe.search.answers import MAX_FAILURES
from nasframe.search.constraints import Bounds, parse_bounds
from nasframe.search.domain import Choices, DomainError
from nasframe.search.loop import search
from nasframe.search.pareto import pareto_front
from nasframe_basics.evolution import EvolutionSampler
from nasframe_basics.samplers import EverySampler, GridSampler, RandomSampler

DOMAIN = Choices({f"k{i}": [1, 2, 3, 4] for i in range(5)})
SIZE = {"size": lambda arch: float(sum(arch.values()))}
MOST = 20.0  # the size of the largest


def costs(arch):
    return {"size": SIZE["size"](arch), "first": float(arch["k0"])}


def accuracy(arch):
    """Grows with every knob, most with the last."""
    return 1 - math.exp(-sum((i + 1) * value for i, value in enumerate(arch.values())) / 20)


class Toy:
    """Evaluates in closed form and counts; a subset of examples adds an error that depends on the arch."""

    def __init__(self, faults=()):
        self.calls, self.faults = [], list(faults)

    def __call__(self, arch, examples):
        self.calls.append((arch_id(arch), examples))
        if self.faults and (fault := self.faults.pop(0)) is not None:
            if isinstance(fault, Exception):
                raise fault
            return {"accuracy": fault}
        noise = 0.0 if examples is None else 0.2 * math.sin(hash(tuple(arch.values())))
        return {"accuracy": accuracy(arch) + noise}


class Scripted:
    """Proposes a given list, whatever the region."""

    def __init__(self, archs):
        self.archs, self.told = list(archs), []

    def ask(self, n=1, within=None):
        asked, self.archs = self.archs[:n], self.archs[n:]
        return asked

    def tell(self, trials):
        self.told += trials


def arch(*values):
    return {f"k{i}": value for i, value in enumerate(values)}


def bounded(text):
    return {"size": parse_bounds(text, full=MOST)}


def budgets(*texts):
    return {"size": {text: parse_bounds(text, full=MOST) for text in texts}}


def test_the_best_of_everything_is_found():
    domain, toy = Choices({"k0": [1, 2, 3], "k1": [1, 2]}), Toy()
    result = search(EverySampler(domain), domain, toy, costs, trials=100)
    assert len(result.trials) == len(toy.calls) == 6
    assert result.winners["best"].arch == {"k0": 3, "k1": 2}
    assert result.winners["best"].score == pytest.approx(1 - math.exp(-7 / 20))
    assert [t.arch for t in result.front] == [{"k0": 3, "k1": 2}]


def test_every_proposal_is_told_once_in_order_with_its_state():
    big, good, small = arch(4, 4, 4, 4, 4), arch(1, 2, 3, 4, 4), arch(1, 1, 1, 1, 1)
    sampler, toy, stored = Scripted([big, good, good, small, big, good]), Toy(), []
    result = search(
        sampler, DOMAIN, toy, costs, trials=10, bounds=bounded("<= 14"), on_trial=lambda *row: stored.append(row)
    )
    assert [trial.state for trial in sampler.told] == ["screened", "done", "repeat", "done", "screened", "repeat"]
    assert [(number, trial.state) for number, trial, _ in stored] == list(enumerate(["screened", "done", "done"]))
    assert [trial.state for trial in result.trials] == ["screened", "done", "done"]
    assert (result.evaluated, result.repeats, result.ended) == (2, 3, "the sampler had nothing left to propose")
    assert [trial.arch for trial in sampler.told] == [big, good, good, small, big, good]
    assert toy.calls == [(arch_id(good), None), (arch_id(small), None)]
    assert sampler.told[0].score is None
    assert sampler.told[0].violation == pytest.approx(6 / 14)
    assert sampler.told[2].score == sampler.told[1].score == pytest.approx(accuracy(good))
    assert sampler.told[1].costs == costs(good)


def test_only_done_counts_and_rejections_in_a_row_are_limited():
    sampler = Scripted([arch(1, 1, 1, 1, 1)] * 50)
    result = search(sampler, DOMAIN, Toy(), costs, trials=5, max_rejections=7)
    assert [trial.state for trial in sampler.told] == ["done"] + ["repeat"] * 7
    assert [trial.state for trial in result.trials] == ["done"]
    assert result.repeats == 7
    assert result.ended.startswith("7 proposals in a row were repeats")
    result = search(RandomSampler(DOMAIN, 0), DOMAIN, Toy(), costs, trials=30, batch=4)
    assert sum(trial.state == "done" for trial in result.trials) == 30


def test_proposals_are_made_canonical_and_confined():
    domain = Choices({"deep": [0, 1], "k0": [1, 2]}, {"k0": ("deep", [1])})
    sampler = Scripted([{"deep": 0, "k0": 2}, {"deep": 0, "k0": 1}, {"deep": 1, "k0": 2}])
    result = search(
        sampler, domain, lambda a, e: {"accuracy": 1.0}, lambda a: {"size": 1.0}, within=domain.restrict({"k0": [1]})
    )
    assert [(dict(t.arch), t.state) for t in sampler.told] == [
        ({"deep": 0}, "done"), ({"deep": 0}, "repeat"), ({"deep": 1, "k0": 2}, "screened"),
    ]  # fmt: skip
    assert [t.state for t in result.trials] == ["done", "screened"]
    with pytest.raises(DomainError):
        search(Scripted([{"deep": 7}]), domain, Toy(), lambda a: {})


@pytest.mark.parametrize("make", [RandomSampler, EvolutionSampler])
def test_an_exhausted_region_ends_the_search(make):
    domain = Choices({"k0": [1, 2], "k1": [1, 2]})
    result = search(make(domain, 0), domain, Toy(), costs, trials=100, bounds={"size": Bounds(high=3)})
    assert [trial.state for trial in result.trials] == ["done"] * 3
    assert (result.evaluated, result.ended) == (3, "every architecture that is within bounds was evaluated")
    assert result.repeats < 100
    assert result.winners["best"].costs["size"] == 3


@pytest.mark.parametrize("violation", ["screen", {"penalise": 1}])
def test_all_regions_together_are_used_up(violation):
    domain = Choices({"k0": [1, 2, 3], "k1": [1, 2, 3]})
    result = search(
        RandomSampler(domain, 0), domain, Toy(), lambda a: {"size": float(sum(a.values()))}, trials=100,
        budgets={"size": {"5": Bounds(high=5), "3": Bounds(high=3)}}, violation=violation,
    )  # fmt: skip
    assert result.evaluated == (8 if violation == "screen" else 9)
    assert result.ended.startswith("every architecture")


def test_what_lies_outside_the_region_does_not_count_as_used_up():
    domain = Choices({"k0": [1, 2, 3, 4]})
    outside = [{"k0": 3}, {"k0": 4}, {"k0": 1}, {"k0": 2}]
    result = search(Scripted(outside), domain, Toy(), costs, within=domain.restrict({"k0": [1, 2]}), trials=9)
    assert [trial.state for trial in result.trials] == ["screened", "screened", "done", "done"]


def test_a_domain_that_cannot_be_listed_ends_by_rejections():
    result = search(
        RandomSampler(Bits(), 0), Bits(), lambda a, e: {"accuracy": 1.0}, lambda a: {}, trials=100, max_rejections=30
    )
    assert result.ended.startswith("30 proposals in a row")


def test_repeats_that_an_earlier_version_stored_are_passed_over():
    whole = search(RandomSampler(DOMAIN, 0), DOMAIN, Toy(), costs, trials=6)
    stored = whole.trials[:3]
    repeated = [stored[0], replace(stored[0], state="repeat"), *stored[1:]]
    numbers = []
    again = search(
        RandomSampler(DOMAIN, 0), DOMAIN, Toy(), costs, trials=6, done=repeated,
        on_trial=lambda number, trial, seconds: numbers.append(number),
    )  # fmt: skip
    assert again.trials == whole.trials
    assert numbers == [4, 5, 6]  # none that is taken


@pytest.mark.slow
@pytest.mark.parametrize("make", [RandomSampler, EvolutionSampler, GridSampler])
def test_each_budget_gets_a_winner_from_one_archive(make):
    toy = Toy()
    sampler = make(DOMAIN, 0) if make is not GridSampler else GridSampler(DOMAIN, tie=False)
    within = None if make is not GridSampler else DOMAIN.restrict({"k0": [1], "k1": [1, 2]})
    result = search(sampler, DOMAIN, toy, costs, trials=90, within=within, budgets=budgets("100%", "60%", "35%"))
    assert list(result.winners) == ["best@100%", "best@60%", "best@35%"]
    done = [trial for trial in result.trials if trial.state == "done"]
    assert len(toy.calls) == len({name for name, _ in toy.calls}) == len(done)
    for text, share in (("100%", 1), ("60%", 0.6), ("35%", 0.35)):
        met = [trial for trial in done if trial.costs["size"] <= share * MOST]
        assert result.winners[f"best@{text}"].score == max(trial.score for trial in met)
        assert len(met) >= 10
    values = [(trial.score, -trial.costs["size"]) for trial in done]
    assert [t.arch for t in result.front] == [done[i].arch for i in pareto_front(values)]


def test_names_of_winners_and_constraints_on_top():
    several = {"size": {"50%": Bounds(high=10)}, "first": {"2": Bounds(high=2)}}
    result = search(
        RandomSampler(DOMAIN, 0), DOMAIN, Toy(), costs, trials=40, budgets=several, bounds=bounded(">= 8"), prefix="net"
    )
    assert set(result.winners) == {"net@size=50%", "net@first=2"}
    assert all(trial.costs["size"] >= 8 for trial in result.trials)
    assert result.winners["net@first=2"].costs["first"] <= 2


def test_impossible_bounds_fail_at_once_with_the_nearest_value():
    toy = Toy()
    with pytest.raises(UnsatisfiableError, match=r"best@20%.*size <= 4.* nearest .* size = 5 \(25.0% of the full"):
        search(RandomSampler(DOMAIN, 0), DOMAIN, toy, costs, budgets=budgets("50%", "20%"))
    with pytest.raises(UnsatisfiableError, match="nearest"):
        search(RandomSampler(DOMAIN, 0), DOMAIN, toy, costs, bounds=bounded(">= 15"), budgets=budgets("50%"))
    with pytest.raises(UnsatisfiableError, match="size = 20"):
        search(RandomSampler(DOMAIN, 0), DOMAIN, toy, costs, bounds=bounded(">= 30"))
    assert toy.calls == []


def test_failures_are_told_and_the_search_goes_on(caplog):
    toy = Toy([None, ValueError("boom"), math.nan, None, math.inf, None])
    archs = [arch(1, 1, 1, 1, k) for k in (1, 2, 3, 4)] + [arch(1, 1, 1, 2, k) for k in (1, 2)]
    sampler = Scripted([*archs, archs[1]])
    result = search(sampler, DOMAIN, toy, costs, trials=10)
    assert [t.state for t in sampler.told] == ["done", "failed", "failed", "done", "failed", "done", "failed"]
    assert all(t.score is None for t in sampler.told if t.state == "failed")
    assert len(toy.calls) == 6
    assert result.winners["best"].arch == archs[3]
    assert (result.evaluated, result.failures, result.repeats) == (3, 3, 1)
    assert "boom" in caplog.text


def test_endless_failures_end_with_the_first_cause():
    toy = Toy([ValueError("first cause")] + [KeyError("later")] * 100)
    with pytest.raises(RunError, match="ValueError: first cause"):
        search(RandomSampler(DOMAIN, 0), DOMAIN, toy, costs, trials=100)
    assert len(toy.calls) == MAX_FAILURES


@pytest.mark.parametrize("fault", [ValueError("boom"), math.nan])
def test_a_search_whose_evaluations_all_fail_names_the_cause(fault):
    domain = Choices({"k0": [1, 2, 3]})
    with pytest.raises(RunError, match=r"all 3 evaluations failed, the first with (ValueError: boom|.*not finite)"):
        search(RandomSampler(domain, 0), domain, Toy([fault] * 9), costs, trials=100)


def test_an_unknown_objective_is_a_mistake():
    with pytest.raises(UsageError, match=r"'-flops'.*There are: accuracy, first, size"):
        search(RandomSampler(DOMAIN, 0), DOMAIN, Toy(), costs, objectives=["accuracy", "-flops"])


def test_several_objectives_are_maximised():
    sampler = EvolutionSampler(DOMAIN, 0, population=10)
    result = search(sampler, DOMAIN, Toy(), costs, objectives=["accuracy", "-size"], trials=120)
    for trial in result.trials:
        assert trial.objectives == (trial.score, -trial.costs["size"])
    assert len(result.front) > 5
    assert result.winners["best"].score == max(trial.score for trial in result.trials)


def test_a_penalty_replaces_the_screen():
    sampler = Scripted([arch(4, 4, 4, 4, 4), arch(4, 4, 2, 2, 3), arch(1, 1, 1, 1, 1)])
    result = search(sampler, DOMAIN, Toy(), costs, bounds=bounded("<= 10"), violation={"penalise": 2})
    full, middle, small = result.trials
    assert [trial.state for trial in result.trials] == ["done"] * 3
    assert full.score == 0
    assert middle.score == pytest.approx(accuracy(middle.arch) * (1 - 5 / 10) ** 2)
    assert middle.metrics["accuracy"] == pytest.approx(accuracy(middle.arch))
    assert small.score == pytest.approx(accuracy(small.arch))
    assert result.winners["best"] == small
    with pytest.raises(RunError, match=r"none of 1 .* The nearest has size = 20 .* Allow more trials"):
        search(Scripted([full.arch]), DOMAIN, Toy(), costs, bounds=bounded("<= 10"), violation={"penalise": 2})


def test_finalists_are_scored_on_all_examples():
    toy = Toy()
    result = search(
        RandomSampler(DOMAIN, 0), DOMAIN, toy, costs, trials=40, examples=8, finalists=5, budgets=budgets("80%", "50%")
    )
    cheap = [t for t in result.trials if t.examples == 8 and t.state == "done"]
    final = [t for t in result.trials if t.examples is None]
    assert len(cheap) == 40
    assert 5 <= len(final) <= 10
    assert len(toy.calls) == len(set(toy.calls)) == 40 + len(final)
    for name, high in (("best@80%", 16), ("best@50%", 10)):
        best = sorted((t for t in cheap if t.costs["size"] <= high), key=lambda t: -t.score)[:5]
        assert result.winners[name].score == max(accuracy(t.arch) for t in best)
    assert all(t.examples is None for t in result.front)


def test_finalists_are_measured_again():
    def noisy(arch):
        return {"size": costs(arch)["size"] + (3 if arch["k4"] == 4 else 0)}

    result = search(
        RandomSampler(DOMAIN, 0),
        DOMAIN,
        Toy(),
        costs,
        trials=200,
        bounds=bounded("<= 12"),
        finalists=3,
        remeasure=noisy,
    )
    winner = result.winners["best"]
    assert winner.costs["size"] == noisy(winner.arch)["size"] <= 12
    assert winner.score == pytest.approx(accuracy(winner.arch))


def settings(name):
    sampler = {
        "random": lambda: RandomSampler(DOMAIN, 3),
        "evolution": lambda: EvolutionSampler(DOMAIN, 3, population=5),
        "grid": lambda: GridSampler(DOMAIN, tie=False),
    }[name]()
    faults = [None, None, ValueError("once"), None, math.nan]
    return sampler, faults


@pytest.mark.parametrize("name", ["random", "evolution", "grid"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_killed_search_resumes_to_the_same_end(name, batch):
    """Killed at any trial and resumed, a search makes the same trials and evaluates none again."""

    class Killed(BaseException):
        pass

    def run(stored, kill=None):
        sampler, faults = settings(name)
        toy = Toy(faults[sum(t.state in ("done", "failed") and t.examples == 6 for t in stored) :])
        kept = list(stored)

        def on_trial(number, trial, seconds):
            assert number == len(kept)
            kept.append(trial)
            if number == kill:
                raise Killed

        try:
            result = search(
                sampler, DOMAIN, toy, costs, trials=14, budgets=budgets("80%", "40%"), examples=6, finalists=3,
                batch=batch, done=stored, on_trial=on_trial,
            )  # fmt: skip
        except Killed:
            return kept, None, toy
        return kept, result, toy

    whole, result, toy = run([])
    for kill in range(len(whole)):
        part, none, first = run([], kill)
        assert none is None
        assert part == whole[: kill + 1]
        again, resumed, second = run(part)
        assert again == whole == resumed.trials
        assert resumed.winners == result.winners
        assert first.calls + second.calls == toy.calls


def test_a_changed_sampler_does_not_go_on():
    whole = search(RandomSampler(DOMAIN, 0), DOMAIN, Toy(), costs, trials=5).trials
    with pytest.raises(RunError, match="cannot go on: trial 0"):
        search(RandomSampler(DOMAIN, 1), DOMAIN, Toy(), costs, trials=5, done=whole)


class Bits:
    """A domain with nothing but the protocol."""

    def sample(self, rng):
        return {"bits": int(rng.integers(64))}

    def mutate(self, arch, rng):
        return {"bits": arch["bits"] ^ (1 << int(rng.integers(6)))}

    def contains(self, arch):
        return 0 <= arch["bits"] < 64

    def canonical(self, arch):
        return dict(arch)


@pytest.mark.parametrize("violation", ["screen", {"penalise": 1}])
def test_domains_without_knobs_are_searched_too(violation):
    domain = Bits()
    found = search(
        EvolutionSampler(domain, 0, population=8), domain, lambda a, e: {"accuracy": a["bits"] % 16}, lambda a: dict(a),
        trials=40, bounds={"bits": Bounds(high=40)}, violation=violation, max_rejections=200,
    )  # fmt: skip
    assert found.winners["best"].arch["bits"] in (15, 31)
    with pytest.raises(UnsatisfiableError, match="nearest"):
        search(RandomSampler(domain, 0), domain, Toy(), lambda a: dict(a), bounds={"bits": Bounds(low=100)})


def test_one_percent_feasible_is_cheap():
    domain = Choices({f"k{i}": list(range(1, 5)) for i in range(25)})
    rng = np.random.default_rng(0)
    cap = float(np.quantile([sum(domain.sample(rng).values()) for _ in range(2000)], 0.01))
    result = search(
        RandomSampler(domain, 0), domain, Toy(), lambda a: {"size": float(sum(a.values()))}, trials=50,
        bounds={"size": Bounds(high=cap)},
    )  # fmt: skip
    assert [trial.state for trial in result.trials] == ["done"] * 50


def test_what_an_earlier_search_evaluated_is_known_and_may_win():
    first = search(RandomSampler(DOMAIN, seed=0), DOMAIN, Toy(), costs, trials=40, examples=8, finalists=3)
    known = {(arch_id(trial.arch), trial.examples): trial for trial in first.trials if trial.state == "done"}
    toy, told = Toy(), Scripted([])
    search(told, DOMAIN, toy, costs, trials=1, examples=8, finalists=3, known=first.trials)
    assert toy.calls == []
    assert {(arch_id(trial.arch), trial.examples) for trial in told.told} == known.keys()
    sampler = EvolutionSampler(DOMAIN, seed=1)
    result = search(
        sampler, DOMAIN, toy, costs, trials=20, examples=8, finalists=3, known=first.trials, budgets=budgets("70%")
    )
    assert len(toy.calls) >= 20
    assert not known.keys() & set(toy.calls)
    alike = [t for t in [*known.values(), *result.trials] if t.examples == 8 and t.state == "done"]
    best = sorted((t.score for t in alike if costs(t.arch)["size"] <= 0.7 * MOST), reverse=True)[:3]
    winner = result.winners["best@70%"]
    assert accuracy(winner.arch) == winner.score
    assert any(t.arch == winner.arch and t.score in best for t in alike)
