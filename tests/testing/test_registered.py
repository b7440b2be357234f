"""Every registered plugin keeps the contract of its kind; a plugin is covered as soon as it is registered.

The default suite runs the cheap checks for all plugins, and the expensive ones for one representative of each kind.
``pytest -m slow`` runs the others, and so does ``nasframe plugins check``.
"""

from importlib.util import find_spec

import pytest

from nasframe import registry
from nasframe.testing.registered import contract_of

PACKAGES = {"tensorboard": "tensorboard"}  # plugin → the package of an extra that it needs
SLOW_PLUGINS = {"package_docs", "optuna"}  # one reads the sources of ten packages; Optuna takes its time
REPRESENTATIVES = {
    ("estimator", "params"),
    ("evaluator", "racing"),
    ("exporter", "hetero"),
    ("family", "sliceable"),
    ("model", "hf"),
    ("modifier", "kd"),
    ("observer", "events"),
    ("sampler", "random"),
    ("space", "width_depth"),
    ("task", "text_classification"),
    ("trainer", "loop"),
    ("transform", "rewire"),
}
EXPENSIVE = {
    # Two or three more trainings each; all other checks of a modifier share one.
    "an_interrupted_stage_ends_the_same",
    "hooks_are_removed",
    "two_stages_are_independent",
    # Clocks: on a busy machine they take long, and may fail.
    "a_trial_costs_little_time",
    "many_trials_take_flat_time",
    # Every weight of a whole network is drawn several times.
    "the_seed_draws_the_weights",
}
SLOW_CHECKS = {"a_fresh_process_computes_the_same"}  # tests/export starts one process for exports of all kinds
SHORTER = {
    "estimator": {"draws": 2},
    "evaluator": {"draws": 2},
    "sampler": {"trials": 500, "rounds": 4},
    "space": {"draws": 2},
}
ENTRIES = [e for kind in registry.KINDS for e in registry.factories(kind).values() if e.package == "nasframe"]


def is_slow(entry, check):
    """Tell whether a check of a plugin is left to ``pytest -m slow``."""
    if entry.name in SLOW_PLUGINS or check in SLOW_CHECKS:
        return True
    is_representative = (entry.kind, entry.name) in REPRESENTATIVES
    return check in EXPENSIVE and not is_representative


def shorter(contract):
    """Return a contract that tries fewer architectures and trains fewer steps than ``nasframe plugins check``."""
    limits = {name: most for name, most in SHORTER.get(contract.kind, {}).items() if most < getattr(contract, name, 0)}
    return type(contract.__name__, (contract,), limits)


def is_usable(entry):
    """Tell whether the package that a plugin needs is installed, if it needs one."""
    package = PACKAGES.get(entry.name)
    return package is None or find_spec(package) is not None


def cases():
    """Return a case for each check of each plugin."""
    cases = []
    for entry in filter(is_usable, ENTRIES):
        contract = contract_of(entry)
        short_contract = shorter(contract)
        for method in contract.checks():
            check = method.removeprefix("test_")
            label = f"{entry.kind}/{entry.name}-{check}"
            if is_slow(entry, check):
                cases.append(pytest.param(contract, method, id=label, marks=[pytest.mark.slow]))
            else:
                cases.append(pytest.param(short_contract, method, id=label))
    return cases


CASES = cases()


@pytest.mark.parametrize(("contract", "check"), CASES)
def test_it_keeps_its_contract(contract, check):
    getattr(contract(), check)()


@pytest.mark.slow
@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.kind == "sampler"], ids=lambda entry: entry.name)
def test_its_time_stays_flat_over_ten_thousand_trials(entry):
    contract_of(entry)().test_many_trials_take_flat_time()


def test_every_kind_is_there():
    assert {entry.kind for entry in ENTRIES} == set(registry.KINDS)
    assert {(entry.kind, entry.name) for entry in ENTRIES} >= REPRESENTATIVES
    assert {kind for kind, _ in REPRESENTATIVES} == set(registry.KINDS)
    assert len(CASES) > 150


def test_every_expensive_check_exists():
    checks = {method.removeprefix("test_") for entry in ENTRIES for method in contract_of(entry).checks()}
    assert checks >= EXPENSIVE
