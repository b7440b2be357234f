"""What every sampler must do, as tests: subclass :class:`SamplerContract`, say how to make yours, run pytest.

class TestMine(SamplerContract):
    def make(self, domain, seed):
        return MySampler(domain=domain, seed=seed)
"""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nasframe.domain import Choices
from nasframe.keep import restrict
from nasframe.scoring import Bounds, Screen
from nasframe.types import Arch, Trial, canonical_json


def flat_domain() -> Choices:
    """Six knobs of three values, all always active."""
    return Choices({f"k{i}": [0, 1, 2] for i in range(6)})


def layered_domain(layers: int = 4) -> Choices:
    """Kept layers, and a width and heads for each layer that is kept."""
    depths = [list(range(n)) for n in range(2, layers + 1)]
    knobs: dict[str, Sequence[Any]] = {"layers": depths}
    knobs |= {f"heads.{i}": [1, 2, 4] for i in range(layers)} | {f"ffn.{i}": [16, 32, 64] for i in range(layers)}
    rules = {k: ("layers", [d for d in depths if int(k.rpartition(".")[2]) in d]) for k in knobs if "." in k}
    return Choices(knobs, rules)


def size_of(arch: Arch) -> float:
    """Return a cost: the sum of all numbers, list lengths for lists."""
    return float(sum(len(value) if isinstance(value, list) else value for value in arch.values()))


def answered(archs: Sequence[Arch], origin: Any = "search", objectives: int = 1) -> list[Trial]:
    """Evaluate architectures: a score that rewards small costs with a ripple, and the cost as second objective."""
    trials = []
    for arch in archs:
        cost = size_of(arch)
        score = math.sin(cost) - 0.01 * cost
        several = (score, -cost) if objectives == 2 else ()
        trials.append(Trial(arch=arch, score=score, objectives=several, costs={"size": cost}, origin=origin))
    return trials


