"""What every sampler must do, as checks: subclass :class:`SamplerContract`, define ``make``, run pytest.

class TestMine(SamplerContract):
    def make(self, domain, seed):
        return MySampler(domain=domain, seed=seed)
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from nasframe import registry
from nasframe.errors import UsageError
from nasframe.interfaces import KnobDomain, SamplerTraits, start_sampler, traits_of
from nasframe.records import Arch, Trial, arch_id
from nasframe.search.constraints import Bounds, Screen
from nasframe.search.domain import Choices
from nasframe.search.guarded import GuardedSampler
from nasframe.search.restrict import restrict
from nasframe.testing.kit import Contract, check, is_plain, require, require_no_global_randomness, stored

Origin = Literal["train", "search"]
STAGES: tuple[Origin, ...] = ("train", "search")
MOST_PROPOSALS = 400
"""Where a short run ends, for samplers that return more architectures than they were asked for."""
MOST_GROWTH = 3.0
"""How many times the time of early trials late ones may take: less than that may be noise."""
SLACK = 50e-6
"""Seconds that never count as growth."""
FEWEST_TIMED = 20
"""Trials whose mean time says something; with fewer, growth is not checked."""


def flat_domain() -> Choices:
    """Return a domain of six knobs of three values each, all of which always count."""
    return Choices({f"k{i}": [0, 1, 2] for i in range(6)})


def layered_domain(layers: int = 4) -> Choices:
    """Return a domain of kept layers, and heads and neurons of each layer, which count only if it is kept."""
    depths = [list(range(depth)) for depth in range(2, layers + 1)]
    knobs: dict[str, Sequence[Any]] = {"layers": depths}
    for i in range(layers):
        knobs[f"heads.{i}"] = [1, 2, 4]
    for i in range(layers):
        knobs[f"ffn.{i}"] = [16, 32, 64]
    rules: dict[str, Any] = {}
    for knob in knobs:
        _, _, layer = knob.partition(".")
        if layer:
            depths_with_layer = [kept for kept in depths if int(layer) in kept]
            rules[knob] = ("layers", depths_with_layer)
    return Choices(knobs, rules)


def nested_domain() -> Choices:
    """Return a domain in which knobs depend on knobs that depend on another one."""
    knobs = {"op": [0, 1, 2], "kernel": [1, 3, 5], "dilation": [1, 2], "groups": [1, 2, 4]}
    rules = {"kernel": ("op", [1, 2]), "dilation": ("kernel", [3, 5]), "groups": ("dilation", [1])}
    return Choices(knobs, rules)


class Words:
    """A domain with the four methods that every domain has, and no more: words of one to six letters.

    >>> Words().canonical({"word": "ABA"})
    {'word': 'aba'}
    """

    letters = "abc"
    longest = 6

    def sample(self, rng: np.random.Generator) -> Arch:
        """Draw a length, then letters."""
        length = int(rng.integers(1, self.longest + 1))
        return {"word": "".join(self._letter(rng) for _ in range(length))}

    def mutate(self, arch: Arch, rng: np.random.Generator) -> Arch:
        """Insert, remove or change a letter."""
        word = self.canonical(arch)["word"]
        place = int(rng.integers(len(word)))
        ways = [word[:place] + self._letter(rng) + word[place + 1 :]]
        if len(word) < self.longest:
            ways.append(word[:place] + self._letter(rng) + word[place:])
        if len(word) > 1:
            ways.append(word[:place] + word[place + 1 :])
        return {"word": ways[int(rng.integers(len(ways)))]}

    def contains(self, arch: Arch) -> bool:
        """Tell whether an architecture is a word of these letters."""
        word = arch.get("word")
        if not isinstance(word, str) or len(arch) > 1:
            return False
        return 1 <= len(word) <= self.longest and set(word.lower()) <= set(self.letters)

    def canonical(self, arch: Arch) -> dict[str, Any]:
        """Write a word in small letters."""
        return {"word": arch["word"].lower()}

    def _letter(self, rng: np.random.Generator) -> str:
        return self.letters[int(rng.integers(len(self.letters)))]


class CountedWords(Words):
    """Words that are described by how often each letter occurs, for samplers that need features."""

    def features(self, arch: Arch) -> list[float]:
        """Count each letter."""
        return [float(arch["word"].count(letter)) for letter in self.letters]


def size_of(arch: Arch) -> float:
    """Return a cost of an architecture: the sum of its numbers and of the lengths of its lists and texts."""
    total = 0.0
    for value in arch.values():
        total += len(value) if isinstance(value, list | str) else value
    return total


def costs_of(archs: Sequence[Arch]) -> np.ndarray:
    """Return the sizes of architectures, ``(archs, 1)``, as the argument ``costs`` of a sampler does."""
    return np.array([[size_of(arch)] for arch in archs])


def answered(archs: Sequence[Arch], origin: Any = "search", objectives: int = 1) -> list[Trial]:
    """Evaluate architectures: a score that falls with the cost, in waves, and the cost as a second objective."""
    trials = []
    for arch in archs:
        cost = size_of(arch)
        score = math.sin(cost) - 0.01 * cost  # waves, so that a search cannot simply walk downhill
        scores = (score, -cost) if objectives == 2 else ()
        trials.append(Trial(arch=arch, score=score, objectives=scores, costs={"size": cost}, origin=origin))
    return trials


class SamplerContract(Contract):
    """The checks; each of them starts from a new sampler.

    A sampler may refuse a kind of domain with ``UsageError``, best by naming in ``needs`` what it needs; it is then
    checked on the others. It is asked and told as in a run, with all that the framework guarantees (see
    :mod:`nasframe.search.guarded`).

    Attributes:
        batch: how many architectures a check asks for at once.
        rounds: how many times a run asks and tells.
        trials: length of the long run; it ends earlier after its part of ``seconds``.
        milliseconds: how much processor time ask and tell of one trial may take. A sampler that stays below it
            finishes all checks within ``seconds``.
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
        """Return the domains to check the sampler on; override it if yours needs a kind of its own."""
        # All knobs count; some count only with others; several knobs are one dimension; very few architectures; knobs
        # below knobs; and two without knobs, of which one describes its architectures by numbers.
        joined = layered_domain().joined("layer")
        with_knobs = [flat_domain(), layered_domain(), joined, layered_domain(2), nested_domain()]
        return [*with_knobs, Words(), CountedWords()]

    def guarded(self, domain: Any, seed: int) -> GuardedSampler:
        """Make the sampler as a run does, with what the framework guarantees.

        Raises:
            UsageError: the domain lacks what the sampler needs.
        """

        def make() -> Any:
            sampler = self.make(domain, seed)
            needs = traits_of(SamplerTraits, sampler).needs
            registry.refuse_domain(f"sampler {type(sampler).__name__}", domain, needs)
            return sampler

        return GuardedSampler(make, domain)

    def accepted(self, domains: Sequence[Any] | None = None) -> Iterator[Any]:
        """Yield the domains that the sampler does not refuse."""
        if domains is None:
            domains = self.domains()
        for domain in domains:
            try:
                self.guarded(domain, 0).ask(1)  # some samplers refuse a domain only when they are asked
            except UsageError:
                continue
            yield domain

    def run(self, sampler: Any, rounds: int, within: Any = None, origin: str = "search", objectives: int = 1) -> list:
        """Ask and tell for some rounds; return the proposals of each round."""
        proposals: list[list[Arch]] = []
        count = 0
        for _ in range(rounds):
            archs = sampler.ask(self.batch, within=within)
            proposals.append(copy.deepcopy(archs))  # as proposed, whatever `tell` does to them
            sampler.tell(answered(archs, origin, objectives))
            count += len(archs)
            if count > MOST_PROPOSALS:
                break
        return proposals

    @check
    def test_some_domain_is_accepted(self) -> None:
        """The sampler proposes something from at least one of the domains."""
        reasons = []
        for domain in self.domains():
            try:
                if self.guarded(domain, 0).ask(1):
                    return
                reasons.append("it proposed nothing")
            except UsageError as error:
                reasons.append(str(error))
        require(False, f"no domain is accepted ({reasons[0]}); the first ask of a new sampler must propose something")

    @check
    def test_it_says_which_domains_it_needs(self) -> None:
        """A sampler that refuses a domain without knobs says in ``needs`` what it needs, for checks of recipes."""
        if self.use is None:
            return  # a contract that makes the sampler itself does not know its class
        name, _ = registry.use_of(self.use)
        needs = traits_of(SamplerTraits, registry.find("sampler", name).load()).needs
        domain = Words()
        try:
            self.guarded(domain, 0).ask(1)
        except UsageError as error:
            is_said = any(not hasattr(domain, member) for member in needs)
            require(
                is_said,
                f"it refuses a domain of the four methods alone ({error}), but 'needs' does not say what it needs; set "
                'needs = ("knobs",), for example',
            )

    @check
    def test_same_seed_same_proposals(self) -> None:
        """Two runs with one seed propose the same architectures."""
        for domain in self.accepted():
            first = self.run(self.guarded(domain, 5), self.rounds)
            second = self.run(self.guarded(domain, 5), self.rounds)
            require(
                first == second,
                "two runs with one seed differ; draw only from numpy.random.default_rng(seed), and do not iterate over "
                "sets",
            )

    @check
    def test_proposals_are_canonical_plain_and_inside(self) -> None:
        """Proposals are JSON-plain, inside the domain and canonical, so that they can be stored, compared and built."""
        for objectives in (1, 2):  # with several objectives a sampler may take another way
            for domain in self.accepted():
                proposals = self.run(self.guarded(domain, 1), self.rounds, objectives=objectives)
                require(proposals[0], "the first ask of a new sampler proposed nothing; propose something")
                for archs in proposals:
                    for arch in archs:
                        require(
                            is_plain(arch), f"{arch} is not JSON-plain; propose Python numbers, text, lists and dicts"
                        )
                        require(domain.contains(arch), f"{arch} is outside the domain; propose through domain.sample")
                        is_canonical = domain.canonical(arch) == arch
                        require(is_canonical, f"{arch} is not canonical; return domain.canonical(arch)")

    @check
    def test_within_is_respected(self) -> None:
        """A stage may narrow the domain by values or by a condition, and a later one may widen it again."""
        for domain in self.accepted():
            # One sampler for all parts, since it may not remember proposals from a wider one.
            sampler = self.guarded(domain, 2)
            for within in narrowed(domain):
                for archs in self.run(sampler, self.rounds, within):
                    outside = outside_of(within, archs)
                    require(not outside, f"{outside[:1]} is outside 'within'; propose through within.sample or .mutate")

    @check
    def test_state_goes_on_with_the_same_tail(self) -> None:
        """A run that is interrupted, stored and resumed continues like an uninterrupted one."""
        for objectives in (1, 2):
            for domain in self.accepted():
                whole = self.guarded(domain, 3)
                self.run(whole, self.rounds, objectives=objectives)
                # Runs are interrupted between ask and tell, too.
                open_proposals = whole.ask(self.batch)
                state = stored(whole.state_dict(), "the sampler")
                # Another seed: all that counts must come from the state. Calls are repeated with the same one.
                resumed = self.guarded(domain, 99 if whole.has_state else 3)
                resumed.load_state_dict(state)
                tails = []
                for sampler in (whole, resumed):
                    sampler.tell(answered(open_proposals, objectives=objectives))
                    tails.append(self.run(sampler, self.rounds, objectives=objectives))
                require(
                    tails[0] == tails[1],
                    "after load_state_dict the proposals differ; put all that ask depends on into state_dict, the "
                    "generator's state too (rng.bit_generator.state)",
                )

    @check
    def test_a_state_is_a_snapshot(self) -> None:
        """A state does not change when the sampler goes on."""
        for domain in self.accepted():
            sampler = self.guarded(domain, 3)
            self.run(sampler, 3)
            state = sampler.state_dict()
            before = as_text(state)
            self.run(sampler, 3)
            require(
                as_text(state) == before,
                "a state changed after state_dict returned it; copy lists and mappings into it",
            )

    @check
    def test_strange_answers_are_survived(self) -> None:
        """The sampler accepts failed, screened and repeated trials, infinite scores, and late or foreign ones."""
        for domain in self.accepted():
            sampler = self.guarded(domain, 4)
            proposals: list[Arch] = []
            for _ in range(4):
                proposals += sampler.ask(self.batch)
            if not proposals:
                proposals = drawn(domain, 1)
            foreign = drawn(domain, 2)
            first = proposals[0]
            # In another program, such as an Optuna study, trials may come late, in another order, or never.
            in_reverse = answered(proposals[::-1])
            sampler.tell(in_reverse[1:])  # one is missing
            sampler.tell([])
            for score in (math.nan, math.inf, -math.inf):
                sampler.tell([Trial(arch=first, score=score), Trial(first, 0.0, objectives=(0.0, score))])
            # These have no score: the evaluation failed, or the architecture broke a constraint.
            for state in ("failed", "screened"):
                failed = Trial(arch=proposals[-1], score=None, state=state, violation=0.5)  # type: ignore[arg-type]
                sampler.tell([failed])
            repeated = Trial(arch=first, score=0.5, state="repeat")
            sampler.tell([repeated, repeated])
            # A sampler that stages share hears of architectures that it did not propose.
            sampler.tell(answered(foreign, origin="train"))
            sampler.tell(answered(foreign[:1], objectives=2))
            sampler.tell([Trial(arch={"no such knob": 1}, score=1.0)])
            for archs in self.run(sampler, self.rounds):
                outside = outside_of(domain, archs)
                require(
                    not outside,
                    f"after unusual trials, {outside[:1]} was proposed, which is outside the domain; learn only "
                    "from trials that have a score",
                )
            stored(sampler.state_dict(), "the sampler after scores that are not finite")

    @check
    def test_small_and_empty_domains_end(self) -> None:
        """With one architecture, a few, or none that is acceptable, each ask returns: a repetition, or nothing."""
        one = Choices({"k": [7]})
        few = Choices({"a": [0, 1], "b": [0, 1]})
        for domain in self.accepted([one, few]):
            for archs in self.run(self.guarded(domain, 6), 20):  # more rounds than there are architectures
                outside = outside_of(domain, archs)
                require(
                    not outside,
                    f"{outside[:1]} is outside a domain of {domain.size} architectures; propose through domain.sample",
                )
        # Contradictory constraints are a user's mistake, and must not hang the run.
        for domain in self.accepted([few, *self.domains()]):
            nothing = restrict(domain, keep=lambda arch: False)
            archs = self.guarded(domain, 6).ask(self.batch, within=nothing)
            require(archs == [], f"{archs} was proposed although nothing is acceptable; return [] then")

    @check
    def test_one_acceptable_architecture_is_no_trap(self) -> None:
        """If only one architecture is acceptable, the sampler proposes that one or nothing."""
        target = {"a": 2, "b": 0}
        for domain in self.accepted([Choices({"a": [0, 1, 2], "b": [0, 1, 2]})]):
            within = domain.restrict(keep=lambda arch: arch == target)
            for archs in self.run(self.guarded(domain, 7), 10, within):
                is_target = all(arch == target for arch in archs)
                require(
                    is_target, f"{archs} was proposed, but only {target} is acceptable; propose through within.sample"
                )

    @check
    def test_global_random_state_is_left_alone(self) -> None:
        """The sampler neither reads nor changes the global generators of Python, numpy and torch."""
        for domain in self.accepted():

            def proposals(domain: Any = domain) -> Any:
                return self.run(self.guarded(domain, 8), self.rounds)

            source = "numpy.random.default_rng(seed)"
            require_no_global_randomness(proposals, lambda first, second: first == second, source)

    @check
    def test_arguments_are_left_untouched(self) -> None:
        """The sampler does not change trials and domains."""
        for domain in self.accepted():
            sampler = self.guarded(domain, 9)
            knobs = knobs_of(domain)
            for _ in range(self.rounds):
                trials = answered(sampler.ask(self.batch, within=domain))
                before = copy.deepcopy(trials)
                sampler.tell(trials)
                require(trials == before, "tell changed the trials; copy what you change")
            require(knobs_of(domain) == knobs, "the sampler changed the domain, which others share; change a copy")

    @check
    def test_stages_follow_each_other(self) -> None:
        """One sampler can hear losses in a training stage and then scores in a search, with ``start`` before each."""
        for domain in self.accepted():
            sampler = self.guarded(domain, 10)
            for origin in STAGES:  # losses of a training say nothing about scores of a search
                start_sampler(sampler, origin, 100, origin)
                for archs in self.run(sampler, self.rounds, origin=origin):
                    outside = outside_of(domain, archs)
                    require(
                        not outside,
                        f"in a {origin} stage {outside[:1]} is outside the domain; reset in start what belongs to the "
                        "stage before",
                    )

    @check
    def test_a_trial_costs_little_time(self) -> None:
        """Ask and tell of one trial together take at most ``milliseconds`` on average."""
        for domain in self.accepted():
            seconds = self.timed(domain, 11, 100, self.seconds / 10)
            mean = 1000 * sum(seconds) / max(len(seconds), 1)
            require(
                mean <= self.milliseconds,
                f"slow: ask and tell of one trial took {mean:.1f} ms on average, more than {self.milliseconds:g}; keep "
                "results between asks, and limit how many candidates an ask considers",
            )

    @check
    def test_many_trials_take_flat_time(self) -> None:
        """After ``trials`` trials, or as many as there is time for, a trial takes no longer than at the beginning."""
        # 6^12 architectures, which ten thousand trials do not exhaust.
        large = Choices({f"k{i}": list(range(6)) for i in range(12)})
        domains = list(self.accepted([large])) or list(self.accepted())[:1]
        for domain in domains:
            seconds = self.timed(domain, 12, self.trials, self.seconds / 4)
            tenth = len(seconds) // 10
            # Fewer: the domain was exhausted, or each trial is so slow that the check before this one fails.
            if tenth < FEWEST_TIMED:
                continue
            # The second tenth, because the first trials fill caches and initial populations.
            early = float(np.mean(seconds[tenth : 2 * tenth]))
            late = float(np.mean(seconds[-tenth:]))
            require(
                late <= MOST_GROWTH * early + SLACK,
                f"slower and slower: a trial takes {1e3 * late:.2f} ms after {len(seconds):,} trials, but "
                f"{1e3 * early:.2f} ms at the beginning; do not go through all earlier trials at each ask or tell",
            )

    def timed(self, domain: Any, seed: int, trials: int, most: float) -> list[float]:
        """Return the seconds of each trial, the less of two equal runs, because only the machine makes them differ.

        Args:
            domain: what the sampler proposes from.
            seed: of the sampler.
            trials: length of a run.
            most: seconds after which a run ends early.
        """
        first = ask_and_tell(self.guarded(domain, seed), trials, most)
        second = ask_and_tell(self.guarded(domain, seed), trials, most)
        return [min(pair) for pair in zip(first, second, strict=False)]


