"""What every sampler must do, as checks: subclass :class:`SamplerContract`, say how to make yours, run pytest.

class TestMine(SamplerContract):
    def make(self, domain, seed):
        return MySampler(domain=domain, seed=seed)
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from nasframe.errors import UsageError
from nasframe.interfaces import start_sampler
from nasframe.records import Arch, Trial, arch_id
from nasframe.search.constraints import Bounds, Screen
from nasframe.search.domain import Choices
from nasframe.search.restrict import restrict
from nasframe.testing.kit import Contract, check, is_plain, require, require_no_global_randomness, stored

STAGES: tuple[Literal["train", "search"], ...] = ("train", "search")
ENOUGH = 400  # proposals that a short run may have, from samplers that answer with more than they were asked for
FLAT = 3.0  # late trials may take so many times the early ones' time: noise, not growth
SLACK = 50e-6  # seconds that are never counted as growth


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


def costs_of(archs: Sequence[Arch]) -> np.ndarray:
    """Return ``(archs, 1)``: what a run injects as ``costs``."""
    return np.array([[size_of(arch)] for arch in archs])


def answered(archs: Sequence[Arch], origin: Any = "search", objectives: int = 1) -> list[Trial]:
    """Evaluate architectures: a score that rewards small costs with a ripple, and the cost as second objective."""
    trials = []
    for arch in archs:
        cost = size_of(arch)
        score = math.sin(cost) - 0.01 * cost
        several = (score, -cost) if objectives == 2 else ()
        trials.append(Trial(arch=arch, score=score, objectives=several, costs={"size": cost}, origin=origin))
    return trials


class SamplerContract(Contract):
    """The checks; every one starts from a new sampler.

    A sampler may refuse a kind of domain with ``UsageError``; it is then checked on the others.

    Attributes:
        batch: how many architectures a check asks for at once.
        rounds: how many asks and tells make a run.
        trials: how many trials the long run has, or as many as it comes to in its part of ``seconds``.
        milliseconds: how long ask and tell of one trial may take, in processor time. No check asks for more: with so
            many all are through in ``seconds``.
    """

    kind = "sampler"
    batch = 3
    rounds = 12
    trials = 10_000
    milliseconds = 20.0

    def make(self, domain: Any, seed: int) -> Any:
        """Make the sampler under test."""
        return self.registered(domain=domain, seed=seed, costs=costs_of)

    def domains(self) -> list[Any]:
        """Return the domains to try; override where the sampler needs a kind of its own."""
        return [flat_domain(), layered_domain(), layered_domain().joined("layer"), layered_domain(2)]

    def accepted(self, domains: Sequence[Any] | None = None) -> Iterator[Any]:
        """Go through the domains that the sampler does not refuse."""
        for domain in self.domains() if domains is None else domains:
            try:
                self.make(domain, 0).ask(1)
            except UsageError:
                continue
            yield domain

    def run(self, sampler: Any, rounds: int, within: Any = None, origin: str = "search", objectives: int = 1) -> list:
        """Ask and tell for some rounds; return the proposals of each."""
        asked: list[list[Arch]] = []
        for _ in range(rounds):
            archs = sampler.ask(self.batch, within=within)
            asked.append(copy.deepcopy(archs))
            sampler.tell(answered(archs, origin, objectives))
            if sum(map(len, asked)) > ENOUGH:
                break
        return asked

    @check
    def test_some_domain_is_accepted(self) -> None:
        """It proposes something from at least one of the domains."""
        refused = []
        for domain in self.domains():
            try:
                if self.make(domain, 0).ask(1):
                    return
                refused.append("proposed nothing")
            except UsageError as error:
                refused.append(str(error))
        require(False, f"no domain is accepted ({refused[0]}); the first ask of a fresh sampler must propose something")

    @check
    def test_same_seed_same_proposals(self) -> None:
        """A run can be repeated."""
        for domain in self.accepted():
            first, second = (self.run(self.make(domain, 5), self.rounds) for _ in range(2))
            require(
                first == second,
                "two runs with one seed differ; draw only from numpy.random.default_rng(seed) and iterate over no set",
            )

    @check
    def test_proposals_are_canonical_plain_and_inside(self) -> None:
        """What is proposed can be stored, compared and built; knobs without effect are left out."""
        for objectives in (1, 2):
            for domain in self.accepted():
                asked = self.run(self.make(domain, 1), self.rounds, objectives=objectives)
                require(asked[0], "the first ask of a fresh sampler proposed nothing; propose something")
                for arch in (arch for archs in asked for arch in archs):
                    require(is_plain(arch), f"{arch} is not JSON-plain; propose Python numbers, text, lists and dicts")
                    require(domain.contains(arch), f"{arch} is outside the domain; propose through domain.sample")
                    require(domain.canonical(arch) == arch, f"{arch} is not canonical; return domain.canonical(arch)")

    @check
    def test_within_is_respected(self) -> None:
        """A stage may narrow the domain, by values and by a condition, and widen it again."""
        for domain in self.accepted():
            sampler = self.make(domain, 2)
            for within in narrowed(domain):
                for archs in self.run(sampler, self.rounds, within):
                    outside = [arch for arch in archs if not within.contains(arch)]
                    require(not outside, f"{outside[:1]} is outside 'within'; propose through within.sample or .mutate")

    @check
    def test_state_goes_on_with_the_same_tail(self) -> None:
        """A run that was cut in the middle ends as if it had not been, its state having been on disk."""
        for objectives in (1, 2):
            for domain in self.accepted():
                whole = self.make(domain, 3)
                self.run(whole, self.rounds, objectives=objectives)
                open_asks = whole.ask(self.batch)
                state = stored(whole.state_dict(), "the sampler")
                resumed = self.make(domain, 99)
                resumed.load_state_dict(state)
                for sampler in (whole, resumed):
                    sampler.tell(answered(open_asks, objectives=objectives))
                tails = [self.run(sampler, self.rounds, objectives=objectives) for sampler in (whole, resumed)]
                require(
                    tails[0] == tails[1],
                    "after load_state_dict the proposals are others; state_dict must hold all that ask depends on, "
                    "the generator's state too (rng.bit_generator.state)",
                )

    @check
    def test_a_state_is_a_snapshot(self) -> None:
        """What happens after ``state_dict`` does not change what it gave."""
        for domain in self.accepted():
            sampler = self.make(domain, 3)
            self.run(sampler, 3)
            state = sampler.state_dict()
            before = written(state)
            self.run(sampler, 3)
            require(written(state) == before, "a state changed after it was given; copy lists and mappings into it")

    @check
    def test_strange_answers_are_survived(self) -> None:
        """Failed, screened and repeated trials, numbers that are not finite, late, missing and foreign answers."""
        for domain in self.accepted():
            sampler = self.make(domain, 4)
            asked = [arch for _ in range(4) for arch in sampler.ask(self.batch)] or drawn(domain, 1)
            others = drawn(domain, 2)
            sampler.tell(answered(asked[::-1])[1:])
            sampler.tell([])
            for score in (math.nan, math.inf, -math.inf):
                sampler.tell([Trial(arch=asked[0], score=score), Trial(asked[0], 0.0, objectives=(0.0, score))])
            for state in ("failed", "screened"):
                sampler.tell([Trial(arch=asked[-1], score=None, state=state, violation=0.5)])  # type: ignore[arg-type]
            sampler.tell([Trial(arch=asked[0], score=0.5, state="repeat")] * 2)
            sampler.tell(answered(others, origin="train"))
            sampler.tell(answered(others[:1], objectives=2))
            sampler.tell([Trial(arch={"no such knob": 1}, score=1.0)])
            for archs in self.run(sampler, self.rounds):
                outside = [arch for arch in archs if not domain.contains(arch)]
                require(not outside, f"an answer to something else led outside the domain, to {outside[:1]}")
            stored(sampler.state_dict(), "the sampler after numbers that are not finite")

    @check
    def test_small_and_empty_domains_end(self) -> None:
        """One architecture, few, none that is acceptable: answers repeat or stop, but always come."""
        one, few = Choices({"k": [7]}), Choices({"a": [0, 1], "b": [0, 1]})
        for domain in self.accepted([one, few]):
            for archs in self.run(self.make(domain, 6), 20):
                outside = [arch for arch in archs if not domain.contains(arch)]
                require(not outside, f"{outside[:1]} is outside a domain of {domain.size} architectures")
        for domain in self.accepted([few, *self.domains()]):
            none = restrict(domain, keep=lambda arch: False)
            asked = self.make(domain, 6).ask(self.batch, within=none)
            require(asked == [], f"{asked} was proposed where nothing is acceptable; return [] then")

    @check
    def test_one_acceptable_architecture_is_no_trap(self) -> None:
        """Where a condition leaves one architecture, it is proposed or nothing is."""
        target = {"a": 2, "b": 0}
        for domain in self.accepted([Choices({"a": [0, 1, 2], "b": [0, 1, 2]})]):
            within = domain.restrict(keep=lambda arch: arch == target)
            for archs in self.run(self.make(domain, 7), 10, within):
                require(all(arch == target for arch in archs), f"{archs} where only {target} is acceptable")

    @check
    def test_global_random_state_is_left_alone(self) -> None:
        """Other parts of a program draw from the global generators of Python, numpy and torch."""
        for domain in self.accepted():

            def asked(domain: Any = domain) -> Any:
                return self.run(self.make(domain, 8), self.rounds)

            require_no_global_randomness(asked, lambda a, b: a == b, "numpy.random.default_rng(seed)")

    @check
    def test_arguments_are_left_untouched(self) -> None:
        """Trials and domains belong to the caller, and proposals are the caller's to change."""
        for domain in self.accepted():
            sampler = self.make(domain, 9)
            everything = copy.deepcopy(getattr(domain, "knobs", None))
            for _ in range(self.rounds):
                trials = answered(sampler.ask(self.batch, within=domain))
                before = copy.deepcopy(trials)
                sampler.tell(trials)
                state = written(sampler.state_dict())
                require(trials == before, "tell changed the trials; copy what you change")
                for trial in trials:
                    _spoil(trial.arch)
                require(
                    written(sampler.state_dict()) == state,
                    "an architecture that the caller changed after tell changed the state; copy architectures you keep",
                )
            require(getattr(domain, "knobs", None) == everything, "the domain was changed; domains are shared")

    @check
    def test_stages_follow_each_other(self) -> None:
        """A shared sampler hears losses in training, then scores in a search; ``start`` comes between."""
        for domain in self.accepted():
            sampler = self.make(domain, 10)
            for origin in STAGES:
                start_sampler(sampler, origin, 100, origin)
                for archs in self.run(sampler, self.rounds, origin=origin):
                    outside = [arch for arch in archs if not domain.contains(arch)]
                    require(not outside, f"in a {origin} stage {outside[:1]} is outside the domain")

    @check
    def test_a_trial_costs_little_time(self) -> None:
        """Ask and tell together stay within ``milliseconds``."""
        for domain in self.accepted():
            seconds = self.timed(domain, 11, 100, self.seconds / 10)
            mean = 1000 * sum(seconds) / max(len(seconds), 1)
            require(
                mean <= self.milliseconds,
                f"slow: ask and tell of one trial took {mean:.1f} ms in the mean, more than {self.milliseconds:g}; "
                "keep what can be kept between asks, and bound the candidates of an ask",
            )

    @check
    def test_many_trials_take_flat_time(self) -> None:
        """After ``trials`` trials, or as many as there is time for, one takes no longer than at the beginning."""
        large = Choices({f"k{i}": list(range(6)) for i in range(12)})
        for domain in list(self.accepted([large])) or list(self.accepted())[:1]:
            seconds = self.timed(domain, 12, self.trials, self.seconds / 4)
            part = len(seconds) // 10
            if part < 20:  # the domain was exhausted before, or each trial is so slow that another check says so
                continue
            early, late = (float(np.mean(some)) for some in (seconds[part : 2 * part], seconds[-part:]))
            require(
                late <= FLAT * early + SLACK,
                f"slower and slower: a trial takes {1e3 * late:.2f} ms after {len(seconds):,} trials, "
                f"{1e3 * early:.2f} ms at the beginning; do not go through all earlier trials at each ask or tell",
            )

    def timed(self, domain: Any, seed: int, trials: int, most: float) -> list[float]:
        """Time each trial in two equal runs; the lesser time is the work's, what is over it the machine's.

        Args:
            domain: what to propose from.
            seed: of the sampler.
            trials: how many.
            most: seconds after which a run has as many as it has.
        """
        once, again = (ask_and_tell(self.make(domain, seed), trials, most) for _ in range(2))
        return [min(pair) for pair in zip(once, again, strict=False)]


