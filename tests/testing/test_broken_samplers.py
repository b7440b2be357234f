"""The sampler contract fails each broken sampler, with words that tell its author what to do."""

import time

import pytest
from broken_samplers import Picky, Sound
from broken_samplers import __dict__ as samplers

from nasframe import registry
from nasframe.testing import ContractError, SamplerContract
from nasframe.testing.kit import run_checks

BROKEN = {
    "Refuses": ("some_domain_is_accepted", r"no domain is accepted \(not today\)"),
    "Unseeded": ("same_seed_same_proposals", r"draw only from numpy.random.default_rng\(seed\)"),
    "NumpyNumbers": ("proposals_are_canonical_plain_and_inside", "not JSON-plain; propose Python numbers"),
    "Outside": ("proposals_are_canonical_plain_and_inside", "outside the domain; propose through domain.sample"),
    "NotCanonical": ("proposals_are_canonical_plain_and_inside", "return domain.canonical"),
    "IgnoresWithin": ("within_is_respected", "outside 'within'; propose through within.sample"),
    "ForgetsGenerator": ("state_goes_on_with_the_same_tail", "the generator's state too"),
    "HoldsObjects": ("state_goes_on_with_the_same_tail", "without a pickle .*not Generator"),
    "LiveState": ("a_state_is_a_snapshot", "copy lists and mappings into it"),
    "Shaken": ("strange_answers_are_survived", "which is outside the domain; learn only from trials that have a score"),
    "NeverGivesUp": ("small_and_empty_domains_end", "still running after 0.5 s, at .*counting its attempts"),
    "Optimist": ("small_and_empty_domains_end", r"although nothing is acceptable; return \[\]"),
    "OneOff": ("one_acceptable_architecture_is_no_trap", "is acceptable"),
    "DrawsGlobally": ("global_random_state_is_left_alone", "a global random generator"),
    "SeedsGlobally": ("global_random_state_is_left_alone", "was changed; draw from numpy.random.default_rng"),
    "SpoilsTrials": ("arguments_are_left_untouched", "tell changed the trials"),
    "StagesLeadAstray": ("stages_follow_each_other", "in a search stage .* is outside the domain"),
    "Slow": ("a_trial_costs_little_time", "slow: .* more than 2; keep results between asks"),
    "ReadsHistory": ("many_trials_take_flat_time", "do not go through all earlier trials"),
}


def contract(sampler):
    class Contract(SamplerContract):
        trials, milliseconds, seconds = 500, 2.0, 0.5

        def make(self, domain, seed):
            return sampler(domain, seed)

    Contract.seconds = 0.5 if sampler.__name__ == "NeverGivesUp" else 60
    return Contract


TIMED = {"a_trial_costs_little_time", "many_trials_take_flat_time"}  # on a busy machine they take long, and may fail
CASES = []
for name, (check, message) in BROKEN.items():
    marks = [pytest.mark.slow] if check in TIMED else []
    CASES.append(pytest.param(name, check, message, id=name, marks=marks))


@pytest.mark.parametrize(("name", "check", "message"), CASES)
def test_a_broken_sampler_fails_its_check(name, check, message):
    with pytest.raises(ContractError, match=message):
        getattr(contract(samplers[name])(), f"test_{check}")()


def outcome_of(made, check):
    """Run one check of a contract as ``nasframe plugins check`` does."""
    made.checks = classmethod(lambda cls: [check])
    return next(iter(run_checks(made)))


def of_constant_time(milliseconds, **attributes):
    """The contract of a sampler that takes a constant time for each trial, on the largest of the domains alone."""

    class Constant(Sound):
        def tell(self, trials):
            super().tell(trials)
            until = time.process_time() + milliseconds / 1000 * len(trials)
            while time.process_time() < until:
                pass

    class Contract(SamplerContract):
        def make(self, domain, seed):
            return Constant(domain, seed)

        def domains(self):
            return super().domains()[:1]

    for name, value in attributes.items():
        setattr(Contract, name, value)
    return Contract()


@pytest.mark.slow
def test_a_constant_time_within_the_limit_passes_the_long_run():
    of_constant_time(2, seconds=6.0).test_many_trials_take_flat_time()  # 10,000 trials would take 40 s


@pytest.mark.slow
def test_a_sampler_far_over_the_limit_is_called_slow_and_not_endless():
    with pytest.raises(ContractError, match=r"^slow: ask and tell of one trial took"):
        of_constant_time(60, seconds=5.0).test_a_trial_costs_little_time()


def test_a_check_that_takes_too_long_without_a_hanging_call_is_called_slow():
    with pytest.raises(ContractError, match=r"^too slow: not finished after 0.6 s"):
        of_constant_time(20, seconds=0.6).test_within_is_respected()


def test_a_sampler_that_raises_is_told_where():
    outcome = outcome_of(contract(samplers["NeedsScores"]), "test_strange_answers_are_survived")
    assert not outcome.passed
    assert outcome.message.startswith("raised TypeError: unsupported operand")
    assert "broken_samplers.py:" in outcome.message


def test_a_sampler_that_exits_fails_its_check():
    class Leaves(Sound):
        def ask(self, n=1, within=None):
            raise SystemExit(0)

    outcome = outcome_of(contract(Leaves), "test_some_domain_is_accepted")
    assert outcome.message.startswith("raised SystemExit: 0")


@pytest.mark.parametrize("check", [check for check in SamplerContract.checks() if check[5:] not in TIMED])
def test_a_sound_sampler_passes(check):
    getattr(contract(Sound)(), check)()


def test_every_check_can_fail():
    checks = {f"test_{check}" for check, _ in BROKEN.values()}
    assert checks | {"test_it_says_which_domains_it_needs"} == set(SamplerContract.checks())


def test_a_sampler_that_refuses_domains_says_which_it_needs(monkeypatch):
    class Found:
        def load(self):
            return Picky

    monkeypatch.setattr(registry, "find", lambda kind, name: Found())
    made = contract(Picky)
    made.use = "picky"
    with pytest.raises(ContractError, match=r"four methods alone \(no knobs\), but 'needs' does not say"):
        made().test_it_says_which_domains_it_needs()
    monkeypatch.setattr(Picky, "needs", ("knobs",), raising=False)
    made().test_it_says_which_domains_it_needs()


def test_a_contract_without_a_plugin_says_what_is_missing():
    with pytest.raises(NotImplementedError, match="set 'use' to the plugin's name, or override 'make' to return"):
        SamplerContract().test_same_seed_same_proposals()