def ask_and_tell(sampler: Any, trials: int, most: float = math.inf) -> list[float]:
    """Ask for one architecture and tell its trial, again and again; return the processor seconds of each trial.

    Args:
        sampler: a new sampler.
        trials: after how many trials to end; a sampler that proposes nothing ends the run, too.
        most: seconds after which the run ends early.
    """
    seconds: list[float] = []
    end = time.monotonic() + most
    while len(seconds) < trials and time.monotonic() < end:
        start = time.process_time()
        archs = sampler.ask(1)
        asking = time.process_time() - start
        if not archs:
            break
        evaluated = answered(archs, objectives=2)  # not the sampler's time
        start = time.process_time()
        sampler.tell(evaluated)
        telling = time.process_time() - start
        each = (asking + telling) / len(archs)
        seconds += [each] * len(archs)
    return seconds


def narrowed(domain: Any) -> Iterator[Any]:
    """Yield a domain narrowed by a value, by a cost, and not at all."""
    if not isinstance(domain, KnobDomain):
        yield restrict(domain, keep=lambda arch: int(arch_id(arch)[0], 16) < 8)  # about half of any domain
        yield domain
        return

    def costs(arch: Arch) -> Mapping[str, float]:
        return {"size": size_of(arch)}

    whole: Any = domain
    last_knob = list(whole.knobs)[-1]
    yield whole.restrict({last_knob: whole.knobs[last_knob][:1]})
    most = 0.6 * size_of(whole.largest())
    yield whole.restrict(keep=Screen({"size": Bounds(high=most)}, costs))
    yield whole


def drawn(domain: Any, count: int) -> list[Arch]:
    """Draw architectures from any domain."""
    rng = np.random.default_rng(0)
    return [domain.sample(rng) for _ in range(count)]


def outside_of(domain: Any, archs: Sequence[Arch]) -> list[Arch]:
    """Return the architectures that a domain does not contain."""
    return [arch for arch in archs if not domain.contains(arch)]


def knobs_of(domain: Any) -> dict[str, Any] | None:
    """Return a copy of a domain's knobs, ``None`` if it has none."""
    if not isinstance(domain, KnobDomain):
        return None
    return copy.deepcopy(dict(domain.knobs))


def as_text(state: Any) -> str:
    """Return a state as text, by which to see whether it changed."""
    return json.dumps(state, default=_array_as_list)


def _array_as_list(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy's arrays and numbers, and tensors
        return value.tolist()
    return repr(value)  # of anything else the text will do for a comparison
