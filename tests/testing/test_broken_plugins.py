"""The contracts of all kinds but samplers fail broken plugins, with words that tell their authors what to do."""

import pytest
from broken_plugins import BROKEN, SOUND

from nasframe import registry, testing
from nasframe.testing.kit import run_checks

CASES = [(kind, check, *case) for kind, cases in BROKEN.items() for check, case in cases.items()]


def contract(kind, factory, **attributes):
    base = getattr(testing, f"{kind.capitalize()}Contract")
    return type("Made", (base,), {"make": lambda self, *injected: factory(), **attributes})


def one_stage(self):
    """Train the whole network alone: to fail a check, one kind of stage will do."""
    return [{"accumulate": 2}]


@pytest.mark.parametrize(("kind", "check", "factory", "message"), CASES, ids=[f"{case[0]}-{case[1]}" for case in CASES])
def test_a_broken_plugin_fails_its_check(kind, check, factory, message):
    attributes = {"shapes": one_stage} if kind == "modifier" else {}
    with pytest.raises(testing.ContractError, match=message):
        getattr(contract(kind, factory, **attributes)(), f"test_{check}")()


@pytest.mark.parametrize("kind", BROKEN)
def test_every_check_can_fail(kind):
    checks = set(getattr(testing, f"{kind.capitalize()}Contract").checks())
    if kind == "space":
        checks -= set(testing.DomainContract.checks())  # their faults are in test_broken_domains.py
    assert {f"test_{check}" for check in BROKEN[kind]} == checks


@pytest.mark.slow  # test_registered shows that the checks can pass
@pytest.mark.parametrize("kind", BROKEN)
def test_a_sound_plugin_passes(kind):
    made = contract(kind, SOUND[kind])
    assert [outcome for outcome in run_checks(made) if not outcome.passed] == []


def test_there_is_a_contract_for_every_kind():
    # Those of samplers have a file of their own, and those of exporters are in tests/export.
    assert {*BROKEN, "sampler", "exporter"} == set(registry.KINDS)
    for kind in registry.KINDS:
        assert getattr(testing, f"{kind.capitalize()}Contract").kind == kind
