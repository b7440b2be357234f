"""What the framework guarantees around every sampler: copies, domains, finite scores, an end, and a state."""

import json
import math

import numpy as np
import pytest

from nasframe import registry
from nasframe.errors import RunError, UnsatisfiableError, UsageError
from nasframe.records import Trial
from nasframe.search.domain import Choices
from nasframe.search.guarded import GuardedSampler
from nasframe.search.loop import search
from nasframe.search.restrict import restrict
from nasframe.testing import SamplerContract
from nasframe.testing.kit import run_checks
from nasframe.testing.registered import contract_of
from nasframe.testing.samplers import Words
from test_docs import ROOT, blocks_of

DOMAIN = Choices({"a": [0, 1, 2], "kept": [[0], [0, 1]]})


class Bare:
    """The two methods that a sampler needs, and a note of what it heard."""

    def __init__(self, domain=DOMAIN, seed=0):
        self.domain, self.rng, self.heard = domain, np.random.default_rng(seed), []

    def ask(self, n=1, within=None):
        domain = self.domain if within is None else within
        best = max(self.heard, key=lambda trial: trial.score or 0.0, default=None)
        if best is None or len(self.heard) % 3 == 0:
            return [domain.sample(self.rng) for _ in range(n)]
        return [domain.mutate(best.arch, self.rng) for _ in range(n)]

    def tell(self, trials):
        self.heard += trials


def guarded(make=Bare, domain=DOMAIN, regions=None):
    return GuardedSampler(make, domain, regions)


def test_the_plugin_of_the_readme_keeps_the_contract_as_it_stands(tmp_path):
    block = next(block for block in blocks_of(ROOT / "README.md") if block.argument == "climb.py")
    path = tmp_path / "climb.py"
    path.write_text(block.code, encoding="utf-8")
    with registry.file_plugins((str(path),)):
        contract = contract_of(registry.find("sampler", "climb"))
        contract.trials = 300
        assert [outcome for outcome in run_checks(contract) if not outcome.passed] == []
        assert len(contract.checks()) == len(SamplerContract.checks())


def test_architectures_are_copies_on_both_ways():
    sampler = guarded()
    arch = sampler.ask()[0]
    trial = Trial(arch, score=1.0)
    sampler.tell([trial])
    kept = sampler.heard[0]
    assert kept == trial
    assert kept.arch is not arch
    arch["kept"].append(7)
    assert 7 not in kept.arch["kept"]


def test_a_sampler_hears_of_its_domain_and_of_finite_scores_only():
    sampler = guarded()
    inside = {"a": 1, "kept": [0]}
    sampler.tell(
        [Trial({"no such knob": 1}, 1.0), Trial(inside, math.nan), Trial(inside, 1.0, objectives=(1.0, math.inf))]
    )
    assert [(trial.arch, trial.score, trial.state, trial.objectives) for trial in sampler.heard] == [
        (inside, None, "failed", ()),
        (inside, None, "failed", ()),
    ]


def test_nothing_acceptable_ends_a_search_as_an_empty_answer_does():
    class Gives(Bare):
        def ask(self, n=1, within=None):
            if len(self.heard) >= 3:
                raise UnsatisfiableError("nothing is left")
            return super().ask(n, within)

    result = search(guarded(Gives), DOMAIN, lambda arch, examples: {"accuracy": arch["a"]}, lambda arch: {}, trials=50)
    assert result.ended == "the sampler had nothing left to propose"


def run(sampler, rounds, within=None):
    proposals = []
    for _ in range(rounds):
        archs = sampler.ask(2, within=within)
        proposals.append(archs)
        sampler.tell([Trial(arch, score=float(len(str(arch)))) for arch in archs])
    return proposals


def test_calls_of_several_stages_and_regions_are_repeated():
    words = Words()

    parts = {
        "train": [restrict(words, keep=lambda arch: "a" in arch["word"])],
        "search": [restrict(words, keep=lambda arch: len(arch["word"]) > 2), words],
    }

    def go(sampler):
        proposals = []
        for stage, regions in parts.items():
            sampler.start(stage, 10, "train" if stage == "train" else "search")
            for number in range(6):
                proposals += run(sampler, 1, regions[number % len(regions)])
        return proposals

    def make():
        return Bare(words)

    first = guarded(make, words, parts.__getitem__)
    go(first)
    state = json.loads(json.dumps(first.state_dict()))
    second = guarded(make, words, parts.__getitem__)
    run(second, 2)  # whatever it did before
    second.load_state_dict(state)
    assert second.state_dict() == first.state_dict()
    assert run(second, 5) == run(first, 5)


def test_calls_that_are_answered_in_another_way_are_refused():
    sampler = guarded()
    run(sampler, 4)
    state = sampler.state_dict()
    with pytest.raises(
        RunError, match="Bare has no state_dict, and when its calls were repeated, its proposals differ"
    ):
        guarded(lambda: Bare(seed=1)).load_state_dict(state)
    sampler.start("search", 3)
    sampler.ask(1, within=DOMAIN)
    with pytest.raises(RunError, match="a part of the domain that is not known any more"):
        guarded(regions=lambda stage: []).load_state_dict(sampler.state_dict())


class Stateful(Bare):
    def state_dict(self):
        return {"rng": self.rng.bit_generator.state}

    def load_state_dict(self, state):
        self.rng.bit_generator.state = state["rng"]


def test_a_state_of_its_own_is_used():
    sampler = guarded(Stateful)
    assert sampler.has_state
    assert sampler.state_dict() == {"rng": sampler.rng.bit_generator.state}
    assert not guarded().has_state
    wrapped = registry.make("sampler", {"use": "sandwich", "inner": Bare()}, {"domain": DOMAIN, "seed": 0})
    assert not GuardedSampler(lambda: wrapped, DOMAIN).has_state  # what is inside has no state


@pytest.mark.parametrize(
    ("name", "members"),
    [("grid", "'knobs'"), ("every", "'enumerate'"), ("sandwich", "'smallest' and 'largest'"), ("frontier", "'encode'")],
)
def test_samplers_say_what_they_need_and_which_others_would_do(name, members):
    with pytest.raises(UsageError, match=rf"sampler '{name}' needs a domain with {members}.*which Words does not have"):
        registry.make("sampler", name, {"domain": Words(), "seed": 0, "costs": None})
    with pytest.raises(UsageError, match=r"Samplers for this domain: .*evolution.*random"):
        registry.make("sampler", name, {"domain": Words(), "seed": 0, "costs": None})