class SamplerContract:
    """The tests; every one starts from a new sampler.

    Attributes:
        batch: how many architectures a test asks for at once.
        rounds: how many asks and tells make a run.
    """

    batch = 3
    rounds = 12

    def make(self, domain: Any, seed: int) -> Any:
        """Make the sampler under test."""
        raise NotImplementedError("return a new sampler for this domain and seed")

    def domains(self) -> list[Any]:
        """Return the domains to try; override where the sampler needs a kind of its own."""
        return [flat_domain(), layered_domain(), layered_domain().joined("layer")]

    def run(self, sampler: Any, rounds: int, within: Any = None, origin: str = "search", objectives: int = 1) -> list:
        """Ask and tell for some rounds; return the proposals of each."""
        asked = []
        for _ in range(rounds):
            asked.append(sampler.ask(self.batch, within=within))
            sampler.tell(answered(asked[-1], origin, objectives))
        return asked

    def test_same_seed_same_proposals(self) -> None:
        """A run can be repeated."""
        for domain in self.domains():
            first, second = (self.run(self.make(domain, 5), self.rounds) for _ in range(2))
            assert first == second, "draw only from a generator made from the seed; iterate over no set"

    def test_proposals_are_canonical_plain_and_inside(self) -> None:
        """What is proposed can be stored, compared and built."""
        for objectives in (1, 2):
            for domain in self.domains():
                asked = self.run(self.make(domain, 1), self.rounds, objectives=objectives)
                assert asked[0], "the first ask of a fresh sampler must propose something"
                for arch in (arch for archs in asked for arch in archs):
                    assert domain.contains(arch), f"{arch} is outside the domain"
                    assert json.loads(canonical_json(arch)) == arch, f"{arch} is not JSON-plain"
                    assert domain.canonical(arch) == arch, f"{arch} is not canonical; return domain.canonical(arch)"

    def test_within_is_respected(self) -> None:
        """A stage may narrow the domain, by values and by a condition, and widen it again."""
        for domain in self.domains():
            sampler = self.make(domain, 2)
            knob = list(domain.knobs)[-1]
            small = Screen({"size": Bounds(high=0.6 * size_of(domain.largest()))}, lambda arch: {"size": size_of(arch)})
            for within in (domain.restrict({knob: domain.knobs[knob][:1]}), domain.restrict(keep=small), domain):
                for archs in self.run(sampler, self.rounds, within):
                    outside = [arch for arch in archs if not within.contains(arch)]
                    assert not outside, f"{outside[:1]} is outside 'within'; propose through within.sample or .mutate"

    def test_state_goes_on_with_the_same_tail(self) -> None:
        """A run that was cut in the middle ends as if it had not been, and the state is JSON-plain."""
        for objectives in (1, 2):
            for domain in self.domains():
                whole = self.make(domain, 3)
                self.run(whole, self.rounds, objectives=objectives)
                open_asks = whole.ask(self.batch)
                state = json.loads(json.dumps(whole.state_dict()))
                resumed = self.make(domain, 99)
                resumed.load_state_dict(state)
                for sampler in (whole, resumed):
                    sampler.tell(answered(open_asks, objectives=objectives))
                tails = [self.run(sampler, self.rounds, objectives=objectives) for sampler in (whole, resumed)]
                assert tails[0] == tails[1], "state_dict must hold all that ask depends on, the generator too"
                assert json.loads(json.dumps(state)) == state

    def test_a_state_is_a_snapshot(self) -> None:
        """What happens after ``state_dict`` does not change what it gave."""
        sampler = self.make(self.domains()[0], 3)
        self.run(sampler, 3)
        state = sampler.state_dict()
        before = json.dumps(state)
        self.run(sampler, 3)
        assert json.dumps(state) == before, "copy lists and mappings into the state"

    def test_strange_answers_are_survived(self) -> None:
        """Failed, screened and repeated trials, numbers that are not finite, late, missing and foreign answers."""
        for domain in self.domains():
            sampler = self.make(domain, 4)
            asked = [arch for _ in range(4) for arch in sampler.ask(self.batch)] or [domain.smallest()]
            sampler.tell(answered(asked[::-1])[1:])
            sampler.tell([])
            for score in (math.nan, math.inf, -math.inf):
                sampler.tell([Trial(arch=asked[0], score=score), Trial(asked[0], 0.0, objectives=(0.0, score))])
            for state in ("failed", "screened"):
                sampler.tell([Trial(arch=asked[-1], score=None, state=state, violation=0.5)])
            sampler.tell([Trial(arch=asked[0], score=0.5, state="repeat")] * 2)
            sampler.tell(answered([domain.largest(), domain.smallest()], origin="train"))
            sampler.tell(answered([domain.largest()], objectives=2))
            sampler.tell([Trial(arch={"no such knob": 1}, score=1.0)])
            for archs in self.run(sampler, self.rounds):
                assert all(map(domain.contains, archs)), "an answer to something else led outside the domain"

    def test_small_and_empty_domains_end(self) -> None:
        """One architecture, few, none that is acceptable: answers repeat or stop, but always come."""
        one, few = Choices({"k": [7]}), Choices({"a": [0, 1], "b": [0, 1]})
        for domain in (one, few):
            for archs in self.run(self.make(domain, 6), 20):
                assert all(map(domain.contains, archs))
        for domain in (few, layered_domain()):
            none = restrict(domain, keep=lambda arch: False)
            assert self.make(domain, 6).ask(self.batch, within=none) == [], "return [] where nothing can be proposed"

    def test_one_acceptable_architecture_is_no_trap(self) -> None:
        """Where a condition leaves one architecture, it is proposed or nothing is."""
        domain = Choices({"a": [0, 1, 2], "b": [0, 1, 2]})
        target = {"a": 2, "b": 0}
        within = domain.restrict(keep=lambda arch: arch == target)
        for archs in self.run(self.make(domain, 7), 10, within):
            assert all(arch == target for arch in archs)

    def test_global_random_state_is_left_alone(self) -> None:
        """Other parts of a program draw from the global generators."""
        domain = self.domains()[0]
        asked = []
        for seed in (1, 2):
            random.seed(seed)
            np.random.seed(seed)
            before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]
            asked.append(self.run(self.make(domain, 8), self.rounds))
            after = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]
            assert before == after, "the sampler changed a global generator; use numpy.random.default_rng(seed)"
        assert asked[0] == asked[1], "the sampler drew from a global generator; use numpy.random.default_rng(seed)"

    def test_arguments_are_left_untouched(self) -> None:
        """Trials and domains belong to the caller, and proposals are the caller's to change."""
        for domain in self.domains():
            sampler = self.make(domain, 9)
            everything = copy.deepcopy(domain.knobs)
            for _ in range(self.rounds):
                trials = answered(sampler.ask(self.batch, within=domain))
                before = copy.deepcopy(trials)
                sampler.tell(trials)
                state = json.dumps(sampler.state_dict())
                assert trials == before, "tell must not change the trials"
                for trial in trials:
                    _spoil(trial.arch)
                assert json.dumps(sampler.state_dict()) == state, "copy architectures that you keep"
            assert domain.knobs == everything, "the domain was changed"

    def test_stages_follow_each_other(self) -> None:
        """A shared sampler hears losses in training, then scores in a search; ``start`` comes between."""
        for domain in self.domains():
            sampler = self.make(domain, 10)
            for origin in ("train", "search"):
                if hasattr(sampler, "start"):
                    sampler.start(origin, 100)
                for archs in self.run(sampler, self.rounds, origin=origin):
                    assert all(map(domain.contains, archs))


def _spoil(arch: Mapping[str, Any]) -> None:
    for value in arch.values():
        if isinstance(value, list):
            value.append(-1)
    if isinstance(arch, dict):
        arch.clear()