def ask_and_tell(sampler: Any, trials: int, most: float = math.inf) -> list[float]:
    """Ask for one and tell, until so many trials are told, nothing comes or time is up; return the seconds of each."""
    seconds: list[float] = []
    end = time.monotonic() + most
    while len(seconds) < trials and time.monotonic() < end:
        began = time.process_time()
        archs = sampler.ask(1)
        asking = time.process_time() - began
        told = answered(archs, objectives=2)
        began = time.process_time()
        sampler.tell(told)
        spent = asking + time.process_time() - began
        seconds += [spent / len(archs)] * len(archs) if archs else []
        if not archs:
            break
    return seconds


def narrowed(domain: Any) -> Iterator[Any]:
    """Narrow a domain by a value, by a cost, and not at all."""
    if hasattr(domain, "knobs"):
        knob = list(domain.knobs)[-1]
        yield domain.restrict({knob: domain.knobs[knob][:1]})
        cost: Callable[[Arch], Mapping[str, float]] = lambda arch: {"size": size_of(arch)}  # noqa: E731
        yield domain.restrict(keep=Screen({"size": Bounds(high=0.6 * size_of(domain.largest()))}, cost))
    else:
        yield restrict(domain, keep=lambda arch: int(arch_id(arch)[0], 16) < 8)
    yield domain


def drawn(domain: Any, count: int) -> list[Arch]:
    """Draw architectures from any domain."""
    rng = np.random.default_rng(0)
    return [domain.sample(rng) for _ in range(count)]


def written(state: Any) -> str:
    """Write a state as text, to see whether it changed."""
    return json.dumps(state, default=lambda value: value.tolist() if hasattr(value, "tolist") else repr(value))


def _spoil(arch: Mapping[str, Any]) -> None:
    for value in arch.values():
        if isinstance(value, list):
            value.append(-1)
    if isinstance(arch, dict):
        arch.clear()
