"""The sampler contract fails each broken sampler, with words that tell its author what to do."""

import pytest
from broken_samplers import Sound
from broken_samplers import __dict__ as samplers

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
    "TrustsAnswers": ("strange_answers_are_survived", "led outside the domain"),
    "NeverGivesUp": ("small_and_empty_domains_end", "still running after 0.5 s, at .*count the attempts"),
    "Optimist": ("small_and_empty_domains_end", r"where nothing is acceptable; return \[\]"),
    "OneOff": ("one_acceptable_architecture_is_no_trap", "is acceptable"),
    "DrawsGlobally": ("global_random_state_is_left_alone", "a global random generator"),
    "SeedsGlobally": ("global_random_state_is_left_alone", "was changed; draw from numpy.random.default_rng"),
    "SpoilsTrials": ("arguments_are_left_untouched", "tell changed the trials"),
    "KeepsReferences": ("arguments_are_left_untouched", "copy architectures you keep"),
    "StagesLeadAstray": ("stages_follow_each_other", "in a search stage .* is outside the domain"),
    "Slow": ("a_trial_costs_little_time", "more than 2; keep what can be kept"),
    "ReadsHistory": ("many_trials_take_flat_time", "do not go through all earlier trials"),
}


def contract(sampler):
    class Contract(SamplerContract):
        trials, milliseconds, seconds = 500, 2.0, 0.5

        def make(self, domain, seed):
            return sampler(domain, seed)

    Contract.seconds = 0.5 if sampler.__name__ == "NeverGivesUp" else 60
    return Contract


@pytest.mark.parametrize(("name", "check", "message"), [(name, *rest) for name, rest in BROKEN.items()], ids=BROKEN)
def test_a_broken_sampler_fails_its_check(name, check, message):
    with pytest.raises(ContractError, match=message):
        getattr(contract(samplers[name])(), f"test_{check}")()


def test_a_sampler_that_raises_is_told_where():
    outcome = next(
        o for o in run_checks(contract(samplers["NeedsScores"])) if o.check == "strange answers are survived"
    )
    assert not outcome.passed
    assert outcome.message.startswith("raised TypeError: unsupported operand")
    assert "broken_samplers.py:" in outcome.message


@pytest.mark.parametrize("check", SamplerContract.checks())
def test_a_sound_sampler_passes(check):
    getattr(contract(Sound)(), check)()


def test_every_check_can_fail():
    assert {f"test_{check}" for check, _ in BROKEN.values()} == set(SamplerContract.checks())


def test_a_contract_without_a_plugin_says_what_is_missing():
    with pytest.raises(NotImplementedError, match="set 'use' to the plugin's name, or override 'make' to return"):
        SamplerContract().test_same_seed_same_proposals()
