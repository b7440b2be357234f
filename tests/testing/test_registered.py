"""Every registered plugin keeps the contract of its kind; a plugin that is added is covered by being registered."""

import pytest

from nasframe import registry
from nasframe.testing import SamplerContract
from nasframe.testing.registered import contract_of

SLOW = {"package_docs", "optuna"}  # reads the sources of ten packages; Optuna takes its time
ENTRIES = [e for kind in registry.KINDS for e in registry.factories(kind).values() if e.package == "nasframe"]
CASES = [
    pytest.param(
        contract, check, id=f"{entry.kind}/{entry.name}-{check[5:]}", marks=[pytest.mark.slow] * (entry.name in SLOW)
    )
    for entry in ENTRIES
    for contract in [contract_of(entry)]
    for check in contract.checks()
]


@pytest.mark.parametrize(("contract", "check"), CASES)
def test_it_keeps_its_contract(contract, check, monkeypatch):
    if issubclass(contract, SamplerContract):
        monkeypatch.setattr(contract, "trials", min(contract.trials, 500))
        monkeypatch.setattr(contract, "rounds", min(contract.rounds, 6))
    getattr(contract(), check)()


@pytest.mark.slow
@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.kind == "sampler"], ids=lambda entry: entry.name)
def test_its_time_stays_flat_over_ten_thousand_trials(entry):
    contract_of(entry)().test_many_trials_take_flat_time()


def test_every_kind_is_there():
    assert {entry.kind for entry in ENTRIES} == set(registry.KINDS)
    assert len(CASES) > 150
